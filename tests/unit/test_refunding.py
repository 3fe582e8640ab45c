"""Refunds, rule by rule, on plain values."""

import msgspec
import pytest

from actors.deadlines import STEP_MAX
from actors.effects import QueryRefund, SubmitRefund
from actors.events import (
    Event,
    RefundNotFound,
    RefundOutcomeUnknown,
    RefundRefused,
    RefundReported,
    RefundRequested,
    RefundsDue,
    RefundWord,
    ReportedClosed,
    Source,
)
from actors.order import (
    Announcement,
    LatePolicy,
    Order,
    OrderState,
    PaymentKind,
    Reason,
    Refund,
    RefundCause,
    RefundState,
    Reply,
    Settlement,
)
from actors.refunding import REFUNDS_MAX, SUBMITTING, TOO_LATE, UNKNOWN
from tests.unit.orders import BORN_MS, CLOSED, CLOSING, PAID, PENDING, SCHEDULE, decide, fresh, paid_event, pay, told

AT_MS = BORN_MS + 20_000
ASKED = RefundRequested(AT_MS, "B1", 40, "broken")
REFUNDING = told(PAID, ASKED)
EXCESS = told(PAID, paid_event(AT_MS, transaction="T2"))


def only(order: Order) -> Refund:
    (refund,) = order.refunds
    return refund


def word(order: Order, said: RefundWord, at_ms: int = AT_MS + 500, amount: int | None = None) -> RefundReported:
    refund = only(order)
    return RefundReported(at_ms, refund.refund_id, Source.QUERY, refund.channel, refund.account, said, amount)


def unknown(order: Order) -> Order:
    return told(order, RefundOutcomeUnknown(AT_MS + 100, only(order).refund_id, "silence"))


# --- asking ---------------------------------------------------------------------------------------------------------


def test_a_refund_is_written_down_before_its_channel_hears_of_it() -> None:
    decision = decide(PAID, ASKED)
    refund = only(decision.order)
    assert (refund.state, refund.amount, refund.out_refund_no, refund.cause) == (SUBMITTING, 40, "B1", RefundCause.APP)
    assert decision.order.refunded_amount == 40
    assert decision.effects == (SubmitRefund(refund.refund_id),)
    assert len(refund.refund_id) == 32
    assert refund.refund_id.isalnum()


def test_the_same_number_again_is_the_same_refund() -> None:
    decision = decide(REFUNDING, msgspec.structs.replace(ASKED, at_ms=AT_MS + 9))
    assert (decision.order, decision.reply, decision.effects) == (REFUNDING, Reply.DONE, ())


@pytest.mark.parametrize("changed", [{"amount": 41}, {"reason": "other"}])
def test_the_same_number_for_another_refund_is_refused(changed: dict[str, object]) -> None:
    decision = decide(REFUNDING, msgspec.structs.replace(ASKED, **changed))
    assert (decision.order, decision.reply) == (REFUNDING, Reply.REFUND_CONFLICT)


@pytest.mark.parametrize("amount", [61, 100, 10**12])
def test_never_more_than_was_paid_goes_back(amount: int) -> None:
    decision = decide(REFUNDING, RefundRequested(AT_MS, "B2", amount))
    assert (decision.order, decision.reply) == (REFUNDING, Reply.REFUND_EXCEEDS_PAID)


def test_several_refunds_at_once_add_up_to_all_that_was_paid() -> None:
    full = told(REFUNDING, RefundRequested(AT_MS, "B2", 25), RefundRequested(AT_MS, "B3", 35))
    assert full.refunded_amount == 100
    assert decide(full, RefundRequested(AT_MS, "B4", 1)).reply is Reply.REFUND_EXCEEDS_PAID
    assert len({refund.refund_id for refund in full.refunds}) == 3


def test_a_refund_that_failed_makes_room_again() -> None:
    failed = told(REFUNDING, RefundRefused(AT_MS, only(REFUNDING).refund_id, "NOT_ENOUGH", "no balance"))
    assert (only(failed).state, failed.refunded_amount) == (RefundState.FAILED, 0)
    assert decide(failed, RefundRequested(AT_MS, "B2", 100)).reply is Reply.WAIT


@pytest.mark.parametrize("order", [fresh(), PENDING, CLOSING, CLOSED, told(PENDING, paid_event(amount=99))])
def test_only_a_paid_order_is_refunded(order: Order) -> None:
    assert (decide(order, ASKED).order, decide(order, ASKED).reply) == (order, Reply.ORDER_NOT_PAID)


