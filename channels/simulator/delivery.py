"""Delivers notifications: POST to the merchant's address, on the platform's schedule, until acknowledged."""

import asyncio
import secrets
import time
from collections.abc import Callable

import aiohttp

from channels.simulator import envelope
from channels.simulator.credentials import PlatformCredentials
from channels.simulator.faults import Faults, NotificationPlan, Variant, plan_notification
from channels.simulator.trades import AnyEntry, NotificationDropped, Notified, Trade

RETRY_AFTER_S = (15, 15, 30, 180, 600, 1200, 1800, 1800, 1800, 3600, 10800, 10800, 10800, 21600, 21600)
ANSWER_WITHIN_S = 5.0
HELD_MAX_S = 5.0  # an overtaken notification goes out after this even if nothing overtook it
DUPLICATE_AFTER_S = 0.05
CONCURRENT_MAX = 64


class Delivery:
    """All notifications under way. `record` applies an entry and appends it to the ledger."""

    def __init__(
        self, credentials: PlatformCredentials, seed: int, time_scale: float, record: Callable[[AnyEntry], Trade]
    ) -> None:
        self.faults = Faults()
        self._credentials = credentials
        self._seed = seed
        self._time_scale = time_scale
        self._record = record
        self._held: dict[tuple[str, str], tuple[Trade, NotificationPlan]] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the connection pool."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONCURRENT_MAX),
            timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN_S),
            auto_decompress=False,
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

    def begin(self, trade: Trade) -> None:
        """Start telling the merchant that a trade was paid, with whatever goes wrong on the way."""
        plan = plan_notification(self.faults, self._seed, trade.subject)
        if plan.dropped:
            made = trade.made
            self._record(NotificationDropped(at=time.time(), mchid=made.mchid, out_trade_no=made.out_trade_no))
        elif plan.overtaken:
            self._held[_key(trade)] = trade, plan
            self._later(HELD_MAX_S, lambda: self._release(_key(trade)))
        else:
            self._later(plan.delay_s, lambda: self._run(trade, plan))

    async def send_once(self, trade: Trade, variant: Variant = Variant.GENUINE) -> int:
        """One delivery; the receiver's status, 0 if it did not answer."""
        assert self._session is not None
        merchant = self._credentials.merchants[trade.made.mchid]
        seal = envelope.notification_seal(self._credentials, self.faults, self._seed, trade.subject)
        body = envelope.notice(merchant, trade)
        message = envelope.deliver(seal, body, variant, int(time.time()), secrets.token_hex(16))
        try:
            async with self._session.post(
                trade.made.notify_url, data=message.body, headers=message.headers, allow_redirects=False
            ) as answer:
                await answer.read()
                return answer.status
        except (aiohttp.ClientError, TimeoutError, ValueError):  # ValueError: an address that is none
            return 0

    def _release(self, key: tuple[str, str]) -> None:
        trade_and_plan = self._held.pop(key, None)
        if trade_and_plan is not None:
            self._run(*trade_and_plan)

    def _run(self, trade: Trade, plan: NotificationPlan) -> None:
        task = asyncio.ensure_future(self._deliver(trade, plan))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, trade: Trade, plan: NotificationPlan) -> None:
        for variant in plan.false_starts:
            await self.send_once(trade, variant)
        for wait_s in (*RETRY_AFTER_S, None):
            status = await self.send_once(trade)
            for overtaken in list(self._held):
                self._release(overtaken)
            if 200 <= status < 300:
                break
            if wait_s is None:
                return
            await asyncio.sleep(wait_s * self._time_scale)
        self._record(Notified(at=time.time(), mchid=trade.made.mchid, out_trade_no=trade.made.out_trade_no))
        for _ in range(plan.duplicates):
            await asyncio.sleep(DUPLICATE_AFTER_S)
            await self.send_once(trade)

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            action()

        timer = asyncio.get_running_loop().call_later(delay_s, run)
        self._timers.add(timer)


def _key(trade: Trade) -> tuple[str, str]:
    return trade.made.mchid, trade.made.out_trade_no
