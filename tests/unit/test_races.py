"""Every race of money and the rule that settles it, one by one, on the pure machine.

Two gateways are two decisions on the same version of an order: the compare-and-set lets one of them become the order,
the other event is heard again on what won. What only another layer can show is named in the docstring of its race, as
`file::test`. A payment that its channel takes back (a chargeback, a bank's reversal) is told to us by no interface of
the three platforms; what can be held here is that nothing at all leads out of `paid`.
"""

from itertools import permutations

import msgspec
import pytest

from actors.deadlines import gone_after
from actors.effects import Close, Query, QueryRefund, Submit, SubmitRefund
from actors.events import (
    CaseAction,
    CaseResolved,
    CloseRequested,
    Due,
    Event,
    OutcomeUnknown,
    RefundNotFound,
    RefundOutcomeUnknown,
    RefundReported,
    RefundRequested,
    RefundWord,
    ReportedAlreadyPaid,
    ReportedClosed,
    ReportedDebited,
    ReportedNotClosable,
    ReportedNotFound,
    ReportedNotPaid,
    Source,
    SubmitAccepted,
    SyncRequested,
    Verb,
)
from actors.lifecycle import TRANSITIONS
from actors.order import (
    Announcement,
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
from gateway.representation import webhook_json
from tests.unit.orders import (
    BORN_MS,
    CLOSED,
    CLOSING,
    CREDENTIAL,
    EXPIRES_MS,
    PAID,
    PENDING,
    SCHEDULE,
    SUBMITTING,
    UNKNOWN,
    decide,
    fresh,
    paid_event,
    pay,
    told,
)

AT_MS = BORN_MS + 20_000
YEAR_MS = 365 * 86_400_000
ALIPAY = {"channel": "alipay", "account": "2088"}
SECOND = pay(BORN_MS + 55, channel="alipay", account="2088", method="page", tried_to_close=frozenset({1}))
SWITCHED = told(PENDING, pay(BORN_MS + 55, **ALIPAY, method="page"), ReportedClosed(BORN_MS + 60, 1), SECOND)
IN_EXCEPTION = told(PENDING, paid_event(amount=99))
REFUNDING = told(PAID, RefundRequested(AT_MS, "B1", 40))
MOVED = [SUBMITTING, PENDING, UNKNOWN, CLOSING, CLOSED, PAID, IN_EXCEPTION, SWITCHED, REFUNDING]


def at_two_gateways(order: Order, one: Event, other: Event) -> tuple[Decision, Decision]:
    """Both decide on the same version; the first one wins, the other reads again and decides once more."""
    won, lost = decide(order, one), decide(order, other)
    if lost.order is not order:
        assert won.order.version == lost.order.version, "only one of them can be stored"
    return won, decide(won.order, other)


def kinds(order: Order) -> list[PaymentKind]:
    return [payment.kind for payment in order.payments]


# --- one payment, told often ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", MOVED)
def test_the_same_notification_again(order: Order) -> None:
    """A channel repeats itself, in turn or at once, here or at another gateway.

    The transaction is compared before the state, or the second telling of the only payment would have it refunded.
    With real processes:
    tests/integration/test_callbacks.py::test_a_hundred_at_once_are_one_credit_and_a_hundred_acknowledgements
    tests/acceptance/test_two_gateways.py::test_both_gateways_are_used_for_the_same_orders_at_once
    """
    won, again = at_two_gateways(order, paid_event(AT_MS), paid_event(AT_MS + 1))
    assert (again.order, again.effects, again.announce, again.case) == (won.order, (), None, None)
    assert decide(won.order, paid_event(AT_MS + 2, amount=1, currency="USD")).order is won.order, "nor what is known"


def test_a_notification_and_a_query_find_the_same_payment() -> None:
    """Both speak of one transaction: whoever wins credits it, the loser finds it there when it has read again."""
    for one, other in permutations([Source.NOTIFICATION, Source.QUERY]):
        won, lost = at_two_gateways(PENDING, paid_event(AT_MS, source=one), paid_event(AT_MS + 3, source=other))
        assert (won.order.state, won.announce) == (OrderState.PAID, Announcement.ORDER_PAID)
        assert (lost.order, lost.effects, lost.announce) == (won.order, (), None)


# --- more than one payment ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "other"),
    [
        (SWITCHED, {"number": 2, "transaction": "T2", **ALIPAY}),  # two channels
        (PENDING, {"transaction": "T2"}),  # two codes of one channel: one attempt, two transactions
    ],
)
def test_the_payer_pays_twice(order: Order, other: dict[str, object]) -> None:
    """Whichever payment is stored first is the credit; the other goes back, by a refund stored in the same write.

    Its number follows from the transaction, so that two gateways that learn of it can not send it back twice.
    """
    both = paid_event(AT_MS), paid_event(AT_MS, **other)
    for first, second in permutations(both):
        lost = at_two_gateways(order, first, second)[1]
        assert kinds(lost.order) == [PaymentKind.CREDIT, PaymentKind.EXCESS]
        assert lost.order.credit is not None
        assert lost.order.credit.transaction == first.transaction
        (refund,) = lost.order.refunds
        assert (refund.transaction, refund.amount, refund.cause) == (second.transaction, 100, RefundCause.EXCESS)
        assert SubmitRefund(refund.refund_id) in lost.effects
        assert (lost.announce, lost.order.state) == (Announcement.PAYMENT_DUPLICATE, OrderState.PAID)
        elsewhere = told(order, paid_event(AT_MS, transaction="T9"), msgspec.structs.replace(second, at_ms=AT_MS + 77))
        assert elsewhere.refunds[-1].refund_id == refund.refund_id, "whatever it is excess to, and whenever"


