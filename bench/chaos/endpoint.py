"""The door at which apps take their webhooks, and what can be wrong with it: it is down, slow, drips, redirects, fails.

What comes through goes to the shop's own process, or to the visitors. A redirect leads to a place of ours: whoever
comes there has followed it, which no gateway may do.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum

import aiohttp
from aiohttp import web

Receive = Callable[[Mapping[str, str], bytes], Awaitable[int]]

SLOW_S = 4.0  # longer than the gateways' patience
DRIP_EVERY_S = 0.3
DRIPS_MAX = 100
FORWARD_WITHIN_S = 10.0


class Mood(StrEnum):
    """How the door takes what comes."""

    FAIR = "fair"
    DOWN = "down"  # the connection ends without an answer
    SLOW = "slow"  # the app gets it, the answer comes too late
    DRIPS = "drips"  # the app gets it, the answer comes in single bytes, without an end
    REDIRECTS = "redirects"
    FAILS = "fails"  # 500
    TAKES_SILENTLY = "takes silently"  # the app gets it and nobody hears of that


class Endpoint:
    """`async with Endpoint(the shop's address) as endpoint`; the shop's webhooks come to `url`/shop."""

    def __init__(self, shop_url: str) -> None:
        self.mood = Mood.FAIR
        self.followed = 0
        self.url = ""
        self._shop_url = shop_url
        self._receive: Receive | None = None
        self._runner: web.ServerRunner | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Endpoint":
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=FORWARD_WITHIN_S))
        self._runner = web.ServerRunner(web.Server(self._serve), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    def tell_visitors(self, receive: Receive) -> None:
        """Have `receive` called with headers and body of what comes for the visitors; it returns the status."""
        self._receive = receive

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        mood = self.mood
        if request.path == "/elsewhere":
            self.followed += 1
            return web.Response(status=204)
        if mood is Mood.DOWN:
            return _hang_up(request)
        if mood is Mood.REDIRECTS:
            return web.Response(status=307, headers={"location": f"{self.url}/elsewhere"})
        if mood is Mood.FAILS:
            return web.Response(status=500)
        status = await self._forward(request, body)
        if mood is Mood.TAKES_SILENTLY:
            return _hang_up(request)
        if mood is Mood.SLOW:
            await asyncio.sleep(SLOW_S)
        if mood is Mood.DRIPS:
            return await _drip(request)
        return web.Response(status=status)

    async def _forward(self, request: web.BaseRequest, body: bytes) -> int:
        if request.path == "/visitors":
            return 503 if self._receive is None else await self._receive(request.headers, body)
        assert self._session is not None
        try:
            async with self._session.post(self._shop_url, data=body, headers=_signed(request.headers)) as answer:
                return answer.status
        except (aiohttp.ClientError, TimeoutError):
            return 502


def _signed(headers: Mapping[str, str]) -> dict[str, str]:
    """What the signature is about."""
    return {name: value for name, value in headers.items() if name.lower().startswith(("webhook-", "content-type"))}


def _hang_up(request: web.BaseRequest) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=503)


async def _drip(request: web.BaseRequest) -> web.StreamResponse:
    """No answer to speak of: not even the status line's end is there before the gateway has lost its patience."""
    transport = request.transport
    for byte in (b"H", b"T", b"T", b"P", *[b"/"] * DRIPS_MAX):
        if transport is None or transport.is_closing():
            break
        transport.write(byte)
        await asyncio.sleep(DRIP_EVERY_S)
    return _hang_up(request)
