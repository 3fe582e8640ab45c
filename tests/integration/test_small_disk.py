"""A full disk where none can be mounted: the table of events refuses what comes, as PostgreSQL does; no other does."""

from pathlib import Path

import asyncpg
import pytest

from bench.chaos.small_disk import SmallDisk

EVENT = "INSERT INTO events (order_id, version, at, type, state, op_id) VALUES ($1, $2, now(), 'Any', 'created', 1)"


async def test_while_it_is_full_the_events_do_not_grow_and_everything_else_does(
    database_url: str, tmp_path: Path
) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE TABLE others (id int)")
    disk = SmallDisk(tmp_path / "disk", database_url, 100, may_mount=False)
    await disk.put_events_there()
    assert not disk.mounted
    for times in range(2):
        await connection.execute(EVENT, "a", times)
        await disk.fill()
        with pytest.raises(asyncpg.DiskFullError):
            await connection.execute(EVENT, "b", times)
        await connection.execute("INSERT INTO others VALUES ($1)", times)
        await disk.free()
    assert await connection.fetchval("SELECT count(*) FROM events") == 2
    assert await connection.fetchval("SELECT count(*) FROM others") == 2
    await connection.close()
    disk.remove()
