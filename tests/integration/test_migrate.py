"""The schema as Postgres holds it: how it gets there, and what it refuses to hold."""

import asyncio
import multiprocessing
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway.embedded import Postgres
from gateway.storage.journal import order_of
from gateway.storage.migrate import (
    HOT_TABLES,
    MIGRATIONS,
    MigrationError,
    UnsafeDatabaseError,
    check_durability,
    migrate,
    read_migrations,
    seed_statistics,
)
from gateway.storage.queries import query

ORDER_ID = "0" * 26
AT = "'2026-01-02 03:04:05Z'"
ORDER = {
    "order_id": f"'{ORDER_ID}'",
    "app_id": "'shop'",
    "out_order_no": "'A1'",
    "amount": "100",
    "currency": "'CNY'",
    "subject": "'tea'",
    "late_payment": "'accept'",
    "state": "'created'",
    "version": "1",
    "created_at": AT,
    "expires_at": AT,
}
ATTEMPT = {
    "attempt_id": f"'{ORDER_ID}01'",
    "order_id": f"'{ORDER_ID}'",
    "number": "1",
    "channel": "'wechatpay'",
    "account": "'1900000001'",
    "method": "'native'",
    "state": "'pending'",
    "submitted_at": AT,
}
PAYMENT = {
    "channel": "'wechatpay'",
    "account": "'1900000001'",
    "channel_transaction": "'4200'",
    "kind": "'credit'",
    "order_id": f"'{ORDER_ID}'",
    "attempt_id": f"'{ORDER_ID}01'",
    "amount": "100",
    "currency": "'CNY'",
    "success_at": AT,
    "learned_at": AT,
    "learned_by": "'query'",
}
EVENT = {"order_id": f"'{ORDER_ID}'", "version": "1", "at": AT, "type": "'created'", "state": "'created'", "op_id": "1"}
REFUND = {
    "refund_id": f"'{ORDER_ID}R00001'",
    "app_id": "'shop'",
    "order_id": f"'{ORDER_ID}'",
    "out_refund_no": "'B1'",
    "cause": "'app'",
    "attempt_id": f"'{ORDER_ID}01'",
    "channel": "'wechatpay'",
    "account": "'m/a'",
    "channel_transaction": "'T1'",
    "amount": "5",
    "state": "'submitting'",
    "started_at": AT,
    "submitted_at": AT,
}


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Any]:
    async with connected(database_url) as made:
        yield made


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    made = await asyncpg.connect(url)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def empty_url(postgres: Postgres) -> AsyncIterator[str]:
    """A database without any schema."""
    async with connected(postgres.url) as admin:
        await admin.execute("CREATE DATABASE empty")
        yield postgres.url.replace("/postgres?", "/empty?")
        await admin.execute("DROP DATABASE empty WITH (FORCE)")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "0001_one.sql").write_text("CREATE TABLE one (x integer); CREATE TABLE more (x integer);")
    (tmp_path / "0002_two.sql").write_text("CREATE TABLE two (x integer);")
    return tmp_path


async def insert(connection: Any, table: str, row: dict[str, str], **changed: str) -> None:
    row = row | changed
    await connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(row.values())})")  # noqa: S608


# --- getting there --------------------------------------------------------------------------------------------------


async def test_all_migrations_replay_from_nothing_and_a_second_run_does_nothing(empty_url: str) -> None:
    async with connected(empty_url) as connection:
        assert await migrate(connection) == [migration.name for migration in read_migrations()]
        assert await migrate(connection) == []


