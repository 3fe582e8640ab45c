"""The auditor finds every planted error, and nothing in books that agree."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import ledgers
from bench.auditor import ChannelReport, Latency, Report, audit
from bench.books import Finding
from bench.ledgers import (
    ChannelPayment,
    ChannelRefund,
    ControlOrder,
    GatewayAttempt,
    GatewayOrder,
    GatewayPayment,
    GatewayRefund,
    Ledgers,
    ShopOrder,
)

A, B, C = ("A" * 26, "B" * 26, "C" * 26)
CHANNELS = {A: "wechatpay", B: "alipay", C: "unionpay"}


def channel(order_id: str, transaction: str, **changed: Any) -> ChannelPayment:
    paid = ChannelPayment(channel=CHANNELS[order_id], account="m", out_trade_no=order_id + "01",
                          transaction=transaction, amount=100, currency="CNY", paid_at_s=10.0)  # fmt: skip
    return msgspec.structs.replace(paid, **changed)


def order(order_id: str, state: str, **changed: Any) -> GatewayOrder:
    made = GatewayOrder(order_id=order_id, out_order_no=order_id[0], state=state, amount=100, currency="CNY",
                        paid_amount=100 if state == "paid" else 0)  # fmt: skip
    return msgspec.structs.replace(made, **changed)


def attempt(order_id: str, number: int = 1) -> GatewayAttempt:
    return GatewayAttempt(f"{order_id}{number:02d}", order_id, CHANNELS[order_id], "m")


def payment(order_id: str, transaction: str, **changed: Any) -> GatewayPayment:
    recorded = GatewayPayment(order_id=order_id, attempt_id=order_id + "01", channel=CHANNELS[order_id], account="m",
                              transaction=transaction, kind="credit", amount=100, currency="CNY", learned_by="query",
                              learned_at_s=10.5)  # fmt: skip
    return msgspec.structs.replace(recorded, **changed)


def customer(known_as: str, *, told: bool, **changed: Any) -> ShopOrder:
    bought = ShopOrder(out_order_no=known_as[0], channel=CHANNELS[known_as], order_id=known_as, amount=100,
                       currency="CNY", paid_amount=100 if told else 0, fulfilled_count=int(told),
                       learned_by="webhook" if told else None, paid_at_s=11.0 if told else None)  # fmt: skip
    return msgspec.structs.replace(bought, **changed)


# A and B were paid and told, C was never paid: books that agree.
GOOD = Ledgers(
    payments=[channel(A, "t1"), channel(B, "t2")],
    gateway_orders=[order(A, "paid"), order(B, "paid"), order(C, "paying")],
    gateway_attempts=[attempt(A), attempt(B), attempt(C)],
    gateway_payments=[payment(A, "t1"), payment(B, "t2", learned_by="notification", learned_at_s=12.0)],
    gateway_refunds=[],
    shop_orders=[customer(A, told=True), customer(B, told=True, learned_by="answer"), customer(C, told=False)],
)


def changed(**fields: Any) -> Report:
    return audit(msgspec.structs.replace(GOOD, **fields))


def counts(report: Report) -> dict[str, list[str]]:
    names = ("lost", "double", "phantom", "mismatch")
    found: dict[str, list[Finding]] = {name: getattr(report, name) for name in names}
    return {name: [finding.subject for finding in findings] for name, findings in found.items() if findings}


def test_books_that_agree_pass_and_are_counted() -> None:
    report = audit(GOOD)
    assert counts(report) == {}
    assert report.passed
    assert (report.orders, report.paid_at_channel, report.paid_here, report.told) == (3, 2, 2, 2)
    assert report.learned_by == {"query": 1, "notification": 1}
    assert report.told_by == {"webhook": 1, "answer": 1}
    assert report.known_after == Latency(p50_s=0.5, p99_s=2.0, max_s=2.0)
    assert report.told_after == Latency(p50_s=1.0, p99_s=1.0, max_s=1.0)


def test_empty_books_pass_without_figures() -> None:
    report = audit(Ledgers([], [], [], [], [], []))
    assert report.passed
    assert report.channels == {}
    assert report.known_after is None


# --- lost ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["created", "paying", "closing", "closed", "exception"])
def test_lost_is_an_order_paid_at_the_channel_and_in_any_other_state_here(state: str) -> None:
    report = changed(
        gateway_orders=[order(A, "paid"), order(B, state)],
        gateway_payments=[payment(A, "t1")],
        shop_orders=[customer(A, told=True), customer(B, told=False)],
    )
    assert counts(report) == {"lost": [B]}
    assert not report.passed


def test_lost_is_an_order_the_gateway_does_not_know_and_one_whose_payment_is_not_recorded() -> None:
    assert "lost" in counts(changed(gateway_orders=[order(A, "paid")], shop_orders=[customer(A, told=True)]))
    assert A in counts(changed(gateway_payments=[payment(B, "t2")]))["lost"]


def test_lost_is_a_paid_order_whose_shop_was_not_told_or_never_heard_of_it() -> None:
    untold = [customer(A, told=True), customer(B, told=False), customer(C, told=False)]
    assert counts(changed(shop_orders=untold)) == {"lost": [B]}
    assert counts(changed(shop_orders=[customer(A, told=True)])) == {"lost": [B]}


def test_lost_is_an_order_the_gateway_promised_and_does_not_have() -> None:
    assert counts(changed(gateway_orders=[order(A, "paid"), order(B, "paid")])) == {"lost": [C]}
    unanswered = [*GOOD.shop_orders[:2], customer(C, told=False, order_id=None)]
    assert counts(changed(gateway_orders=GOOD.gateway_orders[:2], shop_orders=unanswered)) == {}


def test_a_finding_names_its_channel_and_counts_there() -> None:
    late = [*GOOD.gateway_orders[:1], order(B, "closed"), *GOOD.gateway_orders[2:]]
    report = changed(gateway_orders=late, gateway_payments=[payment(A, "t1")], shop_orders=[
        *GOOD.shop_orders[:1], customer(B, told=False), *GOOD.shop_orders[2:]])  # fmt: skip
    assert report.lost == [Finding(B, "paid at alipay, closed at the gateway", "alipay")]
    assert {name: each.lost for name, each in report.channels.items()} == {"wechatpay": 0, "alipay": 1, "unionpay": 0}


# --- double ----------------------------------------------------------------------------------------------------------


def test_double_is_an_order_credited_twice() -> None:
    report = changed(
        payments=[*GOOD.payments, channel(A, "t3")], gateway_payments=[*GOOD.gateway_payments, payment(A, "t3")]
    )
    assert counts(report)["double"] == [A]


def test_double_is_a_transaction_recorded_twice() -> None:
    again = payment(A, "t1", kind="excess")
    assert counts(changed(gateway_payments=[*GOOD.gateway_payments, again])) == {"double": ["t1", A]}


def test_the_same_number_at_two_channels_is_two_transactions() -> None:
    report = changed(
        payments=[channel(A, "t1"), channel(B, "t1")], gateway_payments=[payment(A, "t1"), payment(B, "t1")]
    )
    assert counts(report) == {}
    assert (report.paid_at_channel, report.paid_here, report.told) == (2, 2, 2)
    mixed_up = [payment(A, "t1"), payment(B, "t1", channel="wechatpay")]
    report = changed(payments=[channel(A, "t1"), channel(B, "t1")], gateway_payments=mixed_up)
    assert counts(report) == {"double": ["t1"], "mismatch": [B]}


def test_double_is_an_order_fulfilled_twice() -> None:
    twice = [customer(A, told=True, fulfilled_count=2), *GOOD.shop_orders[1:]]
    assert counts(changed(shop_orders=twice)) == {"double": [A]}


def test_double_is_money_taken_twice_with_nothing_to_show_for_it_or_recorded_and_kept() -> None:
    taken = [*GOOD.payments, TWICE]
    tried = [*GOOD.gateway_attempts, GatewayAttempt(A + "02", A, "unionpay", "m")]
    assert counts(changed(payments=taken, gateway_attempts=tried)) == {"double": [A]}
    assert counts(refunded()) == {}
    assert counts(refunded(there=[], here=[])) == {"double": [A]}
    elsewhere = [*GOOD.gateway_payments, payment(A, "t3", kind="excess", attempt_id=A + "02")]
    report = changed(payments=taken, gateway_attempts=tried, gateway_payments=elsewhere)
    assert counts(report) == {"double": [A], "mismatch": [A]}


# --- what was given back ---------------------------------------------------------------------------------------------

TWICE = channel(A, "t3", out_trade_no=A + "02", channel="unionpay")
EXCESS = payment(A, "t3", kind="excess", attempt_id=A + "02", channel="unionpay")
BACK = ChannelRefund("X1", 100, "succeeded")
OURS = GatewayRefund("X1", A, A + "02", "unionpay", "m", "t3", "excess", 100, "succeeded")


def refunded(
    *, there: list[ChannelRefund] | None = None, here: list[GatewayRefund] | None = None, **fields: Any
) -> Report:
    """A was paid twice; the second payment went back, unless it is said what happened instead."""
    books: dict[str, Any] = {
        "payments": [*GOOD.payments, msgspec.structs.replace(TWICE, refunds=tuple([BACK] if there is None else there))],
        "gateway_attempts": [*GOOD.gateway_attempts, GatewayAttempt(A + "02", A, "unionpay", "m")],
        "gateway_payments": [*GOOD.gateway_payments, EXCESS],
        "gateway_refunds": [OURS] if here is None else here,
    }
    return changed(**{**books, **fields})


def ours(**changed: Any) -> GatewayRefund:
    return msgspec.structs.replace(OURS, **changed)


def test_an_excess_that_went_back_is_counted_where_it_was_paid() -> None:
    report = refunded()
    assert (report.excess, report.given_back) == (1, 1)
    assert (report.channels["unionpay"].excess, report.channels["unionpay"].given_back) == (1, 1)
    kept = refunded(there=[ChannelRefund("X1", 100, "processing")], here=[ours(state="processing")])
    assert (kept.excess, kept.given_back) == (1, 0)
    assert counts(kept) == {"double": [A]}


@pytest.mark.parametrize(
    ("there", "here", "found"),
    [
        ([], [ours(state="failed")], {"double"}),
        ([ChannelRefund("X1", 99, "succeeded")], [ours(amount=99)], {"double"}),
        ([BACK, ChannelRefund("X2", 100, "succeeded")], [OURS, ours(refund_id="X2")], {"double"}),
        ([BACK, ChannelRefund("X2", 1, "processing")],
         [OURS, ours(refund_id="X2", amount=1, state="processing")], {"double"}),
        ([ChannelRefund("X1", 100, "failed"), ChannelRefund("X2", 100, "succeeded")],
         [ours(state="failed"), ours(refund_id="X2")], set()),
        ([], [OURS], {"double", "phantom"}),
        ([ChannelRefund("X1", 100, "failed")], [OURS], {"double", "phantom", "mismatch"}),
        ([], [ours(state="unknown")], {"double", "lost"}),
        ([BACK], [ours(state="unknown")], {"mismatch"}),
        ([BACK], [ours(state="failed")], {"mismatch"}),
        ([BACK], [ours(amount=99)], {"mismatch"}),
        ([BACK], [], {"mismatch"}),
        ([BACK], [ours(transaction="t1", channel="wechatpay")], {"mismatch", "phantom"}),
    ],
)  # fmt: skip
def test_each_way_in_which_an_excess_can_go_wrong(
    there: list[ChannelRefund], here: list[GatewayRefund], found: set[str]
) -> None:
    assert counts(refunded(there=there, here=here)) == {name: [A] for name in found}


def of_credit(**changed: Any) -> GatewayRefund:
    mine = GatewayRefund("R1", B, B + "01", "alipay", "m", "t2", "app", 40, "succeeded")
    return msgspec.structs.replace(mine, **changed)


@pytest.mark.parametrize(
    ("mine", "refunded_amount", "found"),
    [
        (of_credit(), 40, {}),
        (of_credit(), 0, {"mismatch": [B]}),
        (of_credit(state="reversed"), 0, {"phantom": [], "mismatch": [B]}),
        (of_credit(cause="excess"), 40, {"mismatch": [B]}),
    ],
)
def test_what_an_order_was_paid_with_goes_back_only_when_its_app_says_so(
    mine: GatewayRefund, refunded_amount: int, found: dict[str, list[str]]
) -> None:
    back = channel(B, "t2", refunds=(ChannelRefund("R1", 40, "succeeded"),))
    report = changed(
        payments=[GOOD.payments[0], back],
        gateway_orders=[order(A, "paid"), order(B, "paid", refunded_amount=refunded_amount), order(C, "paying")],
        gateway_refunds=[mine],
    )
    assert counts(report) == {name: subjects for name, subjects in found.items() if subjects}


def test_a_late_payment_that_its_app_did_not_want_is_not_lost_once_it_went_back() -> None:
    late = {
        "gateway_orders": [order(A, "paid"), order(B, "closed"), order(C, "paying")],
        "gateway_payments": [payment(A, "t1"), payment(B, "t2", kind="excess")],
        "shop_orders": [customer(A, told=True), customer(B, told=False), customer(C, told=False)],
    }
    assert counts(changed(**late)) == {"double": [B]}
    back = channel(B, "t2", refunds=(ChannelRefund("X1", 100, "succeeded"),))
    here = ours(order_id=B, attempt_id=B + "01", channel="alipay", transaction="t2", cause="late")
    assert counts(changed(**late, payments=[GOOD.payments[0], back], gateway_refunds=[here])) == {}


def test_double_is_two_orders_under_one_number() -> None:
    assert counts(changed(gateway_orders=[*GOOD.gateway_orders, order("D" * 26, "created", out_order_no="A")]))[
        "double"
    ] == ["A"]


# --- phantom ---------------------------------------------------------------------------------------------------------


def test_phantom_is_an_order_paid_here_and_not_at_the_channel() -> None:
    assert counts(changed(payments=GOOD.payments[:1])) == {"phantom": [B]}


def test_phantom_is_a_recorded_transaction_the_channel_does_not_know() -> None:
    held = payment(C, "t9", kind="held")
    assert counts(changed(gateway_payments=[*GOOD.gateway_payments, held])) == {"phantom": [C]}


def test_phantom_is_an_order_the_shop_fulfilled_for_nothing() -> None:
    gift = [*GOOD.shop_orders[:2], customer(C, told=True, paid_amount=0)]
    assert counts(changed(shop_orders=gift)) == {"phantom": [C]}


# --- mismatch --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "difference",
    [{"amount": 99}, {"currency": "USD"}, {"out_trade_no": A + "02"}, {"account": "other"}, {"channel": "alipay"}],
)
def test_mismatch_is_a_payment_that_differs_from_the_channel_s(difference: dict[str, Any]) -> None:
    assert counts(changed(payments=[channel(A, "t1", **difference), channel(B, "t2")])) == {"mismatch": [A]}


def test_mismatch_is_a_payment_under_no_attempt_of_the_order_or_one_at_another_channel() -> None:
    assert counts(changed(gateway_attempts=GOOD.gateway_attempts[1:])) == {"mismatch": [A]}
    for moved in ({"channel": "unionpay"}, {"account": "other"}, {"order_id": B}):
        attempts = [msgspec.structs.replace(attempt(A), **moved), *GOOD.gateway_attempts[1:]]
        assert counts(changed(gateway_attempts=attempts)) == {"mismatch": [A]}


def test_mismatch_is_an_order_credited_with_another_amount_than_it_costs_or_says() -> None:
    assert counts(changed(gateway_orders=[order(A, "paid", paid_amount=99), *GOOD.gateway_orders[1:]]))["mismatch"] == [
        A
    ]
    cheap = order(A, "paid", amount=50)
    agreeing = customer(A, told=True, amount=50)
    assert counts(
        changed(gateway_orders=[cheap, *GOOD.gateway_orders[1:]], shop_orders=[agreeing, *GOOD.shop_orders[1:]])
    ) == {"mismatch": [A]}


@pytest.mark.parametrize("difference", [{"amount": 99}, {"currency": "USD"}, {"paid_amount": 99}])
def test_mismatch_is_a_shop_s_order_that_differs_from_the_gateway_s(difference: dict[str, Any]) -> None:
    differing = [customer(A, told=True, **difference), *GOOD.shop_orders[1:]]
    assert counts(changed(shop_orders=differing)) == {"mismatch": [A]}


def test_mismatch_is_an_order_the_shop_knows_by_another_id() -> None:
    swapped = [customer(A, told=True, order_id=C), *GOOD.shop_orders[1:]]
    assert counts(changed(shop_orders=swapped)) == {"mismatch": [A]}


# --- the control arm, and the channels -------------------------------------------------------------------------------


def test_control_lost_counts_what_the_control_arm_was_paid_and_does_not_know_and_judges_nobody() -> None:
    taken = [channel(A, "c1"), channel(B, "c2", acknowledged=True), channel(C, "c3", dropped=True)]
    orders = [ControlOrder(A + "01", paid=True), ControlOrder(B + "01", paid=False)]
    report = changed(control_payments=taken, control_orders=orders)
    assert [finding.subject for finding in report.control_lost] == [B + "01", C + "01"]
    assert report.channels["unionpay"] == ChannelReport(control_paid_at_channel=1, control_lost=1)
    assert report.passed
    still_to_be_told = [*taken[:2], channel(C, "c3")]
    report = changed(control_payments=still_to_be_told, control_orders=orders)
    assert [finding.subject for finding in report.control_lost] == [B + "01"]


def test_every_channel_has_its_part_of_the_counts_and_the_parts_add_up() -> None:
    report = changed(payments=[channel(A, "t1", dropped=True), channel(B, "t2")])
    assert report.channels == {
        "wechatpay": ChannelReport(paid_at_channel=1, paid_here=1, told=1, dropped=1, found_by_query=1),
        "alipay": ChannelReport(paid_at_channel=1, paid_here=1, told=1),
        "unionpay": ChannelReport(),
    }
    for name in ("paid_at_channel", "paid_here", "told"):
        assert sum(getattr(each, name) for each in report.channels.values()) == getattr(report, name)


# --- readers ---------------------------------------------------------------------------------------------------------


def test_the_channels_ledger_is_read_per_merchant_without_a_torn_last_line(tmp_path: Path) -> None:
    paid = {"kind": "paid", "at": 12.5, "channel": "wechatpay", "merchant": "19", "out_trade_no": A + "01",
            "transaction": "t1", "amount": 100, "currency": "CNY", "description": "x", "success_at": 12,
            "account": "19/wx", "details": {}}  # fmt: skip
    opened = {**paid, "kind": "opened", "at": 12.0, "description": '"paid"'}
    dropped = {"kind": "notification_dropped", "at": 13.0, "channel": "alipay", "merchant": "21",
               "out_trade_no": B + "01", "topic": ""}  # fmt: skip
    back = {**dropped, "kind": "refund_opened", "channel": "wechatpay", "merchant": "19", "out_trade_no": A + "01"}
    settled = {**back, "kind": "refund_settled"}
    notified = {**dropped, "kind": "notified", "channel": "wechatpay", "merchant": "19", "out_trade_no": A + "01"}
    entries = [
        opened,
        paid,
        {**paid, "merchant": "20", "transaction": "t2"},
        {**paid, "merchant": "21", "transaction": "t3"},
        {**paid, "channel": "alipay", "merchant": "21", "out_trade_no": B + "01", "account": "21"},
        dropped,
        notified,
        {**notified, "channel": "alipay", "merchant": "21", "out_trade_no": B + "01", "topic": "a refund"},
        {**dropped, "channel": "wechatpay", "merchant": "19", "out_trade_no": A + "01", "topic": "a refund"},
        {**back, "refund_no": "R1", "amount": 40},
        {**back, "refund_no": "R2", "amount": 60},
        {**settled, "refund_no": "R2", "state": "succeeded"},
        {**settled, "refund_no": "R2", "state": "failed"},
        {**back, "refund_no": "R3", "amount": 1, "channel": "alipay", "merchant": "20"},
        {**paid, "out_trade_no": C + "01", "transaction": "t9"},
        {**back, "refund_no": "AUTOt9", "amount": 100, "out_trade_no": C + "01"},
    ]
    path = tmp_path / "ledger.jsonl"
    path.write_text("\n".join(map(json.dumps, entries)) + "\n" + json.dumps(paid)[:50], "utf-8")
    assert ledgers.read_channel_ledger(path, {"wechatpay": "19", "alipay": "21"}) == [
        ChannelPayment("wechatpay", "19/wx", A + "01", "t1", 100, "CNY", 12.5, acknowledged=True,
                       refunds=(ChannelRefund("R1", 40, "processing"), ChannelRefund("R2", 60, "failed"))),
        ChannelPayment("alipay", "21", B + "01", "t1", 100, "CNY", 12.5, dropped=True),
    ]  # fmt: skip


def test_the_control_arm_s_ledger_is_read_and_can_not_be_written(tmp_path: Path) -> None:
    path = tmp_path / "control.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE orders (out_trade_no TEXT, paid INTEGER)")
    connection.execute("INSERT INTO orders VALUES ('x', 1), ('y', 0)")
    connection.commit()
    connection.close()
    assert ledgers.read_control_ledger(path) == [ControlOrder("x", paid=True), ControlOrder("y", paid=False)]
    with pytest.raises(sqlite3.OperationalError):
        ledgers.sqlite_rows(path, "DELETE FROM orders")
