"""The invariants of chaos: each holds of a sound world, and each is found broken when it is."""

from typing import Any, TypeVar

import msgspec
import pytest

from bench.chaos.history import History, Made, Read, RefundMade, Told, Wanted
from bench.chaos.invariants import INVARIANTS, Seen, violations
from bench.chaos.tables import (
    AttemptRow,
    CaseRow,
    EventRow,
    InboxRow,
    OrderRow,
    PaymentRow,
    RefundRow,
    Tables,
    WebhookRow,
)
from bench.ledgers import ChannelPayment, ChannelRefund

T = TypeVar("T")

PAID, CLOSED, PAYING = "01PAID", "01CLOSED", "01PAYING"
WECHAT, ACCOUNT = "wechatpay", "1900/wx1"


def order(order_id: str, state: str, version: int, **changed: Any) -> OrderRow:
    row = OrderRow(
        order_id=order_id,
        app_id="visitors",
        out_order_no=f"no-{order_id}",
        state=state,
        version=version,
        amount=100,
        currency="CNY",
        paid_amount=100 if state == "paid" else 0,
        refunded_amount=0,
        late_payment="accept",
        expires_in_s=10.0,
        next_check_in_s=None if state == "paid" else 5.0,
    )
    return msgspec.structs.replace(row, **changed)


def attempt(order_id: str, number: int, state: str) -> AttemptRow:
    return AttemptRow(f"{order_id}{number:02d}", order_id, number, WECHAT, state)


def payment(transaction: str, kind: str, amount: int = 100, order_id: str = PAID) -> PaymentRow:
    return PaymentRow(order_id, WECHAT, ACCOUNT, transaction, kind, amount, "CNY")


def paid_there(transaction: str, *refunds: ChannelRefund, amount: int = 100, told: bool = False) -> ChannelPayment:
    paid = ChannelPayment(WECHAT, ACCOUNT, f"{PAID}01", transaction, amount, "CNY", paid_at_s=1.0)
    return msgspec.structs.replace(paid, acknowledged=told, refunds=refunds)


def refund(refund_id: str, transaction: str, cause: str, amount: int, **changed: Any) -> RefundRow:
    number = f"no-{refund_id}" if cause == "app" else None
    row = RefundRow(refund_id, PAID, number, cause, WECHAT, ACCOUNT, transaction, amount, "succeeded")
    return msgspec.structs.replace(row, **changed)


def moved(number: str, amount: int, state: str = "succeeded") -> ChannelRefund:
    return ChannelRefund(number, amount, state)


def events(order_id: str, *states: str) -> list[EventRow]:
    return [EventRow(order_id, number, "Any", state) for number, state in enumerate(states, 1)]


def told(event_id: str = "evt_1", kind: str = "order.paid", seq: int = 3) -> Told:
    return Told(event_id, PAID, f"no-{PAID}", kind, seq, "paid", 100, 2.0)


def sound() -> Seen:
    """Three orders: one paid twice by its payer and given back in part, one closed, one that waits."""
    return Seen(
        tables=Tables(
            orders=[order(PAID, "paid", 4, refunded_amount=40), order(CLOSED, "closed", 2), order(PAYING, "paying", 2)],
            attempts=[attempt(PAID, 1, "closed"), attempt(PAID, 2, "succeeded"), attempt(PAYING, 1, "pending")],
            payments=[payment("tx1", "credit"), payment("tx2", "excess")],
            refunds=[refund("R1", "tx1", "app", 40), refund("X1", "tx2", "excess", 100)],
            events=[
                *events(PAID, "created", "paying", "paid", "paid"),
                *events(CLOSED, "created", "closed"),
                *events(PAYING, "created", "paying"),
            ],
            outbox=[
                WebhookRow("evt_1", "visitors", PAID, 3, "order.paid", "delivered", 1, 99.0),
                WebhookRow("evt_2", "visitors", PAID, 4, "payment.duplicate", "delivered", 2, 99.0),
                WebhookRow("evt_3", "visitors", CLOSED, 2, "order.closed", "delivered", 1, 99.0),
            ],
            cases=[CaseRow(PAID, 4, "unclosed_attempt", resolved=True)],
        ),
        history=History(
            wanted={f"no-{PAID}": Wanted(f"no-{PAID}", 100, WECHAT)},
            made=[Made(f"no-{PAID}", PAID, 100, "CNY"), Made(f"no-{PAID}", PAID, 100, "CNY")],
            refused={"no-never"},
            refunds=[RefundMade("no-R1", "R1", PAID, 40)],
            unsure={f"no-{CLOSED}"},
            reads=[Read(PAID, "a", 2, "paying"), Read(PAID, "b", 3, "paid"), Read(PAID, "a", 4, "paid")],
            told=[told()],
        ),
        channel=[paid_there("tx1", moved("R1", 40), told=True), paid_there("tx2", moved("X1", 100))],
        inbox=[InboxRow("evt_3", f"no-{CLOSED}", "order.closed", 2)],
    )


