"""One server for any number of processes: started once, attached to by the others, stopped by the last that leaves.

Files of a server in its directory: `data/`, `log`, `lock` (held while starting or stopping), `users` (held shared by
every process that uses the server; the kernel lets go of it when a process dies, so a kill leaves no count behind), and
the socket in `run/`, or in a private directory under the temporary one when the path is too long for a socket.
"""

import abc
import asyncio
import errno
import fcntl
import hashlib
import os
import signal
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self

START_LIMIT_S = 60.0  # crash recovery of a busy database takes its time
STOP_LIMIT_S = 30.0
POLL_S = 0.01
SOCKET_PATH_BYTES_MAX = 103  # macOS; Linux takes 107


class EmbeddedError(RuntimeError):
    """An embedded server can not be started or stopped; the message says why."""


class Server(abc.ABC):
    """What PostgreSQL and Valkey have in common here."""

    name: str
    socket_name: str

    def __init__(self, directory: Path, *, die_with_parent: bool) -> None:
        self.directory = directory.absolute()
        self.data_dir = self.directory / "data"
        self.log_path = self.directory / "log"
        self.started_here = False
        self._die_with_parent = die_with_parent
        self._process: subprocess.Popen[bytes] | None = None
        self._users: int | None = None

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """Where clients connect."""

    @property
    @abc.abstractmethod
    def pid_path(self) -> Path:
        """The file in which the server writes its process id."""

    @abc.abstractmethod
    async def _prepare(self) -> None:
        """Make what must exist, and clear what a killed server left, before a launch."""

    @abc.abstractmethod
    def _command(self) -> list[str]:
        """The full command line of the server."""

    @abc.abstractmethod
    async def _answers(self) -> bool:
        """Whether a client gets through right now."""

    async def start(self) -> str:
        """Attach to the running server or start it.

        Returns:
            The URL clients connect to. A real connection was made before.

        Raises:
            EmbeddedError: it did not come up; the message ends with the last lines of its log.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        async with self._lock():
            if self._users is None:
                self._users = _open_locked(self.directory / "users", fcntl.LOCK_SH)
            try:
                await self._bring_up()
            except BaseException:
                self._leave()
                raise
        return self.url

    async def stop(self, *, force: bool = False) -> None:
        """Leave the server; the last process that leaves shuts it down. `force` shuts it down under the others too."""
        if not self.directory.exists():
            return
        async with self._lock():
            self._leave()
            if force or self._is_unused():
                await self._shut_down(signal.SIGINT)
            elif self._process is not None:
                self._process.returncode = 0  # left running for the others; else Popen complains when it is collected

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def pid(self) -> int | None:
        """The server's process id; None when no living process of this server holds the one on file."""
        with suppress(OSError, ValueError, IndexError):
            pid = int(self.pid_path.read_text().split()[0])
            # A zombie has no command line; a reused id has another one.
            if f" {self.data_dir} " in f"{command_of(pid)} ":
                return pid
        return None

    @property
    def socket_dir(self) -> Path:
        """A directory only this account can enter: that, not a password, guards the server."""
        preferred = self.directory / "run"
        if len(os.fsencode(preferred / self.socket_name)) <= SOCKET_PATH_BYTES_MAX:
            return preferred
        digest = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"holdfast-{os.geteuid()}-{digest}"

    async def _bring_up(self) -> None:
        launched = False
        try:
            async with asyncio.timeout(START_LIMIT_S):
                while not await self._answers():
                    if not self._is_alive():
                        if launched:
                            raise EmbeddedError(self._told(f"{self.name} ended while starting"))
                        await self._prepare()
                        self._launch()
                        launched = True
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise EmbeddedError(self._told(f"{self.name} did not answer within {START_LIMIT_S:.0f} s")) from None
        self.started_here = self.started_here or launched

    def _launch(self) -> None:
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=server_environment(),
                start_new_session=True,  # neither our Ctrl-C nor our death is its own
            )

    async def _shut_down(self, how: signal.Signals) -> None:
        pid = self.pid
        try:
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, how)
            await poll_until(lambda: not self._is_alive(), STOP_LIMIT_S)
        except TimeoutError:
            raise EmbeddedError(self._told(f"{self.name} (pid {pid}) did not stop in {STOP_LIMIT_S:.0f} s")) from None

    def _is_alive(self) -> bool:
        return (self._process is not None and self._process.poll() is None) or self.pid is not None

    def _leave(self) -> None:
        if self._users is not None:
            os.close(self._users)
            self._users = None

    def _is_unused(self) -> bool:
        try:
            os.close(_open_locked(self.directory / "users", fcntl.LOCK_EX))
        except BlockingIOError:
            return False
        return True

    @asynccontextmanager
    async def _lock(self) -> AsyncIterator[None]:
        path = self.directory / "lock"
        limit_s = START_LIMIT_S + STOP_LIMIT_S
        held: list[int] = []
        try:
            await poll_until(lambda: _locks(path, held), limit_s)
        except TimeoutError:
            raise EmbeddedError(f"{path} was held by another process for {limit_s:.0f} s") from None
        try:
            yield
        finally:
            os.close(held.pop())

    def _told(self, message: str) -> str:
        """`message` with the end of the server's log."""
        with suppress(OSError):
            lines = self.log_path.read_text(errors="replace").splitlines()[-5:]
            return "\n  ".join([f"{message}; the end of {self.log_path}:", *lines])
        return message


async def poll_until(condition: Callable[[], bool], limit_s: float) -> None:
    """Wait for what other processes do and nobody tells us.

    Raises:
        TimeoutError: it did not become true within `limit_s`.
    """
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - another process can not set an Event of ours
            await asyncio.sleep(POLL_S)


def make_private_dir(path: Path) -> None:
    """Make a directory nobody else can enter, and refuse one that somebody else put there."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = path.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid not in {os.geteuid(), 65534 if os.geteuid() == 0 else -1}:
        raise EmbeddedError(f"{path} must be a directory of our own; it belongs to uid {about.st_uid}")
    path.chmod(0o700)


def server_environment() -> dict[str, str]:
    """A locale that exists everywhere, and none of the variables (PGDATA, PGPORT, ...) meant for other servers."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def command_of(pid: int) -> str:
    """The command line of a process; empty for a zombie and for no process."""
    proc = Path("/proc")
    if (proc / "self").exists():
        try:
            return (proc / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    listed = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listed.stdout


def _locks(path: Path, held: list[int]) -> bool:
    with suppress(BlockingIOError):
        held.append(_open_locked(path, fcntl.LOCK_EX))
    return bool(held)


def _open_locked(path: Path, kind: int) -> int:
    """A file descriptor that holds the lock until it is closed.

    Raises:
        BlockingIOError: somebody else holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            raise BlockingIOError(error.errno, f"{path} is locked") from None
        raise
    return descriptor
