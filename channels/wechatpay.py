"""WeChat Pay API v3, direct merchant, Native payments: the verbs of `contract.Channel` over that wire protocol.

What the platform documents and what it really sends differ in places; each such place below says what is relied on.
Two rules stand above all: an answer or notification is believed only after its signature over the raw bytes was
verified (4xx and 5xx answers carry none), and only the codes listed in a table mean what the table says.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Final
from urllib.parse import quote

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from channels import signing
from channels.contract import (
    Accepted,
    Acknowledgement,
    AlreadyPaid,
    ChannelPayment,
    ClosedAtChannel,
    CloseOutcome,
    Credential,
    Flow,
    NotFound,
    NotPaid,
    Paid,
    PaymentRequest,
    PayOutcome,
    QueryOutcome,
    Refused,
    RejectReason,
    Request,
    Response,
    Stamp,
    Unknown,
)
from channels.errors import KeyMaterialError, NoAnswer, NotificationRejected

SCHEME: Final = "WECHATPAY2-SHA256-RSA2048"
PROBE_PREFIX: Final = "WECHATPAY/SIGNTEST/"  # deliberately wrong signatures, to find merchants who do not verify
CLOCK_SKEW_S: Final = 300
CODE_URL_LIFE_S: Final = 2 * 3600
EXPIRE_AFTER_MIN_S: Final = 60  # the platform raises anything earlier to one minute
EXPIRE_AFTER_MAX_S: Final = 7 * 86400  # its pages disagree on the upper bound; all of them allow seven days
DESCRIPTION_CHARS_MAX: Final = 127
NOTIFY_URL_CHARS_MAX: Final = 255
CERTIFICATES_MAX: Final = 16  # one, or two while they rotate
CHINA: Final = timezone(timedelta(hours=8))

# Error codes are compared without "_": older pages and services write ORDERNOTEXIST for ORDER_NOT_EXIST.

# pay: codes by which the platform refuses the request itself. Not here, because the attempt may exist all the same or
# the code says nothing about it: OUT_TRADE_NO_USED (an earlier send may have won), SIGN_ERROR (our key or clock),
# FREQUENCY_LIMITED, RATELIMIT_EXCEEDED, SYSTEM_ERROR, SERVICE_UNAVAILABLE, and whatever is not documented.
PAY_REFUSED: Final = frozenset(
    {
        "PARAMERROR",
        "INVALIDREQUEST",
        "APPIDMCHIDNOTMATCH",
        "MCHNOTEXISTS",
        "NOAUTH",
        "RULELIMIT",
        "TRADEERROR",
        "ORDERCLOSED",
    }
)
ALREADY_PAID: Final = "ORDERPAID"
ALREADY_CLOSED: Final = "ORDERCLOSED"
NOT_FOUND: Final = "ORDERNOTEXIST"

# query: what `trade_state` means. REFUND is a paid order with refunds, also partial ones; NOTPAY also follows a failed
# try of the payer; PAYERROR and REVOKED end a bar code payment. A state that is not listed is unknown.
STATES_PAID: Final = frozenset({"SUCCESS", "REFUND"})
STATES_PAYABLE: Final = frozenset({"NOTPAY", "USERPAYING", "ACCEPT"})
STATES_CLOSED: Final = frozenset({"CLOSED", "REVOKED", "PAYERROR"})


class Credentials(msgspec.Struct, frozen=True):
    """One merchant account. `verification_keys` maps what `Wechatpay-Serial` may name to the key it names."""

    mchid: str
    appid: str
    merchant_serial: str
    private_key: RSAPrivateKey
    api_v3_key: bytes
    verification_keys: Mapping[str, RSAPublicKey]
    public_key_id: str | None = None

    def __repr__(self) -> str:
        return f"Credentials(mchid={self.mchid!r}, appid={self.appid!r}, private_key=***, api_v3_key=***)"


def load_credentials(
    *,
    mchid: str,
    appid: str,
    merchant_serial: str,
    private_key_pem: bytes,
    api_v3_key: bytes,
    public_key_id: str | None = None,
    public_key_pem: bytes | None = None,
    platform_certificates_pem: Mapping[str, bytes] | None = None,
    now_s: int,
) -> Credentials:
    """Build credentials from file contents; `platform_certificates_pem` maps a file's name (for messages) to its bytes.

    Raises:
        KeyMaterialError: naming the field or file and what is wrong with it.
    """
    if len(api_v3_key) != 32:
        raise KeyMaterialError(f"api_v3_key: must be 32 bytes, has {len(api_v3_key)}")
    if (public_key_id is None) != (public_key_pem is None):
        raise KeyMaterialError("public_key_id: it and the public key file go together, one is missing")
    keys: dict[str, RSAPublicKey] = {}
    for name, pem in (platform_certificates_pem or {}).items():
        certificate = signing.load_certificate(pem, name)
        signing.require_valid(certificate, now_s, name)
        keys[certificate.serial] = certificate.public_key
    if public_key_id is not None and public_key_pem is not None:
        keys[public_key_id] = signing.load_public_key(public_key_pem, "public_key_file")
    if not keys:
        raise KeyMaterialError("public_key_id: give the WeChat Pay public key, platform certificates, or both")
    return Credentials(
        mchid=mchid,
        appid=appid,
        merchant_serial=merchant_serial,
        private_key=signing.load_private_key(private_key_pem, "private_key_file"),
        api_v3_key=api_v3_key,
        verification_keys=keys,
        public_key_id=public_key_id,
    )


# --- what the platform sends ----------------------------------------------------------------------------------------

_Account = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z]{1,32}\Z")]
_Number = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_\-|*]{1,32}\Z")]


class _Amount(msgspec.Struct, frozen=True):
    total: Annotated[int, msgspec.Meta(ge=1, le=10**15)]  # fen; what the order costs, not `payer_total` after coupons
    # Absent while unpaid: live answers then carry `payer_currency` alone.
    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}\Z")] | None = None


class _Transaction(msgspec.Struct, frozen=True):
    """A trade, as a query and a payment notification both state it. Absent while unpaid: what has a default."""

    mchid: _Account
    appid: _Account
    out_trade_no: _Number
    trade_state: str
    amount: _Amount | None = None
    transaction_id: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_\-|*]{0,32}\Z")] | None = None
    success_time: str | None = None


class _Prepaid(msgspec.Struct, frozen=True):
    code_url: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]


class _Problem(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _Resource(msgspec.Struct, frozen=True):
    algorithm: str
    ciphertext: str
    nonce: str
    associated_data: str = ""


class _Notice(msgspec.Struct, frozen=True):
    event_type: str
    resource: _Resource


class _CertificateEntry(msgspec.Struct, frozen=True):
    serial_no: str
    encrypt_certificate: _Resource


class _CertificateList(msgspec.Struct, frozen=True):
    data: Annotated[list[_CertificateEntry], msgspec.Meta(max_length=CERTIFICATES_MAX)]


class _Doubt(msgspec.Struct, frozen=True):
    """Why something signed is not believed."""

    reason: RejectReason
    detail: str
    serial: str = ""


_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # RecursionError: ten thousand brackets


# --- the channel ----------------------------------------------------------------------------------------------------


class WeChatPay:
    """The channel with one merchant account. Its only state are the platform's keys, which the platform may rotate."""

    name = "wechatpay"
    methods = frozenset({"native"})

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._seal_key = AESGCM(credentials.api_v3_key)
        self._keys = dict(credentials.verification_keys)

    @property
    def account(self) -> str:
        """`mchid/appid`: money booked under another mchid or another appid is not ours."""
        return _account(self._credentials.mchid, self._credentials.appid)

    # --- verbs

    def pay(self, request: PaymentRequest, stamp: Stamp) -> Flow[PayOutcome]:
        """Prepay. A refusal is confirmed by a query: this send was refused, but an earlier one may have been taken."""
        mistake = _unacceptable(request)
        if mistake:
            return Refused(code="invalid_request", message=mistake)
        expires_at_s = _expires_at_s(request, stamp)
        body = msgspec.json.encode(self._prepay(request, expires_at_s))
        answer = yield from self._ask("POST", "/v3/pay/transactions/native", body, stamp)
        if isinstance(answer, Unknown):
            return answer
        if answer.status == 200:
            return _credential(answer, min(expires_at_s, stamp.now_s + CODE_URL_LIFE_S))
        problem, code = _problem(answer)
        if code == ALREADY_PAID:
            return AlreadyPaid()
        if code not in PAY_REFUSED:
            return _not_understood(answer, problem)
        known = yield from self.query(request.out_trade_no, stamp)
        match known:
            case NotFound() | ClosedAtChannel():
                return Refused(code=problem.code, message=problem.message)
            case Paid():
                return AlreadyPaid()
        return Unknown(f"refused with {problem.code}, but the attempt may exist: {known}")

    def query(self, out_trade_no: str, stamp: Stamp) -> Flow[QueryOutcome]:
        """Ask what became of an attempt, by our own number."""
        target = f"{_trade_path(out_trade_no)}?mchid={quote(self._credentials.mchid, safe='')}"
        answer = yield from self._ask("GET", target, b"", stamp)
        if isinstance(answer, Unknown):
            return answer
        if answer.status == 200:
            return self._state_of(answer.body, out_trade_no)
        problem, code = _problem(answer)
        return NotFound() if code == NOT_FOUND else _not_understood(answer, problem)

    def close(self, out_trade_no: str, stamp: Stamp) -> Flow[CloseOutcome]:
        """End an unpaid attempt. Only a signed 204 closes it; the call may be repeated."""
        body = msgspec.json.encode({"mchid": self._credentials.mchid})
        answer = yield from self._ask("POST", f"{_trade_path(out_trade_no)}/close", body, stamp)
        if isinstance(answer, Unknown):
            return answer
        if answer.status == 204:
            return ClosedAtChannel()
        problem, code = _problem(answer)
        outcomes: dict[str, CloseOutcome] = {
            ALREADY_PAID: AlreadyPaid(),
            ALREADY_CLOSED: ClosedAtChannel(),
            NOT_FOUND: NotFound(),
        }
        return outcomes.get(code) or _not_understood(answer, problem)

    # --- notifications

    def notification(self, headers: Mapping[str, str], body: bytes, now_s: int) -> ChannelPayment:
        """Verify, decrypt and read a payment notification (lower-case header names, raw body).

        Raises:
            NotificationRejected: it is not believed; nothing in it may be used. UNKNOWN_KEY names the serial.
        """
        doubt = self._doubt(headers, body, now_s)
        if doubt is not None:
            raise NotificationRejected(doubt.reason, doubt.detail, doubt.serial)
        notice = _decode_notice(body)
        if notice.event_type != "TRANSACTION.SUCCESS":
            raise NotificationRejected(RejectReason.OTHER_EVENT, notice.event_type[:64])
        plaintext = self._open(notice.resource)
        if plaintext is None:
            raise NotificationRejected(RejectReason.UNREADABLE, "resource can not be decrypted with api_v3_key")
        try:
            trade = msgspec.json.decode(plaintext, type=_Transaction)
        except _UNREADABLE as error:
            raise NotificationRejected(RejectReason.UNREADABLE, str(error)) from error
        payment = _payment(trade) if trade.trade_state in STATES_PAID else None
        if payment is None:
            raise NotificationRejected(RejectReason.UNREADABLE, f"not a payment: trade_state {trade.trade_state[:32]}")
        return payment

    def acknowledge(self) -> Acknowledgement:
        """The status counts, the body is courtesy."""
        return Acknowledgement(200, "application/json", '{"code":"SUCCESS","message":"成功"}'.encode())

    def refuse(self, reason: str) -> Acknowledgement:
        """400 for what we do not believe, 503 for what we could not keep; either is delivered again."""
        disbelieved = reason in RejectReason.__members__.values()
        body = msgspec.json.encode({"code": "FAIL", "message": reason[:256]})
        return Acknowledgement(400 if disbelieved else 503, "application/json", body)

    # --- keys

    def refresh_keys(self, stamp: Stamp) -> Flow[bool]:
        """Fetch the platform certificates and add them to the keys; true if at least one is usable.

        The first such answer can not be verified with a key we hold; that each certificate is sealed with our own
        `api_v3_key` is what proves it.
        """
        try:
            answer = yield self._signed("GET", "/v3/certificates", b"", stamp)
        except NoAnswer:
            return False
        learned = self._certificates(answer, stamp.now_s) if answer.status == 200 else {}
        self._keys = {**self._credentials.verification_keys, **learned} if learned else self._keys
        return bool(learned)

    def _certificates(self, answer: Response, now_s: int) -> dict[str, RSAPublicKey]:
        try:
            entries = msgspec.json.decode(answer.body, type=_CertificateList).data
        except _UNREADABLE:
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
        nonce = hashlib.sha256(f"{stamp.nonce}\n{method} {target}".encode()).hexdigest()[:32]  # one a request of a flow
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

    def _prepay(self, request: PaymentRequest, expires_at_s: int) -> dict[str, object]:
        return {
            "appid": self._credentials.appid,
            "mchid": self._credentials.mchid,
            "description": request.subject[:DESCRIPTION_CHARS_MAX],
            "out_trade_no": request.out_trade_no,
            "time_expire": datetime.fromtimestamp(expires_at_s, CHINA).isoformat(),
            "notify_url": request.notify_url,
            "amount": {"total": request.amount, "currency": request.currency},
        }

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
        if not re.fullmatch(r"[0-9]{1,12}", timestamp):
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

    def _open(self, resource: _Resource) -> bytes | None:
        if resource.algorithm != "AEAD_AES_256_GCM":
            return None
        nonce, associated_data = resource.nonce.encode(), resource.associated_data.encode()
        return signing.open_seal(self._seal_key, nonce, associated_data, resource.ciphertext)

    def _state_of(self, body: bytes, out_trade_no: str) -> QueryOutcome:
        try:
            trade = msgspec.json.decode(body, type=_Transaction)
        except _UNREADABLE as error:
            return Unknown(f"answer not understood: {error}")
        if trade.out_trade_no != out_trade_no:
            return Unknown("the answer is about another attempt")
        if trade.trade_state in STATES_PAID:
            payment = _payment(trade)
            return Paid(payment) if payment else Unknown("paid, but the answer lacks amount, transaction or time")
        if _account(trade.mchid, trade.appid) != self.account:
            return Unknown("the answer is about another merchant account")
        if trade.trade_state in STATES_PAYABLE:
            return NotPaid()
        return ClosedAtChannel() if trade.trade_state in STATES_CLOSED else Unknown(f"trade_state {trade.trade_state}")


