"""The load: N keep-alive connections on one loop, each driven by a script; every answer is counted, every latency
kept.

A *script* is a generator that yields the bytes of a request and is sent the `Answer`; when it ends, its connection
does. Closed loop (the default): a connection sends its next request when the last was answered, so N requests are
always under way and throughput is what is measured. Open loop (`rate`): requests fall due at a constant rate
whatever the server does, and their latency counts from when they were *due* (to a tick of 1-2 ms), so that a stall
is charged to everyone it would have met.

As a process of its own (`python -m bench.generator`) it reads one `Job` as JSON from stdin and writes one `Result`
to stdout.
"""

import asyncio
import gc
import sys
from array import array
from collections import Counter, deque
from collections.abc import Callable
from time import perf_counter_ns, process_time

import msgspec
import uvloop

from bench.latency import Latency, summarize
from bench.scripts import Answer, Requests, Script, create, create_and_close, echo
from bench.wire import frame

TICK_S = 0.001
LATE_NS = (
    5_000_000  # a tick later than this means that the loop was busy: its requests are charged from when they were due
)
CONNECT_TIMEOUT_S = 10.0
STOP_GRACE_S = 10.0  # how long an answer may still take when the time is up
SCRIPTS = {"echo": echo, "create": create, "create_and_close": create_and_close}


class BrokenConnectionError(Exception):
    """The server closed a connection that the load still used."""


class Result(msgspec.Struct, frozen=True):
    """What one run measured, after its warm-up."""

    requests: int
    seconds: float
    rps: float
    statuses: dict[int, int]
    latency: Latency
    generator_cpu_s: float


class Load:
    """One run: its connections, its clock and what they recorded."""

    def __init__(self, *, seconds: float, warmup_s: float = 0.0, rate: float | None = None) -> None:
        """`seconds` of measuring after `warmup_s` of running; `rate` in requests a second makes it an open loop."""
        self.warming = warmup_s > 0
        self.over = False
        self.statuses: Counter[int] = Counter()
        self.latencies = array("Q")
        self.schedule = _Schedule(rate, self) if rate else None
        self._seconds, self._warmup_s = seconds, warmup_s
        self._open: set[Connection] = set()
        self._done = asyncio.Event()
        self._broken: Exception | None = None
        self._from_ns = self._until_ns = 0
        self._cpu_s = 0.0

    async def run(self, host: str, port: int, scripts: list[Script]) -> Result:
        """Drive every script over a connection of its own until the time is up or all scripts have ended.

        Raises:
            BrokenConnectionError: the server hung up.
        """
        loop = asyncio.get_running_loop()
        self._open = {Connection(script, self) for script in scripts}
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await asyncio.gather(*(loop.create_connection(_always(c), host, port) for c in self._open))
        self._start(loop)
        async with asyncio.timeout(self._warmup_s + self._seconds + STOP_GRACE_S):
            await self._done.wait()
        if self._broken is not None:
            raise self._broken
        return self._result()

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._from_now()
        if self.warming:
            loop.call_later(self._warmup_s, self._measure, loop)
        else:
            self._measure(loop)
        if self.schedule:
            self.schedule.start(loop)
        for connection in tuple(self._open):
            connection.start()

    def _measure(self, loop: asyncio.AbstractEventLoop) -> None:
        """The time runs from here, not from when this was due: a busy loop comes late, and the figures would be few."""
        self.warming = False
        self._from_now()
        loop.call_later(self._seconds, self._stop)

    def _from_now(self) -> None:
        self._from_ns, self._cpu_s = perf_counter_ns(), process_time()

    def _stop(self) -> None:
        self.over = True
        self._until_ns = self._until_ns or perf_counter_ns()
        if self.schedule:
            self.schedule.release()

    def fail(self, error: Exception) -> None:
        """The run is worth nothing: end it now."""
        self._broken = self._broken or error
        self._stop()
        for connection in tuple(self._open):
            connection.end()

    def lost(self, connection: "Connection") -> None:
        """A connection is gone; the run ends with the last one."""
        self._open.discard(connection)
        if not self._open:
            self._until_ns = self._until_ns or perf_counter_ns()
            self._done.set()

    def _result(self) -> Result:
        seconds = (self._until_ns - self._from_ns) / 1e9
        requests = len(self.latencies)
        return Result(
            requests=requests,
            seconds=round(seconds, 4),
            rps=round(requests / seconds, 1),
            statuses=dict(self.statuses),
            latency=summarize(self.latencies if requests else array("Q", [0])),
            generator_cpu_s=round(process_time() - self._cpu_s, 4),
        )


