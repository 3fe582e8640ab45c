"""Drives channel flows over HTTP: the only place where a channel's request leaves this process.

A flow says what to send and what an answer means; this says how long to wait, how many at once, when to try again, and
when not to ask at all for a while.
Every end that is not the flow's own outcome is `Unknown`: nothing here ever turns silence into a no.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import aiohttp
import msgspec
import structlog
from yarl import URL

from channels.contract import ANSWER_BYTES_MAX, Flow, Request, Response, Stamp, Unknown
from channels.errors import NoAnswer
from gateway.metrics import Metrics
from gateway.pacing import Admission, Breaker, Pace, TokenBucket
from gateway.stepping import Stepper

T = TypeVar("T")
Step: TypeAlias = Callable[[], Request]  # runs a flow up to its next request

REQUESTS_MAX: Final = 10  # of one flow; a flow that wants more is looping
# What may be sent again although it may have arrived: it changes nothing, or (close) only to what it already is.
# Not pay and refund: they are safe to repeat only as the same request, and the order asks first what became of it.
REPEATABLE: Final = frozenset({"query", "query_refund", "close", "statement", "refresh_keys"})
PACED: Final = frozenset({"query", "query_refund"})  # what a backlog of orders asks all at once
RETRY_FIRST_S: Final = 0.1
RETRY_MAX_S: Final = 2.0
NONCE_BYTES: Final = 16  # 32 characters
LONG_ANSWER_S: Final = 300.0  # a statement of a busy day takes longer than any other answer
INLINE_BYTES_MAX: Final = 65_536  # reading more than that takes milliseconds
OUT_OF_ORDER: Final = 500  # an answer from here on is a silence to the breaker, whatever the flow reads in it

# Never left: refused, no route, no name, no TLS session, or no connection in time.
_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)


class Transport:
    """One channel's connections.

    Args:
        base_url: scheme, host and port; a request's target is appended as it is.
        origins: where else a request may go. A channel's answer can name an address; it can not send us anywhere.
        timeout_s: of one request, from its start to the last byte of the answer; of a longer answer than usual, from
            one byte to the next.
        concurrency: conversations at once.
        queue_max: conversations that may wait for their turn, up to `timeout_s`; more are `Unknown("overloaded")`.
        pace: how often it is queried: a query waits up to `timeout_s` for its turn, beyond it is `Unknown("paced")`.
            And when the channel is paused: everything is then `Unknown("paused")` at once.
        stepper: where flows step; shared with whatever else runs flows on this loop.
    """

    def __init__(
        self,
        channel: str,
        base_url: str,
        *,
        timeout_s: float,
        concurrency: int,
        queue_max: int,
        metrics: Metrics,
        origins: Collection[str] = (),
        pace: Pace = Pace(),  # noqa: B008 - frozen
        stepper: Stepper | None = None,
        user_agent: str = "Holdfast",
        clock: Callable[[], float] = time.time,
        nonce: Callable[[], str] = lambda: secrets.token_hex(NONCE_BYTES),
    ) -> None:
        self._channel = channel
        self._base = _origin(base_url)
        self._origins = {"": self._base, **{origin: origin for origin in map(_origin, (base_url, *origins))}}
        self._timeout_s = timeout_s
        self._short = aiohttp.ClientTimeout(total=timeout_s, sock_connect=timeout_s / 2)
        self._concurrency = concurrency
        self._queue_max = queue_max
        self._metrics = metrics
        self._stepper = stepper or Stepper()
        self._user_agent = user_agent
        self._clock = clock
        self._nonce = nonce
        self._places = asyncio.Semaphore(concurrency)
        self._queued = 0
        self._queries = TokenBucket(pace.queries_per_s, pace.queries_burst)
        self._breaker = Breaker(pace.failures, pace.pause_s, self._paused)
        self._session: aiohttp.ClientSession | None = None
        metrics.channel_paused[channel].set(0)

    async def start(self) -> None:
        """Open the pool; connections are made when first needed."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=self._concurrency),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"user-agent": self._user_agent},
            # The flow says what is sent; what was signed must not be joined by headers of ours.
            skip_auto_headers=("content-type", "accept-encoding"),
            trust_env=False,
        )

    async def stop(self) -> None:
        """Close the connections; conversations in flight end as `Unknown`."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def silent(self) -> bool:
        """Whether the channel did not answer when it was last asked, or is not asked at all now."""
        return self._breaker.silent

    async def run(self, make_flow: Callable[[Stamp], Flow[T]], *, op: str, retries: int = 0) -> T | Unknown:
        """Have one conversation with the channel, and its outcome. Never raises (but lets itself be cancelled).

        Args:
            make_flow: makes the flow from a fresh stamp; called again for each retry.
            op: pay, query, close, ...: for metrics, and to know whether sending twice does no harm.
            retries: how often to try again, if the request certainly never left, or if it is REPEATABLE and its outcome
                unknown.
        """
        for tried in range(retries + 1):
            outcome, sent = await self._queue_for(make_flow, op)
            if not isinstance(outcome, Unknown) or (sent and op not in REPEATABLE) or tried == retries:
                break
            if self._breaker.refuses:
                break
            # Full jitter, so that those who failed together do not come back together.
            await asyncio.sleep(random.uniform(0, min(RETRY_MAX_S, RETRY_FIRST_S * 2**tried)))
        return outcome

    async def _queue_for(self, make_flow: Callable[[Stamp], Flow[T]], op: str) -> tuple[T | Unknown, bool]:
        if self._breaker.refuses:
            return self._turned_away(op, "paused")
        if self._places.locked() and self._queued >= self._queue_max:
            return self._turned_away(op, "overloaded")
        if op in PACED:
            wait_s = self._queries.take(self._timeout_s)
            if wait_s is None:
                return self._turned_away(op, "paced")
            if wait_s:
                await asyncio.sleep(wait_s)
        self._queued += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._places.acquire()
        except TimeoutError:
            return self._turned_away(op, "overloaded")
        finally:
            self._queued -= 1
        conversation = _Conversation(self._exchange, self._stepper)
        admission = self._breaker.admit()
        try:
            if admission is Admission.REFUSED:
                return self._turned_away(op, "paused")
            return await self._converse(conversation, make_flow, op)
        finally:
            self._places.release()
            if admission is not Admission.REFUSED:
                self._breaker.settle(admission, conversation.heard)

    async def _converse(
        self, conversation: "_Conversation", make_flow: Callable[[Stamp], Flow[T]], op: str
    ) -> tuple[T | Unknown, bool]:
        started_s = time.monotonic()
        try:
            outcome: T | Unknown = await conversation.hold(make_flow(Stamp(int(self._clock()), self._nonce())))
        except NoAnswer as silence:  # a flow that does not care to tell silences apart
            outcome = Unknown(silence.reason)
        except Exception as error:
            structlog.get_logger().error("flow_failed", channel=self._channel, op=op, exc_info=error)
            outcome = Unknown(f"the flow failed: {type(error).__name__}")
        result = type(outcome).__name__.lower()
        self._metrics.channel_requests_s[self._channel, op, result].observe(time.monotonic() - started_s)
        return outcome, conversation.sent

    async def _exchange(self, request: Request) -> Response:
        """One request, one answer.

        Raises:
            NoAnswer: there was none that could be read whole.
        """
        origin = self._origins.get(request.origin)
        if origin is None or not request.target.startswith("/"):  # a target could go on with ".evil.org" or "@evil.org"
            raise NoAnswer(f"not an address of this channel: {(request.origin + request.target)[:200]}", sent=False)
        if self._session is None or self._session.closed:
            raise NoAnswer("the transport is stopped", sent=False)
        try:
            async with self._session.request(
                request.method,
                URL(origin + request.target, encoded=True),
                headers=request.headers,
                data=request.body or None,
                timeout=self._timeout(request),
                allow_redirects=False,
            ) as response:
                return Response(response.status, _lower(response), await _body(response, request.answer_bytes_max))
        except NoAnswer:
            raise
        except _NOT_SENT as error:
            raise NoAnswer(f"{type(error).__name__}: {error}", sent=False) from None
        except Exception as error:  # whatever it was, the request may have arrived
            raise NoAnswer(f"{type(error).__name__}: {error}", sent=True) from None

    def _timeout(self, request: Request) -> aiohttp.ClientTimeout:
        if request.answer_bytes_max <= ANSWER_BYTES_MAX:
            return self._short
        return aiohttp.ClientTimeout(
            total=max(LONG_ANSWER_S, self._timeout_s),
            sock_connect=self._timeout_s / 2,
            sock_read=self._timeout_s,
        )

    def _turned_away(self, op: str, why: str) -> tuple[Unknown, bool]:
        self._metrics.channel_requests_s[self._channel, op, why].observe(0.0)
        return Unknown(why), False

    def _paused(self, paused: bool) -> None:
        self._metrics.channel_paused[self._channel].set(paused)
        structlog.get_logger().warning("channel_paused" if paused else "channel_resumed", channel=self._channel)


class _Ended(msgspec.Struct, frozen=True):
    """A flow returned. Its StopIteration can not leave a thread: a Future refuses to carry it."""

    outcome: Any


class _Conversation:
    """One run of a flow.

    Afterwards `sent` tells whether any of its requests may have reached the channel, and `heard` whether any was
    answered as by somebody who is at work; None if nothing was asked.
    """

    def __init__(self, exchange: Callable[[Request], Awaitable[Response]], stepper: Stepper) -> None:
        self._exchange = exchange
        self._stepper = stepper
        self.sent = False
        self.heard: bool | None = None

    async def hold(self, flow: Flow[T]) -> T | Unknown:
        advance: Step = partial(next, flow)
        long = False
        try:
            for asked in range(REQUESTS_MAX + 1):
                step = await self._stepper.take(partial(_step, advance), long=long)
                if isinstance(step, _Ended):
                    outcome: T = step.outcome
                    return outcome
                if asked < REQUESTS_MAX:
                    advance, long = await self._answer(flow, step)
        finally:
            with suppress(ValueError):  # we were cancelled while a thread is in it: it ends with that step
                flow.close()
        return Unknown(f"the flow wanted more than {REQUESTS_MAX} requests")

    async def _answer(self, flow: Flow[T], request: Request) -> tuple[Step, bool]:
        """Send the request; how the flow goes on from there, and whether that step will be long."""
        try:
            response = await self._exchange(request)
        except NoAnswer as silence:
            self.sent = self.sent or silence.sent
            self.heard = self.heard or False
            return partial(flow.throw, silence), False
        self.sent = True
        self.heard = self.heard or response.status < OUT_OF_ORDER
        return partial(flow.send, response), len(response.body) > INLINE_BYTES_MAX


def _step(advance: Step) -> Request | _Ended:
    try:
        return advance()
    except StopIteration as end:
        return _Ended(end.value)


def _origin(base_url: str) -> str:
    """The base address without a trailing slash.

    Raises:
        ValueError: it has a path or query, which would be put before what was signed.
    """
    url = URL(base_url)
    if url.scheme not in {"http", "https"} or not url.host or url.raw_path_qs != "/" or url.fragment:
        raise ValueError(f"base_url: {base_url!r} must be scheme, host and port only")
    return base_url.rstrip("/")


def _lower(response: aiohttp.ClientResponse) -> dict[str, str]:
    """Headers by lower-case name; all values of one that came twice: none may be picked."""
    return {name.lower(): ", ".join(response.headers.getall(name)) for name in response.headers}


async def _body(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    body = bytearray()
    while chunk := await response.content.read(bytes_max + 1):
        body += chunk
        if len(body) > bytes_max:
            raise NoAnswer(f"an answer of more than {bytes_max} bytes", sent=True)
    return bytes(body)
