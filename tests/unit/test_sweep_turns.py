"""Orders and refunds are swept in turns."""

import asyncio
from typing import Any

from gateway.config import Sweep as Settings
from gateway.metrics import Metrics
from gateway.storage.sweep import Sweep
from tests.unit.orders import BORN_MS


class Endless:
    """A database in which every page of orders is full."""

    def __init__(self, page_rows: int) -> None:
        self.asked: list[str] = []
        self._page_rows = page_rows

    async def fetch(self, sql: str, *_: Any) -> list[dict[str, Any]]:
        await asyncio.sleep(0)
        refunds = "refund_ids" in sql
        self.asked.append("refunds" if refunds else "orders")
        return [] if refunds else [{"order_id": "0" * 26, "version": 1, "at_ms": BORN_MS}] * self._page_rows

    async def execute(self, *_: Any) -> None:
        pass


async def test_refunds_do_not_wait_for_the_whole_backlog_of_orders() -> None:
    def tell(_order_id: str, _event: object) -> "asyncio.Future[Any]":
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    pool = Endless(page_rows=3)
    sweep = Sweep(pool, Settings(page_rows=3), tell, lambda: asyncio.sleep(0), Metrics())  # type: ignore[arg-type]
    sweep.start()
    await asyncio.sleep(0.05)
    await sweep.stop()
    assert pool.asked[:4] == ["orders", "refunds", "orders", "refunds"]
