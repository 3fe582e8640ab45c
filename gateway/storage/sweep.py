"""The scan that does not trust the actors: due orders and refunds are claimed from Postgres in pages.

A claim is a lease: it pushes the row's `next_check_at` ahead. The order's own decision replaces it; if this process
dies first, the next claim follows when the lease has run out. A page is finished before the next is claimed, so a
backlog of any size is worked off at the pace the channels allow.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import structlog

from actors.actor import Asked
from actors.errors import ActorError
from actors.events import Due, RefundsDue
from gateway.config import Sweep as Settings
from gateway.metrics import Metrics
from gateway.probe import probe
from gateway.storage.queries import query

FORGET_EVERY_S = 30.0  # how often submissions that no longer matter are deleted

log = structlog.get_logger(__name__)


class Sweep:
    """Claims due orders and tells them that they are due. `room` awaits until effects of more orders can be taken."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        settings: Settings,
        tell: Callable[[str, Due | RefundsDue], Asked],
        room: Callable[[], Any],
        metrics: Metrics,
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._tell = tell
        self._room = room
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to sweep; the first page is claimed at once."""
        self._task = asyncio.create_task(self._run(), name="sweep")

    async def stop(self) -> None:
        """Stop between two pages. What was claimed and not decided is found again after the lease."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def sweep(self) -> int:
        """Claim one page and see it decided; how many orders were due."""
        await self._room()
        settings = self._settings
        claimed = await self._pool.fetch(query("claim_due"), settings.grace_s, settings.page_rows, settings.lease_s)
        if claimed:
            probe("orders_claimed")
        await self._told([self._tell(each["order_id"], Due(each["at_ms"], each["version"])) for each in claimed])
        return len(claimed)

    async def sweep_refunds(self) -> int:
        """Claim one page of refunds and see it decided; how many there were."""
        await self._room()
        settings = self._settings
        page = (settings.grace_s, settings.page_rows, settings.lease_s)
        claimed = await self._pool.fetch(query("claim_due_refunds"), *page)
        await self._told(
            [
                self._tell(each["order_id"], RefundsDue(each["at_ms"], tuple(each["refund_ids"]), each["version"]))
                for each in claimed
            ]
        )
        return sum(len(record["refund_ids"]) for record in claimed)

    async def _told(self, asked: list[Asked]) -> None:
        results = await asyncio.gather(*asked, return_exceptions=True)
        self._metrics.swept.inc(len(asked))
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, ActorError):
                log.warning("sweep_order_failed", error=f"{type(result).__name__}: {result}"[:300])

    async def _run(self) -> None:
        forgotten_at = 0.0
        while True:
            try:
                page, more = self._settings.page_rows, True
                while more:  # in turns: neither waits for the whole backlog of the other
                    orders, refunds = await self.sweep(), await self.sweep_refunds()
                    more = page in (orders, refunds)
                now = asyncio.get_running_loop().time()
                if now - forgotten_at > FORGET_EVERY_S:
                    forgotten_at = now
                    await self._pool.execute(query("forget_submissions"))
            except Exception as error:  # the database is away: the rows are still due when it is back
                log.warning("sweep_failed", error=f"{type(error).__name__}: {error}"[:300])
            await asyncio.sleep(self._settings.every_s)
