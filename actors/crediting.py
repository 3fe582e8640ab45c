"""What a payment that a channel reports becomes: the credit, money too much, or money held for people. Pure.

It is compared by its channel transaction first, then by amount, currency and account, and only then by the order's
state: what is recorded stays recorded, and an order is credited once. What must not be kept is given back by a refund
that is written down together with it.
"""

import msgspec

from actors import deadlines, refunding
from actors.deadlines import Schedule
from actors.effects import Close, Effect, SubmitRefund
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
    RefundCause,
    Settlement,
    replaced,
)

PAID, CLOSED, EXCEPTION = OrderState.PAID, OrderState.CLOSED, OrderState.EXCEPTION

UNCLEAR = (Reason.UNKNOWN_OUTCOME, Reason.UNCLOSED_ATTEMPT)  # cases that the channel's word ends

replace = msgspec.structs.replace


def payment_reported(order: Order, event: PaymentReported, schedule: Schedule) -> Decision:
    """The rule for every state that a payment can be reported in."""
    if order.knows(event.channel, event.account, event.transaction):
        return Decision(order)
    difference = _difference(order, event)
    if difference is not None:
        return _hold(order, event, difference, Announcement.ORDER_EXCEPTION, schedule)
    if order.state is PAID:
        return _give_back(order, event, RefundCause.EXCESS, schedule)
    policy = _late_policy(order)
    if policy is LatePolicy.REFUND:
        return _give_back(order, event, RefundCause.LATE, schedule)
    if policy is LatePolicy.HOLD:
        return _hold(order, event, Reason.LATE_PAYMENT, Announcement.ORDER_LATE_PAYMENT, schedule)
    return _credit(order, event, schedule)


def _late_policy(order: Order) -> LatePolicy:
    """What the app wants of money for an order that it was told is closed, wherever the order went since."""
    return LatePolicy.ACCEPT if order.closed_at_ms is None else order.content.late_payment


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
    after, effects = credited(order, event.number, _payment(event, PaymentKind.CREDIT), event.at_ms, schedule)
    settles = Settlement(UNCLEAR, "paid") if order.state is EXCEPTION else None
    return Decision(after, effects=effects, announce=Announcement.ORDER_PAID, settles=settles)


def credited(
    order: Order, number: int, payment: Payment, at_ms: int, schedule: Schedule
) -> tuple[Order, tuple[Effect, ...]]:
    """The order paid by this payment, and what is to be done about an attempt that is open still.

    A payment that is among the order's already (it was held) becomes the credit.
    """
    attempts = _settled(order, number)
    other = next((attempt for attempt in attempts if attempt.live), None)
    if other is not None:  # an older attempt was paid while a newer one is open: nobody shall pay that one as well
        attempts = replaced(attempts, replace(other, state=AttemptState.CLOSING))
    watched = any(attempt.state is AttemptState.CLOSED for attempt in attempts)
    check_ms = deadlines.paid_watch_check(schedule, 0, at_ms) if watched else None
    if other is not None:
        check_ms = deadlines.closing_check(schedule, 0, at_ms, order, other)
    after = order.advanced(
        state=PAID,
        attempts=attempts,
        payments=_with_payment(order, payment),
        paid_amount=payment.amount,
        late=order.closed_at_ms is not None or payment.success_at_ms > order.expires_at_ms,
        reason=None,
        paid_at_ms=payment.success_at_ms,
        step=0,
        next_check_at_ms=check_ms,
    )
    return after, (Close(other.number),) if other else ()


def _with_payment(order: Order, payment: Payment) -> tuple[Payment, ...]:
    if not order.knows(payment.channel, payment.account, payment.transaction):
        return (*order.payments, payment)
    # A transaction's number is its channel's own: another channel may have used the same.
    held = replace(payment, kind=PaymentKind.HELD)
    return tuple(payment if known == held else known for known in order.payments)


def _give_back(order: Order, event: PaymentReported, cause: RefundCause, schedule: Schedule) -> Decision:
    """Money beyond the credit, or too late for an order whose app wants none: its refund is in the same commit."""
    payment = _payment(event, PaymentKind.EXCESS)
    after = order.advanced(attempts=_settled(order, event.number), payments=(*order.payments, payment))
    if order.state is EXCEPTION and order.reason is Reason.UNKNOWN_OUTCOME:  # now it is known: it was closed
        after = replace(after, state=CLOSED, reason=None)
    live = any(attempt.live for attempt in after.attempts)
    if not live and not any(attempt.state is AttemptState.CLOSED for attempt in after.attempts):
        after = replace(after, next_check_at_ms=None)
    announce = Announcement.PAYMENT_DUPLICATE if cause is RefundCause.EXCESS else Announcement.ORDER_LATE_PAYMENT
    refund = refunding.give_back(order, payment, cause, event.at_ms, schedule)
    return Decision(
        refunding.with_refund(after, refund),
        effects=(SubmitRefund(refund.refund_id),),
        announce=announce,
        about=refund.refund_id,
        settles=None if live else Settlement(UNCLEAR, "refunded"),
    )


def _hold(order: Order, event: PaymentReported, reason: Reason, announce: Announcement, schedule: Schedule) -> Decision:
    """Money arrived that must not be credited: keep it in sight, for people. A paid order stays paid."""
    payments = (*order.payments, _payment(event, PaymentKind.HELD))
    mine = reason not in (Reason.ACCOUNT_MISMATCH, Reason.UNKNOWN_ATTEMPT)
    attempts = _settled(order, event.number) if mine else order.attempts
    after = order.advanced(payments=payments, attempts=attempts)
    if order.state is not PAID:
        check_ms = deadlines.exception_check(schedule, 0, event.at_ms)
        after = replace(after, state=EXCEPTION, reason=reason, step=0, next_check_at_ms=check_ms)
    known = mine and order.state is EXCEPTION and order.reason is Reason.UNKNOWN_OUTCOME
    return Decision(after, announce=announce, case=reason, settles=Settlement(UNCLEAR, "held") if known else None)


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
