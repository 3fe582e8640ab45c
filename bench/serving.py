"""A server of a few lines on a bare asyncio Protocol: what the generator's own ceiling is measured on, and stubs
are made of.

As a process of its own (`python -m bench.serving`) it answers every request with the same bytes.
"""

import asyncio
import sys
from collections.abc import Callable

import uvloop

from bench.wire import frame, response


def announce(server: asyncio.Server) -> None:
    """Say where a server listens, in the gateway's own words, to whoever started this process."""
    host, port = server.sockets[0].getsockname()[:2]
    sys.stdout.write(f"serving http://{host}:{port}\n")
    sys.stdout.flush()


class Exchange(asyncio.Protocol):
    """One connection of a server whose whole behaviour is a function from a request's head and body to an answer."""

    def __init__(self, answer: Callable[[bytes, bytes], bytes]) -> None:
        """`answer(head, body)` must not block."""
        self._answer = answer
        self._partial = b""
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Answer each whole request, in order."""
        data = self._partial + data
        while (bounds := frame(data)) is not None:
            begins, ends = bounds
            self._transport.write(self._answer(data[:begins], data[begins:ends]))
            data = data[ends:]
        self._partial = data


async def _serve() -> None:
    always = response(200, b'{"ok":true}', {"Content-Type": "application/json"})
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Exchange(lambda _head, _body: always), "127.0.0.1", 0)
    announce(server)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
