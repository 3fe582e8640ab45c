"""The schema: numbered SQL files that only go forward, each applied once, in its own transaction, never changed after.

Also what must be true of a database before it is trusted with money (`check_durability`), and what makes its first
plans good ones (`seed_statistics`).
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

MIGRATIONS: Final = Path(__file__).parent / "migrations"
FIRST_PAGE_SQL: Final = Path(__file__).parent / "first_page.sql"
FILE_NAME: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
LOCK_KEY: Final = 0x686F6C6466617374  # "holdfast": one migrator at a time in a database
LOCK_LIMIT_S: Final = 60

# Few tuples on many pages would make a sequential scan of the young table look cheap; this says a page holds very many.
SEED_PAGES: Final = 1
SEED_ROWS: Final = 100_000
HOT_TABLES: Final = ("orders", "attempts", "payments", "events", "outbox", "submissions", "notifications", "refunds")

CREATE_TABLE: Final = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        version    integer PRIMARY KEY,
        name       text NOT NULL,
        sha256     text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    GRANT SELECT ON schema_migrations TO PUBLIC;
"""


class MigrationError(Exception):
    """The schema can not be brought to what this version knows; the message names the migration."""


class UnsafeDatabaseError(Exception):
    """This Postgres may forget what it acknowledged; one sentence for each reason."""


class Migration(msgspec.Struct, frozen=True):
    """One file."""

    version: int
    name: str
    sql: str
    sha256: str


def read_migrations(directory: Path = MIGRATIONS) -> list[Migration]:
    """The files in their order, 0001 first.

    Raises:
        MigrationError: a name does not fit, a number is missing or twice there.
    """
    found = [_read(path) for path in sorted(directory.glob("*.sql"))]
    for expected, migration in enumerate(found, start=1):
        if migration.version != expected:
            raise MigrationError(f"{migration.name}: expected number {expected:04d} here; files must have no gap")
    return found


async def migrate(connection: Any, directory: Path = MIGRATIONS) -> list[str]:
    """Apply what is missing. Safe to call from many processes at once: one works, the others wait and find it done.

    Returns:
        The names of the files applied now.

    Raises:
        MigrationError: the database holds a changed, unknown or newer migration, or another process never finishes.
    """
    known = read_migrations(directory)
    await _lock(connection)
    try:
        await connection.execute(CREATE_TABLE)
        missing = await _missing(connection, known)
        for migration in missing:
            await _apply(connection, migration)
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1)", LOCK_KEY)
    return [migration.name for migration in missing]


async def pending(connection: Any, directory: Path = MIGRATIONS) -> list[str]:
    """The names of the files that `migrate` would apply now. Changes nothing.

    Raises:
        MigrationError: the database holds a changed, unknown or newer migration.
    """
    known = read_migrations(directory)
    begun = await connection.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL")
    return [migration.name for migration in (await _missing(connection, known) if begun else known)]


async def check_durability(connection: Any, *, allow_unsafe: bool) -> None:
    """Refuse a Postgres that may lose what it acknowledged.

    Args:
        connection: one that is made like all the others; synchronous_commit can differ by connection.
        allow_unsafe: it is a test; only a standby is still refused, as it takes no writes.

    Raises:
        UnsafeDatabaseError: with every reason.
    """
    rows = await connection.fetch(
        "SELECT name, setting FROM pg_settings WHERE name = ANY($1)",
        ["fsync", "full_page_writes", "synchronous_commit", "data_checksums"],
    )
    setting = {row["name"]: row["setting"] for row in rows}
    reasons = [] if allow_unsafe else _unsafe_settings(setting)
    if await connection.fetchval("SELECT pg_is_in_recovery()"):
        reasons.append("It is a standby (pg_is_in_recovery): it takes no writes; connect to the primary.")
    if reasons:
        raise UnsafeDatabaseError("\n".join(reasons))


