"""All that the demo starts, and how it ends: databases, channels' simulator, gateway, shop, control arm."""

import asyncio
import json
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import aiohttp
import msgspec

from bench.demo import configuration
from bench.demo.configuration import Addresses
from bench.demo.faults import Faults
from bench.gateways import add_app
from bench.ledgers import (
    ChannelPayment,
    Ledgers,
    read_channel_ledger,
    read_control_ledger,
    read_gateway_ledger,
    read_shop_ledger,
)
from bench.processes import ROOT, Child, free_port, python
from channels.simulator.cashier import page_of
from channels.simulator.credentials import Account, make_credentials
from gateway.embedded import Postgres, Valkey

MERCHANTS = ("holdfast", "control")
# A third of the customers for each channel, and every way in which a browser or a telephone alone can pay.
WAYS = {
    "wechatpay": ("wechatpay.native:2", "wechatpay.h5"),
    "alipay": ("alipay.qr", "alipay.page", "alipay.wap"),
    "unionpay": ("unionpay.qr", "unionpay.web", "unionpay.wap"),
}
FICKLE = 0.1  # of the shop's customers look at one way to pay and take another; some then pay both
SHOP_ASKS_AFTER_S = 8.0  # long enough that webhooks have the first word, short enough to help within the settling
TILL_CLOSES_S = 0.2  # between the SIGTERM that ends the shop's selling and the one that ends the shop
SDK = str(ROOT / "sdk")


