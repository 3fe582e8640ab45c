"""Real servers for the tests: one PostgreSQL and one Valkey a session, a fresh database a test.

The fixtures are ordinary functions that run their own short event loop, so they fit tests of any loop scope.
"""

import asyncio
import itertools
import sys
import tempfile
from collections import deque
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis

from gateway.embedded import Postgres, Valkey
from gateway.storage.migrate import migrate, seed_statistics

T = TypeVar("T")
TEMPLATE = "holdfast_template"
DATABASES_AHEAD = 2


@pytest.fixture(scope="session", autouse=True)
def bytecode() -> Iterator[None]:
    """Where Python may not keep bytecode beside its sources, the processes of a session share it in a place of its own.

    Gateways are started by the hundred; each would compile all of itself again.
    """
    if not sys.dont_write_bytecode:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as directory, pytest.MonkeyPatch.context() as environment:
        environment.delenv("PYTHONDONTWRITEBYTECODE")
        environment.setenv("PYTHONPYCACHEPREFIX", directory)
        yield


@pytest.fixture(scope="session")
def servers_root() -> Iterator[Path]:
    """Where the session's servers live; short, because a socket's path is."""
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as root:
        yield Path(root)


@pytest.fixture(scope="session")
def postgres(servers_root: Path) -> Iterator[Postgres]:
    """The session's PostgreSQL, which syncs nothing and is thrown away, with a migrated template database."""
    server = Postgres(servers_root, durable=False, die_with_parent=True)
    _run(server.start())
    try:
        _run(_execute(server.url, f"CREATE DATABASE {TEMPLATE}"))
        _run(_migrate(_database(server.url, TEMPLATE)))
        yield server
    finally:
        _run(server.stop(force=True))


class Databases:
    """Copies of the template, each made and dropped beside the tests by one thread, a few ahead of its use."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._worker = ThreadPoolExecutor(1)
        self._ready = deque(self._order() for _ in range(DATABASES_AHEAD))

    def take(self) -> str:
        """The name of one that nobody has used."""
        self._ready.append(self._order())
        return self._ready.popleft().result()

    def drop(self, name: str) -> None:
        """Nobody needs it any more."""
        self._worker.submit(_run, _execute(self._url, f"DROP DATABASE {name} WITH (FORCE)"))

    def close(self) -> None:
        """Wait for what is under way; the rest goes with the server."""
        for ordered in self._ready:
            ordered.cancel()
        self._worker.shutdown()

    def _order(self) -> Future[str]:
        return self._worker.submit(self._make, f"test_{next(_numbers)}")

    def _make(self, name: str) -> str:
        _run(_execute(self._url, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
        return name


@pytest.fixture(scope="session")
def databases(postgres: Postgres) -> Iterator[Databases]:
    """Databases for the tests of this session."""
    made = Databases(postgres.url)
    yield made
    made.close()


@pytest.fixture
def database_url(postgres: Postgres, databases: Databases) -> Iterator[str]:
    """A fresh migrated database of this test's own."""
    name = databases.take()
    yield _database(postgres.url, name)
    databases.drop(name)


@pytest.fixture
def durable_postgres() -> Iterator[Postgres]:
    """A server of this test's own that syncs as production does, its database migrated: for tests that kill it."""
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as root:
        server = Postgres(Path(root), die_with_parent=True)
        _run(server.start())
        try:
            _run(_migrate(server.url))
            yield server
        finally:
            _run(server.stop(force=True))


@pytest.fixture(scope="session")
def valkey(servers_root: Path) -> Iterator[Valkey]:
    """The session's Valkey."""
    server = Valkey(servers_root, die_with_parent=True)
    _run(server.start())
    try:
        yield server
    finally:
        _run(server.stop(force=True))


@pytest.fixture
def redis_url(valkey: Valkey) -> str:
    """The session's Valkey, emptied, and started again if a test killed it."""
    url = _run(valkey.start())
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


_numbers = itertools.count(1)


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    # A factory of its own keeps the runner from replacing the event loop of the tests.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(coroutine)


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _migrate(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await migrate(connection)
        await seed_statistics(connection)
    finally:
        await connection.close()


def _database(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()
