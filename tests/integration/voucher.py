"""A fourth channel in one file: vouchers that are bought at a counter. Copy it to begin one of your own.

The voucher house signs what it says with HMAC-SHA256 over the raw body, and so do we. It is fictitious; that is all.
"""

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

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
    Method,
    NoStatement,
    NotFound,
    Notified,
    NotPaid,
    Paid,
    Param,
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
    StatementOutcome,
    StatementRow,
    Unknown,
)
from channels.errors import NoAnswer, NotificationRejected
from channels.params import mistake_in

SIGNATURE: Final = "voucher-signature"
COUNTER = Method(
    name="counter",
    about="the payer buys the voucher at a counter and shows its code",
    credential=CredentialType.QR,
    params=(Param(name="city", about="where the counter is", required=True, choices=("Beijing", "Shanghai")),),
)

# The codes that decide anything, by the voucher house's manual; whatever is not here is unknown.
PAY_REFUSED: Final = frozenset({"no_such_counter", "amount_too_small"})
NOT_FOUND: Final = "no_such_voucher"
SOLD: Final = "sold"


class _Voucher(msgspec.Struct, frozen=True):
    """A voucher as the house states it. `receipt` and `sold_at` are there once it was paid."""

    shop: str
    number: str
    state: str
    amount: int
    code: str = ""
    receipt: str = ""
    sold_at: int = 0


class _Refund(msgspec.Struct, frozen=True):
    number: str
    state: RefundState


class _Problem(msgspec.Struct, frozen=True):
    code: str = ""


