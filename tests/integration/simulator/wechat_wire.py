"""What the simulator's tests share: our own channel over a real socket, and a merchant who receives notifications."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

import aiohttp
from aiohttp import web
from msgspec import Struct
from yarl import URL

from channels.contract import ChannelPayment, Flow, Paid, PaymentRequest, Request, Response, Stamp
from channels.errors import NoAnswer, NotificationRejected
from channels.simulator.credentials import MerchantFiles
from channels.simulator.faults import Faults
from channels.simulator.payers import Payers
from channels.simulator.server import Settings, Simulator
from channels.wechatpay import WeChatPay, load_credentials

NOBODY = Payers(rate=0.0)
AT_ONCE = Payers(rate=1.0, after_min_s=0.0, after_max_s=0.0)
WITHIN_S = 20.0  # whatever a test waits for comes within this or has failed


def channel_of(files: MerchantFiles, *, certificates_only: bool = False) -> WeChatPay:
    """The channel a configuration with these files would make."""
    public = {} if certificates_only else {"public_key_id": files.public_key_id}
    if public:
        public["public_key_pem"] = Path(files.public_key_file).read_bytes()
    return WeChatPay(
        load_credentials(
            mchid=files.mchid,
            appid=files.appid,
            merchant_serial=files.merchant_serial,
            private_key_pem=Path(files.private_key_file).read_bytes(),
            api_v3_key=Path(files.api_v3_key_file).read_bytes(),
            platform_certificates_pem={name: Path(name).read_bytes() for name in files.platform_certificates},
            now_s=int(time.time()),
            **public,
        )
    )


class Received(Struct):
    """One notification as it arrived, what our channel made of it, and what was answered."""

    headers: dict[str, str]
    body: bytes
    payment: ChannelPayment | None
    reason: str
    status: int


class Inbox:
    """A merchant's notification address: believes with its channel, answers 503 as often as told first."""

    def __init__(self, channel: WeChatPay) -> None:
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
async def inbox(channel: WeChatPay) -> AsyncIterator[Inbox]:
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

    def __init__(self, session: aiohttp.ClientSession, url: str, channel: WeChatPay) -> None:
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
        url = URL(self.url + request.target, encoded=True)
        async with self._session.request(
            request.method, url, data=request.body or None, headers=request.headers
        ) as answer:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return Response(answer.status, headers, await answer.read())

    async def pay(self, number: str, notify_url: str = "http://127.0.0.1:9/none", **how: Any) -> Any:
        return await self.run(self.channel.pay(prepay(number, notify_url, **how), stamp()))

    async def query(self, number: str) -> Any:
        return await self.run(self.channel.query(number, stamp()))

    async def close(self, number: str) -> Any:
        return await self.run(self.channel.close(number, stamp()))

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


def prepay(number: str, notify_url: str, *, subject: str = "", amount: int = 100, in_s: int = 600) -> PaymentRequest:
    """A request to let somebody pay."""
    expires_at_s = int(time.time()) // 3600 * 3600 + 7200 if in_s == 600 else int(time.time()) + in_s
    return PaymentRequest(number, "native", amount, "CNY", subject or f"thing {number}", notify_url, expires_at_s)


def stamp() -> Stamp:
    """Now."""
    return Stamp(int(time.time()), token_hex(16))


@asynccontextmanager
async def simulator(
    folder: Path, channel: WeChatPay, *, faults: Faults | None = None, payers: Payers = NOBODY, seed: int = 1
) -> AsyncIterator[Wire]:
    """A simulator in this process on a real port, and our channel connected to it."""
    settings = Settings(folder=folder, seed=seed, time_scale=0.002, faults=faults or Faults(), payers=payers)
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
