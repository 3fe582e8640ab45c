"""The transport asks no more than it may, and nothing of a channel that is silent."""

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from channels.contract import Flow, Request, Response, Stamp, Unknown
from gateway.metrics import Metrics
from gateway.pacing import Pace
from tests.unit.test_transport import asking, serving, transport

PAUSE_S = 0.2


class Moody:
    """A server that answers with `status`; with 0 it hangs up."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.asked = 0

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        self.asked += 1
        if self.status == 0:
            assert request.transport is not None
            request.transport.close()
        return web.Response(status=self.status or 200)


def posting() -> Callable[[Stamp], Flow[Response]]:
    """What aiohttp sends no second time by itself."""
    return asking(Request("POST", "/q", {}))


def paused(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("holdfast_channel_paused", {"channel": "wechatpay"})


def count(metrics: Metrics, op: str, result: str) -> float | None:
    labels = {"channel": "wechatpay", "op": op, "result": result}
    return metrics.registry.get_sample_value("holdfast_channel_requests_seconds_count", labels)


async def test_a_silent_channel_is_paused_probed_and_taken_up_again() -> None:
    house, metrics = Moody(0), Metrics()
    pace = Pace(failures=3, pause_s=PAUSE_S)
    async with serving(house) as url, transport(url, pace=pace, metrics=metrics) as channel:
        assert paused(metrics) == 0
        for _ in range(3):
            assert isinstance(await channel.run(posting(), op="pay"), Unknown)
        assert (house.asked, paused(metrics)) == (3, 1)
        for op in ("pay", "query", "close", "refund", "statement", "refresh_keys"):
            assert await channel.run(posting(), op=op, retries=5) == Unknown("paused")
        assert (house.asked, count(metrics, "close", "paused")) == (3, 1), "each was answered at once and once"
        await asyncio.sleep(PAUSE_S)
        probe, *others = await asyncio.gather(*(channel.run(posting(), op="pay") for _ in range(3)))
        assert isinstance(probe, Unknown)
        assert others == [Unknown("paused")] * 2
        assert (house.asked, paused(metrics)) == (4, 1)
        house.status = 200
        await asyncio.sleep(PAUSE_S)
        assert isinstance(await channel.run(posting(), op="query"), Response)
        assert isinstance(await channel.run(posting(), op="query"), Response)
        assert (house.asked, paused(metrics)) == (6, 0)


async def test_a_refusal_is_an_answer_and_a_server_that_is_out_of_order_is_none() -> None:
    house = Moody(429)
    async with serving(house) as url, transport(url, pace=Pace(failures=2)) as channel:
        for _ in range(4):
            assert isinstance(await channel.run(posting(), op="pay"), Response)
        house.status = 502
        outcomes: list[Any] = [await channel.run(posting(), op="pay") for _ in range(3)]
    assert [isinstance(outcome, Response) for outcome in outcomes] == [True, True, False]
    assert outcomes[2] == Unknown("paused")


async def test_those_who_wait_for_a_turn_when_the_pause_begins_are_sent_away_unsent() -> None:
    house = Moody(0)
    async with serving(house) as url, transport(url, pace=Pace(failures=1), concurrency=1) as channel:
        outcomes = await asyncio.gather(*(channel.run(posting(), op="pay") for _ in range(5)))
    assert house.asked == 1
    assert outcomes[1:] == [Unknown("paused")] * 4


async def test_a_probe_that_is_cancelled_does_not_pause_the_channel_for_ever() -> None:
    house = Moody(0)
    async with serving(house) as url, transport(url, pace=Pace(failures=1, pause_s=PAUSE_S)) as channel:
        await channel.run(posting(), op="pay")
        await asyncio.sleep(PAUSE_S)
        probe = asyncio.create_task(channel.run(posting(), op="pay"))
        await asyncio.sleep(0)
        probe.cancel()
        await asyncio.wait({probe})
        house.status = 200
        assert isinstance(await channel.run(posting(), op="pay"), Response)


async def test_queries_wait_for_their_turn_and_nothing_else_does() -> None:
    house, metrics, loop = Moody(), Metrics(), asyncio.get_running_loop()
    pace = Pace(queries_per_s=20, queries_burst=2)
    async with serving(house) as url, transport(url, pace=pace, metrics=metrics, timeout_s=0.3) as channel:
        started = loop.time()
        outcomes = await asyncio.gather(*(channel.run(posting(), op="query") for _ in range(20)))
        took_s = loop.time() - started
        assert 0.2 < took_s < 1.0
        answered = sum(isinstance(outcome, Response) for outcome in outcomes)
        assert answered == 2 + 6, "a burst of two, and those whose turn comes within 0.3 s"
        assert {outcome for outcome in outcomes if isinstance(outcome, Unknown)} == {Unknown("paced")}
        assert count(metrics, "query", "paced") == 12
        for op in ("pay", "close", "refund"):
            assert isinstance(await channel.run(posting(), op=op), Response)
