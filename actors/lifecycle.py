"""The order's life: one table, one pure function.

TRANSITIONS names, for every event in every state, the rule that decides and the states it may lead to; `transition`
looks it up and holds the rule to its word. The rules in prose:

* A success is compared by its channel transaction first, then by amount, currency and account, and only then by state.
* Unknown is never no: silence, errors and *not found* leave the attempt alive, and the ladder asks again.
* Closing is an intent; the channel's word ends it: closed, or *not found* long after a submission nobody answered.
* Whatever is paid stays paid: later events are recorded and never take it back.
* A refusal ends an attempt only if nobody can hold a credential of it: an earlier submission may have been answered.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from actors import deadlines
from actors.deadlines import Schedule
from actors.effects import Close, Query, Submit
from actors.events import (
    CloseRequested,
    Due,
    Event,
    OutcomeUnknown,
    PaymentReported,
    PayRequested,
    ReportedAlreadyPaid,
    ReportedClosed,
    ReportedNotFound,
    ReportedNotPaid,
    SubmitAccepted,
    SubmitRefused,
    SyncRequested,
    Verb,
)
from actors.order import (
    ATTEMPTS_MAX,
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
    Reply,
)

CREATED, PAYING, CLOSING = OrderState.CREATED, OrderState.PAYING, OrderState.CLOSING
PAID, CLOSED, EXCEPTION = OrderState.PAID, OrderState.CLOSED, OrderState.EXCEPTION

replace = msgspec.structs.replace

RuleFunction: TypeAlias = Callable[[Order, Any, Schedule], Decision]


class Rule(msgspec.Struct, frozen=True):
    """Who decides, and where it may lead; staying is always allowed."""

    decide: RuleFunction
    to: frozenset[OrderState]


def transition(order: Order, event: Event, schedule: Schedule) -> Decision:
    """What `event` does to `order`. Pure; raises only if a rule breaks its own word in TRANSITIONS."""
    rule = TRANSITIONS[type(event)][order.state]
    decision = rule.decide(order, event, schedule)
    if decision.order.state is not order.state and decision.order.state not in rule.to:
        msg = f"{type(event).__name__} in {order.state} led to {decision.order.state}"
        raise AssertionError(msg)
    return decision


# --- pay ------------------------------------------------------------------------------------------------------------


def _start_payment(order: Order, event: PayRequested, schedule: Schedule) -> Decision:
    if event.at_ms >= order.expires_at_ms:
        return replace(_expire(order, event.at_ms, schedule), reply=Reply.ORDER_EXPIRED)
    if len(order.attempts) >= ATTEMPTS_MAX:
        return Decision(order, Reply.ATTEMPTS_EXHAUSTED)
    attempt = Attempt(
        number=len(order.attempts) + 1,
        channel=event.channel,
        account=event.account,
        method=event.method,
        state=AttemptState.SUBMITTING,
        submitted_at_ms=event.at_ms,
        params_json=event.params_json,
    )
    after = replace(
        order,
        state=PAYING,
        version=order.version + 1,
        attempts=(*order.attempts, attempt),
        step=0,
        next_check_at_ms=min(event.at_ms + schedule.timeout_ms, order.expires_at_ms),
    )
    return Decision(after, Reply.WAIT, (Submit(attempt.number),))


def _pay_again(order: Order, event: PayRequested, schedule: Schedule) -> Decision:
    live = order.live_attempt
    if live is None:
        return _start_payment(order, event, schedule)
    if event.at_ms >= order.expires_at_ms:
        return replace(_begin_closing(order, live, event.at_ms, schedule), reply=Reply.ORDER_EXPIRED)
    asked = (event.channel, event.account, event.method, event.params_json)
    if asked != (live.channel, live.account, live.method, live.params_json):
        return Decision(order, Reply.PAYMENT_IN_PROGRESS)
    if live.number in event.in_flight:
        return Decision(order, Reply.WAIT)
    if live.state is not AttemptState.PENDING:
        return Decision(order, Reply.WAIT, (Query(live.number),))
    if live.credential is not None and live.credential.expires_at_ms > event.at_ms:
        return Decision(order)
    return _submit_again(order, live, event.at_ms, schedule)


def _submit_again(order: Order, attempt: Attempt, at_ms: int, schedule: Schedule) -> Decision:
    """The same number once more: after the channel said that it does not know it, or for a fresh credential."""
    again = replace(attempt, state=AttemptState.SUBMITTING, submitted_at_ms=at_ms, submits=attempt.submits + 1)
    check_ms = min(at_ms + schedule.timeout_ms, order.expires_at_ms)
    return Decision(_with(order, again, next_check_at_ms=check_ms), Reply.WAIT, (Submit(attempt.number),))


def _accepted(order: Order, event: SubmitAccepted, _: Schedule) -> Decision:
    attempt = order.attempt(event.number)
    if attempt is None or attempt.state not in (AttemptState.SUBMITTING, AttemptState.UNKNOWN, AttemptState.PENDING):
        return Decision(order)  # it came after the payment or after a close began: no way back
    pending = replace(attempt, state=AttemptState.PENDING, credential=event.credential)
    return Decision(_with(order, pending))


def _refused(order: Order, event: SubmitRefused, _: Schedule) -> Decision:
    attempt = order.attempt(event.number)
    if attempt is None or attempt.state is not AttemptState.SUBMITTING:
        return Decision(order)
    if attempt.credential is not None:  # an earlier submission was answered: somebody may hold its credential
        return Decision(_with(order, replace(attempt, state=AttemptState.UNKNOWN)))
    failed = replace(attempt, state=AttemptState.FAILED, failure_code=event.code, failure_message=event.message[:200])
    after = _with(order, failed, step=0, next_check_at_ms=order.expires_at_ms)
    return Decision(after, announce=Announcement.PAYMENT_FAILED)


def _unknown(order: Order, event: OutcomeUnknown, schedule: Schedule) -> Decision:
    attempt = order.attempt(event.number)
    if event.verb is not Verb.SUBMIT or attempt is None or attempt.state is not AttemptState.SUBMITTING:
        return Decision(order)  # the ladder's next rung asks again
    check_ms = min(event.at_ms + schedule.queries_ms[0], order.next_check_at_ms or order.expires_at_ms)
    return Decision(_with(order, replace(attempt, state=AttemptState.UNKNOWN), next_check_at_ms=check_ms))


# --- what the channel says ------------------------------------------------------------------------------------------


def _payment_reported(order: Order, event: PaymentReported, schedule: Schedule) -> Decision:
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
        attempts = _replaced(attempts, replace(other, state=AttemptState.CLOSING))
    after = replace(
        order,
        state=PAID,
        version=order.version + 1,
        attempts=attempts,
        payments=(*order.payments, _payment(event, PaymentKind.CREDIT)),
        paid_amount=event.amount,
        late=order.state is CLOSED or event.success_at_ms > order.expires_at_ms,
        reason=None,
        paid_at_ms=event.success_at_ms,
        step=0,
        next_check_at_ms=deadlines.closing_check(schedule, 0, event.at_ms) if other else None,
    )
    return Decision(after, effects=(Close(other.number),) if other else (), announce=Announcement.ORDER_PAID)


def _excess(order: Order, event: PaymentReported) -> Decision:
    after = replace(
        order,
        version=order.version + 1,
        attempts=_settled(order, event.number),
        payments=(*order.payments, _payment(event, PaymentKind.EXCESS)),
    )
    if after.live_attempt is None:
        after = replace(after, next_check_at_ms=None)
    return Decision(after, announce=Announcement.PAYMENT_DUPLICATE, case=Reason.EXCESS_PAYMENT)


def _hold(order: Order, event: PaymentReported, reason: Reason, announce: Announcement, schedule: Schedule) -> Decision:
    """Money arrived that must not be credited: keep it in sight, for people. A paid order stays paid."""
    payments = (*order.payments, _payment(event, PaymentKind.HELD))
    mine = reason not in (Reason.ACCOUNT_MISMATCH, Reason.UNKNOWN_ATTEMPT)
    attempts = _settled(order, event.number) if mine else order.attempts
    after = replace(order, version=order.version + 1, payments=payments, attempts=attempts)
    if order.state is not PAID:
        check_ms = deadlines.exception_check(schedule, 0, event.at_ms)
        after = replace(after, state=EXCEPTION, reason=reason, step=0, next_check_at_ms=check_ms)
    return Decision(after, announce=announce, case=reason)


def _not_paid(order: Order, event: ReportedNotPaid, schedule: Schedule) -> Decision:
    attempt = order.attempt(event.number)
    if attempt is None or not attempt.live:
        return Decision(order)
    if order.state is EXCEPTION and order.reason is Reason.UNKNOWN_OUTCOME:  # it speaks again: end it properly
        return _begin_closing(order, attempt, event.at_ms, schedule)
    if attempt.state is AttemptState.CLOSING:
        return Decision(order, Reply.WAIT, (Close(attempt.number),))
    if attempt.state is AttemptState.PENDING:
        return Decision(order)
    return Decision(_with(order, replace(attempt, state=AttemptState.PENDING)))


def _not_paid_after_closed(order: Order, event: ReportedNotPaid, _: Schedule) -> Decision:
    """The channel contradicts its own word: it can be paid after all. Close it again."""
    attempt = order.attempt(event.number)
    known = attempt is not None and attempt.state is AttemptState.CLOSED
    return Decision(order, effects=(Close(event.number),) if known else ())


def _not_found(order: Order, event: ReportedNotFound, schedule: Schedule) -> Decision:
    attempt = order.attempt(event.number)
    if attempt is None or not attempt.live or attempt.state is AttemptState.PENDING:
        return Decision(order)
    if order.state is PAYING and event.at_ms < order.expires_at_ms:
        return _submit_again(order, attempt, event.at_ms, schedule)
    # If nobody ever got a credential to pay it with, and no request of ours can still be on its way, it never was.
    never = attempt.credential is None and event.at_ms >= attempt.submitted_at_ms + schedule.not_found_final_ms
    if order.state is not PAYING and never:
        return _attempt_ended(order, attempt, event.at_ms, schedule)
    return Decision(order)


def _closed_at_channel(order: Order, event: ReportedClosed, schedule: Schedule) -> Decision:
    attempt = order.attempt(event.number)
    if attempt is None or not attempt.live:
        return Decision(order)
    return _attempt_ended(order, attempt, event.at_ms, schedule)


def _attempt_ended(order: Order, attempt: Attempt, at_ms: int, schedule: Schedule) -> Decision:
    after = _with(order, replace(attempt, state=AttemptState.CLOSED, credential=None))
    if order.state is PAYING:
        return Decision(replace(after, step=0, next_check_at_ms=order.expires_at_ms))
    if order.state is PAID:
        return Decision(replace(after, next_check_at_ms=None))
    if order.state is EXCEPTION and order.reason is not Reason.UNKNOWN_OUTCOME:
        return Decision(after)  # money is held here: people decide
    return _close_now(replace(after, version=order.version), at_ms, schedule)


def _already_paid(order: Order, event: ReportedAlreadyPaid, _: Schedule) -> Decision:
    return Decision(order, Reply.WAIT, (Query(event.number),))


# --- close, sync, time ----------------------------------------------------------------------------------------------


def _close_requested(order: Order, event: CloseRequested, schedule: Schedule) -> Decision:
    live = order.live_attempt
    if live is None:
        return _close_now(order, event.at_ms, schedule)
    return _begin_closing(order, live, event.at_ms, schedule)


def _begin_closing(order: Order, live: Attempt, at_ms: int, schedule: Schedule) -> Decision:
    after = _with(
        order,
        replace(live, state=AttemptState.CLOSING),
        state=CLOSING,
        reason=None,
        step=0,
        next_check_at_ms=deadlines.closing_check(schedule, 0, at_ms),
    )
    return Decision(after, Reply.WAIT, (Close(live.number),))


def _close_now(order: Order, at_ms: int, schedule: Schedule) -> Decision:
    """Closed for the app. If any attempt ever left the house, its channel is still watched for a while."""
    watched = any(attempt.state is AttemptState.CLOSED for attempt in order.attempts)
    after = replace(
        order,
        state=CLOSED,
        version=order.version + 1,
        reason=None,
        closed_at_ms=at_ms,
        step=0,
        next_check_at_ms=deadlines.watch_check(schedule, 0, at_ms) if watched else None,
    )
    return Decision(after, announce=Announcement.ORDER_CLOSED)


def _expire(order: Order, at_ms: int, schedule: Schedule) -> Decision:
    live = order.live_attempt
    return _close_now(order, at_ms, schedule) if live is None else _begin_closing(order, live, at_ms, schedule)


def _sync(order: Order, _event: SyncRequested, _: Schedule) -> Decision:
    queries = tuple(Query(attempt.number) for attempt in order.attempts if _worth_asking(order, attempt))
    return Decision(order, Reply.WAIT if queries else Reply.DONE, queries)


def _worth_asking(order: Order, attempt: Attempt) -> bool:
    return attempt.live or (order.state in (CLOSED, EXCEPTION) and attempt.state is AttemptState.CLOSED)


def _due(order: Order, event: Due, schedule: Schedule) -> Decision:
    if event.claimed_version is not None:
        stale = event.claimed_version != order.version
    else:
        stale = order.next_check_at_ms is None or event.at_ms < order.next_check_at_ms
    if stale:
        return Decision(order)
    return _DUE[order.state](order, event.at_ms, schedule)


def _due_before_payment(order: Order, at_ms: int, schedule: Schedule) -> Decision:
    live = order.live_attempt
    if at_ms >= order.expires_at_ms:
        return _expire(order, at_ms, schedule)
    if live is None:
        return Decision(_with(order, None, next_check_at_ms=order.expires_at_ms))
    check_ms = deadlines.after_query(schedule, order.step, at_ms, order.expires_at_ms)
    after = _with(order, None, step=order.step + 1, next_check_at_ms=check_ms)
    return Decision(after, effects=(Query(live.number),))


def _due_closing(order: Order, at_ms: int, schedule: Schedule) -> Decision:
    live = order.live_attempt
    assert live is not None, "a closing order has the attempt it closes"
    check_ms = deadlines.closing_check(schedule, order.step + 1, at_ms)
    if check_ms is not None:
        after = _with(order, None, step=order.step + 1, next_check_at_ms=check_ms)
        return Decision(after, effects=(Query(live.number),))
    check_ms = deadlines.exception_check(schedule, 0, at_ms)
    after = _with(order, None, state=EXCEPTION, reason=Reason.UNKNOWN_OUTCOME, step=0, next_check_at_ms=check_ms)
    return Decision(after, announce=Announcement.ORDER_EXCEPTION, case=Reason.UNKNOWN_OUTCOME)


def _due_paid(order: Order, at_ms: int, schedule: Schedule) -> Decision:
    """Paid, but another attempt is not yet closed at its channel."""
    live = order.live_attempt
    check_ms = deadlines.closing_check(schedule, order.step + 1, at_ms) if live else None
    after = _with(order, None, step=order.step + 1, next_check_at_ms=check_ms)
    case = Reason.UNCLOSED_ATTEMPT if live and check_ms is None else None
    return Decision(after, effects=(Query(live.number),) if live else (), case=case)


def _due_closed(order: Order, at_ms: int, schedule: Schedule) -> Decision:
    check_ms = deadlines.watch_check(schedule, order.step + 1, order.closed_at_ms or at_ms)
    after = _with(order, None, step=order.step + 1, next_check_at_ms=check_ms)
    return Decision(after, effects=tuple(Query(a.number) for a in order.attempts if _worth_asking(order, a)))


def _due_exception(order: Order, at_ms: int, schedule: Schedule) -> Decision:
    check_ms = deadlines.exception_check(schedule, order.step + 1, at_ms)
    after = _with(order, None, step=order.step + 1, next_check_at_ms=check_ms)
    return Decision(after, effects=tuple(Query(a.number) for a in order.attempts if _worth_asking(order, a)))


_DUE: dict[OrderState, Callable[[Order, int, Schedule], Decision]] = {
    CREATED: _due_before_payment,
    PAYING: _due_before_payment,
    CLOSING: _due_closing,
    PAID: _due_paid,
    CLOSED: _due_closed,
    EXCEPTION: _due_exception,
}


# --- pieces ---------------------------------------------------------------------------------------------------------


def _with(order: Order, attempt: Attempt | None, **changes: Any) -> Order:
    """The order one version on, with one attempt replaced."""
    if attempt is not None:
        changes["attempts"] = _replaced(order.attempts, attempt)
    return replace(order, version=order.version + 1, **changes)


def _replaced(attempts: tuple[Attempt, ...], attempt: Attempt) -> tuple[Attempt, ...]:
    return (*attempts[: attempt.number - 1], attempt, *attempts[attempt.number :])


def _settled(order: Order, number: int) -> tuple[Attempt, ...]:
    attempt = order.attempt(number)
    if attempt is None:
        return order.attempts
    return _replaced(order.attempts, replace(attempt, state=AttemptState.SUCCEEDED, credential=None))


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


def _refuse(reply: Reply) -> RuleFunction:
    def decide(order: Order, _event: Event, _: Schedule) -> Decision:
        return Decision(order, reply)

    return decide


def _ignore(order: Order, _event: Event, _: Schedule) -> Decision:
    return Decision(order)


def _rule(decide: RuleFunction, *to: OrderState) -> Rule:
    return Rule(decide, frozenset(to))


def _ignored(*states: OrderState) -> dict[OrderState, Rule]:
    return {state: _rule(_ignore) for state in states}


TRANSITIONS: dict[type[Event], dict[OrderState, Rule]] = {
    PayRequested: {
        CREATED: _rule(_start_payment, PAYING, CLOSED),
        PAYING: _rule(_pay_again, CLOSING, CLOSED),
        CLOSING: _rule(_refuse(Reply.ORDER_CLOSING)),
        PAID: _rule(_refuse(Reply.ORDER_PAID)),
        CLOSED: _rule(_refuse(Reply.ORDER_CLOSED)),
        EXCEPTION: _rule(_refuse(Reply.ORDER_IN_EXCEPTION)),
    },
    SubmitAccepted: {PAYING: _rule(_accepted), **_ignored(CREATED, CLOSING, PAID, CLOSED, EXCEPTION)},
    SubmitRefused: {PAYING: _rule(_refused), **_ignored(CREATED, CLOSING, PAID, CLOSED, EXCEPTION)},
    OutcomeUnknown: {PAYING: _rule(_unknown), **_ignored(CREATED, CLOSING, PAID, CLOSED, EXCEPTION)},
    PaymentReported: {
        CREATED: _rule(_payment_reported, EXCEPTION),
        PAYING: _rule(_payment_reported, PAID, EXCEPTION),
        CLOSING: _rule(_payment_reported, PAID, EXCEPTION),
        PAID: _rule(_payment_reported),
        CLOSED: _rule(_payment_reported, PAID, EXCEPTION),
        EXCEPTION: _rule(_payment_reported, PAID),
    },
    ReportedNotPaid: {
        **_ignored(CREATED),
        PAYING: _rule(_not_paid),
        CLOSING: _rule(_not_paid),
        PAID: _rule(_not_paid),
        CLOSED: _rule(_not_paid_after_closed),
        EXCEPTION: _rule(_not_paid, CLOSING),
    },
    ReportedNotFound: {
        **_ignored(CREATED, CLOSED),
        PAYING: _rule(_not_found),
        CLOSING: _rule(_not_found, CLOSED),
        PAID: _rule(_not_found),
        EXCEPTION: _rule(_not_found, CLOSED),
    },
    ReportedClosed: {
        **_ignored(CREATED, CLOSED),
        PAYING: _rule(_closed_at_channel),
        CLOSING: _rule(_closed_at_channel, CLOSED),
        PAID: _rule(_closed_at_channel),
        EXCEPTION: _rule(_closed_at_channel, CLOSED),
    },
    ReportedAlreadyPaid: {
        **_ignored(CREATED, PAID),
        PAYING: _rule(_already_paid),
        CLOSING: _rule(_already_paid),
        CLOSED: _rule(_already_paid),
        EXCEPTION: _rule(_already_paid),
    },
    CloseRequested: {
        CREATED: _rule(_close_requested, CLOSED),
        PAYING: _rule(_close_requested, CLOSING, CLOSED),
        CLOSING: _rule(_refuse(Reply.WAIT)),
        PAID: _rule(_refuse(Reply.ORDER_PAID)),
        CLOSED: _rule(_ignore),
        EXCEPTION: _rule(_refuse(Reply.ORDER_IN_EXCEPTION)),
    },
    SyncRequested: {state: _rule(_sync) for state in OrderState},
    Due: {
        CREATED: _rule(_due, CLOSED),
        PAYING: _rule(_due, CLOSING, CLOSED),
        CLOSING: _rule(_due, EXCEPTION),
        PAID: _rule(_due),
        CLOSED: _rule(_due),
        EXCEPTION: _rule(_due),
    },
}
