"""The order's life, rule by rule, on plain values."""

from itertools import pairwise
from typing import Any

import msgspec
import pytest

from actors.deadlines import Schedule
from actors.effects import Close, Query, Submit, SubmitRefund
from actors.events import (
    CloseRequested,
    Credential,
    CredentialType,
    Due,
    Event,
    OutcomeUnknown,
    ReportedAlreadyPaid,
    ReportedClosed,
    ReportedDebited,
    ReportedNotClosable,
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
    LatePolicy,
    Order,
    OrderState,
    PaymentKind,
    Reason,
    Reply,
)
from tests.unit.orders import (
    BORN_MS,
    CLOSED,
    CLOSING,
    CREDENTIAL,
    EXPIRES_MS,
    FINAL_MS,
    PAID,
    PENDING,
    SCHEDULE,
    SUBMITTING,
    UNKNOWN,
    decide,
    fresh,
    paid_event,
    pay,
    qr,
    told,
)


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
    decision = decide(told(SUBMITTING, SubmitAccepted(BORN_MS + 50, 1, qr(BORN_MS + 60))), pay(BORN_MS + 61))
    assert decision.effects == (Submit(1),)
    assert len(decision.order.attempts) == 1


def test_where_a_channel_renews_nothing_an_expired_credential_makes_room_for_a_new_attempt() -> None:
    """Alipay refuses the same number: sending it again would push the moment ahead at which *not found* is final."""
    long = msgspec.structs.replace(fresh(), expires_at_ms=EXPIRES_MS + 100 * SCHEDULE.not_found_final_ms)
    shown = told(long, pay(), SubmitAccepted(BORN_MS + 50, 1, qr(BORN_MS + 60)))
    soon = pay(BORN_MS + 61, renewable=False)
    assert decide(shown, soon).effects == (Close(1),)
    back = told(shown, soon, ReportedNotFound(BORN_MS + 70, 1))
    assert back.attempts == shown.attempts
    late_ms = BORN_MS + 60 + SCHEDULE.not_found_final_ms
    late = msgspec.structs.replace(soon, at_ms=late_ms)
    free = told(back, late, ReportedNotFound(late_ms + 1, 1))
    assert decide(free, late).effects == (Submit(2),)


def test_a_payer_who_was_asked_by_the_channel_is_not_asked_again_however_long_it_takes() -> None:
    """A bar code: there is nothing to show, so nothing that could have expired."""
    asked = told(SUBMITTING, SubmitAccepted(BORN_MS + 50, 1, Credential(CredentialType.NONE, "", BORN_MS + 60)))
    for at_ms in (BORN_MS + 51, BORN_MS + 61, EXPIRES_MS - 1):
        decision = decide(asked, pay(at_ms))
        assert (decision.order, decision.reply, decision.effects) == (asked, Reply.DONE, ())


def test_an_attempt_keeps_its_first_moment_however_often_it_is_sent() -> None:
    again = told(UNKNOWN, ReportedNotFound(BORN_MS + 100, 1), OutcomeUnknown(BORN_MS + 150, 1, Verb.SUBMIT, "silence"))
    again = told(again, ReportedNotFound(BORN_MS + 200, 1))
    attempt = again.attempts[0]
    assert (attempt.submits, attempt.started_at_ms, attempt.submitted_at_ms) == (3, BORN_MS + 1, BORN_MS + 200)


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
    shown = told(SUBMITTING, SubmitAccepted(BORN_MS + 50, 1, qr(BORN_MS + 60)))
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
    assert (decision.announce, decision.case) == (Announcement.PAYMENT_DUPLICATE, None)
    refund = decision.order.refunds[-1]
    assert (refund.transaction, refund.amount, refund.cause) == ("T2", decision.order.content.amount, "excess")
    assert decision.effects == (SubmitRefund(refund.refund_id),)


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
    ended = told(decision.order, ReportedClosed(BORN_MS + 9999, 2))
    assert ended.next_check_at_ms == BORN_MS + 9999 + SCHEDULE.watch_ms[0], "it is closed, and watched"


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
    assert decide(CLOSING, ReportedNotClosable(BORN_MS + 70, 1)).order is CLOSING
    assert decide(CLOSING, ReportedAlreadyPaid(BORN_MS + 70, 1)).effects == (Query(1, contested=True),)
    assert CLOSED.state is OrderState.CLOSED
    assert CLOSED.next_check_at_ms == BORN_MS + 70 + SCHEDULE.watch_ms[0]


def test_a_channel_that_says_paid_and_then_not_paid_is_asked_again_later_and_not_at_once() -> None:
    decision = decide(CLOSING, ReportedNotPaid(BORN_MS + 70, 1, contested=True))
    assert (decision.order, decision.effects) == (CLOSING, ())


