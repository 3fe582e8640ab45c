"""The ledger: one JSON line for all that really happened, on disk before anybody is told of it.

Lines that come while a sync is under way share the next one.
"""

import asyncio
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from channels.simulator.trades import AnyEntry

_decode = msgspec.json.Decoder(AnyEntry).decode


class Ledger:
    """An append-only file, held by one process at a time."""

    def __init__(self, path: Path) -> None:
        """Open or make the file and take hold of it.

        Raises:
            BlockingIOError: another process holds it.
        """
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._path = path
        self._buffer: list[bytes] = []
        self._appended = 0
        self._durable = 0
        self._syncing: asyncio.Task[None] | None = None

    def read(self) -> Iterator[AnyEntry]:
        """Every whole line. A torn last one is cut off first: it was never synced, so nobody was told."""
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        os.ftruncate(self._fd, whole)
        for line in content[:whole].splitlines():
            yield _decode(line)

    def append(self, entry: AnyEntry) -> None:
        """Add a line; `durable` says when it may be spoken of."""
        self._buffer.append(msgspec.json.encode(entry) + b"\n")
        self._appended += 1

    async def durable(self) -> None:
        """Wait until all that was appended so far is on disk.

        Raises:
            OSError: it can not be written; nothing after it is ever durable.
        """
        wanted = self._appended
        while self._durable < wanted:
            if self._syncing is None:
                self._syncing = asyncio.ensure_future(self._sync())
            await asyncio.shield(self._syncing)

    async def close(self) -> None:
        """Write what is left and let go of the file."""
        await self.durable()
        os.close(self._fd)

    async def _sync(self) -> None:
        lines, covered = b"".join(self._buffer), self._appended
        self._buffer = []
        await asyncio.get_running_loop().run_in_executor(None, self._write, lines)
        self._durable, self._syncing = covered, None  # after an error the failed task stays and fails whoever waits

    def _write(self, lines: bytes) -> None:
        view = memoryview(lines)
        while view:
            view = view[os.write(self._fd, view) :]
        os.fdatasync(self._fd)
