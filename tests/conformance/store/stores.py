"""The two stores that must not be told apart: the embedded PostgreSQL, and the one the simulation runs on."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Any, Protocol

import asyncpg
import msgspec

from bench.lossy_proxy import LossyProxy
from gateway.config import Config
from gateway.databases import connector, make_pool
from tests.simulation.database import Database, Fate, Faults

Connect = Callable[[], Awaitable[Any]]


class Store(Protocol):
    """What a test needs of a store, beside what the gateway needs of it."""

    pool: Any

    async def connect(self) -> Any:
        """A session for a committer."""

    async def connect_patiently(self) -> Any:
        """The same, but it waits for rows as long as it must."""

    def lose_next_reply(self) -> None:
        """The committers' next statement is carried out; instead of its reply comes the end of the connection."""

    @property
    def replies_lost(self) -> int:
        """How often that has happened."""

    def held(self, order_id: str) -> AbstractAsyncContextManager[None]:
        """While the block runs, somebody else has the order's row locked."""

    async def rows(self, table: str) -> list[dict[str, Any]]:
        """What is committed, sorted by all columns; moments are called `_ms` and are unix milliseconds."""


class Real:
    """PostgreSQL: committers behind a proxy that can lose replies, everybody else straight."""

    def __init__(self, url: str, proxy: LossyProxy, pool: asyncpg.Pool, other: asyncpg.Connection) -> None:
        self.pool = pool
        self._proxy = proxy
        self._other = other
        self._connect = connector(Config(), proxy.url)
        self._straight = connector(Config(), url)

    async def connect(self) -> Any:
        return await self._connect()

    async def connect_patiently(self) -> Any:
        connection = await self._straight()
        await connection.execute("SET lock_timeout = 0")
        return connection

    def lose_next_reply(self) -> None:
        self._proxy.lose_next_reply()

    @property
    def replies_lost(self) -> int:
        return self._proxy.replies_lost

    @asynccontextmanager
    async def held(self, order_id: str) -> AsyncIterator[None]:
        transaction = self._other.transaction()
        await transaction.start()
        await self._other.execute("SELECT FROM orders WHERE order_id = $1 FOR UPDATE", order_id)
        try:
            yield
        finally:
            await transaction.rollback()

    async def rows(self, table: str) -> list[dict[str, Any]]:
        rows = await self.pool.fetch(f"SELECT * FROM {table}")  # noqa: S608 - a name the test itself wrote
        return _sorted([dict(map(_moment, row.items())) for row in rows])


class Losing(Database):
    """One that loses a reply when it is told to."""

    lose_next = False
    replies_lost = 0

    def _fate(self) -> Fate:
        if not self.lose_next:
            return super()._fate()
        self.lose_next = False
        self.replies_lost += 1
        return Fate(reply_lost=True, ends=True)


class Simulated:
    """The simulation's database, on the loop and the clock of the test."""

    def __init__(self, database: "Losing") -> None:
        self.database = database
        self.pool = database.pool()

    async def connect(self) -> Any:
        return await self.database.connect()

    async def connect_patiently(self) -> Any:
        return await self.database.open(None, None)

    def lose_next_reply(self) -> None:
        self.database.lose_next = True

    @property
    def replies_lost(self) -> int:
        return self.database.replies_lost

    @asynccontextmanager
    async def held(self, order_id: str) -> AsyncIterator[None]:
        with self.database.held(("orders", order_id)):
            yield

    async def rows(self, table: str) -> list[dict[str, Any]]:
        rows = getattr(self.database.tables, table).values()
        return _sorted([dict(map(_in_ms, msgspec.structs.asdict(row).items())) for row in rows])


@asynccontextmanager
async def real(url: str) -> AsyncIterator[Store]:
    """The embedded PostgreSQL."""
    other = await asyncpg.connect(url)
    pool = await make_pool(Config(), url)
    try:
        async with LossyProxy(url) as proxy:
            yield Real(url, proxy, pool, other)
    finally:
        pool.terminate()
        other.terminate()


@asynccontextmanager
async def simulated(seed: int = 1) -> AsyncIterator[Store]:
    """The simulated one."""
    servers: set[asyncio.Task[None]] = set()

    def spawn(work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        servers.add(task)
        task.add_done_callback(servers.discard)
        return task

    yield Simulated(Losing(time.time, random.Random(seed), Faults(), spawn))
    for server in servers:
        server.cancel()


def _moment(column: tuple[str, Any]) -> tuple[str, Any]:
    name, value = column
    if isinstance(value, datetime):
        return f"{name}_ms", round(value.timestamp() * 1000)
    return (f"{name}_ms" if name.endswith("_at") else name), value


def _in_ms(column: tuple[str, Any]) -> tuple[str, Any]:
    name, value = column
    if name.endswith("_us"):
        return f"{name.removesuffix('_us')}_ms", None if value is None else round(value / 1000)
    return name, value


def _sorted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted((dict(sorted(row.items())) for row in rows), key=lambda row: str(list(row.values())))