def test_another_way_to_pay_while_the_first_is_open() -> None:
    """The first attempt ends at its channel before anything is shown of the second; its money is never unexpected.

    We do block where the channel can not end it: the second would rest on a refund. What comes all the same is excess.
    """
    wish = pay(AT_MS, **ALIPAY, method="page")
    closing = decide(PENDING, wish)
    assert (closing.order.state, closing.effects, closing.reply) == (OrderState.PAYING, (Close(1),), Reply.WAIT)
    assert len(closing.order.attempts) == 1
    tried = msgspec.structs.replace(wish, tried_to_close=frozenset({1}))
    paid = told(closing.order, ReportedAlreadyPaid(AT_MS + 5, 1), paid_event(AT_MS + 6))
    assert (paid.state, decide(paid, tried).reply) == (OrderState.PAID, Reply.ORDER_PAID)
    kept = told(closing.order, ReportedNotClosable(AT_MS + 5, 1))
    assert (decide(kept, tried).reply, decide(kept, tried).effects) == (Reply.PAYMENT_IN_PROGRESS, ())
    second = decide(told(closing.order, ReportedClosed(AT_MS + 5, 1)), tried)
    assert second.effects == (Submit(2),)
    first_after_all = decide(second.order, paid_event(AT_MS + 9))
    assert (first_after_all.order.state, first_after_all.effects) == (OrderState.PAID, (Close(2),))
    assert first_after_all.order.attempts[1].state is AttemptState.CLOSING
    assert first_after_all.order.next_check_at_ms is not None
    assert kinds(told(second.order, paid_event(AT_MS, number=2, transaction="T2", **ALIPAY), paid_event(AT_MS))) == [
        PaymentKind.CREDIT,
        PaymentKind.EXCESS,
    ]


# --- closing --------------------------------------------------------------------------------------------------------


def test_the_app_closes_while_the_payer_pays() -> None:
    """The wish to close is stored, the channel's word decides it: closed, paid, or asked again."""
    closing, paid = at_two_gateways(PENDING, CloseRequested(AT_MS), paid_event(AT_MS))
    assert (closing.order.state, closing.effects, closing.announce) == (OrderState.CLOSING, (Close(1),), None)
    assert (paid.order.state, paid.order.late) == (OrderState.PAID, False)
    _, refused = at_two_gateways(PENDING, paid_event(AT_MS), CloseRequested(AT_MS))
    assert (refused.order.state, refused.reply, refused.effects) == (OrderState.PAID, Reply.ORDER_PAID, ())
    assert told(CLOSING, ReportedClosed(AT_MS, 1)).state is OrderState.CLOSED
    assert decide(CLOSING, ReportedAlreadyPaid(AT_MS, 1)).effects == (Query(1, contested=True),)
    unclear = decide(CLOSING, OutcomeUnknown(AT_MS, 1, Verb.CLOSE, "silence")).order
    assert unclear is CLOSING
    assert unclear.next_check_at_ms is not None
    assert decide(unclear, Due(unclear.next_check_at_ms)).effects == (Query(1),)
    while unclear.state is OrderState.CLOSING:
        unclear = decide(unclear, Due(unclear.next_check_at_ms or 0)).order
    assert (unclear.state, unclear.reason) == (OrderState.EXCEPTION, Reason.UNKNOWN_OUTCOME), "our clock closes nothing"


