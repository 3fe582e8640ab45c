"""What people can decide about a case, on plain values."""

import msgspec
import pytest

from actors import casework
from actors.effects import Close, Query, SubmitRefund
from actors.events import (
    CaseAction,
    CaseResolved,
    RefundRefused,
    RefundReported,
    RefundWord,
    ReportedClosed,
    ReportedDebited,
    Source,
)
from actors.lifecycle import CLOSING as CLOSING_STATE
from actors.order import (
    AttemptState,
    Decision,
    LatePolicy,
    Order,
    OrderState,
    PaymentKind,
    Reason,
    RefundCause,
    RefundState,
    Reply,
)
from tests.unit.orders import BORN_MS, CLOSED, CLOSING, CONTENT, PAID, PENDING, decide, paid_event, told

AT_MS = BORN_MS + 90_000
LATE = told(
    msgspec.structs.replace(CLOSED, content=msgspec.structs.replace(CONTENT, late_payment=LatePolicy.HOLD)),
    paid_event(AT_MS - 9),
)
MISMATCH = told(PENDING, paid_event(amount=99))
FOREIGN = told(PENDING, paid_event(account="somebody else"))
UNCLEAR = msgspec.structs.replace(CLOSING, state=OrderState.EXCEPTION, reason=Reason.UNKNOWN_OUTCOME)
UNPAYABLE = told(PAID, paid_event(AT_MS - 9, transaction="T2"))
UNPAYABLE = told(
    UNPAYABLE,
    RefundReported(
        AT_MS - 5, UNPAYABLE.refunds[0].refund_id, Source.QUERY, "wechatpay", "m/a", RefundWord.FAILED, detail="closed"
    ),
)


def resolve(order: Order, action: CaseAction, reason: Reason | None = None) -> Decision:
    reason = reason or order.reason or Reason.REFUND_FAILED
    return decide(order, CaseResolved(AT_MS, 7, reason, action, "ann", "spoke with the payer"))


@pytest.mark.parametrize("order", [LATE, MISMATCH])
def test_held_money_is_accepted_as_it_is(order: Order) -> None:
    decision = resolve(order, CaseAction.ACCEPT)
    (payment,) = decision.order.payments
    assert (decision.order.state, payment.kind) == (OrderState.PAID, PaymentKind.CREDIT)
    assert decision.order.paid_amount == payment.amount
    assert decision.announce == "order.paid"


@pytest.mark.parametrize("order", [LATE, MISMATCH])
def test_held_money_is_given_back_and_the_order_ends(order: Order) -> None:
    decision = resolve(order, CaseAction.REFUND)
    (refund,) = decision.order.refunds
    assert (refund.cause, refund.amount) == (RefundCause.PEOPLE, order.payments[0].amount)
    assert SubmitRefund(refund.refund_id) in decision.effects
    assert decision.order.state is OrderState.CLOSED


def test_it_is_given_back_once() -> None:
    back = resolve(LATE, CaseAction.REFUND).order
    assert resolve(back, CaseAction.REFUND, Reason.LATE_PAYMENT).reply is Reply.CASE_ACTION_IMPOSSIBLE


@pytest.mark.parametrize("action", [CaseAction.ACCEPT, CaseAction.REFUND])
def test_money_on_another_account_is_not_ours_to_move(action: CaseAction) -> None:
    decision = resolve(FOREIGN, action)
    assert (decision.order, decision.reply) == (FOREIGN, Reply.CASE_ACTION_IMPOSSIBLE)


def test_who_and_why_are_kept_with_the_very_case() -> None:
    settles = resolve(LATE, CaseAction.ACCEPT).settles
    assert settles is not None
    assert (settles.version, settles.by, settles.note) == (7, "ann", "spoke with the payer")
    assert (settles.reasons, settles.resolution) == ((Reason.LATE_PAYMENT,), "accept")


def test_an_unknown_outcome_is_asked_after_again_from_the_first_rung() -> None:
    decision = resolve(UNCLEAR, CaseAction.RETRY)
    assert (decision.order.state, decision.order.step) == (CLOSING_STATE, 0)
    assert decision.effects == (Query(1),)


@pytest.mark.parametrize("order", [told(CLOSED, ReportedDebited(AT_MS - 9, 1, "42")), FOREIGN])
def test_asking_once_more_settles_nothing(order: Order) -> None:
    """The money is still held, or nobody knows where it is: without a case nobody would look at it again."""
    decision = resolve(order, CaseAction.RETRY)
    assert (decision.order.state, decision.effects) == (OrderState.EXCEPTION, (Query(1),))
    assert decision.order.version == order.version + 1, "that they asked is kept"
    assert decision.settles is None


def test_people_may_say_that_it_was_never_paid_and_it_is_watched_all_the_same() -> None:
    decision = resolve(UNCLEAR, CaseAction.CLOSE)
    assert (decision.order.state, decision.order.attempts[0].state) == (OrderState.CLOSED, AttemptState.CLOSED)
    assert (decision.effects, decision.order.next_check_at_ms is not None) == ((Close(1),), True)
    late = told(decision.order, paid_event(AT_MS + 9))
    assert late.state is OrderState.PAID, "what the channel says counts more"


