"""Three ledgers that three processes wrote, read into plain values; nothing here knows the code of those processes."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg
import msgspec


class ChannelRefund(msgspec.Struct, frozen=True):
    """Money that the channel gave back, or is to give back: `state` is processing, succeeded, failed or abnormal."""

    number: str
    amount: int
    state: str


class ChannelPayment(msgspec.Struct, frozen=True):
    """Money that moved, as the channel wrote it down, and what of it went back. `dropped`: it will never tell of the
    payment; `acknowledged`: it has."""

    channel: str
    account: str
    out_trade_no: str
    transaction: str
    amount: int
    currency: str
    paid_at_s: float
    dropped: bool = False
    acknowledged: bool = False
    refunds: tuple[ChannelRefund, ...] = ()


class GatewayOrder(msgspec.Struct, frozen=True):
    """A row of the gateway's orders."""

    order_id: str
    out_order_no: str
    state: str
    amount: int
    currency: str
    paid_amount: int
    refunded_amount: int = 0


class GatewayAttempt(msgspec.Struct, frozen=True):
    """A row of the gateway's attempts."""

    attempt_id: str
    order_id: str
    channel: str
    account: str


class GatewayPayment(msgspec.Struct, frozen=True):
    """A row of the gateway's payments: `kind` is credit, excess or held."""

    order_id: str
    attempt_id: str
    channel: str
    account: str
    transaction: str
    kind: str
    amount: int
    currency: str
    learned_by: str
    learned_at_s: float


class GatewayRefund(msgspec.Struct, frozen=True):
    """A row of the gateway's refunds: `refund_id` is its number at the channel; `cause` app, excess, late or people."""

    refund_id: str
    order_id: str
    attempt_id: str
    channel: str
    account: str
    transaction: str
    cause: str
    amount: int
    state: str


class ShopOrder(msgspec.Struct, frozen=True):
    """A row of the shop's orders. No `order_id`: the gateway never answered its create. `channel` is the customer's
    choice."""

    out_order_no: str
    channel: str
    order_id: str | None
    amount: int
    currency: str
    paid_amount: int
    fulfilled_count: int
    learned_by: str | None
    paid_at_s: float | None


class ControlOrder(msgspec.Struct, frozen=True):
    """A row of the control arm's orders."""

    out_trade_no: str
    paid: bool


class Ledgers(msgspec.Struct, frozen=True):
    """Everything that is compared. `payments` is what the channel took for the gateway; the control arm has its own."""

    payments: list[ChannelPayment]
    gateway_orders: list[GatewayOrder]
    gateway_attempts: list[GatewayAttempt]
    gateway_payments: list[GatewayPayment]
    gateway_refunds: list[GatewayRefund]
    shop_orders: list[ShopOrder]
    control_payments: list[ChannelPayment] = []
    control_orders: list[ControlOrder] = []


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a line of the channel's ledger that money hangs on."""

    kind: str
    at: float
    channel: str
    merchant: str
    out_trade_no: str
    topic: str = ""
    transaction: str = ""
    amount: int = 0
    currency: str = ""
    account: str = ""
    refund_no: str = ""
    state: str = ""


DROPPED, NOTIFIED = "notification_dropped", "notified"
REFUND_OPENED, REFUND_SETTLED = "refund_opened", "refund_settled"
OF_MONEY = ("paid", DROPPED, NOTIFIED, REFUND_OPENED, REFUND_SETTLED)
BY_ITSELF = "AUTO"  # begins the number of what a platform gives back unasked: that payment was never the merchant's
_MARKS = [f'"{kind}"'.encode() for kind in OF_MONEY]  # in every line of theirs, and in few others

_decode_entry = msgspec.json.Decoder(_Entry).decode


