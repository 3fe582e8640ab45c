"""The independent auditor: compares ledgers that different processes wrote, and knows none of their code.

The channel's ledger says what was really paid. `audit` is a pure function over plain values and judges the gateway and
the shop by it; `bench/ledgers.py` fetches the values. What each count means:

    lost      paid at the channel, but not paid at the gateway, or the shop was not told; or an order that the
              gateway had promised the shop and does not have
    double    an order credited or fulfilled more than once, or paid twice at the channel with nothing to show for it
    phantom   paid at the gateway or the shop, but not at the channel
    mismatch  the ledgers differ in amount, currency, number or transaction
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec

from bench.ledgers import GatewayPayment, Ledgers

T = TypeVar("T")
K = TypeVar("K")

ORDER_ID_CHARS = 26  # an attempt is the order's id and two digits, and that is what the channel sees


class Finding(msgspec.Struct, frozen=True):
    """One order (or transaction) that something is wrong with."""

    subject: str
    why: str


class Latency(msgspec.Struct, frozen=True):
    """Seconds, nearest rank."""

    p50_s: float
    p99_s: float
    max_s: float


class Report(msgspec.Struct, frozen=True):
    """The verdict. The lists hold one finding per order and reason."""

    orders: int
    paid_at_channel: int
    paid_here: int
    told: int
    lost: list[Finding]
    double: list[Finding]
    phantom: list[Finding]
    mismatch: list[Finding]
    control_lost: list[Finding]
    learned_by: dict[str, int]
    told_by: dict[str, int]
    known_after: Latency | None
    told_after: Latency | None

    @property
    def passed(self) -> bool:
        """Nothing lost, doubled, invented or changed. The control arm is not judged."""
        return not (self.lost or self.double or self.phantom or self.mismatch)


def audit(ledgers: Ledgers) -> Report:
    """Compare everything with everything."""
    books = _Books(ledgers)
    told = [order for order in ledgers.shop_orders if order.fulfilled_count]
    return Report(
        orders=len(ledgers.shop_orders),
        paid_at_channel=len(books.paid),
        paid_here=sum(order.state == "paid" for order in ledgers.gateway_orders),
        told=len(told),
        lost=_one_an_order([*_not_credited(books), *_not_told(books), *_forgotten(books)]),
        double=_one_an_order([*_credited_twice(books), *_fulfilled_twice(books), *_excess_unrecorded(books)]),
        phantom=_one_an_order([*_invented_at_gateway(books), *_invented_at_shop(books)]),
        mismatch=_one_an_order([*_transactions_differ(books), *_orders_differ(books)]),
        control_lost=list(_control_lost(ledgers)),
        learned_by=dict(Counter(payment.learned_by for payment in ledgers.gateway_payments)),
        told_by=dict(Counter(order.learned_by or "unknown" for order in told)),
        known_after=_latency(_known_after_s(books)),
        told_after=_latency(_told_after_s(books)),
    )


class _Books:
    """The ledgers, opened at the right pages."""

    def __init__(self, ledgers: Ledgers) -> None:
        self.ledgers = ledgers
        self.paid = _grouped((payment.out_trade_no[:ORDER_ID_CHARS], payment) for payment in ledgers.payments)
        self.transactions = {payment.transaction: payment for payment in ledgers.payments}
        self.orders = {order.order_id: order for order in ledgers.gateway_orders}
        self.recorded = _grouped((payment.order_id, payment) for payment in ledgers.gateway_payments)
        self.by_number = {order.out_order_no: order for order in ledgers.gateway_orders}
        self.shop = {order.out_order_no: order for order in ledgers.shop_orders}

    def credits(self, order_id: str) -> list[GatewayPayment]:
        return [payment for payment in self.recorded.get(order_id, []) if payment.kind == "credit"]


# --- lost ------------------------------------------------------------------------------------------------------------


def _not_credited(books: _Books) -> Iterator[Finding]:
    for order_id in books.paid:
        order = books.orders.get(order_id)
        if order is None:
            yield Finding(order_id, "paid at the channel, unknown to the gateway")
        elif order.state != "paid":
            yield Finding(order_id, f"paid at the channel, {order.state} at the gateway")
        elif not books.credits(order_id):
            yield Finding(order_id, "paid at the channel and the gateway, but no payment is recorded")


def _not_told(books: _Books) -> Iterator[Finding]:
    for order_id in books.paid:
        order = books.orders.get(order_id)
        customer = books.shop.get(order.out_order_no) if order else None
        if order and customer is None:
            yield Finding(order_id, "paid at the channel, unknown to the shop")
        elif customer and not customer.fulfilled_count:
            yield Finding(order_id, "paid at the channel, the shop was not told")


def _forgotten(books: _Books) -> Iterator[Finding]:
    for customer in books.ledgers.shop_orders:
        if customer.order_id is not None and customer.order_id not in books.orders:
            yield Finding(customer.order_id, "the gateway had answered with this order and does not have it")


# --- double ----------------------------------------------------------------------------------------------------------


def _credited_twice(books: _Books) -> Iterator[Finding]:
    for order_id in books.recorded:
        if len(books.credits(order_id)) > 1:
            yield Finding(order_id, f"credited {len(books.credits(order_id))} times")
    for transaction, count in Counter(p.transaction for p in books.ledgers.gateway_payments).items():
        if count > 1:
            yield Finding(transaction, f"transaction recorded {count} times")
    for number, count in Counter(order.out_order_no for order in books.ledgers.gateway_orders).items():
        if count > 1:
            yield Finding(number, f"{count} orders under one number")


def _fulfilled_twice(books: _Books) -> Iterator[Finding]:
    for customer in books.ledgers.shop_orders:
        if customer.fulfilled_count > 1:
            yield Finding(customer.order_id or customer.out_order_no, f"fulfilled {customer.fulfilled_count} times")


def _excess_unrecorded(books: _Books) -> Iterator[Finding]:
    for order_id, payments in books.paid.items():
        recorded = {payment.transaction for payment in books.recorded.get(order_id, [])}
        missing = [payment.transaction for payment in payments if payment.transaction not in recorded]
        if len(payments) > 1 and missing:
            yield Finding(order_id, f"paid {len(payments)} times at the channel, not recorded: {', '.join(missing)}")


# --- phantom ---------------------------------------------------------------------------------------------------------


def _invented_at_gateway(books: _Books) -> Iterator[Finding]:
    for payment in books.ledgers.gateway_payments:
        if payment.transaction not in books.transactions:
            yield Finding(payment.order_id, f"transaction {payment.transaction} is unknown to the channel")
    for order in books.ledgers.gateway_orders:
        if order.state == "paid" and order.order_id not in books.paid:
            yield Finding(order.order_id, "paid at the gateway, not at the channel")


def _invented_at_shop(books: _Books) -> Iterator[Finding]:
    for customer in books.ledgers.shop_orders:
        order = books.by_number.get(customer.out_order_no)
        if customer.fulfilled_count and (order is None or order.order_id not in books.paid):
            yield Finding(customer.order_id or customer.out_order_no, "fulfilled by the shop, not paid at the channel")


# --- mismatch --------------------------------------------------------------------------------------------------------


def _transactions_differ(books: _Books) -> Iterator[Finding]:
    for payment in books.ledgers.gateway_payments:
        truth = books.transactions.get(payment.transaction)
        if truth is None:
            continue
        if (payment.amount, payment.currency) != (truth.amount, truth.currency):
            yield Finding(payment.order_id, f"channel {truth.amount} {truth.currency}, gateway {payment.amount}")
        if (payment.attempt_id, payment.order_id) != (truth.out_trade_no, truth.out_trade_no[:ORDER_ID_CHARS]):
            yield Finding(payment.order_id, f"{payment.transaction} belongs to {truth.out_trade_no}")
        if payment.merchant != truth.merchant:
            yield Finding(payment.order_id, f"paid to {truth.merchant}, recorded for {payment.merchant}")


def _orders_differ(books: _Books) -> Iterator[Finding]:
    for order in books.ledgers.gateway_orders:
        credited = sum(payment.amount for payment in books.credits(order.order_id))
        if credited != order.paid_amount or (order.state == "paid" and credited != order.amount):
            yield Finding(order.order_id, f"costs {order.amount}, paid {order.paid_amount}, credited {credited}")
    for customer in books.ledgers.shop_orders:
        found = books.by_number.get(customer.out_order_no)
        if found is None:
            continue
        if (customer.amount, customer.currency) != (found.amount, found.currency):
            yield Finding(found.order_id, f"shop {customer.amount} {customer.currency}, gateway {found.amount}")
        if customer.order_id not in (None, found.order_id):
            yield Finding(found.order_id, f"the shop knows it as {customer.order_id}")
        if customer.fulfilled_count and customer.paid_amount != found.paid_amount:
            yield Finding(found.order_id, f"shop was told {customer.paid_amount}, gateway has {found.paid_amount}")


def _control_lost(ledgers: Ledgers) -> Iterator[Finding]:
    credited = {order.out_trade_no for order in ledgers.control_orders if order.paid}
    for out_trade_no in {payment.out_trade_no: None for payment in ledgers.control_payments}:
        if out_trade_no not in credited:
            yield Finding(out_trade_no, "paid at the channel, not paid at the control arm")


# --- figures ---------------------------------------------------------------------------------------------------------


def _known_after_s(books: _Books) -> list[float]:
    payments = (p for p in books.ledgers.gateway_payments if p.transaction in books.transactions)
    return [payment.learned_at_s - books.transactions[payment.transaction].paid_at_s for payment in payments]


def _told_after_s(books: _Books) -> list[float]:
    waits = []
    for order_id, payments in books.paid.items():
        order = books.orders.get(order_id)
        customer = books.shop.get(order.out_order_no) if order else None
        if customer and customer.paid_at_s is not None:
            waits.append(customer.paid_at_s - min(payment.paid_at_s for payment in payments))
    return waits


def _latency(seconds: list[float]) -> Latency | None:
    if not seconds:
        return None
    ordered = array("d", sorted(max(0.0, wait) for wait in seconds))
    p50, p99 = (ordered[max(0, -(-len(ordered) * percent // 100) - 1)] for percent in (50, 99))
    return Latency(p50_s=round(p50, 3), p99_s=round(p99, 3), max_s=round(ordered[-1], 3))


def _one_an_order(findings: Iterable[Finding]) -> list[Finding]:
    """The first reason per order: the counts count orders, not reasons."""
    first: dict[str, Finding] = {}
    for finding in findings:
        first.setdefault(finding.subject, finding)
    return list(first.values())


def _grouped(pairs: Iterable[tuple[K, T]]) -> dict[K, list[T]]:
    groups: dict[K, list[T]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return dict(groups)
