"""The group commit against a real PostgreSQL: every write gets the one true verdict, whatever happens to its reply."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec
import pytest

from actors.checkpoint import Arrival, Write, birth, move, record
from actors.deadlines import Schedule
from actors.errors import Overloaded, Stopped, Unavailable, WriteRejected
from actors.events import Credential, CredentialType, Event, PaymentReported, PayRequested, Source, SubmitAccepted
from actors.lifecycle import transition
from actors.order import Content, Order, new_order
from actors.ports import Verdict
from bench.lossy_proxy import LossyProxy, Weather
from gateway import ids
from gateway.config import Config
from gateway.databases import connector
from gateway.metrics import Metrics
from gateway.storage.group_commit import Bounds, GroupCommit
from gateway.storage.lane import Lane, Pending
from gateway.storage.outbox import OutboxRow
from gateway.storage.rows import Settings
from gateway.storage.statement import columns, statement

APPLIED, LOST = Verdict.APPLIED, Verdict.LOST
QUICK = Bounds(statement_timeout_s=0.5, answer_s=0.4)
ENDPOINT = "http://shop.example/webhooks"
NOW_MS = 1_800_000_000_000
WITHIN_S = 20.0

Connect = Callable[[], Awaitable[asyncpg.Connection]]
numbers = itertools.count(1)


@asynccontextmanager
async def committing(
    where: str | Connect, bounds: Bounds = QUICK, endpoint: str | None = ENDPOINT, window_ms: int = 60_000
) -> AsyncIterator[GroupCommit]:
    """A committer as the gateway makes it, under the gateway's role."""
    settings = Settings(window_ms, 30_000, lambda _app: endpoint)
    connect = connector(Config(), where) if isinstance(where, str) else where
    committer = GroupCommit(connect, settings, bounds, Metrics(), lambda _rows: None)
    await committer.start()
    try:
        yield committer
    finally:
        await asyncio.wait_for(committer.stop(), WITHIN_S)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A look at the truth, past the committer."""
    connection = await asyncpg.connect(database_url)
    yield connection
    connection.terminate()


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody else's session."""
    connection = await asyncpg.connect(database_url)
    yield connection
    connection.terminate()


def new(**content: Any) -> Order:
    fields = {"app_id": "shop", "out_order_no": f"no-{next(numbers)}", "amount": 100, "currency": "CNY", "subject": "x"}
    return new_order(ids.order_id(NOW_MS), Content(**{**fields, **content}), NOW_MS, NOW_MS + 1_800_000)


def moved(order: Order, event: Event | None = None) -> Write:
    """The write of the order's next transition; without an event, that somebody wants to pay."""
    event = event or PayRequested(NOW_MS, "wechatpay", "1900/wx", "native")
    return move(order, event, transition(order, event, Schedule()))


def accepted() -> SubmitAccepted:
    return SubmitAccepted(NOW_MS, 1, Credential(CredentialType.QR, "weixin://x", NOW_MS + 60_000))


def payment(transaction: str) -> PaymentReported:
    return PaymentReported(
        NOW_MS, 1, Source.QUERY, "wechatpay", "1900/wx", transaction, 100, "CNY", success_at_ms=NOW_MS
    )


def after(write: Write) -> Order:
    assert write.order is not None
    return write.order


async def born(committer: GroupCommit, count: int = 1, **content: Any) -> list[Order]:
    orders = [new(**content) for _ in range(count)]
    verdicts = await asyncio.gather(*(committer.submit(birth(order, None)) for order in orders))
    assert set(verdicts) == {APPLIED}
    return orders


async def prepared(committer: GroupCommit) -> Order:
    """A new order, on a connection that knows the statement which moves it: one reply a flush from here on."""
    first, second = await born(committer, 2)
    assert await committer.submit(moved(first)) is APPLIED
    return second


async def versions(database: asyncpg.Connection) -> dict[str, list[int]]:
    """Every order's versions as the events tell them; the last must be the order's own."""
    sql = (
        "SELECT order_id, o.version AS last, e.version FROM orders o LEFT JOIN events e USING (order_id) ORDER BY 1, 3"
    )
    rows = await database.fetch(sql)
    found: dict[str, list[int]] = {}
    for row in rows:
        found.setdefault(row["order_id"], []).append(row["version"])
        assert row["version"] <= row["last"]
    for row in rows:
        assert found[row["order_id"]] == list(range(1, row["last"] + 1))
    return found


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


