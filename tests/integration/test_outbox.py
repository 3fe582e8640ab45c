"""The outbox against a real Postgres: leases, and marks that may be written twice."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest
from asyncpg.connection import LoggedQuery

from gateway.storage.outbox import _CLAIM, Outbox, OutboxRow

URL = "https://shop.example/hooks"


@pytest.fixture
def marks() -> list[int]:
    """How many rows each statement marked."""
    return []


@pytest.fixture
async def pool(database_url: str, marks: list[int]) -> AsyncIterator[asyncpg.Pool]:
    def logged(query: LoggedQuery) -> None:
        if "AS mark" in query.query:
            marks.append(len(query.args[0]))

    async def log(connection: asyncpg.Connection) -> None:
        connection.add_query_logger(logged)

    async with asyncpg.create_pool(database_url, min_size=1, max_size=4, init=log) as pool:
        yield pool


@pytest.fixture
def outbox(pool: asyncpg.Pool) -> Outbox:
    return Outbox(pool)


async def owe(pool: asyncpg.Pool, *event_ids: str, url: str = URL, app_id: str = "shop", due_in_s: float = -1) -> None:
    await pool.execute(
        "INSERT INTO outbox (event_id, app_id, order_id, seq, type, url, body, next_try_at, created_at)"
        " SELECT event_id, $2, 'ORDER', 3, 'order.paid', $3, '\\x00ff7b7d', clock_timestamp() + $4 * interval '1 s',"
        " '2026-01-02T03:04:05.678Z' FROM unnest($1::text[]) AS event_id",
        event_ids,
        app_id,
        url,
        due_in_s,
    )


async def stored(pool: asyncpg.Pool, event_id: str) -> dict[str, Any]:
    row = await pool.fetchrow(
        "SELECT state, tries, last_status, last_error, delivered_at IS NOT NULL AS was_delivered,"
        " extract(epoch FROM next_try_at - clock_timestamp())::float8 AS due_in_s FROM outbox WHERE event_id = $1",
        event_id,
    )
    return dict(row)


def ids(rows: list[OutboxRow]) -> list[str]:
    return sorted(row.event_id for row in rows)


async def test_a_claim_hands_out_the_row_as_it_was_stored(outbox: Outbox, pool: asyncpg.Pool) -> None:
    await owe(pool, "evt_1")
    (row,) = await outbox.claim(10, 30)
    assert row == OutboxRow(
        event_id="evt_1",
        app_id="shop",
        order_id="ORDER",
        seq=3,
        type="order.paid",
        url=URL,
        body=b"\x00\xff{}",
        tries=0,
        created_at_ms=1767323045678,
    )


async def test_only_due_rows_are_claimed_the_longest_due_first(outbox: Outbox, pool: asyncpg.Pool) -> None:
    await owe(pool, "later", due_in_s=60)
    await owe(pool, "new", due_in_s=-1)
    await owe(pool, "old", due_in_s=-100)
    assert ids(await outbox.claim(1, 30)) == ["old"]
    assert ids(await outbox.claim(10, 30)) == ["new"]
    assert await outbox.claim(10, 30) == []


async def test_a_lease_that_passed_is_followed_by_the_next_claim(outbox: Outbox, pool: asyncpg.Pool) -> None:
    await owe(pool, "evt_1")
    assert ids(await outbox.claim(10, 30)) == ["evt_1"]
    assert 25 < (await stored(pool, "evt_1"))["due_in_s"] <= 30
    assert await outbox.claim(10, 30) == []
    await pool.execute("UPDATE outbox SET next_try_at = clock_timestamp()")
    assert ids(await outbox.claim(10, 30)) == ["evt_1"]


async def test_concurrent_claims_never_share_a_row(outbox: Outbox, pool: asyncpg.Pool) -> None:
    await owe(pool, *(f"evt_{number}" for number in range(1_000)))
    pages = await asyncio.gather(*(outbox.claim(100, 30) for _ in range(20)))
    claimed = [row.event_id for page in pages for row in page]
    assert len(claimed) == len(set(claimed))
    rest = await outbox.claim(1_000, 30)
    assert len(claimed) + len(rest) == 1_000


async def test_paused_endpoints_do_not_occupy_a_claim(outbox: Outbox, pool: asyncpg.Pool) -> None:
    """An endpoint is one app's host and port, whatever the path."""
    await owe(pool, "a1", "a2", "a3", url="http://down:80/x", due_in_s=-100)
    await owe(pool, "a4", url="http://down:80/z?y=//a", due_in_s=-100)
    await owe(pool, "b", url="http://down:8080/x")
    await owe(pool, "c", url="http://down:80/x", app_id="other")
    await owe(pool, "d", url="http://down:80.example/x")
    assert ids(await outbox.claim(3, 30, ["shop down:80"])) == ["b", "c", "d"]
    assert ids(await outbox.claim(9, 30)) == ["a1", "a2", "a3", "a4"]


