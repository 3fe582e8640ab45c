"""The demo shop as a process before the real gateway: it may die at any moment, and closes in two steps."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bench.auditor import audit
from bench.demo.faults import Faults
from bench.demo.stage import Play, Stage

PLAY = Play(seconds=3, rate=30, seed=3, faults=Faults(delay_s=0.5), pay_after_max_s=1.0)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """All parts running, customers about to come."""
    async with Stage(PLAY, tmp_path) as stage:
        await asyncio.gather(stage.start_databases(), stage.make_accounts())
        await stage.start_channels()
        await stage.start_gateway()
        await stage.start_arms()
        yield stage


async def status(stage: Stage) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{stage.shop_url}/status") as answer:
        counted: dict[str, Any] = await answer.json()
        return counted


async def until(stage: Stage, *, orders: int) -> None:
    """Wait until the shop has written down so many orders."""
    deadline = time.monotonic() + 30
    while (await status(stage))["orders"] < orders:
        assert time.monotonic() < deadline, await status(stage)
        await asyncio.sleep(0.05)


async def test_a_shop_killed_twice_makes_every_order_once_and_hears_of_every_payment(
    stage: Stage,
) -> None:
    for orders in (15, 45):
        await until(stage, orders=orders)
        await stage.shop.kill()
        await stage.shop.start(ready='"ready"')
    await until(stage, orders=PLAY.orders)
    deadline = time.monotonic() + 60
    while True:
        report = audit(await stage.ledgers())
        everything_paid = report.paid_at_channel >= 0.8 * PLAY.orders
        if (report.passed and everything_paid) or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.2)
    assert everything_paid
    assert report.passed, (report.lost, report.double, report.phantom, report.mismatch)
    assert report.orders == PLAY.orders


async def test_the_first_sigterm_closes_the_till_and_the_second_the_shop(stage: Stage) -> None:
    await until(stage, orders=10)
    stage.close_tills()
    settled, deadline = -1, time.monotonic() + 10
    while settled != (orders := (await status(stage))["orders"]) and time.monotonic() < deadline:
        settled = orders
        await asyncio.sleep(0.3)  # ten customers would have come in this time
    assert 10 <= settled < PLAY.orders
    assert await stage.shop.stop()