def test_a_payment_has_a_limit_of_refunds_and_the_next_one_has_its_own() -> None:
    order = PAID
    for number in range(REFUNDS_MAX):
        order = told(order, RefundRequested(AT_MS, f"B{number}", 1))
    assert decide(order, RefundRequested(AT_MS, "more", 1)).reply is Reply.REFUNDS_EXHAUSTED
    excess = decide(order, paid_event(AT_MS, transaction="T2"))
    assert (excess.order.payments[-1].kind, excess.order.refunds[-1].cause) == (PaymentKind.EXCESS, RefundCause.EXCESS)


# --- money that nobody may keep -------------------------------------------------------------------------------------


def test_excess_goes_back_in_the_commit_that_learns_of_it() -> None:
    decision = decide(PAID, paid_event(AT_MS, transaction="T2"))
    refund = only(decision.order)
    assert (refund.cause, refund.transaction, refund.amount) == (RefundCause.EXCESS, "T2", 100)
    assert (decision.effects, decision.about) == ((SubmitRefund(refund.refund_id),), refund.refund_id)
    assert decision.order.refunded_amount == 0, "the credit is not touched"


def test_the_number_of_an_excess_follows_from_its_transaction_alone() -> None:
    """A database that has forgotten the payment gives it back under the number that the channel knows already."""
    forgetful = told(PENDING, paid_event(AT_MS + 5, transaction="T9"), paid_event(AT_MS + 77, transaction="T2"))
    assert only(forgetful).refund_id == only(EXCESS).refund_id
    other = told(PAID, paid_event(AT_MS, transaction="T3"))
    assert only(other).refund_id != only(EXCESS).refund_id


def test_the_same_excess_again_moves_nothing() -> None:
    assert decide(EXCESS, paid_event(AT_MS + 9, transaction="T2")).order is EXCESS


def test_a_late_payment_goes_back_if_the_app_wants_it_so() -> None:
    closed = told(fresh(late_payment=LatePolicy.REFUND), pay(), ReportedClosed(BORN_MS + 70, 1))
    closed = msgspec.structs.replace(closed, state=OrderState.CLOSED, closed_at_ms=BORN_MS + 70)
    decision = decide(closed, paid_event(AT_MS))
    assert (decision.order.state, only(decision.order).cause) == (OrderState.CLOSED, RefundCause.LATE)
    assert (decision.announce, decision.order.paid_amount) == (Announcement.ORDER_LATE_PAYMENT, 0)


# --- what the channel says ------------------------------------------------------------------------------------------


def test_success_ends_it_and_the_app_hears() -> None:
    decision = decide(REFUNDING, word(REFUNDING, RefundWord.SUCCEEDED, amount=40))
    assert (only(decision.order).state, only(decision.order).next_check_at_ms) == (RefundState.SUCCEEDED, None)
    assert (decision.announce, decision.about) == (Announcement.REFUND_SUCCEEDED, only(REFUNDING).refund_id)
    assert decide(decision.order, word(REFUNDING, RefundWord.SUCCEEDED)).order is decision.order


def test_silence_is_never_a_failure() -> None:
    order = unknown(REFUNDING)
    assert (only(order).state, order.refunded_amount) == (UNKNOWN, 40)


def test_unknown_to_the_channel_is_sent_again_under_its_number() -> None:
    decision = decide(unknown(REFUNDING), RefundNotFound(AT_MS + 200, only(REFUNDING).refund_id))
    assert (only(decision.order).state, only(decision.order).submits) == (SUBMITTING, 2)
    assert decision.effects == (SubmitRefund(only(REFUNDING).refund_id),)


