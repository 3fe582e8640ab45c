"""One timer structure for all orders: buckets of order ids by slot of time, and one loop timer for the next bucket.

Timers are hints that make checks punctual. They are never cancelled: one that fires in vain finds an order whose
`next_check_at` lies ahead. What is lost with the process is found by the sweep.
"""

import asyncio
import heapq
from collections.abc import Callable

from actors.ports import Clock

SLOT_MS = 200


class Timers:
    """Tells `fire` an order's id when its time has come, up to one slot late."""

    def __init__(self, clock: Clock, fire: Callable[[str], None], slot_ms: int = SLOT_MS) -> None:
        self._clock = clock
        self._fire = fire
        self._slot_ms = slot_ms
        self._buckets: dict[int, list[str]] = {}
        self._slots: list[int] = []
        self._next: tuple[int, asyncio.TimerHandle] | None = None

    def arm(self, order_id: str, at_ms: int) -> None:
        """Have `fire` called with this id at `at_ms`."""
        slot = at_ms // self._slot_ms + 1
        bucket = self._buckets.get(slot)
        if bucket is not None:
            bucket.append(order_id)
            return
        self._buckets[slot] = [order_id]
        heapq.heappush(self._slots, slot)
        if self._next is None or slot < self._next[0]:
            self._schedule()

    def stop(self) -> None:
        """Forget all timers."""
        if self._next is not None:
            self._next[1].cancel()
        self._next = None
        self._buckets.clear()
        self._slots.clear()

    def _schedule(self) -> None:
        if self._next is not None:
            self._next[1].cancel()
            self._next = None
        if self._slots:
            slot = self._slots[0]
            delay_s = max(0, slot * self._slot_ms - self._clock.now_ms()) / 1000
            self._next = (slot, asyncio.get_running_loop().call_later(delay_s, self._turn))

    def _turn(self) -> None:
        self._next = None
        now_slot = self._clock.now_ms() // self._slot_ms
        while self._slots and self._slots[0] <= now_slot:
            for order_id in self._buckets.pop(heapq.heappop(self._slots)):
                self._fire(order_id)
        self._schedule()