# --- compare and set ------------------------------------------------------------------------------------------------


async def test_a_write_to_an_order_that_somebody_else_moved_is_lost(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with committing(database_url) as ours, committing(database_url) as theirs:
        (order,) = await born(ours)
        assert await theirs.submit(moved(order)) is APPLIED
        assert await ours.submit(moved(order)) is LOST
    assert await versions(database) == {order.order_id: [1, 2]}


async def test_a_lost_write_leaves_nothing_behind(database_url: str, database: asyncpg.Connection) -> None:
    """Neither its attempt, nor its payment, nor its webhook; but the notification it came with is kept."""
    arrival = Arrival(7, "wechatpay", "X", "01", "verified", "{}", b"raw", NOW_MS)
    async with committing(database_url) as ours, committing(database_url) as theirs:
        (order,) = await born(ours)
        paying = after(moved(order))
        paid = moved(paying, payment("T1"))
        assert await theirs.submit(moved(order)) is APPLIED
        assert await theirs.submit(moved(paying, accepted())) is APPLIED
        assert await ours.submit(msgspec.structs.replace(paid, arrivals=(arrival,))) is LOST
    assert await database.fetchval("SELECT count(*) FROM payments") == 0
    assert await database.fetchval("SELECT count(*) FROM outbox") == 0
    assert await database.fetchval("SELECT body FROM notifications WHERE notification_id = 7") == b"raw"


async def test_two_births_under_one_number_in_one_batch_make_one_order(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with committing(database_url) as committer:
        twins = [birth(new(out_order_no="same"), None) for _ in range(5)]
        verdicts = await asyncio.gather(*(committer.submit(twin) for twin in twins))
    assert sorted(verdicts) == [APPLIED, *[LOST] * 4]
    assert len(await versions(database)) == 1


async def test_two_committers_with_the_same_orders_in_opposite_order_do_not_deadlock(
    database_url: str, database: asyncpg.Connection
) -> None:
    bounds = Bounds(batch_rows_max=500)
    async with committing(database_url, bounds) as left, committing(database_url, bounds) as right:
        orders = await born(left, 300)
        for _ in range(4):
            writes = [moved(order, None if order.version == 1 else accepted()) for order in orders]
            there = [left.submit(write) for write in writes]
            back = [right.submit(write) for write in reversed(writes)]
            verdicts = list(zip(await asyncio.gather(*there), reversed(await asyncio.gather(*back)), strict=True))
            assert {frozenset(pair) for pair in verdicts} == {frozenset((APPLIED, LOST))}
            orders = [after(write) for write in writes]
    assert all(found == [1, 2, 3, 4, 5] for found in (await versions(database)).values())
    assert await database.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0


async def test_births_of_the_same_numbers_in_opposite_order_do_not_deadlock(
    database_url: str, database: asyncpg.Connection
) -> None:
    """As when a whole shop retries through another gateway while the first one still works."""
    names = [f"retried-{number}" for number in range(200)]
    async with committing(database_url) as left, committing(database_url) as right:
        there = [left.submit(birth(new(out_order_no=name, buyer=name), name.encode().ljust(16))) for name in names]
        back = [right.submit(birth(new(out_order_no=n, buyer=n), n.encode().ljust(16))) for n in reversed(names)]
        verdicts = zip(await asyncio.gather(*there), reversed(await asyncio.gather(*back)), strict=True)
        assert {frozenset(pair) for pair in verdicts} == {frozenset((APPLIED, LOST))}
    assert len(await versions(database)) == 200
    assert await database.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0


# --- unknown outcomes -----------------------------------------------------------------------------------------------


async def test_a_write_whose_reply_was_lost_is_recognised_as_our_own(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with LossyProxy(database_url) as proxy, committing(proxy.url) as committer:
        order = await prepared(committer)
        proxy.lose_next_reply()
        assert await committer.submit(moved(order)) is APPLIED
        assert proxy.replies_lost == 1
    assert (await versions(database))[order.order_id] == [1, 2]


async def test_a_birth_whose_reply_was_lost_is_recognised_as_our_own(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with LossyProxy(database_url) as proxy, committing(proxy.url) as committer:
        first, second = new(buyer="b"), new(buyer="b", subject="y")
        assert await committer.submit(birth(first, b"1" * 16)) is APPLIED
        proxy.lose_next_reply()
        assert await committer.submit(birth(second, b"2" * 16)) is APPLIED
        assert proxy.replies_lost == 1
    assert set(await versions(database)) == {first.order_id, second.order_id}


async def test_our_own_write_is_recognised_when_another_writer_moved_the_order_further(
    database_url: str, database: asyncpg.Connection
) -> None:
    """The row's version says nothing any more: only the event tells that version 2 was ours."""
    async with LossyProxy(database_url) as proxy, committing(database_url) as theirs:
        straight = connector(Config(), proxy.url)
        on_the_way: list[Write] = []

        async def connect() -> asyncpg.Connection:
            while on_the_way:
                assert await theirs.submit(on_the_way.pop(0)) is APPLIED
            return await straight()

        async with committing(connect) as ours:
            order = await prepared(ours)
            paying = after(moved(order))
            on_the_way += [moved(paying, accepted()), moved(after(moved(paying, accepted())), payment("T1"))]
            proxy.lose_next_reply()
            assert await ours.submit(moved(order)) is APPLIED
            assert proxy.replies_lost == 1
    assert (await versions(database))[order.order_id] == [1, 2, 3, 4]


async def test_what_was_written_is_never_called_unavailable_though_the_connection_ends_before_all_verdicts_are_read(
    database_url: str, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is durable, one write in it missed, and the database goes away before we can ask whose that was."""
    away = asyncio.Event()
    connect_again = connector(Config(), database_url)
    execute = Lane._execute

    async def connect() -> asyncpg.Connection:
        if away.is_set():
            raise ConnectionRefusedError("away")
        return await connect_again()

    async def executed(lane: Lane, connection: asyncpg.Connection, batch: Sequence[Pending]) -> set[str]:
        won = await execute(lane, connection, batch)
        if len(batch) == 2 and batch[0].moves and not batch[0].in_doubt:  # only the first time
            away.set()
            connection.terminate()
            asyncio.get_running_loop().call_later(3 * QUICK.answer_s, away.clear)
        return won

    monkeypatch.setattr(Lane, "_execute", executed)
    async with committing(connect) as committer:
        raced, winner = await born(committer, 2)
        assert await committer.submit(moved(raced)) is APPLIED
        lost, applied = committer.submit(moved(raced)), committer.submit(moved(winner))
        assert await asyncio.wait_for(asyncio.gather(lost, applied), WITHIN_S) == [LOST, APPLIED]
    assert (await versions(database))[winner.order_id] == [1, 2]


async def test_nobody_is_answered_while_the_outcome_is_in_doubt(
    database_url: str, database: asyncpg.Connection
) -> None:
    """Far beyond the limit for answers: what may be written is neither yes nor no until the database is back."""
    async with LossyProxy(database_url) as proxy, committing(proxy.url) as committer:
        order = await prepared(committer)
        proxy.set(Weather.SILENT)
        doubtful = committer.submit(moved(order))
        await until(lambda: database.fetchval("SELECT count(*) = 2 FROM events WHERE version = 2"))
        proxy.set(Weather.AWAY)
        behind = [committer.submit(birth(new(), None)) for _ in range(3)]
        given_up = await asyncio.wait_for(asyncio.gather(*behind, return_exceptions=True), WITHIN_S)
        assert [type(error) for error in given_up] == [Unavailable] * 3
        assert not doubtful.done()
        proxy.set(Weather.FAIR)
        assert await asyncio.wait_for(doubtful, WITHIN_S) is APPLIED
    assert (await versions(database))[order.order_id] == [1, 2]
    assert len(await versions(database)) == 2


async def test_a_silent_database_keeps_those_behind_waiting_only_for_the_answer_limit(
    database_url: str, database: asyncpg.Connection
) -> None:
    bounds = Bounds(statement_timeout_s=WITHIN_S, answer_s=0.3)
    async with LossyProxy(database_url) as proxy, committing(proxy.url, bounds) as committer:
        order = await prepared(committer)
        proxy.set(Weather.SILENT)
        doubtful = committer.submit(moved(order))
        await until(lambda: database.fetchval("SELECT count(*) = 2 FROM events WHERE version = 2"))
        with pytest.raises(Unavailable):
            await asyncio.wait_for(committer.submit(birth(new(), None)), WITHIN_S)
        assert not doubtful.done()
        proxy.set(Weather.AWAY)
        proxy.set(Weather.FAIR)
        assert await doubtful is APPLIED
    assert len(await versions(database)) == 2


async def test_without_a_database_the_answer_is_unavailable_and_nothing_is_written_later(
    database_url: str, database: asyncpg.Connection
) -> None:
    connections: list[asyncpg.Connection] = []

    async def connect() -> asyncpg.Connection:
        connections.append(await connector(Config(), proxy.url)())
        return connections[-1]

    async def cut() -> bool:
        return all(connection.is_closed() for connection in connections)

    async with LossyProxy(database_url) as proxy, committing(connect) as committer:
        (order,) = await born(committer)
        proxy.set(Weather.AWAY)
        await until(cut)  # else it would be in doubt
        hopeless = [committer.submit(moved(order)), *(committer.submit(birth(new(), None)) for _ in range(5))]
        errors = await asyncio.wait_for(asyncio.gather(*hopeless, return_exceptions=True), WITHIN_S)
        assert [type(error) for error in errors] == [Unavailable] * 6
        proxy.set(Weather.FAIR)
        (later,) = await born(committer)
    assert await versions(database) == {order.order_id: [1], later.order_id: [1]}


async def test_a_zombie_of_ours_that_still_holds_its_locks_is_waited_for_aside(
    database_url: str, database: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    """The first sending waits without a lock limit, is given up as unknown, and commits long after that.

    A plain read says 'not there' all the while. Meanwhile other orders are written.
    """
    bounds = Bounds(statement_timeout_s=0.6, answer_s=2.5)
    patient = connector_without_lock_limit(database_url)
    impatient = connector(Config(), database_url)
    connects = iter([patient])

    async def connect() -> asyncpg.Connection:
        return await next(connects, impatient)()

    async with committing(connect, bounds) as committer:
        held, *free = await born(committer, 4)
        async with held_by(other, held):
            doubtful = committer.submit(moved(held))
            await until(lambda: database.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))
            for order in free:
                assert await asyncio.wait_for(committer.submit(moved(order)), WITHIN_S) is APPLIED
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(doubtful), bounds.answer_s)
            assert await database.fetchval("SELECT version FROM orders WHERE order_id = $1", held.order_id) == 1
        assert await asyncio.wait_for(doubtful, WITHIN_S) is APPLIED
    assert {tuple(found) for found in (await versions(database)).values()} == {(1, 2)}


def connector_without_lock_limit(database_url: str) -> Connect:
    async def connect() -> asyncpg.Connection:
        connection = await connector(Config(), database_url)()
        await connection.execute("SET lock_timeout = 0")
        return connection

    return connect


@asynccontextmanager
async def held_by(other: asyncpg.Connection, order: Order) -> AsyncIterator[None]:
    """Somebody else's transaction sits on the order's row."""
    transaction = other.transaction()
    await transaction.start()
    await other.execute("SELECT FROM orders WHERE order_id = $1 FOR UPDATE", order.order_id)
    try:
        yield
    finally:
        await transaction.rollback()


# --- rows that are refused or held ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "poison",
    [{"subject": "a\0b"}, {"subject": "\ud800"}, {"amount": 2**63}, {"amount": 0}, {"currency": "yuan"}],
    ids=["NUL", "surrogate", "too large", "zero", "not a currency"],
)
async def test_one_row_that_postgres_refuses_fails_alone_among_two_hundred(
    poison: dict[str, Any], database_url: str, database: asyncpg.Connection
) -> None:
    async with committing(database_url) as committer:
        orders = [new() for _ in range(199)]
        orders.insert(77, new(**poison))
        futures = [committer.submit(birth(order, None)) for order in orders]
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
    refused = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, WriteRejected)]
    assert refused == [77]
    assert [outcome for outcome in outcomes if outcome is APPLIED] == [APPLIED] * 199
    assert len(await versions(database)) == 199


async def test_a_transaction_credited_to_another_order_is_refused_by_postgres_as_well(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with committing(database_url) as committer:
        orders = await born(committer, 3)
        for order in orders:
            assert await committer.submit(moved(order)) is APPLIED
        paying = [after(moved(order)) for order in orders]
        writes = [moved(paying[0], payment("T1")), moved(paying[1], payment("T1")), moved(paying[2], payment("T3"))]
        outcomes = await asyncio.gather(*(committer.submit(write) for write in writes), return_exceptions=True)
    assert outcomes[2] is APPLIED
    assert {type(outcome) for outcome in outcomes[:2]} == {Verdict, WriteRejected}
    assert await database.fetchval("SELECT count(*) FROM payments WHERE kind = 'credit'") == 2
    await versions(database)


async def test_a_row_held_by_somebody_else_does_not_hold_its_neighbours(
    database_url: str, database: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    async with committing(database_url, Bounds(answer_s=1.0)) as committer:
        held, *free = await born(committer, 50)
        async with held_by(other, held):
            waiting = committer.submit(moved(held))
            neighbours = [committer.submit(moved(order)) for order in free]
            verdicts = await asyncio.wait_for(asyncio.gather(*neighbours), WITHIN_S)
            assert set(verdicts) == {APPLIED}
            assert await asyncio.wait_for(committer.submit(birth(new(), None)), WITHIN_S) is APPLIED
            with pytest.raises(Unavailable):
                await asyncio.wait_for(waiting, WITHIN_S)
    assert (await versions(database))[held.order_id] == [1]


async def test_a_row_that_is_let_go_in_time_is_written(
    database_url: str, database: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    async with committing(database_url, Bounds(answer_s=WITHIN_S)) as committer:
        held, free = await born(committer, 2)
        async with held_by(other, held):
            waiting = committer.submit(moved(held))
            assert await committer.submit(moved(free)) is APPLIED
        assert await asyncio.wait_for(waiting, WITHIN_S) is APPLIED
    assert {tuple(found) for found in (await versions(database)).values()} == {(1, 2)}


async def test_a_number_that_somebody_is_just_taking_does_not_hold_other_births(
    database_url: str, database: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    """Another session's insert is neither committed nor undone: only the birth under that very number waits."""
    async with committing(database_url, Bounds(answer_s=WITHIN_S)) as committer:
        (template,) = await born(committer)
        transaction = other.transaction()
        await transaction.start()
        await other.execute(
            "INSERT INTO orders (order_id, app_id, out_order_no, amount, currency, subject, late_payment, state,"
            " version, created_at, expires_at)"
            " VALUES ($1, 'shop', 'taken', 1, 'CNY', 'x', 'accept', 'created', 1, now(), now())",
            ids.order_id(NOW_MS),
        )
        waiting = committer.submit(birth(new(out_order_no="taken"), None))
        others = [committer.submit(birth(new(), None)) for _ in range(20)]
        assert set(await asyncio.wait_for(asyncio.gather(*others), WITHIN_S)) == {APPLIED}
        assert not waiting.done()
        await transaction.rollback()
        assert await asyncio.wait_for(waiting, WITHIN_S) is APPLIED
    assert template.order_id in await versions(database)


# --- bounds ---------------------------------------------------------------------------------------------------------


async def test_a_full_backlog_refuses_new_orders_first_and_moves_last(
    database_url: str, database: asyncpg.Connection
) -> None:
    settings = Settings(1000, 1000, lambda _app: None)
    committer = GroupCommit(
        connector(Config(), database_url), settings, Bounds(backlog_rows_max=8), Metrics(), lambda _rows: None
    )
    births = [committer.submit(birth(new(), None), urgent=False) for _ in range(7)]  # not started: nothing drains
    assert [type(done.exception()) if done.done() else None for done in births] == [None] * 6 + [Overloaded]
    records = [committer.submit(record(Arrival(n, "c", "o", "01", "v", "{}", b"", NOW_MS))) for n in range(3)]
    assert [type(done.exception()) if done.done() else None for done in records] == [None, None, Overloaded]
    assert committer.backlog_rows == 8
    await committer.start()
    assert set(await asyncio.gather(*births[:6], *records[:2])) == {APPLIED}
    await committer.stop()
    assert len(await versions(database)) == 6


async def test_stopping_flushes_what_waits_and_refuses_what_comes(
    database_url: str, database: asyncpg.Connection
) -> None:
    async with committing(database_url) as committer:
        waiting = [committer.submit(birth(new(), None)) for _ in range(300)]
        stopping = asyncio.create_task(committer.stop())
        await asyncio.sleep(0)
        assert isinstance(committer.submit(birth(new(), None)).exception(), Stopped)
        await stopping
        assert {future.result() for future in waiting} == {APPLIED}
    assert len(await versions(database)) == 300


# --- duplicate submissions ------------------------------------------------------------------------------------------


async def test_of_equal_submissions_under_different_numbers_the_first_wins_for_the_window(
    database_url: str, database: asyncpg.Connection
) -> None:
    fingerprint = b"f" * 16
    async with committing(database_url, window_ms=300) as committer, committing(database_url, window_ms=300) as rival:
        equal = [birth(new(buyer="b"), fingerprint) for _ in range(6)]
        verdicts = await asyncio.gather(
            *(committer.submit(write) for write in equal[:3]), *(rival.submit(write) for write in equal[3:])
        )
        assert sorted(verdicts) == [APPLIED, *[LOST] * 5]
        assert await committer.submit(birth(new(buyer="b"), b"g" * 16)) is APPLIED
        await until(
            lambda: database.fetchval(
                "SELECT expires_at <= clock_timestamp() FROM submissions WHERE fingerprint = $1", fingerprint
            )
        )
        assert await rival.submit(birth(new(buyer="b"), fingerprint)) is APPLIED
    assert len(await versions(database)) == 3


# --- webhooks -------------------------------------------------------------------------------------------------------


async def test_an_app_that_this_process_has_not_heard_of_yet_is_told_all_the_same(
    database_url: str, database: asyncpg.Connection
) -> None:
    """Made a moment ago through another process: the statement itself looks up where it wants its webhooks."""
    await database.execute("INSERT INTO apps VALUES ('young', 'http://young.example/w', 'sealed'), ('mute', NULL, '')")
    async with committing(database_url, endpoint=None) as committer:
        for number, app_id in enumerate(("young", "mute")):
            (order,) = await born(committer, app_id=app_id)
            assert await committer.submit(moved(order)) is APPLIED
            assert await committer.submit(moved(after(moved(order)), payment(f"T{number}"))) is APPLIED
    owed = await database.fetch("SELECT app_id, url, type, next_try_at <= now() AS due FROM outbox")
    assert [tuple(row) for row in owed] == [("young", "http://young.example/w", "order.paid", True)]


async def test_a_webhook_is_owed_once_however_often_its_write_was_sent(
    database_url: str, database: asyncpg.Connection
) -> None:
    owed: list[OutboxRow] = []
    async with LossyProxy(database_url) as proxy:
        settings = Settings(1000, 1000, lambda _app: ENDPOINT)
        committer = GroupCommit(connector(Config(), proxy.url), settings, QUICK, Metrics(), owed.extend)
        await committer.start()
        for number in range(2):
            (order,) = await born(committer)
            await committer.submit(moved(order))
            if number == 1:
                proxy.lose_next_reply()
            await committer.submit(moved(after(moved(order)), payment(f"T{number}")))
        await committer.stop()
        assert proxy.replies_lost == 1
    assert len(owed) == 2
    assert await database.fetchval("SELECT count(*) FROM outbox") == 2


# --- plans ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 2000])
async def test_moving_orders_uses_the_primary_key_whatever_the_table_holds(rows: int, database_url: str) -> None:
    async with committing(database_url) as committer:
        if rows:
            await born(committer, rows)
    connection = await connector(Config(), database_url)()
    text = statement(frozenset(("moves",)))
    nothing = ", ".join(["NULL"] * sum(len(columns(name)) for name in text.columns))
    types = await connection.prepare(text.sql)
    assert nothing.count("NULL") == len(types.get_parameters())
    await connection.execute(f"PREPARE flush AS {text.sql}")
    plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE flush ({nothing})"))
    await connection.close()
    assert "orders_pkey on orders" in plan, plan
    assert "Seq Scan on orders" not in plan, plan
