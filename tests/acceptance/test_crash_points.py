"""The gateway is killed at every step of a payment, of a closing and of a recovery; afterwards the ledgers agree.

Each crash point of gateway/probe.py is armed at each pass that the step makes. The process dies there by SIGKILL, is
started again unarmed, the app and the channel do what they do anyway, and everything settles.
"""

import asyncio
import itertools
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio

from examples.shop.purchases import Purchase
from gateway.probe import PROBES
from tests.acceptance.stage import KILLED, Stage, clean, customers, until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

# A payment commits four times (create, pay, the channel's answer, the notification) and is answered three times.
PAYMENT = {
    "before_commit": 4,
    "after_commit": 4,
    "before_reply": 3,
    "before_channel": 1,
    "after_channel": 1,
    "before_ack": 1,
    "before_webhook": 1,
    "webhook_sent": 1,
    "webhook_marked": 1,
}
# The notification never comes: after the first call of the channel (pay) comes a query, and it finds the payment.
SILENT_PAYMENT = ("before_commit:5", "after_commit:5", "before_channel:2", "after_channel:2")
# Create, pay, its answer, the wish to close, the channel's word; the channel is asked to pay and then to close.
CLOSING = ("before_commit:4", "after_commit:4", "after_channel:2", "after_commit:5")
# What a process that finds an interrupted submission does: claims it, makes the next check durable, asks, tells.
RECOVERY = ("orders_claimed:1", "after_commit:1", "after_channel:1", "after_commit:2")
KILLS = 10
HURRIED = 130  # the gateway's exit code when it is not to drain any more
LANES = 2  # a start of the gateway keeps one core busy

numbers = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stages(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Stage]]:
    """The sets for all cases, each a world of its own; every case has its own gateway processes."""
    async with AsyncExitStack() as stack:
        made = [Stage(Path(tmp_path_factory.mktemp("crash"))) for _ in range(LANES)]
        yield list(await asyncio.gather(*map(stack.enter_async_context, made)))


@pytest_asyncio.fixture(loop_scope="module")
async def stage(stages: list[Stage]) -> AsyncIterator[Stage]:
    """One of them, for cases that need the machine for themselves."""
    yield stages[0]
    await clear(stages[0])


async def clear(stage: Stage) -> None:
    """After a case no gateway runs, nobody pays unasked, and the channel is well."""
    await stage.gateway.kill()
    await stage.steer("/_faults", drop=0)
    await stage.steer("/_sim/payers", rate=0)


def something_new() -> Purchase:
    """Nobody has bought it yet."""
    name = f"crash-{next(numbers):03d}"
    return Purchase(name, name, 1299, buyer=name)


Case = Callable[[str, Stage, Purchase], Awaitable[None]]


async def at_each(points: Iterable[str], case: Case, stages: list[Stage]) -> None:
    """Play the case once for every point; the stages share the points, and a failure is noted with its own."""
    left = iter(points)

    async def play_on(stage: Stage) -> None:
        for point in left:
            try:
                await case(point, stage, something_new())
            except Exception as error:
                error.add_note(f"killed at {point}")
                raise
            finally:
                await clear(stage)

    async with asyncio.TaskGroup() as lanes:
        for stage in stages:
            lanes.create_task(play_on(stage))


def points(passes: dict[str, int]) -> list[str]:
    return [f"{name}:{nth}" for name, count in passes.items() for nth in range(1, count + 1)]


async def dies_and_comes_back(stage: Stage, *, crash_at: str = "") -> None:
    """Killed by itself, started again later than the dead process's leases of webhooks last."""
    assert await stage.gateway.died() == KILLED
    await stage.let_webhook_leases_pass()
    await stage.gateway.serve(crash_at=crash_at)


async def test_every_crash_point_is_hit_by_a_test_here() -> None:
    tried = {point.partition(":")[0] for point in (*points(PAYMENT), *SILENT_PAYMENT, *CLOSING, *RECOVERY)}
    assert tried == set(PROBES)


async def test_a_payment_survives_a_kill_at_each_point(stages: list[Stage]) -> None:
    await at_each(points(PAYMENT), payment, stages)


async def payment(point: str, stage: Stage, wanted: Purchase) -> None:
    await stage.gateway.serve(crash_at=point)
    async with asyncio.TaskGroup() as people:
        people.create_task(stage.shop.buy(wanted))
        people.create_task(stage.pay_when_shown(wanted))
        await dies_and_comes_back(stage)
    await paid_and_told_once(stage, wanted)


async def test_a_payment_whose_notification_is_lost_survives_a_kill_at_each_point(stages: list[Stage]) -> None:
    await at_each(SILENT_PAYMENT, silent_payment, stages)


async def silent_payment(point: str, stage: Stage, wanted: Purchase) -> None:
    await stage.steer("/_faults", drop=1)
    await stage.gateway.serve(crash_at=point)
    async with asyncio.TaskGroup() as people:
        people.create_task(stage.shop.buy(wanted))
        people.create_task(stage.pay_when_shown(wanted))
        await dies_and_comes_back(stage)
    await paid_and_told_once(stage, wanted)


async def test_a_closing_survives_a_kill_at_each_point(stages: list[Stage]) -> None:
    await at_each(CLOSING, closing, stages)


async def closing(point: str, stage: Stage, wanted: Purchase) -> None:
    await stage.gateway.serve(crash_at=point)
    async with asyncio.TaskGroup() as people:
        people.create_task(buy_and_close(stage, wanted))
        await dies_and_comes_back(stage)
    assert [trade["state"] for trade in await stage.trades(wanted.subject)] == ["closed"]
    assert clean(await stage.settled())
    assert (await stage.shop.row(wanted.out_order_no))["fulfilled_count"] == 0
    assert await announced(stage, wanted) == ["order.closed"]


