"""The gateways' tables, read as they are, into plain values; nothing here knows the code that wrote them."""

from pathlib import Path
from typing import TypeVar

import asyncpg
import msgspec

from bench.ledgers import sqlite_rows

T = TypeVar("T", bound=msgspec.Struct)


class OrderRow(msgspec.Struct, frozen=True):
    """Of `orders`. Moments are seconds from now (the database's): what is past is negative."""

    order_id: str
    app_id: str
    out_order_no: str
    state: str
    version: int
    amount: int
    currency: str
    paid_amount: int
    refunded_amount: int
    late_payment: str
    expires_in_s: float
    next_check_in_s: float | None


class AttemptRow(msgspec.Struct, frozen=True):
    """Of `attempts`."""

    attempt_id: str
    order_id: str
    number: int
    channel: str
    state: str


class PaymentRow(msgspec.Struct, frozen=True):
    """Of `payments`."""

    order_id: str
    channel: str
    account: str
    transaction: str
    kind: str
    amount: int
    currency: str


class RefundRow(msgspec.Struct, frozen=True):
    """Of `refunds`."""

    refund_id: str
    order_id: str
    out_refund_no: str | None
    cause: str
    channel: str
    account: str
    transaction: str
    amount: int
    state: str


class EventRow(msgspec.Struct, frozen=True):
    """Of `events`."""

    order_id: str
    version: int
    type: str
    state: str


class WebhookRow(msgspec.Struct, frozen=True):
    """Of `outbox`."""

    event_id: str
    app_id: str
    order_id: str
    seq: int
    type: str
    state: str
    tries: int
    age_s: float


class CaseRow(msgspec.Struct, frozen=True):
    """Of `cases`."""

    order_id: str
    version: int
    reason: str
    resolved: bool


class Tables(msgspec.Struct, frozen=True):
    """All of one moment."""

    orders: list[OrderRow] = []
    attempts: list[AttemptRow] = []
    payments: list[PaymentRow] = []
    refunds: list[RefundRow] = []
    events: list[EventRow] = []
    outbox: list[WebhookRow] = []
    cases: list[CaseRow] = []


class InboxRow(msgspec.Struct, frozen=True):
    """Of the shop's inbox: a webhook that it believed."""

    event_id: str
    out_order_no: str
    type: str
    seq: int


ORDERS = """
SELECT order_id, app_id, out_order_no, state, version, amount, currency, paid_amount, refunded_amount, late_payment,
       extract(epoch FROM expires_at - now())::float8, extract(epoch FROM next_check_at - now())::float8 FROM orders"""
ATTEMPTS = "SELECT attempt_id, order_id, number, channel, state FROM attempts"
PAYMENTS = "SELECT order_id, channel, account, channel_transaction, kind, amount, currency FROM payments"
REFUNDS = """
SELECT refund_id, order_id, out_refund_no, cause, channel, account, channel_transaction, amount, state FROM refunds"""
EVENTS = "SELECT order_id, version, type, state FROM events ORDER BY order_id, version"
OUTBOX = """
SELECT event_id, app_id, order_id, seq, type, state, tries, extract(epoch FROM now() - created_at)::float8
FROM outbox"""
CASES = "SELECT order_id, version, reason, resolved_at IS NOT NULL FROM cases"
INBOX = "SELECT webhook_id, out_order_no, type, seq FROM inbox"


async def read_tables(database_url: str) -> Tables:
    """Everything of one moment, over a connection that can not write."""
    connection = await asyncpg.connect(database_url, server_settings={"default_transaction_read_only": "on"})

    async def rows(kind: type[T], sql: str) -> list[T]:
        return [kind(*row) for row in await connection.fetch(sql)]

    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return Tables(
                orders=await rows(OrderRow, ORDERS),
                attempts=await rows(AttemptRow, ATTEMPTS),
                payments=await rows(PaymentRow, PAYMENTS),
                refunds=await rows(RefundRow, REFUNDS),
                events=await rows(EventRow, EVENTS),
                outbox=await rows(WebhookRow, OUTBOX),
                cases=await rows(CaseRow, CASES),
            )
    finally:
        await connection.close()


def read_inbox(path: Path) -> list[InboxRow]:
    """What the shop was told and believed."""
    return [InboxRow(*row) for row in sqlite_rows(path, INBOX)]
