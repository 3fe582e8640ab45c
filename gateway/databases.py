"""The databases a process works on: where they are, that they can be trusted, and how sessions with them are made."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import asyncpg
import structlog

from gateway.config import Config
from gateway.embedded import Postgres, Valkey
from gateway.storage.migrate import check_durability, migrate, seed_statistics

LOCK_TIMEOUT = "500ms"  # a flush that meets a row somebody else holds then goes on without it
CONNECT_TIMEOUT_S = 5.0
REVIVE_EVERY_S = 1.0

log = structlog.get_logger(__name__)


class Databases:
    """Where Postgres and Redis are: the configured addresses, or embedded servers that are started for them."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stack = AsyncExitStack()
        self.postgres_url: str = ""
        self.redis_url: str | None = None

    async def start(self) -> None:
        """Start what is embedded, and say so."""
        root = self._config.embedded.root
        self.postgres_url = str(self._config.database.url)
        if self.postgres_url == "embedded":
            self.postgres_url = await self._embed(Postgres(root))
            log.info("embedded_postgres", directory=str(root), use="development, demo and tests")
        redis: str = self._config.redis.url
        if redis == "embedded":
            redis = await self._embed(Valkey(root))
        self.redis_url = None if redis == "off" else redis

    async def stop(self) -> None:
        """Stop what we started."""
        await self._stack.aclose()

    async def _embed(self, server: Postgres | Valkey) -> str:
        url = await server.start()
        self._stack.push_async_callback(server.stop)
        watch = asyncio.create_task(_revive(server), name="embedded: revive")
        self._stack.push_async_callback(_cancel, watch)
        return url


async def _revive(server: Postgres | Valkey) -> None:
    """Start an embedded server again when it is gone: nobody else would."""
    while True:
        await asyncio.sleep(REVIVE_EVERY_S)
        if server.pid is None:
            try:
                await server.start()
                log.warning("embedded_revived", directory=str(server.directory))
            except Exception as error:
                log.warning("embedded_not_revived", error=f"{type(error).__name__}: {error}"[:300])


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


async def prepare_schema(config: Config, postgres_url: str) -> None:
    """Bring the schema up to date, and refuse a database that may forget."""
    connection = await asyncpg.connect(postgres_url)
    try:
        await check_durability(connection, allow_unsafe=config.database.allow_unsafe)
        applied = await migrate(connection)
        await seed_statistics(connection)
        if applied:
            log.info("migrated", applied=applied)
    finally:
        await connection.close()


def connector(config: Config, postgres_url: str) -> Callable[[], Awaitable[asyncpg.Connection]]:
    """Makes the committer's connections: under the gateway's role, with plans that do not depend on statistics."""

    async def connect() -> asyncpg.Connection:
        connection = await asyncpg.connect(
            postgres_url,
            timeout=CONNECT_TIMEOUT_S,
            server_settings={
                "application_name": "holdfast commit",
                "lock_timeout": LOCK_TIMEOUT,
                "plan_cache_mode": "force_generic_plan",
                "enable_seqscan": "off",
                "enable_bitmapscan": "off",  # it would lock rows in the order of the heap, not of their keys
            },
        )
        try:
            await connection.execute(f'SET ROLE "{config.database.role}"', timeout=CONNECT_TIMEOUT_S)
        except BaseException:
            connection.terminate()
            raise
        return connection

    return connect


async def make_pool(config: Config, postgres_url: str) -> asyncpg.Pool:
    """The pool of everything that is not the group commit."""

    async def under_role(connection: asyncpg.Connection) -> None:
        await connection.execute(f'SET ROLE "{config.database.role}"')

    return await asyncpg.create_pool(
        postgres_url,
        min_size=2,
        max_size=config.database.pool_max,
        init=under_role,
        reset=_left_as_found,
        command_timeout=10,
        server_settings={"application_name": "holdfast"},
    )


async def _left_as_found(_connection: asyncpg.Connection) -> None:
    """No query of ours leaves anything in a session, so giving it back costs no round trip."""
