"""What the simulated database does on purpose: silences, late commits, restarts; and that a seed repeats it all."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest

from actors.checkpoint import birth
from actors.ports import Verdict
from gateway.storage.group_commit import Bounds
from gateway.storage.lane import _FREE
from gateway.storage.queries import query
from tests.conformance.store.writes import APPLIED, WITHIN_S, born, committing, moved, new
from tests.simulation.database import Database, Fate, Faults
from tests.simulation.sessions import Pool

NOW_S = 1_800_000_000.0
CLAIM = query("claim_due"), 0.0, 10, 30.0

Make = Callable[..., Database]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes databases on the test's loop."""
    servers: set[asyncio.Task[None]] = set()

    def spawn(work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        servers.add(task)
        task.add_done_callback(servers.discard)
        return task

    def made(seed: int = 1, **faults: Any) -> Database:
        loop, began = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        return Database(lambda: NOW_S + loop.time() - began, random.Random(seed), Faults(**faults), spawn)

    yield made
    for server in servers:
        server.cancel()


async def fate(asked: Awaitable[Any], within_s: float = 0.03) -> str:
    """What whoever asked hears: `reply`, the name of an error, or `silence`."""
    task = asyncio.ensure_future(asked)
    await asyncio.wait({task}, timeout=within_s)
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
        return "silence"
    return "reply" if task.exception() is None else type(task.exception()).__name__


@contextmanager
def in_store(database: Database, fate: Fate) -> Iterator[None]:
    """While the block runs, this happens to every statement."""
    database._fate = lambda: fate  # type: ignore[method-assign]
    yield
    del database._fate


async def due(database: Database) -> str:
    """An order that is due."""
    async with committing(database.connect) as committer:
        order = new()
        assert await committer.submit(birth(order, None)) is APPLIED
    database.tables.orders.update(order.order_id, next_check_at_us=1)
    database.tables.taken()
    return order.order_id


async def test_a_request_that_is_lost_is_not_carried_out(make: Make) -> None:
    database = make()
    order_id = await due(database)
    database.faults.request_lost = 1.0
    heard = {await fate((await database.connect()).fetch(*CLAIM)) for _ in range(12)}
    assert heard == {"silence", "ConnectionDoesNotExistError"}
    assert database.tables.orders[order_id].next_check_at_us == 1


async def test_what_is_asked_is_carried_out_although_its_reply_is_lost(make: Make) -> None:
    database = make()
    heard = set()
    for _ in range(12):
        order_id = await due(database)
        database.faults.reply_lost = 1.0
        heard.add(await fate((await database.connect()).fetch(*CLAIM)))
        database.faults.reply_lost = 0.0
        assert database.tables.orders[order_id].next_check_at_us > 1
    assert heard == {"silence", "ConnectionDoesNotExistError"}


async def test_a_statement_whose_connection_has_ended_is_mostly_committed_later(make: Make) -> None:
    """Until then nobody sees it, and its row is held."""
    committed = []
    for seed in range(12):
        database = make(seed)
        order_id = await due(database)
        session, other = await database.connect(), await database.connect()
        with in_store(database, Fate(hold_s=0.02)):
            asked = asyncio.ensure_future(session.fetch(*CLAIM))
            await asyncio.sleep(0.01)
        session.terminate()
        with pytest.raises(asyncpg.exceptions.ConnectionDoesNotExistError):
            await asked
        assert await other.fetch(_FREE, [order_id]) == []
        assert database.tables.orders[order_id].next_check_at_us == 1
        await asyncio.sleep(0.03)
        assert [row[0] for row in await other.fetch(_FREE, [order_id])] == [order_id]
        committed.append(database.tables.orders[order_id].next_check_at_us > 1)
    assert set(committed) == {True, False}
    assert sum(committed) >= 6


async def test_an_immediate_restart_ends_all_sessions_and_frees_all_rows(make: Make) -> None:
    outcomes = set()
    for seed in range(8):
        database = make(seed)
        order_id = await due(database)
        pool, lost = database.pool(), []
        session = await database.connect()
        session.add_termination_listener(lost.append)
        with in_store(database, Fate(hold_s=5.0)):
            asked = asyncio.ensure_future(pool.fetch(*CLAIM))
            await asyncio.sleep(0.01)
        database.kill_sessions()
        with pytest.raises(asyncpg.exceptions.ConnectionDoesNotExistError):
            await asked
        await asyncio.sleep(0)
        assert lost == [session]
        assert session.is_closed()
        outcomes.add(database.tables.orders[order_id].next_check_at_us > 1)
        assert len(await (await database.connect()).fetch(_FREE, [order_id])) == 1
    assert outcomes == {True, False}


async def test_a_database_that_is_away_refuses_and_one_that_is_read_only_reads(make: Make) -> None:
    database = make(down=True)
    with pytest.raises(ConnectionRefusedError):
        await database.connect()
    database.faults.down = False
    session, pool = await database.connect(), database.pool()
    database.faults.read_only = True
    assert await pool.fetchval(query("writable")) is False
    with pytest.raises(asyncpg.exceptions.ReadOnlySQLTransactionError):
        await session.fetch(*CLAIM)
    database.faults.read_only, database.faults.down = False, True
    with pytest.raises(asyncpg.exceptions.ConnectionDoesNotExistError):
        await session.fetch(*CLAIM)


async def test_a_pool_lends_no_more_sessions_than_it_has_and_gives_up_after_its_time(make: Make) -> None:
    database = make()
    pool = Pool(database, 1, command_timeout_s=0.1)
    database.faults.request_lost = 1.0
    silent = asyncio.ensure_future(fate(pool.fetch(*CLAIM), 1.0))
    await asyncio.sleep(0.01)
    database.faults.request_lost = 0.0
    behind = asyncio.ensure_future(fate(pool.fetch(*CLAIM), 1.0))
    await asyncio.sleep(0.01)
    assert not behind.done() or silent.done()
    assert await silent in {"TimeoutError", "ConnectionDoesNotExistError"}
    assert await behind == "reply"
    await pool.close()
    with pytest.raises(asyncpg.exceptions.InterfaceError):
        await pool.fetch(*CLAIM)


async def test_a_connection_carries_one_statement_at_a_time(make: Make) -> None:
    session = await make().connect()
    both = await asyncio.gather(session.fetch(*CLAIM), session.fetch(*CLAIM), return_exceptions=True)
    assert [type(each) for each in both] == [list, asyncpg.exceptions.InterfaceError]


@pytest.mark.parametrize("seed", range(5))
async def test_through_all_faults_every_write_has_its_one_true_verdict(make: Make, seed: int) -> None:
    """Two real committers race over the same orders. What is said to be applied is durable, and only once."""
    database = make(seed, request_lost=0.05, reply_lost=0.05, slow=0.1, slow_s=0.15, connect_refused=0.1)
    bounds = Bounds(statement_timeout_s=0.1, answer_s=WITHIN_S)
    async with committing(database.connect, bounds) as left, committing(database.connect, bounds) as right:
        restart = asyncio.get_running_loop().call_later(0.2, database.kill_sessions)
        for _ in range(6):
            order = (await asyncio.wait_for(asyncio.gather(born(left)), WITHIN_S))[0][0]
            write = moved(order)
            race = asyncio.gather(left.submit(write), right.submit(write))
            assert sorted(await asyncio.wait_for(race, WITHIN_S)) == [Verdict.APPLIED, Verdict.LOST]
            assert [each.version for each in database.commits if each.order_id == order.order_id] == [1, 2]
        restart.cancel()
        database.faults.__init__()  # type: ignore[misc] - the weather clears, so that both can stop
    assert len(database.tables.events) == 12
