"""An order as a value: what it holds, and the shapes a decision about it takes.

The rules that move it stand in `actors/lifecycle.py`. What lives in memory by the hundred thousand is kept from the
garbage collector (`gc=False`): these values hold no cycles.
"""

from enum import StrEnum
from typing import Any

import msgspec

from actors.effects import Effect
from actors.events import Credential, PayRequested

ATTEMPTS_MAX = 99  # an attempt's number has two digits in its out_trade_no


class OrderState(StrEnum):
    """Where an order is. `closing` is shown to apps as `paying`: money may still arrive."""

    CREATED = "created"
    PAYING = "paying"
    CLOSING = "closing"
    PAID = "paid"
    CLOSED = "closed"
    EXCEPTION = "exception"


class AttemptState(StrEnum):
    """Where one try to pay is. Found `submitting` after a crash, it is asked after before it is sent again."""

    SUBMITTING = "submitting"
    PENDING = "pending"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CLOSING = "closing"
    CLOSED = "closed"


LIVE = frozenset({AttemptState.SUBMITTING, AttemptState.PENDING, AttemptState.UNKNOWN, AttemptState.CLOSING})


class PaymentKind(StrEnum):
    """What a successful channel transaction became here: the credit, money too much, or money held for people."""

    CREDIT = "credit"
    EXCESS = "excess"
    HELD = "held"


class RefundCause(StrEnum):
    """Who wants money given back: the app, the rules (money too much, money too late), or people who settled a case."""

    APP = "app"
    EXCESS = "excess"
    LATE = "late"
    PEOPLE = "people"


class RefundState(StrEnum):
    """Where a refund is. ABNORMAL: it stands still at its channel until a person helps there. Unknown is never a no."""

    SUBMITTING = "submitting"
    UNKNOWN = "unknown"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABNORMAL = "abnormal"
    REVERSED = "reversed"


OPEN = frozenset({RefundState.SUBMITTING, RefundState.UNKNOWN, RefundState.PROCESSING, RefundState.ABNORMAL})
GIVEN_UP = frozenset({RefundState.FAILED, RefundState.REVERSED})


class LatePolicy(StrEnum):
    """What an app wants of a payment that succeeds after its order was closed."""

    ACCEPT = "accept"
    REFUND = "refund"
    HOLD = "hold"


class Reason(StrEnum):
    """Why people must look at an order: the reasons of exceptions and of cases."""

    AMOUNT_MISMATCH = "amount_mismatch"
    CURRENCY_MISMATCH = "currency_mismatch"
    ACCOUNT_MISMATCH = "account_mismatch"
    UNKNOWN_ATTEMPT = "unknown_attempt"
    UNKNOWN_OUTCOME = "unknown_outcome"
    LATE_PAYMENT = "late_payment"
    EXCESS_PAYMENT = "excess_payment"  # of a time when it was not given back by itself
    UNCLOSED_ATTEMPT = "unclosed_attempt"
    REFUND_FAILED = "refund_failed"
    REFUND_ABNORMAL = "refund_abnormal"
    REFUND_UNKNOWN = "refund_unknown"
    REFUND_REVERSED = "refund_reversed"
    REFUND_BEYOND_PAID = "refund_beyond_paid"  # money went back twice: no later refund settles that
    ORPHAN_NOTIFICATION = "orphan_notification"  # opened while nobody knew the order, which may turn up after all


