"""What a person at the command line needs of a gateway: orders can be told things, and nothing is sent anywhere.

A decision made here is durable like any other. What it sets going is in its rows, so the sweep of a running gateway
finds it and carries it out: that is how every process that dies is followed, too.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import msgspec

from actors.registry import Registry
from gateway.checks import schedule_of
from gateway.clock import DatabaseClock
from gateway.config import Config
from gateway.databases import Databases, connector, make_pool, prepare_schema
from gateway.metrics import Metrics
from gateway.storage.group_commit import Bounds, GroupCommit
from gateway.storage.journal import Journal
from gateway.storage.rows import Settings

ORDERS_MAX = 1000


class Desk(msgspec.Struct, frozen=True):
    """The parts."""

    pool: asyncpg.Pool
    clock: DatabaseClock
    journal: Journal
    registry: Registry


@asynccontextmanager
async def desk(config: Config) -> AsyncIterator[Desk]:
    """Open one on the configured database; embedded ones are started, or joined if they run."""
    async with AsyncExitStack() as stack:
        databases = Databases(config)
        stack.push_async_callback(databases.stop)
        await databases.start()
        await prepare_schema(config, databases.postgres_url)
        pool = await make_pool(config, databases.postgres_url)
        stack.push_async_callback(pool.close)
        clock = DatabaseClock()
        await clock.adjust(pool)
        settings = Settings(int(config.orders.duplicate_window_ms), 0, lambda _app_id: None)
        commit = GroupCommit(connector(config, databases.postgres_url), settings, Bounds(), Metrics(), lambda _: None)
        stack.push_async_callback(commit.stop)
        await commit.start()
        journal = Journal(pool, commit)
        registry = Registry(
            journal, clock, schedule_of(config.checks, config.channels), lambda _order, _effects: None, ORDERS_MAX
        )
        stack.callback(registry.stop)
        yield Desk(pool, clock, journal, registry)
