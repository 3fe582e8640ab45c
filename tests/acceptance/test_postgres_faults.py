"""PostgreSQL restarts, loses processes, freezes, turns read-only under load: answers are late or 503, never wrong."""

import asyncio
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from bench.processes import send_to, with_children
from examples.shop.purchases import Purchase
from tests.acceptance.stage import Promises, Stage, clean, creates, customers, until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

MORE_PAID = 8  # orders that must be paid before the next fault: the gateway works again
CHANNEL = {"pay-rate": 1, "pay-after-s": "0:0.3"}
FAULTS = {"drop": 0.2, "duplicate": 0.2}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """One set, and one gateway process that has to live through all of it."""
    async with Stage(Path(tmp_path_factory.mktemp("pg")), channel=CHANNEL, faults=FAULTS) as stage:
        await stage.gateway.serve()
        yield stage
        assert stage.gateway.running


async def more_paid(stage: Stage, count: int = MORE_PAID) -> None:
    """The gateway works: so many more orders became paid."""
    before = await stage.paid_orders()

    async def enough() -> bool:
        return await stage.paid_orders() >= before + count

    await until(enough, 40)


async def agreed(stage: Stage, wanted: list[Purchase], promises: Promises) -> None:
    """Everybody who wanted to pay has paid once, everything promised is there, and nothing that was refused."""
    await until(partial(stage.all_paid, wanted), 60)
    assert clean(await stage.settled(60))
    assert await stage.kept(promises)
    assert await stage.gaps() == []
    assert promises.made, "some creates must have been answered, or nothing was tested"


async def backends(stage: Stage, application: str) -> list[int]:
    rows = await stage.rows("SELECT pid FROM pg_stat_activity WHERE application_name LIKE $1", application)
    return [row[0] for row in rows]


async def test_immediate_restarts_under_load(stage: Stage) -> None:
    async with customers(stage, "restart") as wanted, creates(stage, "restarted") as promises:
        for _ in range(3):
            await more_paid(stage)
            await stage.postgres.restart_immediate()
        await more_paid(stage)
    await agreed(stage, wanted, promises)


async def test_the_committers_backend_is_killed(stage: Stage) -> None:
    """PostgreSQL then ends all sessions and recovers."""
    async with customers(stage, "backend") as wanted, creates(stage, "backended") as promises:
        await more_paid(stage)
        send_to(await backends(stage, "holdfast commit"), signal.SIGKILL)
        await more_paid(stage)
    await agreed(stage, wanted, promises)


async def test_the_committers_session_is_terminated_again_and_again(stage: Stage) -> None:
    """57P01 can come before, within or after a commit."""
    sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holdfast commit'"
    async with customers(stage, "ended") as wanted, creates(stage, "endeded") as promises:
        for _ in range(15):
            await more_paid(stage, 1)
            await stage.execute(sql)
        await more_paid(stage)
    await agreed(stage, wanted, promises)


async def test_every_postgres_process_is_frozen_for_a_while(stage: Stage) -> None:
    """Longer than a statement may take: what was under way is in doubt until the thaw."""
    async with customers(stage, "frozen") as wanted, creates(stage, "frozened") as promises:
        await more_paid(stage)
        assert stage.postgres.pid is not None
        frozen = with_children(stage.postgres.pid)
        send_to(frozen, signal.SIGSTOP)
        try:
            await asyncio.sleep(6)  # the fault's length
        finally:
            send_to(frozen, signal.SIGCONT)
        await more_paid(stage)
    await agreed(stage, wanted, promises)


async def test_only_the_committers_backend_is_frozen(stage: Stage) -> None:
    """It takes a statement and says nothing; orders go on over another connection, and it wakes up with an old one."""
    async with customers(stage, "stuck") as wanted, creates(stage, "stucked") as promises:
        await more_paid(stage)
        stuck = await stop_between_two_statements(stage)
        try:
            await more_paid(stage)
        finally:
            send_to(stuck, signal.SIGCONT)
    await agreed(stage, wanted, promises)