class Content(msgspec.Struct, frozen=True, gc=False):
    """What the app ordered. Never changes; shared by all versions of the order. `amount` is in minor units."""

    app_id: str
    out_order_no: str
    amount: int
    currency: str
    subject: str
    buyer: str | None = None
    items_json: str | None = None
    metadata_json: str | None = None
    webhook_url: str | None = None
    return_url: str | None = None
    late_payment: LatePolicy = LatePolicy.ACCEPT


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One try to pay the order through one channel. `submits` counts how often it was sent under its one number.

    `started_at_ms` is when it was first made durable and never changes: with the number, it names the attempt at its
    channel. `submitted_at_ms` is when it was last sent.
    """

    number: int
    channel: str
    account: str
    method: str
    state: AttemptState
    started_at_ms: int
    submitted_at_ms: int
    submits: int = 1
    params_json: str | None = None
    credential: Credential | None = None
    failure_code: str | None = None
    failure_message: str | None = None

    @property
    def live(self) -> bool:
        """Whether somebody may still pay it."""
        return self.state in LIVE

    def fulfils(self, wish: PayRequested) -> bool:
        """Whether it is the payment that was asked for."""
        asked = (wish.channel, wish.account, wish.method, wish.params_json)
        return asked == (self.channel, self.account, self.method, self.params_json)


class Payment(msgspec.Struct, frozen=True, gc=False):
    """One successful channel transaction, and what it became here."""

    number: int
    channel: str
    account: str
    transaction: str
    kind: PaymentKind
    amount: int
    currency: str
    success_at_ms: int
    learned_at_ms: int
    learned_by: str


class Refund(msgspec.Struct, frozen=True, gc=False):
    """Money of one payment on its way back.

    `refund_id` is also its number at the channel: never used for anything else, and kept whatever happens.
    `out_refund_no` is the app's own number if the app asked for it. `started_at_ms` never changes; `submitted_at_ms` is
    the last sending.
    """

    refund_id: str
    cause: RefundCause
    number: int
    channel: str
    account: str
    transaction: str
    amount: int
    state: RefundState
    started_at_ms: int
    submitted_at_ms: int
    submits: int = 1
    step: int = 0
    next_check_at_ms: int | None = None
    out_refund_no: str | None = None
    reason: str = ""
    channel_refund: str | None = None
    failure_code: str | None = None
    failure_message: str | None = None
    succeeded_at_ms: int | None = None

    @property
    def open(self) -> bool:
        """Whether its channel is still to be asked."""
        return self.state in OPEN

    def gives_back(self, payment: Payment) -> bool:
        """Whether it is about this payment."""
        mine = (self.channel, self.account, self.transaction)
        return mine == (payment.channel, payment.account, payment.transaction)


class Order(msgspec.Struct, frozen=True, gc=False):
    """An order at one version. Every change makes a new value with `version + 1`."""

    order_id: str
    content: Content
    state: OrderState
    version: int
    created_at_ms: int
    expires_at_ms: int
    next_check_at_ms: int | None
    step: int = 0
    attempts: tuple[Attempt, ...] = ()
    payments: tuple[Payment, ...] = ()
    refunds: tuple[Refund, ...] = ()
    paid_amount: int = 0
    refunded_amount: int = 0
    late: bool = False
    reason: Reason | None = None
    paid_at_ms: int | None = None
    closed_at_ms: int | None = None

    @property
    def live_attempt(self) -> Attempt | None:
        """The one attempt that may still be paid, if any."""
        for attempt in reversed(self.attempts):
            if attempt.live:
                return attempt
        return None

    @property
    def credit(self) -> Payment | None:
        """The payment that paid the order."""
        return next((payment for payment in self.payments if payment.kind is PaymentKind.CREDIT), None)

    @property
    def wakes_at_ms(self) -> int | None:
        """When the order or one of its refunds is to be looked at next."""
        if not self.refunds:
            return self.next_check_at_ms
        moments_ms = [refund.next_check_at_ms for refund in self.refunds if refund.next_check_at_ms is not None]
        if self.next_check_at_ms is not None:
            moments_ms.append(self.next_check_at_ms)
        return min(moments_ms, default=None)

    def attempt(self, number: int) -> Attempt | None:
        """The attempt of that number."""
        return self.attempts[number - 1] if 1 <= number <= len(self.attempts) else None

    def refund(self, refund_id: str) -> Refund | None:
        """The refund of that id."""
        return next((refund for refund in self.refunds if refund.refund_id == refund_id), None)

    def refunding(self, payment: Payment) -> int:
        """How much of a payment was given back or is on its way."""
        backs = (refund for refund in self.refunds if refund.gives_back(payment) and refund.state not in GIVEN_UP)
        return sum(refund.amount for refund in backs)

    def advanced(self, attempt: Attempt | None = None, **changes: Any) -> "Order":
        """The order one version on, with one attempt replaced."""
        if attempt is not None:
            changes["attempts"] = replaced(self.attempts, attempt)
        return msgspec.structs.replace(self, version=self.version + 1, **changes)

    def knows(self, channel: str, account: str, transaction: str) -> bool:
        """Whether this channel transaction was recorded before. To be asked before anything else about a payment."""
        return any(
            payment.transaction == transaction and payment.channel == channel and payment.account == account
            for payment in self.payments
        )


def replaced(attempts: tuple[Attempt, ...], attempt: Attempt) -> tuple[Attempt, ...]:
    """The attempts with this one in the place of its number."""
    return (*attempts[: attempt.number - 1], attempt, *attempts[attempt.number :])


def attempt_id(order_id: str, number: int) -> str:
    """What goes to the channel as out_trade_no: the order's id and two digits."""
    return f"{order_id}{number:02d}"


