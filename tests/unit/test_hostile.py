"""What a hostile reader tried on plain values."""

import msgspec
import pytest

from actors.events import (
    CaseAction,
    CaseResolved,
    RefundOutcomeUnknown,
    RefundRefused,
    RefundReported,
    RefundRequested,
    RefundsDue,
    RefundWord,
    ReportedClosed,
    ReportedDebited,
    Source,
)
from actors.order import LatePolicy, Order, OrderState, Reason, Reply
from tests.unit.orders import BORN_MS, CLOSED, CONTENT, PAID, PENDING, decide, paid_event, pay, told

AT_MS = BORN_MS + 90_000


def said(order: Order, i: int, word: RefundWord, at_ms: int) -> RefundReported:
    refund = order.refunds[i]
    return RefundReported(at_ms, refund.refund_id, Source.QUERY, refund.channel, refund.account, word)


def policy(order: Order, late: LatePolicy) -> Order:
    return msgspec.structs.replace(order, content=msgspec.structs.replace(CONTENT, late_payment=late))


def resolve(at_ms: int, action: CaseAction, reason: Reason, version: int = 7) -> CaseResolved:
    return CaseResolved(at_ms, version, reason, action, "ann", "why")


def test_an_excess_whose_refunds_failed_twice_is_given_back_once() -> None:
    order = told(PAID, paid_event(AT_MS, transaction="T2"))
    order = told(order, said(order, 0, RefundWord.FAILED, AT_MS + 1))
    order = told(order, resolve(AT_MS + 2, CaseAction.RETRY, Reason.REFUND_FAILED))
    assert len(order.refunds) == 2
    order = told(order, said(order, 1, RefundWord.FAILED, AT_MS + 3))
    decision = decide(order, resolve(AT_MS + 4, CaseAction.RETRY, Reason.REFUND_FAILED))
    excess = decision.order.payments[1]
    assert decision.order.refunding(excess) <= excess.amount


@pytest.mark.parametrize("late", [LatePolicy.REFUND, LatePolicy.HOLD])
def test_debited_after_closed_then_paid_keeps_to_the_policy(late: LatePolicy) -> None:
    order = told(policy(CLOSED, late), ReportedDebited(AT_MS, 1, "42"))
    assert order.state is OrderState.EXCEPTION
    decision = decide(order, paid_event(AT_MS + 5))
    expected = OrderState.CLOSED if late is LatePolicy.REFUND else OrderState.EXCEPTION
    assert decision.order.state is expected
    assert decision.settles is not None
    assert Reason.UNKNOWN_OUTCOME in decision.settles.reasons, "no case is left of what is known"


@pytest.mark.parametrize("late", [LatePolicy.REFUND, LatePolicy.HOLD])
def test_mismatch_after_closed_then_right_payment_keeps_to_the_policy(late: LatePolicy) -> None:
    order = told(policy(CLOSED, late), paid_event(AT_MS, amount=99))
    assert order.state is OrderState.EXCEPTION
    order = told(order, paid_event(AT_MS + 5, transaction="T2"))
    assert order.state is not OrderState.PAID


def test_a_case_of_a_silent_refund_is_settled_when_it_succeeds() -> None:
    order = told(PAID, RefundRequested(AT_MS, "B1", 40))
    rid = order.refunds[0].refund_id
    order = told(order, RefundOutcomeUnknown(AT_MS + 1, rid, "silence"))
    case = None
    for _ in range(20):
        decision = decide(order, RefundsDue(order.refunds[0].next_check_at_ms or 0))
        order, case = decision.order, case or decision.case
    assert case is Reason.REFUND_UNKNOWN
    decision = decide(order, said(order, 0, RefundWord.SUCCEEDED, AT_MS + 9_999_999))
    assert decision.settles is not None
    assert case in decision.settles.reasons


def test_a_second_decision_on_a_case_that_was_just_closed_is_refused() -> None:
    order = told(policy(CLOSED, LatePolicy.HOLD), paid_event(AT_MS))
    v = order.version
    closes, refunds = (
        msgspec.structs.replace(resolve(AT_MS + 1, action, Reason.LATE_PAYMENT, v), seen=v)
        for action in (CaseAction.CLOSE, CaseAction.REFUND)
    )
    order = told(order, closes)
    decision = decide(order, refunds)
    assert (decision.order, decision.reply, decision.effects) == (order, Reply.CASE_STALE, ())