def changed(rows: list[T], at: int, **fields: Any) -> list[T]:
    """The rows, one of them with other fields."""
    return [msgspec.structs.replace(row, **fields) if place == at else row for place, row in enumerate(rows)]  # type: ignore[type-var]


def tables(**parts: Any) -> Seen:
    seen = sound()
    return msgspec.structs.replace(seen, tables=msgspec.structs.replace(seen.tables, **parts))


def history(**parts: Any) -> Seen:
    seen = sound()
    return msgspec.structs.replace(seen, history=msgspec.structs.replace(seen.history, **parts))


def seen(**parts: Any) -> Seen:
    return msgspec.structs.replace(sound(), **parts)


def back(*refunds: ChannelRefund) -> Seen:
    """The channel gave these back of what the order was paid with."""
    return seen(channel=[paid_there("tx1", *refunds, told=True), paid_there("tx2", moved("X1", 100))])


GOOD = sound().tables
BROKEN: list[tuple[str, Seen]] = [
    ("S1", history(made=[Made("no-x", "01NOWHERE", 100, "CNY")])),
    ("S1", history(made=[Made(f"no-{PAID}", PAID, 99, "CNY")])),
    ("S1", history(refunds=[RefundMade("no-R1", "R9", PAID, 40)])),
    ("S1", history(refunds=[RefundMade("no-R1", "R1", PAID, 41)])),
    ("S2", history(refused={f"no-{PAYING}"})),
    ("S2", history(refused={"no-R1"}, refunds=[])),
    ("S3", history(refunds=[RefundMade("no-R1", "R1", PAID, 40), RefundMade("no-R1", "X1", PAID, 40)])),
    ("S3", history(made=[Made(f"no-{PAID}", PAID, 100, "CNY"), Made(f"no-{PAID}", CLOSED, 100, "CNY")])),
    ("S3 answers", history(broken=["GET /v1/orders/x: 500 {}"])),
    ("S4", seen(channel=[paid_there("tx1"), paid_there("tx2"), paid_there("tx3", told=True)])),
    ("S5", tables(payments=[payment("tx1", "credit"), payment("tx2", "credit")])),
    ("S5", tables(payments=[payment("tx1", "credit", 101), payment("tx2", "excess")])),
    ("S5", tables(payments=[payment("tx1", "credit", order_id="01NOWHERE"), payment("tx2", "excess")])),
    ("S6", tables(payments=[payment("tx1", "credit")])),
    ("S6", tables(payments=[payment("tx1", "credit"), payment("tx2", "excess"), payment("tx2", "held")])),
    ("S6", tables(refunds=GOOD.refunds[:1])),
    ("S6", tables(refunds=changed(GOOD.refunds, 1, state="failed"))),
    ("S6", tables(refunds=changed(GOOD.refunds, 1, amount=99))),
    ("S6 rules", tables(refunds=changed(GOOD.refunds, 0, cause="excess"))),
    ("S6 rules", tables(refunds=changed(GOOD.refunds, 1, cause="app"))),
    ("S6 rules", tables(refunds=changed(GOOD.refunds, 1, cause="late"))),
    ("S6 rules", tables(refunds=changed(GOOD.refunds, 1, transaction="tx9"))),
    ("S7", tables(payments=[payment("tx1", "credit"), payment("tx2", "excess", 99)])),
    ("S7", tables(payments=[payment("tx1", "credit"), payment("tx2", "excess"), payment("tx3", "excess")])),
    ("S7", tables(refunds=changed(GOOD.refunds, 0, state="processing"))),
    ("S7", back(moved("R1", 80))),
    ("S8", tables(orders=changed(GOOD.orders, 0, refunded_amount=101))),
    ("S8", tables(orders=changed(GOOD.orders, 0, refunded_amount=39))),
    ("S8", tables(refunds=[*GOOD.refunds, refund("R2", "tx1", "app", 61)])),
    ("S8", back(moved("R1", 101))),
    ("S8 once", back(moved("R1", 40), moved("R1", 40))),
    ("S8 once", back(moved("R1", 40), moved("R9", 1))),
    ("S8 once", back(moved("R1", 41))),
    ("S8 once", back()),
    ("S8 once", back(moved("R1", 40, "failed"))),
    ("S9", history(told=[told("evt_9")])),
    ("S9", history(told=[told(seq=2)])),
    ("S9", seen(inbox=[InboxRow("evt_9", f"no-{CLOSED}", "order.closed", 2)])),
    ("S9", tables(outbox=changed(GOOD.outbox, 0, seq=2))),
    ("S9", tables(outbox=changed(GOOD.outbox, 2, seq=3))),
    ("S10", tables(events=GOOD.events[1:])),
    ("S10", tables(events=[*GOOD.events, EventRow(PAYING, 2, "Any", "paying")])),
    ("S10", tables(orders=changed(GOOD.orders, 0, version=5))),
    ("S10", tables(events=[*GOOD.events, EventRow("01NOWHERE", 1, "Any", "created")])),
    ("S10 states", tables(events=changed(GOOD.events, 3, state="closed"))),
    ("S10 states", tables(orders=changed(GOOD.orders, 2, state="closing"))),
    ("S10 attempts", tables(attempts=[*GOOD.attempts, attempt(PAYING, 2, "submitting")])),
    ("S10 attempts", tables(attempts=[*GOOD.attempts, attempt(CLOSED, 1, "pending")])),
    ("S10 attempts", tables(attempts=[*GOOD.attempts, attempt(PAYING, 3, "closed")])),
    ("S10 attempts", tables(attempts=changed(GOOD.attempts, 1, state="closed"))),
    ("S10 attempts", tables(attempts=[*GOOD.attempts, attempt("01NOWHERE", 1, "closed")])),
    ("S11", history(reads=[Read(PAID, "a", 3, "paid"), Read(PAID, "b", 2, "paying")])),
    ("S11", history(reads=[Read(PAID, "a", 3, "paid"), Read(PAID, "b", 4, "closed")])),
    ("S13", seen(trespasses=["GET 01PAID: 200"])),
    ("S13", tables(outbox=changed(GOOD.outbox, 0, app_id="shop"))),
    ("S14", seen(leaks=["gateway1.log"])),
    ("S14 redirects", seen(redirects_followed=1)),
    ("L2", tables(outbox=changed(GOOD.outbox, 1, state="owed"))),
    ("L2", tables(outbox=changed(GOOD.outbox, 1, state="dead"))),
    ("L3", tables(refunds=changed(GOOD.refunds, 0, state="unknown"))),
    ("L3", tables(refunds=changed(GOOD.refunds, 1, state="failed"))),
    *(
        ("L3 cases", tables(cases=[CaseRow(PAID, 4, reason, resolved=False)]))
        for reason in ("unknown_outcome", "unclosed_attempt", "refund_unknown")
    ),
    ("L4", tables(orders=changed(GOOD.orders, 2, expires_in_s=-21.0))),
    ("L4", tables(orders=changed(GOOD.orders, 2, state="exception", expires_in_s=-21.0))),
    ("L4 timers", tables(orders=changed(GOOD.orders, 2, next_check_in_s=None))),
    ("L4 timers", tables(orders=changed(GOOD.orders, 2, next_check_in_s=3600.0))),
    ("L5", seen(tail_failures=["http://a: 503"])),
]


