"""Orders whose channel was silent are asked after as soon as it is heard again, whatever rung their ladder is on.

In an outage every order's ladder goes on to its slow rungs; without this, money that was paid meanwhile would be found
many minutes after the channel is back. It is a hint, in memory alone: what is lost with the process the ladder finds.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

import structlog

from actors.actor import Asked
from actors.errors import ActorError
from actors.events import Event, SyncRequested
from actors.ports import Clock
from gateway.effect_runner import EffectRunner, InstalledChannel

LOOK_EVERY_S = 5.0
ORDERS_MAX = 100_000  # remembered of one channel, some 15 MB; the others wait for their ladder
PAGE = 200

log = structlog.get_logger(__name__)


class Unanswered:
    """Remembers who got no answer. `ask` is the registry's; `runner` tells of every outcome, and what it can take."""

    def __init__(
        self,
        channels: Mapping[str, InstalledChannel],
        ask: Callable[[str, Event], Asked],
        clock: Clock,
        runner: EffectRunner,
    ) -> None:
        self._channels = channels
        self._ask = ask
        self._clock = clock
        self._runner = runner
        self._orders: dict[str, dict[str, None]] = {name: {} for name in channels}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen, and to look now and then whether a channel is back."""
        self._runner.when_ended(self.note)
        self._task = asyncio.create_task(self._run(), name="unanswered")

    async def stop(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def note(self, channel: str, order_id: str, known: bool) -> None:
        """An effect of this order ended. An outcome that is unknown although the channel is there is no outage."""
        orders = self._orders.get(channel)
        if orders is None:
            return
        if known:
            orders.pop(order_id, None)
        elif self._channels[channel].transport.silent and len(orders) < ORDERS_MAX:
            orders[order_id] = None

    async def look(self) -> None:
        """Ask for one order of each channel that is silent, to hear when it is back; then for all that were waiting."""
        for name, orders in self._orders.items():
            if orders and self._channels[name].transport.silent:
                first = next(iter(orders))
                del orders[first]  # it stands last if it gets no answer again
                await self._ask_for([first])
            elif orders:
                waiting, self._orders[name] = list(orders), {}
                log.info("channel_heard_again", channel=name, orders=len(waiting))
                for start in range(0, len(waiting), PAGE):
                    await self._runner.room()
                    await self._ask_for(waiting[start : start + PAGE])

    async def _ask_for(self, order_ids: Iterable[str]) -> None:
        at_ms = self._clock.now_ms()
        asked = [self._ask(order_id, SyncRequested(at_ms)) for order_id in order_ids]
        for result in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(result, Exception) and not isinstance(result, ActorError):
                log.warning("unanswered_not_asked", error=f"{type(result).__name__}: {result}"[:300])

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.look()
