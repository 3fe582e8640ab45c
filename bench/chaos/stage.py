"""All that chaos plays on: databases, simulated channels, two gateways each behind a bad line, shop, visitors."""

import asyncio
import json
import shutil
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec

from bench.chaos import skewed
from bench.chaos.endpoint import Endpoint
from bench.chaos.small_disk import SmallDisk
from bench.chaos.timeline import GATEWAYS
from bench.chaos.visitors import Visitors
from bench.demo.configuration import Addresses, write_gateway
from bench.gateways import Balancer, Gateway, add_app
from bench.ledgers import Ledgers, read_channel_ledger, read_gateway_ledger, read_shop_ledger
from bench.lossy_proxy import LossyProxy
from bench.processes import ROOT, Child, free_port, python
from channels.simulator.credentials import Account, make_credentials
from gateway.embedded import Postgres, Valkey

MERCHANT = "holdfast"
SDK = str(ROOT / "sdk")
WAYS = "wechatpay.native:3,alipay.qr,alipay.page,unionpay.web"
PAY_AFTER_MAX_S = 2.0
CHANNEL_TIME_SCALE = 0.02  # 15 s between two notifications become 0.3 s
SHOP_ASKS_AFTER_S = 4.0
TILL_CLOSES_S = 0.2
EXPIRES_IN_S = 20.0
# Minutes become seconds; the ladders keep their shape, and last until the end of the longest run.
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "server": {"single_process": False, "drain_s": 2},
    "orders": {"expires_in_s": EXPIRES_IN_S},
    "checks": {
        "timeout_s": 1.0,
        "queries_s": [0.5, 1, 1],
        "slow_queries_s": [2, 4],
        "closing_s": [0.5, 1, 1, 2, 3, 5],
        "watch_s": [1, 3, 6, 12, 60],
        "exception_s": [1, 2, *[3] * 900],
        "refund_s": [0.5, 1, 1, 2, 3, 5],
        "not_found_final_s": 3,
    },
    "notifications": {"parked_s": [1, 2, 5]},
    **{f"channels.{name}": {"breaker_pause_s": 1.0} for name in ("wechatpay", "alipay", "unionpay")},
    "sweep": {"every_s": 0.3, "grace_s": 0.3, "lease_s": 3.0},
    "webhooks": {"schedule_s": [0, *[0.5] * 20, *[2] * 200], "timeout_s": 1.5},
}
DURING = {"drop": 0.2, "duplicate": 0.1}  # of notifications, whatever else goes wrong
AFTERWARDS = {"drop": 0.0, "duplicate": 0.0}


class Play(msgspec.Struct, frozen=True):
    """What is asked of chaos: for how long, how many customers a second, the seed, and whether a small disk may be
    mounted."""

    seconds: float
    rate: float
    seed: int
    may_mount: bool = False

    @property
    def prefix(self) -> str:
        """Of all the shop's orders."""
        return f"chaos-{self.seed}"

    @property
    def orders(self) -> int:
        """How many customers come."""
        return int(self.rate * self.seconds)


