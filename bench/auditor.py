"""The independent auditor: compares ledgers that different processes wrote, and knows none of their code.

The channel's ledger says what was really paid. `audit` is a pure function over plain values and judges the gateway and
the shop by it; `bench/ledgers.py` fetches the values. What each count means:

    lost      paid at a channel, but not paid at the gateway, or the shop was not told; or an order that the
              gateway had promised the shop and does not have; or a refund that its channel never heard of
    double    money kept or given back twice: an order credited or fulfilled more than once, or paid more than once
              and what is too much not given back, or given back more than once
    phantom   paid at the gateway or the shop, but at no channel; or given back at the gateway alone
    mismatch  the ledgers differ in amount, currency, number, attempt, channel, account, transaction or refund

A transaction's number is its channel's own: only together with channel and account does it name one.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec

from bench.books import ORDER_ID_CHARS, Books, Finding, transaction_of
from bench.giving_back import excesses, kept_twice, refunds_differ, refunds_invented, refunds_lost, went_back
from bench.ledgers import Ledgers


class Latency(msgspec.Struct, frozen=True):
    """Seconds, nearest rank."""

    p50_s: float
    p99_s: float
    max_s: float


class ChannelReport(msgspec.Struct, frozen=True):
    """One channel's part of the counts. Each order counts at one channel, so that the parts add up; what was paid too
    much, where that was."""

    paid_at_channel: int = 0
    paid_here: int = 0
    told: int = 0
    dropped: int = 0
    found_by_query: int = 0
    excess: int = 0
    given_back: int = 0
    lost: int = 0
    control_paid_at_channel: int = 0
    control_lost: int = 0


class Report(msgspec.Struct, frozen=True):
    """The verdict. The lists hold one finding per order. `excess` counts payments beyond their order's own,
    `given_back` those of them whose money is with the payer again."""

    orders: int
    paid_at_channel: int
    paid_here: int
    told: int
    excess: int
    given_back: int
    lost: list[Finding]
    double: list[Finding]
    phantom: list[Finding]
    mismatch: list[Finding]
    control_lost: list[Finding]
    learned_by: dict[str, int]
    told_by: dict[str, int]
    known_after: Latency | None
    told_after: Latency | None
    channels: dict[str, ChannelReport]

    @property
    def passed(self) -> bool:
        """Nothing lost, doubled, invented or changed. The control arm is not judged."""
        return not (self.lost or self.double or self.phantom or self.mismatch)


def audit(ledgers: Ledgers) -> Report:
    """Compare everything with everything."""
    books = Books(ledgers)
    told = [order for order in ledgers.shop_orders if order.fulfilled_count]
    lost = _one_an_order([*_not_credited(books), *_not_told(books), *_forgotten(books), *refunds_lost(books)])
    doubles = (*_credited_twice(books), *_fulfilled_twice(books), *_excess_unrecorded(books), *kept_twice(books))
    phantoms = (*_invented_at_gateway(books), *_invented_at_shop(books), *refunds_invented(books))
    mismatches = (
        *_attempts_differ(books),
        *_transactions_differ(books),
        *_orders_differ(books),
        *refunds_differ(books),
    )
    control_lost = list(_control_lost(ledgers))
    return Report(
        orders=len(ledgers.shop_orders),
        paid_at_channel=len(books.paid),
        paid_here=sum(order.state == "paid" for order in ledgers.gateway_orders),
        told=len(told),
        excess=len(excesses(books)),
        given_back=sum(went_back(books, payment) == payment.amount for payment in excesses(books)),
        lost=lost,
        double=_one_an_order(doubles),
        phantom=_one_an_order(phantoms),
        mismatch=_one_an_order(mismatches),
        control_lost=control_lost,
        learned_by=dict(Counter(payment.learned_by for payment in ledgers.gateway_payments)),
        told_by=dict(Counter(order.learned_by or "unknown" for order in told)),
        known_after=_latency(_known_after_s(books)),
        told_after=_latency(_told_after_s(books)),
        channels=_by_channel(books, lost, control_lost),
    )


# --- lost ------------------------------------------------------------------------------------------------------------


def _not_credited(books: Books) -> Iterator[Finding]:
    for order_id, payments in books.paid.items():
        order, channel = books.orders.get(order_id), payments[0].channel
        if order is None:
            yield Finding(order_id, f"paid at {channel}, unknown to the gateway", channel)
        elif books.nothing_owed(order_id):
            continue  # its app wants no such money: whether it went back is looked at with the excess
        elif order.state != "paid":
            yield Finding(order_id, f"paid at {channel}, {order.state} at the gateway", channel)
        elif not books.credits(order_id):
            yield Finding(order_id, f"paid at {channel} and the gateway, but no payment is recorded", channel)


def _not_told(books: Books) -> Iterator[Finding]:
    for order_id, payments in books.paid.items():
        order, channel = books.orders.get(order_id), payments[0].channel
        customer = books.shop.get(order.out_order_no) if order else None
        if order and customer is None:
            yield Finding(order_id, f"paid at {channel}, unknown to the shop", channel)
        elif customer and not customer.fulfilled_count and not books.nothing_owed(order_id):
            yield Finding(order_id, f"paid at {channel}, the shop was not told", channel)


def _forgotten(books: Books) -> Iterator[Finding]:
    for customer in books.ledgers.shop_orders:
        if customer.order_id is not None and customer.order_id not in books.orders:
            why = "the gateway had answered with this order and does not have it"
            yield Finding(customer.order_id, why, customer.channel)


# --- double ----------------------------------------------------------------------------------------------------------


def _credited_twice(books: Books) -> Iterator[Finding]:
    for order_id in books.recorded:
        credited = books.credits(order_id)
        if len(credited) > 1:
            channels = ", ".join(payment.channel for payment in credited)
            yield Finding(order_id, f"credited {len(credited)} times: {channels}", credited[0].channel)
    for (channel, _, number), count in Counter(map(transaction_of, books.ledgers.gateway_payments)).items():
        if count > 1:
            yield Finding(number, f"transaction of {channel} recorded {count} times", channel)
    for number, count in Counter(order.out_order_no for order in books.ledgers.gateway_orders).items():
        if count > 1:
            yield Finding(number, f"{count} orders under one number")


def _fulfilled_twice(books: Books) -> Iterator[Finding]:
    for customer in books.ledgers.shop_orders:
        if customer.fulfilled_count > 1:
            subject, why = customer.order_id or customer.out_order_no, f"fulfilled {customer.fulfilled_count} times"
            yield Finding(subject, why, books.channel_of_customer(customer))


def _excess_unrecorded(books: Books) -> Iterator[Finding]:
    for order_id, payments in books.paid.items():
        recorded = {transaction_of(payment) for payment in books.recorded.get(order_id, [])}
        missing = [payment for payment in payments if transaction_of(payment) not in recorded]
        if len(payments) > 1 and missing:
            listed = ", ".join(f"{payment.transaction} at {payment.channel}" for payment in missing)
            yield Finding(order_id, f"paid {len(payments)} times, not recorded: {listed}", missing[0].channel)


# --- phantom ---------------------------------------------------------------------------------------------------------


def _invented_at_gateway(books: Books) -> Iterator[Finding]:
    for payment in books.ledgers.gateway_payments:
        if books.truth(payment) is None:
            why = f"transaction {payment.transaction} is unknown to {payment.channel}"
            yield Finding(payment.order_id, why, payment.channel)
    for order in books.ledgers.gateway_orders:
        if order.state == "paid" and order.order_id not in books.paid:
            channel = books.channel(order.order_id)
            yield Finding(order.order_id, f"paid at the gateway, not at {channel or 'any channel'}", channel)


def _invented_at_shop(books: Books) -> Iterator[Finding]:
    for customer in books.ledgers.shop_orders:
        order = books.by_number.get(customer.out_order_no)
        if customer.fulfilled_count and (order is None or order.order_id not in books.paid):
            subject, channel = customer.order_id or customer.out_order_no, books.channel_of_customer(customer)
            yield Finding(subject, f"fulfilled by the shop, not paid at {channel}", channel)


# --- mismatch --------------------------------------------------------------------------------------------------------


def _attempts_differ(books: Books) -> Iterator[Finding]:
    for payment in books.ledgers.payments:
        order_id, channel = payment.out_trade_no[:ORDER_ID_CHARS], payment.channel
        attempt = books.attempts.get(payment.out_trade_no)
        if order_id not in books.orders:
            continue  # lost, and found there
        if attempt is None or attempt.order_id != order_id:
            yield Finding(
                order_id, f"paid at {channel} under {payment.out_trade_no}, which is no attempt of it", channel
            )
        elif (attempt.channel, attempt.account) != (channel, payment.account):
            theirs, ours = f"{channel} to {payment.account}", f"{attempt.channel} for {attempt.account}"
            yield Finding(order_id, f"paid at {theirs}, but {payment.out_trade_no} is an attempt at {ours}", channel)


def _transactions_differ(books: Books) -> Iterator[Finding]:
    for payment in books.ledgers.gateway_payments:
        truth, channel = books.truth(payment), payment.channel
        if truth is None:
            continue
        if (channel, payment.account) != (truth.channel, truth.account):
            theirs, ours = f"{truth.channel} to {truth.account}", f"{channel} for {payment.account}"
            yield Finding(payment.order_id, f"{payment.transaction} was paid at {theirs}, recorded at {ours}", channel)
        if (payment.amount, payment.currency) != (truth.amount, truth.currency):
            why = f"{channel} {truth.amount} {truth.currency}, gateway {payment.amount} {payment.currency}"
            yield Finding(payment.order_id, why, channel)
        if (payment.attempt_id, payment.order_id) != (truth.out_trade_no, truth.out_trade_no[:ORDER_ID_CHARS]):
            why = f"{payment.transaction} of {channel} belongs to {truth.out_trade_no}"
            yield Finding(payment.order_id, why, channel)


def _orders_differ(books: Books) -> Iterator[Finding]:
    for order in books.ledgers.gateway_orders:
        credited, channel = sum(p.amount for p in books.credits(order.order_id)), books.channel(order.order_id)
        if credited != order.paid_amount or (order.state == "paid" and credited != order.amount):
            why = f"costs {order.amount}, paid {order.paid_amount}, credited {credited}"
            yield Finding(order.order_id, why, channel)
    for customer in books.ledgers.shop_orders:
        found = books.by_number.get(customer.out_order_no)
        if found is None:
            continue
        channel = books.channel(found.order_id)
        if (customer.amount, customer.currency) != (found.amount, found.currency):
            why = f"shop {customer.amount} {customer.currency}, gateway {found.amount} {found.currency}"
            yield Finding(found.order_id, why, channel)
        if customer.order_id not in (None, found.order_id):
            yield Finding(found.order_id, f"the shop knows it as {customer.order_id}", channel)
        if customer.fulfilled_count and customer.paid_amount != found.paid_amount:
            why = f"shop was told {customer.paid_amount}, gateway has {found.paid_amount}"
            yield Finding(found.order_id, why, channel)


def _control_lost(ledgers: Ledgers) -> Iterator[Finding]:
    """What it will never know. A notification that the channel still means to repeat is not held against it."""
    credited = {order.out_trade_no for order in ledgers.control_orders if order.paid}
    for payment in {payment.out_trade_no: payment for payment in ledgers.control_payments}.values():
        if payment.out_trade_no not in credited and (payment.dropped or payment.acknowledged):
            why = f"paid at {payment.channel}, not paid at the control arm"
            yield Finding(payment.out_trade_no, why, payment.channel)


# --- figures ---------------------------------------------------------------------------------------------------------


def _by_channel(books: Books, lost: list[Finding], control_lost: list[Finding]) -> dict[str, ChannelReport]:
    ledgers = books.ledgers
    counts = {
        "paid_at_channel": Counter(payments[0].channel for payments in books.paid.values()),
        "paid_here": Counter(books.channel(o.order_id) for o in ledgers.gateway_orders if o.state == "paid"),
        "told": Counter(books.channel_of_customer(each) for each in ledgers.shop_orders if each.fulfilled_count),
        "dropped": Counter(payment.channel for payment in ledgers.payments if payment.dropped),
        "found_by_query": Counter(p.channel for p in ledgers.gateway_payments if p.learned_by == "query"),
        "excess": Counter(payment.channel for payment in excesses(books)),
        "given_back": Counter(p.channel for p in excesses(books) if went_back(books, p) == p.amount),
        "lost": Counter(finding.channel for finding in lost),
        "control_paid_at_channel": Counter(payment.channel for payment in ledgers.control_payments),
        "control_lost": Counter(finding.channel for finding in control_lost),
    }
    channels = {payment.channel for payment in (*ledgers.payments, *ledgers.control_payments)}
    channels |= {attempt.channel for attempt in ledgers.gateway_attempts}
    channels |= {channel for counter in counts.values() for channel in counter}
    return {channel: ChannelReport(**{name: counts[name][channel] for name in counts}) for channel in sorted(channels)}


def _known_after_s(books: Books) -> list[float]:
    pairs = ((payment, books.truth(payment)) for payment in books.ledgers.gateway_payments)
    return [payment.learned_at_s - truth.paid_at_s for payment, truth in pairs if truth is not None]


def _told_after_s(books: Books) -> list[float]:
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
