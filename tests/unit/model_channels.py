"""Three platforms as one ledger beside an order: what they know, what payers did, what went back. No I/O, no clock.

They differ as the real ones do: WeChat Pay knows an attempt from its submission on and gives fresh codes for it; Alipay
and UnionPay hear of it when a payer opens what they were given and take a number once; UnionPay closes nothing. They
hold to what they said; who wants a contradiction writes it into the ledger.
"""

import msgspec

from actors.effects import Close, Effect, Query, QueryRefund, Submit, SubmitRefund
from actors.events import (
    Credential,
    Event,
    OutcomeUnknown,
    PaymentReported,
    RefundNotFound,
    RefundOutcomeUnknown,
    RefundRefused,
    RefundReported,
    RefundWord,
    ReportedAlreadyPaid,
    ReportedClosed,
    ReportedNotClosable,
    ReportedNotFound,
    ReportedNotPaid,
    Source,
    SubmitAccepted,
    SubmitRefused,
    Verb,
)
from actors.order import Attempt, Order, Payment, Refund
from tests.unit.orders import EXPIRES_MS, paid_event, qr

ACCOUNTS = {"wechatpay": "m/a", "alipay": "2088", "unionpay": "777290058110048"}
ENDS_MS = EXPIRES_MS - 5000  # the channels are given an earlier expiry than the order has
CODE_LIFE_MS = 600_000

replace = msgspec.structs.replace


class Trade(msgspec.Struct):
    """What a platform has of an attempt. Not `known`: it gave something away that nobody has opened."""

    known: bool
    closed: bool = False
    transactions: list[str] = []


class Paid(msgspec.Struct, frozen=True):
    """A payment as the platform knows it."""

    number: int
    channel: str
    account: str
    amount: int
    currency: str
    at_ms: int


class Back(msgspec.Struct):
    """A refund as the platform knows it."""

    transaction: str
    amount: int
    word: RefundWord


