"""What people decide about a case, as a move of the order. Pure.

Everything they decide is written down as an event with who and why; what it sets going runs by the same rules as
everything else, so that a decision can be made anywhere and is carried out by whoever serves the order.
"""

from collections.abc import Callable

import msgspec

from actors import refunding
from actors.crediting import credited
from actors.deadlines import Schedule
from actors.effects import Close, Effect, Query, SubmitRefund
from actors.ending import closed, closing
from actors.events import CaseAction, CaseResolved
from actors.order import (
    Announcement,
    AttemptState,
    Decision,
    Order,
    OrderState,
    Payment,
    PaymentKind,
    Reason,
    RefundCause,
    Reply,
    Settlement,
    replaced,
)

ACCEPTABLE = (Reason.LATE_PAYMENT, Reason.AMOUNT_MISMATCH)  # the money is ours, and of the right kind

ABOUT_MONEY = (  # cases that a payment opened which was kept beside the credit
    *ACCEPTABLE,
    Reason.CURRENCY_MISMATCH,
    Reason.ACCOUNT_MISMATCH,
    Reason.UNKNOWN_ATTEMPT,
    Reason.EXCESS_PAYMENT,
)

replace = msgspec.structs.replace


def case_resolved(order: Order, event: CaseResolved, schedule: Schedule) -> Decision:
    """Carry out what people decided; a refusal if this case does not allow it."""
    if event.seen is not None and event.seen != order.version:
        return Decision(order, Reply.CASE_STALE)
    decision = _ACTIONS[event.action](order, event, schedule)
    if decision is None:
        return Decision(order, Reply.CASE_ACTION_IMPOSSIBLE)
    if decision.order.state is order.state and any(isinstance(effect, Query) for effect in decision.effects):
        return decision  # the channel is asked, and that is all: the case stays open until somebody knows
    settlement = Settlement((Reason(event.reason),), event.action, event.by, event.note, event.version)
    return replace(decision, settles=settlement)


def possible(order: Order, reason: Reason, transaction: str | None = None) -> tuple[CaseAction, ...]:
    """What people can do about a case of this order, to be shown to them."""
    schedule = Schedule()
    event = CaseResolved(0, 0, reason, CaseAction.CLOSE, "", "", transaction=transaction)
    return tuple(action for action, rule in _ACTIONS.items() if rule(order, event, schedule) is not None)


def _retry(order: Order, event: CaseResolved, schedule: Schedule) -> Decision | None:
    """Ask and send again, from the first rung."""
    troubled = refunding.troubled(order)
    if event.reason.startswith("refund_"):
        if not troubled:
            return None
        after, effects = refunding.send_again(order, troubled, event.at_ms, schedule)
        return Decision(after, effects=effects)
    live = order.live_attempt
    if live is not None and order.reason is Reason.UNKNOWN_OUTCOME:
        return Decision(closing(order, live, event.at_ms, schedule), effects=(Query(live.number),))
    asked = tuple(Query(a.number) for a in order.attempts if a.live or a.state is AttemptState.CLOSED)
    if not asked:
        return None
    return Decision(order.advanced(step=0, next_check_at_ms=event.at_ms), effects=asked)


def _accept(order: Order, event: CaseResolved, schedule: Schedule) -> Decision | None:
    """Take held money as the order's payment, although it is late or of another amount."""
    held = [payment for payment in _meant(order, event) if payment.kind is PaymentKind.HELD]
    if order.state is not OrderState.EXCEPTION or event.reason not in ACCEPTABLE or len(held) != 1:
        return None
    payment = replace(held[0], kind=PaymentKind.CREDIT)
    after, effects = credited(order, payment.number, payment, event.at_ms, schedule)
    return Decision(after, effects=effects, announce=Announcement.ORDER_PAID)


def _refund(order: Order, event: CaseResolved, schedule: Schedule) -> Decision | None:
    """Give back what was kept; an order that was waiting for this decision alone ends with it."""
    if event.reason not in ABOUT_MONEY:
        return None
    after, effects = order, list[Effect]()
    for payment in _meant(order, event):
        refund = refunding.give_back(after, payment, RefundCause.PEOPLE, event.at_ms, schedule)
        after = refunding.with_refund(after, refund)
        effects.append(SubmitRefund(refund.refund_id))
    if not effects:
        return None
    if order.state is not OrderState.EXCEPTION or _kept(after):
        return Decision(after.advanced(), effects=tuple(effects))
    return _ended(after, event.at_ms, schedule, effects)


def _close(order: Order, event: CaseResolved, schedule: Schedule) -> Decision | None:
    """People say that nothing is to be done here. What they are sure of ends; it is watched all the same."""
    if order.state is not OrderState.EXCEPTION or order.reason != event.reason:
        return Decision(order.advanced())  # the order is where another case, or nobody, has it
    live = order.live_attempt
    if live is None:
        return _ended(order, event.at_ms, schedule, [])
    sure = replace(live, state=AttemptState.CLOSED, credential=None)
    after = closed(replace(order, attempts=replaced(order.attempts, sure)), event.at_ms, schedule)
    return Decision(after, effects=(Close(live.number),), announce=Announcement.ORDER_CLOSED)


def _ended(order: Order, at_ms: int, schedule: Schedule, effects: list[Effect]) -> Decision:
    """Out of exception: closed, or closing while somebody may still pay."""
    live = order.live_attempt
    if live is not None:
        return Decision(closing(order, live, at_ms, schedule), effects=(*effects, Close(live.number)))
    after = closed(order, at_ms, schedule)
    return Decision(after, effects=tuple(effects), announce=Announcement.ORDER_CLOSED)


def _meant(order: Order, event: CaseResolved) -> tuple[Payment, ...]:
    """Of what was kept, the payment that the case is about; all of it if the case names none."""
    return tuple(payment for payment in _kept(order) if event.transaction in (None, payment.transaction))


def _kept(order: Order) -> tuple[Payment, ...]:
    """Payments beside the credit, on our account, that nobody began to give back. What went to another account is not
    ours to move."""
    return tuple(
        payment
        for payment in order.payments
        if payment.kind is not PaymentKind.CREDIT and _ours(order, payment) and not _refunded_before(order, payment)
    )


def _refunded_before(order: Order, payment: Payment) -> bool:
    """Such a refund is sent again (retry), as its channel needs it."""
    return any(refund.gives_back(payment) for refund in order.refunds)


def _ours(order: Order, payment: Payment) -> bool:
    attempt = order.attempt(payment.number)
    return attempt is not None and (attempt.channel, attempt.account) == (payment.channel, payment.account)


_ACTIONS: dict[CaseAction, Callable[[Order, CaseResolved, Schedule], Decision | None]] = {
    CaseAction.RETRY: _retry,
    CaseAction.ACCEPT: _accept,
    CaseAction.REFUND: _refund,
    CaseAction.CLOSE: _close,
}
