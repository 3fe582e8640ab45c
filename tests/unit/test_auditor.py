"""The auditor finds every planted error, and nothing in books that agree."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import ledgers
from bench.auditor import Finding, Latency, Report, audit
from bench.ledgers import ChannelPayment, ControlOrder, GatewayOrder, GatewayPayment, Ledgers, ShopOrder

A, B, C = ("A" * 26, "B" * 26, "C" * 26)


def channel(order_id: str, transaction: str, **changed: Any) -> ChannelPayment:
    paid = ChannelPayment(merchant="m", out_trade_no=order_id + "01", transaction=transaction, amount=100,
                          currency="CNY", paid_at_s=10.0)  # fmt: skip
    return msgspec.structs.replace(paid, **changed)


def order(order_id: str, state: str, **changed: Any) -> GatewayOrder:
    made = GatewayOrder(order_id=order_id, out_order_no=order_id[0], state=state, amount=100, currency="CNY",
                        paid_amount=100 if state == "paid" else 0)  # fmt: skip
    return msgspec.structs.replace(made, **changed)


def payment(order_id: str, transaction: str, **changed: Any) -> GatewayPayment:
    recorded = GatewayPayment(order_id=order_id, attempt_id=order_id + "01", merchant="m", transaction=transaction,
                              kind="credit", amount=100, currency="CNY", learned_by="query",
                              learned_at_s=10.5)  # fmt: skip
    return msgspec.structs.replace(recorded, **changed)


def customer(known_as: str, *, told: bool, **changed: Any) -> ShopOrder:
    bought = ShopOrder(out_order_no=known_as[0], order_id=known_as, amount=100, currency="CNY",
                       paid_amount=100 if told else 0, fulfilled_count=int(told),
                       learned_by="webhook" if told else None, paid_at_s=11.0 if told else None)  # fmt: skip
    return msgspec.structs.replace(bought, **changed)


# A and B were paid and told, C was never paid: books that agree.
GOOD = Ledgers(
    payments=[channel(A, "t1"), channel(B, "t2")],
    gateway_orders=[order(A, "paid"), order(B, "paid"), order(C, "paying")],
    gateway_payments=[payment(A, "t1"), payment(B, "t2", learned_by="notification", learned_at_s=12.0)],
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
    report = audit(Ledgers(payments=[], gateway_orders=[], gateway_payments=[], shop_orders=[]))
    assert report.passed
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


# --- double ----------------------------------------------------------------------------------------------------------


def test_double_is_an_order_credited_twice() -> None:
    report = changed(
        payments=[*GOOD.payments, channel(A, "t3")], gateway_payments=[*GOOD.gateway_payments, payment(A, "t3")]
    )
    assert counts(report)["double"] == [A]


def test_double_is_a_transaction_recorded_twice() -> None:
    again = payment(A, "t1", kind="excess")
    assert counts(changed(gateway_payments=[*GOOD.gateway_payments, again])) == {"double": ["t1"]}


def test_double_is_an_order_fulfilled_twice() -> None:
    twice = [customer(A, told=True, fulfilled_count=2), *GOOD.shop_orders[1:]]
    assert counts(changed(shop_orders=twice)) == {"double": [A]}


def test_double_is_money_taken_twice_with_nothing_to_show_for_it_and_recorded_excess_is_not() -> None:
    taken = [*GOOD.payments, channel(A, "t3", out_trade_no=A + "02")]
    assert counts(changed(payments=taken)) == {"double": [A]}
    excess = payment(A, "t3", kind="excess", attempt_id=A + "02")
    assert counts(changed(payments=taken, gateway_payments=[*GOOD.gateway_payments, excess])) == {}


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
    "difference", [{"amount": 99}, {"currency": "USD"}, {"out_trade_no": A + "02"}, {"merchant": "other"}]
)
def test_mismatch_is_a_payment_that_differs_from_the_channel_s(difference: dict[str, Any]) -> None:
    assert counts(changed(payments=[channel(A, "t1", **difference), channel(B, "t2")])) == {"mismatch": [A]}


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


# --- the control arm -------------------------------------------------------------------------------------------------


def test_control_lost_counts_what_the_control_arm_was_paid_and_does_not_know_and_judges_nobody() -> None:
    report = changed(
        control_payments=[channel(A, "c1"), channel(B, "c2"), channel(C, "c3")],
        control_orders=[ControlOrder(A + "01", paid=True), ControlOrder(B + "01", paid=False)],
    )
    assert [finding.subject for finding in report.control_lost] == [B + "01", C + "01"]
    assert report.passed


# --- readers ---------------------------------------------------------------------------------------------------------


def test_the_channel_s_ledger_is_read_per_merchant_without_a_torn_last_line(tmp_path: Path) -> None:
    paid = {
        "kind": "paid", "at": 12.5, "mchid": "19", "out_trade_no": A + "01", "transaction_id": "t1", "amount": 100,
        "currency": "CNY", "description": "x", "success_at": 12, "stated_mchid": "19", "stated_appid": "wx",
    }  # fmt: skip
    prepaid = {"kind": "prepay", "at": 12.0, "mchid": "19", "out_trade_no": A + "01", "description": '"paid"'}
    lines = [json.dumps(entry) for entry in (prepaid, paid, {**paid, "mchid": "20", "transaction_id": "t2"})]
    path = tmp_path / "ledger.jsonl"
    path.write_text("\n".join(lines) + "\n" + lines[1][:50], "utf-8")
    assert ledgers.read_channel_ledger(path, "19") == [
        ChannelPayment(
            merchant="19/wx", out_trade_no=A + "01", transaction="t1", amount=100, currency="CNY", paid_at_s=12.5
        )
    ]


def test_the_control_arm_s_ledger_is_read_and_can_not_be_written(tmp_path: Path) -> None:
    path = tmp_path / "control.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE orders (out_trade_no TEXT, paid INTEGER)")
    connection.execute("INSERT INTO orders VALUES ('x', 1), ('y', 0)")
    connection.commit()
    connection.close()
    assert ledgers.read_control_ledger(path) == [ControlOrder("x", paid=True), ControlOrder("y", paid=False)]
    with pytest.raises(sqlite3.OperationalError):
        ledgers._sqlite_rows(path, "DELETE FROM orders")
