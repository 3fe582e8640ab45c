"""The order's life: one table, one pure function.

TRANSITIONS names, for every event in every state, the rule that decides and the states it may lead to; `transition`
looks it up and holds the rule to its word. The rules in prose:

* Unknown is never no: silence, errors and *not found* leave the attempt alive, and the ladder asks again.
* Closing is an intent; the channel's word ends it: closed, or *not found* once nothing the payer may hold is valid.
* There is one live attempt. Another channel or method makes room first: the attempt is closed at its channel while the
  order stays payable; if it can not be closed it is as it was before, and the other one has to wait.
* Whatever is paid stays paid: later events are recorded and never take it back.
* A refusal ends an attempt only if nobody can hold a credential of it: an earlier submission may have been answered.
* Refunds have states of their own and never move the order's; neither does an order's end stop them.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from actors import deadlines
from actors.casework import case_resolved
from actors.crediting import UNCLEAR, payment_reported
from actors.deadlines import STEP_MAX, Schedule
from actors.effects import Close, Effect, Query, QueryRefund, Submit
from actors.ending import closed, closing
from actors.events import (
    CaseResolved,
    CloseRequested,
    Credential,
    CredentialType,
    Due,
    Event,
    OutcomeUnknown,
    PaymentReported,
    PayRequested,
    RefundNotFound,
    RefundOutcomeUnknown,
    RefundRefused,
    RefundReported,
    RefundRequested,
    RefundsDue,
    ReportedAlreadyPaid,
    ReportedClosed,
    ReportedDebited,
    ReportedNotClosable,
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
    Order,
    OrderState,
    Reason,
    Reply,
    Settlement,
)
from actors.refunding import (
    refund_not_found,
    refund_outcome_unknown,
    refund_refused,
    refund_reported,
    refund_requested,
    refunds_due,
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
    decision = rule.decide(order, event, _schedule_of(order, event, schedule))
    if decision.order.state is not order.state and decision.order.state not in rule.to:
        msg = f"{type(event).__name__} in {order.state} led to {decision.order.state}"
        raise AssertionError(msg)
    return decision


def _schedule_of(order: Order, event: Event, schedule: Schedule) -> Schedule:
    """The ladders of what can be paid now: of the live attempt, else of the method that is asked for."""
    paid_with = order.live_attempt or event
    if isinstance(paid_with, Attempt | PayRequested):
        return schedule.of(paid_with.channel, paid_with.method)
    return schedule


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
        started_at_ms=event.at_ms,
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
    if live.number in event.in_flight:
        return Decision(order, Reply.WAIT)  # its answer comes any moment, and decides what can be done
    if live.state is AttemptState.CLOSING:
        return _wait_for_room(order, live, event)
    if not live.fulfils(event):
        return _make_room(order, live, event, schedule)
    if live.state is not AttemptState.PENDING:
        return Decision(order, Reply.WAIT, (Query(live.number),))
    if usable(live.credential, event.at_ms):
        return Decision(order)
    if live.credential is not None and not event.renewable:
        return _make_room(order, live, event, schedule)
    return _submit_again(order, live, event.at_ms, schedule)


def usable(credential: Credential | None, at_ms: int) -> bool:
    """Whether it can be given to a payer. Where nothing is shown nothing is renewed: the channel asks the payer."""
    return credential is not None and (credential.type is CredentialType.NONE or at_ms < credential.expires_at_ms)


def _make_room(order: Order, live: Attempt, event: PayRequested, schedule: Schedule) -> Decision:
    """Another payment is wished for: the live attempt is closed at its channel before there is a new one."""
    if live.number in event.tried_to_close:
        return Decision(order, Reply.PAYMENT_IN_PROGRESS)
    if len(order.attempts) >= ATTEMPTS_MAX:
        return Decision(order, Reply.ATTEMPTS_EXHAUSTED)
    check_ms = deadlines.after_query(schedule, 0, event.at_ms, order.expires_at_ms)
    after = order.advanced(replace(live, state=AttemptState.CLOSING), step=0, next_check_at_ms=check_ms)
    return Decision(after, Reply.WAIT, (Close(live.number),))


def _wait_for_room(order: Order, live: Attempt, event: PayRequested) -> Decision:
    """A close that has begun ends with the channel's word, whoever asks for what.

    But if nobody ever got anything to pay the attempt with and that very payment is wished for again, it is taken up
    again: it would take long to be sure that it never was.
    """
    after = order
    if live.credential is None and live.fulfils(event):
        after = order.advanced(replace(live, state=AttemptState.UNKNOWN))
    return Decision(after, Reply.WAIT, (Query(live.number),))


def _submit_again(order: Order, attempt: Attempt, at_ms: int, schedule: Schedule) -> Decision:
    """The same number once more: after the channel said that it does not know it, or for a fresh credential."""
    again = replace(attempt, state=AttemptState.SUBMITTING, submitted_at_ms=at_ms, submits=attempt.submits + 1)
    check_ms = min(at_ms + schedule.timeout_ms, order.expires_at_ms)
    return Decision(order.advanced(again, next_check_at_ms=check_ms), Reply.WAIT, (Submit(attempt.number),))


def _accepted(order: Order, event: SubmitAccepted, _: Schedule) -> Decision:
    attempt = order.attempt(event.number)
    if attempt is None or not attempt.live:
        return Decision(order)  # it came after the payment or after the end: no way back
    if attempt.state is AttemptState.CLOSING:  # the close may have come too early to find anything
        return Decision(order.advanced(replace(attempt, credential=event.credential)), effects=(Close(attempt.number),))
    return Decision(order.advanced(replace(attempt, state=AttemptState.PENDING, credential=event.credential)))


def _refused(order: Order, event: SubmitRefused, _: Schedule) -> Decision:
    attempt = order.attempt(event.number)
    if attempt is None or attempt.state not in (AttemptState.SUBMITTING, AttemptState.CLOSING):
        return Decision(order)
    if attempt.credential is None:
        message = event.message[:200]
        failed = replace(attempt, state=AttemptState.FAILED, failure_code=event.code, failure_message=message)
        after = order.advanced(failed, step=0, next_check_at_ms=order.expires_at_ms)
        return Decision(after, announce=Announcement.PAYMENT_FAILED)
    if attempt.state is AttemptState.CLOSING:
        return Decision(order)
    # An earlier submission was answered: somebody may hold its credential.
    return Decision(order.advanced(replace(attempt, state=AttemptState.UNKNOWN)))


def _unknown(order: Order, event: OutcomeUnknown, schedule: Schedule) -> Decision:
    attempt = order.attempt(event.number)
    if event.verb is not Verb.SUBMIT or attempt is None or attempt.state is not AttemptState.SUBMITTING:
        return Decision(order)  # the ladder's next rung asks again
    check_ms = min(event.at_ms + schedule.queries_ms[0], order.next_check_at_ms or order.expires_at_ms)
    return Decision(order.advanced(replace(attempt, state=AttemptState.UNKNOWN), next_check_at_ms=check_ms))


# --- what the channel says ------------------------------------------------------------------------------------------


def _not_paid(order: Order, event: ReportedNotPaid, schedule: Schedule) -> Decision:
    attempt = order.attempt(event.number)
    if attempt is None:
        return Decision(order)
    if attempt.state is AttemptState.CLOSED and order.state in (PAID, EXCEPTION):
        return _not_paid_after_closed(order, event, schedule)
    if not attempt.live:
        return Decision(order)
    if attempt.state is AttemptState.CLOSING:
        return Decision(order, Reply.WAIT, () if event.contested else (Close(attempt.number),))
    if attempt.state is AttemptState.PENDING:
        return Decision(order)
    return Decision(order.advanced(replace(attempt, state=AttemptState.PENDING)))


def _not_paid_after_closed(order: Order, event: ReportedNotPaid, _: Schedule) -> Decision:
    """The channel contradicts its own word: it can be paid after all. Close it again."""
    attempt = order.attempt(event.number)
    known = attempt is not None and attempt.state is AttemptState.CLOSED
    return Decision(order, effects=(Close(event.number),) if known else ())


def _debited_after_closed(order: Order, event: ReportedDebited, schedule: Schedule) -> Decision:
    """Its channel had closed it, and now somebody was debited: nobody knows what becomes of that money. For people."""
    attempt = order.attempt(event.number)
    if attempt is None or attempt.state is not AttemptState.CLOSED:
        return Decision(order)
    check_ms = deadlines.exception_check(schedule, 0, event.at_ms)
    after = order.advanced(state=EXCEPTION, reason=Reason.UNKNOWN_OUTCOME, step=0, next_check_at_ms=check_ms)
    return Decision(after, announce=Announcement.ORDER_EXCEPTION, case=Reason.UNKNOWN_OUTCOME)


def _not_found(order: Order, event: ReportedNotFound, schedule: Schedule) -> Decision:
    attempt = order.attempt(event.number)
    if attempt is None or not attempt.live or attempt.state is AttemptState.PENDING:
        return Decision(order)
    if order.state is PAYING and attempt.state is not AttemptState.CLOSING:
        soon = event.at_ms < order.expires_at_ms
        return _submit_again(order, attempt, event.at_ms, schedule) if soon else Decision(order)
    if event.at_ms >= deadlines.gone_after(schedule, attempt):
        return _attempt_ended(order, attempt, event.at_ms, schedule)
    return _payable_after_all(order, attempt)


def _not_closable(order: Order, event: ReportedNotClosable, _: Schedule) -> Decision:
    attempt = order.attempt(event.number)
    closing = attempt is not None and attempt.state is AttemptState.CLOSING
    return _payable_after_all(order, attempt) if attempt is not None and closing else Decision(order)


def _payable_after_all(order: Order, attempt: Attempt) -> Decision:
    """It was not closed, and somebody may hold a credential of it: in an order that is not to end it is as before."""
    if order.state is not PAYING or attempt.credential is None:
        return Decision(order)
    return Decision(order.advanced(replace(attempt, state=AttemptState.PENDING)))


def _closed_at_channel(order: Order, event: ReportedClosed, schedule: Schedule) -> Decision:
    attempt = order.attempt(event.number)
    if attempt is None or not attempt.live:
        return Decision(order)
    return _attempt_ended(order, attempt, event.at_ms, schedule)


def _attempt_ended(order: Order, attempt: Attempt, at_ms: int, schedule: Schedule) -> Decision:
    after = order.advanced(replace(attempt, state=AttemptState.CLOSED, credential=None))
    if order.state is PAYING:  # another attempt may follow; whether this one was paid all the same is looked at once
        look_ms = min(order.expires_at_ms, at_ms + schedule.watch_ms[0])
        return Decision(replace(after, step=0, next_check_at_ms=look_ms))
    settles = Settlement(UNCLEAR, "closed")
    if order.state is PAID:  # it is closed, and watched like those of a closed order
        check_ms = deadlines.paid_watch_check(schedule, 0, at_ms)
        return Decision(replace(after, step=0, next_check_at_ms=check_ms), settles=settles)
    if order.state is EXCEPTION and order.reason is not Reason.UNKNOWN_OUTCOME:
        return Decision(after)  # money is held here: people decide
    ended = _close_now(replace(after, version=order.version), at_ms, schedule)
    return replace(ended, settles=settles if order.state is EXCEPTION else None)


def _already_paid(order: Order, event: ReportedAlreadyPaid, _: Schedule) -> Decision:
    return Decision(order, Reply.WAIT, (Query(event.number, contested=True),))


# --- close, sync, time ----------------------------------------------------------------------------------------------


def _close_requested(order: Order, event: CloseRequested, schedule: Schedule) -> Decision:
    live = order.live_attempt
    if live is None:
        return _close_now(order, event.at_ms, schedule)
    return _begin_closing(order, live, event.at_ms, schedule)


def _begin_closing(order: Order, live: Attempt, at_ms: int, schedule: Schedule) -> Decision:
    return Decision(closing(order, live, at_ms, schedule), Reply.WAIT, (Close(live.number),))


def _close_now(order: Order, at_ms: int, schedule: Schedule) -> Decision:
    return Decision(closed(order, at_ms, schedule), announce=Announcement.ORDER_CLOSED)


def _expire(order: Order, at_ms: int, schedule: Schedule) -> Decision:
    live = order.live_attempt
    return _close_now(order, at_ms, schedule) if live is None else _begin_closing(order, live, at_ms, schedule)


def _sync(order: Order, _event: SyncRequested, _: Schedule) -> Decision:
    queries: tuple[Effect, ...] = (
        *_asked(order),
        *(QueryRefund(refund.refund_id) for refund in order.refunds if refund.open),
    )
    return Decision(order, Reply.WAIT if queries else Reply.DONE, queries)


def _asked(order: Order) -> tuple[Query, ...]:
    """About what may be paid, and what was closed: a payment may have overtaken that, and nobody told us."""
    asked = (attempt for attempt in order.attempts if attempt.live or attempt.state is AttemptState.CLOSED)
    return tuple(Query(attempt.number) for attempt in asked)


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
        return Decision(order.advanced(next_check_at_ms=order.expires_at_ms), effects=_asked(order))
    check_ms = deadlines.after_query(schedule, order.step, at_ms, order.expires_at_ms)
    after = order.advanced(step=min(order.step + 1, STEP_MAX), next_check_at_ms=check_ms)
    return Decision(after, effects=_asked(order))


def _due_closing(order: Order, at_ms: int, schedule: Schedule) -> Decision:
    live = order.live_attempt
    assert live is not None, "a closing order has the attempt it closes"
    step = min(order.step + 1, STEP_MAX)
    check_ms = deadlines.closing_check(schedule, step, at_ms, order, live)
    if check_ms is not None:
        return Decision(order.advanced(step=step, next_check_at_ms=check_ms), effects=_asked(order))
    check_ms = deadlines.exception_check(schedule, 0, at_ms)
    after = order.advanced(state=EXCEPTION, reason=Reason.UNKNOWN_OUTCOME, step=0, next_check_at_ms=check_ms)
    return Decision(after, announce=Announcement.ORDER_EXCEPTION, case=Reason.UNKNOWN_OUTCOME)


def _due_paid(order: Order, at_ms: int, schedule: Schedule) -> Decision:
    """Paid, but another attempt is not yet closed at its channel, or was and is watched: money may still arrive."""
    live, step = order.live_attempt, min(order.step + 1, STEP_MAX)
    if live is None:
        check_ms = deadlines.paid_watch_check(schedule, step, at_ms)
    else:
        check_ms = deadlines.closing_check(schedule, step, at_ms, order, live)
    case = Reason.UNCLOSED_ATTEMPT if live is not None and check_ms is None else None
    return Decision(order.advanced(step=step, next_check_at_ms=check_ms), effects=_asked(order), case=case)


def _due_closed(order: Order, at_ms: int, schedule: Schedule) -> Decision:
    check_ms = deadlines.watch_check(schedule, order.step + 1, order.closed_at_ms or at_ms)
    after = order.advanced(step=order.step + 1, next_check_at_ms=check_ms)
    return Decision(after, effects=_asked(order))


def _due_exception(order: Order, at_ms: int, schedule: Schedule) -> Decision:
    check_ms = deadlines.exception_check(schedule, order.step + 1, at_ms)
    after = order.advanced(step=order.step + 1, next_check_at_ms=check_ms)
    return Decision(after, effects=_asked(order))


_DUE: dict[OrderState, Callable[[Order, int, Schedule], Decision]] = {
    CREATED: _due_before_payment,
    PAYING: _due_before_payment,
    CLOSING: _due_closing,
    PAID: _due_paid,
    CLOSED: _due_closed,
    EXCEPTION: _due_exception,
}


# --- pieces ---------------------------------------------------------------------------------------------------------


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
        CREATED: _rule(payment_reported, EXCEPTION),
        PAYING: _rule(payment_reported, PAID, EXCEPTION),
        CLOSING: _rule(payment_reported, PAID, EXCEPTION),
        PAID: _rule(payment_reported),
        CLOSED: _rule(payment_reported, PAID, EXCEPTION),
        EXCEPTION: _rule(payment_reported, PAID, CLOSED),
    },
    ReportedNotPaid: {
        **_ignored(CREATED),
        PAYING: _rule(_not_paid),
        CLOSING: _rule(_not_paid),
        PAID: _rule(_not_paid),
        CLOSED: _rule(_not_paid_after_closed),
        EXCEPTION: _rule(_not_paid),
    },
    ReportedDebited: {
        **_ignored(CREATED, PAYING, CLOSING, PAID, EXCEPTION),  # the ladder asks on
        CLOSED: _rule(_debited_after_closed, EXCEPTION),
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
    ReportedNotClosable: {PAYING: _rule(_not_closable), **_ignored(CREATED, CLOSING, PAID, CLOSED, EXCEPTION)},
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
    RefundRequested: {
        PAID: _rule(refund_requested),
        **{state: _rule(_refuse(Reply.ORDER_NOT_PAID)) for state in OrderState if state is not PAID},
    },
    RefundReported: {state: _rule(refund_reported) for state in OrderState},
    RefundRefused: {state: _rule(refund_refused) for state in OrderState},
    RefundNotFound: {state: _rule(refund_not_found) for state in OrderState},
    RefundOutcomeUnknown: {state: _rule(refund_outcome_unknown) for state in OrderState},
    RefundsDue: {state: _rule(refunds_due) for state in OrderState},
    CaseResolved: {
        **{state: _rule(case_resolved) for state in OrderState if state is not EXCEPTION},
        EXCEPTION: _rule(case_resolved, CLOSING, PAID, CLOSED),
    },
}