@pytest.mark.parametrize(
    ("policy", "state", "kind", "refunds"),
    [
        (LatePolicy.ACCEPT, OrderState.PAID, PaymentKind.CREDIT, 0),
        (LatePolicy.REFUND, OrderState.CLOSED, PaymentKind.EXCESS, 1),
        (LatePolicy.HOLD, OrderState.EXCEPTION, PaymentKind.HELD, 0),
    ],
)
def test_paid_after_it_expired_here(policy: LatePolicy, state: OrderState, kind: PaymentKind, refunds: int) -> None:
    """Until the channel has confirmed the end it is a payment, marked late; afterwards the app's policy says."""
    expired = told(fresh(late_payment=policy), pay(), SubmitAccepted(BORN_MS + 5, 1, CREDENTIAL), Due(EXPIRES_MS))
    assert expired.state is OrderState.CLOSING
    too_late = paid_event(EXPIRES_MS + 2000, success_at_ms=EXPIRES_MS + 1000)
    in_time = paid_event(EXPIRES_MS + 2000, success_at_ms=EXPIRES_MS - 1000)
    assert (told(expired, too_late).state, told(expired, too_late).late) == (OrderState.PAID, True)
    assert (told(expired, in_time).state, told(expired, in_time).late) == (OrderState.PAID, False)
    closed = told(expired, ReportedClosed(EXPIRES_MS + 500, 1))
    assert closed.next_check_at_ms is not None, "watched for just that"
    after = told(closed, too_late)
    assert (after.state, kinds(after), len(after.refunds)) == (state, [kind], refunds)
    assert after.late is (state is OrderState.PAID)


def test_a_channel_that_can_not_close() -> None:
    """Closing goes on, and asks, until what the payer holds has expired there and nothing can be on its way.

    The channel is given an earlier expiry than ours:
    tests/integration/test_api_switching.py::test_an_attempt_is_named_by_its_first_moment_whoever_asks_after_it.
    """
    order = told(PENDING, CloseRequested(AT_MS), ReportedNotClosable(AT_MS + 10, 1))
    final_ms = gone_after(SCHEDULE, order.attempts[0])
    assert final_ms == CREDENTIAL.expires_at_ms + SCHEDULE.not_found_final_ms
    at_ms = 0
    while (order.next_check_at_ms or 0) < final_ms:
        at_ms = order.next_check_at_ms or 0
        assert at_ms, "it is always looked at again"
        due = decide(order, Due(at_ms))
        assert (due.order.state, due.effects) == (OrderState.CLOSING, (Query(1),))
        assert decide(due.order, ReportedNotFound(at_ms, 1)).order is due.order
        order = due.order
    assert told(order, ReportedNotFound(final_ms, 1)).state is OrderState.CLOSED
    assert told(order, paid_event(final_ms)).state is OrderState.PAID


def test_a_payment_is_asked_for_again_after_silence() -> None:
    """The number stays the same until the channel has ended that attempt; only then is there a next one."""
    asked = decide(UNKNOWN, pay(AT_MS))
    assert (asked.order, asked.effects) == (UNKNOWN, (Query(1),))
    again = decide(UNKNOWN, ReportedNotFound(AT_MS + 5, 1))
    assert (again.effects, len(again.order.attempts)) == ((Submit(1),), 1)
    for event in (SyncRequested(AT_MS), Due(UNKNOWN.next_check_at_ms or 0), ReportedNotPaid(AT_MS, 1), pay(AT_MS)):
        assert len(decide(UNKNOWN, event).order.attempts) == 1
    ended = told(UNKNOWN, ReportedClosed(AT_MS, 1))
    assert decide(ended, pay(AT_MS + 9)).effects == (Submit(2),)