async def test_migrators_that_race_apply_each_file_once(empty_url: str, files: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        applied = await asyncio.to_thread(pool.starmap, migrate_in_process, [(empty_url, files)] * 4)
    assert sorted(applied, key=len) == [[], [], [], ["0001_one", "0002_two"]]


def migrate_in_process(url: str, files: Path) -> list[str]:
    async def run() -> list[str]:
        async with connected(url) as connection:
            return await migrate(connection, files)

    return asyncio.run(run())


async def test_a_new_file_is_applied_alone(empty_url: str, files: Path) -> None:
    async with connected(empty_url) as connection:
        await migrate(connection, files)
        (files / "0003_three.sql").write_text("CREATE TABLE three (x integer)")
        assert await migrate(connection, files) == ["0003_three"]


async def test_a_file_that_fails_leaves_nothing_of_itself_and_all_before_it(empty_url: str, files: Path) -> None:
    (files / "0002_two.sql").write_text("CREATE TABLE two (x integer); SELECT nonsense;")
    async with connected(empty_url) as connection:
        with pytest.raises(MigrationError, match=r'0002_two: column "nonsense" does not exist'):
            await migrate(connection, files)
        tables = await connection.fetch("SELECT relname FROM pg_stat_user_tables ORDER BY 1")
        assert [row["relname"] for row in tables] == ["more", "one", "schema_migrations"]
        (files / "0002_two.sql").write_text("CREATE TABLE two (x integer)")
        assert await migrate(connection, files) == ["0002_two"], "the lock is free and the repaired file runs"


async def test_a_changed_file_is_refused(empty_url: str, files: Path) -> None:
    async with connected(empty_url) as connection:
        await migrate(connection, files)
        (files / "0001_one.sql").write_text("CREATE TABLE one (y integer);")
        with pytest.raises(MigrationError, match="0001_one: the file changed after it was applied"):
            await migrate(connection, files)


async def test_a_database_newer_than_this_version_is_refused(empty_url: str, files: Path) -> None:
    async with connected(empty_url) as connection:
        await migrate(connection, files)
        (files / "0002_two.sql").unlink()
        with pytest.raises(MigrationError, match="has 0002_two, which this version does not know"):
            await migrate(connection, files)


async def test_a_missing_row_of_the_history_is_refused(empty_url: str, files: Path) -> None:
    async with connected(empty_url) as connection:
        await migrate(connection, files)
        await connection.execute("DELETE FROM schema_migrations WHERE version = 1")
        with pytest.raises(MigrationError, match="no row 0001"):
            await migrate(connection, files)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("0004_four.sql", "expected number 0003"), ("0002_again.sql", "expected number"), ("3.sql", "NNNN_words")],
)
def test_files_must_be_numbered_without_gap(files: Path, name: str, complaint: str) -> None:
    (files / name).write_text("")
    with pytest.raises(MigrationError, match=complaint):
        read_migrations(files)


async def test_attempts_of_before_have_begun_when_they_were_sent_and_older_processes_go_on(
    empty_url: str, tmp_path: Path
) -> None:
    """While one gateway has migrated, another still writes as the release before did."""
    shutil.copy(sorted(MIGRATIONS.glob("*.sql"))[0], tmp_path)
    numbers = {"01": "'closed'", "02": "'pending'"}
    async with connected(empty_url) as connection:
        await migrate(connection, tmp_path)
        await insert(connection, "orders", ORDER)
        for number, state in numbers.items():
            await insert(connection, "attempts", ATTEMPT, attempt_id=f"'{ORDER_ID}{number}'", state=state)
        await migrate(connection)
        await connection.execute("SET ROLE holdfast_gateway")
        await connection.execute("UPDATE attempts SET submitted_at = now() WHERE state = 'pending'")
        await insert(connection, "attempts", ATTEMPT, attempt_id=f"'{ORDER_ID}03'", number="3", state="'closed'")
        found = await connection.fetchrow(query("orders_by_id"), [ORDER_ID])
        started_at_ms = [attempt.started_at_ms for attempt in order_of(found).attempts]
        first_ms = await connection.fetchval(f"SELECT extract(epoch FROM {AT}::timestamptz) * 1000")  # noqa: S608
        assert started_at_ms[:2] == [first_ms, first_ms]
        assert 0 <= time.time() * 1000 - started_at_ms[2] < 60_000


# --- whom we trust --------------------------------------------------------------------------------------------------


async def test_a_server_that_may_forget_is_refused_unless_it_is_a_test(connection: Any) -> None:
    with pytest.raises(UnsafeDatabaseError) as refused:
        await check_durability(connection, allow_unsafe=False)
    assert [line.split(" ")[0] for line in str(refused.value).splitlines()] == [
        "fsync",
        "full_page_writes",
        "synchronous_commit",
    ]
    await check_durability(connection, allow_unsafe=True)