class Vouchers:
    """The channel with one account at the house."""

    name = "voucher"
    methods: Mapping[str, Method] = {COUNTER.name: COUNTER}

    def __init__(self, shop: str, secret: bytes) -> None:
        self.account = shop
        self._secret = secret

    # --- payments

    def pay(self, request: PaymentRequest, stamp: Stamp) -> Flow[PayOutcome]:
        """The house takes the same number again with the same content, so this may be sent again as it is."""
        wrong = mistake_in(request.params, COUNTER)
        if wrong:
            return Refused("invalid_request", wrong)
        attempt = request.attempt
        wanted = {
            "number": attempt.out_trade_no,
            "amount": request.amount,
            "until": attempt.expires_at_s,
            "city": request.params["city"],
            "notify": request.notify_url,
        }
        answer = yield from self._ask("POST", "/vouchers", wanted, _Voucher)
        match answer:
            case _Voucher(state=state) if state == SOLD:
                return AlreadyPaid()
            case _Voucher(code=code) if code:
                return Accepted(Credential(CredentialType.QR, code, attempt.expires_at_s))
            case _Problem(code) if code in PAY_REFUSED:
                return Refused(code, "")
        return _unknown(answer)

    def query(self, attempt: AttemptKey, stamp: Stamp) -> Flow[QueryOutcome]:
        """What became of a voucher."""
        answer = yield from self._ask("GET", f"/vouchers/{attempt.out_trade_no}", None, _Voucher)
        match answer:
            case _Problem(code) if code == NOT_FOUND:
                return NotFound()
            case _Voucher(state="sold"):
                return Paid(_payment(answer))
            case _Voucher(state="open"):
                return NotPaid()
            case _Voucher(state="torn"):
                return ClosedAtChannel()
        return _unknown(answer)

    def close(self, attempt: AttemptKey, stamp: Stamp) -> Flow[CloseOutcome]:
        """Tear it up."""
        answer = yield from self._ask("DELETE", f"/vouchers/{attempt.out_trade_no}", None, _Voucher)
        match answer:
            case _Problem(code) if code == NOT_FOUND:
                return NotFound()
            case _Voucher(state="sold"):
                return AlreadyPaid()
            case _Voucher(state="torn"):
                return ClosedAtChannel()
        return _unknown(answer)

    # --- refunds

    def refund(self, request: RefundRequest, stamp: Stamp) -> Flow[RefundOutcome]:
        """Take it back at the counter."""
        wanted = {"voucher": request.refund.out_trade_no, "amount": request.amount}
        answer = yield from self._ask("PUT", f"/refunds/{request.refund.refund_no}", wanted, _Refund)
        return self._known(answer) if isinstance(answer, _Refund) else _unknown(answer)

    def query_refund(self, refund: RefundKey, stamp: Stamp) -> Flow[RefundQueryOutcome]:
        """What became of that."""
        answer = yield from self._ask("GET", f"/refunds/{refund.refund_no}", None, _Refund)
        match answer:
            case _Problem(code) if code == NOT_FOUND:
                return NotFound()
            case _Refund():
                return self._known(answer)
        return _unknown(answer)

    def _known(self, refund: _Refund) -> RefundKnown:
        return RefundKnown(ChannelRefund(self.name, self.account, refund.number, refund.state))

    # --- notifications

    def notification(self, headers: Mapping[str, str], body: bytes, now_s: int) -> Notified:
        """Only what carries the house's signature over these very bytes.

        Raises:
            NotificationRejected: it does not, or is no sold voucher.
        """
        if not self._signed(headers, body):
            raise NotificationRejected(RejectReason.BAD_SIGNATURE)
        try:
            voucher = msgspec.json.decode(body, type=_Voucher)
        except msgspec.MsgspecError as error:
            raise NotificationRejected(RejectReason.UNREADABLE, str(error)) from error
        if voucher.state != SOLD:
            raise NotificationRejected(RejectReason.OTHER_EVENT, voucher.state)
        return _payment(voucher)

    def acknowledge(self) -> Acknowledgement:
        """One letter."""
        return Acknowledgement(200, "text/plain", b"y")

    def refuse(self, reason: str) -> Acknowledgement:
        """Anything else."""
        return Acknowledgement(400, "text/plain", b"n")

    # --- statements and keys

    def statement(self, day: str, stamp: Stamp) -> Flow[StatementOutcome]:
        """The house makes none."""
        return NoStatement()
        yield  # a flow, though it asks nothing

    def statement_rows(self, file: StatementFile) -> Iterator[StatementRow]:
        """So there is nothing to read."""
        return iter(())

    def refresh_keys(self, stamp: Stamp) -> Flow[bool]:
        """The secret is ours and theirs; it is not fetched."""
        return False
        yield  # a flow, though it asks nothing

    # --- requests out, answers in

    def _ask(self, method: str, target: str, wanted: object, kind: type[Any]) -> Flow[Any]:
        """One exchange: a believed answer of that kind, a believed problem, or why nobody knows."""
        body = b"" if wanted is None else msgspec.json.encode(wanted)
        headers = {"Content-Type": "application/json", SIGNATURE: self._mac(body)}
        try:
            answer = yield Request(method, target, headers, body)
        except NoAnswer as silence:
            return Unknown(silence.reason)
        if not self._signed(answer.headers, answer.body):
            return Unknown("an answer that is not signed")
        try:
            return msgspec.json.decode(answer.body, type=kind if answer.status == 200 else _Problem)
        except msgspec.MsgspecError as error:
            return Unknown(str(error))

    def _signed(self, headers: Mapping[str, str], body: bytes) -> bool:
        return hmac.compare_digest(headers.get(SIGNATURE, "").encode("utf-8", "replace"), self._mac(body).encode())

    def _mac(self, body: bytes) -> str:
        return hmac.digest(self._secret, body, hashlib.sha256).hex()


def _unknown(answer: object) -> Unknown:
    return answer if isinstance(answer, Unknown) else Unknown(f"not understood: {answer}"[:200])


def _payment(voucher: _Voucher) -> ChannelPayment:
    return ChannelPayment(
        Vouchers.name, voucher.shop, voucher.number, voucher.receipt, voucher.amount, "CNY", voucher.sold_at
    )
