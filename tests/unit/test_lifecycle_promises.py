"""Any events in any order, over three channels: what must hold then."""

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.events import (
    CaseAction,
    CaseResolved,
    CloseRequested,
    Credential,
    CredentialType,
    Due,
    Event,
    OutcomeUnknown,
    RefundNotFound,
    RefundOutcomeUnknown,
    RefundRefused,
    RefundReported,
    RefundRequested,
    RefundsDue,
    RefundWord,
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
from actors.lifecycle import TRANSITIONS
from actors.order import LatePolicy, Order, OrderState, PaymentKind, Reason, Refund, RefundCause, RefundState
from tests.unit.orders import (
    BORN_MS,
    CLOSED,
    CLOSING,
    CONTENT,
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
    qr,
    told,
)

CHANNELS: dict[str, dict[str, Any]] = {
    "wechatpay": {"channel": "wechatpay", "account": "m/a"},
    "alipay": {"channel": "alipay", "account": "2088"},
    "unionpay": {"channel": "unionpay", "account": "777290058110048"},
}
CHANGED_MIND = pay(BORN_MS + 55, **CHANNELS["alipay"])


def paid_at(order: Order, number: int) -> dict[str, Any]:
    """What the channel of that attempt says of itself."""
    attempt = order.attempt(number)
    return CHANNELS["wechatpay"] if attempt is None else CHANNELS[attempt.channel]


def refund_of(order: Order, number: int) -> Refund | None:
    """One of the order's refunds, by any number."""
    return order.refunds[number % len(order.refunds)] if order.refunds else None


def refund_word(word: RefundWord, at_ms: int, number: int, order: Order, **changes: Any) -> RefundReported:
    refund = refund_of(order, number)
    if refund is None:
        return RefundReported(at_ms, "R" * 32, Source.QUERY, "wechatpay", "m/a", word)
    told = RefundReported(at_ms, refund.refund_id, Source.QUERY, refund.channel, refund.account, word, refund.amount)
    return msgspec.structs.replace(told, **changes)


def refund_id_of(order: Order, number: int) -> str:
    refund = refund_of(order, number)
    return "R" * 32 if refund is None else refund.refund_id


def resolved(action: CaseAction, at_ms: int, order: Order, reason: Reason | None = None) -> CaseResolved:
    return CaseResolved(at_ms, 2, reason or order.reason or Reason.REFUND_FAILED, action, "ann", "looked at it")


TELLS: dict[str, Callable[[int, Any, Order], Event]] = {
    "pay": lambda at_ms, _, __: pay(at_ms),
    "pay_alipay": lambda at_ms, _, __: pay(at_ms, **CHANNELS["alipay"]),
    "pay_unionpay": lambda at_ms, _, __: pay(at_ms, **CHANNELS["unionpay"]),
    "pay_patiently": lambda at_ms, number, _: pay(at_ms, **CHANNELS["alipay"], tried_to_close=frozenset({number})),
    "pay_in_flight": lambda at_ms, number, _: pay(at_ms, in_flight=frozenset({number})),
    "close": lambda at_ms, _, __: CloseRequested(at_ms),
    "sync": lambda at_ms, _, __: SyncRequested(at_ms),
    "due": lambda at_ms, _, order: Due(at_ms, order.version),
    "stale": lambda at_ms, _, __: Due(at_ms - 1),
    "accepted": lambda at_ms, number, _: SubmitAccepted(at_ms, number, qr(at_ms + 5000)),
    "asked": lambda at_ms, n, _: SubmitAccepted(at_ms, n, Credential(CredentialType.NONE, "", at_ms + 5000)),
    "refused": lambda at_ms, number, _: SubmitRefused(at_ms, number, "NO_AUTH", "no"),
    "unknown": lambda at_ms, number, _: OutcomeUnknown(at_ms, number, Verb.SUBMIT, "silence"),
    "not_paid": lambda at_ms, number, _: ReportedNotPaid(at_ms, number),
    "contested": lambda at_ms, number, _: ReportedNotPaid(at_ms, number, contested=True),
    "not_found": lambda at_ms, number, _: ReportedNotFound(at_ms, number),
    "debited": lambda at_ms, number, _: ReportedDebited(at_ms, number, "42"),
    "pay_unrenewable": lambda at_ms, _, __: pay(at_ms, renewable=False),
    "closed": lambda at_ms, number, _: ReportedClosed(at_ms, number),
    "not_closable": lambda at_ms, number, _: ReportedNotClosable(at_ms, number),
    "already": lambda at_ms, number, _: ReportedAlreadyPaid(at_ms, number),
    "paid": lambda at_ms, n, order: paid_event(at_ms, number=n, transaction=f"T{n}", **paid_at(order, n)),
    "paid_wrong": lambda at_ms, number, _: paid_event(at_ms, number=number, transaction=f"W{number}", amount=7),
    "paid_other": lambda at_ms, n, order: paid_event(at_ms, number=n, transaction=f"O{n}", **paid_at(order, n)),
    "refund": lambda at_ms, number, _: RefundRequested(at_ms, f"B{number}", 20 * number, "broken"),
    "refund_processing": lambda at_ms, n, order: refund_word(RefundWord.PROCESSING, at_ms, n, order),
    "refund_succeeded": lambda at_ms, n, order: refund_word(RefundWord.SUCCEEDED, at_ms, n, order),
    "refund_failed": lambda at_ms, n, order: refund_word(RefundWord.FAILED, at_ms, n, order),
    "refund_abnormal": lambda at_ms, n, order: refund_word(RefundWord.ABNORMAL, at_ms, n, order),
    "refund_other_amount": lambda at_ms, n, order: refund_word(RefundWord.SUCCEEDED, at_ms, n, order, amount=3),
    "refund_other_account": lambda at_ms, n, order: refund_word(RefundWord.FAILED, at_ms, n, order, account="x"),
    "refund_refused": lambda at_ms, n, order: RefundRefused(at_ms, refund_id_of(order, n), "NOT_ENOUGH", "no"),
    "refund_not_found": lambda at_ms, n, order: RefundNotFound(at_ms, refund_id_of(order, n)),
    "refund_unknown": lambda at_ms, n, order: RefundOutcomeUnknown(at_ms, refund_id_of(order, n), "silence"),
    "refunds_due": lambda at_ms, _, __: RefundsDue(at_ms),
    "refunds_claimed": lambda at_ms, n, order: RefundsDue(at_ms, (refund_id_of(order, n),), order.version),
    **{
        f"case_{action}": lambda at_ms, _, order, action=action: resolved(action, at_ms, order) for action in CaseAction
    },
}
HAPPENINGS = st.tuples(st.sampled_from(sorted(TELLS)), st.integers(1, 4), st.integers(1, 400_000))


@settings(max_examples=400, deadline=None)
@given(st.lists(HAPPENINGS, max_size=50), st.sampled_from(LatePolicy))
def test_whatever_happens_no_promise_is_broken(history: list[tuple[str, int, int]], policy: LatePolicy) -> None:
    order, now_ms, ever_paid, people_were_told = fresh(late_payment=policy), BORN_MS, False, False
    for kind, number, delay_ms in history:
        now_ms += delay_ms
        before, decision = order, decide(order, TELLS[kind](now_ms, number, order))
        order = decision.order
        assert order is before or order.version == before.version + 1
        assert (decision.announce is None and decision.case is None) or order is not before
        look_at_what_was_recorded(before, order, kind)
        known = [attempt.started_at_ms for attempt in before.attempts]
        assert [attempt.started_at_ms for attempt in order.attempts][: len(known)] == known
        assert sum(attempt.live for attempt in order.attempts) <= 1
        assert not ever_paid or order.state is OrderState.PAID, "nothing downgrades paid"
        ever_paid = order.state is OrderState.PAID
        people_were_told |= decision.case is Reason.UNCLOSED_ATTEMPT
        look_at_the_money(order)
        look_at_the_time(order, people_were_told)


def look_at_what_was_recorded(before: Order, order: Order, kind: str) -> None:
    """What was recorded stays recorded; people may take held money as the order's."""
    for payment, known in zip(order.payments, before.payments, strict=False):
        accepted = kind == "case_accept" and known.kind is PaymentKind.HELD
        assert payment == known or (accepted and payment == msgspec.structs.replace(known, kind=PaymentKind.CREDIT))
    assert len(order.payments) >= len(before.payments)
    assert len(order.refunds) >= len(before.refunds)
    for refund, before_it in zip(order.refunds, before.refunds, strict=False):
        never_changes = ("refund_id", "transaction", "amount", "started_at_ms", "out_refund_no")
        assert all(getattr(refund, name) == getattr(before_it, name) for name in never_changes)
        if before_it.state is RefundState.SUCCEEDED:
            kept = (RefundState.SUCCEEDED, RefundState.REVERSED, RefundState.ABNORMAL)
            assert refund.state in kept, "only the channel's own word takes a success back"


def look_at_the_money(order: Order) -> None:
    credited = [payment for payment in order.payments if payment.kind is PaymentKind.CREDIT]
    assert len(credited) <= 1
    assert (order.state is OrderState.PAID) == bool(credited)
    assert sum(payment.amount for payment in credited) == order.paid_amount
    assert len({payment.transaction for payment in order.payments}) == len(order.payments)
    assert all(order.refunding(payment) <= payment.amount for payment in order.payments), "never more than was paid"
    assert order.refunded_amount == sum(order.refunding(payment) for payment in credited)
    for payment in order.payments:
        causes = {refund.cause for refund in order.refunds if refund.gives_back(payment)}
        if payment.kind is PaymentKind.EXCESS:
            assert causes, "what must not be kept goes back"
        if payment.kind is PaymentKind.CREDIT:
            assert causes <= {RefundCause.APP}, "nothing but the app gives the credit back"


def look_at_the_time(order: Order, people_were_told: bool) -> None:
    """A payment that somebody may still make is never forgotten."""
    if order.state is OrderState.CREATED:
        assert order.next_check_at_ms is not None
    if order.live_attempt is not None and order.state in (OrderState.PAYING, OrderState.CLOSING):
        assert order.next_check_at_ms is not None
    assert all(refund.next_check_at_ms is not None for refund in order.refunds if refund.open)
    if order.live_attempt is not None and order.state is OrderState.PAID:
        assert order.next_check_at_ms is not None or people_were_told


HELD = told(fresh(late_payment=LatePolicy.HOLD), pay(), ReportedClosed(BORN_MS + 70, 1), CloseRequested(BORN_MS + 80))
SAMPLES = [
    fresh(),
    told(HELD, paid_event(BORN_MS + 90)),
    told(PENDING, paid_event(BORN_MS + 90), RefundRequested(BORN_MS + 95, "B1", 20, "broken")),
    fresh(late_payment=LatePolicy.HOLD),
    *(SUBMITTING, PENDING, UNKNOWN, CLOSING, CLOSED, PAID),
    *(told(order, CHANGED_MIND) for order in (SUBMITTING, PENDING, UNKNOWN)),
    told(PENDING, CHANGED_MIND, ReportedClosed(BORN_MS + 56, 1), CHANGED_MIND),
    told(PENDING, ReportedClosed(BORN_MS + 70, 1)),
    told(PENDING, paid_event(amount=99)),
    msgspec.structs.replace(CLOSED, content=msgspec.structs.replace(CONTENT, late_payment=LatePolicy.HOLD)),
    told(
        msgspec.structs.replace(CLOSED, content=msgspec.structs.replace(CONTENT, late_payment=LatePolicy.REFUND)),
        ReportedDebited(BORN_MS + 90, 1, "42"),
    ),
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
        for at_ms in (BORN_MS + 100, EXPIRES_MS + 1_300_000):
            for tell in TELLS.values():
                event = tell(at_ms, 1, order)
                left = {decide(order, event).order.state} - {order.state}
                reached.setdefault((type(event), order.state), set()).update(left)
    promised = {(event, state): set(rule.to) for event, rules in TRANSITIONS.items() for state, rule in rules.items()}
    assert reached == promised
