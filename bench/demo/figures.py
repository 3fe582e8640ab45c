"""How things stand while the demo runs: cheap counts from each ledger. The verdict is the auditor's."""

import asyncio
import sqlite3
from pathlib import Path

import aiohttp
import asyncpg
import msgspec

from bench.demo.stage import Stage

COUNTS_SQL = (
    "SELECT (SELECT count(*) FROM orders WHERE state = 'paid') AS paid,"
    " (SELECT count(*) FROM payments WHERE learned_by = 'query') AS by_query,"
    " (SELECT count(*) FROM cases WHERE resolved_at IS NULL) AS cases"
)


class Figures(msgspec.Struct, frozen=True):
    """One moment. A source that does not answer just now keeps its last value."""

    orders: int = 0
    payable: int = 0
    paid_at_channel: int = 0
    notifications_dropped: int = 0
    paid_here: int = 0
    found_by_query: int = 0
    cases: int = 0
    told: int = 0
    webhooks: int = 0
    control_orders: int = 0
    control_paid_at_channel: int = 0
    control_paid: int = 0


class _Line(msgspec.Struct, frozen=True):
    kind: str
    mchid: str


class Watch:
    """Looks again every time it is asked."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._offset = 0
        self._lines: dict[tuple[str, str], int] = {}
        self._decode = msgspec.json.Decoder(_Line).decode
        self._database: asyncpg.Connection | None = None
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0))
        self.figures = Figures()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._session.close()
        if self._database is not None:
            self._database.terminate()

    async def look(self) -> Figures:
        """Read what is new."""
        self._read_channel()
        gateway, shop = await asyncio.gather(self._ask_gateway_ledger(), self._ask_shop())
        control = _count_control(self._stage.directory / "control.sqlite")
        ours, other = self._stage.mchids
        self.figures = msgspec.structs.replace(
            self.figures,
            paid_at_channel=self._lines.get((ours, "paid"), 0),
            notifications_dropped=self._lines.get((ours, "notification_dropped"), 0),
            control_paid_at_channel=self._lines.get((other, "paid"), 0),
            **gateway,
            **shop,
            **control,
        )
        return self.figures

    def _read_channel(self) -> None:
        with self._stage.channel_ledger.open("rb") as ledger:
            ledger.seek(self._offset)
            for line in ledger:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                entry = self._decode(line)
                key = (entry.mchid, entry.kind)
                self._lines[key] = self._lines.get(key, 0) + 1

    async def _ask_gateway_ledger(self) -> dict[str, int]:
        if self._database is None:
            self._database = await asyncpg.connect(self._stage.database_url)
        row = await self._database.fetchrow(COUNTS_SQL)
        return {"paid_here": row["paid"], "found_by_query": row["by_query"], "cases": row["cases"]}

    async def _ask_shop(self) -> dict[str, int]:
        try:
            async with self._session.get(f"{self._stage.shop_url}/status") as answer:
                counted = await answer.json()
        except (aiohttp.ClientError, TimeoutError):
            return {}
        names = {"orders": "orders", "payable": "payable", "told": "fulfilled", "webhooks": "webhooks"}
        return {ours: counted[theirs] for ours, theirs in names.items()}


def _count_control(path: Path) -> dict[str, int]:
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0.2)
        try:
            orders, paid = connection.execute("SELECT count(*), coalesce(sum(paid), 0) FROM orders").fetchone()
        finally:
            connection.close()
    except sqlite3.Error:
        return {}
    return {"control_orders": orders, "control_paid": paid}
