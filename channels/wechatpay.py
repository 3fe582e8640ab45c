"""WeChat Pay API v3, direct merchant: the verbs of `contract.Channel` over that wire protocol, and what is believed.

What the platform documents and what it really sends differ in places; each such place, here and in `wechatpay_wire`,
says what is relied on. Two rules stand above all: an answer or notification is believed only after its signature over
the raw bytes was verified (4xx and 5xx answers carry none), and only the codes listed in a table mean what it says.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import quote

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from channels import moments, signing, wechatpay_bill, wechatpay_wire
from channels.contract import (
    Accepted,
    Acknowledgement,
    AlreadyPaid,
    AttemptKey,
    ClosedAtChannel,
    CloseOutcome,
    Credential,
    Flow,
    NoStatement,
    NotFound,
    Notified,
    NotPaid,
    Paid,
    PaymentRequest,
    PayOutcome,
    QueryOutcome,
    RefundKey,
    RefundKnown,
    RefundOutcome,
    RefundQueryOutcome,
    RefundRequest,
    Refused,
    RejectReason,
    Request,
    Response,
    Stamp,
    StatementFile,
    StatementNotReady,
    StatementOutcome,
    StatementRow,
    Unknown,
)
from channels.errors import KeyMaterialError, NoAnswer, NotificationRejected
from channels.wechatpay_keys import Credentials, load_credentials
from channels.wechatpay_wire import (
    CLOCK_SKEW_S,
    PROBE_PREFIX,
    SCHEME,
    UNREADABLE,
    Prepaid,
    Problem,
    Resource,
    account_of,
    encode,
    payment_of,
    problem_of,
    refund_of,
)

__all__ = ["Credentials", "WeChatPay", "load_credentials"]

STATEMENT_READY_AFTER_S: Final = 34 * 3600  # from the day's first second: 10 o'clock of the next (its docs)
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)
_ADDRESS = re.compile(r"https?://[^/?#\s]+(/[!\"$-~]*)", re.ASCII)


class _Doubt(msgspec.Struct, frozen=True):
    """Why something signed is not believed."""

    reason: RejectReason
    detail: str
    serial: str = ""


# --- the channel ----------------------------------------------------------------------------------------------------


class WeChatPay:
    """The channel with one merchant account. Its only state are the platform's keys, which the platform may rotate."""

    name = wechatpay_wire.NAME
    methods = wechatpay_wire.METHODS

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._seal_key = AESGCM(credentials.api_v3_key)
        self._keys = dict(credentials.verification_keys)
        self._close_body = encode({"mchid": credentials.mchid})
        self._query_end = f"?mchid={quote(credentials.mchid, safe='')}"

    @property
    def account(self) -> str:
        """`mchid/appid`: money booked under another mchid or another appid is not ours."""
        return account_of(self._credentials.mchid, self._credentials.appid)

    # --- payments

    def pay(self, request: PaymentRequest, stamp: Stamp) -> Flow[PayOutcome]:
        """Prepay. A refusal is confirmed by a query: this send was refused, but an earlier one may have been taken."""
        mistake = wechatpay_wire.unacceptable_payment(request)
        if mistake:
            return Refused(code="invalid_request", message=mistake)
        target = wechatpay_wire.WAYS[request.attempt.method].target
        answer = yield from self._ask("POST", target, self._prepay(request), stamp)
        if isinstance(answer, Unknown):
            return answer
        if answer.status == 200:
            return self._accepted(request, answer, stamp)
        problem, code = problem_of(answer)
        if code == wechatpay_wire.ALREADY_PAID:
            return AlreadyPaid()
        if code not in wechatpay_wire.PAY_REFUSED:
            return _not_understood(answer, problem)
        known = yield from self.query(request.attempt, stamp)
        match known:
            case NotFound() | ClosedAtChannel():
                return Refused(code=problem.code, message=problem.message)
            case Paid():
                return AlreadyPaid()
        return Unknown(f"refused with {problem.code}, but the attempt may exist: {known}")

    def query(self, attempt: AttemptKey, stamp: Stamp) -> Flow[QueryOutcome]:
        """Ask what became of an attempt, by our own number."""
        answer = yield from self._ask("GET", f"{_trade(attempt)}{self._query_end}", b"", stamp)
        if isinstance(answer, Unknown):
            return answer
        if answer.status == 200:
            return self._state_of(answer.body, attempt.out_trade_no)
        problem, code = problem_of(answer)
        return NotFound() if code == wechatpay_wire.NOT_FOUND else _not_understood(answer, problem)

    def close(self, attempt: AttemptKey, stamp: Stamp) -> Flow[CloseOutcome]:
        """End an unpaid attempt. Only a signed 204 closes it; the call may be repeated."""
        answer = yield from self._ask("POST", f"{_trade(attempt)}/close", self._close_body, stamp)
        if isinstance(answer, Unknown):
            return answer
        if answer.status == 204:
            return ClosedAtChannel()
        problem, code = problem_of(answer)
        outcomes: dict[str, CloseOutcome] = {
            wechatpay_wire.ALREADY_PAID: AlreadyPaid(),
            wechatpay_wire.ALREADY_CLOSED: ClosedAtChannel(),
            wechatpay_wire.NOT_FOUND: NotFound(),
        }
        return outcomes.get(code) or _not_understood(answer, problem)

    # --- refunds

    def refund(self, request: RefundRequest, stamp: Stamp) -> Flow[RefundOutcome]:
        """Apply for a refund; accepted is not yet refunded. A refusal is confirmed by a query, as one of `pay` is."""
        mistake = wechatpay_wire.unacceptable_refund(request)
        if mistake:
            return Refused(code="invalid_request", message=mistake)
        body = wechatpay_wire.refund_body(request)
        answer = yield from self._ask("POST", wechatpay_wire.REFUNDS, body, stamp)
        if isinstance(answer, Unknown):
            return answer
        if answer.status == 200:
            return self._refund_known(answer.body, request.refund)
        problem, code = problem_of(answer)
        if code not in wechatpay_wire.REFUND_REFUSED:
            return _not_understood(answer, problem)
        known = yield from self.query_refund(request.refund, stamp)
        match known:
            case NotFound():
                return Refused(code=problem.code, message=problem.message)
            case RefundKnown():
                return known
        return Unknown(f"refused with {problem.code}, but the refund may exist: {known}")

    def query_refund(self, refund: RefundKey, stamp: Stamp) -> Flow[RefundQueryOutcome]:
        """Ask what became of a refund, by our own number."""
        target = f"{wechatpay_wire.REFUNDS}/{quote(refund.refund_no, safe='')}"
        answer = yield from self._ask("GET", target, b"", stamp)
        if isinstance(answer, Unknown):
            return answer
        if answer.status == 200:
            return self._refund_known(answer.body, refund)
        problem, code = problem_of(answer)
        return NotFound() if code == wechatpay_wire.REFUND_NOT_FOUND else _not_understood(answer, problem)

    # --- notifications

    def notification(self, headers: Mapping[str, str], body: bytes, now_s: int) -> Notified:
        """Verify, decrypt and read a notification of a payment or a refund (lower-case header names, raw body).

        Raises:
            NotificationRejected: it is not believed; nothing in it may be used. UNKNOWN_KEY names the serial.
        """
        doubt = self._doubt(headers, body, now_s)
        if doubt is not None:
            raise NotificationRejected(doubt.reason, doubt.detail, doubt.serial)
        try:
            notice = wechatpay_wire.decode_notice(body)
        except UNREADABLE as error:
            raise NotificationRejected(RejectReason.MALFORMED, str(error)) from error
        paid = notice.event_type == wechatpay_wire.PAID_EVENT
        if not paid and notice.event_type not in wechatpay_wire.REFUND_EVENTS:
            raise NotificationRejected(RejectReason.OTHER_EVENT, notice.event_type[:64])
        plaintext = self._open(notice.resource)
        if plaintext is None:
            raise NotificationRejected(RejectReason.UNREADABLE, "resource can not be decrypted with api_v3_key")
        try:
            return self._paid(plaintext) if paid else self._refunded(plaintext)
        except UNREADABLE as error:
            raise NotificationRejected(RejectReason.UNREADABLE, str(error)) from error

    def acknowledge(self) -> Acknowledgement:
        """The status counts, the body is courtesy."""
        return Acknowledgement(200, "application/json", '{"code":"SUCCESS","message":"成功"}'.encode())

    def refuse(self, reason: str) -> Acknowledgement:
        """400 for what we do not believe, 503 for what we could not keep; either is delivered again."""
        disbelieved = reason in RejectReason.__members__.values()
        body = encode({"code": "FAIL", "message": reason[:256]})
        return Acknowledgement(400 if disbelieved else 503, "application/json", body)

    # --- statements

    def statement(self, day: str, stamp: Stamp) -> Flow[StatementOutcome]:
        """Ask where the day's list stands, fetch it, and compare its hash, which alone is signed.

        It is fetched from the channel's own address, whatever host the answer names, with that answer's path and query
        unchanged. Unpacking a large one takes a while: not on an event loop.
        """
        began_at_s = moments.of_plain(f"{day} 00:00:00")
        if began_at_s is None:
            return Unknown("day: must be YYYY-MM-DD")
        target = f"/v3/bill/tradebill?bill_date={day}&bill_type=ALL&tar_type=GZIP"
        answer = yield from self._ask("GET", target, b"", stamp)
        if isinstance(answer, Unknown):
            return answer
        if answer.status == 200:
            return (yield from self._fetched(day, answer, stamp))
        problem, code = problem_of(answer)
        if code == wechatpay_wire.STATEMENT_NONE and stamp.now_s >= began_at_s + STATEMENT_READY_AFTER_S:
            return NoStatement()
        if code in (wechatpay_wire.STATEMENT_NONE, wechatpay_wire.STATEMENT_CREATING):
            return StatementNotReady()
        return _not_understood(answer, problem)

    def _fetched(self, day: str, answer: Response, stamp: Stamp) -> Flow[StatementOutcome]:
        try:
            link = wechatpay_wire.decode_link(answer.body)
        except UNREADABLE as error:
            return Unknown(f"answer not understood: {error}")
        address = _ADDRESS.fullmatch(link.download_url)
        if address is None or link.hash_type != "SHA1":
            return Unknown(f"answer not understood: hash_type {link.hash_type[:32]}, or download_url is no address")
        request = self._signed("GET", address[1], b"", stamp)
        try:
            file = yield msgspec.structs.replace(request, answer_bytes_max=wechatpay_bill.PACKED_BYTES_MAX)
        except NoAnswer as silence:
            return Unknown(f"no answer: {silence.reason}")
        if file.status != 200:
            return _not_understood(file, problem_of(file)[0])
        content = wechatpay_bill.unpacked(file.body)
        if content is None:
            return Unknown("the file is no gzip stream, or too large")
        if hashlib.sha1(content, usedforsecurity=False).hexdigest() != link.hash_value.lower():
            return Unknown("the file does not have the hash that was signed")
        return StatementFile(day=day, content=content)

    def statement_rows(self, file: StatementFile) -> Iterator[StatementRow]:
        """Read the list, line by line; long: off the loop.

        Raises:
            StatementUnreadable: naming the line.
        """
        return wechatpay_bill.rows(file.content, self._credentials.mchid)

    # --- keys

    def refresh_keys(self, stamp: Stamp) -> Flow[bool]:
        """Fetch the platform certificates and add them to the keys; true if at least one is usable.

        The first such answer can not be verified with a key we hold; that each certificate is sealed with our own
        `api_v3_key` is what proves it.
        """
        try:
            answer = yield self._signed("GET", wechatpay_wire.CERTIFICATES, b"", stamp)
        except NoAnswer:
            return False
        learned = self._certificates(answer, stamp.now_s) if answer.status == 200 else {}
        self._keys = {**self._credentials.verification_keys, **learned} if learned else self._keys
        return bool(learned)

    def _certificates(self, answer: Response, now_s: int) -> dict[str, RSAPublicKey]:
        try:
            entries = wechatpay_wire.decode_certificates(answer.body).data
        except UNREADABLE:
            return {}
        keys: dict[str, RSAPublicKey] = {}
        for entry in entries:
            pem = self._open(entry.encrypt_certificate)
            try:
                certificate = signing.load_certificate(pem or b"", entry.serial_no)
                signing.require_valid(certificate, now_s, entry.serial_no)
            except KeyMaterialError:
                continue  # an unusable one beside usable ones: whatever it signs stays unverified
            keys[certificate.serial] = certificate.public_key
        return keys

    # --- requests out, answers in

    def _ask(self, method: str, target: str, body: bytes, stamp: Stamp) -> Flow[Response | Unknown]:
        """One exchange: a believed 2xx, or a 4xx/5xx (never signed), or the reason why nobody knows."""
        try:
            answer = yield self._signed(method, target, body, stamp)
        except NoAnswer as silence:
            return Unknown(f"no answer: {silence.reason}")
        if not 200 <= answer.status < 300:
            return answer
        doubt = self._doubt(answer.headers, answer.body, stamp.now_s)
        if doubt is not None and doubt.reason is RejectReason.UNKNOWN_KEY and (yield from self.refresh_keys(stamp)):
            doubt = self._doubt(answer.headers, answer.body, stamp.now_s)
        if doubt is not None:
            return Unknown(f"answer not believed: {doubt.reason}: {doubt.detail}")
        return answer

    def _signed(self, method: str, target: str, body: bytes, stamp: Stamp) -> Request:
        nonce = _nonce(stamp, f"{method} {target}")
        message = f"{method}\n{target}\n{stamp.now_s}\n{nonce}\n".encode() + body + b"\n"
        own = self._credentials
        signature = signing.sign(own.private_key, message)
        headers = {
            "Accept": "application/json",
            "User-Agent": "holdfast",
            "Authorization": f'{SCHEME} mchid="{own.mchid}",nonce_str="{nonce}",timestamp="{stamp.now_s}",'
            f'serial_no="{own.merchant_serial}",signature="{signature}"',
        }
        if body:
            headers["Content-Type"] = "application/json"
        if own.public_key_id is not None:
            headers["Wechatpay-Serial"] = own.public_key_id
        return Request(method=method, target=target, headers=headers, body=body)

    def _prepay(self, request: PaymentRequest) -> bytes:
        """The prepay as it is sent, the same bytes each time: a repetition with other parameters is refused."""
        attempt, own = request.attempt, self._credentials
        return encode(
            {
                "appid": own.appid,
                "mchid": own.mchid,
                "description": request.subject[: wechatpay_wire.DESCRIPTION_CHARS_MAX],
                "out_trade_no": attempt.out_trade_no,
                "time_expire": moments.rfc3339(_time_expire_s(attempt)),
                "notify_url": request.notify_url,
                "amount": {"total": request.amount, "currency": request.currency},
                **wechatpay_wire.special_fields(attempt.method, request.params),
            }
        )

    def _accepted(self, request: PaymentRequest, answer: Response, stamp: Stamp) -> PayOutcome:
        try:
            prepaid = wechatpay_wire.decode_prepaid(answer.body)
        except UNREADABLE as error:
            return Unknown(f"answer not understood: {error}")
        value = self._shown(request, prepaid, stamp)
        if not value:
            return Unknown("the answer lacks what the payer needs")
        attempt = request.attempt
        signed_at_s = int(answer.headers["wechatpay-timestamp"])  # on the platform's clock, which ends what it gives
        ends_at_s = max(_time_expire_s(attempt), signed_at_s + wechatpay_wire.EXPIRE_AFTER_MIN_S)
        dies_at_s = signed_at_s + wechatpay_wire.WAYS[attempt.method].life_s
        kind = self.methods[attempt.method].credential
        return Accepted(Credential(type=kind, value=value, expires_at_s=min(ends_at_s, dies_at_s)))

    def _shown(self, request: PaymentRequest, prepaid: Prepaid, stamp: Stamp) -> str | None:
        """What the payer is given; its signatures are those of the platform's front-end calls, of four lines each."""
        method = request.attempt.method
        if method == "native":
            return prepaid.code_url
        if method == "h5":
            back = f"&redirect_url={quote(request.return_url, safe='')}" if request.return_url else ""
            return prepaid.h5_url and prepaid.h5_url + back
        if prepaid.prepay_id is None:
            return None
        own, nonce, now = self._credentials, _nonce(stamp, "front end"), str(stamp.now_s)
        package = "Sign=WXPay" if method == "app" else f"prepay_id={prepaid.prepay_id}"
        last = prepaid.prepay_id if method == "app" else package
        signature = signing.sign(own.private_key, f"{own.appid}\n{now}\n{nonce}\n{last}\n".encode())
        if method == "app":
            fields = {"appid": own.appid, "partnerid": own.mchid, "prepayid": prepaid.prepay_id, "package": package}
            fields |= {"noncestr": nonce, "timestamp": now, "sign": signature}
        else:
            fields = {"appId": own.appid, "timeStamp": now, "nonceStr": nonce, "package": package}
            fields |= {"signType": "RSA", "paySign": signature}
        return encode(fields).decode()

    # --- belief

    def _doubt(self, headers: Mapping[str, str], body: bytes, now_s: int) -> _Doubt | None:
        """Why these raw bytes are not the platform's word now, or None if they are."""
        signature, serial = headers.get("wechatpay-signature", ""), headers.get("wechatpay-serial", "")
        timestamp, nonce = headers.get("wechatpay-timestamp", ""), headers.get("wechatpay-nonce", "")
        if not (signature and serial and timestamp and nonce):
            return _Doubt(RejectReason.BAD_SIGNATURE, "a signature header is missing")
        if headers.get("wechatpay-signature-type", SCHEME) != SCHEME:
            return _Doubt(RejectReason.BAD_SIGNATURE, "unknown Wechatpay-Signature-Type")
        if signature.startswith(PROBE_PREFIX):
            return _Doubt(RejectReason.SIGNATURE_PROBE, "deliberately wrong; the genuine one follows")
        if not _TIMESTAMP.fullmatch(timestamp):
            return _Doubt(RejectReason.MALFORMED, "Wechatpay-Timestamp is not unix seconds")
        if abs(now_s - int(timestamp)) >= CLOCK_SKEW_S:
            return _Doubt(RejectReason.STALE, f"signed {now_s - int(timestamp)} s ago")
        key = self._keys.get(serial)
        if key is None:
            return _Doubt(RejectReason.UNKNOWN_KEY, f"serial {serial[:64]}", serial[:64])
        message = f"{timestamp}\n{nonce}\n".encode("utf-8", "replace") + body + b"\n"
        if not signing.verify(key, message, signature):
            return _Doubt(RejectReason.BAD_SIGNATURE, f"does not verify with key {serial}")
        return None

    def _open(self, resource: Resource) -> bytes | None:
        if resource.algorithm != "AEAD_AES_256_GCM":
            return None
        nonce, associated_data = resource.nonce.encode(), resource.associated_data.encode()
        return signing.open_seal(self._seal_key, nonce, associated_data, resource.ciphertext)

    def _state_of(self, body: bytes, out_trade_no: str) -> QueryOutcome:
        try:
            trade = wechatpay_wire.decode_trade(body)
        except UNREADABLE as error:
            return Unknown(f"answer not understood: {error}")
        if trade.out_trade_no != out_trade_no:
            return Unknown("the answer is about another attempt")
        if trade.trade_state in wechatpay_wire.STATES_PAID:
            payment = payment_of(trade)
            return Paid(payment) if payment else Unknown("paid, but the answer lacks amount, transaction or time")
        if account_of(trade.mchid, trade.appid) != self.account:
            return Unknown("the answer is about another merchant account")
        if trade.trade_state in wechatpay_wire.STATES_PAYABLE:
            return NotPaid()
        closed = trade.trade_state in wechatpay_wire.STATES_CLOSED
        return ClosedAtChannel() if closed else Unknown(f"trade_state {trade.trade_state[:32]}")

    def _refund_known(self, body: bytes, key: RefundKey) -> RefundKnown | Unknown:
        """What an answer about a refund states. It names no account: it answers a request under ours."""
        try:
            stated = wechatpay_wire.decode_refund(body)
        except UNREADABLE as error:
            return Unknown(f"answer not understood: {error}")
        if stated.out_refund_no != key.refund_no or stated.out_trade_no != key.out_trade_no:
            return Unknown("the answer is about another refund")
        refund = refund_of(stated, self.account)
        return RefundKnown(refund) if refund else Unknown(f"refund status {stated.status[:32]}")

    def _paid(self, plaintext: bytes) -> Notified:
        trade = wechatpay_wire.decode_trade(plaintext)
        payment = payment_of(trade) if trade.trade_state in wechatpay_wire.STATES_PAID else None
        if payment is None:
            raise NotificationRejected(RejectReason.UNREADABLE, f"not a payment: trade_state {trade.trade_state[:32]}")
        return payment

    def _refunded(self, plaintext: bytes) -> Notified:
        """A refund's notification names our mchid, but no appid: of one mchid, it can only be meant for us."""
        stated = wechatpay_wire.decode_refund_notice(plaintext)
        ours = stated.mchid == self._credentials.mchid
        refund = refund_of(stated, self.account if ours else account_of(stated.mchid, ""))
        if refund is None:
            raise NotificationRejected(RejectReason.UNREADABLE, f"refund_status {stated.refund_status[:32]}")
        return refund


def _trade(attempt: AttemptKey) -> str:
    return f"{wechatpay_wire.TRADES}/{quote(attempt.out_trade_no, safe='')}"


def _time_expire_s(attempt: AttemptKey) -> int:
    """The expiry that the platform is given: counted from the attempt's first moment, so that it never changes."""
    earliest_s = attempt.started_at_s + wechatpay_wire.EXPIRE_AFTER_MIN_S
    return min(max(attempt.expires_at_s, earliest_s), attempt.started_at_s + wechatpay_wire.EXPIRE_AFTER_MAX_S)


def _nonce(stamp: Stamp, purpose: str) -> str:
    """One of 32 characters for each purpose of a flow."""
    return hashlib.sha256(f"{stamp.nonce}\n{purpose}".encode()).hexdigest()[:32]


def _not_understood(answer: Response, problem: Problem) -> Unknown:
    return Unknown(f"status {answer.status} {problem.code[:64]} {problem.message[:128]}".rstrip())