def test_a_no_to_a_second_sending_asks_what_became_of_the_first() -> None:
    """It may have been taken: then the channel finds it."""
    refund_id = only(REFUNDING).refund_id
    twice = told(unknown(REFUNDING), RefundNotFound(AT_MS + 200, refund_id))
    decision = decide(twice, RefundRefused(AT_MS + 300, refund_id, "EXCEEDED", "more than is left"))
    assert (only(decision.order).state, decision.effects) == (UNKNOWN, (QueryRefund(refund_id),))
    found = told(decision.order, word(REFUNDING, RefundWord.SUCCEEDED))
    assert only(found).state is RefundState.SUCCEEDED
    early = told(decision.order, RefundNotFound(AT_MS + 400, refund_id))
    assert (only(early).state, early.refunded_amount) == (UNKNOWN, 40), "the first may still be on its way"
    assert decide(early, RefundRequested(AT_MS + 500, "B2", 61)).reply is Reply.REFUND_EXCEEDS_PAID
    final_ms = only(decision.order).submitted_at_ms + SCHEDULE.not_found_final_ms
    assert (only(early).next_check_at_ms or 0) <= final_ms
    patient = told(decision.order, RefundsDue(final_ms - 5000))
    assert only(told(patient, RefundNotFound(final_ms - 1, refund_id))).next_check_at_ms == final_ms
    gone = told(early, RefundNotFound(final_ms, refund_id))
    assert (only(gone).state, only(gone).failure_code, gone.refunded_amount) == (RefundState.FAILED, "EXCEEDED", 0)
    too_late = told(twice, RefundRefused(AT_MS + 300, refund_id, TOO_LATE, "never sent"))
    assert only(told(too_late, RefundNotFound(AT_MS + 400, refund_id))).state is RefundState.FAILED


def test_what_the_channel_has_taken_is_not_sent_again() -> None:
    processing = told(REFUNDING, word(REFUNDING, RefundWord.PROCESSING))
    assert only(processing).state is RefundState.PROCESSING
    refund_id = only(REFUNDING).refund_id
    for event in (RefundNotFound(AT_MS, refund_id), RefundRefused(AT_MS, refund_id, "NO", "no")):
        assert decide(processing, event).order is processing


def test_success_can_be_taken_back_by_the_channel_alone() -> None:
    succeeded = told(REFUNDING, word(REFUNDING, RefundWord.SUCCEEDED))
    decision = decide(succeeded, word(REFUNDING, RefundWord.FAILED))
    assert (only(decision.order).state, decision.order.refunded_amount) == (RefundState.REVERSED, 0)
    assert (decision.announce, decision.case) == (Announcement.REFUND_REVERSED, Reason.REFUND_REVERSED)
    refund_id = only(REFUNDING).refund_id
    others: list[Event] = [
        word(REFUNDING, RefundWord.PROCESSING),
        RefundNotFound(AT_MS, refund_id),
        RefundRefused(AT_MS, refund_id, "NO", "no"),
        RefundOutcomeUnknown(AT_MS, refund_id, "silence"),
        RefundsDue(AT_MS + 10**9),
    ]
    assert all(decide(succeeded, event).order is succeeded for event in others)


def test_a_late_success_of_a_failed_refund_counts_if_there_is_room() -> None:
    failed = told(REFUNDING, word(REFUNDING, RefundWord.FAILED))
    assert told(failed, word(REFUNDING, RefundWord.SUCCEEDED)).refunded_amount == 40
    full = told(failed, RefundRequested(AT_MS, "B2", 100))
    decision = decide(full, word(failed, RefundWord.SUCCEEDED))
    assert (decision.case, decision.order.refunded_amount) == (Reason.REFUND_BEYOND_PAID, 100)
    assert decide(decision.order, word(failed, RefundWord.SUCCEEDED)).order is decision.order, (
        "one case, not one a look"
    )


@pytest.mark.parametrize(("order", "case"), [(REFUNDING, None), (EXCESS, Reason.REFUND_FAILED)])
def test_what_we_owe_somebody_and_can_not_give_back_is_for_people(order: Order, case: Reason | None) -> None:
    decision = decide(order, word(order, RefundWord.FAILED))
    assert (decision.announce, decision.case) == (Announcement.REFUND_FAILED, case)


def test_an_owed_refund_that_could_not_be_sent_in_time_is_begun_anew() -> None:
    """As at UnionPay, where a number is taken for five minutes: nobody has to help after an outage."""
    refund_id = only(EXCESS).refund_id
    refused = RefundRefused(AT_MS + 900_000, refund_id, TOO_LATE, "its txnTime has passed")
    lost = told(
        EXCESS, RefundOutcomeUnknown(AT_MS, refund_id, "silence"), RefundNotFound(AT_MS + 9, refund_id), refused
    )
    decision = decide(lost, RefundNotFound(AT_MS + 900_009, refund_id))
    old, new = decision.order.refunds
    assert (old.state, new.state, new.cause) == (RefundState.FAILED, SUBMITTING, RefundCause.EXCESS)
    assert (new.amount, new.transaction, new.started_at_ms) == (old.amount, old.transaction, AT_MS + 900_009)
    assert new.refund_id != old.refund_id
    assert (decision.effects, decision.case, decision.announce) == ((SubmitRefund(new.refund_id),), None, None)


