"""Cases: what people must look at. Opened and settled by the group commit together with the order; read here."""

import asyncio
import re
from typing import Any

import asyncpg
import msgspec
import structlog

from actors.order import Reason
from gateway.metrics import Metrics
from gateway.storage.queries import query

COUNT_EVERY_S = 15.0
_CASE_ID = re.compile(r"([0-9A-Z]{26})-([0-9]{1,9})\Z", re.ASCII)

log = structlog.get_logger(__name__)


class Case(msgspec.Struct, frozen=True):
    """One case. `version` is the transition of the order that opened it; `app_id` is None if there is no such order."""

    order_id: str
    version: int
    app_id: str | None
    reason: str
    evidence_json: str | None
    opened_at_ms: int
    resolved_at_ms: int | None
    resolution: str | None
    resolved_by: str | None
    note: str | None

    @property
    def case_id(self) -> str:
        """What people and the API call it."""
        return f"{self.order_id}-{self.version}"


def parsed(case_id: str) -> tuple[str, int] | None:
    """The order's id and the version in a case's id; None if it is none."""
    named = _CASE_ID.match(case_id)
    return None if named is None else (named[1], int(named[2]))


class Cases:
    """The cases of all apps, or of one."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def page(
        self, *, app_id: str | None, is_open: bool, after: tuple[str, int] | None, rows_max: int
    ) -> list[Case]:
        """Cases, oldest first, behind the one called `after`."""
        order_id, version = after or (None, None)
        records = await self._pool.fetch(query("cases"), app_id, is_open, order_id, version, rows_max)
        return [_case(record) for record in records]

    async def one(self, order_id: str, version: int) -> Case | None:
        """The case that this transition of the order opened."""
        record = await self._pool.fetchrow(query("case"), order_id, version)
        return None if record is None else _case(record)

    async def close_orphan(self, order_id: str, by: str, note: str) -> bool:
        """Settle a case without an order; whether it was open."""
        return await self._pool.fetchval(query("close_orphan"), order_id, by, note) is not None


class CaseCounter:
    """Keeps the gauges of open cases: how many of each reason, and the age of the oldest."""

    def __init__(self, pool: asyncpg.Pool, metrics: Metrics) -> None:
        self._pool = pool
        self._metrics = metrics

    async def count(self) -> None:
        """Look once."""
        records = await self._pool.fetch(query("open_cases"))
        counts = {record["reason"]: record["count"] for record in records}
        for reason in (*Reason, *(name for name in counts if name not in list(Reason))):
            self._metrics.cases_open[str(reason)].set(counts.get(reason, 0))
        self._metrics.case_oldest_s.set(max((record["oldest_s"] for record in records), default=0.0))

    async def run(self) -> None:
        """Look every few seconds."""
        while True:
            try:
                await self.count()
            except Exception as error:  # the gauges stay as they are until the database is back
                log.warning("cases_not_counted", error=f"{type(error).__name__}: {error}"[:300])
            await asyncio.sleep(COUNT_EVERY_S)


def _case(record: Any) -> Case:
    return Case(**{field: record[field] for field in Case.__struct_fields__})