@pytest.mark.parametrize("order", [PAID, CLOSED, IN_EXCEPTION, SWITCHED])
def test_what_the_payer_is_to_be_shown_comes_after_the_payment(order: Order) -> None:
    """The channel's answer to the submission was slower than the payer, or than a close: it is let drop."""
    decision = decide(order, SubmitAccepted(AT_MS, 1, CREDENTIAL))
    assert (decision.order, decision.effects) == (order, ())
    won, late = at_two_gateways(SUBMITTING, paid_event(AT_MS), SubmitAccepted(AT_MS, 1, CREDENTIAL))
    assert late.order is won.order
    _, paid = at_two_gateways(SUBMITTING, SubmitAccepted(AT_MS, 1, CREDENTIAL), paid_event(AT_MS))
    assert (paid.order.state, paid.order.attempts[0].credential) == (OrderState.PAID, None)


# --- refunds --------------------------------------------------------------------------------------------------------


def test_a_refund_is_asked_for_twice() -> None:
    """A second click and a retry after silence are the same refund; silence is asked after, under the one number."""
    first, again = at_two_gateways(PAID, RefundRequested(AT_MS, "B1", 60), RefundRequested(AT_MS + 1, "B1", 60))
    (refund,) = first.order.refunds
    assert (first.effects, refund.state) == ((SubmitRefund(refund.refund_id),), RefundState.SUBMITTING)
    assert (again.order, again.reply, again.effects) == (first.order, Reply.DONE, ())
    silent = told(first.order, RefundOutcomeUnknown(AT_MS + 5, refund.refund_id, "silence"))
    assert decide(silent, RefundRequested(AT_MS + 6, "B1", 60)).order is silent
    assert decide(silent, SyncRequested(AT_MS + 6)).effects == (QueryRefund(refund.refund_id),)
    assert decide(silent, RefundRequested(AT_MS + 6, "B2", 41)).reply is Reply.REFUND_EXCEEDS_PAID, "it may have moved"
    unheard_of = decide(silent, RefundNotFound(AT_MS + 7, refund.refund_id))
    assert unheard_of.effects == (SubmitRefund(refund.refund_id),)
    assert [(back.refund_id, back.submits) for back in unheard_of.order.refunds] == [(refund.refund_id, 2)]


def test_a_refund_and_a_second_payment() -> None:
    """What the app gives back and what goes back by itself have numbers that can not meet, and each its own ceiling."""
    refund, excess = RefundRequested(AT_MS, "T2", 100), paid_event(AT_MS, transaction="T2")
    for one, other in permutations([refund, excess]):
        order = at_two_gateways(PAID, one, other)[1].order
        assert {back.refund_id[26] for back in order.refunds} == {"R", "X"}
        assert [order.refunding(payment) for payment in order.payments] == [100, 100]
        assert order.refunded_amount == 100, "only the credit counts"
        assert decide(order, RefundRequested(AT_MS, "B3", 1)).reply is Reply.REFUND_EXCEEDS_PAID


def test_parts_are_given_back_at_two_gateways() -> None:
    """Each has room on the version both have read; whoever loses counts again, with what the other has taken."""
    won, lost = at_two_gateways(PAID, RefundRequested(AT_MS, "B1", 60), RefundRequested(AT_MS, "B2", 60))
    assert (won.reply, lost.reply) == (Reply.WAIT, Reply.REFUND_EXCEEDS_PAID)
    assert lost.order is won.order
    _, fits = at_two_gateways(PAID, RefundRequested(AT_MS, "B1", 60), RefundRequested(AT_MS, "B2", 40))
    assert (fits.reply, fits.order.refunded_amount) == (Reply.WAIT, 100)


