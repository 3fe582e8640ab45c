"""The whole set as real processes: databases that sync, the channel, gateways that may be killed, and a shop.

The shop's books are those of `examples.shop`, kept by the test's own process, so that a test can say exactly what an
app does and when. `audit` compares the three ledgers; `settled` waits until nothing is missing in them.
"""

import asyncio
import base64
import itertools
import json
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec
from aiohttp import web

from bench.auditor import Report, audit
from bench.demo.configuration import channel_sections
from bench.gateways import Balancer, Gateway, add_app
from bench.ledgers import Ledgers, read_channel_ledger, read_gateway_ledger, read_shop_ledger
from bench.processes import Child, free_port, python
from channels.simulator.credentials import Account, make_credentials
from examples.shop import bookkeeping
from examples.shop.browser import Browser
from examples.shop.checkout import Checkout
from examples.shop.counter import Counter
from examples.shop.ledger import Ledger
from examples.shop.purchases import Purchase, Way
from examples.shop.watcher import Watcher
from gateway.embedded import Postgres, Valkey
from holdfast_client import Holdfast, Retry

POLL_S = 0.02
KILLED = -signal.SIGKILL
MERCHANT = "holdfast"
WECHAT = "wechatpay"
NATIVE = Way(WECHAT, "native")
APP_ASKS_AFTER_S = 0.4
CHANNEL_TIME_SCALE = 0.02  # 15 s between two notifications become 0.3 s

# Minutes become tenths of seconds; the ladders keep their shape.
CONFIG: Mapping[str, Mapping[str, object]] = {
    "server": {"host": "127.0.0.1", "drain_s": 2},
    "checks": {
        "timeout_s": 0.4,
        "queries_s": [0.2, 0.3, 0.5],
        "slow_queries_s": [1, 2],
        "closing_s": [0.2, 0.3, 0.5, 1, 2, 5, 10],
        "watch_s": [0.5, 1, 5],
        "exception_s": [1, 2, 5],
        "refund_s": [0.2, 0.3, 0.5, 1],
        "not_found_final_s": 2,
        "pay_wait_s": 3,
    },
    "sweep": {"every_s": 0.1, "grace_s": 0.1, "lease_s": 1.2},
    "webhooks": {"schedule_s": [0, *[0.3] * 20, *[2] * 20], "timeout_s": 2},
}


class Shop:
    """An app with the ledger, the checkout, the webhook door and the watcher of the demo shop."""

    def __init__(self, ledger: Ledger, holdfast: Holdfast, browser: Browser) -> None:
        self.ledger = ledger
        self.holdfast = holdfast
        self.checkout = Checkout(holdfast, ledger, browser.receive)

    async def write_down(self, wanted: Purchase) -> None:
        """What an app does before it creates."""
        now = time.time()
        ask_at = now + APP_ASKS_AFTER_S
        await self.ledger.do(lambda connection: bookkeeping.remember(connection, wanted, now, ask_at))

    async def buy(self, wanted: Purchase) -> None:
        """Write down, create, pay: with the client's retries, all under the one number."""
        await self.write_down(wanted)
        await self.checkout.check_out(wanted)

    async def row(self, out_order_no: str) -> dict[str, Any]:
        """What the shop knows of one order."""
        columns = ("order_id", "credential", "state", "fulfilled_count", "learned_by")

        def read(connection: Any) -> dict[str, Any]:
            sql = "SELECT order_id, credential, state, fulfilled_count, learned_by FROM orders WHERE out_order_no = ?"
            found = connection.execute(sql, (out_order_no,)).fetchone()
            return dict(zip(columns, found or (None,) * len(columns), strict=True))

        return await self.ledger.do(read)

    async def effective_webhooks(self, out_order_no: str) -> int:
        """How many webhooks told it something new, and were handled."""

        def count(connection: Any) -> int:
            sql = "SELECT count(*) FROM inbox WHERE out_order_no = ? AND effective"
            found: int = connection.execute(sql, (out_order_no,)).fetchone()[0]
            return found

        return await self.ledger.do(count)


class Promises(msgspec.Struct):
    """What an app heard of creates that it sent once each: the order's id, a refusal, or nothing at all."""

    made: dict[str, str] = {}
    refused: set[str] = set()
    silent: set[str] = set()