async def test_claims_use_the_index_also_among_many_delivered(pool: asyncpg.Pool) -> None:
    await owe(pool, *(f"evt_{number}" for number in range(20_000)))
    await pool.execute("UPDATE outbox SET state = 'delivered' WHERE event_id <> 'evt_7'")
    await pool.execute("ANALYZE outbox")
    async with pool.acquire() as connection:
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        statement = await connection.prepare(_CLAIM)
        plan = str(await statement.explain(10, 30.0, []))
    assert "outbox_owed" in plan
    assert "Seq Scan" not in plan


async def claimed(outbox: Outbox, pool: asyncpg.Pool, event_id: str = "evt_1") -> OutboxRow:
    await owe(pool, event_id)
    (row,) = await outbox.claim(1, 30)
    return row


async def test_each_mark_is_stored_with_its_evidence(outbox: Outbox, pool: asyncpg.Pool) -> None:
    await outbox.delivered(await claimed(outbox, pool, "a"), 204)
    await outbox.failed(await claimed(outbox, pool, "b"), 100.0, 500, "HTTP 500")
    await outbox.failed(await claimed(outbox, pool, "c"), 100.0, None, "TimeoutError")
    await outbox.dead(await claimed(outbox, pool, "d"), 410, "gone")
    a, b, c, d = [await stored(pool, event_id) for event_id in "abcd"]
    assert (a["state"], a["tries"], a["last_status"], a["was_delivered"]) == ("delivered", 1, 204, True)
    assert (b["state"], b["tries"], b["last_status"], b["last_error"]) == ("owed", 1, 500, "HTTP 500")
    assert 90 < b["due_in_s"] <= 100
    assert (c["state"], c["last_status"], c["last_error"]) == ("owed", None, "TimeoutError")
    assert (d["state"], d["last_status"], d["was_delivered"]) == ("dead", 410, False)


async def test_marks_at_the_same_time_share_their_statements(
    outbox: Outbox, pool: asyncpg.Pool, marks: list[int]
) -> None:
    await owe(pool, *(f"evt_{number}" for number in range(1_000)))
    rows = await outbox.claim(1_000, 30)
    await asyncio.gather(*(outbox.delivered(row, 200) for row in rows))
    assert await pool.fetchval("SELECT count(*) FROM outbox WHERE state = 'delivered' AND tries = 1") == 1_000
    assert sum(marks) == 1_000
    assert len(marks) <= 3


async def test_a_mark_written_twice_changes_nothing(outbox: Outbox, pool: asyncpg.Pool) -> None:
    row = await claimed(outbox, pool)
    await outbox.failed(row, 100.0, 500, "first")
    await outbox.failed(row, 0.0, 500, "again")
    assert (await stored(pool, "evt_1"))["last_error"] == "first"
    assert (await stored(pool, "evt_1"))["tries"] == 1


