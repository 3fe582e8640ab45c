"""Child processes: in a session of their own, ready when they say so on stdout, always ended by their own pid."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINE_BYTES_MAX = 1 << 20
PRCTL = getattr(ctypes.CDLL(None), "prctl", None)  # Linux; elsewhere a parent killed by SIGKILL leaves its children
PR_SET_PDEATHSIG = 1
# Below the range the kernel gives to outgoing connections (32768 and up on Linux): between a kill and the restart
# somebody's connection would otherwise take the port of the dead.
PORTS = range(20_000, 32_000)


class ProcessError(Exception):
    """A child did not become ready or did not end; the message names it and what it last said."""


class Child:
    """One program that may be killed and started again. What it prints goes to a file."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._argv = list(argv)
        self._log = log
        self._environment = dict(environment or {})
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self, ready: str, within_s: float = 30.0) -> str:
        """Start it and wait for the line that holds `ready`, which is returned.

        Raises:
            ProcessError: it ended or did not say it in time.
        """
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env={**_inherited(), **self._environment},
                start_new_session=True,  # Ctrl-C in the terminal is for the parent, who then ends them in order
                preexec_fn=_die_with_parent if PRCTL else None,
                limit=LINE_BYTES_MAX,
            )
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(_line_with(self._process.stdout, ready.encode()), within_s)
        except TimeoutError:
            line = b""
        if not line:
            await self.kill()
            raise ProcessError(f"{self.name} did not become ready; it said: {self._last_words()}")
        self._reader = asyncio.create_task(self._keep_reading(self._process.stdout))
        return line.decode("utf-8", "replace").strip()

    async def kill(self) -> int | None:
        """SIGKILL; returns the pid of the dead."""
        pid = self.pid
        self.signal(signal.SIGKILL)
        await self.ended()
        return pid

    async def stop(self, grace_s: float = 10.0, again_after_s: float | None = None) -> bool:
        """SIGTERM, and SIGKILL after the grace.

        Args:
            grace_s: how long it may take to end.
            again_after_s: send a second SIGTERM then, to a child that only begins to end at the first.

        Returns:
            Whether it ended by itself.
        """
        for patience_s in (grace_s,) if again_after_s is None else (again_after_s, grace_s):
            self.signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended(), patience_s)
                return True
        await self.kill()
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self._process is not None and self.running:
            self._process.send_signal(number)

    async def ended(self) -> None:
        """Wait until it has ended and all it printed is in the file."""
        if self._process is not None:
            await self._process.wait()
        if self._reader is not None:
            await self._reader
            self._reader = None

    async def _keep_reading(self, stdout: asyncio.StreamReader) -> None:
        """A full pipe would stop the child."""
        with self._log.open("ab") as log:
            while chunk := await stdout.read(65536):
                log.write(chunk)

    def _last_words(self) -> str:
        try:
            words = self._log.read_text("utf-8", "replace").strip()[-2000:]
        except OSError:
            words = ""
        return words or "nothing"


def _inherited() -> dict[str, str]:
    """Our environment without settings for the product: a child is told its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}


def _die_with_parent() -> None:
    """Runs in the child before the program: one system call, looked up before the fork."""
    assert PRCTL is not None
    PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL)


async def _line_with(stdout: asyncio.StreamReader, words: bytes) -> bytes:
    """The first line that holds the words; nothing if the output ends before."""
    async for line in stdout:
        if words in line:
            return line
    return b""


def python(module: str, *arguments: object) -> list[str]:
    """The command that runs a module under this interpreter."""
    return [sys.executable, "-m", module, *(str(argument) for argument in arguments)]


def free_port(taken: set[int] | None = None) -> int:
    """A port of 127.0.0.1 that nobody has now and no outgoing connection will get."""
    taken = taken if taken is not None else set()
    start = (os.getpid() * 37 + int(time.time() * 1000)) % len(PORTS)  # several demos at once begin elsewhere
    for step in range(len(PORTS)):
        port = PORTS[(start + step) % len(PORTS)]
        if port not in taken and _is_free(port):
            taken.add(port)
            return port
    raise ProcessError(f"no free port between {PORTS[0]} and {PORTS[-1]}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def with_children(pid: int) -> list[int]:
    """The process and those that it started itself, as far as the kernel tells (Linux)."""
    found = [pid]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except OSError:
            continue
    return found


def send_to(pids: Sequence[int], number: signal.Signals) -> None:
    """Send a signal to processes, of which some may have ended by now."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
