"""The database's time, near enough: this machine's clock, corrected by what Postgres says.

Expiries and checks are moments on the database's clock, so that several gateways agree although their clocks do not.
"""

import time
from collections.abc import Callable

import asyncpg

UNSURE_MAX_S = 0.5  # half a round trip: how wrong an answer may be that replaces one of before
SKEW_ALARM_MS = 60_000  # beyond this, signature windows of channels and webhooks begin to fail


class DatabaseClock:
    """Unix milliseconds. Before the first `adjust` it is this machine's clock."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._offset_ms = 0
        self._unsure_s = float("inf")

    @property
    def offset_ms(self) -> int:
        """How far the database's clock is ahead of ours."""
        return self._offset_ms

    def now_ms(self) -> int:
        """Now, on the database's clock."""
        return int(self._wall() * 1000) + self._offset_ms

    async def adjust(self, connection: asyncpg.Connection | asyncpg.Pool) -> None:
        """Ask the database for the time; the answer is taken as said in the middle of the round trip.

        A slow round trip says little: what was learned by a faster one is kept. Orders would be due for the database
        that are not for us, and be looked at again and again.
        """
        before = self._wall()
        theirs = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
        after = self._wall()
        unsure_s = (after - before) / 2
        if unsure_s <= max(self._unsure_s, UNSURE_MAX_S):
            self._offset_ms = round((theirs - (before + after) / 2) * 1000)
            self._unsure_s = unsure_s
