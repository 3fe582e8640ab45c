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


class LatePolicy(StrEnum):
    """What an app wants of a payment that succeeds after its order was closed."""

    ACCEPT = "accept"
    HOLD = "hold"


class Reason(StrEnum):
    """Why people must look at an order: the reasons of exceptions and of cases."""

    AMOUNT_MISMATCH = "amount_mismatch"
    CURRENCY_MISMATCH = "currency_mismatch"
    ACCOUNT_MISMATCH = "account_mismatch"
    UNKNOWN_ATTEMPT = "unknown_attempt"
    UNKNOWN_OUTCOME = "unknown_outcome"
    LATE_PAYMENT = "late_payment"
    EXCESS_PAYMENT = "excess_payment"
    UNCLOSED_ATTEMPT = "unclosed_attempt"


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

    def attempt(self, number: int) -> Attempt | None:
        """The attempt of that number."""
        return self.attempts[number - 1] if 1 <= number <= len(self.attempts) else None

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


class Announcement(StrEnum):
    """What the app is told by webhook; written in the same transaction as the change."""

    ORDER_PAID = "order.paid"
    ORDER_CLOSED = "order.closed"
    ORDER_EXCEPTION = "order.exception"
    ORDER_LATE_PAYMENT = "order.late_payment"
    PAYMENT_FAILED = "payment.failed"
    PAYMENT_DUPLICATE = "payment.duplicate"


class Decision(msgspec.Struct, frozen=True):
    """What an event does to an order. The same `order` object means that nothing is to be written."""

    order: Order
    reply: Reply = Reply.DONE
    effects: tuple[Effect, ...] = ()
    announce: Announcement | None = None
    case: Reason | None = None


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