def test_what_an_app_asked_for_and_could_not_be_sent_in_time_it_can_ask_for_again() -> None:
    decision = decide(REFUNDING, RefundRefused(AT_MS, only(REFUNDING).refund_id, TOO_LATE, "its txnTime has passed"))
    assert (only(decision.order).state, decision.announce) == (RefundState.FAILED, Announcement.REFUND_FAILED)


def test_a_refund_that_the_app_was_refused_keeps_no_case_open() -> None:
    refused = told(PAID, ASKED, RefundRefused(AT_MS, only(REFUNDING).refund_id, "NOT_ENOUGH", "no balance"))
    stuck = told(refused, RefundRequested(AT_MS, "B2", 40))
    for said in (RefundWord.ABNORMAL, RefundWord.SUCCEEDED):
        event = RefundReported(AT_MS, stuck.refunds[1].refund_id, Source.QUERY, "wechatpay", "m/a", said)
        decision = decide(stuck, event)
        stuck = decision.order
    assert decision.settles is not None


def test_an_abnormal_refund_waits_for_people_and_is_still_asked_after() -> None:
    decision = decide(REFUNDING, word(REFUNDING, RefundWord.ABNORMAL))
    assert (only(decision.order).state, decision.case) == (RefundState.ABNORMAL, Reason.REFUND_ABNORMAL)
    assert only(decision.order).next_check_at_ms is not None
    assert decide(decision.order, word(REFUNDING, RefundWord.ABNORMAL)).case is None
    mended = decide(decision.order, word(REFUNDING, RefundWord.SUCCEEDED))
    assert isinstance(mended.settles, Settlement)
    assert Reason.REFUND_ABNORMAL in mended.settles.reasons


def test_what_succeeded_and_is_abnormal_after_all_is_asked_after_again() -> None:
    succeeded = told(REFUNDING, word(REFUNDING, RefundWord.SUCCEEDED))
    decision = decide(succeeded, word(REFUNDING, RefundWord.ABNORMAL))
    assert (only(decision.order).state, decision.case) == (RefundState.ABNORMAL, Reason.REFUND_ABNORMAL)
    assert only(decision.order).next_check_at_ms is not None
    assert only(decision.order).succeeded_at_ms is None


def test_another_amount_than_ours_is_for_people() -> None:
    decision = decide(REFUNDING, word(REFUNDING, RefundWord.SUCCEEDED, amount=39))
    assert (only(decision.order).state, decision.case) == (RefundState.ABNORMAL, Reason.REFUND_ABNORMAL)


@pytest.mark.parametrize(("said", "amount"), [(RefundWord.ABNORMAL, None), (RefundWord.SUCCEEDED, 39)])
def test_what_had_succeeded_and_is_stuck_after_all_is_asked_after_again(said: RefundWord, amount: int | None) -> None:
    succeeded = told(REFUNDING, word(REFUNDING, RefundWord.SUCCEEDED))
    stuck = only(told(succeeded, word(succeeded, said, AT_MS + 900, amount)))
    assert (stuck.state, stuck.next_check_at_ms) == (RefundState.ABNORMAL, AT_MS + 900 + SCHEDULE.refund_ms[0])


@pytest.mark.parametrize("changed", [{"account": "x"}, {"channel": "alipay"}, {"refund_id": "R" * 32}])
def test_a_word_on_a_refund_that_is_not_ours_moves_nothing(changed: dict[str, str]) -> None:
    said = msgspec.structs.replace(word(REFUNDING, RefundWord.FAILED), **changed)
    assert decide(REFUNDING, said).order is REFUNDING


# --- time -----------------------------------------------------------------------------------------------------------


def test_an_open_refund_is_asked_after_for_ever_and_nobody_gives_up() -> None:
    order, cases, at_ms = unknown(REFUNDING), [], AT_MS
    for _ in range(len(SCHEDULE.refund_ms) + 20):
        at_ms = only(order).next_check_at_ms or 0
        assert decide(order, RefundsDue(at_ms - 1)).order is order, "too early"
        decision = decide(order, RefundsDue(at_ms))
        assert decision.effects == (QueryRefund(only(order).refund_id),)
        order = decision.order
        cases += [decision.case] if decision.case else []
    assert (only(order).state, cases) == (UNKNOWN, [Reason.REFUND_UNKNOWN]), "people hear of it once"


