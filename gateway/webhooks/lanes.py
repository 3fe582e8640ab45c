"""One lane an endpoint: its queue, its concurrency and its breaker, so that no endpoint waits for another.

An endpoint is one app's host and port: what is down or slow together. Pure; the time is passed in.
"""

from collections import deque

import msgspec

from gateway.storage.outbox import OutboxRow

FAILURES_TO_PAUSE = 5
PAUSE_FIRST_S = 1.0
PAUSE_MAX_S = 30.0  # so an endpoint that healed is found within half a minute
FORGET_AFTER_S = 600.0


class Held(msgspec.Struct, frozen=True, gc=False):
    """A row in our hands, and until when no other process will take it (monotonic seconds)."""

    row: OutboxRow
    leased_until_s: float


class Lane:
    """What waits for one endpoint, and how the endpoint does."""

    __slots__ = ("failures", "key", "paused_until_s", "rows", "running", "waits")

    def __init__(self, key: str) -> None:
        self.key = key
        self.rows: deque[Held] = deque()
        self.running = 0
        self.waits = False  # for a free place among all tries of the process
        self.failures = 0  # in a row
        self.paused_until_s = 0.0

    def is_paused(self, now_s: float) -> bool:
        """Whether the endpoint is left alone for now."""
        return now_s < self.paused_until_s

    def tries_max(self, per_endpoint: int) -> int:
        """How many tries may run at once: after a pause a single one finds out whether the endpoint is back."""
        return 1 if self.failures >= FAILURES_TO_PAUSE else per_endpoint

    def succeeded(self) -> None:
        """The endpoint took something."""
        self.failures = 0
        self.paused_until_s = 0.0

    def failed(self, now_s: float) -> None:
        """The endpoint took nothing; too often in a row pauses it, longer each time."""
        self.failures += 1
        if self.failures >= FAILURES_TO_PAUSE and not self.is_paused(now_s):
            doublings = min(self.failures - FAILURES_TO_PAUSE, 10)
            self.paused_until_s = now_s + min(PAUSE_FIRST_S * 2**doublings, PAUSE_MAX_S)

    def is_forgettable(self, now_s: float) -> bool:
        """Whether nothing would be lost without this lane."""
        idle = not self.rows and not self.running
        return idle and (not self.failures or now_s > self.paused_until_s + FORGET_AFTER_S)