def test_a_sound_world_violates_nothing() -> None:
    assert violations(sound()) == []


@pytest.mark.parametrize(("name", "world"), BROKEN, ids=[f"{place}-{name}" for place, (name, _) in enumerate(BROKEN)])
def test_what_is_broken_is_found_under_its_name(name: str, world: Seen) -> None:
    assert name in {found.invariant for found in violations(world)}


def test_every_invariant_can_be_broken() -> None:
    assert {name for name, _ in BROKEN} == {each.name for each in INVARIANTS}


def test_an_open_order_may_wait_for_what_its_channel_needs_to_end_it() -> None:
    late = changed(GOOD.orders, 2, expires_in_s=-80.0)
    at_alipay = [msgspec.structs.replace(each, channel="alipay") for each in GOOD.attempts]
    assert {found.invariant for found in violations(tables(orders=late))} == {"L4"}
    assert violations(tables(orders=late, attempts=at_alipay)) == []


def test_money_that_is_held_with_a_case_is_an_end_and_its_order_waits_for_people() -> None:
    held = payment("tx4", "held", order_id=PAYING)
    world = tables(
        orders=changed(GOOD.orders, 2, state="exception", expires_in_s=-999.0),
        events=changed(GOOD.events, len(GOOD.events) - 1, state="exception"),
        payments=[*GOOD.payments, held],
        cases=[CaseRow(PAYING, 2, "amount_mismatch", resolved=False)],
    )
    world = msgspec.structs.replace(world, channel=[*world.channel, paid_there("tx4")])
    assert violations(world) == []


def test_a_webhook_that_came_to_be_just_now_may_be_on_its_way() -> None:
    assert violations(tables(outbox=changed(GOOD.outbox, 1, state="owed", age_s=1.0))) == []
    assert violations(tables(outbox=changed(GOOD.outbox, 1, state="dead", age_s=1.0))) != []


def test_one_refusal_among_other_answers_says_nothing_about_the_number() -> None:
    number = f"no-{PAYING}"
    assert violations(history(refused={number}, unsure={number})) == []
    assert violations(history(refused={number}, made=[Made(number, PAYING, 100, "CNY")])) == []