# --- reading ---------------------------------------------------------------------------------------------------------


def _account(mchid: str, appid: str) -> str:
    return f"{mchid}/{appid}"


def _trade_path(out_trade_no: str) -> str:
    return f"/v3/pay/transactions/out-trade-no/{quote(out_trade_no, safe='')}"


def _unacceptable(request: PaymentRequest) -> str:
    """Why the request can not be sent at all; empty if it can."""
    if request.method != "native":
        return f"method: {request.method} is not offered"
    if request.currency != "CNY":
        return f"currency: native takes CNY, not {request.currency}"
    if isinstance(request.amount, bool) or request.amount < 1:
        return "amount: must be at least 1 fen"
    if not re.fullmatch(r"[0-9A-Za-z_\-|*]{6,32}", request.out_trade_no):
        return "out_trade_no: 6 to 32 of 0-9 A-Z a-z _ - | *"
    if not request.subject or re.search("[\ud800-\udfff]", request.subject):
        return "subject: must be text and not empty"
    if len(request.notify_url) > NOTIFY_URL_CHARS_MAX or "?" in request.notify_url:
        return f"notify_url: at most {NOTIFY_URL_CHARS_MAX} characters and no query"
    return ""


def _expires_at_s(request: PaymentRequest, stamp: Stamp) -> int:
    return min(max(request.expires_at_s, stamp.now_s + EXPIRE_AFTER_MIN_S), stamp.now_s + EXPIRE_AFTER_MAX_S)