def read_channel_ledger(path: Path, merchants: Mapping[str, str]) -> list[ChannelPayment]:
    """What one merchant was paid, and gave back.

    Args:
        merchants: what each channel calls it.

    A last line without its end was never synced, so nobody was told of it.
    """
    lines = path.read_bytes().split(b"\n")[:-1]
    entries = (_decode_entry(line) for line in lines if any(mark in line for mark in _MARKS))
    ours = [e for e in entries if e.kind in OF_MONEY and merchants.get(e.channel) == e.merchant]
    # A topic names a refund: that was to be told, not the payment.
    told = {(each.kind, each.channel, each.out_trade_no) for each in ours if not each.topic}
    back = _channel_refunds(ours)
    paid = [_channel_payment(each, told, back) for each in ours if each.kind == "paid"]
    return [each for each in paid if not any(refund.number.startswith(BY_ITSELF) for refund in each.refunds)]


def _channel_refunds(entries: list[_Entry]) -> dict[tuple[str, str], list[ChannelRefund]]:
    """By channel and the payment's number; each as the last line of it says."""
    settled = {(e.channel, e.refund_no): e.state for e in entries if e.kind == REFUND_SETTLED}
    back: dict[tuple[str, str], list[ChannelRefund]] = {}
    for each in entries:
        if each.kind == REFUND_OPENED:
            state = settled.get((each.channel, each.refund_no), "processing")
            refund = ChannelRefund(each.refund_no, each.amount, state)
            back.setdefault((each.channel, each.out_trade_no), []).append(refund)
    return back


def _channel_payment(
    entry: _Entry, told: set[tuple[str, str, str]], back: dict[tuple[str, str], list[ChannelRefund]]
) -> ChannelPayment:
    return ChannelPayment(
        channel=entry.channel,
        account=entry.account,
        out_trade_no=entry.out_trade_no,
        transaction=entry.transaction,
        amount=entry.amount,
        currency=entry.currency,
        paid_at_s=entry.at,
        dropped=(DROPPED, entry.channel, entry.out_trade_no) in told,
        acknowledged=(NOTIFIED, entry.channel, entry.out_trade_no) in told,
        refunds=tuple(back.get((entry.channel, entry.out_trade_no), ())),
    )


ORDERS_SQL = "SELECT order_id, out_order_no, state, amount, currency, paid_amount, refunded_amount FROM orders"
ATTEMPTS_SQL = "SELECT attempt_id, order_id, channel, account FROM attempts"
PAYMENTS_SQL = (
    "SELECT order_id, attempt_id, channel, account, channel_transaction, kind, amount, currency, learned_by,"
    " extract(epoch FROM learned_at)::float8 FROM payments"
)
REFUNDS_SQL = (
    "SELECT refund_id, order_id, attempt_id, channel, account, channel_transaction, cause, amount, state FROM refunds"
)


async def read_gateway_ledger(
    database_url: str,
) -> tuple[list[GatewayOrder], list[GatewayAttempt], list[GatewayPayment], list[GatewayRefund]]:
    """Orders, attempts, payments and refunds of one moment, over a connection that can not write."""
    connection = await asyncpg.connect(database_url, server_settings={"default_transaction_read_only": "on"})
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            orders = [GatewayOrder(*row) for row in await connection.fetch(ORDERS_SQL)]
            attempts = [GatewayAttempt(*row) for row in await connection.fetch(ATTEMPTS_SQL)]
            payments = [GatewayPayment(*row) for row in await connection.fetch(PAYMENTS_SQL)]
            refunds = [GatewayRefund(*row) for row in await connection.fetch(REFUNDS_SQL)]
    finally:
        await connection.close()
    return orders, attempts, payments, refunds


SHOP_SQL = (
    "SELECT out_order_no, channel, order_id, amount, currency, paid_amount, fulfilled_count, learned_by, paid_at"
    " FROM orders"
)


def read_shop_ledger(path: Path) -> list[ShopOrder]:
    """The shop's orders."""
    return [ShopOrder(*row) for row in sqlite_rows(path, SHOP_SQL)]


def read_control_ledger(path: Path) -> list[ControlOrder]:
    """The control arm's orders."""
    rows = sqlite_rows(path, "SELECT out_trade_no, paid FROM orders")
    return [ControlOrder(out_trade_no, bool(paid)) for out_trade_no, paid in rows]


def sqlite_rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """Read a file that another process writes."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()