def long_silent(order: Order, refund_id: str) -> Order:
    """Asked after until people were told that nobody knows."""
    order = told(order, RefundOutcomeUnknown(AT_MS + 100, refund_id, "silence"))
    for _ in SCHEDULE.refund_ms:
        refund = order.refund(refund_id)
        assert refund is not None
        decision = decide(order, RefundsDue(refund.next_check_at_ms or 0))
        order = decision.order
    assert decision.case is Reason.REFUND_UNKNOWN
    return order


@pytest.mark.parametrize(
    ("said", "resolution"),
    [(RefundWord.SUCCEEDED, "refunded"), (RefundWord.PROCESSING, "processing"), (RefundWord.FAILED, "failed")],
)
def test_the_case_of_a_refund_nobody_knew_of_ends_when_its_channel_speaks(said: RefundWord, resolution: str) -> None:
    silent = long_silent(REFUNDING, only(REFUNDING).refund_id)
    assert decide(silent, word(silent, said)).settles == Settlement((Reason.REFUND_UNKNOWN,), resolution)
    assert decide(REFUNDING, word(REFUNDING, said)).settles is None, "people were told nothing"


def test_that_case_stays_open_while_nobody_knows_of_another_refund() -> None:
    silent = long_silent(REFUNDING, only(REFUNDING).refund_id)
    both = told(silent, RefundRequested(AT_MS, "B2", 10))
    second = both.refunds[1]
    both = told(both, RefundOutcomeUnknown(AT_MS, second.refund_id, "silence"))
    assert decide(both, word(silent, RefundWord.SUCCEEDED)).settles is None


def test_that_too_much_went_back_stays_a_case_whatever_is_heard_of_other_refunds() -> None:
    failed = told(REFUNDING, word(REFUNDING, RefundWord.FAILED))
    overpaid = told(failed, RefundRequested(AT_MS, "B2", 100), word(failed, RefundWord.SUCCEEDED))
    second = overpaid.refunds[1]
    silent = long_silent(overpaid, second.refund_id)
    said = msgspec.structs.replace(word(REFUNDING, RefundWord.SUCCEEDED), refund_id=second.refund_id)
    settles = decide(silent, said).settles
    assert settles is None or Reason.REFUND_BEYOND_PAID not in settles.reasons


def test_what_its_channel_has_taken_and_never_ends_is_for_people_after_a_week() -> None:
    order, cases = told(REFUNDING, word(REFUNDING, RefundWord.PROCESSING)), []
    for _ in range(60):
        decision = decide(order, RefundsDue(only(order).next_check_at_ms or 0))
        order = decision.order
        if decision.case is not None:
            cases.append((decision.case, (only(order).next_check_at_ms or 0) - AT_MS))
    ((case, after_ms),) = cases
    assert case is Reason.REFUND_UNKNOWN
    assert 7 <= after_ms / 86_400_000 <= 8
    ended = decide(order, word(order, RefundWord.SUCCEEDED))
    assert ended.settles == Settlement((Reason.REFUND_UNKNOWN,), "refunded")


def test_what_waits_for_people_for_years_is_counted_no_further_than_the_database_can() -> None:
    waiting = told(REFUNDING, word(REFUNDING, RefundWord.ABNORMAL))
    old = msgspec.structs.replace(only(waiting), step=STEP_MAX, submits=STEP_MAX)
    waiting = msgspec.structs.replace(waiting, refunds=(old,))
    asked = told(waiting, RefundsDue(old.next_check_at_ms or 0))
    assert (only(asked).step, asked.version) == (STEP_MAX, waiting.version + 1)
    lost = msgspec.structs.replace(waiting, refunds=(msgspec.structs.replace(old, state=UNKNOWN, failure_code=None),))
    assert only(told(lost, RefundNotFound(AT_MS, old.refund_id))).submits == STEP_MAX


def test_a_claim_of_an_older_version_is_stale() -> None:
    refund_id = only(REFUNDING).refund_id
    assert decide(REFUNDING, RefundsDue(AT_MS, (refund_id,), REFUNDING.version - 1)).order is REFUNDING
    assert decide(REFUNDING, RefundsDue(AT_MS, (refund_id,), REFUNDING.version)).effects