class Stage:
    """The running set.

    `channels` are installed, at one simulator. `channel` holds its options (`{"pay-rate": 1}`), `faults` its faults,
    of all platforms or of one (`{"drop": 0.2, "alipay.gbk": 1}`). `overrides` replace values of CONFIG:
    `{"sweep": {"every_s": 60}}`. `at_cashier`: payers pay what the shop's customers scan or open, and no code that was
    lost on its way to them; without it they pay whatever the channel handed out.
    """

    def __init__(
        self,
        directory: Path,
        *,
        channels: Sequence[str] = (WECHAT,),
        channel: Mapping[str, object] = {},
        faults: Mapping[str, float] = {},
        overrides: Mapping[str, Mapping[str, object]] = {},
        at_cashier: bool = False,
    ) -> None:
        self.directory = directory
        self.postgres = Postgres(directory, die_with_parent=True)
        self.valkey = Valkey(directory, die_with_parent=True)
        self.channel_url = ""
        self.gateways: list[Gateway] = []
        self.shop: Shop
        self.session: aiohttp.ClientSession
        self.browser: Browser
        self.accounts: Mapping[str, Account] = {}
        self._channels = channels
        self._channel_options = channel
        self._faults = faults
        self._overrides = overrides
        self._at_cashier = at_cashier
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
        for server in (self.postgres, self.valkey):
            self._stack.push_async_callback(server.stop, force=True)
        await asyncio.gather(self.postgres.start(), self.valkey.start())
        self.session = await self._stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20))
        )
        await self._start_channel()
        scan_at = f"{self.channel_url}/cashier" if self._at_cashier else ""
        self.browser = await self._stack.enter_async_context(Browser(scan_at))
        port, door = free_port(_ports), free_port(_ports)
        self._write_config(f"http://127.0.0.1:{port}")
        self.gateways.append(self._gateway("gateway", port))
        keys = await add_app(self._config, "shop", f"http://127.0.0.1:{door}/webhooks")
        await self._start_shop(keys, door)

    # --- the parts

    @property
    def gateway(self) -> Gateway:
        """The first, and mostly the only one."""
        return self.gateways[0]

    async def add_gateway(self) -> Gateway:
        """Another process over the same databases; from now on notifications come to either, through a balancer."""
        gateway = self._gateway(f"gateway{len(self.gateways) + 1}", free_port(_ports))
        self.gateways.append(gateway)
        balancer = await self._stack.enter_async_context(Balancer([each.url for each in self.gateways]))
        for each in self.gateways:
            each.be_reached_at(balancer.url)
        return gateway

    async def another_till(self, gateway: Gateway) -> Shop:
        """The same shop, with the same ledger, talking to that gateway."""
        holdfast = await self._stack.enter_async_context(self.client(gateway.url))
        return Shop(self.shop.ledger, holdfast, self.browser)

    def _gateway(self, name: str, port: int) -> Gateway:
        gateway = Gateway(name, self._config, port, self.directory / f"{name}.log", {})
        self._stack.push_async_callback(gateway.kill)
        return gateway

    async def _start_channel(self) -> None:
        folder = self.directory / "simulator"
        self.accounts = (await asyncio.to_thread(make_credentials, folder, [MERCHANT], self._channels))[MERCHANT]
        options = {"pay-rate": 0, "pay-after-s": "0:0", "time-scale": CHANNEL_TIME_SCALE, **self._channel_options}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        words += ["--channels", *self._channels, *(["--pay-at-cashier"] if self._at_cashier else [])]
        if self._faults:
            words += ["--fault", *(f"{name}={share}" for name, share in self._faults.items())]
        simulator = Child(
            "simulator",
            python("channels.simulator", "serve", "--dir", folder, "--port", 0, *words),
            self.directory / "simulator.log",
        )
        self._stack.push_async_callback(simulator.kill)
        self.channel_url = json.loads(await simulator.start(ready='"url"'))["url"]

    async def _start_shop(self, keys: Mapping[str, str], port: int) -> None:
        ledger = Ledger(self.directory / "shop.sqlite")
        self._stack.push_async_callback(ledger.close)
        runner = web.AppRunner(Counter(ledger, keys["webhook_secret"]).application(), shutdown_timeout=0.1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", port).start()
        self.api_key = keys["api_key"]
        holdfast = await self._stack.enter_async_context(self.client(self.gateway.url))
        self.shop = Shop(ledger, holdfast, self.browser)
        watching = asyncio.create_task(Watcher(self.shop.checkout, APP_ASKS_AFTER_S).run())
        self._stack.push_async_callback(_cancel, watching)

    def client(self, url: str, deadline_s: float = 30.0) -> Holdfast:
        """The SDK, as the app uses it, towards one gateway."""
        retry = Retry(deadline_s=deadline_s, try_timeout_s=8.0, pause_max_s=0.2)
        return Holdfast(url, self.api_key, retry=retry)

    @property
    def _config(self) -> Path:
        return self.directory / "holdfast.toml"

    def _write_config(self, public_url: str) -> None:
        sections: dict[str, dict[str, object]] = {name: dict(fields) for name, fields in CONFIG.items()}
        sections["server"]["public_url"] = public_url
        sections["database"] = {"url": self.postgres.url}
        sections["redis"] = {"url": self.valkey.url}
        sections["security"] = {"master_key": base64.b64encode(secrets.token_bytes(32)).decode()}
        sections["embedded"] = {"root": str(self.directory)}
        for name, channel in channel_sections(self.accounts, self.channel_url, timeout_s=1).items():
            sections[name] = dict(channel)
        for name, fields in self._overrides.items():
            sections.setdefault(name, {}).update(fields)
        self._config.write_text('env = "dev"\n' + "".join(_section(*section) for section in sections.items()), "utf-8")

    # --- the channel's side

    async def steer(self, path: str, **order: object) -> Any:
        """Tell the simulator to do something: /_sim/pay, /_sim/notify, /_faults, ..."""
        async with self.session.post(self.channel_url + path, json=order) as answer:
            return await answer.json()

    async def pay(self, out_trade_no: str, channel: str = WECHAT, **stated: object) -> dict[str, Any]:
        """A payer pays an attempt, now. `stated` is what the channel will say instead of the truth."""
        paid: dict[str, Any] = await self.steer("/_sim/pay", **self._trade(out_trade_no, channel), **stated)
        return paid

    async def notify(self, out_trade_no: str, channel: str = WECHAT, **which: object) -> dict[str, Any]:
        """The channel sends a paid attempt's notification once more."""
        sent: dict[str, Any] = await self.steer("/_sim/notify", **self._trade(out_trade_no, channel), **which)
        return sent

    def _trade(self, out_trade_no: str, channel: str) -> dict[str, str]:
        return {"channel": channel, "merchant": self.accounts[channel].merchant, "out_trade_no": out_trade_no}

    async def trades(self, subject: str = "") -> list[dict[str, Any]]:
        """What exists at the channel, of one subject if named."""
        async with self.session.get(f"{self.channel_url}/_sim/trades") as answer:
            listed: list[dict[str, Any]] = await answer.json()
        return [trade for trade in listed if subject in ("", trade["description"])]

    async def pay_when_shown(self, wanted: Purchase) -> None:
        """The payer scans the code, or opens the page, as soon as the shop shows it."""
        row: dict[str, Any] = {}

        async def shown() -> bool:
            row.update(await self.shop.row(wanted.out_order_no))
            return row["credential"] is not None and bool(await self.trades(wanted.subject))

        await until(shown, 30)
        await self.pay(f"{row['order_id']}01", wanted.pays_with.channel)

    async def readyz(self) -> int:
        """What the gateway says of itself to a balancer."""
        async with self.session.get(f"{self.gateway.url}/readyz") as answer:
            return answer.status

    # --- the ledgers

    async def audit(self) -> Report:
        """Compare the three ledgers. The channel's is read first: what is read later can only know more of it."""
        merchants = {channel: account.merchant for channel, account in self.accounts.items()}
        payments = read_channel_ledger(self.directory / "simulator" / "ledger.jsonl", merchants)
        gateway = await read_gateway_ledger(self.postgres.url)
        shop_orders = await asyncio.to_thread(read_shop_ledger, self.directory / "shop.sqlite")
        return audit(Ledgers(payments, *gateway, shop_orders))

    async def settled(self, within_s: float = 30.0, paid: int = 0) -> Report:
        """Wait until at least `paid` orders were paid and the audit is clean; the report, clean or not.

        Leases of webhooks are let pass, or a test would wait for those that a dead process held.
        """
        deadline = time.monotonic() + within_s
        while True:
            owed = await self.owed()
            await self.let_webhook_leases_pass()
            report = await self.audit()
            done = report.passed and report.paid_at_channel >= paid and not owed
            if done or time.monotonic() > deadline:
                return report
            await asyncio.sleep(0.1)

    async def kept(self, promises: Promises) -> bool:
        """Every order that was promised exists under its id; nothing exists of those that were refused."""
        rows = dict(await self.rows("SELECT out_order_no, order_id FROM orders"))
        assert {number: rows.get(number) for number in promises.made} == promises.made
        assert promises.refused & rows.keys() == set()
        return True

    async def gaps(self) -> list[str]:
        """Orders whose versions in the events are not 1, 2, 3, ... up to the order's own."""
        sql = (
            "SELECT order_id FROM orders o LEFT JOIN events e USING (order_id) GROUP BY order_id, o.version"
            " HAVING count(e.version) <> o.version OR max(e.version) <> o.version"
        )
        return [row[0] for row in await self.rows(sql)]

    async def all_paid(self, wanted: Sequence[Purchase]) -> bool:
        """Whether every one of these is paid here."""
        paid = {row[0] for row in await self.rows("SELECT out_order_no FROM orders WHERE state = 'paid'")}
        return paid.issuperset(purchase.out_order_no for purchase in wanted)

    async def paid_orders(self) -> int:
        """How many orders are paid here."""
        count: int = (await self.rows("SELECT count(*) FROM orders WHERE state = 'paid'"))[0][0]
        return count

    async def let_webhook_leases_pass(self) -> None:
        """As if the time had gone by in which another process could still be delivering."""
        await self.execute("UPDATE outbox SET next_try_at = now() WHERE state = 'owed' AND tries = 0")

    async def owed(self) -> int:
        """How many webhooks are not delivered yet."""
        count: int = (await self.rows("SELECT count(*) FROM outbox WHERE state = 'owed'"))[0][0]
        return count

    async def execute(self, sql: str) -> None:
        """As the database's owner, on a connection of its own."""
        async with self.connection() as connection:
            await connection.execute(sql)

    async def rows(self, sql: str, *parameters: object) -> list[asyncpg.Record]:
        """Read, as the database's owner; again if the server fails on the way."""
        deadline = time.monotonic() + 20
        while True:
            try:
                async with self.connection() as connection:
                    return list(await connection.fetch(sql, *parameters))
            except (OSError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError):
                assert time.monotonic() < deadline
                await asyncio.sleep(POLL_S)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection of the database's owner."""
        connection = await asyncpg.connect(self.postgres.url, timeout=10)
        try:
            yield connection
        finally:
            connection.terminate()


@asynccontextmanager
async def customers(
    stage: Stage, prefix: str, every_s: float = 0.03, shops: Sequence[Shop] = (), ways: Sequence[Way] = (NATIVE,)
) -> AsyncIterator[list[Purchase]]:
    """Shoppers who come at a steady rate while faults happen in the block; all are through when it is left.

    They go to the shops, and pay in the ways, by turns.
    """
    wanted: list[Purchase] = []

    async def come(group: asyncio.TaskGroup) -> None:
        name = f"{prefix}-{len(wanted):04d}"
        way = ways[len(wanted) % len(ways)]
        wanted.append(Purchase(name, name, 100 + len(wanted), pays_with=way))
        shop = (shops or [stage.shop])[len(wanted) % (len(shops) or 1)]
        group.create_task(shop.buy(wanted[-1]))

    async with _meanwhile(come, every_s):
        yield wanted


@asynccontextmanager
async def creates(stage: Stage, prefix: str, every_s: float = 0.03) -> AsyncIterator[Promises]:
    """An app that creates and never asks twice: what it is promised must be kept, what it is refused must not exist."""
    promises, numbers = Promises(), itertools.count()

    async def create(out_order_no: str) -> None:
        body = {"out_order_no": out_order_no, "amount": 100, "currency": "CNY", "subject": out_order_no}
        headers = {"authorization": f"Bearer {stage.api_key}"}
        try:
            async with stage.session.post(f"{stage.gateway.url}/v1/orders", json=body, headers=headers) as answer:
                told = await answer.json()
        except (aiohttp.ClientError, TimeoutError):
            promises.silent.add(out_order_no)
            return
        assert answer.status in (201, 503), told
        if answer.status == 201:
            promises.made[out_order_no] = told["order_id"]
        else:
            promises.refused.add(out_order_no)

    async def come(group: asyncio.TaskGroup) -> None:
        group.create_task(create(f"{prefix}-{next(numbers):04d}"))

    async with _meanwhile(come, every_s):
        yield promises


@asynccontextmanager
async def _meanwhile(come: Callable[[asyncio.TaskGroup], Awaitable[None]], every_s: float) -> AsyncIterator[None]:
    closing = asyncio.Event()

    async def keep_coming() -> None:
        async with asyncio.TaskGroup() as group:
            while not closing.is_set():
                await come(group)
                await asyncio.sleep(every_s)

    coming = asyncio.create_task(keep_coming())
    try:
        yield
    finally:
        closing.set()
        await asyncio.wait_for(coming, 60)


async def until(condition: Callable[[], Awaitable[bool]], within_s: float = 20.0) -> None:
    """Poll what other processes do.

    Raises:
        AssertionError: it did not become true in time.
    """
    deadline = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {condition}"
        await asyncio.sleep(POLL_S)


def clean(report: Report) -> bool:
    """Nothing lost, doubled, invented or changed; says what if not."""
    assert report.passed, (report.lost, report.double, report.phantom, report.mismatch)
    return True


_ports: set[int] = set()  # of all stages: a port whose gateway has just been killed looks free


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


def _section(name: str, fields: Mapping[str, object]) -> str:
    lines = "".join(f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in fields.items())
    return f"\n[{name}]\n{lines}"
