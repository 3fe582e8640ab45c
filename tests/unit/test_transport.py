"""The transport against a real server that misbehaves in every way a channel can."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from channels.contract import ANSWER_BYTES_MAX, Flow, NotPaid, Request, Response, Stamp, Unknown
from channels.errors import NoAnswer
from gateway.metrics import Metrics
from gateway.transport import Transport

Handler = Callable[[web.BaseRequest], Any]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_serving(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]) -> AsyncIterator[str]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@asynccontextmanager
async def transport(url: str, **changed: Any) -> AsyncIterator[Transport]:
    settings: dict[str, Any] = {"timeout_s": 5.0, "concurrency": 4, "queue_max": 100, "metrics": Metrics()}
    made = Transport("wechatpay", url, **settings | changed)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def asking(request: Request = Request("GET", "/q", {})) -> Callable[[Stamp], Flow[Response]]:  # noqa: B008 - frozen
    """A flow that returns the answer as it came, and lets silence pass."""

    def flow(stamp: Stamp) -> Flow[Response]:
        response = yield request
        return response

    return flow


class Careful:
    """A flow that turns silence into Unknown itself, as the channels do, and keeps what it was told."""

    def __init__(self) -> None:
        self.silences: list[NoAnswer] = []
        self.stamps: list[Stamp] = []

    def __call__(self, stamp: Stamp) -> Flow[Response | Unknown]:
        self.stamps.append(stamp)
        try:
            response = yield Request("POST", "/pay", {}, b"{}")
        except NoAnswer as silence:
            self.silences.append(silence)
            return Unknown(silence.reason)
        return response


async def test_what_was_signed_goes_out_byte_for_byte() -> None:
    target = "/v3/pay/%E4%B8%AD%2f%2F/a+b//c?mchid=1&x=%7e~%20+&empty="
    seen = []

    async def handler(request: web.BaseRequest) -> web.Response:
        seen.append((request.method, request.raw_path, dict(request.headers), await request.read()))
        return web.Response()

    headers = {"Authorization": "sig", "Accept": "application/json", "Content-Type": "application/json"}
    async with serving(handler) as url, transport(url, user_agent="Holdfast/1") as channel:
        assert isinstance(await channel.run(asking(Request("POST", target, headers, b'{"a": 1}')), op="pay"), Response)
    ((method, raw_path, sent, body),) = seen
    assert (method, raw_path, body) == ("POST", target, b'{"a": 1}')
    own = {"Host": url.removeprefix("http://"), "User-Agent": "Holdfast/1", "Content-Length": "8"}
    assert sent == headers | own


async def test_an_answer_is_handed_over_exactly_with_lower_case_names() -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        response = web.Response(status=202, body=b"\x00\xff raw", headers={"Wechatpay-Serial": "A"})
        response.headers.add("X-Twice", "1")
        response.headers.add("X-Twice", "2")
        return response

    async with serving(handler) as url, transport(url) as channel:
        answer = await channel.run(asking(), op="query")
    assert isinstance(answer, Response)
    assert (answer.status, answer.body) == (202, b"\x00\xff raw")
    assert answer.headers["wechatpay-serial"] == "A"
    assert answer.headers["x-twice"] == "1, 2"


async def test_a_flow_may_have_several_requests() -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        return web.Response(text=request.path)

    def flow(stamp: Stamp) -> Flow[list[bytes]]:
        first = yield Request("GET", "/1", {})
        second = yield Request("GET", "/2", {})
        return [first.body, second.body]

    async with serving(handler) as url, transport(url) as channel:
        assert await channel.run(flow, op="query") == [b"/1", b"/2"]


async def test_status_codes_are_the_flows_business_and_redirects_are_not_followed() -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        assert request.path != "/elsewhere"
        return web.Response(status=int(request.path[1:]), headers={"Location": "/elsewhere"})

    async with serving(handler) as url, transport(url) as channel:
        for status in (302, 307, 401, 500, 503):
            answer = await channel.run(asking(Request("GET", f"/{status}", {})), op="pay")
            assert isinstance(answer, Response)
            assert answer.status == status


async def test_a_refused_connection_certainly_sent_nothing() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound but not listening: refused, and nobody else can take the port
        flow = Careful()
        async with transport(f"http://127.0.0.1:{closed.getsockname()[1]}") as channel:
            assert isinstance(await channel.run(flow, op="pay"), Unknown)
    assert [silence.sent for silence in flow.silences] == [False]


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    pass


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")


async def cut_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")


async def bad_gzip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nhalf")


async def endless_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        await writer.drain()


async def endless_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: " + b"x" * 1000 + b"\r\n")
        await writer.drain()


@pytest.mark.parametrize("answer", [reset, hang_up, garbage, cut_off, bad_gzip, endless_body, endless_headers])
async def test_whatever_comes_back_after_sending_is_silence_that_may_have_been_heard(answer: Any) -> None:
    flow = Careful()
    async with raw_serving(answer) as url, transport(url) as channel:
        outcome = await channel.run(flow, op="pay", retries=3)
    assert isinstance(outcome, Unknown)
    assert [silence.sent for silence in flow.silences] == [True], "a payment that may have arrived is not sent again"


async def test_an_answer_of_exactly_the_limit_is_read() -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        return web.Response(body=b"x" * ANSWER_BYTES_MAX)

    async with serving(handler) as url, transport(url) as channel:
        answer = await channel.run(asking(), op="query")
    assert isinstance(answer, Response)
    assert len(answer.body) == ANSWER_BYTES_MAX


async def test_an_endless_answer_is_given_up_at_the_limit_and_not_at_the_timeout() -> None:
    async with raw_serving(endless_body) as url, transport(url, timeout_s=60.0) as channel:
        assert await channel.run(Careful(), op="pay") == Unknown(f"an answer of more than {ANSWER_BYTES_MAX} bytes")


async def test_a_request_may_ask_for_a_longer_answer_and_gets_no_more_than_that() -> None:
    longer = 3 * ANSWER_BYTES_MAX

    async def handler(request: web.BaseRequest) -> web.Response:
        return web.Response(body=b"x" * (longer + int(request.path[1:])))

    async with serving(handler) as url, transport(url) as channel:
        answer = await channel.run(asking(Request("GET", "/0", {}, answer_bytes_max=longer)), op="statement")
        assert isinstance(answer, Response)
        assert len(answer.body) == longer
        outcome = await channel.run(asking(Request("GET", "/1", {}, answer_bytes_max=longer)), op="statement")
    assert outcome == Unknown(f"an answer of more than {longer} bytes")


async def test_a_longer_answer_may_take_longer_than_the_timeout_but_not_fall_silent() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        for _ in range(7):
            await asyncio.sleep(0.1)  # the network's time, not the test's
            writer.write(b"x")
            await writer.drain()
        await release.wait()

    release = asyncio.Event()
    long = Request("GET", "/", {}, answer_bytes_max=2 * ANSWER_BYTES_MAX)
    async with raw_serving(trickle) as url, transport(url, timeout_s=0.4) as channel:
        asked_at = asyncio.get_running_loop().time()
        outcome = await channel.run(asking(long), op="pay")
        took_s = asyncio.get_running_loop().time() - asked_at
        release.set()
    assert isinstance(outcome, Unknown)
    assert took_s > 0.7, "it was listened to as long as something came"


async def test_a_request_goes_where_it_says_if_the_channel_may_send_us_there() -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        return web.Response(text=request.host)

    def flow(stamp: Stamp) -> Flow[list[str]]:
        at_home = yield Request("GET", "/", {})
        there = yield Request("GET", "/bill", {}, origin=bills)
        home_by_name = yield Request("GET", "/", {}, origin=home)
        return [answer.body.decode() for answer in (at_home, there, home_by_name)]

    async with serving(handler) as home, serving(handler) as bills, transport(home, origins=[bills]) as channel:
        hosts = await channel.run(flow, op="statement")
        assert isinstance(hosts, list)
        assert [f"http://{host}" for host in hosts] == [home, bills, home]


@pytest.mark.parametrize(
    ("origin", "target"),
    [
        ("http://127.0.0.1:9", "/"),
        ("https://bills.example.com", "/"),  # allowed is http
        ("http://bills.example.com:8080", "/"),
        ("http://bills.example.com.evil.org", "/"),
        ("http://bills.example.com@evil.org", "/"),
        ("HTTP://bills.example.com/", "/"),
        ("evil.org", "/"),
        ("", "@evil.org/"),
        ("", ".evil.org/"),
        ("", ":99/"),
        ("", ""),
        ("http://bills.example.com", ".evil.org/"),
    ],
)
async def test_an_address_that_is_not_the_channels_is_never_called(origin: str, target: str) -> None:
    silences: list[NoAnswer] = []

    def flow(stamp: Stamp) -> Flow[Unknown]:
        try:
            yield Request("GET", target, {"Authorization": "secret"}, origin=origin)
        except NoAnswer as silence:
            silences.append(silence)
        return Unknown("as it should be")

    async def handler(request: web.BaseRequest) -> web.Response:
        raise AssertionError

    async with serving(handler) as url, transport(url, origins=["http://bills.example.com"]) as channel:
        assert await channel.run(flow, op="statement") == Unknown("as it should be")
    assert [silence.sent for silence in silences] == [False]
    assert "not an address of this channel" in silences[0].reason


async def test_a_channel_that_never_answers_costs_the_timeout_and_no_more() -> None:
    flow = Careful()
    async with never_answering() as (url, _), transport(url, timeout_s=0.1) as channel:
        outcome = await channel.run(flow, op="pay")
    assert isinstance(outcome, Unknown)
    assert "Timeout" in outcome.reason
    assert [silence.sent for silence in flow.silences] == [True]


@asynccontextmanager
async def never_answering() -> AsyncIterator[tuple[str, list[asyncio.Event]]]:
    release = asyncio.Event()
    arrived: list[asyncio.Event] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.append(release)
        await release.wait()

    async with raw_serving(answer) as url:
        yield url, arrived
        release.set()


async def test_what_never_left_is_tried_again_with_a_fresh_stamp() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        flow = Careful()
        times = iter([100.5, 200.5, 300.5])
        async with transport(f"http://127.0.0.1:{closed.getsockname()[1]}", clock=lambda: next(times)) as channel:
            await channel.run(flow, op="pay", retries=2)
    assert [stamp.now_s for stamp in flow.stamps] == [100, 200, 300]
    nonces = {stamp.nonce for stamp in flow.stamps}
    assert len(nonces) == 3
    assert all(len(nonce) == 32 and nonce.isalnum() for nonce in nonces)


@pytest.mark.parametrize(
    ("op", "runs"),
    [
        *((op, 3) for op in ("query", "query_refund", "close", "statement", "refresh_keys")),
        *((op, 1) for op in ("pay", "refund", "a verb to come")),
    ],
)
async def test_only_what_does_no_harm_twice_is_repeated_when_its_outcome_is_unknown(op: str, runs: int) -> None:
    asked = 0

    async def handler(request: web.BaseRequest) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=500)

    def flow(stamp: Stamp) -> Flow[Unknown]:
        yield Request("GET", "/", {})
        return Unknown("500")

    async with serving(handler) as url, transport(url) as channel:
        assert await channel.run(flow, op=op, retries=2) == Unknown("500")
    assert asked == runs


async def test_retries_end_with_the_first_certain_outcome() -> None:
    asked = 0

    async def handler(request: web.BaseRequest) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=500 if asked < 2 else 200)

    def flow(stamp: Stamp) -> Flow[NotPaid | Unknown]:
        answer = yield Request("GET", "/", {})
        return NotPaid() if answer.status == 200 else Unknown("500")

    async with serving(handler) as url, transport(url) as channel:
        assert await channel.run(flow, op="query", retries=5) == NotPaid()
    assert asked == 2


async def test_more_than_the_queue_holds_is_refused_at_once() -> None:
    async with never_answering() as (url, arrived), transport(url, concurrency=2, queue_max=3) as channel:
        running = [asyncio.create_task(channel.run(asking(), op="query")) for _ in range(5)]
        async with asyncio.timeout(10):
            while len(arrived) < 2:
                await asyncio.sleep(0.005)
        assert await channel.run(asking(), op="query") == Unknown("overloaded")
        for task in running:
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*running, return_exceptions=True)
        )
        assert len(arrived) == 2, "those in the queue never reached the channel"


async def test_who_waits_longer_than_the_timeout_for_a_turn_is_overloaded_and_unsent() -> None:
    async with never_answering() as (url, arrived), transport(url, concurrency=1, timeout_s=0.2) as channel:
        outcomes = await asyncio.gather(*(channel.run(asking(), op="query") for _ in range(12)))
    assert all(isinstance(outcome, Unknown) for outcome in outcomes)
    assert Unknown("overloaded") in outcomes
    assert len(arrived) < 12


async def test_places_are_given_back_after_every_kind_of_end() -> None:
    async with raw_serving(hang_up) as url, transport(url, concurrency=1, queue_max=1) as channel:
        for _ in range(20):
            assert isinstance(await channel.run(Careful(), op="pay"), Unknown)
        cancelled = asyncio.create_task(channel.run(Careful(), op="pay"))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        outcome = await channel.run(Careful(), op="pay")
        assert isinstance(outcome, Unknown)
        assert outcome != Unknown("overloaded")


def raises_at_once(stamp: Stamp) -> Flow[Response]:
    raise RuntimeError("a bug")
    yield


def raises_on_the_answer(stamp: Stamp) -> Flow[Response]:
    yield Request("GET", "/", {})
    raise ValueError("a bug")


def never_ends(stamp: Stamp) -> Flow[Response]:
    while True:
        yield Request("GET", "/", {})


def asks_for_nonsense(stamp: Stamp) -> Flow[Response]:
    return (yield Request("GET", "/", {"bad\r\nname": "x"}))


def lets_silence_pass(stamp: Stamp) -> Flow[Response]:
    return (yield Request("GET", "/", {}))


@pytest.mark.parametrize("flow", [raises_at_once, raises_on_the_answer, never_ends, asks_for_nonsense])
async def test_a_broken_flow_is_unknown_and_never_an_exception(flow: Any) -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        return web.Response()

    async with serving(handler) as url, transport(url) as channel:
        assert isinstance(await channel.run(flow, op="pay"), Unknown)


async def test_silence_that_a_flow_lets_pass_is_unknown() -> None:
    async with raw_serving(hang_up) as url, transport(url) as channel:
        assert isinstance(await channel.run(lets_silence_pass, op="pay"), Unknown)


async def test_before_start_and_after_stop_everything_is_unknown_and_unsent() -> None:
    flow = Careful()
    channel = Transport("wechatpay", "http://127.0.0.1:1", timeout_s=1, concurrency=1, queue_max=1, metrics=Metrics())
    assert isinstance(await channel.run(flow, op="pay"), Unknown)
    await channel.start()
    await channel.stop()
    assert isinstance(await channel.run(flow, op="pay"), Unknown)
    assert [silence.sent for silence in flow.silences] == [False, False]


@pytest.mark.parametrize("url", ["http://h/path", "http://h?x=1", "ftp://h", "h", "", "http://", "http://h#x"])
def test_a_base_address_with_more_than_an_origin_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        Transport("wechatpay", url, timeout_s=1, concurrency=1, queue_max=1, metrics=Metrics())


async def test_every_conversation_is_measured_by_its_outcome() -> None:
    metrics = Metrics()
    async with raw_serving(hang_up) as url, transport(url, metrics=metrics) as channel:
        await channel.run(Careful(), op="pay")
    count = 'holdfast_channel_requests_seconds_count{channel="wechatpay",op="pay",result="unknown"} 1.0'
    assert count in metrics.render().decode()
