"""UnionPay's online gateway 5.1.0, RSA certificates: the verbs of `contract.Channel` over that wire protocol.

A trade is known there by three things: the merchant, the orderId, and the txnTime of its first request. txnTime must be
about now when it arrives and the same whenever the trade is asked after, so it is the moment at which the attempt (or
the refund) was first made durable: `started_at_s`. From that follows what is peculiar here. A request that could only
arrive too late is not sent at all; nothing is ever sent again under another time; and there is no way to close a trade:
it ends by itself at the payTimeout it was given.

Every answer and notification carries its own certificate. It is believed only if our authorities lead to that
certificate, its holder is UnionPay, it is within its dates, and it has signed the message.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from channels import certificates, forms, moments, signing, unionpay_bill
from channels import unionpay_wire as wire
from channels.certificates import Holder
from channels.contract import (
    ANSWER_BYTES_MAX,
    Accepted,
    Acknowledgement,
    AlreadyPaid,
    AttemptKey,
    ClosedAtChannel,
    CloseOutcome,
    Credential,
    CredentialType,
    Debited,
    Flow,
    NoStatement,
    NotClosable,
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
    RefundState,
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
from channels.errors import NoAnswer, NotificationRejected, StatementUnreadable
from channels.unionpay_keys import Credentials, load_credentials
from channels.unionpay_wire import Message

__all__ = ["Credentials", "UnionPay", "load_credentials"]

OWNER: Final = "中国银联股份有限公司"  # the third part of its certificates' common name, parts being joined by "@"
TEST_OWNER: Final = "00040000:SIGN"  # the same in certificates of its test environment
TRUSTED_MAX: Final = 16  # certificates remembered as valid; it has one, or two while they change

# How old a txnTime may be when it is sent. How old UnionPay takes it is not documented ("must be the present time"), so
# this is short, yet longer than our own timeouts and repeats together.
TXN_TIME_WINDOW_S: Final = 300
# What is left between a payTimeout and our belief that it has passed there: clocks differ, and answers lag behind.
CLOSE_MARGIN_S: Final = 60
# The same for a trade that still waits for its payer there: by the demos anything but success is final after the
# payTimeout, but a payer at a bank's page may be late.
UNDECIDED_MARGIN_S: Final = 600
# How long a refund that UnionPay does not know may still be on its way to it, after the last moment we could send it.
REFUND_LOST_AFTER_S: Final = 600
# From the day's first second until its file must be there, if there is one: it is made for the next morning.
STATEMENT_READY_AFTER_S: Final = 36 * 3600
STATEMENT_BYTES_MAX: Final = 100_000_000

_TOO_LATE: Final = Refused("too_late", "its txnTime or payTimeout has passed, UnionPay would not take it")


class _Doubt(msgspec.Struct, frozen=True):
    """Why a message is not UnionPay's word."""

    reason: RejectReason
    detail: str


