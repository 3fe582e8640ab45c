"""The client's side of the simulated database: as much of asyncpg's connections and pools as the gateway uses."""

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol

from asyncpg import exceptions

from tests.simulation.statements import statement_of
from tests.simulation.tables import Change
from tests.simulation.wire import Record
from tests.simulation.work import Statement

PREPARE = Statement("prepare", lambda _work, _parameters, _seen: [])


class Server(Protocol):
    """What a session needs of the database."""

    def send(
        self, session: "Connection", statement: Statement, parameters: Sequence[Any]
    ) -> "asyncio.Future[Sequence[Record]]":
        """Send a statement; the future is its reply."""

    def closed(self, session: "Connection") -> None:
        """The session has ended."""

    def finish(self, transaction: "Transaction", *, commit: bool) -> None:
        """End a transaction, one way or the other."""

    async def open(self, lock_timeout_s: float | None, command_timeout_s: float | None) -> "Connection":
        """A new session."""


class Connection:
    """One session. It carries one statement at a time."""

    def __init__(self, server: Server, lock_timeout_s: float | None, command_timeout_s: float | None) -> None:
        self.lock_timeout_s = lock_timeout_s
        self.command_timeout_s = command_timeout_s
        self.transaction_open: Transaction | None = None
        self._server = server
        self._reply: asyncio.Future[Sequence[Record]] | None = None
        self._listeners: list[tuple[Callable[[Connection], object], contextvars.Context]] = []
        self._closed = False

    async def fetch(self, sql: str, *parameters: Any) -> Sequence[Record]:
        """The rows that a statement returns."""
        return await self.carry(statement_of_loudly(sql), parameters)

    async def fetchrow(self, sql: str, *parameters: Any) -> Record | None:
        """The first row, if any."""
        rows = await self.carry(statement_of_loudly(sql), parameters)
        return rows[0] if rows else None

    async def fetchval(self, sql: str, *parameters: Any) -> Any:
        """The first column of the first row, if any."""
        rows = await self.carry(statement_of_loudly(sql), parameters)
        return rows[0][0] if rows else None

    async def execute(self, sql: str, *parameters: Any) -> str:
        """Carry a statement out; a command tag, of which only the count is Postgres' own."""
        rows = await self.carry(statement_of_loudly(sql), parameters)
        return f"DONE {len(rows)}"

    async def prepare(self, sql: str) -> "Prepared":
        """Have the server look at a statement: a round trip of its own."""
        statement = statement_of_loudly(sql)
        await self.carry(PREPARE, ())
        return Prepared(self, statement)

    async def carry(self, statement: Statement, parameters: Sequence[Any]) -> Sequence[Record]:
        """Send a statement and wait for its reply.

        Raises:
            InterfaceError: the connection is closed, or busy.
            ConnectionDoesNotExistError: the connection ended before the reply came.
            TimeoutError: the reply did not come in the session's time for a command.
            PostgresError: the statement was refused.
        """
        if self._closed:
            raise exceptions.InterfaceError("connection is closed")
        if self._reply is not None:
            raise exceptions.InterfaceError("cannot perform operation: another operation is in progress")
        self._reply = self._server.send(self, statement, parameters)
        try:
            return await self._reply
        except asyncio.CancelledError:
            self.terminate()  # asyncpg asks the server to cancel: it may or may not come in time
            raise
        finally:
            self._reply = None

    def transaction(self) -> "Transaction":
        """Several statements as one."""
        return Transaction(self, self._server)

    def time_out(self, reply: "asyncio.Future[Sequence[Record]]") -> None:
        """The time for a command is over; does nothing if the reply is there."""
        if not reply.done():
            reply.set_exception(TimeoutError())
            self.terminate()

    def terminate(self) -> None:
        """The session ends, whoever wants it so. What the server was told it may still do."""
        if self._closed:
            return
        self._closed = True
        if self._reply is not None and not self._reply.done():
            message = "connection was closed in the middle of operation"
            self._reply.set_exception(exceptions.ConnectionDoesNotExistError(message))
        loop = asyncio.get_running_loop()
        for listener, context in self._listeners:
            loop.call_soon(listener, self, context=context)
        self._server.closed(self)

    async def close(self) -> None:
        """End the session."""
        self.terminate()

    def is_closed(self) -> bool:
        """Whether the session has ended."""
        return self._closed

    def add_termination_listener(self, listener: Callable[["Connection"], object]) -> None:
        """Have it called when the session ends, as part of the process that asks for it now."""
        self._listeners.append((listener, contextvars.copy_context()))


