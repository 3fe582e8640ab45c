"""Where flows take their steps: on the loop while that does not hold it up, in a thread when it would.

A step may sign (0.6 ms of RSA) or unpack a statement. When many payments start in the same turn of the loop (a group
commit hands over all of its batch at once), their signatures would stand before everything else that waits. So a turn
has a budget; what exceeds it is done by a few threads, which RSA lets run beside the loop: it releases the
interpreter's lock. The first step of a turn is always taken at once, so that a quiet gateway pays nothing for this.
"""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

TURN_S: Final = 0.001  # what steps may take of a turn; the one that exceeds it still ends: two signatures are the most
THREADS_MAX: Final = 4


class Stepper:
    """Shared by all transports of a process, as they share the loop.

    Args:
        turn_s: the budget of a turn.
        now: seconds on a clock that only moves forward.
    """

    def __init__(self, turn_s: float = TURN_S, now: Callable[[], float] = time.perf_counter) -> None:
        self._turn_s = turn_s
        self._now = now
        self._spent_s = 0.0
        self._turn_is_known = False
        # One core is the loop's. A pool makes a thread only when it has work for it.
        threads = min(THREADS_MAX, max(1, len(os.sched_getaffinity(0)) - 1))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="flow")

    def stop(self) -> None:
        """Take no more steps in threads; those that wait there are dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def take(self, step: Callable[[], T], *, long: bool = False) -> T:
        """What `step` returns or raises, which must not be StopIteration.

        If the caller is cancelled while a thread is at it, the step still ends there, unheard.

        Args:
            step: touches nothing that another step or the loop touches at the same time.
            long: it would take a turn all by itself.
        """
        loop = asyncio.get_running_loop()
        if not self._turn_is_known:
            self._turn_is_known = True
            loop.call_soon(self._turn)
        if long or self._spent_s >= self._turn_s:
            return await loop.run_in_executor(self._pool, step)
        started_s = self._now()
        try:
            return step()
        finally:
            self._spent_s += self._now() - started_s

    def _turn(self) -> None:
        self._turn_is_known = False
        self._spent_s = 0.0
