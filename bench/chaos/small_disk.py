"""A disk of a few megabytes for the table that grows with every change, so that it can be full at any moment.

It is a tmpfs in a mount namespace of our own: with our processes it is gone, whatever ends them. Where mounting is not
allowed, a trigger says what PostgreSQL says when a disk is full (SQLSTATE 53100).
"""

import ctypes
import os
import subprocess
from pathlib import Path

import asyncpg

from gateway.embedded import privileges

CLONE_NEWNS = 0x00020000
MEGABYTES_MIN = 16
BYTES_AN_ORDER = 8192
TABLESPACE = "small_disk"
TRIGGER = """
CREATE OR REPLACE FUNCTION small_disk_full() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$;
CREATE OR REPLACE TRIGGER small_disk_full BEFORE INSERT ON events EXECUTE FUNCTION small_disk_full();
"""


def leave_mount_namespace() -> bool:
    """Have this process and its children see mounts of their own; whether that was allowed. Before threads start."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare") or libc.unshare(CLONE_NEWNS):
        return False
    private = subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True, check=False)
    return private.returncode == 0


class SmallDisk:
    """Made with `put_events_there`; then `fill` and `free` it. `orders`: how many it must have room for;
    `may_mount`: whether this process sees mounts of its own."""

    def __init__(self, path: Path, postgres_url: str, orders: int, *, may_mount: bool) -> None:
        self._path = path
        self._postgres_url = postgres_url
        self._bytes = MEGABYTES_MIN * 2**20 + orders * BYTES_AN_ORDER
        self._may_mount = may_mount
        self.mounted = False

    async def put_events_there(self) -> None:
        """Move the table of events and its index, if the disk can be made."""
        self._path.mkdir(mode=0o700)
        self.mounted = self._may_mount and self._mount()
        if not self.mounted:
            return
        space = self._path / "pg"
        space.mkdir(mode=0o700)
        privileges.give(space, privileges.choose_run_as().owner_uid)
        connection = await asyncpg.connect(self._postgres_url)
        try:
            await connection.execute(f"CREATE TABLESPACE {TABLESPACE} LOCATION '{space}'")
            await connection.execute(f"ALTER TABLE events SET TABLESPACE {TABLESPACE}")
            await connection.execute(f"ALTER INDEX events_one_a_version SET TABLESPACE {TABLESPACE}")
        finally:
            await connection.close()

    def _mount(self) -> bool:
        options = f"size={self._bytes},mode=0711"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self._path)]
        try:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:  # no such program
            return False

    async def fill(self) -> None:
        """From now on the table can not grow."""
        if not self.mounted:
            await self._execute(TRIGGER)
            return
        ballast = os.open(self._path / "ballast", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            while os.write(ballast, bytes(2**20)):
                pass
        except OSError:  # there is no more room: that is what was wanted
            pass
        finally:
            os.close(ballast)

    async def free(self) -> None:
        """It can grow again."""
        if self.mounted:
            (self._path / "ballast").unlink(missing_ok=True)
        else:
            await self._execute("DROP TRIGGER IF EXISTS small_disk_full ON events")

    def remove(self) -> None:
        """Once the server has stopped."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self._path)], capture_output=True, check=False)
            self.mounted = False

    async def _execute(self, sql: str) -> None:
        connection = await asyncpg.connect(self._postgres_url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()
