"""A payer changes their mind: the old attempt is closed at its channel before there is a new one."""

import msgspec
import pytest

from actors.effects import Close, Query, Submit
from actors.events import (
    CloseRequested,
    Due,
    Event,
    OutcomeUnknown,
    ReportedAlreadyPaid,
    ReportedClosed,
    ReportedNotClosable,
    ReportedNotFound,
    ReportedNotPaid,
    SubmitAccepted,
    SubmitRefused,
    SyncRequested,
    Verb,
)
from actors.order import ATTEMPTS_MAX, AttemptState, Order, OrderState, PaymentKind, Reply
from tests.unit.orders import (
    BORN_MS,
    CREDENTIAL,
    EXPIRES_MS,
    FINAL_MS,
    PENDING,
    SCHEDULE,
    SUBMITTING,
    UNKNOWN,
    decide,
    paid_event,
    pay,
    told,
)

AT_MS = BORN_MS + 5000
ALIPAY = pay(AT_MS, channel="alipay", account="2088", method="page")
AGAIN = msgspec.structs.replace(ALIPAY, tried_to_close=frozenset({1}))
SWITCHING = told(PENDING, ALIPAY)
SWITCHING_UNKNOWN = told(UNKNOWN, ALIPAY)


def test_what_was_closed_for_another_is_asked_after_too_a_payment_may_have_overtaken_the_close() -> None:
    closed = told(SWITCHING, ReportedClosed(AT_MS + 50, 1))
    assert closed.next_check_at_ms == AT_MS + 50 + SCHEDULE.watch_ms[0]
    assert decide(closed, Due(closed.next_check_at_ms)).effects == (Query(1),)
    both = told(closed, ALIPAY, SubmitAccepted(AT_MS + 99, 2, CREDENTIAL))
    assert both.next_check_at_ms is not None
    for event in (Due(both.next_check_at_ms), SyncRequested(AT_MS + 999)):
        assert decide(both, event).effects == (Query(1), Query(2))
    for said in (ReportedClosed(AT_MS + 999, 1), ReportedNotPaid(AT_MS + 999, 1, contested=False)):
        assert decide(both, said).order is both
    paid = decide(both, paid_event(AT_MS + 999))
    assert (paid.order.state, paid.effects) == (OrderState.PAID, (Close(2),))


@pytest.mark.parametrize("order", [PENDING, UNKNOWN, SUBMITTING])
@pytest.mark.parametrize(
    "wish",
    [
        ALIPAY,
        pay(AT_MS, method="jsapi"),
        pay(AT_MS, params_json='{"openid":"x"}'),
        pay(AT_MS, account="other/a"),
    ],
)
def test_any_other_payment_closes_the_live_one_first(order: Order, wish: Event) -> None:
    decision = decide(order, wish)
    assert (decision.reply, decision.effects) == (Reply.WAIT, (Close(1),))
    after = decision.order
    assert (after.state, len(after.attempts), after.attempts[0].state) == (OrderState.PAYING, 1, AttemptState.CLOSING)
    assert after.attempts[0].credential == order.attempts[0].credential
    assert after.next_check_at_ms == AT_MS + SCHEDULE.queries_ms[0]


def test_once_its_channel_has_closed_it_the_next_attempt_begins() -> None:
    free = told(SWITCHING, ReportedClosed(AT_MS + 50, 1))
    assert (free.state, free.live_attempt) == (OrderState.PAYING, None)
    decision = decide(free, AGAIN)
    assert (decision.reply, decision.effects) == (Reply.WAIT, (Submit(2),))
    second = decision.order.attempts[1]
    assert (second.number, second.channel, second.method) == (2, "alipay", "page")
    assert (second.state, second.started_at_ms) == (AttemptState.SUBMITTING, AT_MS)


def test_if_it_was_paid_already_the_order_is_paid() -> None:
    decision = decide(SWITCHING, ReportedAlreadyPaid(AT_MS + 50, 1))
    assert decision.effects == (Query(1, contested=True),)
    paid = told(decision.order, paid_event(AT_MS + 99))
    assert paid.state is OrderState.PAID
    assert decide(paid, AGAIN).reply is Reply.ORDER_PAID


