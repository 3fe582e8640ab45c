"""Alipay's OpenAPI (gateway.do, RSA2), direct merchant: the verbs of `contract.Channel` over that wire protocol.

Two rules stand above all: an answer or notification is believed only after its signature over the raw bytes was
verified (but for the gateway's own refusals, which may come without one), and only the codes listed in a table of
`alipay_wire.py` mean what the table says.

What is special here: at Alipay nothing exists before the payer opens what they were given. `qr` asks the platform for a
code; `page`, `wap` and `app` ask nobody: what the payer opens is a request signed by us. Until then a query says
"trade does not exist", and a close can not end it: it ends at `time_expire`, which every request carries.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from channels import alipay_bill, alipay_notice, forms, moments, money, signing
from channels import alipay_wire as wire
from channels.alipay_keys import Credentials, load_credentials
from channels.alipay_wire import NAME, Answer, Trade
from channels.contract import (
    Accepted,
    Acknowledgement,
    AlreadyPaid,
    AttemptKey,
    ChannelPayment,
    ChannelRefund,
    ClosedAtChannel,
    CloseOutcome,
    Credential,
    CredentialType,
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
    RefundState,
    Refused,
    RejectReason,
    Request,
    Stamp,
    StatementFile,
    StatementNotReady,
    StatementOutcome,
    StatementRow,
    Unknown,
)
from channels.errors import NoAnswer, NotificationRejected

__all__ = ["Alipay", "Credentials", "load_credentials"]

T = TypeVar("T")

HEADERS: Final = {
    "Accept": "application/json",
    "Content-Type": "application/x-www-form-urlencoded;charset=utf-8",
    "User-Agent": "holdfast",
}
_ADDRESS = re.compile(r"(?P<origin>https?://[^/?#\s]+)(?P<target>/[!\"$-~]*)", re.ASCII)


class Cancelled(msgspec.Struct, frozen=True):
    """cancel: it is over. `refunded`: it had been paid, and the platform gave the money back."""

    refunded: bool


CancelOutcome: TypeAlias = Cancelled | NotFound | Unknown


class Alipay:
    """The channel with one merchant account. A value: nothing in it ever changes."""

    name = NAME
    methods = wire.METHODS

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._keys = credentials.verification_keys
        self._fixed = {
            "app_id": credentials.app_id,
            "charset": "utf-8",
            "format": "JSON",
            "sign_type": "RSA2",
            "version": "1.0",
            **({"app_cert_sn": credentials.app_cert_sn} if credentials.app_cert_sn else {}),
            **({"alipay_root_cert_sn": credentials.root_cert_sn} if credentials.root_cert_sn else {}),
        }
        self._fixed_query = forms.encode(self._fixed).decode("ascii")

    @property
    def account(self) -> str:
        """`app_id/seller_id`: money booked under another app or to another seller is not ours."""
        return wire.account_of(self._credentials.app_id, self._credentials.seller_id)

    @property
    def statement_origins(self) -> tuple[str, ...]:
        """Where lists are fetched, beside the channel's own address."""
        return wire.BILL_ORIGINS

    # --- verbs

    def pay(self, request: PaymentRequest, stamp: Stamp) -> Flow[PayOutcome]:
        """A QR code from the platform, or a request that the payer's browser or app will make.

        A signed address may grow to 5,000 characters with everything at its longest, which browsers and Alipay's front
        take; so it is always an address and never a form.
        """
        mistake = wire.unacceptable_payment(request)
        if mistake:
            return Refused(code="invalid_request", message=mistake)
        expires_at_s = wire.expires_at_s(request.attempt)
        method, biz = wire.CREATES[request.attempt.method], self._trade(request, expires_at_s)
        addresses = {"notify_url": request.notify_url}
        if request.attempt.method == "qr":
            return (yield from self._precreate(request.attempt, method, biz, addresses, expires_at_s, stamp))
        if stamp.now_s >= expires_at_s:
            return Refused(code="expired", message="nobody could pay with it any more")
        if request.return_url and request.attempt.method != "app":
            addresses["return_url"] = request.return_url
        signed = self._query(self._signed(method, biz, stamp, addresses))
        if request.attempt.method == "app":
            value = msgspec.json.encode({"orderString": signed}).decode("ascii")
            return Accepted(Credential(CredentialType.PARAMS, value, expires_at_s))
        url = f"{self._credentials.base_url}{wire.GATEWAY}?{signed}"
        return Accepted(Credential(CredentialType.URL, url, expires_at_s))

    def query(self, attempt: AttemptKey, stamp: Stamp) -> Flow[QueryOutcome]:
        """Ask what became of an attempt, by our own number."""
        answer = yield from self._ask("alipay.trade.query", {"out_trade_no": attempt.out_trade_no}, stamp)
        if isinstance(answer, Unknown):
            return answer
        if answer.name == wire.TRADE_NOT_EXIST:
            return NotFound()
        trade = _read(answer, Trade)
        return trade if isinstance(trade, Unknown) else self._state_of(trade, attempt.out_trade_no, stamp.now_s)

    def close(self, attempt: AttemptKey, stamp: Stamp) -> Flow[CloseOutcome]:
        """End an unpaid attempt; the call may be repeated. `NotFound`: no payer has opened it, and some still may."""
        answer = yield from self._ask("alipay.trade.close", {"out_trade_no": attempt.out_trade_no}, stamp)
        if isinstance(answer, Unknown):
            return answer
        if answer.name == wire.TRADE_NOT_EXIST:
            return NotFound()
        if answer.name in wire.CLOSE_NOT_WAITING:
            known = yield from self.query(attempt, stamp)
            match known:
                case Paid():
                    return AlreadyPaid()
                case ClosedAtChannel():
                    return known
            return Unknown(f"can not be closed ({answer.name}), and asked: {known}")
        ended = _read(answer, wire.Ended)
        if isinstance(ended, Unknown):
            return ended
        return ClosedAtChannel() if ended.out_trade_no == attempt.out_trade_no else _other()

    def cancel(self, attempt: AttemptKey, stamp: Stamp) -> Flow[CancelOutcome]:
        """End an attempt whatever has become of it: unpaid it is closed, paid it is given back whole.

        Not a verb of the contract: an order never wants that, as it keeps what was paid. It is for people, and for
        attempts of which nobody may wait to know the outcome (the platform made it for bar codes at a till).
        """
        answer = yield from self._ask("alipay.trade.cancel", {"out_trade_no": attempt.out_trade_no}, stamp)
        if isinstance(answer, Unknown):
            return answer
        if answer.name == wire.TRADE_NOT_EXIST:
            return NotFound()
        ended = _read(answer, wire.Ended)
        if isinstance(ended, Unknown):
            return ended
        if ended.out_trade_no not in ("", attempt.out_trade_no):
            return _other()
        if ended.retry_flag == "Y" or ended.action not in ("", "close", "refund"):
            return Unknown(f"cancel: action {ended.action[:32]!r}, to be tried again: {ended.retry_flag[:8]!r}")
        return Cancelled(refunded=ended.action == "refund") if ended.action else NotFound()

    def refund(self, request: RefundRequest, stamp: Stamp) -> Flow[RefundOutcome]:
        """Give money back. Done only if the platform says that money moved by this call; if not, the refund is asked
        after, as an earlier send may have done it. So it is before a refusal is believed.

        `refund_fee` of the answer is not read: it is the sum of all refunds of the trade.
        """
        mistake = wire.unacceptable_refund(request)
        if mistake:
            return Refused(code="invalid_request", message=mistake)
        biz = {
            **_trade_of(request.refund),
            "out_request_no": request.refund.refund_no,
            "refund_amount": money.yuan(request.amount),
            "refund_reason": wire.shown(request.reason, wire.REASON_CHARS_MAX),
        }
        if not biz["refund_reason"]:
            del biz["refund_reason"]
        answer = yield from self._ask("alipay.trade.refund", biz, stamp)
        if isinstance(answer, Unknown):
            return answer
        if answer.code == wire.SUCCESS:
            return (yield from self._refund_sent(answer, request.refund, stamp))
        refused = answer.rejected or answer.name in wire.REFUND_REFUSED
        if not refused and answer.name != wire.REFUND_DISCORDANT:
            return answer.unknown()
        known = yield from self.query_refund(request.refund, stamp)
        match known:
            case RefundKnown():
                return known
            case NotFound() if refused:
                return Refused(code=answer.name or answer.code, message=answer.said)
        return Unknown(f"refused with {answer.said}, and asked: {known}")

    def query_refund(self, refund: RefundKey, stamp: Stamp) -> Flow[RefundQueryOutcome]:
        """Ask what became of a refund; the platform may need ten seconds to know it."""
        biz = {
            **_trade_of(refund),
            "out_request_no": refund.refund_no,
            "query_options": ["gmt_refund_pay", "deposit_back_info"],
        }
        answer = yield from self._ask("alipay.trade.fastpay.refund.query", biz, stamp)
        if isinstance(answer, Unknown):
            return answer
        if answer.name == wire.TRADE_NOT_EXIST:
            return NotFound()
        found = _read(answer, wire.RefundFound)
        return found if isinstance(found, Unknown) else self._refund_of(found, refund)

    def statement(self, day: str, stamp: Stamp) -> Flow[StatementOutcome]:
        """Fetch the list of a day: ask where it is, and take it within the thirty seconds that the address lives."""
        begins_at_s = moments.of_plain(f"{day} 00:00:00")
        if begins_at_s is None:
            return Unknown(f"not a day: {day[:32]!r}")
        method, biz = "alipay.data.dataservice.bill.downloadurl.query", {"bill_type": wire.BILL_TYPE, "bill_date": day}
        answer = yield from self._ask(method, biz, stamp)
        if isinstance(answer, Unknown):
            return answer
        if answer.code != wire.SUCCESS:
            return _no_statement(answer, due=stamp.now_s >= begins_at_s + wire.BILL_DUE_AFTER_S)
        address = _read(answer, wire.BillAddress)
        request = address if isinstance(address, Unknown) else self._download(address.bill_download_url)
        if isinstance(request, Unknown):
            return request
        try:
            packed = yield request
        except NoAnswer as silence:
            return Unknown(f"no answer: {silence.reason}")
        content = alipay_bill.detail(packed.body) if packed.status == 200 else None
        if content is None:
            return Unknown(f"status {packed.status}, {len(packed.body)} bytes: not a zip with the day's list")
        return StatementFile(day, content)

    def statement_rows(self, file: StatementFile) -> Iterator[StatementRow]:
        """Read it, line by line; long: off the loop.

        Raises:
            StatementUnreadable: naming the line.
        """
        return alipay_bill.rows(file.content)

    def refresh_keys(self, stamp: Stamp) -> Flow[bool]:  # noqa: ARG002
        """Nothing is learned: Alipay's keys are files of the configuration, several certificates while they change."""
        yield from ()
        return False

    # --- notifications

    def notification(self, headers: Mapping[str, str], body: bytes, now_s: int) -> Notified:  # noqa: ARG002
        """Verify and read a notification (raw body; its headers say nothing).

        A repetition is as good as the first: it states the same payment under the same number, so its age is no
        reason to refuse it, and the platform itself repeats for 25 hours.

        Raises:
            NotificationRejected: it is not believed, or it is about something else; `.reason` says which.
        """
        return alipay_notice.read(alipay_notice.verified(body, self._keys.values()), now_s)

    def returned(self, query: bytes) -> bool:
        """Whether Alipay sent a payer back with this query of the return address. For display: it is no payment."""
        try:
            fields = alipay_notice.verified(query, self._keys.values())
        except NotificationRejected:
            return False
        return fields.get("method", "").endswith(".return")

    def acknowledge(self) -> Acknowledgement:
        """Seven bytes: anything else is delivered again."""
        return Acknowledgement(200, "text/plain", b"success")

    def refuse(self, reason: str) -> Acknowledgement:
        """400 for what we do not believe, 503 for what we could not keep; either is delivered again."""
        disbelieved = reason in RejectReason.__members__.values()
        return Acknowledgement(400 if disbelieved else 503, "text/plain", b"fail")

    # --- requests out, answers in

    def _ask(self, method: str, biz: Mapping[str, object], stamp: Stamp, **addresses: str) -> Flow[Answer | Unknown]:
        """One exchange: what the platform answered, whatever it was, or why nobody knows.

        As in its SDKs, biz_content is the body and the rest the query: the charset is known before the body is read.
        """
        fields = self._signed(method, biz, stamp, addresses)
        body = forms.encode({"biz_content": fields.pop("biz_content")})
        target = f"{wire.GATEWAY}?{self._query(fields)}"
        try:
            answer = yield Request(method="POST", target=target, headers=HEADERS, body=body)
        except NoAnswer as silence:
            return Unknown(f"no answer: {silence.reason}")
        return wire.believed(answer, method, self._keys)

    def _signed(
        self, method: str, biz: Mapping[str, object], stamp: Stamp, addresses: Mapping[str, str]
    ) -> dict[str, str]:
        """The fields of a request beside those that are the same in all, with the signature over all."""
        fields = {
            **addresses,
            "method": method,
            "timestamp": moments.plain(stamp.now_s),
            "biz_content": msgspec.json.encode(biz).decode(),
        }
        message = wire.signing_string({**self._fixed, **fields})
        fields["sign"] = signing.sign(self._credentials.private_key, message)
        return fields

    def _query(self, fields: Mapping[str, str]) -> str:
        return f"{self._fixed_query}&{forms.encode(fields).decode('ascii')}"

    def _trade(self, request: PaymentRequest, expires_at_s: int) -> dict[str, object]:
        method = request.attempt.method
        return {
            "out_trade_no": request.attempt.out_trade_no,
            "total_amount": money.yuan(request.amount),
            "subject": wire.shown(request.subject, wire.SUBJECT_CHARS_MAX),
            "product_code": self._credentials.qr_product if method == "qr" else wire.PRODUCTS[method],
            "time_expire": moments.plain(expires_at_s),
            **request.params,
        }

    def _precreate(
        self,
        attempt: AttemptKey,
        method: str,
        biz: Mapping[str, object],
        addresses: Mapping[str, str],
        expires_at_s: int,
        stamp: Stamp,
    ) -> Flow[PayOutcome]:
        answer = yield from self._ask(method, biz, stamp, **addresses)
        if isinstance(answer, Unknown):
            return answer
        if answer.code == wire.SUCCESS:
            made = _read(answer, wire.Precreated)
            if isinstance(made, Unknown) or made.out_trade_no != attempt.out_trade_no:
                return made if isinstance(made, Unknown) else _other()
            return Accepted(Credential(CredentialType.QR, made.qr_code, expires_at_s))
        if answer.rejected:  # by the gateway: so would be a query
            return Refused(code=answer.code, message=answer.said)
        if answer.name not in wire.PAY_REFUSED | wire.PAY_EXISTS:
            return answer.unknown()
        known = yield from self.query(attempt, stamp)
        match known:
            case Paid():
                return AlreadyPaid()
            case ClosedAtChannel():
                return Refused(code=answer.name, message=answer.said)
            case NotFound() if answer.name in wire.PAY_REFUSED:
                return Refused(code=answer.name, message=answer.said)
        return Unknown(f"refused with {answer.said}, but the attempt may exist: {known}")

    def _refund_sent(self, answer: Answer, refund: RefundKey, stamp: Stamp) -> Flow[RefundOutcome]:
        done = _read(answer, wire.Refunded)
        if isinstance(done, Unknown) or done.out_trade_no != refund.out_trade_no:
            return done if isinstance(done, Unknown) else _other()
        if done.fund_change == "Y":
            return RefundKnown(self._succeeded(refund, success_at_s=wire.time_of(done.gmt_refund_pay)))
        known = yield from self.query_refund(refund, stamp)
        if isinstance(known, NotFound):
            return Unknown("taken, but no money moved by it, and the refund is not known yet")
        return known

    def _download(self, address: str) -> Request | Unknown:
        found = _ADDRESS.fullmatch(address)
        if found is None or found["origin"] not in (self._credentials.base_url, *wire.BILL_ORIGINS):
            return Unknown(f"the list is said to be at {address[:200]!r}: not an address of Alipay's")
        headers = {"User-Agent": "holdfast"}
        return Request("GET", found["target"], headers, b"", found["origin"], alipay_bill.PACKED_BYTES_MAX)

    # --- belief

    def _state_of(self, trade: Trade, out_trade_no: str, now_s: int) -> QueryOutcome:
        if trade.out_trade_no != out_trade_no:
            return _other()
        if trade.trade_status in wire.STATES_PAID:
            return self._paid(trade, now_s)
        if trade.trade_status == wire.STATE_CLOSED:  # paid and given back whole: that trade has a time of payment
            return self._paid(trade, now_s) if trade.send_pay_date else ClosedAtChannel()
        return (
            NotPaid()
            if trade.trade_status == wire.STATE_WAITING
            else Unknown(f"trade_status {trade.trade_status[:64]}")
        )

    def _paid(self, trade: Trade, now_s: int) -> QueryOutcome:
        """The answer names neither app nor seller: it is about a trade of ours because it was asked for as us."""
        amount, currency = wire.fen(trade.total_amount), wire.currency_of(trade.trans_currency)
        if not amount or not currency or not wire.is_number(trade.trade_no):
            return Unknown("paid, but the answer lacks the amount or the transaction")
        return Paid(
            ChannelPayment(
                channel=NAME,
                account=self.account,
                out_trade_no=trade.out_trade_no,
                channel_transaction=trade.trade_no,
                amount=amount,
                currency=currency,
                success_at_s=wire.time_of(trade.send_pay_date) or now_s,  # paid by now, at the latest
            )
        )

    def _refund_of(self, found: wire.RefundFound, refund: RefundKey) -> RefundQueryOutcome:
        amount = wire.fen(found.refund_amount)
        if not found.refund_status and not amount:
            return NotFound()
        if found.out_trade_no != refund.out_trade_no or found.out_request_no not in ("", refund.refund_no):
            return _other()
        if found.refund_status not in ("", "REFUND_SUCCESS"):  # older answers leave it out: an amount means success
            return Unknown(f"refund_status {found.refund_status[:64]}")
        back = found.deposit_back_info.dback_status if found.deposit_back_info else ""
        detail = f"on its way to a bank card: {back[:16]}" if back else ""
        success_at_s = wire.time_of(found.gmt_refund_pay)
        return RefundKnown(self._succeeded(refund, amount=amount, success_at_s=success_at_s, detail=detail))

    def _succeeded(self, refund: RefundKey, **stated: Any) -> ChannelRefund:
        return ChannelRefund(
            channel=NAME,
            account=self.account,
            refund_no=refund.refund_no,
            state=RefundState.SUCCEEDED,
            out_trade_no=refund.out_trade_no,
            **stated,
        )


# --- reading ---------------------------------------------------------------------------------------------------------


def _other() -> Unknown:
    return Unknown("the answer is about another trade or refund")


def _trade_of(refund: RefundKey) -> dict[str, object]:
    """The trade to give back from: by the platform's number, which names the very money, else by ours."""
    if refund.channel_transaction:
        return {"trade_no": refund.channel_transaction}
    return {"out_trade_no": refund.out_trade_no}


def _read(answer: Answer, shape: type[T]) -> T | Unknown:
    """What a call that was executed brought; unknown for every other answer."""
    if answer.code != wire.SUCCESS:
        return answer.unknown()
    try:
        return msgspec.json.decode(answer.node, type=shape)
    except wire.UNREADABLE as error:
        return Unknown(f"answer not understood: {error}")


def _no_statement(answer: Answer, *, due: bool) -> StatementOutcome:
    name = answer.name.upper()  # older answers write isp.bill_not_exist
    if wire.BILL_NEVER in name:
        return NoStatement()
    absent = any(each in name for each in wire.BILL_ABSENT)
    if absent and due:
        return NoStatement()
    return StatementNotReady() if absent or (name == wire.BILL_TOO_SOON and not due) else answer.unknown()
