"""The embedded servers under a running gateway."""

import asyncio
import os
import signal
import time
from pathlib import Path

import asyncpg

from gateway.config import Config, Embedded, Redis
from gateway.databases import Databases

WITHIN_S = 30.0


async def test_an_embedded_postgres_that_dies_is_started_again(tmp_path: Path) -> None:
    databases = Databases(Config(embedded=Embedded(root=tmp_path), redis=Redis(url="off")))  # type: ignore[arg-type]
    await databases.start()
    try:
        connection = await asyncpg.connect(databases.postgres_url)
        pid = int((tmp_path / "pg" / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)
        assert await _answers(databases.postgres_url)
        connection.terminate()
    finally:
        await databases.stop()


async def _answers(url: str) -> bool:
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        try:
            connection = await asyncpg.connect(url)
            await connection.execute("SELECT 1")
            await connection.close()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await asyncio.sleep(0.1)
        else:
            return True
    return False
