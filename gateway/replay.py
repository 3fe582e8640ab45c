"""The inbox at the command line: lists what channels sent, and has it told to its orders once more."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from actors.errors import ActorError
from gateway.config import Config
from gateway.desk import desk
from gateway.ids import first_notification_id
from gateway.inbox import Replay, Replayed, Tell
from gateway.installation import load_channels
from gateway.storage.notifications import Kept, Line, Notifications

PAGE_ROWS = 100


class ReplayError(Exception):
    """A notification was not replayed; the message names it. Those before it were."""


async def listed(
    config: Config, since_ms: int, verdict: str | None, order_id: str | None, limit: int
) -> Sequence[Line]:
    """The notifications since a moment, the latest first."""
    async with desk(config) as at:
        return await Notifications(at.pool).newest(since_ms, verdict, order_id, limit)


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
    async with desk(config) as at:
        channels = load_channels(config.channels, at.clock.now_ms() // 1000)
        kept, tell = Notifications(at.pool), Tell(at.registry.ask, at.clock)
        yield kept, Replay(kept, tell, {name: each.channel for name, each in channels.items()})
