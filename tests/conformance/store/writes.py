"""Writes for the store's tests: orders that are born and moved as the state machine moves them."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from actors.checkpoint import Arrival, Write, birth, move
from actors.deadlines import Schedule
from actors.events import Credential, CredentialType, Event, PaymentReported, PayRequested, Source, SubmitAccepted
from actors.lifecycle import transition
from actors.order import Content, Order, new_order
from actors.ports import Verdict
from gateway import ids
from gateway.metrics import Metrics
from gateway.storage.group_commit import Bounds, GroupCommit
from gateway.storage.outbox import OutboxRow
from gateway.storage.rows import Settings
from tests.conformance.store.stores import Connect

APPLIED, LOST = Verdict.APPLIED, Verdict.LOST
QUICK = Bounds(statement_timeout_s=0.5, answer_s=0.4)
ENDPOINT = "http://shop.example/webhooks"
NOW_MS = 1_800_000_000_123
WITHIN_S = 20.0
WEBHOOK_LEASE_MS = 30_000

_numbers = itertools.count(1)


@asynccontextmanager
async def committing(
    connect: Connect,
    bounds: Bounds = QUICK,
    endpoint: str | None = ENDPOINT,
    window_ms: int = 60_000,
    owed: list[OutboxRow] | None = None,
) -> AsyncIterator[GroupCommit]:
    """The real committer on a store."""

    def owe(rows: Sequence[OutboxRow]) -> None:
        if owed is not None:
            owed.extend(rows)

    committer = GroupCommit(
        connect, Settings(window_ms, WEBHOOK_LEASE_MS, lambda _app: endpoint), bounds, Metrics(), owe
    )
    await committer.start()
    try:
        yield committer
    finally:
        await asyncio.wait_for(committer.stop(), WITHIN_S)


def new(**content: Any) -> Order:
    """An order that does not exist yet."""
    fields = {
        "app_id": "shop",
        "out_order_no": f"no-{next(_numbers)}",
        "amount": 100,
        "currency": "CNY",
        "subject": "x",
    }
    return new_order(ids.order_id(NOW_MS), Content(**{**fields, **content}), NOW_MS, NOW_MS + 1_800_000)


def moved(order: Order, event: Event | None = None) -> Write:
    """The write of the order's next transition; without an event, that somebody wants to pay."""
    event = event or PayRequested(NOW_MS, "wechatpay", "1900/wx", "native")
    return move(order, event, transition(order, event, Schedule()))


def accepted() -> SubmitAccepted:
    """The channel gave a code."""
    return SubmitAccepted(NOW_MS, 1, Credential(CredentialType.QR, "weixin://x", NOW_MS + 60_000))


def paid(transaction: str, amount: int = 100) -> PaymentReported:
    """The channel says that it was paid."""
    return PaymentReported(
        NOW_MS, 1, Source.QUERY, "wechatpay", "1900/wx", transaction, amount, "CNY", success_at_ms=NOW_MS - 7
    )


def arrival(number: int) -> Arrival:
    """A notification that came in."""
    return Arrival(number, "wechatpay", "X", "01", "verified", '{"a":"b"}', b"\x00raw", NOW_MS)


def after(write: Write) -> Order:
    """The order as a write leaves it."""
    assert write.order is not None
    return write.order


async def born(committer: GroupCommit, count: int = 1, **content: Any) -> list[Order]:
    """New orders."""
    orders = [new(**content) for _ in range(count)]
    verdicts = await asyncio.gather(*(committer.submit(birth(order, None)) for order in orders))
    assert set(verdicts) == {APPLIED}
    return orders


async def paying(committer: GroupCommit) -> Order:
    """A new order that somebody wants to pay."""
    (order,) = await born(committer)
    assert await committer.submit(moved(order)) is APPLIED
    return after(moved(order))