class Reply(StrEnum):
    """What whoever told the event hears, once it is durable. Everything but DONE and WAIT is a refusal."""

    DONE = "done"
    WAIT = "wait"
    ORDER_PAID = "order_paid"
    ORDER_CLOSED = "order_closed"
    ORDER_CLOSING = "order_closing"
    ORDER_EXPIRED = "order_expired"
    ORDER_IN_EXCEPTION = "order_in_exception"
    PAYMENT_IN_PROGRESS = "payment_in_progress"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    ORDER_NOT_PAID = "order_not_paid"
    REFUND_CONFLICT = "refund_conflict"
    REFUND_EXCEEDS_PAID = "refund_exceeds_paid"
    REFUNDS_EXHAUSTED = "refunds_exhausted"
    CASE_ACTION_IMPOSSIBLE = "case_action_impossible"
    CASE_STALE = "case_stale"


class Announcement(StrEnum):
    """What the app is told by webhook; written in the same transaction as the change."""

    ORDER_PAID = "order.paid"
    ORDER_CLOSED = "order.closed"
    ORDER_EXCEPTION = "order.exception"
    ORDER_LATE_PAYMENT = "order.late_payment"
    PAYMENT_FAILED = "payment.failed"
    PAYMENT_DUPLICATE = "payment.duplicate"
    REFUND_SUCCEEDED = "refund.succeeded"
    REFUND_FAILED = "refund.failed"
    REFUND_REVERSED = "refund.reversed"


class Settlement(msgspec.Struct, frozen=True):
    """How open cases of an order end: `version` names the one that people settled; None is all of these reasons.

    `by` and `note` say who did it and why; the rules themselves are `holdfast`.
    """

    reasons: tuple[Reason, ...]
    resolution: str
    by: str = "holdfast"
    note: str = ""
    version: int | None = None


class Decision(msgspec.Struct, frozen=True):
    """What an event does to an order. The same `order` object means that nothing is to be written.

    `about` is the refund that an announcement speaks of.
    """

    order: Order
    reply: Reply = Reply.DONE
    effects: tuple[Effect, ...] = ()
    announce: Announcement | None = None
    case: Reason | None = None
    about: str | None = None
    settles: Settlement | None = None


def new_order(order_id: str, content: Content, at_ms: int, expires_at_ms: int) -> Order:
    """A fresh order, version 1, to be looked at when it expires."""
    return Order(
        order_id=order_id,
        content=content,
        state=OrderState.CREATED,
        version=1,
        created_at_ms=at_ms,
        expires_at_ms=expires_at_ms,
        next_check_at_ms=expires_at_ms,
    )
