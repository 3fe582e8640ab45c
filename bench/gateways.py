"""Gateways as processes: several over the same databases, each killed and started on its own, and their balancer."""

import asyncio
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.processes import ROOT, Child, ProcessError, python

APP_ADDED_WITHIN_S = 30.0


class Gateway(Child):
    """One gateway process; a crash point can be armed for each of its lives.

    `program` is the module that becomes the gateway, with what it is told before the gateway's own arguments.
    """

    def __init__(
        self,
        name: str,
        config: Path,
        port: int,
        log: Path,
        environment: Mapping[str, str],
        program: Sequence[object] = ("gateway",),
    ) -> None:
        module, *words = program
        super().__init__(name, python(str(module), *words, "serve", "--config", config), log, environment)
        self._environment["HOLDFAST_SERVER__PORT"] = str(port)
        self.url = f"http://127.0.0.1:{port}"

    async def serve(self, *, crash_at: str = "") -> None:
        """Start it and wait until it serves."""
        self._environment["HOLDFAST_CRASH_AT"] = crash_at
        await self.start(ready="serving")

    def be_reached_at(self, url: str) -> None:
        """Have the next life tell channels this address instead of its own."""
        self._environment["HOLDFAST_SERVER__PUBLIC_URL"] = url

    async def died(self, within_s: float = 20.0) -> int | None:
        """Wait for its end; how it ended."""
        await asyncio.wait_for(self.ended(), within_s)
        return self._process.returncode if self._process else None


class Balancer:
    """Gives each connection to the next gateway that takes it. One that is frozen takes it and says nothing."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._ports = [int(url.rpartition(":")[2]) for url in urls]
        self._turn = itertools.count()
        self._server: asyncio.Server | None = None
        self.url = ""

    async def __aenter__(self) -> "Balancer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = next(self._turn)
        for step in range(len(self._ports)):
            port = self._ports[(first + step) % len(self._ports)]
            try:
                up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                continue
            await asyncio.gather(_pump(reader, up_writer), _pump(up_reader, writer))
            return
        writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def add_app(config: Path, name: str, webhook_url: str = "") -> dict[str, str]:
    """Make an app, with or without an address for webhooks; its `api_key` and `webhook_secret`.

    Raises:
        ProcessError: the gateway's command line refused.
    """
    webhook = ("--webhook", webhook_url) if webhook_url else ()
    command = python("gateway", "app", "add", name, *webhook, "--json", "--config", config)
    added = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    said, complaint = await asyncio.wait_for(added.communicate(), APP_ADDED_WITHIN_S)
    if added.returncode:
        raise ProcessError(f"app add failed: {complaint.decode('utf-8', 'replace').strip()[-2000:]}")
    keys: dict[str, str] = json.loads(said.splitlines()[-1])
    return keys