def test_not_found_closes_what_nobody_could_pay_and_only_long_after() -> None:
    never_answered = told(UNKNOWN, CloseRequested(BORN_MS + 60))
    assert decide(never_answered, ReportedNotFound(BORN_MS + 70, 1)).order is never_answered
    final_ms = CLOSING.attempts[0].submitted_at_ms + SCHEDULE.not_found_final_ms
    assert decide(never_answered, ReportedNotFound(final_ms - 1, 1)).order is never_answered
    assert decide(never_answered, ReportedNotFound(final_ms, 1)).order.state is OrderState.CLOSED
    assert decide(CLOSING, ReportedNotFound(final_ms, 1)).order is CLOSING, "somebody holds a credential"


@pytest.mark.parametrize("state", [OrderState.CLOSING, OrderState.EXCEPTION])
def test_not_found_closes_what_can_not_be_opened_any_more(state: OrderState) -> None:
    """Alipay and UnionPay know nothing of an attempt before the payer opens it: until then that says nothing."""
    reason = Reason.UNKNOWN_OUTCOME if state is OrderState.EXCEPTION else None
    order = msgspec.structs.replace(CLOSING, state=state, reason=reason)
    assert decide(order, ReportedNotFound(FINAL_MS - 1, 1)).order is order
    assert decide(order, ReportedNotFound(FINAL_MS, 1)).order.state is OrderState.CLOSED


def test_not_found_is_not_final_while_a_fresh_submission_may_be_on_its_way() -> None:
    """Its old credential has long expired; that of the submission which nobody answered has not."""
    shown = told(SUBMITTING, SubmitAccepted(BORN_MS + 50, 1, qr(BORN_MS + 60)))
    again_ms = BORN_MS + 1_000_000
    order = told(shown, pay(again_ms), CloseRequested(again_ms + 1))
    assert decide(order, ReportedNotFound(again_ms + 5, 1)).order is order
    final_ms = again_ms + SCHEDULE.not_found_final_ms
    assert decide(order, ReportedNotFound(final_ms, 1)).order.state is OrderState.CLOSED


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
    again = decide(order, ReportedNotPaid(order.next_check_at_ms, 1))
    assert (again.order, again.effects) == (order, (Close(1),)), "it is closed once more, and stays one case"


def looks(order: Order, *answers: Event) -> tuple[Order, list[int]]:
    """The order looked after until it needs no more checks or is in exception; when its channel was asked.

    The channel gives the last of `answers` that it has come to by then, each at its `at_ms`.
    """
    asked_at_ms: list[int] = []
    while order.next_check_at_ms is not None and order.state is not OrderState.EXCEPTION:
        at_ms = order.next_check_at_ms
        decision = decide(order, Due(at_ms))
        order = decision.order
        if decision.effects == (Query(1),):
            asked_at_ms.append(at_ms)
            known = [answer for answer in answers if answer.at_ms <= at_ms]
            if known and order.live_attempt is not None:
                order = told(order, msgspec.structs.replace(known[-1], at_ms=at_ms + 50))
    return order, asked_at_ms


@pytest.mark.parametrize("said", [ReportedNotPaid(0, 1), ReportedNotFound(0, 1), OutcomeUnknown(0, 1, Verb.QUERY, "x")])
def test_a_close_outlasts_what_the_payer_holds(said: Event) -> None:
    """UnionPay closes nothing: an order closed by its app at minute 1 is closing until the expiry, then closed."""
    order, asked_at_ms = looks(CLOSING, said, ReportedClosed(EXPIRES_MS, 1))
    assert order.state is OrderState.CLOSED
    assert order.closed_at_ms == EXPIRES_MS + 50, "looked at as the moment came"
    assert max(b - a for a, b in pairwise(asked_at_ms[: -len(SCHEDULE.watch_ms)])) <= SCHEDULE.closing_ms[-1]


def test_a_qr_code_that_nobody_scanned_closes_as_soon_as_nobody_can() -> None:
    """Alipay never hears of it: not found is final when no scan can follow any more."""
    order, asked_at_ms = looks(CLOSING, ReportedNotFound(0, 1))
    assert (order.state, order.closed_at_ms) == (OrderState.CLOSED, FINAL_MS + 50)
    assert EXPIRES_MS in asked_at_ms


def test_silence_after_all_could_have_ended_is_an_exception_and_not_before() -> None:
    order, asked_at_ms = looks(CLOSING)
    assert (order.state, order.reason) == (OrderState.EXCEPTION, Reason.UNKNOWN_OUTCOME)
    assert FINAL_MS in asked_at_ms
    assert asked_at_ms[-1] < FINAL_MS + 2 * SCHEDULE.closing_ms[-1]


