"""Who holds which row, or which key that is just being inserted; who waits for it, in the order they came."""

import asyncio
from collections import deque
from collections.abc import Hashable, Iterable

from asyncpg import exceptions

Lock = Hashable  # (table, key)


class Locks:
    """Locks of statements that are under way. A lock that is let go goes straight to whoever waits longest."""

    def __init__(self) -> None:
        self._holders: dict[Lock, object] = {}
        self._waiting: dict[Lock, deque[tuple[object, asyncio.Future[None]]]] = {}

    def __bool__(self) -> bool:
        return bool(self._holders)

    def held(self, lock: Lock, by_others_than: object) -> bool:
        """Whether somebody else has it."""
        return self._holders.get(lock, by_others_than) is not by_others_than

    def take(self, holder: object, locks: Iterable[Lock]) -> None:
        """Take locks that are known to be free."""
        for lock in locks:
            assert not self.held(lock, holder), f"{lock} is held"
            self._holders[lock] = holder

    async def acquire(self, holder: object, lock: Lock, timeout_s: float | None) -> None:
        """Take a lock as soon as it is free.

        Raises:
            LockNotAvailableError: it was not, for `timeout_s`.
        """
        if not self.held(lock, holder):
            self._holders[lock] = holder
            return
        free: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._waiting.setdefault(lock, deque())
        queue.append((holder, free))
        try:
            await asyncio.wait({free}, timeout=timeout_s)
        finally:
            if not free.done():
                queue.remove((holder, free))
        if not free.done():
            raise exceptions.LockNotAvailableError("canceling statement due to lock timeout")

    def release(self, holder: object) -> None:
        """Let go of all that a holder has."""
        for lock in [lock for lock, owner in self._holders.items() if owner is holder]:
            del self._holders[lock]
            queue = self._waiting.get(lock)
            if queue:
                heir, free = queue.popleft()
                self._holders[lock] = heir
                free.set_result(None)
            if not queue:
                self._waiting.pop(lock, None)