@pytest.mark.parametrize("order", [PENDING, UNKNOWN, CLOSING, CLOSED])
def test_a_refund_is_told_before_its_payment(order: Order) -> None:
    """Money went back that we know nothing of: the payment is asked after; the refund keeps its number.

    Over HTTP: tests/integration/test_api_refunds.py::test_a_refund_told_before_its_payment_has_the_payment_asked_after.
    """
    refund_id = REFUNDING.refunds[0].refund_id
    back = RefundReported(AT_MS, refund_id, Source.NOTIFICATION, "wechatpay", "m/a", RefundWord.SUCCEEDED, 40)
    early = decide(order, back)
    assert (early.order, early.effects) == (order, (Query(1),))
    asked_again = told(order, paid_event(AT_MS + 5), RefundRequested(AT_MS + 9, "B1", 40))
    assert asked_again.refunds[0].refund_id == refund_id, "the channel will know it"
    done = told(asked_again, msgspec.structs.replace(back, at_ms=AT_MS + 10))
    assert (done.state, done.refunds[0].state) == (OrderState.PAID, RefundState.SUCCEEDED)


# --- what apps and people are told ----------------------------------------------------------------------------------


def test_the_app_closes_while_the_payer_looks_at_the_cashier() -> None:
    """It is told `closed` when the channel has said so, and not a moment before; until then it is shown as paying.

    tests/unit/test_representation.py::test_closing_is_shown_as_paying.
    """
    steps = [CloseRequested(AT_MS), ReportedNotPaid(AT_MS + 1, 1), Due(AT_MS + 60_000)]
    order = PENDING
    for step in steps:
        decision = decide(order, step)
        assert (decision.order.state, decision.announce) == (OrderState.CLOSING, None)
        order = decision.order
    assert decide(order, ReportedClosed(AT_MS + 9, 1)).announce is Announcement.ORDER_CLOSED
    assert decide(order, paid_event(AT_MS + 9)).announce is Announcement.ORDER_PAID


def test_a_channel_says_closed_and_then_paid() -> None:
    """It contradicts itself, which no rule of ours can bring about. Nothing of it is silent.

    By default the money counts and the app is told that it came late; else it goes back, or people decide. A debit
    that is no payment to us, and an attempt that can be paid after all, are seen as well.
    """
    for policy in LatePolicy:
        content = msgspec.structs.replace(CLOSED.content, late_payment=policy)
        decision = decide(msgspec.structs.replace(CLOSED, content=content), paid_event(AT_MS))
        assert decision.announce in (Announcement.ORDER_PAID, Announcement.ORDER_LATE_PAYMENT)
        assert decision.order.late is (policy is LatePolicy.ACCEPT)
        assert bool(decision.case) is (policy is LatePolicy.HOLD)
        assert bool(decision.order.refunds) is (policy is LatePolicy.REFUND)
    debited = decide(CLOSED, ReportedDebited(AT_MS, 1, "42"))
    assert (debited.case, debited.announce) == (Reason.UNKNOWN_OUTCOME, Announcement.ORDER_EXCEPTION)
    assert decide(CLOSED, ReportedNotPaid(AT_MS, 1)).effects == (Close(1),)


def test_a_channel_takes_a_payment_back() -> None:
    """No platform tells us of it by an interface, so there is no event for it; `paid` is not edited by anything else.

    What does come back is a refund that had succeeded: it is an event of its own, with a case.
    """
    assert {event for event, rules in TRANSITIONS.items() if rules[OrderState.PAID].to} == set()
    refund = told(REFUNDING, word(REFUNDING, RefundWord.SUCCEEDED))
    reversed_ = decide(refund, word(REFUNDING, RefundWord.FAILED))
    assert (reversed_.order.state, reversed_.order.credit) == (OrderState.PAID, PAID.credit)
    assert (reversed_.order.refunds[0].state, reversed_.case) == (RefundState.REVERSED, Reason.REFUND_REVERSED)


def word(order: Order, said: RefundWord) -> RefundReported:
    refund = order.refunds[0]
    return RefundReported(AT_MS + 9, refund.refund_id, Source.QUERY, refund.channel, refund.account, said)


