"""All that the demo starts, and how it ends: databases, channel simulator, gateway, shop, control arm."""

import asyncio
import json
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import msgspec

from bench.demo import configuration
from bench.demo.configuration import Addresses
from bench.ledgers import (
    ChannelPayment,
    Ledgers,
    read_channel_ledger,
    read_control_ledger,
    read_gateway_ledger,
    read_shop_ledger,
)
from bench.processes import ROOT, Child, ProcessError, free_port, python
from channels.simulator.credentials import MerchantFiles, make_credentials
from gateway.embedded import Postgres, Valkey

MERCHANTS = ("holdfast", "control")
SHOP_ASKS_AFTER_S = 8.0  # long enough that webhooks have the first word, short enough to help within the settling
TILL_CLOSES_S = 0.2  # between the SIGTERM that ends the shop's selling and the one that ends the shop
SDK = str(ROOT / "sdk")


class Faults(msgspec.Struct, frozen=True):
    """What the simulator does to both arms alike."""

    drop: float = 0.30
    duplicate: float = 0.10
    delay_s: float = 3.0
    error_rate: float = 0.05

    def said(self) -> str:
        """In words."""
        return (
            f"drop {self.drop:.0%} of notifications, repeat {self.duplicate:.0%}, delay up to {self.delay_s:g} s;"
            f" {self.error_rate:.0%} of the channel's answers are 500"
        )


class Play(msgspec.Struct, frozen=True):
    """What is asked of the demo."""

    seconds: float
    rate: float
    seed: int
    faults: Faults = Faults()
    pay_after_max_s: float = 3.0

    @property
    def orders(self) -> int:
        """How many orders there will be."""
        return int(self.rate * self.seconds)

    @property
    def subject_prefix(self) -> str:
        """Of all orders; also the control arm's out_trade_no, which the channel limits to 32 characters."""
        return f"demo-{self.seed}"


class Kill(msgspec.Struct, frozen=True):
    """Who died when, and how long the gateway was away."""

    at_s: float
    gateway_pid: int
    control_pid: int
    back_after_s: float


