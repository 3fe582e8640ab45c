"""A TCP proxy in front of PostgreSQL that loses what a network loses: replies, requests, connections, time.

A connection that lost a byte never works again: TCP does not deliver what comes after a gap. So it stays as silent as
it has become, and ends when the weather clears.
"""

import asyncio
from enum import StrEnum
from urllib.parse import parse_qs, urlsplit


class Weather(StrEnum):
    """What happens to traffic."""

    FAIR = "fair"
    SLOW = "slow"  # everything arrives, each piece `delay_s` late
    SILENT = "silent"  # statements arrive and are executed, their replies vanish, connections stay
    HOLE = "hole"  # nothing arrives on either side, connections stay
    AWAY = "away"  # nobody can connect; connections that exist end


class LossyProxy:
    """`async with LossyProxy(database_url) as proxy: connect to proxy.url`. `delay_s` is that of Weather.SLOW."""

    def __init__(self, database_url: str, delay_s: float = 0.2) -> None:
        parts = urlsplit(database_url)
        where = parse_qs(parts.query)
        self._upstream = f"{where['host'][0]}/.s.PGSQL.{where['port'][0]}"
        self._database = parts.path
        self._delay_s = delay_s
        self._weather = Weather.FAIR
        self._lose_next_reply = False
        self._replies_lost = 0
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self.url = ""

    async def __aenter__(self) -> "LossyProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"postgresql://postgres@127.0.0.1:{port}{self._database}?sslmode=disable"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    @property
    def replies_lost(self) -> int:
        """How often a statement was executed and its connection ended before the reply came through."""
        return self._replies_lost

    def set(self, weather: Weather) -> None:
        """From now on."""
        self._weather = weather
        if weather is Weather.AWAY:
            self.cut()
        elif weather in (Weather.FAIR, Weather.SLOW):
            for link in [link for link in self._links if link.torn]:
                link.cut()

    def cut(self) -> None:
        """End every connection with a reset, now."""
        for link in list(self._links):
            link.cut()

    def lose_next_reply(self) -> None:
        """The next statement is executed; instead of its reply comes the end of the connection."""
        self._lose_next_reply = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._weather is Weather.AWAY:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_unix_connection(self._upstream)
        except OSError:  # the server itself is away
            writer.transport.abort()
            return
        link = _Link(writer, up_writer)
        self._links.add(link)
        try:
            await asyncio.gather(
                self._pump(link, reader, up_writer, up=True), self._pump(link, up_reader, writer, up=False)
            )
        finally:
            self._links.discard(link)
            link.cut()

    async def _pump(
        self, link: "_Link", reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        try:
            while chunk := await reader.read(65536):
                if not up and self._lose_next_reply:
                    self._lose_next_reply = False
                    self._replies_lost += 1
                    self.cut()
                    return
                if self._weather is Weather.SLOW:
                    await asyncio.sleep(self._delay_s)
                if link.swallows(self._weather, up=up):
                    continue
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()


class _Link:
    """Both sides of one connection, and the directions in which it has lost something."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self._writers = writers
        self._lost: set[bool] = set()

    @property
    def torn(self) -> bool:
        """Whether a byte was lost."""
        return bool(self._lost)

    def swallows(self, weather: Weather, *, up: bool) -> bool:
        """Whether a piece in this direction vanishes, now or because one before it did."""
        if weather is Weather.HOLE or (weather is Weather.SILENT and not up):
            self._lost.add(up)
        return up in self._lost

    def cut(self) -> None:
        """End it."""
        for writer in self._writers:
            writer.transport.abort()
