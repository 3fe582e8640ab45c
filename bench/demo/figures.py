"""How things stand while the demo runs: cheap counts from each ledger. The verdict is the auditor's."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import asyncpg
import msgspec

from bench.demo.stage import Stage

# The state alone says whether an order is paid; its credit says where.
COUNTS_SQL = (
    "SELECT p.channel, count(*) FILTER (WHERE p.kind = 'credit' AND o.state = 'paid') AS paid,"
    " count(*) FILTER (WHERE p.learned_by = 'query') AS by_query"
    " FROM payments p JOIN orders o USING (order_id) GROUP BY p.channel"
)
TOO_MUCH_SQL = (
    "SELECT p.channel, count(*) AS excess, count(r.refund_id) AS given_back FROM payments p LEFT JOIN refunds r"
    " ON (r.channel, r.account, r.channel_transaction) = (p.channel, p.account, p.channel_transaction)"
    " AND r.order_id = p.order_id AND r.state = 'succeeded' WHERE p.kind = 'excess' GROUP BY p.channel"
)
CONTROL_SQL = "SELECT channel, count(*), sum(paid) FROM orders GROUP BY channel"


class Figures(msgspec.Struct, frozen=True):
    """One moment at one channel, or all together."""

    orders: int = 0
    payable: int = 0
    paid_at_channel: int = 0
    notifications_dropped: int = 0
    paid_here: int = 0
    found_by_query: int = 0
    told: int = 0
    excess: int = 0
    given_back: int = 0
    control_orders: int = 0
    control_paid_at_channel: int = 0
    control_paid: int = 0

    def __add__(self, other: "Figures") -> "Figures":
        return Figures(*map(sum, zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)))


class Moment(msgspec.Struct, frozen=True):
    """All channels at one moment. A source that does not answer just now keeps its last values."""

    channels: Mapping[str, Figures]
    webhooks: int = 0

    @property
    def total(self) -> Figures:
        """Of all channels together."""
        return sum(self.channels.values(), Figures())


class _Line(msgspec.Struct, frozen=True):
    kind: str
    channel: str
    merchant: str
    topic: str = ""


class Watch:
    """Looks again every time it is asked."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._offset = 0
        self._lines: Counter[tuple[str, str, str]] = Counter()
        self._decode = msgspec.json.Decoder(_Line).decode
        self._database: asyncpg.Connection | None = None
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0))
        self.moment = Moment(dict.fromkeys(stage.play.channels, Figures()))

    async def close(self) -> None:
        """Let go of the connections."""
        await self._session.close()
        if self._database is not None:
            self._database.terminate()

    async def look(self) -> Moment:
        """Read what is new."""
        self._read_channels()
        gateway, (shop, webhooks) = await asyncio.gather(self._ask_gateway_ledger(), self._ask_shop())
        control = _count_control(self._stage.directory / "control.sqlite")
        ours, theirs = self._stage.merchants("holdfast"), self._stage.merchants("control")
        channels = {
            name: msgspec.structs.replace(
                before,
                paid_at_channel=self._lines[name, ours[name], "paid"],
                notifications_dropped=self._lines[name, ours[name], "notification_dropped"],
                control_paid_at_channel=self._lines[name, theirs[name], "paid"],
                **gateway.get(name, {}),
                **shop.get(name, {}),
                **control.get(name, {}),
            )
            for name, before in self.moment.channels.items()
        }
        self.moment = Moment(channels, self.moment.webhooks if webhooks is None else webhooks)
        return self.moment

    def _read_channels(self) -> None:
        with self._stage.channel_ledger.open("rb") as ledger:
            ledger.seek(self._offset)
            for line in ledger:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                entry = self._decode(line)
                if not entry.topic:
                    self._lines[entry.channel, entry.merchant, entry.kind] += 1

    async def _ask_gateway_ledger(self) -> dict[str, dict[str, int]]:
        if self._database is None:
            self._database = await asyncpg.connect(self._stage.database_url)
        counted = {
            row["channel"]: {"paid_here": row["paid"], "found_by_query": row["by_query"]}
            for row in await self._database.fetch(COUNTS_SQL)
        }
        for row in await self._database.fetch(TOO_MUCH_SQL):
            counted[row["channel"]] |= {"excess": row["excess"], "given_back": row["given_back"]}
        return counted

    async def _ask_shop(self) -> tuple[dict[str, dict[str, int]], int | None]:
        try:
            async with self._session.get(f"{self._stage.shop_url}/status") as answer:
                counted = await answer.json()
        except (aiohttp.ClientError, TimeoutError):
            return {}, None
        names = {"orders": "orders", "payable": "payable", "told": "fulfilled"}
        channels = {
            channel: {ours: each[theirs] for ours, theirs in names.items()}
            for channel, each in counted["channels"].items()
        }
        return channels, counted["webhooks"]


def _count_control(path: Path) -> dict[str, dict[str, int]]:
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0.2)
        try:
            rows = connection.execute(CONTROL_SQL).fetchall()
        finally:
            connection.close()
    except sqlite3.Error:
        return {}
    return {channel: {"control_orders": orders, "control_paid": paid} for channel, orders, paid in rows}
