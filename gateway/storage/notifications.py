"""The inbox of notifications: every one as it came in, by a number that sorts by time; and those that are parked.

What arrives is written by the group commit, with the order that it moves. A claim of a parked one is a lease, as in the
outbox: who dies with it in hand is followed by the next claim.
"""

from collections.abc import Mapping
from typing import Any

import asyncpg
import msgspec

from gateway import ids
from gateway.storage.queries import query

_headers = msgspec.json.Decoder(dict[str, str]).decode


class Kept(msgspec.Struct, frozen=True):
    """A notification as it came in. `attempt` is what the path said: two digits."""

    notification_id: int
    channel: str
    order_id: str
    attempt: str
    verdict: str
    headers: Mapping[str, str]
    body: bytes
    received_at_ms: int


class Parked(msgspec.Struct, frozen=True):
    """One whose order nobody knows. `said` is what was verified, as JSON; `tries` is how often it was told again."""

    notification_id: int
    order_id: str
    said: str
    tries: int


class Line(msgspec.Struct, frozen=True):
    """What a list shows of a notification; `waits` is parked or orphan if its order is not known."""

    notification_id: int
    channel: str
    order_id: str
    attempt: str
    verdict: str
    received_at_ms: int
    bytes: int
    waits: str | None


class Notifications:
    """Reads, parks and forgets rows of the tables `notifications` and `parked`."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def park(
        self, notification_id: int, order_id: str, money: tuple[str, str, str], said: str, in_s: float
    ) -> None:
        """Have it told again in `in_s`, unless the same money is parked already: channel, account, its number there."""
        await self._pool.execute(query("park"), notification_id, order_id, *money, said, in_s)

    async def claim(self, limit: int, lease_s: float) -> list[Parked]:
        """Take up to `limit` parked ones that are due, for `lease_s`."""
        return [Parked(*row) for row in await self._pool.fetch(query("claim_parked"), limit, lease_s)]

    async def postpone(self, parked: Parked, in_s: float) -> None:
        """It was told, and its order is still not known."""
        await self._pool.execute(query("postpone_parked"), parked.notification_id, parked.tries + 1, in_s)

    async def unpark(self, notification_id: int) -> None:
        """Its order knows it now."""
        await self._pool.execute(query("unpark"), notification_id)

    async def orphan(self, notification_id: int) -> None:
        """It is not told again: a case for people."""
        await self._pool.execute(query("orphan"), notification_id)

    async def forget(self, before_ms: int, limit: int, *, unverified: bool) -> int:
        """Delete up to `limit` that came in before that moment, all or those nobody vouches for; how many there were.

        One that is parked stays.
        """
        name = "forget_unverified_notifications" if unverified else "forget_notifications"
        status = await self._pool.execute(query(name), ids.first_notification_id(before_ms), limit)
        return int(status.split()[-1])

    async def forget_orphans(self, before_ms: int, limit: int) -> None:
        """Delete up to `limit` of what parking remembers of those whose case is that old."""
        await self._pool.execute(query("forget_orphans"), ids.first_notification_id(before_ms), limit)

    async def newest(self, since_ms: int, verdict: str | None, order_id: str | None, limit: int) -> list[Line]:
        """The latest first."""
        first = ids.first_notification_id(since_ms)
        rows = await self._pool.fetch(query("inbox_newest"), first, verdict, order_id, limit)
        return [Line(*row) for row in rows]

    async def page(self, first_id: int, verdict: str | None, limit: int) -> list[Kept]:
        """From that number on, the oldest first."""
        return [_kept(row) for row in await self._pool.fetch(query("inbox_after"), first_id, verdict, limit)]

    async def one(self, notification_id: int) -> Kept | None:
        """The notification of that number."""
        row = await self._pool.fetchrow(query("inbox_one"), notification_id)
        return None if row is None else _kept(row)


def _kept(row: Any) -> Kept:
    return Kept(**{**row, "headers": _headers(row["headers"])})
