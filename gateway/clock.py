"""The database's time, near enough: what Postgres said last, and the time that has passed since.

Expiries and checks are moments on the database's clock, so that several gateways agree although their clocks do not.
This machine's wall clock has no part in it: somebody may set it, and for a minute every ladder would be wrong.
"""

import time
from collections.abc import Callable

import asyncpg

UNSURE_MAX_S = 0.5  # half a round trip: how wrong an answer may be that replaces one of before
SKEW_ALARM_MS = 60_000  # beyond this, signature windows of channels and webhooks begin to fail


def elapsed_s() -> float:
    """Seconds since some moment, whatever clocks are set to; on Linux also those that the machine slept."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


class DatabaseClock:
    """Unix milliseconds. Before the first `adjust` it is this machine's clock as it was when this was made."""

    def __init__(self, wall: Callable[[], float] = time.time, elapsed: Callable[[], float] = elapsed_s) -> None:
        self._wall = wall
        self._elapsed = elapsed
        self._zero_s = wall() - elapsed()
        self._offset_ms = 0
        self._unsure_s = float("inf")

    @property
    def offset_ms(self) -> int:
        """How far the database's clock was ahead of this machine's when it was last asked."""
        return self._offset_ms

    def now_ms(self) -> int:
        """Now, on the database's clock."""
        return int((self._zero_s + self._elapsed()) * 1000)

    async def adjust(self, connection: asyncpg.Connection | asyncpg.Pool) -> None:
        """Ask the database for the time; the answer is taken as said in the middle of the round trip.

        A slow round trip says little: what was learned by a faster one is kept. Orders would be due for the database
        that are not for us, and be looked at again and again.
        """
        wall, before = self._wall(), self._elapsed()
        theirs = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
        half_s = (self._elapsed() - before) / 2
        if half_s <= max(self._unsure_s, UNSURE_MAX_S):
            self._zero_s = theirs - before - half_s
            self._offset_ms = round((theirs - wall - half_s) * 1000)
            self._unsure_s = half_s
