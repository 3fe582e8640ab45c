"""HTTP written byte by byte, for what no client library sends."""

import asyncio
from urllib.parse import urlsplit

from multidict import CIMultiDict

from tests.integration.gateway_parts import WITHIN_S, Answer


class Raw:
    """Writes requests byte by byte."""

    def __init__(self, url: str, key: str) -> None:
        self._host, self._port = urlsplit(url).hostname, urlsplit(url).port
        self._key = key

    async def get(self, path: str) -> Answer:
        return await self.ask("GET", path, f"Authorization: Bearer {self._key}")

    async def ask(self, method: str, path: str, *lines: str, body: bytes = b"") -> Answer:
        head = "\r\n".join((f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""))
        return await self.send(head.encode() + body)

    async def send(self, request: bytes) -> Answer:
        """The answer to these bytes. The connection is closed by us, after one answer."""
        async with asyncio.timeout(WITHIN_S):
            reader, writer = await asyncio.open_connection(self._host, self._port)
            try:
                writer.write(request)
                return await read_answer(reader)
            finally:
                writer.close()


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """One answer that tells its length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = CIMultiDict((line.split(": ", 1)[0], line.split(": ", 1)[1]) for line in head[1:] if line)
    return Answer(int(head[0].split()[1]), headers, await reader.readexactly(int(headers["Content-Length"])))
