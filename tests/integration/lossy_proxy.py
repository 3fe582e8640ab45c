"""A TCP proxy in front of PostgreSQL that loses what a network loses: replies, connections, the way to the server."""

import asyncio
from enum import StrEnum
from urllib.parse import parse_qs, urlsplit


class Weather(StrEnum):
    """What happens to traffic."""

    FAIR = "fair"
    SILENT = "silent"  # statements arrive and are executed, their replies vanish, connections stay
    AWAY = "away"  # nobody can connect; connections that exist end


class LossyProxy:
    """`async with LossyProxy(database_url) as proxy: connect to proxy.url`."""

    def __init__(self, database_url: str) -> None:
        parts = urlsplit(database_url)
        where = parse_qs(parts.query)
        self._upstream = f"{where['host'][0]}/.s.PGSQL.{where['port'][0]}"
        self._database = parts.path
        self._weather = Weather.FAIR
        self._lose_next_reply = False
        self._replies_lost = 0
        self._writers: set[asyncio.StreamWriter] = set()
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
        self._cut()
        await self._server.wait_closed()

    @property
    def replies_lost(self) -> int:
        """How often a statement was executed and its connection ended before the reply came through."""
        return self._replies_lost

    def set(self, weather: Weather) -> None:
        """From now on."""
        self._weather = weather
        if weather is Weather.AWAY:
            self._cut()

    def lose_next_reply(self) -> None:
        """The next statement is executed; instead of its reply comes the end of the connection."""
        self._lose_next_reply = True

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._weather is Weather.AWAY:
            writer.transport.abort()
            return
        up_reader, up_writer = await asyncio.open_unix_connection(self._upstream)
        both = {writer, up_writer}
        self._writers |= both
        try:
            await asyncio.gather(self._pump(reader, up_writer, up=True), self._pump(up_reader, writer, up=False))
        finally:
            self._writers -= both
            for each in both:
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        try:
            while chunk := await reader.read(65536):
                if not up and self._lose_next_reply:
                    self._lose_next_reply = False
                    self._replies_lost += 1
                    self._cut()
                    return
                if up or self._weather is Weather.FAIR:
                    writer.write(chunk)
                    await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()