class Prepared:
    """A prepared statement."""

    def __init__(self, connection: Connection, statement: Statement) -> None:
        self._connection = connection
        self._statement = statement

    async def fetch(self, *parameters: Any) -> Sequence[Record]:
        """The rows that it returns."""
        return await self._connection.carry(self._statement, parameters)


class Transaction:
    """`async with connection.transaction():` nobody sees what is written in the block before it ends."""

    def __init__(self, connection: Connection, server: Server) -> None:
        self.changes: list[Change] = []
        self._connection = connection
        self._server = server

    async def __aenter__(self) -> None:
        self._connection.transaction_open = self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        lost = self._connection.transaction_open is not self
        self._connection.transaction_open = None
        self._server.finish(self, commit=kind is None and not lost)
        if kind is None and lost:
            raise exceptions.InterfaceError("connection is closed")


class Pool:
    """At most `size` sessions, lent one statement at a time."""

    def __init__(self, server: Server, size: int, command_timeout_s: float) -> None:
        self._server = server
        self._command_timeout_s = command_timeout_s
        self._places = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._closed = False

    async def fetch(self, sql: str, *parameters: Any) -> Sequence[Record]:
        """As of a connection."""
        async with self.acquire() as connection:
            return await connection.fetch(sql, *parameters)

    async def fetchrow(self, sql: str, *parameters: Any) -> Record | None:
        """As of a connection."""
        async with self.acquire() as connection:
            return await connection.fetchrow(sql, *parameters)

    async def fetchval(self, sql: str, *parameters: Any) -> Any:
        """As of a connection."""
        async with self.acquire() as connection:
            return await connection.fetchval(sql, *parameters)

    async def execute(self, sql: str, *parameters: Any) -> str:
        """As of a connection."""
        async with self.acquire() as connection:
            return await connection.execute(sql, *parameters)

    def acquire(self) -> "Acquired":
        """`async with pool.acquire() as connection:`"""
        return Acquired(self)

    async def take(self) -> Connection:
        """An idle session, or a new one when there is room. Raises what connecting raises."""
        if self._closed:
            raise exceptions.InterfaceError("pool is closed")
        await self._places.acquire()
        while self._idle:
            if not (connection := self._idle.pop()).is_closed():
                return connection
        try:
            return await self._server.open(None, self._command_timeout_s)
        except BaseException:
            self._places.release()
            raise

    def give_back(self, connection: Connection) -> None:
        """Nobody uses it any more."""
        if self._closed:
            connection.terminate()
        elif not connection.is_closed():
            self._idle.append(connection)
        self._places.release()

    async def close(self) -> None:
        """End all sessions; those in use when they are given back."""
        self._closed = True
        for connection in self._idle:
            connection.terminate()


class Acquired:
    """A session of the pool, for the length of a block."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._connection: Connection | None = None

    async def __aenter__(self) -> Connection:
        self._connection = await self._pool.take()
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        assert self._connection is not None
        self._pool.give_back(self._connection)


def statement_of_loudly(sql: str) -> Statement:
    """The statement of this text. One that is unknown is told to the loop as well: the gateway survives every error."""
    try:
        return statement_of(sql)
    except AssertionError as error:
        asyncio.get_running_loop().call_exception_handler({"message": str(error), "exception": error})
        raise
