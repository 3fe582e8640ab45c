"""Customers of one shop pay through three channels at once, in every way a browser or a telephone can; gateways die."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from bench.demo.faults import Faults
from bench.demo.stage import WAYS
from examples.shop.customers import parse_mix
from tests.acceptance.stage import Stage, clean, customers

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

MIX = list(parse_mix(",".join(way for ways in WAYS.values() for way in ways)).weights)
KILLS = 4


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """All channels at one simulator, which does to each whatever the demo has it do."""
    faults = Faults(delay_s=0.5, nasty=0.02).shares(WAYS)
    payers = {"pay-rate": 1, "pay-after-s": "0:0.3"}
    directory = Path(tmp_path_factory.mktemp("three"))
    async with Stage(directory, channels=list(WAYS), channel=payers, faults=faults, at_cashier=True) as stage:
        await stage.gateway.serve()
        yield stage


async def test_kills_under_load_lose_nothing_at_any_channel(stage: Stage) -> None:
    chance = random.Random("three")
    async with customers(stage, "three", every_s=0.05, ways=MIX) as wanted:
        for _ in range(KILLS):
            await asyncio.sleep(chance.uniform(0.3, 1.0))  # the moment of the kill, not a synchronisation
            await stage.gateway.kill()
            await stage.gateway.serve()
    # A customer whose page is gone, because a newer one was made for them, leaves: not everybody pays.
    report = await stage.settled(60, paid=int(len(wanted) * 0.95))
    assert clean(report)
    assert report.orders == len(wanted)
    for name in WAYS:
        channel = report.channels[name]
        assert channel.paid_at_channel == channel.paid_here == channel.told > 0
        assert channel.found_by_query >= channel.dropped > 0
    assert await stage.gaps() == []
