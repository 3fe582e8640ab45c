"""What the simulator's tests share: one of our channels over a real socket, a merchant who receives notifications."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import aiohttp
from aiohttp import web
from msgspec import Struct
from yarl import URL

from channels.contract import (
    AttemptKey,
    Channel,
    Flow,
    Notified,
    Paid,
    PaymentRequest,
    RefundKey,
    RefundRequest,
    Request,
    Response,
    Stamp,
)
from channels.errors import NoAnswer, NotificationRejected
from channels.simulator.payers import Payers
from channels.simulator.server import Settings, Simulator

NOBODY = Payers(rate=0.0)
AT_ONCE = Payers(rate=1.0, after_min_s=0.0, after_max_s=0.0)
WITHIN_S = 20.0  # whatever a test waits for comes within this or has failed


class Received(Struct):
    """One notification as it arrived, what our channel made of it, and what was answered."""

    headers: dict[str, str]
    body: bytes
    payment: Notified | None
    reason: str
    status: int


class Inbox:
    """A merchant's notification address: believes with its channel, answers 503 as often as told first."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.failures_left = 0
        self.url = ""
        self._arrived: asyncio.Queue[Received] = asyncio.Queue()

    async def next(self) -> Received:
        return await asyncio.wait_for(self._arrived.get(), WITHIN_S)

    def empty(self) -> bool:
        return self._arrived.empty()

    async def serve(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        payment, reason, acknowledgement = None, "", self.channel.acknowledge()
        try:
            payment = self.channel.notification(headers, body, int(time.time()))
        except NotificationRejected as rejected:
            reason, acknowledgement = rejected.reason, self.channel.refuse(rejected.reason)
        if self.failures_left > 0:
            self.failures_left -= 1
            acknowledgement = self.channel.refuse("try again")
        self._arrived.put_nowait(Received(headers, body, payment, reason, acknowledgement.status))
        return web.Response(
            status=acknowledgement.status, body=acknowledgement.body, content_type=acknowledgement.content_type
        )


@asynccontextmanager
async def inbox(channel: Channel) -> AsyncIterator[Inbox]:
    """An inbox on a port of its own."""
    box = Inbox(channel)
    runner = web.ServerRunner(web.Server(box.serve))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    box.url = f"http://127.0.0.1:{runner.addresses[0][1]}/callbacks"
    yield box
    await runner.cleanup()


class Wire:
    """Drives our channel's flows against a simulator at a URL."""

    def __init__(self, session: aiohttp.ClientSession, url: str, channel: Channel) -> None:
        self._session = session
        self.url = url
        self.channel = channel

    async def run(self, flow: Flow[Any], timeout_s: float = WITHIN_S) -> Any:
        """The flow's outcome."""
        try:
            request = next(flow)
            while True:
                try:
                    answer = await asyncio.wait_for(self.send(request), timeout_s)
                except (aiohttp.ClientError, TimeoutError) as error:
                    request = flow.throw(NoAnswer(repr(error), sent=True))
                else:
                    request = flow.send(answer)
        except StopIteration as stop:
            return stop.value

    async def send(self, request: Request) -> Response:
        """One request, its target and body exactly as they are."""
        url = URL((request.origin or self.url) + request.target, encoded=True)
        async with self._session.request(
            request.method, url, data=request.body or None, headers=request.headers
        ) as answer:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return Response(answer.status, headers, await answer.read())

    async def pay(self, number: str, notify_url: str = "http://127.0.0.1:9/none", **how: Any) -> Any:
        return await self.run(self.channel.pay(payment(number, notify_url, **how), stamp()))

    async def query(self, number: str, **how: Any) -> Any:
        return await self.run(self.channel.query(attempt(number, **how), stamp()))

    async def close(self, number: str, **how: Any) -> Any:
        return await self.run(self.channel.close(attempt(number, **how), stamp()))

    async def refund(self, request: RefundRequest) -> Any:
        return await self.run(self.channel.refund(request, stamp()))

    async def query_refund(self, refund: RefundKey) -> Any:
        return await self.run(self.channel.query_refund(refund, stamp()))

    async def statement(self, day: str) -> Any:
        return await self.run(self.channel.statement(day, stamp()))

    async def until_paid(self, number: str) -> None:
        """Ask until the trade is paid."""
        async with asyncio.timeout(WITHIN_S):
            while not isinstance(await self.query(number), Paid):
                await asyncio.sleep(0.01)

    async def steer(self, path: str, order: object | None = None) -> Any:
        """POST to the simulator's steering, or GET without an order: its JSON."""
        method = "GET" if order is None else "POST"
        async with self._session.request(method, self.url + path, json=order) as answer:
            return await answer.json()


STARTED_S = int(time.time())  # of every attempt in a test session, unless it says otherwise: calls must agree on it
LIFE_S = 7200


def attempt(number: str, *, method: str = "native", started_s: int = STARTED_S, life_s: int = LIFE_S) -> AttemptKey:
    """What names an attempt."""
    return AttemptKey(number, method, started_s, started_s + life_s)


def payment(
    number: str,
    notify_url: str,
    *,
    subject: str = "",
    amount: int = 100,
    params: dict[str, str] | None = None,
    return_url: str = "",
    **how: Any,
) -> PaymentRequest:
    """A request to let somebody pay."""
    return PaymentRequest(
        attempt(number, **how), amount, "CNY", subject or f"thing {number}", notify_url, return_url, params or {}
    )


def stamp() -> Stamp:
    """Now."""
    return Stamp(int(time.time()), token_hex(16))


@asynccontextmanager
async def simulator(
    folder: Path,
    channel: Channel,
    *,
    faults: Mapping[str, Any] | None = None,
    payers: Payers = NOBODY,
    seed: int = 1,
    refund_after_s: float = 0.05,
) -> AsyncIterator[Wire]:
    """A simulator in this process on a real port, and our channel connected to it."""
    settings = Settings(
        folder=folder,
        seed=seed,
        time_scale=0.002,
        faults=faults or {},
        payers=payers,
        refund_after_s=refund_after_s,
    )
    running = Simulator(settings)
    url = await running.start()
    async with aiohttp.ClientSession() as session:
        try:
            yield Wire(session, url, channel)
        finally:
            await running.stop()


def ledger(folder: Path) -> list[dict[str, Any]]:
    """The ledger's lines, as an auditor reads them."""
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
