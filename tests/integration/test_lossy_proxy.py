"""The bad line between gateway and database: what it loses stays lost, and a connection with a gap never works."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bench.lossy_proxy import LossyProxy, Weather

SOON_S = 0.3


class Server:
    """Answers every line with itself, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self.asked.append(line.strip())
                writer.write(line)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


class Caller:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def ask(self, line: bytes, within_s: float = SOON_S) -> bytes | None:
        """The answer; None: silence. Empty: the connection has ended."""
        try:
            self.writer.write(line + b"\n")
            return (await asyncio.wait_for(self._reader.readline(), within_s)).strip()
        except TimeoutError:
            return None
        except OSError:
            return b""

    async def ended(self) -> bool:
        try:
            return await asyncio.wait_for(self._reader.read(), 5) == b""
        except OSError:
            return True


Call = Callable[[LossyProxy], Awaitable[Caller]]


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def proxy(server: Server, tmp_path: Path) -> AsyncIterator[LossyProxy]:
    listening = await asyncio.start_unix_server(server.serve, tmp_path / ".s.PGSQL.5432")
    async with LossyProxy(f"postgresql://postgres@/postgres?host={tmp_path}&port=5432", delay_s=0.15) as proxy:
        yield proxy
    listening.close()


@pytest.fixture
async def call() -> AsyncIterator[Call]:
    """Connections, ended with the test."""
    callers: list[Caller] = []

    async def made(proxy: LossyProxy) -> Caller:
        address = urlsplit(proxy.url)
        assert address.hostname == "127.0.0.1"
        callers.append(Caller(*await asyncio.open_connection(address.hostname, address.port)))
        return callers[-1]

    yield made
    for caller in callers:
        caller.writer.transport.abort()
    await asyncio.sleep(0)  # the loop lets go of them


async def test_in_fair_weather_everything_arrives(call: Call, proxy: LossyProxy) -> None:
    caller = await call(proxy)
    assert await caller.ask(b"one") == b"one"
    assert await caller.ask(b"two") == b"two"


async def test_slow_is_late_and_whole(call: Call, proxy: LossyProxy) -> None:
    caller = await call(proxy)
    proxy.set(Weather.SLOW)
    assert await caller.ask(b"one", within_s=0.1) is None
    assert await caller.ask(b"two", within_s=2.0) == b"one"


async def test_silent_is_executed_and_the_connection_ends_when_the_weather_clears(
    call: Call, proxy: LossyProxy, server: Server
) -> None:
    caller = await call(proxy)
    proxy.set(Weather.SILENT)
    assert await caller.ask(b"pay") is None
    assert server.asked == [b"pay"]
    proxy.set(Weather.FAIR)
    assert await caller.ended()
    assert await (await call(proxy)).ask(b"again") == b"again"


async def test_a_hole_swallows_both_ways(call: Call, proxy: LossyProxy, server: Server) -> None:
    caller = await call(proxy)
    assert await caller.ask(b"before") == b"before"
    proxy.set(Weather.HOLE)
    assert await caller.ask(b"pay") is None
    assert server.asked == [b"before"]
    proxy.set(Weather.FAIR)
    assert await caller.ended()


async def test_what_lost_nothing_goes_on_after_a_hole(call: Call, proxy: LossyProxy) -> None:
    caller = await call(proxy)
    assert await caller.ask(b"before") == b"before"
    proxy.set(Weather.HOLE)
    proxy.set(Weather.FAIR)
    assert await caller.ask(b"after") == b"after"


async def test_away_ends_what_is_there_and_takes_nobody(call: Call, proxy: LossyProxy) -> None:
    caller = await call(proxy)
    assert await caller.ask(b"before") == b"before"
    proxy.set(Weather.AWAY)
    assert await caller.ended()
    assert await (await call(proxy)).ask(b"anybody") == b""
    proxy.set(Weather.FAIR)
    assert await (await call(proxy)).ask(b"again") == b"again"


async def test_a_cut_ends_every_connection(call: Call, proxy: LossyProxy) -> None:
    callers = [await call(proxy) for _ in range(3)]
    for caller in callers:
        assert await caller.ask(b"here") == b"here"
    proxy.cut()
    for caller in callers:
        assert await caller.ended()


async def test_the_next_reply_is_lost_and_counted(call: Call, proxy: LossyProxy, server: Server) -> None:
    caller = await call(proxy)
    proxy.lose_next_reply()
    assert await caller.ask(b"pay", within_s=5) == b""
    assert server.asked == [b"pay"]
    assert proxy.replies_lost == 1
    assert await (await call(proxy)).ask(b"again") == b"again"


async def test_a_server_that_is_away_is_an_ended_connection(call: Call, tmp_path: Path) -> None:
    async with LossyProxy(f"postgresql://postgres@/postgres?host={tmp_path}&port=5432") as proxy:
        assert await (await call(proxy)).ask(b"anybody", within_s=5) == b""
