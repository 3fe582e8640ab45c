"""The sweep tells an order that it is due by the clock that found it due."""

import asyncio
from typing import Any, cast

from actors.actor import Asked
from actors.events import Due, RefundsDue
from gateway.config import Sweep as Settings
from gateway.metrics import Metrics
from gateway.storage.queries import query
from gateway.storage.sweep import Sweep

DATABASE_SAYS_MS = 1_790_000_000_123


class Pool:
    """One order and one refund are due, as the database sees it."""

    async def fetch(self, sql: str, *_: Any) -> list[dict[str, Any]]:
        due = {"order_id": "A", "version": 7, "at_ms": DATABASE_SAYS_MS}
        return [due] if sql == query("claim_due") else [due | {"refund_ids": ["AR1"]}]


async def test_what_is_due_is_told_so_by_the_databases_clock() -> None:
    """A gateway's clock that is behind would put the next check into the past, and the order would be due at once."""
    told: list[Due | RefundsDue] = []

    def tell(_order_id: str, event: Due | RefundsDue) -> Asked:
        told.append(event)
        asked: Any = asyncio.get_running_loop().create_future()
        asked.set_result(None)
        return cast(Asked, asked)

    async def room() -> None:
        return None

    sweep = Sweep(cast(Any, Pool()), Settings(), tell, room, Metrics())
    assert await sweep.sweep() == 1
    assert await sweep.sweep_refunds() == 1
    assert told == [Due(DATABASE_SAYS_MS, 7), RefundsDue(DATABASE_SAYS_MS, ("AR1",), 7)]