async def test_delivered_is_final_and_wins_over_everything(outbox: Outbox, pool: asyncpg.Pool) -> None:
    """A process that woke up after its lease may say what it likes about a row that another has delivered."""
    row = await claimed(outbox, pool)
    await outbox.dead(row, 410, "gone")
    await outbox.delivered(row, 200)
    assert (await stored(pool, "evt_1"))["state"] == "delivered"
    await outbox.delivered(msgspec.structs.replace(row, tries=9), 299)
    await outbox.failed(msgspec.structs.replace(row, tries=9), 0.0, 500, "late")
    await outbox.dead(msgspec.structs.replace(row, tries=9), 500, "late")
    again = await stored(pool, "evt_1")
    assert (again["state"], again["tries"], again["last_status"]) == ("delivered", 1, 200)


async def test_a_dead_row_is_not_owed_again_by_a_late_failure(outbox: Outbox, pool: asyncpg.Pool) -> None:
    row = await claimed(outbox, pool)
    await outbox.dead(row, 410, "gone")
    await outbox.failed(msgspec.structs.replace(row, tries=9), 0.0, 500, "late")
    assert (await stored(pool, "evt_1"))["state"] == "dead"


@pytest.mark.parametrize("error", ["\0nul", "\ud800 surrogate", "x" * 100_000, "咖" * 1_000])
async def test_no_text_of_an_endpoint_can_fail_the_marks_of_others(
    outbox: Outbox, pool: asyncpg.Pool, error: str
) -> None:
    rows = [await claimed(outbox, pool, event_id) for event_id in ("a", "b")]
    await asyncio.gather(outbox.failed(rows[0], 1.0, 500, error), outbox.delivered(rows[1], 200))
    assert (await stored(pool, "a"))["tries"] == 1
    assert (await stored(pool, "b"))["state"] == "delivered"


async def test_marks_survive_the_loss_of_their_connection(
    outbox: Outbox, pool: asyncpg.Pool, database_url: str
) -> None:
    await owe(pool, *(f"evt_{number}" for number in range(200)))
    rows = await outbox.claim(200, 30)
    other = await asyncpg.connect(database_url)
    try:
        # A lock holds the marks in flight until their connection is killed under them.
        async with other.transaction():
            await other.execute("LOCK TABLE outbox IN EXCLUSIVE MODE")
            marking = [outbox.delivered(row, 200) for row in rows]
            await until_waiting_for_a_lock(other)
            await other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        await asyncio.gather(*marking)
    finally:
        await other.close()
    assert await pool.fetchval("SELECT count(*) FROM outbox WHERE state = 'delivered' AND tries = 1") == 200


async def until_waiting_for_a_lock(connection: asyncpg.Connection) -> None:
    async with asyncio.timeout(30):
        while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)


async def test_a_caller_that_is_cancelled_does_not_stop_the_marks_of_others(outbox: Outbox, pool: asyncpg.Pool) -> None:
    rows = [await claimed(outbox, pool, event_id) for event_id in ("a", "b")]
    cancelled = outbox.delivered(rows[0], 200)
    stays = outbox.delivered(rows[1], 200)
    cancelled.cancel()
    await stays
    assert (await stored(pool, "b"))["state"] == "delivered"


async def test_stopping_drops_the_marks_that_postgres_does_not_take(
    outbox: Outbox, pool: asyncpg.Pool, database_url: str
) -> None:
    row = await claimed(outbox, pool)
    other = await asyncpg.connect(database_url)
    try:
        async with other.transaction():
            await other.execute("LOCK TABLE outbox IN EXCLUSIVE MODE")
            mark = outbox.delivered(row, 200)
            await until_waiting_for_a_lock(other)
            late = outbox.delivered(row, 200)
            await outbox.stop()
    finally:
        await other.close()
    assert mark.cancelled()
    assert late.cancelled()
    assert (await stored(pool, "evt_1"))["state"] == "owed"