async def test_the_durable_embedded_server_is_trusted_but_not_a_lax_connection(durable_postgres: Postgres) -> None:
    async with connected(durable_postgres.url) as connection:
        await check_durability(connection, allow_unsafe=False)
        await connection.execute("SET synchronous_commit = off")
        with pytest.raises(UnsafeDatabaseError, match="synchronous_commit is off: acknowledged commits can be lost"):
            await check_durability(connection, allow_unsafe=False)


async def test_a_standby_is_refused_even_in_a_test(durable_postgres: Postgres) -> None:
    await durable_postgres.stop(force=True)
    (durable_postgres.data_dir / "standby.signal").touch()
    await durable_postgres.start()
    async with connected(durable_postgres.url) as connection:
        with pytest.raises(UnsafeDatabaseError, match="standby"):
            await check_durability(connection, allow_unsafe=True)


# --- plans on the empty tables --------------------------------------------------------------------------------------

STATEMENTS = {
    "move orders": (
        "UPDATE orders o SET state = i.state, version = o.version + 1"
        " FROM unnest($1::text[], $2::int[], $3::text[]) AS i (order_id, version, state)"
        " WHERE o.order_id = i.order_id AND o.version = i.version RETURNING o.order_id"
    ),
    "move attempts": (
        "UPDATE attempts a SET state = i.state FROM unnest($1::text[], $2::text[]) AS i (attempt_id, state)"
        " WHERE a.attempt_id = i.attempt_id"
    ),
    "due orders": (
        "SELECT order_id FROM orders WHERE next_check_at <= now()"
        " ORDER BY next_check_at LIMIT 200 FOR UPDATE SKIP LOCKED"
    ),
    "owed webhooks": (
        "SELECT event_id FROM outbox WHERE state = 'owed' AND next_try_at <= now()"
        " ORDER BY next_try_at LIMIT 200 FOR UPDATE SKIP LOCKED"
    ),
    "attempts of orders": "SELECT * FROM attempts WHERE order_id = ANY($1::text[])",
    "payments of orders": "SELECT * FROM payments WHERE order_id = ANY($1::text[])",
    "events of an order": "SELECT * FROM events WHERE order_id = $1 ORDER BY version",
    "an order by the app's number": "SELECT * FROM orders WHERE app_id = $1 AND out_order_no = $2",
    "a submission": "SELECT * FROM submissions WHERE app_id = $1 AND fingerprint = $2",
}


async def sequential_scans(connection: Any) -> set[str]:
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    found = set()
    for name, statement in STATEMENTS.items():
        await connection.execute(f"DEALLOCATE ALL; PREPARE asked AS {statement}")
        given = ", ".join(["NULL"] * max((n for n in range(1, 4) if f"${n}" in statement), default=0))
        plan = await connection.fetch(f"EXPLAIN EXECUTE asked{f'({given})' if given else ''}")
        if any("Seq Scan" in line[0] for line in plan):
            found.add(name)
    return found


async def test_on_empty_tables_every_hot_statement_uses_an_index(database_url: str) -> None:
    connection = await asyncpg.connect(database_url, statement_cache_size=0)
    try:
        assert await sequential_scans(connection) == set()
        for table in HOT_TABLES:
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0  # noqa: S608
    finally:
        await connection.close()


async def test_without_the_statistics_it_would_scan_and_seeding_twice_is_harmless(empty_url: str) -> None:
    connection = await asyncpg.connect(empty_url, statement_cache_size=0)
    try:
        await migrate(connection)
        assert "move orders" in await sequential_scans(connection)
        assert await seed_statistics(connection) == list(HOT_TABLES)
        assert await seed_statistics(connection) == []
        assert await sequential_scans(connection) == set()
        constraints = "SELECT count(*) FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype IN ('c', 'u')"
        assert await connection.fetchval(constraints) > 8, "the rules are all back"
    finally:
        await connection.close()


# --- what Postgres refuses to hold ----------------------------------------------------------------------------------