class Connection(asyncio.Protocol):
    """One keep-alive connection and the script that drives it."""

    __slots__ = ("_ended", "_load", "_partial", "_script", "_since_ns", "_transport")

    def __init__(self, script: Script, load: Load) -> None:
        """A connection not made yet."""
        self._script, self._load = script, load
        self._partial = b""
        self._ended = False
        self._since_ns = 0
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        self._transport = transport  # type: ignore[assignment]

    def start(self) -> None:
        """Send the script's first request."""
        self._advance(None, perf_counter_ns())

    def data_received(self, data: bytes) -> None:
        """Record the answer, once it is whole, and let the script go on."""
        if self._partial:
            data = self._partial + data
        bounds = frame(data)
        if bounds is None:
            self._partial = data
            return
        self._partial = b""
        now_ns = perf_counter_ns()
        status = int(data[9:12])
        load = self._load
        if not (load.warming or load.over):
            load.latencies.append(now_ns - self._since_ns)
            load.statuses[status] += 1
        self._advance(Answer(status, data[bounds[0] : bounds[1]]), now_ns)

    def _advance(self, answer: Answer | None, now_ns: int) -> None:
        if self._load.over:
            self.end()
            return
        try:
            request = self._script.send(answer)  # type: ignore[arg-type]  # None starts it
        except StopIteration:
            self.end()
            return
        except Exception as error:  # a script refuses an answer: the run is worth nothing
            self._load.fail(error)
            return
        if self._load.schedule is None:
            self.send(request, now_ns)
        else:
            self._load.schedule.offer(self, request)

    def send(self, request: bytes, since_ns: int) -> None:
        """Send; its latency counts from `since_ns`."""
        self._since_ns = since_ns
        assert self._transport is not None, "it is started after it was made"
        self._transport.write(request)

    def end(self) -> None:
        """Hang up."""
        self._ended = True
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The server hung up, or we did."""
        if not self._ended:
            self._ended = True
            self._load.fail(BrokenConnectionError(f"the server hung up: {exc}"))
        self._load.lost(self)


class _Schedule:
    """The open loop: due times on one side, free connections on the other."""

    def __init__(self, rate: float, load: Load) -> None:
        self._interval_ns = round(1e9 / rate)
        self._load = load
        self._due: deque[int] = deque()
        self._free: deque[tuple[Connection, bytes]] = deque()
        self._next_ns = 0
        self._loop: asyncio.AbstractEventLoop

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._next_ns = loop, perf_counter_ns()
        self._tick()

    def offer(self, connection: Connection, request: bytes) -> None:
        """A connection is free and holds its next request."""
        if self._due:
            connection.send(request, self._due.popleft())
        else:
            self._free.append((connection, request))

    def _tick(self) -> None:
        if self._load.over:
            return
        now_ns = perf_counter_ns()
        while self._next_ns <= now_ns:
            self._due.append(self._next_ns if now_ns - self._next_ns > LATE_NS else now_ns)
            self._next_ns += self._interval_ns
        while self._due and self._free:
            connection, request = self._free.popleft()
            connection.send(request, self._due.popleft())
        self._loop.call_later(TICK_S, self._tick)

    def release(self) -> None:
        """The time is up: the connections that wait have nothing to wait for."""
        while self._free:
            self._free.popleft()[0].end()


def _always(connection: Connection) -> Callable[[], Connection]:
    return lambda: connection


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `python -m bench.generator` is told: where to send which script, and how.

    `orders` ends the run after so many, if the time is not up before; `run` keeps its order numbers apart from others'.
    """

    host: str
    port: int
    script: str
    connections: int
    seconds: float
    warmup_s: float = 0.0
    rate: float | None = None
    orders: int = sys.maxsize
    api_key: str = "none"
    run: str = "bench"


async def perform(job: Job) -> Result:
    """Run a job in this process."""
    load = Load(seconds=job.seconds, warmup_s=job.warmup_s, rate=job.rate)
    requests, numbers = Requests(job.api_key, job.run), iter(range(job.orders))
    scripts = [SCRIPTS[job.script](requests, numbers) for _ in range(job.connections)]
    return await load.run(job.host, job.port, scripts)


def main() -> None:
    """Read a job, run it, write its result."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    gc.freeze()
    gc.disable()
    sys.stdout.write(msgspec.json.encode(uvloop.run(perform(job))).decode() + "\n")


if __name__ == "__main__":
    main()
