"""The shop's SQLite file, written by one thread that groups waiting writes into one synced transaction."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]

SCHEMA = Path(__file__).with_name("schema.sql")


class Ledger:
    """A file of truth. An operation is a plain function of the connection; `do` returns when its effect is on disk.

    There is no bound here: callers wait for their own write, so the queue is as long as there are callers.
    """

    def __init__(self, path: Path) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._connection = self._thread.submit(_open, path).result()
        self._waiting: list[tuple[Operation[Any], asyncio.Future[Any]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def do(self, operation: Operation[T]) -> T:
        """Run one operation in a transaction shared with its neighbours; what it raises undoes only itself."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((operation, future))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_waiting())
        return await future

    async def close(self) -> None:
        """Finish what waits and close the file."""
        if self._writer is not None:
            await self._writer
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    async def _write_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            operations = [operation for operation, _ in batch]
            results = await loop.run_in_executor(self._thread, _commit, self._connection, operations)
            for (_, future), result in zip(batch, results, strict=True):
                _answer(future, result)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=True)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # an answered webhook must survive a power cut
    connection.executescript(SCHEMA.read_text("utf-8"))
    return connection


def _commit(connection: sqlite3.Connection, operations: Sequence[Operation[Any]]) -> list[Any]:
    """One transaction for all; the result or the exception of each. If the commit fails, it failed for all."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        results = [_run(connection, operation) for operation in operations]
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        return [error] * len(operations)
    return results


def _run(connection: sqlite3.Connection, operation: Operation[Any]) -> Any:
    connection.execute("SAVEPOINT one")
    try:
        result = operation(connection)
    except Exception as error:
        connection.execute("ROLLBACK TO one")
        result = error
    connection.execute("RELEASE one")
    return result


def _answer(future: asyncio.Future[Any], result: Any) -> None:
    if future.done():  # whoever waited has gone
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
