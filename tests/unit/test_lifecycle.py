"""The order's life, rule by rule, on plain values."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.deadlines import Schedule
from actors.effects import Close, Query, Submit
from actors.events import (
    CloseRequested,
    Credential,
    Due,
    Event,
    OutcomeUnknown,
    PaymentReported,
    PayRequested,
    ReportedAlreadyPaid,
    ReportedClosed,
    ReportedNotFound,
    ReportedNotPaid,
    Source,
    SubmitAccepted,
    SubmitRefused,
    SyncRequested,
    Verb,
)
from actors.lifecycle import TRANSITIONS, transition
from actors.order import (
    Announcement,
    AttemptState,
    Content,
    Decision,
    LatePolicy,
    Order,
    OrderState,
    PaymentKind,
    Reason,
    Reply,
    new_order,
)

SCHEDULE = Schedule()
BORN_MS = 1_000_000
EXPIRES_MS = BORN_MS + 1_800_000
CONTENT = Content(app_id="shop", out_order_no="A-1", amount=100, currency="CNY", subject="tea")
CREDENTIAL = Credential("qr", "weixin://pay", EXPIRES_MS)


def fresh(**changes: Any) -> Order:
    content = msgspec.structs.replace(CONTENT, **changes)
    return new_order("0" * 26, content, BORN_MS, EXPIRES_MS)


def pay(at_ms: int = BORN_MS + 1, in_flight: frozenset[int] = frozenset()) -> PayRequested:
    return PayRequested(at_ms, "wechatpay", "m/a", "native", None, in_flight)


def paid_event(at_ms: int = BORN_MS + 9000, **changes: Any) -> PaymentReported:
    facts: dict[str, Any] = {
        "number": 1,
        "source": Source.NOTIFICATION,
        "channel": "wechatpay",
        "account": "m/a",
        "transaction": "T1",
        "amount": 100,
        "currency": "CNY",
        "success_at_ms": at_ms - 500,
    }
    return PaymentReported(at_ms=at_ms, **(facts | changes))


def told(order: Order, *events: Event) -> Order:
    for event in events:
        order = transition(order, event, SCHEDULE).order
    return order


def decide(order: Order, event: Event) -> Decision:
    return transition(order, event, SCHEDULE)


SUBMITTING = told(fresh(), pay())
PENDING = told(SUBMITTING, SubmitAccepted(BORN_MS + 50, 1, CREDENTIAL))
UNKNOWN = told(SUBMITTING, OutcomeUnknown(BORN_MS + 50, 1, Verb.SUBMIT, "silence"))
CLOSING = told(PENDING, CloseRequested(BORN_MS + 60))
CLOSED = told(CLOSING, ReportedClosed(BORN_MS + 70, 1))
PAID = told(PENDING, paid_event())


def test_every_state_has_a_rule_for_every_event() -> None:
    assert set(TRANSITIONS) == set(Event.__args__)  # type: ignore[attr-defined]
    for event, rules in TRANSITIONS.items():
        assert set(rules) == set(OrderState), event


# --- pay ------------------------------------------------------------------------------------------------------------


def test_pay_writes_the_attempt_before_anything_is_sent() -> None:
    decision = decide(fresh(), pay())
    assert decision.order.state is OrderState.PAYING
    assert decision.order.attempts[0].state is AttemptState.SUBMITTING
    assert decision.effects == (Submit(1),)
    assert decision.order.next_check_at_ms == BORN_MS + 1 + SCHEDULE.timeout_ms


def test_pay_again_gives_the_same_credential_without_a_call() -> None:
    decision = decide(PENDING, pay())
    assert decision.order is PENDING
    assert (decision.reply, decision.effects) == (Reply.DONE, ())


def test_pay_while_the_submission_runs_here_waits_for_it() -> None:
    assert decide(SUBMITTING, pay(in_flight=frozenset({1}))).effects == ()


def test_a_submission_found_interrupted_is_asked_after_before_it_is_sent_again() -> None:
    decision = decide(SUBMITTING, pay())
    assert decision.order is SUBMITTING
    assert decision.effects == (Query(1),)
    again = decide(SUBMITTING, ReportedNotFound(BORN_MS + 100, 1))
    assert again.effects == (Submit(1),)
    assert again.order.attempts[0].submits == 2


def test_an_expired_credential_is_renewed_under_the_same_number() -> None:
    decision = decide(
        told(SUBMITTING, SubmitAccepted(BORN_MS + 50, 1, Credential("qr", "x", BORN_MS + 60))), pay(BORN_MS + 61)
    )
    assert decision.effects == (Submit(1),)
    assert len(decision.order.attempts) == 1


def test_another_method_while_one_is_open_is_refused() -> None:
    decision = decide(PENDING, msgspec.structs.replace(pay(), method="jsapi"))
    assert decision.reply is Reply.PAYMENT_IN_PROGRESS
    assert decision.order is PENDING


@pytest.mark.parametrize(
    ("order", "reply"),
    [(CLOSING, Reply.ORDER_CLOSING), (CLOSED, Reply.ORDER_CLOSED), (PAID, Reply.ORDER_PAID)],
)
def test_pay_is_refused_where_it_is_too_late(order: Order, reply: Reply) -> None:
    assert decide(order, pay()).reply is reply


def test_pay_after_expiry_begins_the_close_instead() -> None:
    decision = decide(PENDING, pay(EXPIRES_MS))
    assert decision.reply is Reply.ORDER_EXPIRED
    assert decision.order.state is OrderState.CLOSING
    assert decide(fresh(), pay(EXPIRES_MS)).order.state is OrderState.CLOSED


def test_a_definite_refusal_fails_the_attempt_and_leaves_the_order_payable() -> None:
    decision = decide(SUBMITTING, SubmitRefused(BORN_MS + 50, 1, "NO_AUTH", "no"))
    assert decision.order.attempts[0].state is AttemptState.FAILED
    assert decision.announce is Announcement.PAYMENT_FAILED
    assert decide(decision.order, pay()).order.attempts[1].number == 2


def test_a_refusal_after_silence_ends_the_attempt_for_nobody_got_a_credential() -> None:
    again = told(UNKNOWN, ReportedNotFound(BORN_MS + 100, 1))
    decision = decide(again, SubmitRefused(BORN_MS + 200, 1, "PARAM_ERROR", "no"))
    assert decision.order.attempts[0].state is AttemptState.FAILED
    assert told(decision.order, paid_event()).state is OrderState.PAID, "should it be paid all the same"


def test_a_refusal_of_a_fresh_credential_says_nothing_of_the_one_somebody_holds() -> None:
    shown = told(SUBMITTING, SubmitAccepted(BORN_MS + 50, 1, Credential("qr", "x", BORN_MS + 60)))
    decision = decide(told(shown, pay(BORN_MS + 61)), SubmitRefused(BORN_MS + 99, 1, "PARAM_ERROR", "no"))
    assert decision.order.attempts[0].state is AttemptState.UNKNOWN
    assert decision.announce is None


def test_silence_after_a_submission_is_unknown_and_asked_after_soon() -> None:
    assert UNKNOWN.attempts[0].state is AttemptState.UNKNOWN
    assert UNKNOWN.next_check_at_ms == BORN_MS + 50 + SCHEDULE.queries_ms[0]


@pytest.mark.parametrize("order", [PAID, CLOSING, CLOSED])
def test_a_credential_that_comes_too_late_changes_nothing(order: Order) -> None:
    assert decide(order, SubmitAccepted(BORN_MS + 99, 1, CREDENTIAL)).order is order


# --- money ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [SUBMITTING, PENDING, UNKNOWN, CLOSING])
def test_a_payment_credits_an_open_order_once(order: Order) -> None:
    decision = decide(order, paid_event())
    assert decision.order.state is OrderState.PAID
    assert decision.order.paid_amount == 100
    assert decision.announce is Announcement.ORDER_PAID
    again = decide(decision.order, paid_event(source=Source.QUERY))
    assert again.order is decision.order


@pytest.mark.parametrize("order", [SUBMITTING, PENDING, CLOSING, CLOSED, PAID])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"amount": 99}, Reason.AMOUNT_MISMATCH),
        ({"currency": "USD"}, Reason.CURRENCY_MISMATCH),
        ({"account": "other/a"}, Reason.ACCOUNT_MISMATCH),
        ({"number": 7}, Reason.UNKNOWN_ATTEMPT),
    ],
)
def test_a_payment_that_differs_is_held_and_never_credited(
    order: Order, change: dict[str, Any], reason: Reason
) -> None:
    decision = decide(order, paid_event(transaction="T2", **change))
    assert decision.case is reason
    assert decision.order.payments[-1].kind is PaymentKind.HELD
    assert decision.order.paid_amount == order.paid_amount
    assert decision.order.state is (OrderState.PAID if order is PAID else OrderState.EXCEPTION)


def test_a_right_payment_after_a_wrong_one_is_credited() -> None:
    held = told(PENDING, paid_event(amount=99))
    assert held.state is OrderState.EXCEPTION
    assert told(held, paid_event(transaction="T2")).state is OrderState.PAID


def test_a_second_transaction_is_excess_and_the_order_stays_paid() -> None:
    decision = decide(PAID, paid_event(transaction="T2"))
    assert decision.order.payments[-1].kind is PaymentKind.EXCESS
    assert decision.order.state is OrderState.PAID
    assert (decision.announce, decision.case) == (Announcement.PAYMENT_DUPLICATE, Reason.EXCESS_PAYMENT)


def test_a_payment_after_closed_follows_the_apps_policy() -> None:
    late = decide(CLOSED, paid_event())
    assert late.order.state is OrderState.PAID
    assert late.order.late
    content = msgspec.structs.replace(CLOSED.content, late_payment=LatePolicy.HOLD)
    held = decide(msgspec.structs.replace(CLOSED, content=content), paid_event())
    assert held.order.state is OrderState.EXCEPTION
    assert held.announce is Announcement.ORDER_LATE_PAYMENT


def test_a_payment_of_an_old_attempt_closes_the_newer_one_at_its_channel() -> None:
    second = told(PENDING, ReportedClosed(BORN_MS + 70, 1), pay(), SubmitAccepted(BORN_MS + 80, 2, CREDENTIAL))
    decision = decide(second, paid_event())
    assert decision.order.state is OrderState.PAID
    assert decision.effects == (Close(2),)
    assert decision.order.next_check_at_ms is not None
    assert told(decision.order, ReportedClosed(BORN_MS + 9999, 2)).next_check_at_ms is None


# --- close ----------------------------------------------------------------------------------------------------------


def test_an_order_that_never_left_the_house_closes_at_once() -> None:
    decision = decide(fresh(), CloseRequested(BORN_MS + 5))
    assert decision.order.state is OrderState.CLOSED
    assert decision.order.next_check_at_ms is None
    assert decision.announce is Announcement.ORDER_CLOSED


def test_only_the_channels_word_closes_an_open_attempt() -> None:
    assert CLOSING.state is OrderState.CLOSING
    assert decide(CLOSING, OutcomeUnknown(BORN_MS + 70, 1, Verb.CLOSE, "silence")).order is CLOSING
    assert decide(CLOSING, ReportedNotPaid(BORN_MS + 70, 1)).effects == (Close(1),)
    assert decide(CLOSING, ReportedAlreadyPaid(BORN_MS + 70, 1)).effects == (Query(1),)
    assert CLOSED.state is OrderState.CLOSED
    assert CLOSED.next_check_at_ms == BORN_MS + 70 + SCHEDULE.watch_ms[0]


def test_not_found_closes_only_what_nobody_could_pay_and_only_long_after() -> None:
    never_answered = told(UNKNOWN, CloseRequested(BORN_MS + 60))
    assert decide(never_answered, ReportedNotFound(BORN_MS + 70, 1)).order is never_answered
    final_ms = CLOSING.attempts[0].submitted_at_ms + SCHEDULE.not_found_final_ms
    assert decide(never_answered, ReportedNotFound(final_ms, 1)).order.state is OrderState.CLOSED
    assert decide(CLOSING, ReportedNotFound(final_ms, 1)).order is CLOSING, "somebody holds a credential"


def test_the_channel_closing_by_itself_leaves_the_order_payable() -> None:
    order = told(PENDING, ReportedClosed(BORN_MS + 70, 1))
    assert order.state is OrderState.PAYING
    assert order.live_attempt is None
    assert told(order, pay()).attempts[1].state is AttemptState.SUBMITTING


# --- time -----------------------------------------------------------------------------------------------------------


def test_a_silent_payment_is_asked_after_at_30_then_10_20_30_seconds() -> None:
    order, asked_after_ms = PENDING, []
    for _ in range(5):
        assert order.next_check_at_ms is not None
        decision = decide(order, Due(order.next_check_at_ms))
        assert decision.effects == (Query(1),)
        asked_after_ms.append(order.next_check_at_ms - (BORN_MS + 1))
        order = decision.order
    assert asked_after_ms == [30_000, 40_000, 60_000, 90_000, 150_000]


def test_a_stale_timer_and_a_stale_claim_change_nothing() -> None:
    assert PENDING.next_check_at_ms is not None
    assert decide(PENDING, Due(PENDING.next_check_at_ms - 1)).order is PENDING
    assert decide(PENDING, Due(BORN_MS, claimed_version=PENDING.version - 1)).order is PENDING
    assert decide(PENDING, Due(BORN_MS, claimed_version=PENDING.version)).effects == (Query(1),)


def test_expiry_starts_the_close_protocol_and_silence_to_the_end_is_an_exception() -> None:
    order = PENDING
    states = []
    while order.state is not OrderState.EXCEPTION:
        assert order.next_check_at_ms is not None
        order = told(order, Due(order.next_check_at_ms))
        states.append(order.state)
    assert OrderState.CLOSING in states
    assert order.reason is Reason.UNKNOWN_OUTCOME
    assert order.next_check_at_ms is not None, "slow queries go on"
    assert told(order, paid_event(order.next_check_at_ms)).state is OrderState.PAID
    assert told(order, ReportedClosed(order.next_check_at_ms, 1)).state is OrderState.CLOSED
    assert told(order, ReportedNotPaid(order.next_check_at_ms, 1)).state is OrderState.CLOSING


def test_a_closed_order_is_watched_then_left_to_the_bill() -> None:
    order, moments = CLOSED, []
    while order.next_check_at_ms is not None:
        moments.append(order.next_check_at_ms - (BORN_MS + 70))
        decision = decide(order, Due(order.next_check_at_ms))
        assert decision.effects == (Query(1),)
        order = decision.order
    assert moments == list(SCHEDULE.watch_ms)


# --- anything, in any order -----------------------------------------------------------------------------------------

EVENTS = st.tuples(st.deferred(lambda: st.sampled_from(sorted(TELLS))), st.integers(1, 3))


TELLS: dict[str, Callable[[int, Any, Order], Event]] = {
    "pay": lambda at_ms, _, __: pay(at_ms),
    "close": lambda at_ms, _, __: CloseRequested(at_ms),
    "sync": lambda at_ms, _, __: SyncRequested(at_ms),
    "due": lambda at_ms, _, order: Due(at_ms, order.version),
    "stale": lambda at_ms, _, __: Due(at_ms - 1),
    "accepted": lambda at_ms, number, _: SubmitAccepted(at_ms, number, Credential("qr", "x", at_ms + 5000)),
    "refused": lambda at_ms, number, _: SubmitRefused(at_ms, number, "NO_AUTH", "no"),
    "unknown": lambda at_ms, number, _: OutcomeUnknown(at_ms, number, Verb.SUBMIT, "silence"),
    "not_paid": lambda at_ms, number, _: ReportedNotPaid(at_ms, number),
    "not_found": lambda at_ms, number, _: ReportedNotFound(at_ms, number),
    "closed": lambda at_ms, number, _: ReportedClosed(at_ms, number),
    "already": lambda at_ms, number, _: ReportedAlreadyPaid(at_ms, number),
    "paid": lambda at_ms, number, _: paid_event(at_ms, number=number, transaction=f"T{number}"),
    "paid_wrong": lambda at_ms, number, _: paid_event(at_ms, number=number, transaction=f"W{number}", amount=7),
    "paid_other": lambda at_ms, number, _: paid_event(at_ms, number=number, transaction=f"O{number}"),
}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(EVENTS, st.integers(1, 400_000)), max_size=40),
    st.sampled_from([LatePolicy.ACCEPT, LatePolicy.HOLD]),
)
def test_whatever_happens_no_promise_is_broken(history: list[tuple[tuple[str, Any], int]], policy: LatePolicy) -> None:
    order, now_ms, ever_paid = fresh(late_payment=policy), BORN_MS, False
    for (kind, number), delay_ms in history:
        now_ms += delay_ms
        before, decision = order, decide(order, TELLS[kind](now_ms, number, order))
        order = decision.order
        assert order is before or order.version == before.version + 1
        assert (decision.announce is None and decision.case is None) or order is not before
        assert order.payments[: len(before.payments)] == before.payments, "what was recorded stays recorded"
        credited = [payment for payment in order.payments if payment.kind is PaymentKind.CREDIT]
        assert len(credited) <= 1
        assert (order.state is OrderState.PAID) == bool(credited)
        assert all(payment.amount == order.content.amount for payment in credited)
        assert len({payment.transaction for payment in order.payments}) == len(order.payments)
        assert sum(attempt.live for attempt in order.attempts) <= 1
        assert not ever_paid or order.state is OrderState.PAID, "nothing downgrades paid"
        ever_paid = order.state is OrderState.PAID
        if order.live_attempt is not None and order.state in (OrderState.PAYING, OrderState.CLOSING):
            assert order.next_check_at_ms is not None, "a payment somebody may still make is never forgotten"
        if order.state is OrderState.CREATED:
            assert order.next_check_at_ms is not None


SAMPLES = [
    fresh(),
    fresh(late_payment=LatePolicy.HOLD),
    *(SUBMITTING, PENDING, UNKNOWN, CLOSING, CLOSED, PAID),
    told(PENDING, ReportedClosed(BORN_MS + 70, 1)),
    told(PENDING, paid_event(amount=99)),
    msgspec.structs.replace(CLOSED, content=msgspec.structs.replace(CONTENT, late_payment=LatePolicy.HOLD)),
    msgspec.structs.replace(CLOSING, state=OrderState.EXCEPTION, reason=Reason.UNKNOWN_OUTCOME),
    msgspec.structs.replace(CLOSING, step=len(SCHEDULE.closing_ms) - 1),
    told(UNKNOWN, CloseRequested(BORN_MS + 60)),
    msgspec.structs.replace(
        told(UNKNOWN, CloseRequested(BORN_MS + 60)), state=OrderState.EXCEPTION, reason=Reason.UNKNOWN_OUTCOME
    ),
]


def test_every_pair_of_state_and_event_is_decided_and_every_promised_state_is_reached() -> None:
    reached: dict[tuple[type[Event], OrderState], set[OrderState]] = {}
    for order in SAMPLES:
        for at_ms in (BORN_MS + 100, EXPIRES_MS + 900_000):
            for tell in TELLS.values():
                event = tell(at_ms, 1, order)
                left = {decide(order, event).order.state} - {order.state}
                reached.setdefault((type(event), order.state), set()).update(left)
    promised = {(event, state): set(rule.to) for event, rules in TRANSITIONS.items() for state, rule in rules.items()}
    assert reached == promised
