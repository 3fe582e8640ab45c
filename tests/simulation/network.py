"""The network between the simulated processes: every leg of a request, there and back, has its own luck.

A leg can be lost, late or (on the way there) doubled; a process can be out of reach. What serves a request runs as a
task of the serving process, so killing the caller undoes nothing that has arrived, and killing the server breaks the
connection. What the caller hears of a lost leg is silence until its timeout, or a reset a moment later.
"""

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec

from tests.simulation.loop import PROCESS, SimulatedLoop

T = TypeVar("T")

RESET_AFTER_S: Final = 0.02
RESET_SHARE: Final = 0.3  # of lost legs that somebody on the way says so of


class Silence(Exception):
    """No answer. `sent`: the request may have arrived."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class Rates(msgspec.Struct):
    """What happens to a leg, as shares. `late_s`: how late at most, drawn in a tail beyond all timeouts."""

    lost_there: float = 0.0
    lost_back: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    late_s: float = 8.0
    refused: float = 0.0
    latency_s: float = 0.004


class Exchange(msgspec.Struct):
    """What really happened to one request: for the checker, which knows more than the caller."""

    served: int = 0
    doubled: bool = False


class Network:
    """All connections of a run. `down` and `silent` are the outages of this moment."""

    def __init__(self, loop: SimulatedLoop, chance: random.Random, rates: Rates) -> None:
        self._loop = loop
        self._chance = chance
        self.rates = rates
        self._open: dict[str, set[asyncio.Future[Any]]] = {}
        self.down: set[str] = set()  # names that take no connection
        self.silent: set[str] = set()  # names that take everything and are never heard of again
        self.lost = 0
        self.doubled = 0

    async def call(
        self,
        to: str,
        serve: Callable[[], Awaitable[T]],
        *,
        timeout_s: float,
        exchange: Exchange | None = None,
    ) -> T:
        """Have `serve` run at process `to`, and what it returned.

        Raises:
            Silence: there was no answer in time; whatever `serve` raises at its own side is one, too.
        """
        rates, chance = self.rates, self._chance
        exchange = exchange or Exchange()
        if self._loop.is_dead(PROCESS.get()):  # a `finally` of somebody who was cut off
            await self._loop.create_future()
        if not to or to in self.down or self._loop.is_dead(to) or chance.random() < rates.refused:
            await asyncio.sleep(self._latency())
            raise Silence("connection refused", sent=False)
        answer: asyncio.Future[T] = self._loop.create_future()
        sending = self._open.setdefault(to, set())
        sending.add(answer)
        try:
            if to in self.silent or chance.random() < rates.lost_there:
                self._lose(answer)
            else:
                self._arrive(to, serve, answer, exchange)
                if chance.random() < rates.doubled:
                    self.doubled += 1
                    exchange.doubled = True
                    self._arrive(to, serve, answer, exchange)
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise Silence("timeout", sent=True) from None
        finally:
            sending.discard(answer)

    def broken(self, process: str) -> None:
        """A process died: whoever waits for it hears a reset."""
        for answer in list(self._open.pop(process, ())):
            self._reset(answer)

    def _arrive(
        self, to: str, serve: Callable[[], Awaitable[T]], answer: "asyncio.Future[T]", exchange: Exchange
    ) -> None:
        def start() -> None:
            if self._loop.is_dead(to):
                self._reset(answer)
            else:
                exchange.served += 1
                self._loop.spawn(to, self._serve(serve, answer))

        self._later(self._latency(), start)

    async def _serve(self, serve: Callable[[], Awaitable[T]], answer: "asyncio.Future[T]") -> None:
        """At the serving process: the answer's way back begins when it is complete."""
        said = await serve()
        if self._chance.random() < self.rates.lost_back:
            self._lose(answer)
            return
        self._later(self._latency(), lambda: answer.done() or answer.set_result(said))

    def _lose(self, answer: "asyncio.Future[Any]") -> None:
        self.lost += 1
        if self._chance.random() < RESET_SHARE:
            self._reset(answer)

    def _reset(self, answer: "asyncio.Future[Any]") -> None:
        def break_off() -> None:
            if not answer.done():
                answer.set_exception(Silence("connection reset", sent=True))

        self._later(RESET_AFTER_S, break_off)

    def _latency(self) -> float:
        rates, chance = self.rates, self._chance
        if chance.random() < rates.late:
            return chance.random() ** 2 * rates.late_s
        return chance.random() * rates.latency_s

    def _later(self, delay_s: float, action: Callable[[], Any]) -> None:
        """The wire belongs to nobody: what is on it arrives, whoever dies."""
        context = _WIRE.copy()
        self._loop.call_at(self._loop.time() + delay_s, action, context=context)


def _wire() -> Any:
    context = contextvars.Context()
    context.run(PROCESS.set, "wire")
    return context


_WIRE: Final = _wire()