class Play(msgspec.Struct, frozen=True):
    """What is asked of the demo."""

    seconds: float
    rate: float
    seed: int
    faults: Faults = Faults()
    pay_after_max_s: float = 3.0
    channels: tuple[str, ...] = tuple(WAYS)

    @property
    def pay_with(self) -> str:
        """The ways customers pay, as shop and control arm take them."""
        return ",".join(way for channel in self.channels for way in WAYS[channel])

    @property
    def orders(self) -> int:
        """How many orders there will be."""
        return int(self.rate * self.seconds)

    @property
    def subject_prefix(self) -> str:
        """Of all orders; also of the control arm's out_trade_no, which channels limit to 32 characters."""
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
        self.api_key = ""
        self._accounts: Mapping[str, Mapping[str, Account]] = {}
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

    async def make_accounts(self) -> None:
        """Accounts for both arms at every channel; a thread for each, because making keys is all work."""
        folder = self.directory / "simulator"
        made = await asyncio.gather(
            *(asyncio.to_thread(make_credentials, folder, MERCHANTS, [channel]) for channel in self.play.channels)
        )
        self._accounts = {
            merchant: {channel: files for part in made for channel, files in part[merchant].items()}
            for merchant in MERCHANTS
        }

    async def start_channels(self) -> None:
        """One simulator for all channels, with its payers and faults."""
        play = self.play
        faults = [f"{name}={share}" for name, share in play.faults.shares(play.channels).items()]
        self._simulator = self._child(
            "simulator",
            python(
                "channels.simulator",
                *("serve", "--dir", self.directory / "simulator", "--port", 0, "--channels", *play.channels),
                *("--seed", play.seed, "--time-scale", 1 / configuration.FASTER),
                *("--pay-after-s", f"0.2:{play.pay_after_max_s}", "--pay-at-cashier", "--fault", *faults),
            ),
        )
        self.channel_url = json.loads(await self._simulator.start(ready='"url"'))["url"]

    async def start_gateway(self) -> None:
        """The product, on a configuration file like any other."""
        addresses = Addresses(self._gateway_port, self.database_url, self.redis_url, self.channel_url)
        configuration.write_gateway(self._config, addresses, self._accounts["holdfast"])
        self.gateway = self._child("gateway", python("gateway", "serve", "--config", self._config))
        await self.gateway.start(ready="serving")

    async def start_arms(self) -> None:
        """The shop that uses the gateway, and beside it the control arm, with the same customers."""
        keys = await add_app(self._config, "shop", f"{self.shop_url}/webhooks")
        self.api_key = keys["api_key"]
        self.start_at = time.time() + 1.0
        shop_port = self.shop_url.rpartition(":")[2]
        self.shop = self._child(
            "shop",
            python(
                "examples.shop",
                *("--gateway", self.gateway_url, "--ledger", self.directory / "shop.sqlite", "--port", shop_port),
                *("--ask-after-s", SHOP_ASKS_AFTER_S, "--return-to", f"{self.shop_url}/orders"),
                *("--scan-at", f"{self.channel_url}/cashier", "--fickle", FICKLE, *self._customers()),
            ),
            {"HOLDFAST_API_KEY": keys["api_key"], "HOLDFAST_WEBHOOK_SECRET": keys["webhook_secret"]},
        )
        control_config = self.directory / "control.toml"
        configuration.write_control(control_config, self.channel_url, self._accounts["control"])
        self.control = self._child(
            "control",
            python(
                "bench.demo.control",
                *("--channel-url", self.channel_url, "--config", control_config, "--port", free_port(self._ports)),
                *("--ledger", self.directory / "control.sqlite", *self._customers()),
            ),
        )
        await asyncio.gather(self.shop.start(ready='"ready"'), self.control.start(ready='"ready"'))

    def _customers(self) -> tuple[object, ...]:
        play = self.play
        schedule = ("--rate", play.rate, "--seconds", play.seconds, "--start-at", self.start_at)
        return (*schedule, "--seed", play.seed, "--subject-prefix", play.subject_prefix, "--pay-with", play.pay_with)

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

    async def hand_over_the_cashier(self) -> list[str]:
        """From now on nobody pays but a person who presses the button; where an order of each channel waits for it."""
        async with aiohttp.ClientSession(self.channel_url, raise_for_status=True) as session:
            async with session.post("/_sim/payers", json={"rate": 0.0}):
                pass
            pages = []
            for channel, merchant in self.merchants("holdfast").items():
                async with session.get("/_sim/trades", params={"channel": channel, "merchant": merchant}) as answer:
                    trades = await answer.json()
                numbers = [each["out_trade_no"] for each in trades if each["state"] in ("offered", "waiting")]
                pages += [self.channel_url + page_of(channel, merchant, number) for number in numbers[-1:]]
        return pages

    async def freeze(self) -> None:
        """End everybody who writes, so that the ledgers hold still; the databases stay for the auditor."""
        await asyncio.gather(self.gateway.stop(), self.shop.stop(again_after_s=TILL_CLOSES_S), self._simulator.stop())
        await self.control.kill()

    async def ledgers(self) -> Ledgers:
        """Everybody's books. The channel's first: what is read later can only know more of what was paid there."""
        payments = {name: self._channel_payments(name) for name in MERCHANTS}
        control_orders = read_control_ledger(self.directory / "control.sqlite")
        orders, attempts, recorded, refunds = await read_gateway_ledger(self.database_url)
        return Ledgers(
            payments=payments["holdfast"],
            gateway_orders=orders,
            gateway_attempts=attempts,
            gateway_payments=recorded,
            gateway_refunds=refunds,
            shop_orders=read_shop_ledger(self.directory / "shop.sqlite"),
            control_payments=payments["control"],
            control_orders=control_orders,
        )

    def _channel_payments(self, merchant: str) -> list[ChannelPayment]:
        return read_channel_ledger(self.channel_ledger, self.merchants(merchant))

    @property
    def channel_ledger(self) -> Path:
        """What was really paid."""
        return self.directory / "simulator" / "ledger.jsonl"

    def merchants(self, arm: str) -> dict[str, str]:
        """What each channel calls the gateway (`holdfast`) or the control arm (`control`)."""
        return {channel: account.merchant for channel, account in self._accounts[arm].items()}

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