async def stop_between_two_statements(stage: Stage) -> list[int]:
    """Stopped within a commit it may hold the write-ahead log, and then no gateway could write at all."""
    sql = "SELECT bool_and(state = 'idle') FROM pg_stat_activity WHERE pid = ANY ($1::int[])"
    while True:
        stuck = await backends(stage, "holdfast commit")
        send_to(stuck, signal.SIGSTOP)
        if (await stage.rows(sql, stuck))[0][0]:
            return stuck
        send_to(stuck, signal.SIGCONT)


async def test_the_database_turns_read_only_and_back(stage: Stage) -> None:
    async def unready() -> bool:
        return await stage.readyz() == 503

    async def refused() -> bool:
        return bool(promises.refused)

    async with customers(stage, "readonly") as wanted, creates(stage, "readonlyed") as promises:
        await more_paid(stage)
        await stage.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await stage.execute("SELECT pg_reload_conf()")
        try:
            await until(unready)
            await until(refused)
        finally:
            await stage.execute("ALTER SYSTEM RESET default_transaction_read_only")
            await stage.execute("SELECT pg_reload_conf()")
        await more_paid(stage)
        assert await stage.readyz() == 200
    await agreed(stage, wanted, promises)


async def test_a_row_locked_by_another_session_does_not_stop_its_neighbours(stage: Stage) -> None:
    locked = Purchase("locked", "locked", 4200)
    await stage.shop.buy(locked)
    async with (
        customers(stage, "beside") as wanted,
        creates(stage, "besides") as promises,
        stage.connection() as connection,
        connection.transaction(),
    ):
        await connection.execute("SELECT FROM orders WHERE out_order_no = 'locked' FOR UPDATE")
        await more_paid(stage, 40)
        await asyncio.sleep(3)  # the fault's length: long enough for its notification and its checks to meet it
        await more_paid(stage)
    await agreed(stage, [locked, *wanted], promises)
    assert not promises.refused


async def test_a_failover_to_a_copy_that_lags_behind_is_noticed_and_made_good(stage: Stage) -> None:
    """The last commits are gone, though they were answered: nothing is served from memory, the channel is asked."""
    bought = Purchase("lagging", "lagging", 4300)
    await stage.shop.buy(bought)

    async def paid() -> bool:
        return bool((await stage.shop.row("lagging"))["state"] == "paid")

    await until(paid)
    order_id = (await stage.shop.row("lagging"))["order_id"]
    assert (await stage.shop.holdfast.get(order_id)).state == "paid"
    await go_back(stage, order_id, version=3)
    await stage.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'holdfast%'"
    )

    async def noticed() -> bool:
        rows = await stage.rows("SELECT state FROM events WHERE order_id = $1 AND version > 3", order_id)
        return any(row["state"] == "paid" for row in rows)

    async def shown_as_stored() -> bool:
        stored = (await stage.rows("SELECT state FROM orders WHERE order_id = $1", order_id))[0]["state"]
        return stored == "paid" or (await stage.shop.holdfast.get(order_id)).state != "paid"

    await until(shown_as_stored)
    await until(noticed)
    await agreed(stage, [bought], Promises({"lagging": order_id}))
    assert (await stage.shop.row("lagging"))["fulfilled_count"] == 1


async def go_back(stage: Stage, order_id: str, version: int) -> None:
    """What an asynchronous copy would still have had of the order."""
    async with stage.connection() as connection, connection.transaction():
        await connection.execute("DELETE FROM events WHERE order_id = $1 AND version > $2", order_id, version)
        await connection.execute("DELETE FROM outbox WHERE order_id = $1 AND seq > $2", order_id, version)
        await connection.execute("DELETE FROM payments WHERE order_id = $1", order_id)
        await connection.execute("UPDATE attempts SET state = 'pending' WHERE order_id = $1", order_id)
        await connection.execute(
            "UPDATE orders SET state = 'paying', version = $2, paid_amount = 0, paid_at = NULL,"
            " next_check_at = clock_timestamp() + interval '1 second' WHERE order_id = $1",
            order_id,
            version,
        )
