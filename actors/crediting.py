"""What a payment that a channel reports becomes: the credit, money too much, or money held for people. Pure.

It is compared by its channel transaction first, then by amount, currency and account, and only then by the order's
state: what is recorded stays recorded, and an order is credited once.
"""

import msgspec

from actors import deadlines
from actors.deadlines import Schedule
from actors.effects import Close
from actors.events import PaymentReported
from actors.order import (
    Announcement,
    Attempt,
    AttemptState,
    Decision,
    LatePolicy,
    Order,
    OrderState,
    Payment,
    PaymentKind,
    Reason,
    replaced,
)

PAID, CLOSED, EXCEPTION = OrderState.PAID, OrderState.CLOSED, OrderState.EXCEPTION

replace = msgspec.structs.replace


def payment_reported(order: Order, event: PaymentReported, schedule: Schedule) -> Decision:
    """The rule for every state that a payment can be reported in."""
    if order.knows(event.channel, event.account, event.transaction):
        return Decision(order)
    difference = _difference(order, event)
    if difference is not None:
        return _hold(order, event, difference, Announcement.ORDER_EXCEPTION, schedule)
    if order.state is PAID:
        return _excess(order, event)
    if order.state is CLOSED and order.content.late_payment is LatePolicy.HOLD:
        return _hold(order, event, Reason.LATE_PAYMENT, Announcement.ORDER_LATE_PAYMENT, schedule)
    return _credit(order, event, schedule)


def _difference(order: Order, event: PaymentReported) -> Reason | None:
    attempt = order.attempt(event.number)
    if attempt is None or attempt.channel != event.channel:
        return Reason.UNKNOWN_ATTEMPT
    if attempt.account != event.account:
        return Reason.ACCOUNT_MISMATCH
    if event.currency != order.content.currency:
        return Reason.CURRENCY_MISMATCH
    return Reason.AMOUNT_MISMATCH if event.amount != order.content.amount else None


def _credit(order: Order, event: PaymentReported, schedule: Schedule) -> Decision:
    attempts = _settled(order, event.number)
    other = next((attempt for attempt in attempts if attempt.live), None)
    if other is not None:  # an older attempt was paid while a newer one is open: nobody shall pay that one as well
        attempts = replaced(attempts, replace(other, state=AttemptState.CLOSING))
    watched = any(attempt.state is AttemptState.CLOSED for attempt in attempts)
    check_ms = deadlines.paid_watch_check(schedule, 0, event.at_ms) if watched else None
    if other is not None:
        check_ms = deadlines.closing_check(schedule, 0, event.at_ms, order, other)
    after = order.advanced(
        state=PAID,
        attempts=attempts,
        payments=(*order.payments, _payment(event, PaymentKind.CREDIT)),
        paid_amount=event.amount,
        late=order.state is CLOSED or event.success_at_ms > order.expires_at_ms,
        reason=None,
        paid_at_ms=event.success_at_ms,
        step=0,
        next_check_at_ms=check_ms,
    )
    return Decision(after, effects=(Close(other.number),) if other else (), announce=Announcement.ORDER_PAID)


def _excess(order: Order, event: PaymentReported) -> Decision:
    after = order.advanced(
        attempts=_settled(order, event.number),
        payments=(*order.payments, _payment(event, PaymentKind.EXCESS)),
    )
    if not any(attempt.live or attempt.state is AttemptState.CLOSED for attempt in after.attempts):
        after = replace(after, next_check_at_ms=None)
    return Decision(after, announce=Announcement.PAYMENT_DUPLICATE, case=Reason.EXCESS_PAYMENT)


def _hold(order: Order, event: PaymentReported, reason: Reason, announce: Announcement, schedule: Schedule) -> Decision:
    """Money arrived that must not be credited: keep it in sight, for people. A paid order stays paid."""
    payments = (*order.payments, _payment(event, PaymentKind.HELD))
    mine = reason not in (Reason.ACCOUNT_MISMATCH, Reason.UNKNOWN_ATTEMPT)
    attempts = _settled(order, event.number) if mine else order.attempts
    after = order.advanced(payments=payments, attempts=attempts)
    if order.state is not PAID:
        check_ms = deadlines.exception_check(schedule, 0, event.at_ms)
        after = replace(after, state=EXCEPTION, reason=reason, step=0, next_check_at_ms=check_ms)
    return Decision(after, announce=announce, case=reason)


def _settled(order: Order, number: int) -> tuple[Attempt, ...]:
    attempt = order.attempt(number)
    if attempt is None:
        return order.attempts
    return replaced(order.attempts, replace(attempt, state=AttemptState.SUCCEEDED, credential=None))


def _payment(event: PaymentReported, kind: PaymentKind) -> Payment:
    return Payment(
        number=event.number,
        channel=event.channel,
        account=event.account,
        transaction=event.transaction,
        kind=kind,
        amount=event.amount,
        currency=event.currency,
        success_at_ms=event.success_at_ms,
        learned_at_ms=event.at_ms,
        learned_by=event.source,
    )