async def buy_and_close(stage: Stage, wanted: Purchase) -> None:
    """The app changes its mind, and asks until the channel has confirmed."""
    await stage.shop.buy(wanted)
    order_id = (await stage.shop.row(wanted.out_order_no))["order_id"]

    async def closed() -> bool:
        return (await stage.shop.holdfast.close(order_id)).state == "closed"

    await until(closed, 30)


async def test_a_recovery_survives_a_kill_at_each_point(stages: list[Stage]) -> None:
    await at_each(RECOVERY, recovery, stages)


async def recovery(point: str, stage: Stage, wanted: Purchase) -> None:
    """The first process dies with the channel's answer in its hands, the second while it finds that out."""
    await stage.gateway.serve(crash_at="after_channel:1")
    async with asyncio.TaskGroup() as people:
        people.create_task(stage.shop.buy(wanted))
        people.create_task(stage.pay_when_shown(wanted))
        await dies_and_comes_back(stage, crash_at=point)
        await dies_and_comes_back(stage)
    await paid_and_told_once(stage, wanted)


async def test_ten_kills_at_random_moments_under_load_lose_nothing(stage: Stage) -> None:
    chance = random.Random("kills")
    await stage.steer("/_sim/payers", rate=1.0, after_max_s=0.5)
    await stage.gateway.serve()
    async with customers(stage, "loop", every_s=0.05) as wanted:
        for _ in range(KILLS):
            await asyncio.sleep(chance.uniform(0, 0.6))  # the moment of the kill, not a synchronisation
            await stage.gateway.kill()
            await stage.gateway.serve()
    assert clean(await stage.settled(60, paid=len(wanted)))
    assert await stage.gaps() == []


async def test_a_power_cut_takes_database_redis_and_gateway_at_once(stage: Stage) -> None:
    await stage.steer("/_sim/payers", rate=1.0, after_max_s=0.5)
    await stage.gateway.serve()
    before = await stage.paid_orders()
    async with customers(stage, "cut", every_s=0.03) as wanted:
        await until(lambda: paid_beyond(stage, before + 10))
        victims = [stage.postgres.pid, stage.valkey.pid, stage.gateway.pid]
        for pid in victims:
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        await stage.gateway.died()
        await asyncio.gather(stage.postgres.start(), stage.valkey.start())
        await stage.gateway.serve()
    assert clean(await stage.settled(60, paid=before + len(wanted)))
    assert await stage.gaps() == []


async def test_a_gateway_that_is_asked_to_end_ends_by_itself_and_leaves_nothing_open(stage: Stage) -> None:
    """As in a rolling deploy: what was begun is answered, the rest is found by the next process."""
    await stage.steer("/_sim/payers", rate=1.0, after_max_s=0.5)
    await stage.gateway.serve()
    before = await stage.paid_orders()
    async with customers(stage, "deploy", every_s=0.03) as wanted:
        for turn in range(3):
            await until(partial(paid_beyond, stage, before + 10 * turn))
            stage.gateway.signal(signal.SIGTERM)
            assert await stage.gateway.died() == 0
            await stage.gateway.serve()
    assert clean(await stage.settled(60, paid=before + len(wanted)))
    assert await stage.gaps() == []


async def test_whoever_is_in_a_hurry_asks_twice_and_it_ends_at_once_with_nothing_lost(stage: Stage) -> None:
    """While it drains, and waits for a channel that is slow, a second SIGTERM comes."""
    await stage.steer("/_sim/payers", rate=1.0, after_max_s=0.5)
    await stage.gateway.serve()
    before = await stage.paid_orders()
    async with customers(stage, "hurry", every_s=0.03) as wanted:
        await until(partial(paid_beyond, stage, before + 10))
        await stage.steer("/_faults", slow=1.0, slow_s=2.0)
        await asyncio.sleep(0.3)  # the fault's length, before there is something to wait for
        stage.gateway.signal(signal.SIGTERM)
        await asyncio.sleep(0.1)  # two signals at once would be one
        stage.gateway.signal(signal.SIGTERM)
        assert await stage.gateway.died() == HURRIED
        await stage.steer("/_faults", slow=0)
        await stage.gateway.serve()
    assert clean(await stage.settled(60, paid=before + len(wanted)))
    assert await stage.gaps() == []


async def paid_beyond(stage: Stage, count: int) -> bool:
    return await stage.paid_orders() > count


async def paid_and_told_once(stage: Stage, wanted: Purchase) -> None:
    """The end of every case: three ledgers agree, and each party did its part exactly once."""
    assert clean(await stage.settled())
    row = await stage.shop.row(wanted.out_order_no)
    assert (row["state"], row["fulfilled_count"]) == ("paid", 1)
    assert await stage.shop.effective_webhooks(wanted.out_order_no) <= 1
    assert [trade["state"] for trade in await stage.trades(wanted.subject)] == ["paid"]
    assert await announced(stage, wanted) == ["order.paid"]
    assert await stage.gaps() == []


async def announced(stage: Stage, wanted: Purchase) -> list[str]:
    """What the app was owed for this order."""
    sql = "SELECT w.type FROM outbox w JOIN orders USING (order_id) WHERE out_order_no = $1 ORDER BY seq"
    return [row[0] for row in await stage.rows(sql, wanted.out_order_no)]
