"""Two gateways over one database, both used for the same orders; one freezes and wakes up late, one dies.

Nothing belongs to a process: whoever wins the compare-and-set moves the order, and the other learns it.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from examples.shop.purchases import Purchase
from holdfast_client import Holdfast, Order
from tests.acceptance.stage import Gateway, Shop, Stage, clean, customers, until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

ORDERS = 40
AT_ONCE = 8
MORE_PAID = 15
RANK = {"created": 0, "paying": 1, "paid": 2}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """Both gateways running; payers pay at once, some notifications come never or twice."""
    faults = {"drop": 0.2, "duplicate": 0.3}
    async with Stage(Path(tmp_path_factory.mktemp("two")), faults=faults) as stage:
        await stage.add_gateway()
        await asyncio.gather(*(gateway.serve() for gateway in stage.gateways))
        yield stage


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tills(stage: Stage) -> list[Shop]:
    """The one shop, once at each gateway."""
    return [stage.shop, await stage.another_till(stage.gateways[1])]


async def both(tills: list[Shop], call: Callable[[Holdfast], Awaitable[Any]]) -> list[Any]:
    """The same call at both gateways at the same moment."""
    return await asyncio.gather(*(call(till.holdfast) for till in tills))


async def test_both_gateways_are_used_for_the_same_orders_at_once(stage: Stage, tills: list[Shop]) -> None:
    places = asyncio.Semaphore(AT_ONCE)

    async def life(number: int) -> None:
        async with places:
            await one_life(stage, tills, Purchase(f"twin-{number}", f"twin-{number}", 100 + number))

    await asyncio.gather(*(life(number) for number in range(ORDERS)))
    assert clean(await stage.settled(paid=ORDERS))
    await paid_once(stage, "twin")


async def one_life(stage: Stage, tills: list[Shop], wanted: Purchase) -> None:
    """Created, paid and told through both; no reader of either ever sees the order go back."""
    await stage.shop.write_down(wanted)
    terms: dict[str, Any] = {"amount": wanted.amount, "currency": "CNY", "subject": wanted.subject}
    created = await both(tills, lambda api: api.create_order(out_order_no=wanted.out_order_no, **terms))
    order_id = created[0].order_id
    assert {order.order_id for order in created} == {order_id}
    attempts = await both(tills, lambda api: payable(api, order_id))
    assert attempts == [f"{order_id}01"] * 2
    assert len(await stage.trades(wanted.subject)) == 1
    reading = asyncio.create_task(read_until_paid(tills, order_id))
    paid = await stage.pay(f"{order_id}01")
    assert paid["state"] == "paid", paid
    await asyncio.gather(*(stage.notify(f"{order_id}01") for _ in range(4)))
    await reading


async def payable(api: Holdfast, order_id: str) -> str:
    """The attempt whose code the payer is shown. Two gateways may show two codes; they pay the same attempt."""
    while True:
        result = await api.pay(order_id, channel="wechatpay", method="native")
        if result.payment is not None and result.payment.credential is not None:
            return result.payment.attempt_id


async def read_until_paid(tills: list[Shop], order_id: str) -> None:
    """Reads alternate between the gateways: what one has answered, the other may not take back."""
    seen, version = 0, 0
    deadline = asyncio.get_running_loop().time() + 20
    while seen < RANK["paid"]:
        for till in tills:
            order: Order = await till.holdfast.get(order_id)
            assert RANK[order.state] >= seen
            assert order.version >= version
            seen, version = RANK[order.state], order.version
        assert asyncio.get_running_loop().time() < deadline


async def test_a_gateway_that_freezes_under_load_and_wakes_up_late_changes_nothing(
    stage: Stage, tills: list[Shop]
) -> None:
    """Its leases have run out and others have moved its orders: its writes miss, and it reloads."""
    await payers_come(stage)
    before = await stage.paid_orders()
    async with customers(stage, "zombie", shops=tills) as wanted:
        await more_paid(stage)
        stage.gateways[0].signal(signal.SIGSTOP)
        try:
            await more_paid(stage)
            await asyncio.sleep(2)  # the fault's length: beyond every lease and timeout
        finally:
            stage.gateways[0].signal(signal.SIGCONT)
        await more_paid(stage)
    assert clean(await stage.settled(60, paid=before + len(wanted)))
    await paid_once(stage, "zombie")


async def test_a_gateway_that_dies_leaves_its_orders_to_the_other(stage: Stage, tills: list[Shop]) -> None:
    """Nobody starts it again: what it had begun is found, finished and told by the one that lives."""
    await payers_come(stage)
    before = await stage.paid_orders()
    async with customers(stage, "heir", shops=[tills[1]]) as wanted:
        await more_paid(stage)
        begun = [Purchase(f"heir-begun-{number}", f"heir-begun-{number}", 55) for number in range(20)]
        beginning = [asyncio.create_task(stage.shop.buy(purchase)) for purchase in begun]
        await until(lambda: all_have_attempts(stage, "heir-begun", len(begun)))
        await stage.gateways[0].kill()
        await more_paid(stage)
    try:
        assert clean(await stage.settled(60, paid=before + len(wanted) + len(begun)))
        await paid_once(stage, "heir")
    finally:
        await stage.gateways[0].serve()
        await asyncio.gather(*beginning)


async def test_both_gateways_die_in_turns(stage: Stage, tills: list[Shop]) -> None:
    await payers_come(stage)
    before = await stage.paid_orders()

    async def kill_and_start(gateway: Gateway) -> None:
        await gateway.kill()
        await gateway.serve()

    async with customers(stage, "turns", shops=tills) as wanted:
        for turn in range(4):
            await more_paid(stage, 5)
            await kill_and_start(stage.gateways[turn % 2])
        await more_paid(stage)
    assert clean(await stage.settled(60, paid=before + len(wanted)))
    await paid_once(stage, "turns")


async def payers_come(stage: Stage) -> None:
    await stage.steer("/_sim/payers", rate=1.0, after_max_s=0.3)


async def all_have_attempts(stage: Stage, prefix: str, count: int) -> bool:
    """The intent to pay is durable; what the channel made of it need not be."""
    sql = "SELECT count(*) FROM attempts JOIN orders USING (order_id) WHERE starts_with(out_order_no, $1)"
    return bool((await stage.rows(sql, prefix))[0][0] == count)


async def more_paid(stage: Stage, count: int = MORE_PAID) -> None:
    before = await stage.paid_orders()

    async def enough() -> bool:
        return await stage.paid_orders() >= before + count

    await until(enough, 40)


async def paid_once(stage: Stage, prefix: str) -> None:
    """Paid, credited once, told once, one attempt each; the versions have no gap and no fork."""
    sql = (
        "SELECT o.out_order_no, o.state, count(DISTINCT p.channel_transaction) AS credits,"
        " count(DISTINCT w.event_id) AS told, count(DISTINCT a.attempt_id) AS attempts FROM orders o"
        " LEFT JOIN payments p ON p.order_id = o.order_id AND p.kind = 'credit'"
        " LEFT JOIN outbox w ON w.order_id = o.order_id AND w.type = 'order.paid'"
        " LEFT JOIN attempts a ON a.order_id = o.order_id"
        " WHERE starts_with(o.out_order_no, $1) GROUP BY 1, 2"
    )
    wrong = [tuple(row) for row in await stage.rows(sql, prefix) if tuple(row)[1:] != ("paid", 1, 1, 1)]
    assert wrong == []
    assert await stage.gaps() == []
