"""The gateway is killed at every step of a refund, at each channel; the money goes back once, and all books say so.

The app asks on under its number, as the SDK does; what the rules owe nobody asks for. Everything else is as in
`test_crash_points.py`.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from examples.shop.purchases import Purchase, Way
from holdfast_client import Refund
from tests.acceptance.stage import KILLED, Stage, clean, until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

# The wish is durable, its channel is about to be asked, has answered, and that is about to be made durable.
REFUND = ("after_commit:1", "before_channel:1", "after_channel:1", "before_commit:2")
# A notification tells of a second payment: its refund is in the commit that learns of it, and then all goes on alike.
EXCESS = ("after_commit:1", "after_channel:1")
WAYS = {name: Way(name, method) for name, method in (("wechatpay", "native"), ("alipay", "qr"), ("unionpay", "qr"))}

numbers = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """All channels; whoever is shown how pays at once."""
    directory = Path(tmp_path_factory.mktemp("refunds"))
    options = {"pay-rate": 1, "refund-after-s": 0.1}
    async with Stage(directory, channels=list(WAYS), channel=options) as stage:
        yield stage


async def test_a_refund_survives_a_kill_at_each_point_at_each_channel(stage: Stage) -> None:
    """One order of each channel for every point; the first of the three to get there dies, the others with it."""
    await stage.gateway.serve()
    sold = {point: await asyncio.gather(*(bought(stage, way) for way in WAYS.values())) for point in REFUND}
    for point, order_ids in sold.items():
        await stage.gateway.kill()
        await stage.gateway.serve(crash_at=point)
        async with asyncio.TaskGroup() as app:
            asked = [app.create_task(given_back(stage, order_id)) for order_id in order_ids]
            assert await stage.gateway.died() == KILLED, point
            await stage.gateway.serve()
        for task in asked:
            await until_succeeded(stage, task.result())
    await all_went_back(stage, [order_id for order_ids in sold.values() for order_id in order_ids])


async def test_an_excess_survives_a_kill_at_each_point(stage: Stage) -> None:
    """Nobody asks for it and nobody is answered: what was written down is all there is."""
    await stage.gateway.kill()
    await stage.gateway.serve()
    sold = {point: await switched(stage) for point in EXCESS}
    for point, order_id in sold.items():
        await stage.gateway.kill()
        await stage.gateway.serve(crash_at=point)
        await stage.pay(f"{order_id}01", "wechatpay", late=True)
        assert await stage.gateway.died() == KILLED, point
        await stage.gateway.serve()
        await until_one_succeeded(stage, order_id)
    await all_went_back(stage, list(sold.values()))
    report = await stage.settled()
    assert (report.excess, report.given_back) == (len(EXCESS), len(EXCESS))
    assert report.channels["wechatpay"].given_back == len(EXCESS)


async def bought(stage: Stage, way: Way) -> str:
    """A paid order's id."""
    name = f"back-{next(numbers):03d}"
    wanted = Purchase(name, name, 1299, pays_with=way)
    await stage.shop.buy(wanted)
    await until(lambda: stage.all_paid([wanted]))
    return str((await stage.shop.row(name))["order_id"])


async def switched(stage: Stage) -> str:
    """An order whose payer looked at one way to pay and then took another."""
    name = f"twice-{next(numbers):03d}"
    holdfast, wanted = stage.shop.holdfast, Purchase(name, name, 1299)
    await stage.steer("/_sim/payers", rate=0)
    await stage.shop.buy(wanted)
    order_id = str((await stage.shop.row(name))["order_id"])
    await stage.steer("/_sim/payers", rate=1)
    await holdfast.pay(order_id, channel="alipay", method="qr")
    await until(lambda: stage.all_paid([wanted]))
    return order_id


async def given_back(stage: Stage, order_id: str) -> Refund:
    """As an app does it: under a number of its own, until there is an answer."""
    return await stage.shop.holdfast.refund(order_id, out_refund_no=f"B-{order_id}", amount=1299, reason="broken")


async def until_succeeded(stage: Stage, refund: Refund) -> None:
    async def succeeded() -> bool:
        found = await stage.shop.holdfast.refund_by_number(refund.out_refund_no or "")
        return found.refund_id == refund.refund_id and found.state == "succeeded"

    await until(succeeded)


async def until_one_succeeded(stage: Stage, order_id: str) -> None:
    async def succeeded() -> bool:
        return [refund.state for refund in (await stage.shop.holdfast.get(order_id)).refunds] == ["succeeded"]

    await until(succeeded)


async def all_went_back(stage: Stage, order_ids: list[str]) -> None:
    """Once each, at the channels themselves, and the app was told of it once."""
    assert clean(await stage.settled())
    assert await stage.gaps() == []
    for order_id in order_ids:
        trades = [trade for trade in await stage.trades() if trade["out_trade_no"].startswith(order_id)]
        refunds = [refund for trade in trades for refund in trade["refunds"].values()]
        assert refunds == [{"state": "succeeded", "amount": 1299}]
        told = await stage.rows(
            "SELECT count(*) FROM outbox WHERE order_id = $1 AND type = 'refund.succeeded'", order_id
        )
        assert told[0][0] == 1