def test_closing_a_refund_case_does_not_end_an_order_whose_money_is_held() -> None:
    order = told(policy(CLOSED, LatePolicy.REFUND), paid_event(AT_MS))
    order = told(order, said(order, 0, RefundWord.FAILED, AT_MS + 1))  # case REFUND_FAILED
    order = told(order, paid_event(AT_MS + 2, transaction="T2", amount=99))  # case AMOUNT_MISMATCH
    assert order.state is OrderState.EXCEPTION
    order = told(order, resolve(AT_MS + 3, CaseAction.CLOSE, Reason.REFUND_FAILED))
    assert order.state is OrderState.EXCEPTION
    assert decide(order, resolve(AT_MS + 4, CaseAction.ACCEPT, Reason.AMOUNT_MISMATCH)).reply is Reply.DONE


def about(case: CaseResolved, transaction: str) -> CaseResolved:
    return msgspec.structs.replace(case, transaction=transaction)


def test_money_left_by_an_earlier_decision_does_not_forbid_to_accept_later_money() -> None:
    order = told(PENDING, paid_event(AT_MS, amount=1))
    order = told(order, about(resolve(AT_MS + 1, CaseAction.CLOSE, Reason.AMOUNT_MISMATCH), "T1"))
    order = told(policy(order, LatePolicy.HOLD), paid_event(AT_MS + 2, transaction="T2"))
    assert order.state is OrderState.EXCEPTION
    accepts = about(resolve(AT_MS + 3, CaseAction.ACCEPT, Reason.LATE_PAYMENT), "T2")
    decision = decide(order, accepts)
    assert (decision.order.state, decision.order.paid_amount) == (OrderState.PAID, 100)


def test_of_two_that_are_held_a_decision_gives_back_the_one_that_its_case_is_about() -> None:
    order = told(policy(CLOSED, LatePolicy.HOLD), paid_event(AT_MS), paid_event(AT_MS + 1, transaction="T2", amount=7))
    decision = decide(order, about(resolve(AT_MS + 2, CaseAction.REFUND, Reason.AMOUNT_MISMATCH), "T2"))
    assert [refund.transaction for refund in decision.order.refunds] == ["T2"]
    assert decision.order.state is OrderState.EXCEPTION, "the other one is still to be decided"
    rest = decide(decision.order, about(resolve(AT_MS + 3, CaseAction.REFUND, Reason.LATE_PAYMENT), "T1"))
    assert (rest.order.state, len(rest.order.refunds)) == (OrderState.CLOSED, 2)


def test_the_case_of_a_refund_does_not_give_back_money_of_another_case() -> None:
    order = told(policy(CLOSED, LatePolicy.REFUND), paid_event(AT_MS))
    order = told(order, said(order, 0, RefundWord.FAILED, AT_MS + 1))  # case REFUND_FAILED
    order = told(order, paid_event(AT_MS + 2, transaction="T2", amount=99))  # case AMOUNT_MISMATCH
    decision = decide(order, resolve(AT_MS + 3, CaseAction.REFUND, Reason.REFUND_FAILED))
    assert (decision.order, decision.reply) == (order, Reply.CASE_ACTION_IMPOSSIBLE)


def test_two_channels_may_call_their_transactions_the_same_and_one_is_accepted() -> None:
    order = told(PENDING, paid_event(AT_MS, amount=99))
    other = msgspec.structs.replace(order.payments[0], channel="alipay", account="2088")
    order = msgspec.structs.replace(order, payments=(*order.payments, other))
    order = told(order, resolve(AT_MS + 1, CaseAction.ACCEPT, Reason.AMOUNT_MISMATCH))
    assert [payment.kind for payment in order.payments] == ["credit", "held"]


def test_money_that_went_back_twice_stays_a_case_when_another_refund_succeeds() -> None:
    order = told(PAID, RefundRequested(AT_MS, "B1", 100))
    rid = order.refunds[0].refund_id
    order = told(order, RefundRefused(AT_MS + 1, rid, "NOT_ENOUGH", "no"))
    order = told(order, RefundRequested(AT_MS + 2, "B2", 100))
    decision = decide(order, said(order, 0, RefundWord.SUCCEEDED, AT_MS + 3))
    case = decision.case
    assert case is not None
    order = told(decision.order, said(decision.order, 1, RefundWord.ABNORMAL, AT_MS + 4))
    decision = decide(order, said(order, 1, RefundWord.SUCCEEDED, AT_MS + 5))
    assert decision.settles is not None
    assert case not in decision.settles.reasons


def test_the_case_of_an_attempt_that_could_not_be_closed_ends_when_its_money_is_given_back() -> None:
    order = told(PENDING, ReportedClosed(AT_MS, 1), pay(AT_MS + 1, method="h5"), paid_event(AT_MS + 2))
    assert order.live_attempt is not None
    decision = decide(order, paid_event(AT_MS + 3, number=2, transaction="T2"))
    assert decision.settles is not None
    assert Reason.UNCLOSED_ATTEMPT in decision.settles.reasons