class UnionPay:
    """The channel with one merchant account. Its only state are the certificates it has found valid, as a shortcut."""

    name = wire.NAME
    methods = wire.METHODS

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        # Few, and comparing them costs less than hashing one. Replaced, never changed: flows also step in threads.
        self._trusted: tuple[tuple[str, signing.Certificate], ...] = ()

    @property
    def account(self) -> str:
        """The merId."""
        return self._credentials.mer_id

    # --- paying

    def pay(self, request: PaymentRequest, stamp: Stamp) -> Flow[PayOutcome]:
        """Make the attempt payable. A form needs no request: UnionPay hears of it when the payer's browser submits it.

        Refused are, beside what UnionPay refuses, an attempt whose txnTime would arrive too late, and (code 12) a `tn`
        or QR code that UnionPay made before, when its answer was lost. Such a code cannot be had again; it is a
        secret between UnionPay and us that nobody was ever told, so nobody can pay with it. All this ends one
        submission only: if an earlier one was answered, the order knows that somebody may hold its credential. And if
        a request went out, a refusal counts only when a query finds nothing that could still be paid.
        """
        mistake = wire.unacceptable_payment(request)
        if mistake:
            return Refused("invalid_request", mistake)
        attempt = request.attempt
        path = wire.PRODUCTS[attempt.method].path
        late = stamp.now_s >= min(attempt.started_at_s + TXN_TIME_WINDOW_S, attempt.expires_at_s)
        if path == wire.FRONT:
            return _TOO_LATE if late else Accepted(self._form(request))
        if late:
            return (yield from self._unless_known(_TOO_LATE, attempt, stamp))
        answer = yield from self._ask(path, self._sale(request), stamp)
        if isinstance(answer, Unknown):
            return answer
        outcome = wire.submitted(answer, attempt)
        if isinstance(outcome, Refused):
            return (yield from self._unless_known(outcome, attempt, stamp))
        return outcome

    def query(self, attempt: AttemptKey, stamp: Stamp) -> Flow[QueryOutcome]:
        """Ask what became of an attempt, by its number and its txnTime."""
        answer = yield from self._find(attempt.out_trade_no, attempt.started_at_s, stamp)
        if isinstance(answer, Unknown):
            return answer
        passed_s = stamp.now_s - attempt.expires_at_s
        over, long_over = passed_s >= CLOSE_MARGIN_S, passed_s >= UNDECIDED_MARGIN_S
        return wire.state_of(answer, attempt, over=over, long_over=long_over)

    def close(self, attempt: AttemptKey, stamp: Stamp) -> Flow[CloseOutcome]:
        """There is no way to close: a query says whether it is paid, or over by itself."""
        known = yield from self.query(attempt, stamp)
        match known:
            case Paid():
                return AlreadyPaid()
            case NotPaid() | NotFound():
                return NotClosable()
            case Debited(reason):
                return Unknown(reason)
        return known

    def _unless_known(self, refused: Refused, attempt: AttemptKey, stamp: Stamp) -> Flow[PayOutcome]:
        """The refusal, unless UnionPay knows the attempt all the same: an earlier send may have been taken."""
        known = yield from self.query(attempt, stamp)
        match known:
            case NotFound() | ClosedAtChannel():
                return refused
            case NotPaid() if attempt.method != "barcode" and refused.code in (wire.DUPLICATE, _TOO_LATE.code):
                return refused  # it lies there unopened: nobody was told its code
            case Paid():
                return AlreadyPaid()
        return Unknown(f"refused with {refused.code}, but the attempt may exist: {known}")

    # --- giving back

    def refund(self, request: RefundRequest, stamp: Stamp) -> Flow[RefundOutcome]:
        """Give back all or a part, within eleven months.

        Sent only while its txnTime is fresh. Later it is asked after instead, and refused only when UnionPay does not
        know it long after it could last have been sent: then nothing has been moved under its number nor will be.
        """
        return self._give_back(wire.REFUND, request, stamp)

    def void(self, request: RefundRequest, stamp: Stamp) -> Flow[RefundOutcome]:
        """Give all of it back on the settlement day of the payment; after that day only `refund` does."""
        return self._give_back(wire.VOID, request, stamp)

    def query_refund(self, refund: RefundKey, stamp: Stamp) -> Flow[RefundQueryOutcome]:
        """Ask what became of a refund or void, by its own number and txnTime."""
        answer = yield from self._find(refund.refund_no, refund.started_at_s, stamp)
        if isinstance(answer, Unknown):
            return answer
        code = answer.get("respCode", "")
        if code == wire.NOT_FOUND:
            return NotFound()
        if code != wire.OK:
            return Unknown(wire.meaning(answer))
        if answer.get("txnType") not in (wire.REFUND, wire.VOID):
            return Unknown("the answer is about a trade that is no refund")
        state = wire.refund_state(answer.get("origRespCode", ""))
        if state is None:
            return Unknown(wire.meaning(answer, "origRespCode"))
        return RefundKnown(wire.refund_of(answer, state))

    def _give_back(self, txn_type: str, request: RefundRequest, stamp: Stamp) -> Flow[RefundOutcome]:
        mistake = wire.unacceptable_refund(request, txn_type)
        if mistake:
            return Refused("invalid_request", mistake)
        refund = request.refund
        sendable_until_s = refund.started_at_s + TXN_TIME_WINDOW_S
        if stamp.now_s >= sendable_until_s:
            lost = stamp.now_s >= sendable_until_s + REFUND_LOST_AFTER_S
            doubt = _TOO_LATE if lost else Unknown("too late to send it, too early to give it up")
            return (yield from self._unless_refunded(doubt, refund, stamp))
        answer = yield from self._ask(wire.BACK, self._return(request, txn_type), stamp)
        if isinstance(answer, Unknown):
            return answer
        code = answer.get("respCode", "")
        if code == wire.OK:  # taken, not done: a query or a notification says what came of it
            return RefundKnown(wire.refund_of(answer, RefundState.PROCESSING))
        if code in wire.REFUND_REFUSED:
            return (yield from self._unless_refunded(Refused(code, wire.meaning(answer)), refund, stamp))
        return Unknown(wire.meaning(answer))

    def _unless_refunded(self, doubt: Refused | Unknown, refund: RefundKey, stamp: Stamp) -> Flow[RefundOutcome]:
        """The refusal, unless UnionPay knows the refund all the same: an earlier send may have been taken."""
        known = yield from self.query_refund(refund, stamp)
        return doubt if isinstance(known, NotFound) else known

    # --- notifications

    def notification(self, headers: Mapping[str, str], body: bytes, now_s: int) -> Notified:  # noqa: ARG002
        """Verify and read a notification: of a payment, or of a refund or void, which also tell of their failure.

        Nothing in it says when it was sent, so a copy verifies for ever: whoever books compares the transaction.

        Raises:
            NotificationRejected: it is not believed, or of something that moves nothing (OTHER_EVENT).
        """
        try:
            form = forms.read(body)
        except forms.FormError as error:
            raise NotificationRejected(RejectReason.MALFORMED, str(error)) from error
        doubt = self._doubt(form.fields, wire.digest(form.string(("signature",))), now_s)
        if doubt is not None:
            raise NotificationRejected(doubt.reason, doubt.detail)
        if form.holds_other_fields():
            raise NotificationRejected(RejectReason.MALFORMED, "a field stands in another one")
        try:
            charset = wire.CHARSETS[form.fields["encoding"].lower()]
            return wire.notified(wire.telling(form.fields, charset))
        except (KeyError, forms.FormError) as error:
            raise NotificationRejected(RejectReason.UNREADABLE, f"encoding: {error}") from error

    def acknowledge(self) -> Acknowledgement:
        """The status counts; the body is what UnionPay's sample says."""
        return Acknowledgement(200, "text/plain", b"ok")

    def refuse(self, reason: str) -> Acknowledgement:
        """400 for what we do not believe (as the sample does), 503 for what we could not keep; both come again."""
        disbelieved = reason in RejectReason.__members__.values()
        return Acknowledgement(400 if disbelieved else 503, "text/plain", reason[:256].encode("utf-8", "replace"))

    # --- statements and keys

    def statement(self, day: str, stamp: Stamp) -> Flow[StatementOutcome]:
        """Fetch the file of a settlement day, which ends some time before midnight.

        98 (no such file) before the next noon means that it is not made yet, later that the day has none. That a day
        without trades is answered so is not documented.
        """
        began_at_s = moments.of_plain(f"{day} 00:00:00")
        if began_at_s is None:
            return Unknown(f"day: {day[:32]!r} is not YYYY-MM-DD")
        fields = {
            **self._common(wire.DOWNLOAD, "01", "000000"),
            "settleDate": moments.compact(began_at_s)[4:8],
            "fileType": "00",
            "txnTime": moments.compact(stamp.now_s),
        }
        answer = yield from self._ask(wire.FILES, fields, stamp)
        if isinstance(answer, Unknown):
            return answer
        code = answer.get("respCode", "")
        if code == wire.NO_FILE:
            made = stamp.now_s >= began_at_s + STATEMENT_READY_AFTER_S
            return NoStatement() if made else StatementNotReady()
        if code != wire.OK or answer.get("settleDate") != fields["settleDate"]:
            return Unknown(f"{wire.meaning(answer)}, settleDate {answer.get('settleDate', '')[:8]}")
        try:
            return StatementFile(day, unionpay_bill.unpack(answer.get("fileContent", "")))
        except StatementUnreadable as error:
            return Unknown(str(error))

    def statement_rows(self, file: StatementFile) -> Iterator[StatementRow]:
        """The day's sales, refunds and voids. The year, which the lines leave out, is the day's.

        Raises:
            StatementUnreadable: naming the line.
        """
        return unionpay_bill.rows(file.day, file.content)

    def refresh_keys(self, stamp: Stamp) -> Flow[bool]:  # noqa: ARG002
        """Nothing to fetch: every message brings its certificate, and the authorities above it come from people."""
        yield from ()
        return False

    # --- requests out, answers in

    def _find(self, number: str, started_at_s: int, stamp: Stamp) -> Flow[Message | Unknown]:
        fields = {
            **self._common("00", "00", "000000"),  # UnionPay takes this bizType for trades of every kind
            "orderId": number,
            "txnTime": moments.compact(started_at_s),
        }
        return (yield from self._ask(self._credentials.query_path, fields, stamp))

    def _ask(self, path: str, fields: Mapping[str, str], stamp: Stamp) -> Flow[Message | Unknown]:
        """One exchange: a believed answer to these very fields, or the reason why nobody knows."""
        files = path == wire.FILES
        try:
            answer = yield Request(
                method="POST",
                target=path,
                headers={"Content-Type": "application/x-www-form-urlencoded;charset=UTF-8"},
                body=forms.encode(self._signed(fields)),
                origin=self._credentials.file_url if files else "",
                answer_bytes_max=STATEMENT_BYTES_MAX if files else ANSWER_BYTES_MAX,
            )
        except NoAnswer as silence:
            return Unknown(f"no answer: {silence.reason}")
        return self._read(answer, fields, stamp.now_s)

    def _read(self, answer: Response, asked: Mapping[str, str], now_s: int) -> Message | Unknown:
        if answer.status != 200:
            return Unknown(f"status {answer.status}")
        try:
            fields = wire.read_answer(answer.body)
            message = wire.texts(fields, wire.ENCODING)
        except forms.FormError as error:
            return Unknown(f"answer not understood: {error}")
        doubt = self._doubt(message, wire.signed_text(fields), now_s)
        if doubt is not None:
            return Unknown(f"answer not believed: {doubt.reason}: {doubt.detail}")
        for name in ("merId", "orderId", "txnTime"):
            if name in asked and message.get(name) != asked[name]:
                return Unknown(f"the answer is about another {name}")
        return message

    def _common(self, txn_type: str, sub_type: str, biz_type: str) -> dict[str, str]:
        return {
            "version": wire.VERSION,
            "encoding": wire.ENCODING,
            "signMethod": wire.SIGN_METHOD,
            "txnType": txn_type,
            "txnSubType": sub_type,
            "bizType": biz_type,
            "accessType": "0",
            "merId": self._credentials.mer_id,
        }

    def _sale(self, request: PaymentRequest) -> dict[str, str]:
        attempt, product = request.attempt, wire.PRODUCTS[request.attempt.method]
        barcode = attempt.method == "barcode"
        return {
            **self._common(wire.SALE, product.sub_type, product.biz_type),
            "channelType": product.channel_type,
            "orderId": attempt.out_trade_no,
            "txnTime": moments.compact(attempt.started_at_s),
            "currencyCode": wire.CNY,
            "txnAmt": str(request.amount),
            "frontUrl": request.return_url if product.path == wire.FRONT else "",
            "backUrl": request.notify_url,
            "payTimeout": "" if barcode else moments.compact(attempt.expires_at_s),
            "qrNo": request.params["qr_no"] if barcode else "",
            "reqReserved": wire.reserved(request.subject),
        }

    def _return(self, request: RefundRequest, txn_type: str) -> dict[str, str]:
        return {
            **self._common(txn_type, "00", "000000"),
            "channelType": "07",
            "orderId": request.refund.refund_no,
            "txnTime": moments.compact(request.refund.started_at_s),
            "origQryId": request.refund.channel_transaction,
            "txnAmt": str(request.amount),
            "backUrl": request.notify_url,
        }

    def _signed(self, fields: Mapping[str, str]) -> dict[str, str]:
        filled = {name: value for name, value in fields.items() if value}
        filled["certId"] = self._credentials.cert_id
        joined = "&".join([f"{name}={filled[name]}" for name in sorted(filled)])
        filled["signature"] = signing.sign(self._credentials.private_key, wire.digest(joined.encode()))
        return filled

    def _form(self, request: PaymentRequest) -> Credential:
        form = {
            "action": self._credentials.base_url + wire.FRONT,
            "charset": wire.ENCODING,
            "fields": self._signed(self._sale(request)),
        }
        return Credential(CredentialType.FORM, msgspec.json.encode(form).decode(), request.attempt.expires_at_s)

    # --- belief

    def _doubt(self, fields: Mapping[str, str], signed_text: bytes, now_s: int) -> _Doubt | None:
        """Why these fields are not UnionPay's word, or None if they are. `signed_text` is made of them."""
        if fields.get("version") != "5.1.0" or fields.get("signMethod") != "01":
            return _Doubt(RejectReason.BAD_SIGNATURE, "not of version 5.1.0 with signMethod 01")
        pem = fields.get("signPubKeyCert", "")
        trusted = self._remembered(pem)
        certificate = trusted or self._validated(pem)
        if isinstance(certificate, _Doubt):
            return certificate
        if not certificate.not_before_s <= now_s <= certificate.not_after_s:
            return _Doubt(RejectReason.BAD_SIGNATURE, "signPubKeyCert, or an authority above it, is out of date")
        if not signing.verify(certificate.public_key, signed_text, fields.get("signature", "")):
            return _Doubt(RejectReason.BAD_SIGNATURE, f"does not verify with certificate {certificate.serial}")
        if trusted is None:  # only now: the certificate's text is under the signature, nobody can vary it
            self._trusted = (*self._trusted[1 - TRUSTED_MAX :], (pem, certificate))
        return None

    def _remembered(self, pem: str) -> signing.Certificate | None:
        for known, certificate in self._trusted:
            if known == pem:
                return certificate
        return None

    def _validated(self, pem: str) -> signing.Certificate | _Doubt:
        holder = certificates.validate(pem.encode(forms.BYTES), self._credentials.authorities)
        if not isinstance(holder, Holder):
            return _Doubt(RejectReason.BAD_SIGNATURE, f"signPubKeyCert: {holder.reason}")
        parts = holder.common_name.split("@")
        owner = parts[2] if len(parts) > 2 else ""
        if owner == OWNER or (owner == TEST_OWNER and self._credentials.accept_test_names):
            return holder.certificate
        return _Doubt(RejectReason.BAD_SIGNATURE, f"signPubKeyCert belongs to {holder.common_name[:128]!r}")