def test_a_gateway_wakes_up_and_tells_what_is_long_over() -> None:
    """Its webhook carries the version that it is about, and whoever has heard of a later one lets it drop.

    That the app does, and that such a gateway's writes miss:
    tests/unit/test_sdk_shop.py::test_any_order_of_arrival_ends_paid_and_fulfilled_once
    tests/acceptance/test_two_gateways.py::test_a_gateway_that_freezes_under_load_and_wakes_up_late_changes_nothing
    """
    stale = told(CLOSING, ReportedClosed(AT_MS, 1))
    newer = told(stale, paid_event(AT_MS + 9))
    seqs = [msgspec.json.decode(webhook_json(order, "order", AT_MS))["seq"] for order in (stale, newer)]
    assert seqs == [stale.version, newer.version]
    assert stale.version < newer.version
    zombie, retold = at_two_gateways(CLOSING, paid_event(AT_MS), ReportedClosed(AT_MS, 1))
    assert (retold.order, retold.announce) == (zombie.order, None), "what lost is not told at all"


@pytest.mark.parametrize("order", [fresh(), *MOVED])
def test_a_statement_holds_what_nobody_told_us(order: Order) -> None:
    """However late it is and whatever the order is by then, the money is credited, given back or held for people.

    Statements are read (tests/unit/test_wechatpay_bill.py and its neighbours) and not yet compared with the orders;
    what a line then says is told as any payment is, and another amount than the order's is held.
    """
    forgotten = msgspec.structs.replace(order, next_check_at_ms=None, step=99)
    event = paid_event(AT_MS + YEAR_MS, transaction="from the bill")
    decision = decide(forgotten, event)
    payment = decision.order.payments[-1]
    assert (payment.transaction, decision.announce is None) == ("from the bill", False)
    match payment.kind:
        case PaymentKind.CREDIT:
            assert decision.order.state is OrderState.PAID
        case PaymentKind.EXCESS:
            assert decision.order.refunds[-1].transaction == "from the bill"
        case PaymentKind.HELD:
            assert decision.case is Reason.UNKNOWN_ATTEMPT, "the order has no attempt that it could belong to"
            assert order.attempts == ()
    other = decide(forgotten, msgspec.structs.replace(event, amount=99))
    assert other.order.payments[-1].kind is PaymentKind.HELD
    assert other.case in (Reason.AMOUNT_MISMATCH, Reason.UNKNOWN_ATTEMPT)


# --- numbers --------------------------------------------------------------------------------------------------------


def test_the_same_number_with_another_amount() -> None:
    """Refused, the difference is named, and what was there is as it was.

    Of refunds, here; of orders, which are compared before there is an event:
    tests/integration/test_api_create.py::test_other_content_under_the_same_number_is_a_conflict_that_names_the_field
    """
    decision = decide(REFUNDING, RefundRequested(AT_MS + 9, "B1", 41))
    assert (decision.order, decision.reply, decision.effects) == (REFUNDING, Reply.REFUND_CONFLICT, ())


def test_the_same_number_a_year_later() -> None:
    """Numbers never expire: it is still the same refund, and still the same order.

    Of orders, which Postgres holds:
    tests/integration/test_migrate.py::test_an_apps_number_stands_for_one_order_for_ever
    """
    for refunds in (REFUNDING, told(REFUNDING, word(REFUNDING, RefundWord.SUCCEEDED))):
        decision = decide(refunds, RefundRequested(AT_MS + YEAR_MS, "B1", 40))
        assert (decision.order, decision.reply, decision.effects) == (refunds, Reply.DONE, ())


def test_people_and_the_channel_decide_at_the_same_time() -> None:
    """Beyond the table: held money is given back by people while the right payment comes, or is found twice."""
    accept = CaseResolved(AT_MS, IN_EXCEPTION.version, Reason.AMOUNT_MISMATCH, CaseAction.ACCEPT, "ann", "is fine")
    refund = msgspec.structs.replace(accept, action=CaseAction.REFUND)
    right = paid_event(AT_MS, transaction="T2")
    for people in (accept, refund):
        for one, other in permutations([people, right]):
            order = at_two_gateways(IN_EXCEPTION, one, other)[1].order
            assert kinds(order).count(PaymentKind.CREDIT) == 1
            assert all(order.refunding(payment) <= payment.amount for payment in order.payments)
            assert order.credit is not None
            assert order.refunding(order.credit) == 0
    twice = at_two_gateways(IN_EXCEPTION, refund, refund)[1]
    assert (len(twice.order.refunds), twice.reply) == (1, Reply.CASE_ACTION_IMPOSSIBLE)
