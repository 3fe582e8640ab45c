"""What the peers meet: one simulator with all platforms, one real gateway, and a mailbox for what the simulator sends.

Two merchants stand at the platforms: the gateway's own, and one under which the peers are clients.
"""

import asyncio
import base64
import json
import secrets
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp import web

from bench.processes import ROOT, Child, free_port, python
from channels.simulator.credentials import Account, make_credentials
from channels.simulator.key_files import make_key, private_pem, public_pem
from gateway.embedded import Postgres, Valkey

GATEWAYS: Final = "gateway"
PEERS: Final = "peers"
LETTER_WITHIN_S: Final = 10.0
PATIENCE_S: Final = 30.0
ACKNOWLEDGEMENTS: Final = {"wechatpay": (204, ""), "alipay": (200, "success"), "unionpay": (200, "ok")}


class Letter(msgspec.Struct, frozen=True):
    """A notification as it came over the wire."""

    headers: dict[str, str]
    body: str


class Mailbox:
    """Takes what the simulator notifies, `/{platform}/{number}`, acknowledges it as platforms want, and keeps it."""

    def __init__(self) -> None:
        self._letters: dict[str, asyncio.Future[Letter]] = {}
        self._runner = web.ServerRunner(web.Server(self._take), shutdown_timeout=0.1)
        self.url = ""

    async def __aenter__(self) -> "Mailbox":
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def letter(self, path: str) -> Letter:
        """The first one for this path, which may still be on its way."""
        return await asyncio.wait_for(asyncio.shield(self._at(path)), LETTER_WITHIN_S)

    def _at(self, path: str) -> "asyncio.Future[Letter]":
        return self._letters.setdefault(path, asyncio.get_running_loop().create_future())

    async def _take(self, request: web.BaseRequest) -> web.StreamResponse:
        letter = Letter(dict(request.headers), (await request.read()).decode("latin-1"))
        waiting = self._at(request.path)
        if not waiting.done():
            waiting.set_result(letter)
        status, body = ACKNOWLEDGEMENTS.get(request.path.split("/")[1], (404, ""))
        return web.Response(status=status, body=body.encode() or None)


class Stage:
    """All of it, ended with the block whatever happens in it."""

    def __init__(self) -> None:
        self.simulator_url = ""
        self.gateway_url = ""
        self.folder: Path
        self.accounts: Mapping[str, Mapping[str, Account]]  # merchant -> platform -> its key files
        self.session: aiohttp.ClientSession
        self.mailbox = Mailbox()
        key = make_key()  # one that no platform has heard of
        self.stranger, self.strangers_public = private_pem(key).decode(), public_pem(key).decode()
        self._api_key = ""
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Stage":
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        # Short: the databases' sockets stand below it, and the path of a socket has a limit.
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-conformance-")))
        self.session = await self._stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S), auto_decompress=False)
        )
        await self._stack.enter_async_context(self.mailbox)
        postgres = Postgres(self.folder, durable=False, die_with_parent=True)
        valkey = Valkey(self.folder, die_with_parent=True)
        for server in (postgres, valkey):
            self._stack.push_async_callback(server.stop, force=True)
        await asyncio.gather(postgres.start(), valkey.start(), self._start_simulator())
        await self._start_gateway(postgres.url, valkey.url)

    async def _start_simulator(self) -> None:
        keys = self.folder / "simulator"
        self.accounts = await asyncio.to_thread(make_credentials, keys, [GATEWAYS, PEERS])
        options = ("--dir", keys, "--port", 0, "--pay-rate", 0, "--pay-after-s", "0:0", "--time-scale", 0.01)
        argv = python("channels.simulator", "serve", *options)
        simulator = Child("simulator", argv, self.folder / "simulator.log")
        self._stack.push_async_callback(simulator.kill)
        self.simulator_url = json.loads(await simulator.start(ready='"url"'))["url"]

    async def _start_gateway(self, database: str, redis: str) -> None:
        port = free_port()
        self.gateway_url = f"http://127.0.0.1:{port}"
        sections: dict[str, dict[str, object]] = {
            "server": {"host": "127.0.0.1", "port": port, "drain_s": 1},
            "database": {"url": database, "allow_unsafe": True},
            "redis": {"url": redis},
            "security": {"master_key": base64.b64encode(secrets.token_bytes(32)).decode()},
            "embedded": {"root": str(self.folder)},
        }
        for platform, account in self.accounts[GATEWAYS].items():
            sections[f"channels.{platform}"] = {"base_url": self.simulator_url, **account.section()}
        if "unionpay" in self.accounts[GATEWAYS]:
            sections["channels.unionpay"]["file_url"] = self.simulator_url
        config = self.folder / "holdfast.toml"
        config.write_text('env = "dev"\n' + "".join(_section(*section) for section in sections.items()), "utf-8")
        added = await _said("gateway", "app", "add", "peers", "--json", "--config", config)
        self._api_key = json.loads(added)["api_key"]
        gateway = Child("gateway", python("gateway", "serve", "--config", config), self.folder / "gateway.log")
        self._stack.push_async_callback(gateway.kill)
        await gateway.start(ready="serving")

    # --- the platforms' side

    async def payer_pays(self, platform: str, number: str) -> dict[str, Any]:
        """Somebody pays a trade of the peers, now."""
        order = {"channel": platform, "merchant": self.accounts[PEERS][platform].merchant, "out_trade_no": number}
        return await self.steer("/_sim/pay", order)

    async def steer(self, path: str, order: object) -> dict[str, Any]:
        """Tell the simulator to do something."""
        async with self.session.post(self.simulator_url + path, json=order) as answer:
            said: dict[str, Any] = await answer.json()
            if answer.status != 200:
                raise RuntimeError(f"{path} {order}: {answer.status} {said}")
            return said

    # --- the gateway

    async def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """The gateway's API, as an app uses it."""
        headers = {"Authorization": f"Bearer {self._api_key}"}
        async with self.session.request(method, self.gateway_url + path, json=body, headers=headers) as answer:
            said: dict[str, Any] = await answer.json()
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path}: {answer.status} {said}")
            return said


async def _said(module: str, *words: object) -> str:
    """The last line that a program of ours prints."""
    process = await asyncio.create_subprocess_exec(
        *python(module, *words),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, log = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise RuntimeError(f"{module} {' '.join(map(str, words))} failed: {log.decode('utf-8', 'replace')[-2000:]}")
    return out.decode().strip().rpartition("\n")[2]


def _section(name: str, fields: Mapping[str, object]) -> str:
    lines = "".join(f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in fields.items())
    return f"\n[{name}]\n{lines}"
