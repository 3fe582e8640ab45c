"""Signatures of many payments at once do not stand before everything else that waits for the loop."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from channels.contract import ANSWER_BYTES_MAX, Flow, Request, Stamp, Unknown
from channels.errors import NoAnswer
from gateway.metrics import Metrics
from gateway.stepping import Stepper
from gateway.transport import INLINE_BYTES_MAX, Transport

SIGNATURE_S = 0.0006


class Turns:
    """Counts the loop's turns, and how many steps were taken on the loop in each; a step costs a signature there."""

    def __init__(self) -> None:
        self.number = 0
        self.on_loop: Counter[int] = Counter()
        self.in_threads = 0
        self.clock_s = 0.0
        self._loop_thread = threading.get_ident()

    def now(self) -> float:
        return self.clock_s

    def sign(self) -> None:
        if threading.get_ident() == self._loop_thread:
            self.on_loop[self.number] += 1
            self.clock_s += SIGNATURE_S
        else:
            self.in_threads += 1

    @asynccontextmanager
    async def counted(self) -> AsyncIterator["Turns"]:
        loop = asyncio.get_running_loop()
        going = True

        def turn() -> None:
            self.number += 1
            if going:
                loop.call_soon(turn)

        turn()
        yield self
        going = False


@asynccontextmanager
async def channel(url: str, stepper: Stepper, concurrency: int = 64) -> AsyncIterator[Transport]:
    made = Transport(
        "wechatpay",
        url,
        timeout_s=5,
        concurrency=concurrency,
        queue_max=1000,
        metrics=Metrics(),
        stepper=stepper,
    )
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
        stepper.stop()


@asynccontextmanager
async def answering(body: bytes = b"{}") -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (await reader.readuntil(b"\r\n\r\n"))[:4] != b"STOP":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(quietly, "127.0.0.1", 0, backlog=256)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_of_sixty_four_payments_that_start_in_one_turn_two_are_signed_on_the_loop() -> None:
    turns = Turns()

    def pay(stamp: Stamp) -> Flow[int]:
        turns.sign()
        answer = yield Request("GET", "/", {})
        return answer.status

    async with turns.counted(), answering() as url, channel(url, Stepper(now=turns.now)) as wechatpay:
        outcomes = await asyncio.gather(*(wechatpay.run(pay, op="pay") for _ in range(64)))
    assert outcomes == [200] * 64
    assert max(turns.on_loop.values()) == 2, "1.2 ms, and not 38"
    assert turns.in_threads == 62


async def test_a_payment_alone_never_leaves_the_loop() -> None:
    turns = Turns()

    def pay(stamp: Stamp) -> Flow[int]:
        turns.sign()
        answer = yield Request("GET", "/", {})
        turns.sign()
        return answer.status

    async with turns.counted(), answering() as url, channel(url, Stepper(now=turns.now)) as wechatpay:
        for _ in range(20):
            assert await wechatpay.run(pay, op="pay") == 200
    assert (turns.on_loop.total(), turns.in_threads) == (40, 0)


async def test_what_was_spent_is_forgotten_in_the_next_turn() -> None:
    turns = Turns()
    stepper = Stepper(turn_s=SIGNATURE_S / 2, now=turns.now)
    for _ in range(10):
        await asyncio.gather(stepper.take(turns.sign), stepper.take(turns.sign))
    assert (turns.on_loop.total(), turns.in_threads) == (10, 10)
    stepper.stop()


async def test_a_long_answer_is_read_in_a_thread_even_if_nothing_else_runs() -> None:
    where: list[int] = []

    def statement(stamp: Stamp) -> Flow[int]:
        answer = yield Request("GET", "/", {}, answer_bytes_max=2 * ANSWER_BYTES_MAX)
        where.append(threading.get_ident())
        return len(answer.body)

    for size in (INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1):
        async with answering(b"x" * size) as url, channel(url, Stepper()) as wechatpay:
            assert await wechatpay.run(statement, op="statement") == size
    assert [thread == threading.get_ident() for thread in where] == [True, False]


def raises(stamp: Stamp) -> Flow[int]:
    raise RuntimeError("a bug")
    yield


def raises_stop_iteration(stamp: Stamp) -> Flow[int]:
    yield Request("GET", "/", {})
    next(iter(()))
    return 1


def lets_silence_pass(stamp: Stamp) -> Flow[int]:
    yield Request("GET", "/", {}, origin="http://elsewhere")
    return 1


def returns_at_once(stamp: Stamp) -> Flow[str]:
    return "done"
    yield


@pytest.mark.parametrize(
    ("flow", "outcome"),
    [
        (raises, Unknown("the flow failed: RuntimeError")),
        (raises_stop_iteration, Unknown("the flow failed: RuntimeError")),
        (lets_silence_pass, Unknown("not an address of this channel: http://elsewhere/")),
        (returns_at_once, "done"),
    ],
)
async def test_in_a_thread_a_flow_ends_as_it_does_on_the_loop(flow: Callable[[Stamp], Flow[Any]], outcome: Any) -> None:
    async with answering() as url:
        for turn_s in (3600.0, -1.0):  # all on the loop, none on it
            async with channel(url, Stepper(turn_s)) as wechatpay:
                assert await wechatpay.run(flow, op="pay") == outcome


async def test_silence_is_thrown_into_a_flow_in_a_thread() -> None:
    def careful(stamp: Stamp) -> Flow[bool]:
        try:
            yield Request("GET", "/", {}, origin="http://elsewhere")
        except NoAnswer as silence:
            return silence.sent
        return True

    async with answering() as url, channel(url, Stepper(-1.0)) as wechatpay:
        assert await wechatpay.run(careful, op="pay") is False


async def test_who_is_cancelled_while_a_thread_signs_is_free_at_once_and_so_is_its_place() -> None:
    began, go_on = threading.Event(), threading.Event()
    ended = threading.Event()

    def slow(stamp: Stamp) -> Flow[int]:
        try:
            began.set()
            go_on.wait(20)
            yield Request("GET", "/never", {})
        finally:
            ended.set()
        return 1

    async with answering() as url, channel(url, Stepper(-1.0), concurrency=1) as wechatpay:
        running = asyncio.create_task(wechatpay.run(slow, op="pay"))
        await asyncio.to_thread(began.wait, 20)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not ended.is_set(), "the thread is still in it"
        go_on.set()
        assert await wechatpay.run(returns_at_once, op="pay") == "done"
        assert await asyncio.to_thread(ended.wait, 20), "the flow was closed after its step"