@pytest.mark.parametrize("word", [ReportedNotClosable(AT_MS + 50, 1), ReportedNotFound(AT_MS + 50, 1)])
def test_what_can_not_be_closed_is_as_it_was_before(word: Event) -> None:
    """It may still be scanned, so there is no second one; who asked is told so, and does not try again at once."""
    back = told(SWITCHING, word)
    assert back.attempts == PENDING.attempts
    assert back.next_check_at_ms is not None
    refused = decide(back, AGAIN)
    assert (refused.order, refused.reply, refused.effects) == (back, Reply.PAYMENT_IN_PROGRESS, ())
    assert decide(back, pay(AT_MS + 60)).reply is Reply.DONE, "the old credential is good"
    assert decide(back, ALIPAY).effects == (Close(1),), "another request may try again"


def test_what_nobody_can_open_any_more_makes_room() -> None:
    """A code of two hours in an order of days: not found after its expiry is final."""
    long = msgspec.structs.replace(PENDING, expires_at_ms=EXPIRES_MS + 10 * SCHEDULE.not_found_final_ms)
    late = msgspec.structs.replace(ALIPAY, at_ms=FINAL_MS)
    free = told(long, late, ReportedNotFound(FINAL_MS + 50, 1))
    assert (free.state, free.live_attempt) == (OrderState.PAYING, None)
    assert decide(free, late).effects == (Submit(2),)


def test_while_nobody_knows_it_stays_in_closing_and_is_asked_after() -> None:
    assert decide(SWITCHING, OutcomeUnknown(AT_MS + 50, 1, Verb.CLOSE, "silence")).order is SWITCHING
    waiting = decide(SWITCHING, AGAIN)
    assert (waiting.order, waiting.reply, waiting.effects) == (SWITCHING, Reply.WAIT, (Query(1),))
    assert SWITCHING.next_check_at_ms is not None
    due = decide(SWITCHING, Due(SWITCHING.next_check_at_ms))
    assert due.effects == (Query(1),)
    assert decide(due.order, ReportedNotPaid(AT_MS + 20_000, 1)).effects == (Close(1),)


def test_a_submission_on_its_way_here_is_let_arrive_first() -> None:
    wish = msgspec.structs.replace(ALIPAY, in_flight=frozenset({1}))
    waiting = decide(SUBMITTING, wish)
    assert (waiting.order, waiting.reply, waiting.effects) == (SUBMITTING, Reply.WAIT, ())
    assert decide(PENDING, wish).reply is Reply.WAIT, "a renewal of it is on its way"


def test_a_submission_that_arrives_while_it_is_closed_is_closed_again() -> None:
    """Sent by another process: the close came too early to find anything."""
    closing = told(SUBMITTING, ALIPAY, ReportedNotFound(AT_MS + 50, 1))
    assert closing.attempts[0].state is AttemptState.CLOSING, "a request may still be on its way"
    decision = decide(closing, SubmitAccepted(AT_MS + 90, 1, CREDENTIAL))
    assert decision.effects == (Close(1),)
    attempt = decision.order.attempts[0]
    assert (attempt.state, attempt.credential) == (AttemptState.CLOSING, CREDENTIAL)


def test_a_submission_refused_while_it_is_closed_is_out_of_the_way() -> None:
    refused = told(SUBMITTING, ALIPAY, SubmitRefused(AT_MS + 50, 1, "NO_AUTH", "no"))
    assert refused.attempts[0].state is AttemptState.FAILED
    assert decide(refused, AGAIN).effects == (Submit(2),)
    assert told(SWITCHING, SubmitRefused(AT_MS + 50, 1, "NO_AUTH", "no")) is SWITCHING, "somebody holds a credential"


