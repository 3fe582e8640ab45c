"""Delivers notifications: POST to the merchant's address, on the platform's schedule, until acknowledged."""

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping

import aiohttp

from channels.simulator.faults import Faults, NotificationPlan, plan_notification
from channels.simulator.platform import Moment, Outgoing, Platform
from channels.simulator.trades import AnyEntry, NotificationDropped, Notified, Trade, about

HELD_MAX_S = 5.0  # an overtaken notification goes out after this even if nothing overtook it
DUPLICATE_AFTER_S = 0.05
CONCURRENT_MAX = 64
ANSWER_BYTES_MAX = 65536


class Delivery:
    """All notifications under way. `record` applies an entry and appends it to the ledger; `faults` are now's."""

    def __init__(
        self,
        platforms: Mapping[str, Platform],
        faults: Mapping[str, Faults],
        seed: int,
        time_scale: float,
        record: Callable[[AnyEntry], Trade],
    ) -> None:
        self._platforms = platforms
        self._faults = faults
        self._seed = seed
        self._time_scale = time_scale
        self._record = record
        self._held: dict[tuple[str, ...], tuple[Trade, str, NotificationPlan]] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the connection pool."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONCURRENT_MAX), auto_decompress=False
        )

    async def stop(self) -> None:
        """Stop delivering. What is not acknowledged goes on after a restart."""
        for timer in self._timers:
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def begin(self, trade: Trade, topic: str = "") -> None:
        """Start telling the merchant of a payment, or of the refund named by `topic`, with all that goes wrong."""
        platform, faults = self._platforms[trade.made.channel], self._faults[trade.made.channel]
        if platform.notice(trade, topic, "", faults, _moment()) is None:
            return
        subject = f"{trade.subject} {topic}" if topic else trade.subject
        plan = plan_notification(faults, platform.variants, self._seed, subject)
        if plan.dropped:
            self._record(NotificationDropped(at=time.time(), topic=topic, **about(trade)))
        elif plan.overtaken:
            self._held[(*trade.key, topic)] = trade, topic, plan
            self._later(HELD_MAX_S, lambda: self._release((*trade.key, topic)))
        else:
            self._later(plan.delay_s, lambda: self._run(trade, topic, plan))

    async def send_once(self, trade: Trade, topic: str = "", variant: str = "") -> tuple[int, bytes]:
        """One delivery; the receiver's status and body, 0 if it did not answer."""
        platform = self._platforms[trade.made.channel]
        message = platform.notice(trade, topic, variant, self._faults[trade.made.channel], _moment())
        return (0, b"") if message is None else await self._post(message, platform.answer_within_s)

    async def _post(self, message: Outgoing, within_s: float) -> tuple[int, bytes]:
        """Over the wire; 0 if the receiver did not answer in time."""
        assert self._session is not None
        try:
            async with self._session.post(
                message.url,
                data=message.body,
                headers=message.headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=within_s),
            ) as answer:
                return answer.status, await answer.content.read(ANSWER_BYTES_MAX)
        except (aiohttp.ClientError, TimeoutError, ValueError):  # ValueError: an address that is none
            return 0, b""

    def _release(self, key: tuple[str, ...]) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._run(*held)

    def _run(self, trade: Trade, topic: str, plan: NotificationPlan) -> None:
        task = asyncio.ensure_future(self._deliver(trade, topic, plan))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, trade: Trade, topic: str, plan: NotificationPlan) -> None:
        platform = self._platforms[trade.made.channel]
        for variant in plan.false_starts:
            await self.send_once(trade, topic, variant)
        for wait_s in (*platform.retry_after_s, None):
            status, body = await self.send_once(trade, topic)
            for overtaken in list(self._held):
                self._release(overtaken)
            if platform.acknowledged(status, body):
                break
            if wait_s is None:
                return
            await asyncio.sleep(wait_s * self._time_scale)
        self._record(Notified(at=time.time(), topic=topic, **about(trade)))
        for _ in range(plan.duplicates):
            await asyncio.sleep(DUPLICATE_AFTER_S)
            await self.send_once(trade, topic)

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            action()

        timer = asyncio.get_running_loop().call_later(delay_s, run)
        self._timers.add(timer)


def _moment() -> Moment:
    return Moment(time.time(), secrets.token_hex(16), secrets.randbelow(1000) / 1000)