def test_without_a_credential_the_order_s_own_expiry_is_waited_for() -> None:
    order, _ = looks(told(UNKNOWN, CloseRequested(BORN_MS + 60)), ReportedNotPaid(0, 1), ReportedClosed(EXPIRES_MS, 1))
    assert (order.state, order.closed_at_ms) == (OrderState.CLOSED, EXPIRES_MS + 50)


def test_a_short_ladder_is_repeated_too() -> None:
    impatient = Schedule(closing_ms=(60_000,))
    order = transition(PENDING, CloseRequested(BORN_MS + 60), impatient).order
    while order.state is OrderState.CLOSING:
        assert order.next_check_at_ms is not None
        at_ms = order.next_check_at_ms
        order = transition(order, Due(at_ms), impatient).order
    assert at_ms >= FINAL_MS + 60_000


def test_a_paid_order_is_as_patient_with_its_other_attempt() -> None:
    """No case for people while the attempt that can not be closed may still end by itself."""
    second = told(PENDING, ReportedClosed(BORN_MS + 70, 1), pay(), SubmitAccepted(BORN_MS + 80, 2, CREDENTIAL))
    order = told(second, paid_event(), ReportedNotClosable(BORN_MS + 9100, 2))
    cases = []
    while order.next_check_at_ms is not None and order.next_check_at_ms < FINAL_MS:
        decision = decide(order, Due(order.next_check_at_ms))
        cases.append(decision.case)
        order = told(decision.order, ReportedNotFound(order.next_check_at_ms + 50, 2))
    assert set(cases) == {None}
    assert order.next_check_at_ms == FINAL_MS
    ended = told(order, ReportedNotFound(FINAL_MS, 2))
    assert (ended.state, ended.live_attempt) == (OrderState.PAID, None)
    silent, seen = order, None
    while seen is None:
        assert silent.next_check_at_ms is not None
        decision = decide(silent, Due(silent.next_check_at_ms))
        silent, seen = decision.order, decision.case
    assert seen is Reason.UNCLOSED_ATTEMPT


def test_a_paid_order_watches_the_attempt_that_was_closed_to_make_room() -> None:
    """A channel may take money for it after all, and the notification of that may be lost."""
    second = told(PENDING, ReportedClosed(BORN_MS + 70, 1), pay(), SubmitAccepted(BORN_MS + 80, 2, CREDENTIAL))
    order = told(second, paid_event(number=2))
    learned_ms, moments = BORN_MS + 9000, []
    assert decide(order, SyncRequested(learned_ms)).effects == (Query(1),)
    excess = told(order, paid_event(BORN_MS + 9999, transaction="T2"))
    assert [payment.kind for payment in excess.payments] == [PaymentKind.CREDIT, PaymentKind.EXCESS]
    assert decide(order, ReportedNotPaid(learned_ms, 1)).effects == (Close(1),)
    while order.next_check_at_ms is not None:
        moments.append(order.next_check_at_ms - learned_ms)
        decision = decide(order, Due(order.next_check_at_ms))
        assert (decision.effects, decision.case) == ((Query(1),), None)
        order = decision.order
    assert moments == list(SCHEDULE.watch_ms)
    assert PAID.next_check_at_ms is None, "there is nothing to watch where there was one attempt"


def test_a_debit_after_closed_is_never_silence() -> None:
    """UnionPay: debited but after the payment time, posting unknown: no payment to credit, and nothing to forget."""
    decision = decide(CLOSED, ReportedDebited(BORN_MS + 99_000, 1, "42"))
    after = decision.order
    assert (after.state, after.reason, decision.case) == (OrderState.EXCEPTION, *2 * (Reason.UNKNOWN_OUTCOME,))
    assert decision.announce is Announcement.ORDER_EXCEPTION
    assert after.next_check_at_ms is not None
    assert decide(after, Due(after.next_check_at_ms)).effects == (Query(1),)
    assert decide(after, ReportedDebited(BORN_MS + 99_001, 1, "42")).order is after, "one case"
    assert told(after, paid_event(BORN_MS + 99_002)).state is OrderState.PAID


def test_what_is_neither_paid_nor_closable_is_one_case_and_comes_to_an_end() -> None:
    order, cases = CLOSING, 0
    while order.next_check_at_ms is not None:
        at_ms = order.next_check_at_ms
        decision = decide(order, Due(at_ms))
        cases += decision.case is not None
        order = told(decision.order, ReportedNotPaid(at_ms + 10, 1), ReportedNotClosable(at_ms + 20, 1))
    assert (order.state, cases) == (OrderState.EXCEPTION, 1)


def test_a_closed_order_is_watched_then_left_to_the_bill() -> None:
    order, moments = CLOSED, []
    while order.next_check_at_ms is not None:
        moments.append(order.next_check_at_ms - (BORN_MS + 70))
        decision = decide(order, Due(order.next_check_at_ms))
        assert decision.effects == (Query(1),)
        order = decision.order
    assert moments == list(SCHEDULE.watch_ms)