def _credential(answer: Response, expires_at_s: int) -> PayOutcome:
    try:
        prepaid = msgspec.json.decode(answer.body, type=_Prepaid)
    except _UNREADABLE as error:
        return Unknown(f"answer not understood: {error}")
    return Accepted(Credential(type="qr", value=prepaid.code_url, expires_at_s=expires_at_s))


def _problem(answer: Response) -> tuple[_Problem, str]:
    """The error a 4xx names and its code without "_"; no code for 408, 429 and 5xx, which never decide anything."""
    try:
        problem = msgspec.json.decode(answer.body, type=_Problem)
    except _UNREADABLE:
        return _Problem(), ""
    decides = 400 <= answer.status < 500 and answer.status not in (408, 429)
    return problem, problem.code.replace("_", "") if decides else ""


def _not_understood(answer: Response, problem: _Problem) -> Unknown:
    return Unknown(f"status {answer.status} {problem.code[:64]} {problem.message[:128]}".rstrip())


def _decode_notice(body: bytes) -> _Notice:
    try:
        return msgspec.json.decode(body, type=_Notice)
    except _UNREADABLE as error:
        raise NotificationRejected(RejectReason.MALFORMED, str(error)) from error


def _payment(trade: _Transaction) -> ChannelPayment | None:
    success_at_s = _unix_s(trade.success_time or "")
    if trade.amount is None or trade.amount.currency is None or not trade.transaction_id or success_at_s is None:
        return None
    return ChannelPayment(
        channel=WeChatPay.name,
        account=_account(trade.mchid, trade.appid),
        out_trade_no=trade.out_trade_no,
        channel_transaction=trade.transaction_id,
        amount=trade.amount.total,
        currency=trade.amount.currency,
        success_at_s=success_at_s,
    )


def _unix_s(rfc3339: str) -> int | None:
    """Whole unix seconds of a time with an offset; None if it is anything else."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", rfc3339, re.ASCII):
        return None
    try:
        moment = datetime.fromisoformat(rfc3339)
    except ValueError:
        return None
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
