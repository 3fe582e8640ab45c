"""What the shop writes down, as functions of the connection: each is run by the ledger inside a transaction."""

import sqlite3
from typing import Any

import msgspec

from examples.shop.purchases import Purchase, Way
from holdfast_client import Credential, Event, Order, OrderState

FINAL = frozenset({OrderState.PAID, OrderState.CLOSED})
ASK_PAUSE_MAX_S = 60.0
COUNTED = ("orders", "created", "payable", "fulfilled", "learned_by_asking", "asked", "webhooks", "webhooks_effective")
COUNTED_BY_CHANNEL = ("orders", "payable", "fulfilled")


class Quiet(msgspec.Struct, frozen=True):
    """An order nothing was heard of for a while, and how far it had come."""

    out_order_no: str
    order_id: str | None
    payable: bool
    pays_with: Way


def remember(connection: sqlite3.Connection, wanted: Purchase, now: float, ask_at: float) -> bool:
    """Write the order down before it is created. False: it was there already (a restart)."""
    cursor = connection.execute(
        "INSERT INTO orders (out_order_no, subject, amount, currency, buyer, channel, method, created_at, ask_at)"
        " VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING",
        (*msgspec.structs.astuple(wanted)[:5], wanted.pays_with.channel, wanted.pays_with.method, now, ask_at),
    )
    return cursor.rowcount == 1


def recall(connection: sqlite3.Connection, out_order_no: str) -> Purchase:
    """The order as it was written down, to create it once more."""
    number, subject, amount, currency, buyer, channel, method = connection.execute(
        "SELECT out_order_no, subject, amount, currency, buyer, channel, method FROM orders WHERE out_order_no = ?",
        (out_order_no,),
    ).fetchone()
    return Purchase(number, subject, amount, currency, buyer, Way(channel, method))


def look_up(connection: sqlite3.Connection, out_order_no: str) -> dict[str, Any]:
    """What the customer may see of their order; empty if there is none."""
    names = ("out_order_no", "amount", "currency", "channel", "state", "fulfilled_count")
    row = connection.execute(
        "SELECT out_order_no, amount, currency, channel, state, fulfilled_count FROM orders WHERE out_order_no = ?",
        (out_order_no,),
    ).fetchone()
    return dict(zip(names, row, strict=True)) if row else {}


def show(connection: sqlite3.Connection, out_order_no: str, credential: Credential, way: Way) -> None:
    """Keep what the customer pays with: a code, an address, a form; and how, as they may have chosen anew."""
    text = msgspec.json.encode(credential).decode()
    connection.execute(
        "UPDATE orders SET credential = ?, channel = ?, method = ? WHERE out_order_no = ?",
        (text, way.channel, way.method, out_order_no),
    )


def learn(connection: sqlite3.Connection, order: Order, seq: int, source: str, now: float) -> bool:
    """Take over what the gateway says of an order, and fulfil it the first time it says paid.

    Returns:
        Whether it was news. Older news, an order we never made or another amount than ours change nothing.
    """
    row = connection.execute(
        "SELECT amount, currency, seq, state FROM orders WHERE out_order_no = ?", (order.out_order_no,)
    ).fetchone()
    if row is None or (order.amount, order.currency) != (row[0], row[1]) or seq <= row[2]:
        return False
    connection.execute(
        "UPDATE orders SET order_id = ?, state = ?, seq = ?, ask_at = CASE WHEN ? THEN NULL ELSE ask_at END"
        " WHERE out_order_no = ?",
        (order.order_id, order.state, seq, order.state in FINAL, order.out_order_no),
    )
    if order.state is OrderState.PAID and row[3] != OrderState.PAID:
        _fulfil(connection, order, source, now)
    return True


def _fulfil(connection: sqlite3.Connection, order: Order, source: str, now: float) -> None:
    """Send the goods. Here a counter; with a real dispatch a row in an outbox, in this same transaction."""
    connection.execute(
        "UPDATE orders SET fulfilled_count = fulfilled_count + 1, paid_amount = ?, paid_at = ?, learned_by = ?"
        " WHERE out_order_no = ?",
        (order.paid_amount, now, source, order.out_order_no),
    )


def receive(connection: sqlite3.Connection, event: Event, now: float) -> bool:
    """Handle a verified webhook, once per id, together with what it leads to. True: it told us something new."""
    again = connection.execute(
        "UPDATE inbox SET delivery_count = delivery_count + 1 WHERE webhook_id = ?", (event.id,)
    ).rowcount
    if again:
        return False
    order = event.data.object
    effective = learn(connection, order, event.seq, "webhook", now)
    connection.execute(
        "INSERT INTO inbox (webhook_id, out_order_no, type, seq, received_at, effective) VALUES (?,?,?,?,?,?)",
        (event.id, order.out_order_no, event.type, event.seq, now, effective),
    )
    return effective


def take_quiet(connection: sqlite3.Connection, now: float, pause_s: float, limit: int) -> list[Quiet]:
    """Orders to ask about now.

    Each is put off first, twice as long every time: a crash here asks later, not never.
    """
    rows = connection.execute(
        "SELECT out_order_no, order_id, credential IS NOT NULL, channel, method, asked_count FROM orders"
        " WHERE ask_at <= ? ORDER BY ask_at LIMIT ?",
        (now, limit),
    ).fetchall()
    for out_order_no, *_, asked_count in rows:
        next_s = min(ASK_PAUSE_MAX_S, pause_s * 2 ** min(asked_count, 10))
        connection.execute(
            "UPDATE orders SET ask_at = ?, asked_count = asked_count + 1 WHERE out_order_no = ?",
            (now + next_s, out_order_no),
        )
    return [Quiet(number, order_id, bool(payable), Way(*way)) for number, order_id, payable, *way, _ in rows]


def counts(connection: sqlite3.Connection) -> dict[str, Any]:
    """How things stand, for people and for the demo's picture. What is paid or closed counts as payable, too."""
    orders = connection.execute(
        "SELECT count(*), count(order_id), coalesce(sum(credential IS NOT NULL OR state IN ('paid', 'closed')), 0),"
        " coalesce(sum(fulfilled_count), 0),"
        " coalesce(sum(learned_by = 'answer'), 0), coalesce(sum(asked_count), 0) FROM orders"
    ).fetchone()
    inbox = connection.execute(
        "SELECT coalesce(sum(delivery_count), 0), coalesce(sum(effective), 0) FROM inbox"
    ).fetchone()
    by_channel = connection.execute(
        "SELECT channel, count(*), sum(credential IS NOT NULL OR state IN ('paid', 'closed')), sum(fulfilled_count)"
        " FROM orders GROUP BY channel"
    ).fetchall()
    channels = {channel: dict(zip(COUNTED_BY_CHANNEL, row, strict=True)) for channel, *row in by_channel}
    return {**dict(zip(COUNTED, (*orders, *inbox), strict=True)), "channels": channels}
