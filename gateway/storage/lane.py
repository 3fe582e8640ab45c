"""One connection of the committer: sends a batch as one statement and reads what became of every write in it."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncpg
import msgspec

from actors.checkpoint import Write
from actors.ports import Verdict
from gateway.probe import probe
from gateway.storage.outbox import OutboxRow
from gateway.storage.rows import Row, Settings, add_rows, arrays, in_lock_order
from gateway.storage.sqlstates import NotConnected
from gateway.storage.statement import statement

T = TypeVar("T")

_OWN = """
SELECT m.order_id
FROM unnest($1::text[], $2::int[], $3::bigint[]) AS m (order_id, version, op_id)
WHERE EXISTS (SELECT FROM events e WHERE e.order_id = m.order_id AND e.version = m.version AND e.op_id = m.op_id)
"""

# Locks nothing for longer than this statement: it runs in a transaction of its own.
_FREE = "SELECT order_id FROM orders WHERE order_id = ANY ($1::text[]) FOR NO KEY UPDATE SKIP LOCKED"


class Pending(msgspec.Struct, eq=False):
    """A write on its way. `in_doubt`: it was sent, and nobody knows whether it was written."""

    write: Write
    op_id: int
    since: float
    done: "asyncio.Future[Verdict]"
    webhook: OutboxRow | None
    in_doubt: bool = False

    @property
    def order_id(self) -> str | None:
        """The order it moves or gives birth to; None for a notification that is only recorded."""
        return None if self.write.order is None else self.write.order.order_id

    @property
    def moves(self) -> bool:
        """Whether it changes an order that exists."""
        return self.write.order is not None and self.write.order.version > 1


class Lane:
    """Connects when it must, and never cancels a statement: past the deadline the connection is torn down.

    `lost` hears of every end of a connection, for whatever reason.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        settings: Settings,
        timeout_s: float,
    ) -> None:
        self.lost: Callable[[], None] = lambda: None
        self._connect = connect
        self._settings = settings
        self._timeout_s = timeout_s
        self._connection: asyncpg.Connection | None = None
        self._prepared: dict[frozenset[str], Any] = {}

    async def connected(self) -> asyncpg.Connection:
        """The connection, a fresh one if need be.

        Raises:
            NotConnected: nothing was sent.
        """
        if self._connection is None or self._connection.is_closed():
            self._prepared = {}
            try:
                self._connection = await self._connect()
            except Exception as error:
                raise NotConnected(f"{type(error).__name__}: {error}") from error
            self._connection.add_termination_listener(lambda _: self.lost())
        return self._connection

    def disconnect(self) -> None:
        """Let go of the connection; what it still carries is in doubt."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def send(self, batch: Sequence[Pending]) -> set[str]:
        """Write a batch.

        Returns:
            The ids of the orders whose writes are durable, by this sending or an earlier one.

        Raises:
            Exception: sqlstates.meaning says what it means for the whole batch.
        """
        connection = await self.connected()
        probe("before_commit")
        won = await self._in_time(connection, self._execute(connection, batch))
        missed = [pending for pending in batch if pending.order_id is not None and pending.order_id not in won]
        if missed:
            for pending in batch:  # it is written: whatever goes wrong from here on, "certainly not" would be a lie
                pending.in_doubt = True
            won |= await self.own(missed)
        probe("after_commit")
        return won

    async def own(self, missed: Sequence[Pending]) -> set[str]:
        """Which of these writes stand in the events under our own op_id. A new statement: it sees what has landed."""
        keys = [(p.order_id, p.write.order.version, p.op_id) for p in missed if p.write.order is not None]
        connection = await self.connected()
        return await self._in_time(connection, _ids(connection, _OWN, *arrays(keys, 3)))

    async def held(self, batch: Sequence[Pending]) -> set[str]:
        """Which orders of the batch exist and are locked by somebody else right now."""
        moved = [pending.order_id for pending in batch if pending.moves]
        connection = await self.connected()
        free = await self._in_time(connection, _ids(connection, _FREE, moved))
        return {order_id for order_id in moved if order_id is not None} - free

    async def _execute(self, connection: asyncpg.Connection, batch: Sequence[Pending]) -> set[str]:
        rows: dict[str, list[Row]] = {}
        for pending in batch:
            add_rows(rows, pending.write, pending.op_id, pending.webhook, self._settings)
        names = frozenset(rows)
        text = statement(names)
        prepared = self._prepared.get(names)
        if prepared is None:
            prepared = self._prepared[names] = await connection.prepare(text.sql)
        parameters = itertools.chain.from_iterable(
            arrays(in_lock_order(name, rows.get(name, ())), len(columns)) for name, columns in text.columns.items()
        )
        return {record[0] for record in await prepared.fetch(*parameters)}

    async def _in_time(self, connection: asyncpg.Connection, work: Awaitable[T]) -> T:
        task = asyncio.ensure_future(work)
        done, _ = await asyncio.wait({task}, timeout=self._timeout_s)
        if not done:
            connection.terminate()
            await asyncio.wait({task})
            if task.cancelled() or task.exception() is not None:
                raise TimeoutError("the database did not answer in time")
        return task.result()


async def _ids(connection: asyncpg.Connection, sql: str, *parameters: Any) -> set[str]:
    return {record[0] for record in await connection.fetch(sql, *parameters)}