def test_not_found_of_what_nobody_holds_is_no_word_until_it_is_final() -> None:
    assert decide(SWITCHING_UNKNOWN, ReportedNotFound(AT_MS + 50, 1)).order is SWITCHING_UNKNOWN
    assert decide(SWITCHING_UNKNOWN, ReportedNotClosable(AT_MS + 50, 1)).order is SWITCHING_UNKNOWN
    final_ms = BORN_MS + 1 + SCHEDULE.not_found_final_ms
    assert told(SWITCHING_UNKNOWN, ReportedNotFound(final_ms, 1)).live_attempt is None


def test_who_comes_back_to_what_is_being_closed_waits_for_the_channels_word() -> None:
    waiting = decide(SWITCHING, pay(AT_MS + 50))
    assert (waiting.order, waiting.reply, waiting.effects) == (SWITCHING, Reply.WAIT, (Query(1),))
    assert decide(told(SWITCHING, ReportedClosed(AT_MS + 60, 1)), pay(AT_MS + 70)).effects == (Submit(2),)
    assert decide(told(SWITCHING, ReportedNotClosable(AT_MS + 60, 1)), pay(AT_MS + 70)).reply is Reply.DONE


def test_who_comes_back_to_what_nobody_ever_held_takes_it_up_again() -> None:
    """The channel was away; to be sure that it never was would take long."""
    decision = decide(SWITCHING_UNKNOWN, pay(AT_MS + 50))
    assert decision.effects == (Query(1),)
    assert decision.order.attempts[0].state is AttemptState.UNKNOWN
    assert decide(decision.order, ReportedNotFound(AT_MS + 60, 1)).effects == (Submit(1),)
    assert decide(decision.order, AGAIN).reply is Reply.PAYMENT_IN_PROGRESS, "who wanted it closed was not heard"


def test_the_app_may_close_the_order_meanwhile() -> None:
    decision = decide(SWITCHING, CloseRequested(AT_MS + 50))
    assert (decision.order.state, decision.effects) == (OrderState.CLOSING, (Close(1),))
    assert told(decision.order, ReportedClosed(AT_MS + 60, 1)).state is OrderState.CLOSED


def test_expiry_ends_it_like_any_other() -> None:
    assert decide(SWITCHING, msgspec.structs.replace(AGAIN, at_ms=EXPIRES_MS)).reply is Reply.ORDER_EXPIRED
    assert told(SWITCHING, Due(EXPIRES_MS)).state is OrderState.CLOSING
    assert told(PENDING, msgspec.structs.replace(ALIPAY, at_ms=EXPIRES_MS)).state is OrderState.CLOSING


def test_nothing_is_closed_for_an_attempt_that_could_not_follow() -> None:
    attempts = tuple(msgspec.structs.replace(PENDING.attempts[0], number=n + 1) for n in range(ATTEMPTS_MAX))
    ended = [msgspec.structs.replace(attempt, state=AttemptState.CLOSED) for attempt in attempts[:-1]]
    order = msgspec.structs.replace(PENDING, attempts=(*ended, attempts[-1]))
    decision = decide(order, ALIPAY)
    assert (decision.order, decision.reply) == (order, Reply.ATTEMPTS_EXHAUSTED)


def test_a_late_payment_of_the_closed_attempt_is_excess_once_the_second_was_paid() -> None:
    second = told(SWITCHING, ReportedClosed(AT_MS + 50, 1), AGAIN, SubmitAccepted(AT_MS + 60, 2, CREDENTIAL))
    facts = {"number": 2, "channel": "alipay", "account": "2088", "transaction": "A1"}
    paid = told(second, paid_event(AT_MS + 100, **facts))
    assert paid.state is OrderState.PAID
    late = told(paid, paid_event(AT_MS + 200))
    assert [payment.kind for payment in late.payments] == [PaymentKind.CREDIT, PaymentKind.EXCESS]
    assert late.paid_amount == 100


def test_a_late_payment_of_the_closed_attempt_ends_the_second() -> None:
    second = told(SWITCHING, ReportedClosed(AT_MS + 50, 1), AGAIN, SubmitAccepted(AT_MS + 60, 2, CREDENTIAL))
    decision = decide(second, paid_event(AT_MS + 100))
    assert (decision.order.state, decision.effects) == (OrderState.PAID, (Close(2),))
