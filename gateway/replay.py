"""Opens the inbox without serving: lists what channels sent, and has it told to its orders once more.

Only what a telling needs is built: the orders, the journal and the group commit. What orders decide is durable; what
they ask to be done (webhooks, closings) is in their rows, and the gateways that run find it there.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg

from actors.errors import ActorError
from actors.registry import Registry
from gateway.checks import schedule_of
from gateway.clock import DatabaseClock
from gateway.config import Config
from gateway.databases import Databases, connector, make_pool, prepare_schema
from gateway.ids import first_notification_id
from gateway.inbox import Replay, Replayed, Tell
from gateway.installation import load_channels
from gateway.metrics import Metrics
from gateway.storage.group_commit import Bounds, GroupCommit
from gateway.storage.journal import Journal
from gateway.storage.notifications import Kept, Line, Notifications
from gateway.storage.rows import Settings as RowSettings

PAGE_ROWS = 100


class ReplayError(Exception):
    """A notification was not replayed; the message names it. Those before it were."""


async def listed(
    config: Config, since_ms: int, verdict: str | None, order_id: str | None, limit: int
) -> Sequence[Line]:
    """The notifications since a moment, the latest first."""
    async with _pool_of(config) as (pool, _):
        return await Notifications(pool).newest(since_ms, verdict, order_id, limit)


async def replayed(config: Config, numbers: Sequence[int]) -> AsyncIterator[Replayed]:
    """Replay these, in this order.

    Raises:
        ReplayError: there is none with that number, or the database would not take it.
    """
    async with _inbox_of(config) as (kept, replay):
        for number in numbers:
            one = await kept.one(number)
            if one is None:
                raise ReplayError(f"there is no notification {number}; it may have been forgotten")
            yield await _replayed(replay, one)


async def replayed_since(config: Config, since_ms: int, verdict: str | None) -> AsyncIterator[Replayed]:
    """Replay all that came in since a moment, the oldest first.

    Raises:
        ReplayError: the database would not take it.
    """
    async with _inbox_of(config) as (kept, replay):
        first_id = first_notification_id(since_ms)
        while page := await kept.page(first_id, verdict, PAGE_ROWS):
            for one in page:
                yield await _replayed(replay, one)
            first_id = page[-1].notification_id + 1


async def _replayed(replay: Replay, one: Kept) -> Replayed:
    try:
        return await replay.replay(one)
    except ActorError as error:
        raise ReplayError(f"notification {one.notification_id}: {error}") from error


@asynccontextmanager
async def _inbox_of(config: Config) -> AsyncIterator[tuple[Notifications, Replay]]:
    async with _pool_of(config) as (pool, postgres_url), AsyncExitStack() as stack:
        clock = DatabaseClock()
        await clock.adjust(pool)
        loaded = load_channels(config.channels, clock.now_ms() // 1000)
        settings = RowSettings(
            int(config.orders.duplicate_window_ms), webhook_lease_ms=0, webhook_url=lambda _app: None
        )
        bounds = Bounds(config.limits.batch_rows_max, config.limits.backlog_rows_max)
        commit = GroupCommit(connector(config, postgres_url), settings, bounds, Metrics(), lambda _rows: None)
        await commit.start()
        stack.push_async_callback(commit.stop)
        schedule = schedule_of(config.checks, config.channels)
        registry = Registry(Journal(pool, commit), clock, schedule, lambda _order, _effects: None, PAGE_ROWS)
        stack.callback(registry.stop)
        kept = Notifications(pool)
        yield kept, Replay(kept, Tell(registry.ask, clock), {name: each.channel for name, each in loaded.items()})


@asynccontextmanager
async def _pool_of(config: Config) -> AsyncIterator[tuple[asyncpg.Pool, str]]:
    databases = Databases(config)
    try:
        await databases.start()
        await prepare_schema(config, databases.postgres_url)
        pool = await make_pool(config, databases.postgres_url)
        try:
            yield pool, databases.postgres_url
        finally:
            await pool.close()
    finally:
        await databases.stop()
