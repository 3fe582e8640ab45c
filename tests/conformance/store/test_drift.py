"""The simulated store is held to the real one: its texts, its constraints, and what becomes of many writes at once."""

import asyncio
import random
from typing import Any

import asyncpg
import msgspec
import pytest

from actors.checkpoint import Write, birth, record
from actors.order import AttemptState, Order, PaymentKind
from actors.ports import Verdict
from gateway.storage.statement import sections, statement
from tests.conformance.store.stores import Store, real, simulated
from tests.conformance.store.writes import accepted, arrival, committing, moved, new, paid
from tests.simulation.statements import KNOWN, UnknownStatement, drift_of, section_drifts, statement_of
from tests.simulation.tables import Tables, constraints

NOT_HELD = {
    "attempts_out_trade_no": "follows from the primary key",
    "app_keys_app_id_fkey": "held by its one statement",
}


def test_every_text_is_the_one_that_was_pinned() -> None:
    drifts = [drift_of(pinned.statement.name, pinned.text, pinned.digest) for pinned in KNOWN]
    assert [*filter(None, drifts), *section_drifts()] == []


def test_a_text_that_nobody_knows_is_named() -> None:
    with pytest.raises(UnknownStatement, match="SELECT 42 FROM orders"):
        statement_of("SELECT 42 FROM orders")
    moves = statement(frozenset({"moves"})).sql
    assert statement_of(moves).name == "flush"
    with pytest.raises(UnknownStatement, match="WITH moves"):
        statement_of(moves.replace("AND o.version = m.version - 1", ""))


def test_a_text_that_has_changed_is_named_with_what_is_to_be_done() -> None:
    moved_without_compare = sections()["moved"].replace("AND o.version = m.version - 1", "")
    assert "section moved: its text has changed" in drift_of("section moved", moved_without_compare, "919f9793cddc")
    assert (
        drift_of("x", "SELECT 1 -- one\n  FROM t", "not it").rpartition("digest ")[2]
        == drift_of("x", "SELECT 1\nFROM t", "not it").rpartition("digest ")[2]
    ), "comments and spacing do not count"


async def test_every_constraint_of_the_schema_is_held(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch(
        "SELECT conname AS name FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid"
        " WHERE t.relnamespace = 'public'::regnamespace AND c.contype IN ('c', 'u', 'p', 'f', 'x')"
        " AND t.relname = ANY ($1)"
        " UNION SELECT i.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid"
        " JOIN pg_class t ON t.oid = x.indrelid WHERE x.indisunique AND t.relname = ANY ($1)",
        [table.name for table in Tables().all],
    )
    nullable = await connection.fetch(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND is_nullable = 'NO'"
    )
    await connection.close()
    assert {row["name"] for row in rows} == constraints() | NOT_HELD.keys()
    required = {(row["table_name"], row["column_name"]) for row in nullable}
    for table in Tables().all:
        for field in msgspec.structs.fields(table.shape.row):
            column = field.name.removesuffix("_ms").removesuffix("_us")
            stands = isinstance(None, getattr(field.type, "__args__", ()) or field.type)
            if (table.name, column) != ("attempts", "started_at"):  # null only in rows of the release before
                assert ((table.name, column) in required) is not stands, f"{table.name}.{column}"


# --- the same writes to both ----------------------------------------------------------------------------------------

CLOCK_COLUMNS = {("outbox", "next_try_at_ms"), ("submissions", "expires_at_ms"), ("events", "op_id")}
TABLES = ("orders", "events", "attempts", "payments", "refunds", "cases", "outbox", "notifications", "submissions")


@pytest.mark.parametrize("seed", range(4))
async def test_the_same_writes_leave_the_same_rows(database_url: str, seed: int) -> None:
    """Births that collide, moves that come too late or too early, payments twice, rows that may not be."""
    batches = list(_batches(random.Random(seed)))
    async with real(database_url) as postgres, simulated() as memory:
        told = [await _told(store, batches) for store in (postgres, memory)]
        assert told[0] == told[1]
        outcomes = [outcome for batch in told[0] for outcome in batch]
        assert {"applied", "lost", "WriteRejected"} <= set(outcomes)
        for table in TABLES:
            assert await _rows(postgres, table) == await _rows(memory, table), table


async def _told(store: Store, batches: list[list[Write]]) -> list[list[str]]:
    async with committing(store.connect) as committer:
        return [[_name(done) for done in await _all(committer, batch)] for batch in batches]


async def _all(committer: Any, batch: list[Write]) -> list[Any]:
    return await asyncio.gather(*(committer.submit(write) for write in batch), return_exceptions=True)


def _name(outcome: Any) -> str:
    return outcome.value if isinstance(outcome, Verdict) else type(outcome).__name__


async def _rows(store: Store, table: str) -> list[dict[str, Any]]:
    rows = [
        {name: value for name, value in row.items() if (table, name) not in CLOCK_COLUMNS}
        for row in await store.rows(table)
    ]
    return sorted(rows, key=lambda row: str(list(row.values())))


def _batches(chance: random.Random) -> Any:
    """Batches of writes as several confused processes would make them; all of them know only what was drawn here."""
    orders: list[Order] = []
    for _ in range(30):
        batch: dict[str, Write] = {}
        for _ in range(chance.randrange(1, 8)):
            write = _birth(chance) if not orders or chance.random() < 0.4 else _move(chance, chance.choice(orders))
            assert write.order is not None
            if write.order.order_id not in batch:
                batch[write.order.order_id] = write
        yield [*batch.values(), record(arrival(chance.randrange(20)))]
        orders += [write.order for write in batch.values() if write.order is not None]


def _birth(chance: random.Random) -> Write:
    content: dict[str, Any] = {"out_order_no": f"n{chance.randrange(60)}"}
    if chance.random() < 0.1:
        content |= chance.choice(({"amount": 0}, {"currency": "yuan"}, {"subject": "a\0"}))
    fingerprint = bytes([chance.randrange(20)]) * 16 if chance.random() < 0.5 else None
    return birth(msgspec.structs.replace(new(**content), order_id=f"{chance.randrange(10**26):026d}"), fingerprint)


def _move(chance: random.Random, order: Order) -> Write:
    if not order.attempts:
        write = moved(order)
    elif order.version == 2 and chance.random() < 0.5:
        write = moved(order, accepted())
    else:
        transaction = f"T{chance.randrange(12)}"
        write = moved(order, paid(transaction, amount=chance.choice((100, 100, 7))))
    if write.order is order or write.order is None:
        return _birth(chance)  # the event changed nothing
    return _bent(chance, write)


def _bent(chance: random.Random, write: Write) -> Write:
    """Now and then a write that must not be."""
    assert write.order is not None
    roll = chance.random()
    if roll < 0.05:
        too_far = msgspec.structs.replace(write.order, version=write.order.version + 1)
        return msgspec.structs.replace(write, order=too_far)
    if roll < 0.1:
        return msgspec.structs.replace(write, order=msgspec.structs.replace(write.order, refunded_amount=10**6))
    if roll < 0.15 and write.attempts:
        more = msgspec.structs.replace(write.attempts[0], number=2, state=AttemptState.PENDING)
        return msgspec.structs.replace(write, attempts=(*write.attempts, more))
    if roll < 0.2 and write.payments:
        more_money = msgspec.structs.replace(write.payments[0], transaction="more", kind=PaymentKind.CREDIT)
        return msgspec.structs.replace(write, payments=(*write.payments, more_money))
    return write
