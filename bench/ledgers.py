"""Three ledgers that three processes wrote, read into plain values; nothing here knows the code of those processes."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg
import msgspec


class ChannelPayment(msgspec.Struct, frozen=True):
    """Money that moved, as the channel wrote it down. `dropped`: it will never tell of it; `acknowledged`: it has."""

    channel: str
    account: str
    out_trade_no: str
    transaction: str
    amount: int
    currency: str
    paid_at_s: float
    dropped: bool = False
    acknowledged: bool = False


class GatewayOrder(msgspec.Struct, frozen=True):
    """A row of the gateway's orders."""

    order_id: str
    out_order_no: str
    state: str
    amount: int
    currency: str
    paid_amount: int


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


DROPPED, NOTIFIED = "notification_dropped", "notified"
OF_PAYMENTS = ("paid", DROPPED, NOTIFIED)
_MARKS = [f'"{kind}"'.encode() for kind in OF_PAYMENTS]  # in every line of theirs, and in few others

_decode_entry = msgspec.json.Decoder(_Entry).decode


def read_channel_ledger(path: Path, merchants: Mapping[str, str]) -> list[ChannelPayment]:
    """What one merchant was paid.

    Args:
        merchants: what each channel calls it.

    A last line without its end was never synced, so nobody was told of it.
    """
    lines = path.read_bytes().split(b"\n")[:-1]
    entries = (_decode_entry(line) for line in lines if any(mark in line for mark in _MARKS))
    ours = [e for e in entries if e.kind in OF_PAYMENTS and merchants.get(e.channel) == e.merchant]
    # A topic names a refund: that was to be told, not the payment.
    told = {(each.kind, each.channel, each.out_trade_no) for each in ours if not each.topic}
    return [_channel_payment(each, told) for each in ours if each.kind == "paid"]


def _channel_payment(entry: _Entry, told: set[tuple[str, str, str]]) -> ChannelPayment:
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
    )


ORDERS_SQL = "SELECT order_id, out_order_no, state, amount, currency, paid_amount FROM orders"
ATTEMPTS_SQL = "SELECT attempt_id, order_id, channel, account FROM attempts"
PAYMENTS_SQL = (
    "SELECT order_id, attempt_id, channel, account, channel_transaction, kind, amount, currency, learned_by,"
    " extract(epoch FROM learned_at)::float8 FROM payments"
)


async def read_gateway_ledger(
    database_url: str,
) -> tuple[list[GatewayOrder], list[GatewayAttempt], list[GatewayPayment]]:
    """Orders, attempts and payments of one moment, over a connection that can not write."""
    connection = await asyncpg.connect(database_url, server_settings={"default_transaction_read_only": "on"})
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            orders = [GatewayOrder(*row) for row in await connection.fetch(ORDERS_SQL)]
            attempts = [GatewayAttempt(*row) for row in await connection.fetch(ATTEMPTS_SQL)]
            payments = [GatewayPayment(*row) for row in await connection.fetch(PAYMENTS_SQL)]
    finally:
        await connection.close()
    return orders, attempts, payments


SHOP_SQL = (
    "SELECT out_order_no, channel, order_id, amount, currency, paid_amount, fulfilled_count, learned_by, paid_at"
    " FROM orders"
)


def read_shop_ledger(path: Path) -> list[ShopOrder]:
    """The shop's orders."""
    return [ShopOrder(*row) for row in _sqlite_rows(path, SHOP_SQL)]


def read_control_ledger(path: Path) -> list[ControlOrder]:
    """The control arm's orders."""
    rows = _sqlite_rows(path, "SELECT out_trade_no, paid FROM orders")
    return [ControlOrder(out_trade_no, bool(paid)) for out_trade_no, paid in rows]


def _sqlite_rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()
