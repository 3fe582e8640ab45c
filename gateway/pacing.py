"""How much is asked of somebody, and when nothing is: a token bucket and a breaker, both told the time.

An outage is a pause, never a failure: what is not sent because of it is unknown, and is asked for again.
"""

import asyncio
from collections.abc import Callable
from enum import Enum

import msgspec


def loop_time_s() -> float:
    """Seconds on the running loop's clock."""
    return asyncio.get_running_loop().time()


class Pace(msgspec.Struct, frozen=True):
    """What one channel is asked at most, and when it is paused. Rates are of one process.

    `failures` silences in a row pause it for `pause_s`; then one conversation finds out whether it is there again.
    """

    queries_per_s: float = 2000.0
    queries_burst: int = 2000
    failures: int = 20
    pause_s: float = 5.0


class TokenBucket:
    """`burst` at once, and `per_s` in the long run."""

    def __init__(self, per_s: float, burst: float, now_s: Callable[[], float] = loop_time_s) -> None:
        self._per_s = per_s
        self._burst = burst
        self._now_s = now_s
        self._tokens = burst
        self._at_s: float | None = None

    def take(self, within_s: float = 0.0) -> float | None:
        """Take a token: in how many seconds it is there. None, and none is taken, if that is later than `within_s`."""
        now_s = self._now_s()
        if self._at_s is not None:
            self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        wait_s = max(0.0, (1 - self._tokens) / self._per_s)
        if wait_s > within_s:
            return None
        self._tokens -= 1
        return wait_s


class Admission(Enum):
    """Whether a conversation may begin. PROBE: it may, and finds out for all others."""

    REFUSED = "refused"
    FREE = "free"
    PROBE = "probe"


class Breaker:
    """Closed, then open for `pause_s` after `failures` silences in a row, then open but for one probe at a time.

    Whoever was admitted says afterwards what was heard. Any answer closes it, also one to a question that was asked
    before the pause. `moved` hears when a pause begins (True) and ends (False).
    """

    def __init__(
        self,
        failures: int,
        pause_s: float,
        moved: Callable[[bool], None] = lambda _paused: None,
        now_s: Callable[[], float] = loop_time_s,
    ) -> None:
        self._failures = failures
        self._pause_s = pause_s
        self._moved = moved
        self._now_s = now_s
        self._silences = 0
        self._until_s: float | None = None  # None: closed
        self._probing = False

    @property
    def refuses(self) -> bool:
        """Whether whoever comes now is sent away."""
        return self._until_s is not None and (self._probing or self._now_s() < self._until_s)

    @property
    def silent(self) -> bool:
        """Whether the last that was heard is silence, enough for a pause or not."""
        return self._silences > 0 or self._until_s is not None

    def admit(self) -> Admission:
        """Let a conversation begin, or not. An admitted one must be settled, however it ends."""
        if self._until_s is None:
            return Admission.FREE
        if self.refuses:
            return Admission.REFUSED
        self._probing = True
        return Admission.PROBE

    def settle(self, admission: Admission, heard: bool | None) -> None:
        """What an admitted conversation heard: an answer, silence, or (None) nothing was asked."""
        if admission is Admission.PROBE:
            self._probing = False
        if heard:
            self._silences = 0
            if self._until_s is not None:
                self._until_s = None
                self._moved(False)
        elif heard is not None:
            self._count_silence(admission)

    def _count_silence(self, admission: Admission) -> None:
        if admission is Admission.PROBE:
            self._until_s = self._now_s() + self._pause_s
        elif self._until_s is None:  # later silences of what was asked before the pause do not prolong it
            self._silences += 1
            if self._silences >= self._failures:
                self._silences = 0
                self._until_s = self._now_s() + self._pause_s
                self._moved(True)
