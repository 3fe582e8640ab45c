"""How long the loop keeps others waiting while payments are signed: a ticker beside the gateway's own transport.

Wall time says what a request would have met, on this machine and with its neighbours. The loop thread's own CPU time
between two ticks says what our own work did to it; signatures made in other threads are not in it.
"""

import asyncio
import time
from array import array
from collections.abc import Callable
from math import ceil

import msgspec

from channels.contract import Accepted, AttemptKey, Channel, Flow, PaymentRequest, PayOutcome, Stamp
from gateway.metrics import Metrics
from gateway.stepping import Stepper
from gateway.transport import Transport

TICK_S = 0.001
TIMEOUT_S = 10.0
CONCURRENCY = 64
EXPIRES_AFTER_S = 1_800


class Lag(msgspec.Struct, frozen=True):
    """Milliseconds by which ticks came late, and of the loop thread's own work between two ticks."""

    p99_ms: float
    max_ms: float
    own_p99_ms: float
    own_max_ms: float
    prepays_per_s: float


async def lag_of_prepays(channel: Channel, url: str, *, rate: float, batch: int, seconds: float) -> Lag:
    """Have `rate` prepays a second go out, `batch` of them in the same turn of the loop each time.

    Raises:
        AssertionError: a prepay failed: then this is not what was measured.
    """
    stepper = Stepper()
    transport = Transport(
        channel.name,
        url,
        timeout_s=TIMEOUT_S,
        concurrency=CONCURRENCY,
        queue_max=100_000,
        metrics=Metrics(),
        stepper=stepper,
    )
    await transport.start()
    try:
        await asyncio.gather(*(_prepay(transport, channel, number) for number in range(CONCURRENCY)))  # opens the pool
        ticks = _Ticks()
        ticking = asyncio.create_task(ticks.run())
        began = time.perf_counter()
        count = await _prepays(transport, channel, rate=rate, batch=batch, seconds=seconds)
        taken_s = time.perf_counter() - began
        ticking.cancel()
    finally:
        await transport.stop()
        stepper.stop()
    return ticks.lag(count / taken_s)


async def _prepays(transport: Transport, channel: Channel, *, rate: float, batch: int, seconds: float) -> int:
    loop = asyncio.get_running_loop()
    began, count = loop.time(), 0
    async with asyncio.TaskGroup() as group:
        while count < rate * seconds:
            for _ in range(batch):
                count += 1
                group.create_task(_prepay(transport, channel, CONCURRENCY + count))
            await asyncio.sleep(max(0.0, began + count / rate - loop.time()))
    return count


async def _prepay(transport: Transport, channel: Channel, number: int) -> None:
    outcome = await transport.run(_pay(channel, number), op="pay")
    assert isinstance(outcome, Accepted), outcome


def _pay(channel: Channel, number: int) -> Callable[[Stamp], Flow[PayOutcome]]:
    def pay(stamp: Stamp) -> Flow[PayOutcome]:
        attempt = AttemptKey(f"bench{number:010d}", "native", stamp.now_s, stamp.now_s + EXPIRES_AFTER_S)
        notify_url = f"https://pay.example.com/callbacks/wechatpay/{number:026d}/01"
        return channel.pay(PaymentRequest(attempt, 1_999, "CNY", "A cup of tea", notify_url), stamp)

    return pay


class _Ticks:
    def __init__(self) -> None:
        self._late_s = array("d")
        self._own_s = array("d")

    async def run(self) -> None:
        own_s = time.thread_time()
        while True:
            due = time.perf_counter() + TICK_S  # the loop's own clock counts whole milliseconds
            await asyncio.sleep(TICK_S)
            now_own_s = time.thread_time()
            self._late_s.append(max(0.0, time.perf_counter() - due))
            self._own_s.append(now_own_s - own_s)
            own_s = now_own_s

    def lag(self, prepays_per_s: float) -> Lag:
        late, own = sorted(self._late_s), sorted(self._own_s)
        p99 = max(0, ceil(0.99 * len(late)) - 1)
        return Lag(
            p99_ms=round(late[p99] * 1e3, 2),
            max_ms=round(late[-1] * 1e3, 2),
            own_p99_ms=round(own[p99] * 1e3, 2),
            own_max_ms=round(own[-1] * 1e3, 2),
            prepays_per_s=round(prepays_per_s, 1),
        )
