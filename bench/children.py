"""The processes a bench starts: each in its own session, each ended by its pid, whatever happens in between.

A child that serves says so in one line on stdout, `serving http://HOST:PORT`; the line is read from a file, so that
a child which prints more than a pipe holds never blocks.
"""

import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.interruption import postponed

SERVING = re.compile(rb"^serving http://([0-9.]+):([0-9]+)$", re.MULTILINE)
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.002
CHECKOUT = Path(__file__).resolve().parent.parent


class ChildError(Exception):
    """A process of the bench did not do its part."""


class Child:
    """One running `python -m ...`, its address once it serves, and its log."""

    def __init__(self, name: str, *arguments: str, directory: Path) -> None:
        """Start it, with its output in `directory`."""
        self.name = name
        self.started_at_s = time.monotonic()
        self._out, self._log = directory / f"{name}.out", directory / f"{name}.log"
        with self._out.open("wb") as out, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=log,
                cwd=CHECKOUT,
                start_new_session=True,  # a Ctrl-C reaches the bench alone, which then ends its children in order
            )

    @property
    def pid(self) -> int:
        """For /proc."""
        return self._process.pid

    def rss_mib(self) -> float:
        """What it holds in memory now, by /proc."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize() / 2**20

    def address(self) -> tuple[str, int]:
        """Where it serves, as soon as it says so.

        Raises:
            ChildError: it ended, or said nothing in time.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while (found := SERVING.search(self._out.read_bytes())) is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ChildError(f"{self.name} does not serve:\n{self._log_tail()}")
            time.sleep(POLL_S)
        return found[1].decode(), int(found[2])

    def finish(self, message: bytes, timeout_s: float) -> bytes:
        """Write to its stdin, close it, wait for the end and return the last line of its stdout.

        Raises:
            ChildError: it failed, or took longer than `timeout_s`.
        """
        with suppress(subprocess.TimeoutExpired):
            self._process.communicate(message, timeout_s)
        if self._process.poll() != 0:
            raise ChildError(f"{self.name} failed (exit {self._process.poll()}):\n{self._log_tail()}")
        return self._out.read_bytes().strip().rpartition(b"\n")[2]

    def stop(self) -> None:
        """End it: SIGTERM, and SIGKILL if it does not listen."""
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()

    def _log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]


@contextmanager
def child(name: str, *arguments: str, directory: Path) -> Iterator[Child]:
    """A process that lives as long as the block."""
    started: Child | None = None
    try:
        with postponed():
            started = Child(name, *arguments, directory=directory)
        yield started
    finally:
        if started is not None:
            with postponed():
                started.stop()