class Ledger:
    """The books of all three. `refuses` has the next submission refused; refunds begin with `refund_word`."""

    def __init__(self) -> None:
        self.trades: dict[int, Trade] = {}
        self.payments: dict[str, Paid] = {}
        self.refunds: dict[str, Back] = {}

    # --- payers

    def payable(self, order: Order, held: dict[int, list[Credential]], now_ms: int) -> list[int]:
        """The attempts that somebody can pay now, with anything they were ever shown."""
        return [number for number in held if self._can_be_paid(order, number, held[number], now_ms)]

    def _can_be_paid(self, order: Order, number: int, held: list[Credential], now_ms: int) -> bool:
        trade = self.trades.get(number)
        if trade is None or trade.closed or trade.transactions or now_ms >= ENDS_MS:
            return False
        opened = trade.known and order.attempts[number - 1].channel != "wechatpay"
        return opened or any(now_ms < credential.expires_at_ms for credential in held)

    def somebody_pays(self, attempt: Attempt, now_ms: int, amount: int, currency: str, account: str) -> str:
        """A payer opens what they were shown, and pays; the transaction."""
        trade = self.trades[attempt.number]
        transaction = f"T{len(self.payments) + 1}"
        trade.known = True
        trade.transactions.append(transaction)
        self.payments[transaction] = Paid(attempt.number, attempt.channel, account, amount, currency, now_ms)
        return transaction

    # --- what it is asked

    def answer(self, order: Order, effect: Effect, now_ms: int, *, refuses: bool, word: RefundWord) -> Event:
        """Do what is asked and say what came of it. `at_ms` is when: whoever hears it later changes that."""
        match effect:
            case SubmitRefund(refund_id):
                refund = order.refund(refund_id)
                assert refund is not None, "an intent is in the order before it leaves"
                return self._give_back(refund, now_ms, word, refuses=refuses)
            case QueryRefund(refund_id):
                refund = order.refund(refund_id)
                assert refund is not None
                return self.refund_told(refund, now_ms)
            case Submit(number):
                return self._submit(order.attempts[number - 1], now_ms, refuses=refuses)
            case Query(number, contested):
                return self._queried(order.attempts[number - 1], now_ms, contested=contested)
            case Close(number):
                return self._closed(order.attempts[number - 1], now_ms)

    def _submit(self, attempt: Attempt, now_ms: int, *, refuses: bool) -> Event:
        trade = self.trades.get(attempt.number)
        if trade is not None and trade.transactions:
            return ReportedAlreadyPaid(now_ms, attempt.number)
        if trade is not None and trade.closed:
            return ReportedClosed(now_ms, attempt.number)
        if refuses or (trade is not None and attempt.channel != "wechatpay"):
            return SubmitRefused(now_ms, attempt.number, "NO_AUTH", "no")
        self.trades.setdefault(attempt.number, Trade(known=attempt.channel == "wechatpay"))
        return SubmitAccepted(now_ms, attempt.number, qr(min(now_ms + CODE_LIFE_MS, ENDS_MS)))

    def _queried(self, attempt: Attempt, now_ms: int, *, contested: bool) -> Event:
        trade = self.trades.get(attempt.number)
        if trade is None or not trade.known:
            return ReportedNotFound(now_ms, attempt.number)
        if trade.transactions:
            return self.paid_told(trade.transactions[-1], now_ms, Source.QUERY)
        trade.closed = trade.closed or (now_ms >= ENDS_MS and attempt.channel != "wechatpay")
        if trade.closed:
            return ReportedClosed(now_ms, attempt.number)
        return ReportedNotPaid(now_ms, attempt.number, contested)

    def _closed(self, attempt: Attempt, now_ms: int) -> Event:
        trade = self.trades.get(attempt.number)
        if attempt.channel == "unionpay":
            return ReportedNotClosable(now_ms, attempt.number)
        if trade is None or not trade.known:
            return ReportedNotFound(now_ms, attempt.number)
        if trade.transactions:
            return ReportedAlreadyPaid(now_ms, attempt.number)
        trade.closed = True
        return ReportedClosed(now_ms, attempt.number)

    def _give_back(self, refund: Refund, now_ms: int, word: RefundWord, *, refuses: bool) -> Event:
        """Under a number that it knows it does nothing. It has no ceiling of its own: ours is to be seen."""
        if refund.refund_id not in self.refunds:
            if refuses:
                return RefundRefused(now_ms, refund.refund_id, "NOT_ENOUGH", "no balance")
            self.refunds[refund.refund_id] = Back(refund.transaction, refund.amount, word)
        return self.refund_told(refund, now_ms)

    # --- what it tells

    def paid_told(self, transaction: str, now_ms: int, source: Source) -> PaymentReported:
        """A payment, by notification or answer."""
        paid = self.payments[transaction]
        facts = {name: getattr(paid, name) for name in ("number", "channel", "account", "amount", "currency")}
        return paid_event(now_ms, **facts, transaction=transaction, source=source, success_at_ms=paid.at_ms)

    def refund_told(self, refund: Refund, now_ms: int) -> Event:
        """A refund, by notification or answer."""
        back = self.refunds.get(refund.refund_id)
        if back is None:
            return RefundNotFound(now_ms, refund.refund_id)
        where = (refund.channel, refund.account)
        return RefundReported(now_ms, refund.refund_id, Source.QUERY, *where, back.word, back.amount)

    def moved(self, payment: Payment) -> int:
        """How much of a payment really went back."""
        backs = (back for back in self.refunds.values() if back.transaction == payment.transaction)
        return sum(back.amount for back in backs if back.word is RefundWord.SUCCEEDED)


def silence(effect: Effect, now_ms: int) -> Event:
    """What whoever asked hears when nothing comes."""
    match effect:
        case SubmitRefund(refund_id) | QueryRefund(refund_id):
            return RefundOutcomeUnknown(now_ms, refund_id, "silence")
        case Submit(number):
            return OutcomeUnknown(now_ms, number, Verb.SUBMIT, "silence")
        case Query(number):
            return OutcomeUnknown(now_ms, number, Verb.QUERY, "silence")
        case Close(number):
            return OutcomeUnknown(now_ms, number, Verb.CLOSE, "silence")