class Stage:
    """The running parts. `async with Stage(play, directory)` ends whatever was started, also after a failure."""

    def __init__(self, play: Play, directory: Path) -> None:
        self.play = play
        self.directory = directory
        self.start_at = 0.0
        self.postgres = Postgres(directory, die_with_parent=True)
        self.valkey = Valkey(directory, die_with_parent=True)
        self.disk = SmallDisk(directory / "small-disk", self.postgres.url, play.orders, may_mount=play.may_mount)
        self.gateways: dict[str, Gateway] = {}
        self.lines: dict[str, LossyProxy] = {}
        self.clocks = {name: directory / f"{name}.clock" for name in GATEWAYS}
        self.simulator: Child
        self.shop: Child
        self.endpoint: Endpoint
        self.visitors: Visitors
        self.session: aiohttp.ClientSession
        self.secrets: list[str] = []
        self.channel_url = ""
        self.shop_url = ""
        self._balancer: Balancer
        self._accounts: Mapping[str, Account] = {}
        self._ports: set[int] = set()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Stage":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        for server in (self.postgres, self.valkey):  # a long path has its socket elsewhere
            shutil.rmtree(server.socket_dir, ignore_errors=True)

    # --- raising the curtain

    async def start(self) -> None:
        """Everything, in its order. The first customer comes at `start_at`."""
        self.session = await self._stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        )
        for server in (self.postgres, self.valkey):
            self._stack.push_async_callback(server.stop, force=True)
        self._stack.callback(self.disk.remove)
        await asyncio.gather(self.postgres.start(), self.valkey.start(), self._start_channels())
        await self._start_gateways()
        await self._start_apps()

    async def _start_channels(self) -> None:
        folder = self.directory / "simulator"
        self._accounts = (await asyncio.to_thread(make_credentials, folder, [MERCHANT]))[MERCHANT]
        self.simulator = self._child(
            "simulator",
            python(
                "channels.simulator",
                *("serve", "--dir", folder, "--port", 0, "--seed", self.play.seed),
                *("--time-scale", CHANNEL_TIME_SCALE, "--pay-after-s", f"0.1:{PAY_AFTER_MAX_S}", "--pay-at-cashier"),
                *("--fault", *(f"{name}={share}" for name, share in DURING.items())),
            ),
        )
        self.channel_url = json.loads(await self.simulator.start(ready='"url"'))["url"]

    async def _start_gateways(self) -> None:
        ports = {name: free_port(self._ports) for name in GATEWAYS}
        self._balancer = Balancer([f"http://127.0.0.1:{port}" for port in ports.values()])
        await self._stack.enter_async_context(self._balancer)
        addresses = Addresses(0, self.postgres.url, self.valkey.url, self.channel_url)
        server = {**SETTINGS["server"], "public_url": self._balancer.url}
        write_gateway(self.config, addresses, self._accounts, {**SETTINGS, "server": server})
        for name, port in ports.items():
            self.gateways[name] = await self._gateway(name, port)
            await self.gateways[name].serve()
        await self.disk.put_events_there()

    async def _gateway(self, name: str, port: int) -> Gateway:
        """One with a line of its own to the database and a clock of its own."""
        line = await self._stack.enter_async_context(LossyProxy(self.postgres.url))
        self.lines[name] = line
        skewed.set_offset(self.clocks[name], 0.0)
        gateway = Gateway(
            name,
            self.config,
            port,
            self.directory / f"{name}.log",
            {"HOLDFAST_DATABASE__URL": line.url},
            program=("bench.chaos.skewed", self.clocks[name], "gateway"),
        )
        self._stack.push_async_callback(gateway.kill)
        return gateway

    async def _start_apps(self) -> None:
        self.shop_url = f"http://127.0.0.1:{free_port(self._ports)}"
        self.endpoint = await self._stack.enter_async_context(Endpoint(f"{self.shop_url}/webhooks"))
        shop, visitors = await asyncio.gather(
            add_app(self.config, "shop", f"{self.endpoint.url}/shop"),
            add_app(self.config, "visitors", f"{self.endpoint.url}/visitors"),
        )
        self.secrets = [*shop.values(), *visitors.values()]
        self.visitors = Visitors(
            self.play.seed,
            [gateway.url for gateway in self.gateways.values()],
            (visitors["api_key"], visitors["webhook_secret"]),
            self.steer,
            self.merchants,
        )
        self.endpoint.tell_visitors(self.visitors.receive)
        self.start_at = time.time() + 1.0
        self.shop = self._child("shop", self._shop_command(), {
            "HOLDFAST_API_KEY": shop["api_key"],
            "HOLDFAST_WEBHOOK_SECRET": shop["webhook_secret"],
        })  # fmt: skip
        await self.shop.start(ready='"ready"')

    def _shop_command(self) -> list[str]:
        play, port = self.play, self.shop_url.rpartition(":")[2]
        return python(
            "examples.shop",
            *("--gateway", self._balancer.url, "--ledger", self.shop_ledger, "--port", port),
            *("--ask-after-s", SHOP_ASKS_AFTER_S, "--scan-at", f"{self.channel_url}/cashier"),
            *("--return-to", f"{self.shop_url}/orders", "--pay-with", WAYS),
            *("--rate", play.rate, "--seconds", play.seconds, "--start-at", self.start_at),
            *("--seed", play.seed, "--subject-prefix", play.prefix),
        )

    def _child(self, name: str, argv: list[str], environment: Mapping[str, str] = {}) -> Child:
        child = Child(name, argv, self.directory / f"{name}.log", {"PYTHONPATH": SDK, **environment})
        self._stack.push_async_callback(child.kill)
        return child

    # --- the play

    async def steer(self, path: str, order: Mapping[str, object]) -> tuple[int, Any]:
        """Tell the channels' simulator something: status and answer."""
        async with self.session.post(self.channel_url + path, json=order) as answer:
            return answer.status, await answer.json()

    async def connect(self) -> asyncpg.Connection:
        """To the database, as its owner and not over a bad line."""
        return await asyncpg.connect(self.postgres.url, timeout=10)

    async def execute(self, sql: str) -> None:
        """As the database's owner."""
        connection = await self.connect()
        try:
            await connection.execute(sql)
        finally:
            connection.terminate()

    async def freeze(self) -> None:
        """End everybody who writes, so that the ledgers hold still; the databases stay for the auditor."""
        await asyncio.gather(
            *(gateway.stop() for gateway in self.gateways.values()),
            self.shop.stop(again_after_s=TILL_CLOSES_S),
            self.simulator.stop(),
        )

    # --- the books

    async def ledgers(self) -> Ledgers:
        """Everybody's books. The channel's first: what is read later can only know more of what was paid there."""
        payments = await asyncio.to_thread(read_channel_ledger, self.channel_ledger, self.merchants)
        orders, attempts, recorded, refunds = await read_gateway_ledger(self.postgres.url)
        bought = await asyncio.to_thread(read_shop_ledger, self.shop_ledger)
        return Ledgers(payments, orders, attempts, recorded, refunds, [*bought, *self.visitors.book()])

    @property
    def merchants(self) -> dict[str, str]:
        """What each channel calls us."""
        return {channel: account.merchant for channel, account in self._accounts.items()}

    @property
    def config(self) -> Path:
        """The gateways' file, the same for both."""
        return self.directory / "holdfast.toml"

    @property
    def shop_ledger(self) -> Path:
        """What the shop wrote down."""
        return self.directory / "shop.sqlite"

    @property
    def channel_ledger(self) -> Path:
        """What was really paid."""
        return self.directory / "simulator" / "ledger.jsonl"