async def test_one_order_is_credited_once(connection: Any) -> None:
    await insert(connection, "payments", PAYMENT)
    await insert(connection, "payments", PAYMENT, channel_transaction="'4201'", kind="'excess'")
    with pytest.raises(asyncpg.UniqueViolationError, match="payments_one_credit"):
        await insert(connection, "payments", PAYMENT, channel_transaction="'4202'")


async def test_a_channel_transaction_is_recorded_once(connection: Any) -> None:
    await insert(connection, "payments", PAYMENT)
    with pytest.raises(asyncpg.UniqueViolationError, match="payments_once"):
        await insert(connection, "payments", PAYMENT, order_id="'other'", kind="'excess'")


async def test_an_order_has_one_live_attempt(connection: Any) -> None:
    await insert(connection, "attempts", ATTEMPT, state="'closed'")
    await insert(connection, "attempts", ATTEMPT, attempt_id=f"'{ORDER_ID}02'", number="2")
    for state in ("submitting", "pending", "unknown", "closing"):
        third = {"attempt_id": f"'{ORDER_ID}03'", "number": "3", "state": f"'{state}'"}
        with pytest.raises(asyncpg.UniqueViolationError, match="attempts_one_live"):
            await insert(connection, "attempts", ATTEMPT, **third)


async def test_an_apps_number_stands_for_one_order_for_ever(connection: Any) -> None:
    await insert(connection, "orders", ORDER)
    with pytest.raises(asyncpg.UniqueViolationError, match="orders_natural_key"):
        await insert(connection, "orders", ORDER, order_id=f"'{'1' * 26}'")
    await insert(connection, "orders", ORDER, order_id=f"'{'1' * 26}'", app_id="'other'")


async def test_a_refund_number_stands_for_one_refund_of_its_app(connection: Any) -> None:
    await insert(connection, "refunds", REFUND)
    with pytest.raises(asyncpg.UniqueViolationError, match="refunds_natural_key"):
        await insert(connection, "refunds", REFUND, refund_id=f"'{ORDER_ID}R00002'")


async def test_a_version_of_an_order_has_one_event(connection: Any) -> None:
    await insert(connection, "events", EVENT)
    with pytest.raises(asyncpg.UniqueViolationError, match="events_one_a_version"):
        await insert(connection, "events", EVENT, type="'other'")


@pytest.mark.parametrize(("table", "row"), [("orders", ORDER), ("payments", PAYMENT), ("refunds", REFUND)])
@pytest.mark.parametrize("amount", ["0", "-1"])
async def test_money_is_more_than_nothing(connection: Any, table: str, row: dict[str, str], amount: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="amount"):
        await insert(connection, table, row, amount=amount)


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"refunded_amount": "1"}, "orders_refunds_within_paid"),
        ({"state": "'paid'"}, "orders_paid_has_money"),
        ({"paid_amount": "100"}, "orders_paid_has_money"),
        ({"state": "'exception'"}, "orders_exception_has_reason"),
        ({"state": "'lost'"}, "orders_state_check"),
        ({"order_id": "'short'"}, "orders_order_id_check"),
        ({"version": "0"}, "orders_version_check"),
    ],
)
async def test_an_order_that_must_not_be_is_refused(connection: Any, changed: dict[str, str], rule: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match=rule):
        await insert(connection, "orders", ORDER, **changed)


async def test_the_gateways_role_adds_to_the_record_and_changes_nothing_of_it(connection: Any) -> None:
    await insert(connection, "orders", ORDER)
    await connection.execute("SET ROLE holdfast_gateway")
    await insert(connection, "events", EVENT)
    for statement in (
        "UPDATE events SET type = 'other'",
        "DELETE FROM events",
        "TRUNCATE events",
        "UPDATE payments SET amount = 1",
        "DELETE FROM payments",
        "DELETE FROM orders",
        "UPDATE notifications SET verdict = 'verified'",
        "DELETE FROM outbox",
        "DROP TABLE events",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    assert await connection.fetchval("SELECT count(*) FROM events") == 1
    assert await connection.fetchval("SELECT count(*) FROM schema_migrations") == len(read_migrations())
