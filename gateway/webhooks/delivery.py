"""Delivers webhooks: what was just committed at once, and what the outbox owes whenever it is due.

The outbox row is the truth and this a worker on it. Whatever is dropped here (too much held, an endpoint paused, a
process killed) is found again when its lease passes, so nothing here may block the write path or has to survive.
"""

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import aiohttp
import msgspec
import structlog

from gateway.addresses import host_of
from gateway.metrics import Metrics
from gateway.probe import probe
from gateway.sealing import SealError
from gateway.storage.apps import Apps, UnknownAppError
from gateway.storage.outbox import Outbox, OutboxRow
from gateway.webhooks.lanes import Held, Lane
from gateway.webhooks.schedule import Again, Dead, Delivered, Verdict, retry_after_s_of, verdict_of
from gateway.webhooks.signing import headers_of

HELD_MAX = 20_000  # rows in memory; ~2 kB each with their body
LANES_MAX = 10_000
LANE_CLAIM_MAX = 64  # an endpoint with this many rows waiting gets no more from a claim
TRIES_MAX = 1_000  # connections at once, over all endpoints
CLAIM_MAX = 200
CLAIM_AGAIN_S = 0.05  # when there is more than was taken
CLAIM_SHARE_MAX = 0.2  # of the time, even if Postgres has to look past many rows of paused endpoints
MARKS_MAX = 1_000  # sent and not yet marked; beyond this, tries wait for Postgres
ANSWER_MAX = 20_000  # bytes of an answer that are read so that its connection can be used again
ANSWER_WAIT_S = 1.0


class _Answer(msgspec.Struct, frozen=True):
    status: int | None
    error: str = ""
    retry_after_s: float | None = None