async def seed_statistics(connection: Any) -> list[str]:
    """Give the still empty hot tables statistics that speak for their indexes.

    On an empty table Postgres keeps a plan with sequential scans, and goes on using it when the table has grown. These
    statistics hold until the first autoanalyze replaces them. Postgres below 18 can't be told; there it is a no-op.

    Returns:
        The tables seeded now.
    """
    if connection.get_server_version().major < 18:
        return []
    empty = [table for table in HOT_TABLES if await _is_empty(connection, table)]
    for table in empty:
        await connection.execute(
            "SELECT pg_restore_relation_stats('schemaname', current_schema()::text, 'relname', $1::text,"
            " 'relpages', $2::integer, 'reltuples', $3::real)",
            table,
            SEED_PAGES,
            SEED_ROWS,
        )
        await _add_first_page(connection, table)  # last: a kill before it leaves the table empty, and this runs again
    return empty


def _read(path: Path) -> Migration:
    fits = FILE_NAME.fullmatch(path.name)
    if not fits:
        raise MigrationError(f"{path.name}: a migration is called NNNN_words.sql")
    content = path.read_bytes()
    return Migration(int(fits[1]), path.stem, content.decode(), hashlib.sha256(content).hexdigest())


async def _lock(connection: Any) -> None:
    async with connection.transaction():
        await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_LIMIT_S}s'")
        try:
            await connection.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
        except asyncpg.LockNotAvailableError:
            raise MigrationError(f"another process has been migrating for {LOCK_LIMIT_S} s; look at it") from None


async def _missing(connection: Any, known: Sequence[Migration]) -> Sequence[Migration]:
    applied = await connection.fetch("SELECT version, name, sha256 FROM schema_migrations ORDER BY version")
    _compare(known, applied)
    return known[len(applied) :]


def _compare(known: Sequence[Migration], applied: Sequence[Any]) -> None:
    for expected, row in enumerate(applied, start=1):
        if row["version"] != expected:
            raise MigrationError(f"schema_migrations has no row {expected:04d} but a later one: restore it")
        if expected > len(known):
            raise MigrationError(
                f"the database has {row['name']}, which this version does not know: run a newer version"
            )
        if row["sha256"] != known[expected - 1].sha256:
            raise MigrationError(f"{row['name']}: the file changed after it was applied; write a new migration instead")


async def _apply(connection: Any, migration: Migration) -> None:
    async with connection.transaction():
        try:
            await connection.execute(migration.sql)
        except asyncpg.PostgresError as error:
            raise MigrationError(f"{migration.name}: {error}") from error
        await connection.execute(
            "INSERT INTO schema_migrations (version, name, sha256) VALUES ($1, $2, $3)",
            migration.version,
            migration.name,
            migration.sha256,
        )


def _unsafe_settings(setting: dict[str, str]) -> list[str]:
    reasons = []
    if setting["fsync"] != "on":
        reasons.append("fsync is off: a power cut destroys the database; set fsync = on.")
    if setting["full_page_writes"] != "on":
        reasons.append("full_page_writes is off: a power cut can tear pages; set full_page_writes = on.")
    if setting["synchronous_commit"] not in {"on", "remote_apply"}:
        reasons.append(
            f"synchronous_commit is {setting['synchronous_commit']}: acknowledged commits can be lost; set it to on."
        )
    if setting["data_checksums"] != "on":
        reasons.append("data_checksums is off: a broken page is not noticed; run pg_checksums --enable on it, stopped.")
    return reasons


async def _is_empty(connection: Any, table: str) -> bool:
    """Whether it never held a row; one that did soon has statistics of its own."""
    query = "SELECT pg_relation_size(oid) = 0 FROM pg_class WHERE oid = $1::text::regclass"
    return bool(await connection.fetchval(query, table))


async def _add_first_page(connection: Any, table: str) -> None:
    """Statistics of a table without pages are not believed; a row that is rolled back leaves its page behind."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute("SELECT set_config('holdfast.table', $1, true)", table)
        await connection.execute(FIRST_PAGE_SQL.read_text())
    finally:
        await transaction.rollback()
