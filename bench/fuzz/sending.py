"""Sends mutants over keep-alive connections, as fast as they are answered. Every one must be answered.

A refusal may end the connection, by saying so or by hanging up after the answer; the next mutant then goes out on a new
one. A mutant that was under way when a used connection was lost is sent once more, as every HTTP client does; if that
is lost as well, the gateway dropped it.
"""

import asyncio
from array import array
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter_ns

from bench.fuzz.message import Mutant
from bench.wire import frame

CONNECTIONS = 16
SILENCE_S = 20.0
WATCH_S = 0.5
CONNECT_S = 10.0


class Sender:
    """One run. `draw` gives the next mutant, or None when there are no more; `complain` hears of a mutant and what was
    wrong with its answer."""

    def __init__(
        self, host: str, port: int, draw: Callable[[], Mutant | None], complain: Callable[[Mutant, str], None]
    ) -> None:
        self.statuses: Counter[int] = Counter()
        self.latencies = array("Q")
        self.connections = 0
        self._address = host, port
        self._draw, self._complain = draw, complain
        self._lanes: set[_Lane] = set()

    async def run(self) -> None:
        """Until there are no more.

        Raises:
            OSError: nobody listens there.
        """
        self._lanes = {_Lane(self) for _ in range(CONNECTIONS)}
        watch = asyncio.create_task(self._watch())
        try:
            await asyncio.gather(*(lane.run() for lane in self._lanes))
        finally:
            watch.cancel()

    async def connect(self, lane: "_Lane") -> None:
        """Give the lane a connection."""
        self.connections += 1
        async with asyncio.timeout(CONNECT_S):
            await asyncio.get_running_loop().create_connection(lambda: _Connection(lane), *self._address)

    def next(self) -> Mutant | None:
        """What is to be sent."""
        return self._draw()

    def heard(self, mutant: Mutant, status: int, taken_ns: int) -> None:
        """It was answered."""
        self.statuses[status] += 1
        self.latencies.append(taken_ns)
        if status >= 500:
            self._complain(mutant, f"answered {status}")
        elif 200 <= status < 300 and not mutant.may_be_believed:
            self._complain(mutant, f"acknowledged with {status}")

    def unheard(self, mutant: Mutant, why: str) -> None:
        """It was not."""
        self._complain(mutant, why)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            for lane in self._lanes:
                lane.give_up_if_silent()


class _Lane:
    """One mutant at a time, over one connection after the other."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._mutant: Mutant | None = None
        self._since_ns = 0
        self._repeated = False
        self._connection: _Connection | None = None
        self._wanted = asyncio.Event()  # another connection

    async def run(self) -> None:
        self._mutant = self._sender.next()
        while self._mutant is not None:
            self._wanted.clear()
            await self._sender.connect(self)
            await self._wanted.wait()

    def begin(self, connection: "_Connection") -> None:
        self._connection = connection
        self._send()

    def answered(self, status: int, *, last: bool) -> None:
        assert self._mutant is not None, "only what was asked is answered"
        self._sender.heard(self._mutant, status, perf_counter_ns() - self._since_ns)
        self._mutant, self._repeated = self._sender.next(), False
        if last or self._mutant is None:
            self._leave()
        else:
            self._send()

    def lost(self, *, used: bool) -> None:
        if used and not self._repeated:
            self._repeated = True
            self._leave()
        else:
            self._drop("no answer, the connection was closed")

    def give_up_if_silent(self) -> None:
        silent = self._connection is not None and perf_counter_ns() - self._since_ns > SILENCE_S * 1e9
        if silent and self._mutant is not None:
            self._drop(f"no answer within {SILENCE_S:.0f} s")

    def _drop(self, why: str) -> None:
        assert self._mutant is not None
        self._sender.unheard(self._mutant, why)
        self._mutant, self._repeated = self._sender.next(), False
        self._leave()

    def _send(self) -> None:
        assert self._mutant is not None
        assert self._connection is not None
        self._since_ns = perf_counter_ns()
        self._connection.send(self._mutant.message.wire())

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.leave()
        self._wanted.set()


class _Connection(asyncio.Protocol):
    __slots__ = ("_answers", "_lane", "_left", "_partial", "_transport")

    def __init__(self, lane: _Lane) -> None:
        self._lane = lane
        self._partial = b""
        self._answers = 0
        self._left = False
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._lane.begin(self)

    def send(self, request: bytes) -> None:
        assert self._transport is not None
        self._transport.write(request)

    def leave(self) -> None:
        self._left = True
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._left:
            return
        self._partial += data
        with suppress(ValueError):  # no Content-Length: not an answer of ours, and so none
            bounds = frame(self._partial)
            if bounds is None:
                return
            head, more = self._partial[: bounds[0]], len(self._partial) > bounds[1]
            self._partial = b""
            self._answers += 1
            self._lane.answered(int(head[9:12]), last=more or b"\r\nconnection: close" in head.lower())

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self._left:
            self._left = True
            self._lane.lost(used=self._answers > 0)