class Stage:
    """The running parts. `async with Stage(play, directory)` ends whatever was started, also after a failure."""

    def __init__(self, play: Play, directory: Path) -> None:
        self.play = play
        self.directory = directory
        self.start_at = 0.0
        self.database_url = ""
        self.redis_url = ""
        self.channel_url = ""
        self.gateway: Child
        self.shop: Child
        self.control: Child
        self._simulator: Child
        self._merchants: dict[str, MerchantFiles] = {}
        self._ports: set[int] = set()
        self._stack = AsyncExitStack()
        self._gateway_port = free_port(self._ports)
        self.shop_url = f"http://127.0.0.1:{free_port(self._ports)}"

    async def __aenter__(self) -> "Stage":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def gateway_url(self) -> str:
        """Where the gateway answers, before and after every kill."""
        return f"http://127.0.0.1:{self._gateway_port}"

    # --- raising the curtain

    async def start_databases(self) -> None:
        """PostgreSQL as in production (it syncs) and Valkey."""
        postgres, valkey = Postgres(self.directory, die_with_parent=True), Valkey(self.directory, die_with_parent=True)
        self._stack.push_async_callback(postgres.stop, force=True)
        self._stack.push_async_callback(valkey.stop, force=True)
        self.database_url, self.redis_url = await asyncio.gather(postgres.start(), valkey.start())

    async def start_channel(self) -> None:
        """Accounts for both arms at one simulated channel, with its payers and faults."""
        folder = self.directory / "simulator"
        self._merchants = await asyncio.to_thread(make_credentials, folder, list(MERCHANTS))
        faults = self.play.faults
        self._simulator = self._child(
            "simulator",
            python(
                "channels.simulator",
                *("--dir", folder, "--seed", self.play.seed, "--time-scale", 1 / configuration.FASTER),
                *("--pay-after-s", f"0.2:{self.play.pay_after_max_s}", "--error-rate", faults.error_rate),
                *("--drop", faults.drop, "--duplicate", faults.duplicate, "--delay-s", faults.delay_s),
            ),
        )
        self.channel_url = json.loads(await self._simulator.start(ready='"url"'))["url"]

    async def start_gateway(self) -> None:
        """The product, on a configuration file like any other."""
        addresses = Addresses(self._gateway_port, self.database_url, self.redis_url, self.channel_url)
        configuration.write(self._config, addresses, self._merchants["holdfast"].section())
        self.gateway = self._child("gateway", python("gateway", "serve", "--config", self._config))
        await self.gateway.start(ready="serving")

    async def start_arms(self) -> None:
        """The shop that uses the gateway, and beside it the control arm, with the same customers."""
        keys = await self._add_app()
        self.start_at = time.time() + 1.0
        shop_port = self.shop_url.rpartition(":")[2]
        self.shop = self._child(
            "shop",
            python(
                "examples.shop",
                *("--gateway", self.gateway_url, "--ledger", self.directory / "shop.sqlite", "--port", shop_port),
                *("--ask-after-s", SHOP_ASKS_AFTER_S, *self._customers()),
            ),
            {"HOLDFAST_API_KEY": keys["api_key"], "HOLDFAST_WEBHOOK_SECRET": keys["webhook_secret"]},
        )
        merchant = self.directory / "simulator" / "merchants" / "control.json"
        self.control = self._child(
            "control",
            python(
                "bench.demo.control",
                *("--channel-url", self.channel_url, "--merchant", merchant, "--port", free_port(self._ports)),
                *("--ledger", self.directory / "control.sqlite", *self._customers()),
            ),
        )
        await asyncio.gather(self.shop.start(ready='"ready"'), self.control.start(ready='"ready"'))

    def _customers(self) -> tuple[object, ...]:
        play = self.play
        schedule = ("--rate", play.rate, "--seconds", play.seconds, "--start-at", self.start_at)
        return (*schedule, "--seed", play.seed, "--subject-prefix", play.subject_prefix)

    async def _add_app(self) -> dict[str, str]:
        command = python("gateway", "app", "add", "shop", "--webhook", f"{self.shop_url}/webhooks", "--json")
        added = await asyncio.create_subprocess_exec(
            *command, "--config", self._config, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        said, complaint = await asyncio.wait_for(added.communicate(), 30)
        if added.returncode:
            raise ProcessError(f"app add failed: {complaint.decode('utf-8', 'replace').strip()[-2000:]}")
        keys: dict[str, str] = json.loads(said.splitlines()[-1])
        return keys

    # --- the play

    async def kill_and_restart(self) -> Kill:
        """SIGKILL for gateway and control arm at the same moment, and both at once again."""
        at_s, began = max(0.0, time.time() - self.start_at), time.monotonic()
        pids = await asyncio.gather(self.gateway.kill(), self.control.kill())

        async def restart_gateway() -> float:
            await self.gateway.start(ready="serving")
            return time.monotonic() - began

        back_after_s, _ = await asyncio.gather(restart_gateway(), self.control.start(ready='"ready"'))
        return Kill(at_s, pids[0] or 0, pids[1] or 0, back_after_s)

    def close_tills(self) -> None:
        """No more orders on either side."""
        for child in (self.shop, self.control):
            child.signal(signal.SIGTERM)

    async def freeze(self) -> None:
        """End everybody who writes, so that the ledgers hold still; the databases stay for the auditor."""
        await asyncio.gather(self.gateway.stop(), self.shop.stop(again_after_s=TILL_CLOSES_S), self._simulator.stop())
        await self.control.kill()

    async def ledgers(self) -> Ledgers:
        """Everybody's books. The channel's first: what is read later can only know more of what was paid there."""
        payments = {name: self._channel_payments(name) for name in MERCHANTS}
        control_orders = read_control_ledger(self.directory / "control.sqlite")
        orders, recorded = await read_gateway_ledger(self.database_url)
        return Ledgers(
            payments=payments["holdfast"],
            gateway_orders=orders,
            gateway_payments=recorded,
            shop_orders=read_shop_ledger(self.directory / "shop.sqlite"),
            control_payments=payments["control"],
            control_orders=control_orders,
        )

    def _channel_payments(self, merchant: str) -> list[ChannelPayment]:
        return read_channel_ledger(self.channel_ledger, self._merchants[merchant].mchid)

    @property
    def channel_ledger(self) -> Path:
        """What was really paid."""
        return self.directory / "simulator" / "ledger.jsonl"

    @property
    def mchids(self) -> tuple[str, str]:
        """The gateway's and the control arm's account at the channel."""
        return self._merchants["holdfast"].mchid, self._merchants["control"].mchid

    @property
    def _config(self) -> Path:
        return self.directory / "holdfast.toml"

    def _child(self, name: str, argv: list[str], environment: Mapping[str, str] | None = None) -> Child:
        child = Child(name, argv, self.directory / f"{name}.log", {"PYTHONPATH": SDK, **(environment or {})})
        ends: dict[str, Callable[[], Awaitable[object]]] = {
            "control": child.kill,
            "shop": partial(child.stop, again_after_s=TILL_CLOSES_S),
        }
        self._stack.push_async_callback(ends.get(name, child.stop))
        return child