class Delivery:
    """Keeps the promise that every app hears of its orders, without one endpoint delaying another.

    Args:
        schedule_s: the delay before each try; when all are used the webhook is dead.
        timeout_s: of a whole try, from connect to status line.
        jitter: 0.2 draws every delay from 80 % to 120 %.
        per_endpoint: tries at once to one endpoint.
        lease_s: how long a row is ours; rows given to `owe` must carry the same. Longer than `timeout_s`.
        claim_every_s: how often the outbox is asked for due rows.
        open_session: makes the connections' pool; without it, `session_of(timeout_s)`.
    """

    def __init__(
        self,
        outbox: Outbox,
        apps: Apps,
        metrics: Metrics,
        *,
        schedule_s: Sequence[float],
        timeout_s: float,
        jitter: float,
        per_endpoint: int,
        lease_s: float,
        claim_every_s: float = 1.0,
        clock: Callable[[], float] = time.time,
        open_session: Callable[[], aiohttp.ClientSession] | None = None,
    ) -> None:
        if lease_s <= timeout_s:
            raise ValueError(f"webhooks: a lease of {lease_s} s must be longer than timeout_s ({timeout_s})")
        self._outbox, self._apps, self._metrics = outbox, apps, metrics
        self._schedule_s, self._timeout_s, self._jitter = schedule_s, timeout_s, jitter
        self._per_endpoint, self._lease_s, self._claim_every_s = per_endpoint, lease_s, claim_every_s
        self._clock = clock
        self._open_session = open_session or (lambda: session_of(timeout_s))
        self._monotonic = time.monotonic
        self._lanes: dict[str, Lane] = {}
        self._held: set[str] = set()
        self._waiting: deque[Lane] = deque()
        self._tries: set[asyncio.Task[None]] = set()
        self._marks: set[asyncio.Future[None]] = set()
        self._claiming: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the connections' pool and begin to claim what is due."""
        self._session = self._open_session()
        self._claiming = asyncio.create_task(self._claim_for_ever(), name="webhooks: claim")

    async def stop(self, drain_s: float = 0.0) -> None:
        """Take nothing new, let running tries finish for up to `drain_s`, drop the rest: their leases will pass."""
        claiming, self._claiming = self._claiming, None
        session, self._session = self._session, None
        if claiming is None or session is None:
            return
        await _cancel({claiming})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                while running := self._tries | self._marks:
                    await asyncio.wait(running)
        await _cancel(self._tries)
        await self._outbox.stop()
        self._lanes.clear()
        self._waiting.clear()
        self._held.clear()
        await session.close()

    def owe(self, rows: Iterable[OutboxRow]) -> None:
        """Deliver rows that this process has just committed, under a lease of `lease_s`. Never blocks."""
        leased_until_s = self._monotonic() + self._lease_s
        for row in rows:
            self._hold(Held(row, leased_until_s))

    # --- what is held -----------------------------------------------------------------------------------------------

    def _hold(self, held: Held) -> None:
        row = held.row
        if row.event_id in self._held:
            return
        lane = self._lane_of(row) if len(self._held) < HELD_MAX and self._session else None
        if lane is None or lane.is_paused(self._monotonic()):
            self._metrics.deliveries["dropped"].inc()
            return
        self._held.add(row.event_id)
        lane.rows.append(held)
        self._wake(lane)

    def _lane_of(self, row: OutboxRow) -> Lane | None:
        key = f"{row.app_id} {host_of(row.url)}"
        lane = self._lanes.get(key)
        if lane is None and len(self._lanes) < LANES_MAX:
            lane = self._lanes[key] = Lane(key)
        return lane

    def _wake(self, lane: Lane) -> None:
        """Give the lane one more worker, if it has work, is allowed one, and the process has a place free."""
        if not self._session or not lane.rows or lane.waits or lane.running >= lane.tries_max(self._per_endpoint):
            return
        if len(self._tries) >= TRIES_MAX:
            lane.waits = True
            self._waiting.append(lane)
            return
        lane.running += 1
        task = asyncio.create_task(self._work(lane), name=f"webhooks: {lane.key}")
        self._tries.add(task)
        task.add_done_callback(lambda done: self._worked(lane, done))

    async def _work(self, lane: Lane) -> None:
        """Deliver the lane's rows one after the other, until none is left or other lanes wait for a place."""
        while held := self._next(lane):
            try:
                await self._deliver(lane, held.row)
            except Exception as error:
                self._held.discard(held.row.event_id)
                structlog.get_logger().error("webhook_try_failed", event_id=held.row.event_id, exc_info=error)
            if len(self._marks) >= MARKS_MAX:
                await asyncio.wait(self._marks, return_when=asyncio.FIRST_COMPLETED)
            if self._waiting or lane.running > lane.tries_max(self._per_endpoint):
                return

    def _worked(self, lane: Lane, task: asyncio.Task[None]) -> None:
        lane.running -= 1
        self._tries.discard(task)
        while self._waiting and len(self._tries) < TRIES_MAX:
            waiting = self._waiting.popleft()
            waiting.waits = False
            self._wake(waiting)
        self._wake(lane)

    def _next(self, lane: Lane) -> Held | None:
        """The next row whose lease outlasts a try. A paused lane keeps none: they come back by a claim."""
        now_s = self._monotonic()
        while lane.rows and self._session:
            held = lane.rows.popleft()
            if not lane.is_paused(now_s) and now_s + self._timeout_s < held.leased_until_s:
                return held
            self._held.discard(held.row.event_id)
            self._metrics.deliveries["dropped"].inc()
        return None

    # --- one try ----------------------------------------------------------------------------------------------------

    async def _deliver(self, lane: Lane, row: OutboxRow) -> None:
        probe("before_webhook")
        answer = await self._send(row)
        verdict = verdict_of(
            answer.status,
            row.tries + 1,
            self._schedule_s,
            jitter=random.uniform(1 - self._jitter, 1 + self._jitter),
            retry_after_s=answer.retry_after_s,
        )
        if isinstance(verdict, Delivered):
            lane.succeeded()
            probe("webhook_sent")
        else:
            lane.failed(self._monotonic())
        marked = self._mark(row, verdict, answer)
        self._marks.add(marked)
        marked.add_done_callback(lambda done: self._marked(row, verdict, done))

    def _marked(self, row: OutboxRow, verdict: Verdict, done: asyncio.Future[None]) -> None:
        self._marks.discard(done)
        self._held.discard(row.event_id)
        if isinstance(verdict, Delivered) and not done.cancelled():
            probe("webhook_marked")

    async def _send(self, row: OutboxRow) -> _Answer:
        """POST the stored bytes. The status line decides; of the body only so much is read as reuse needs."""
        session = self._session  # taken now: a stop meanwhile lets running tries finish
        assert session is not None
        try:
            secrets = (await self._apps.webhook(row.app_id)).secrets
        except (UnknownAppError, SealError) as error:
            return _Answer(None, f"can't be signed: {error}")
        headers = headers_of(secrets, row.event_id, int(self._clock()), row.body)
        try:
            async with session.post(row.url, data=row.body, headers=headers, allow_redirects=False) as response:
                await _finish(response)
                retry_after = response.headers.get("retry-after")
                return _Answer(response.status, f"HTTP {response.status}", retry_after_s_of(retry_after, self._clock()))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return _Answer(None, f"{type(error).__name__}: {error}")

    def _mark(self, row: OutboxRow, verdict: Verdict, answer: _Answer) -> asyncio.Future[None]:
        match verdict:
            case Delivered():
                assert answer.status is not None
                self._metrics.deliveries["delivered"].inc()
                self._metrics.told_after_s.observe(max(0.0, self._clock() - row.created_at_ms / 1000))
                return self._outbox.delivered(row, answer.status)
            case Again(delay_s):
                self._metrics.deliveries["failed"].inc()
                return self._outbox.failed(row, delay_s, answer.status, answer.error)
            case Dead(reason):
                self._metrics.deliveries["dead"].inc()
                structlog.get_logger().error("webhook_dead", event_id=row.event_id, app_id=row.app_id, reason=reason)
                return self._outbox.dead(row, answer.status, f"{reason}; the last: {answer.error}")

    # --- claims -----------------------------------------------------------------------------------------------------

    async def _claim_for_ever(self) -> None:
        while True:
            began_s = self._monotonic()
            wait_s = self._claim_every_s
            try:
                if await self._claim():
                    wait_s = min(wait_s, CLAIM_AGAIN_S)
            except Exception as error:
                structlog.get_logger().warning("webhook_claim_failed", error=error)
            took_s = self._monotonic() - began_s
            await asyncio.sleep(max(wait_s, took_s / CLAIM_SHARE_MAX))

    async def _claim(self) -> bool:
        """Take one page of due rows; true if there may be more."""
        now_s = self._monotonic()
        paused = self._paused(now_s)
        busy = [lane.key for lane in self._lanes.values() if len(lane.rows) >= LANE_CLAIM_MAX]
        limit = min(CLAIM_MAX, HELD_MAX - len(self._held))
        if limit <= 0:
            return True
        rows = await self._outbox.claim(limit, self._lease_s, paused + busy)
        for row in rows:
            self._hold(Held(row, now_s + self._lease_s))
        return len(rows) == limit or bool(busy)

    def _paused(self, now_s: float) -> list[str]:
        """The endpoints that are left alone for now; forgets idle lanes and refreshes the gauges."""
        for lane in [lane for lane in self._lanes.values() if lane.is_forgettable(now_s)]:
            del self._lanes[lane.key]
        paused = [lane.key for lane in self._lanes.values() if lane.is_paused(now_s)]
        self._metrics.endpoints_paused.set(len(paused))
        self._metrics.webhooks_held.set(len(self._held))
        return paused


def session_of(timeout_s: float) -> aiohttp.ClientSession:
    """The connections to apps' endpoints. `timeout_s` is of a whole try."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, limit_per_host=0),  # the lanes are the limit
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"user-agent": "Holdfast"},
        auto_decompress=False,
        trust_env=False,
    )


async def _finish(response: aiohttp.ClientResponse) -> None:
    """Read a short answer to its end, so that the connection can be used again; a long or slow one is hung up on."""
    if response.content.at_eof():
        return
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
        async with asyncio.timeout(ANSWER_WAIT_S):
            left = ANSWER_MAX
            while left > 0 and (chunk := await response.content.read(left)):
                left -= len(chunk)


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    tasks = set(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