def test_a_refused_refund_of_an_excess_is_sent_again_under_its_number() -> None:
    excess = told(PAID, paid_event(AT_MS - 9, transaction="T2"))
    before = excess.refunds[0]
    refused = told(excess, RefundRefused(AT_MS - 5, before.refund_id, "NOT_ENOUGH", "no balance"))
    decision = resolve(refused, CaseAction.RETRY)
    (after,) = decision.order.refunds
    assert (after.refund_id, after.state) == (before.refund_id, RefundState.SUBMITTING)
    assert decision.effects == (SubmitRefund(before.refund_id),)
    assert decision.order.version == refused.version + 1


@pytest.mark.parametrize("word", [RefundWord.FAILED, RefundWord.SUCCEEDED])
def test_a_refund_that_failed_at_its_channel_is_begun_anew(word: RefundWord) -> None:
    """There its number is used up. Both are full refunds of one payment: the channel never takes more than one."""
    decision = resolve(UNPAYABLE, CaseAction.RETRY)
    old, new = decision.order.refunds
    assert (old, new.state) == (UNPAYABLE.refunds[0], RefundState.SUBMITTING)
    assert (new.amount, new.transaction, new.cause) == (old.amount, old.transaction, old.cause)
    assert decision.effects == (SubmitRefund(new.refund_id),)
    assert decision.order.version == UNPAYABLE.version + 1
    said = RefundReported(AT_MS, new.refund_id, Source.QUERY, "wechatpay", "m/a", word)
    possible = casework.possible(told(decision.order, said), Reason.REFUND_FAILED)
    assert (CaseAction.RETRY in possible) == (word is RefundWord.FAILED)


def test_of_several_refunds_that_failed_for_the_same_money_one_is_begun_anew() -> None:
    twice = resolve(UNPAYABLE, CaseAction.RETRY).order
    failed = RefundReported(AT_MS, twice.refunds[1].refund_id, Source.QUERY, "wechatpay", "m/a", RefundWord.FAILED)
    decision = resolve(told(twice, failed), CaseAction.RETRY)
    assert [refund.state for refund in decision.order.refunds] == [
        *(RefundState.FAILED, RefundState.FAILED, RefundState.SUBMITTING)
    ]
    assert decision.effects == (SubmitRefund(decision.order.refunds[2].refund_id),)


def test_money_too_much_of_before_it_was_given_back_by_itself_can_be_given_back() -> None:
    excess = msgspec.structs.replace(told(PAID, paid_event(AT_MS - 9, transaction="T2")), refunds=())
    assert set(casework.possible(excess, Reason.EXCESS_PAYMENT)) >= {"refund", "close"}
    (refund,) = resolve(excess, CaseAction.REFUND, Reason.EXCESS_PAYMENT).order.refunds
    assert (refund.transaction, refund.cause) == ("T2", RefundCause.PEOPLE)


def test_money_that_two_refunds_failed_to_give_back_goes_back_once() -> None:
    """The first failed at its channel, the fresh one was refused: both are troubled, and about the same payment."""
    again = resolve(UNPAYABLE, CaseAction.RETRY).order
    refused = told(again, RefundRefused(AT_MS + 5, again.refunds[1].refund_id, "NOT_ENOUGH", "no balance"))
    assert [refund.state for refund in refused.refunds] == [RefundState.FAILED, RefundState.FAILED]
    decision = resolve(refused, CaseAction.RETRY)
    assert decision.effects == (SubmitRefund(again.refunds[1].refund_id),), "under the number that may be used still"
    excess = decision.order.payments[1]
    assert decision.order.refunding(excess) == excess.amount


def test_what_is_left_at_that_moves_a_version_and_nothing_else() -> None:
    decision = resolve(UNPAYABLE, CaseAction.CLOSE)
    assert decision.order == msgspec.structs.replace(UNPAYABLE, version=UNPAYABLE.version + 1)


def test_the_channels_word_settles_the_case_by_itself() -> None:
    for event in (paid_event(AT_MS), ReportedClosed(AT_MS, 1)):
        settles = decide(UNCLEAR, event).settles
        assert settles is not None
        assert (Reason.UNKNOWN_OUTCOME in settles.reasons, settles.by) == (True, "holdfast")


@pytest.mark.parametrize(
    ("order", "reason", "actions"),
    [
        (LATE, Reason.LATE_PAYMENT, {"accept", "refund", "close"}),
        (FOREIGN, Reason.ACCOUNT_MISMATCH, {"retry", "close"}),
        (UNCLEAR, Reason.UNKNOWN_OUTCOME, {"retry", "close"}),
        (UNPAYABLE, Reason.REFUND_FAILED, {"retry", "close"}),
    ],
)
def test_what_is_possible_can_be_asked(order: Order, reason: Reason, actions: set[str]) -> None:
    assert set(casework.possible(order, reason)) == actions
