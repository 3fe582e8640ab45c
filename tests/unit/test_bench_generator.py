"""The load generator counts what really happened, on real sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from bench.generator import BrokenConnectionError, Load
from bench.scripts import Requests, Script, UnexpectedAnswerError, create, create_and_close, echo
from bench.serving import Exchange
from bench.wire import response

ORDER = b'{"order_id":"01HZZZZZZZZZZZZZZZZZZZZZZZ","state":"created"}'


@asynccontextmanager
async def _serving(protocol: Callable[[], asyncio.Protocol]) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def _answering(seen: list[bytes], status: int = 200, body: bytes = ORDER) -> Callable[[], asyncio.Protocol]:
    def answer(head: bytes, received: bytes) -> bytes:
        seen.append(head.split(b"\r\n", 1)[0] + b" " + received)
        return response(status, body)

    return lambda: Exchange(answer)


def _scripts(script: Callable[[Requests, Iterator[int]], Script], orders: int, connections: int) -> list[Script]:
    numbers = iter(range(orders))
    return [script(Requests("hk_x", "t"), numbers) for _ in range(connections)]


async def test_a_run_ends_when_its_orders_are_made_and_each_number_is_sent_once() -> None:
    seen: list[bytes] = []
    async with _serving(_answering(seen)) as port:
        result = await Load(seconds=10).run("127.0.0.1", port, _scripts(echo, 100, 8))
    assert result.requests == 100
    assert result.statuses == {200: 100}
    assert len(set(seen)) == 100
    assert result.seconds < 10


async def test_a_run_ends_when_its_time_is_up() -> None:
    async with _serving(_answering([])) as port:
        result = await Load(seconds=0.2, warmup_s=0.1).run("127.0.0.1", port, _scripts(echo, 10**9, 4))
    assert 0.2 <= result.seconds < 1
    assert result.requests > 10


async def test_the_close_follows_the_create_with_its_id() -> None:
    seen: list[bytes] = []

    def answer(head: bytes, _body: bytes) -> bytes:
        seen.append(head.split(b"\r\n", 1)[0])
        return response(200 if b"/close" in head else 201, ORDER)

    async with _serving(lambda: Exchange(answer)) as port:
        await Load(seconds=5).run("127.0.0.1", port, _scripts(create_and_close, 1, 1))
    assert seen == [
        b"POST /v1/orders HTTP/1.1",
        b"POST /v1/orders/01HZZZZZZZZZZZZZZZZZZZZZZZ/close HTTP/1.1",
    ]


async def test_an_unexpected_answer_makes_the_run_worth_nothing() -> None:
    async with _serving(_answering([], 503, b"full")) as port:
        with pytest.raises(UnexpectedAnswerError, match=r"503.*full"):
            await Load(seconds=5).run("127.0.0.1", port, _scripts(create, 10, 2))


class _HangsUp(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def test_a_server_that_hangs_up_is_reported() -> None:
    async with _serving(_HangsUp) as port:
        with pytest.raises(BrokenConnectionError):
            await Load(seconds=5).run("127.0.0.1", port, _scripts(echo, 10, 2))


async def test_an_open_loop_keeps_its_rate() -> None:
    async with _serving(_answering([])) as port:
        result = await Load(seconds=0.5, rate=200).run("127.0.0.1", port, _scripts(echo, 10**9, 8))
    assert 60 <= result.requests <= 101


class _Stalls(asyncio.Protocol):
    """Answers nothing for a while, then all at once."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s, self._asked = stall_s, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, _data: bytes) -> None:
        assert isinstance(self._transport, asyncio.WriteTransport)
        delay_s = self._stall_s if self._asked == 0 else 0.0
        self._asked += 1
        asyncio.get_running_loop().call_later(delay_s, self._transport.write, response(200))


async def test_an_open_loop_charges_a_stall_to_everyone_it_would_have_met() -> None:
    async with _serving(lambda: _Stalls(0.3)) as port:
        result = await Load(seconds=0.6, rate=100).run("127.0.0.1", port, _scripts(echo, 10**9, 1))
    assert result.latency.max_ms >= 290
    assert result.latency.p90_ms > 150  # a closed loop would have charged it to one request alone
