"""The parts the API's tests stand on: gateways as processes, a simulated WeChat Pay, apps, and a client.

One simulator and two gateways over one database serve the whole session (the second without Redis); a test that needs
a gateway of another kind starts it in its own process with `started`.
"""

import asyncio
import base64
import itertools
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
import asyncpg
import msgspec

from channels.moments import rfc3339
from channels.simulator import wechat_envelope, wechat_keys
from channels.simulator.credentials import make_credentials
from channels.simulator.trades import Opened, Paid, Trade, TradeState
from channels.simulator.wechat import transaction
from gateway.config import Config, load
from gateway.sealing import Sealer
from gateway.storage.apps import Apps, NewApp

if TYPE_CHECKING:  # the whole gateway is loaded only by tests that start it in their own process
    from gateway.app import Gateway

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
MASTER_KEY = bytes(range(32))
NOWHERE = "http://127.0.0.1:9/webhooks"  # owed webhooks stay owed
NOBODY = "0" * 26  # an order id that no order has
WITHIN_S = 20.0  # whatever a test waits for comes within this or has failed
WINDOW_S = 60.0  # so long that no test outlives it by accident; tests end it in the database


# --- processes ------------------------------------------------------------------------------------------------------


@contextmanager
def process(*arguments: str, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A `python -m ...` and the first line it prints; ended by its pid when the block ends."""
    with log.open("wb") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", *arguments], stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, start_new_session=True
        )
    assert child.stdout is not None
    try:
        line = child.stdout.readline().decode()
        assert line, f"{arguments[0]} printed nothing:\n{log.read_text(errors='replace')[-3000:]}"
        yield child, line.strip()
    finally:
        child.terminate()
        try:
            child.wait(WITHIN_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()


def free_port() -> int:
    """A port nobody listens on: a channel must be told our address before we listen."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# --- the channel ----------------------------------------------------------------------------------------------------


class Platform(msgspec.Struct, frozen=True):
    """The simulated WeChat Pay: its address, our account there, and its keys, to sign (or forge) as it would."""

    url: str
    files: wechat_keys.MerchantFiles
    keys: wechat_keys.PlatformKeys

    async def steer(self, path: str, order: object | None = None) -> Any:
        """POST to the simulator's steering, or GET without an order: its JSON."""
        async with (
            aiohttp.ClientSession() as session,
            session.request("GET" if order is None else "POST", self.url + path, json=order) as answer,
        ):
            return await answer.json()

    async def pay(self, out_trade_no: str, **stated: Any) -> Any:
        """Somebody pays now; `stated` is what the platform says instead of the truth."""
        return await self.steer("/_sim/pay", {**self._trade(out_trade_no), **stated})

    async def notify(self, out_trade_no: str, variant: str = "") -> Any:
        """The platform notifies once more, now; a `variant` is wrong on purpose."""
        return await self.steer("/_sim/notify", {**self._trade(out_trade_no), "variant": variant})

    async def trades(self, order_id: str) -> list[dict[str, Any]]:
        """The order's trades, as the platform knows them."""
        every = await self.steer(f"/_sim/trades?channel=wechatpay&merchant={self.files.mchid}")
        return [trade for trade in every if trade["out_trade_no"].startswith(order_id)]

    def _trade(self, out_trade_no: str) -> dict[str, str]:
        return {"channel": "wechatpay", "merchant": self.files.mchid, "out_trade_no": out_trade_no}

    @asynccontextmanager
    async def faults(self, **shares: float) -> AsyncIterator[None]:
        """While the block runs, these faults."""
        await self.steer("/_faults", {"wechatpay": shares})
        try:
            yield
        finally:
            await self.steer("/_faults", {"wechatpay": dict.fromkeys(shares, 0.0)})

    def notice(
        self, out_trade_no: str, amount: int = 1, *, stated: Mapping[str, str] | None = None, **changed: Any
    ) -> bytes:
        """The body of a genuine notification; `changed` replaces fields of what was paid, `stated` our account."""
        at, number = time.time(), f"4200{next(_numbers):024d}"
        account = {"mchid": self.files.mchid, "appid": self.files.appid, **(stated or {})}
        paid = Paid(
            at=at,
            channel="wechatpay",
            merchant=self.files.mchid,
            out_trade_no=out_trade_no,
            transaction=number,
            amount=amount,
            currency="CNY",
            description="",
            success_at=int(at),
            account=self.files.account,
            details=account,
        )
        paid = msgspec.structs.replace(paid, **changed)
        told = transaction(Trade(made=_made(paid), state=TradeState.PAID, paid=paid))
        return self._sealed("TRANSACTION.SUCCESS", "transaction", told, number)

    def refund_notice(self, out_trade_no: str, amount: int = 1, *, refund_no: str = "") -> bytes:
        """The body of a genuine notification of a refund; without a number, one that somebody made at the platform."""
        number, at = f"5030{next(_numbers):024d}", rfc3339(int(time.time()))
        told = {
            "mchid": self.files.mchid,
            "out_trade_no": out_trade_no,
            "transaction_id": f"42{number}"[:28],
            "out_refund_no": refund_no or f"R{next(_numbers):012d}",
            "refund_id": number,
            "refund_status": "SUCCESS",
            "success_time": at,
            "user_received_account": "支付用户零钱",
            "amount": {"total": amount, "refund": amount, "payer_total": amount, "payer_refund": amount},
        }
        return self._sealed("REFUND.SUCCESS", "refund", json.dumps(told).encode(), number)

    def seal(self, plaintext: bytes, event_type: str = "TRANSACTION.SUCCESS") -> bytes:
        """A notification's body around any text."""
        return self._sealed(event_type, "transaction", plaintext, f"any {next(_numbers)}")

    def _sealed(self, event_type: str, original_type: str, plaintext: bytes, identity: str) -> bytes:
        notice = wechat_envelope.Notice(event_type, "", original_type, plaintext, int(time.time()))
        return wechat_envelope.sealed(self.keys.merchants[self.files.mchid], notice, identity)

    def signed(self, body: bytes, *, age_s: int = 0, **changed: str) -> dict[str, str]:
        """The headers the platform would sign this body with; `changed` replaces them (`_` for `-`)."""
        key = wechat_envelope.Seal(self.keys.public_key_id, self.keys.private_key)
        headers = wechat_envelope.sign(key, body, int(time.time()) - age_s, f"nonce{next(_numbers)}")
        headers |= {name.replace("_", "-"): value for name, value in changed.items()}
        return {"Content-Type": "application/json", **headers}


def _made(paid: Paid) -> Opened:
    return Opened(
        at=paid.at,
        channel=paid.channel,
        merchant=paid.merchant,
        out_trade_no=paid.out_trade_no,
        method="native",
        description="",
        ordinal=0,
        amount=paid.amount,
        currency=paid.currency,
        notify_url="",
        expires_at_s=int(paid.at) + 600,
        terms="",
    )


@contextmanager
def simulator(folder: Path) -> Iterator[Platform]:
    """A simulator process in which nobody pays unless told to."""
    files = make_credentials(folder, ["holdfast"], ["wechatpay"])["holdfast"]["wechatpay"]
    arguments = ("serve", "--dir", str(folder), "--port", "0", "--pay-rate", "0", "--time-scale", "0.002")
    with process("channels.simulator", *arguments, log=folder / "log") as (_, line):
        keys = wechat_keys.load(folder)
        assert keys is not None
        yield Platform(json.loads(line)["url"], files, keys)


# --- the gateway ----------------------------------------------------------------------------------------------------


class Running(msgspec.Struct, frozen=True):
    """A gateway that serves, and the database it works on."""

    url: str
    database_url: str
    log: Path
    pid: int


def write_config(path: Path, database_url: str, platform: Platform | None, **sections: Mapping[str, Any]) -> Path:
    """Write a configuration file for a test: what `sections` says, over what all tests share."""
    port = free_port()
    shared: dict[str, dict[str, Any]] = {
        "server": {"port": port, "public_url": f"http://127.0.0.1:{port}", "drain_s": 2},
        "database": {"url": database_url, "allow_unsafe": True, "pool_max": 4},
        "redis": {"url": "off"},
        "security": {"master_key": base64.b64encode(MASTER_KEY).decode()},
        "embedded": {"root": str(path.parent)},
        "orders": {"duplicate_window_ms": WINDOW_S * 1000},
    }
    if platform is not None:
        shared["channels.wechatpay"] = {"base_url": platform.url, **platform.files.section()}
    for name, section in sections.items():
        key = {"wechatpay": "channels.wechatpay"}.get(name, name)
        shared[key] = {**shared.get(key, {}), **section}
    path.write_text("".join(_toml(name, section) for name, section in shared.items()))
    return path


def _toml(name: str, section: Mapping[str, Any]) -> str:
    # A JSON value of these kinds (text, number, boolean, list) is a TOML value too.
    return f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())


@contextmanager
def gateway_process(config: Path) -> Iterator[Running]:
    """A gateway as its users run it."""
    log = config.with_suffix(".log")
    with process("gateway", "serve", "--config", str(config), log=log) as (child, line):
        yield Running(line.removeprefix("serving "), load(config, {}).database.url, log, child.pid)


@asynccontextmanager
async def started(config: Path | Config) -> AsyncIterator["Gateway"]:
    """A gateway in this process."""
    from gateway.app import Gateway

    running = Gateway(load(config, {}) if isinstance(config, Path) else config)
    try:
        await running.start()
        yield running
    finally:
        await running.stop()


async def add_app(database_url: str, name: str, webhook_url: str | None = NOWHERE) -> NewApp:
    """Let an app in, as `app add` does."""
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        return await Apps(pool, Sealer(MASTER_KEY)).add(name, webhook_url)


# --- the client -----------------------------------------------------------------------------------------------------


class Answer(msgspec.Struct, frozen=True):
    """What was answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def problem(self, status: int, code: str, param: str | None = None) -> dict[str, Any]:
        """The problem document, which must be of this kind and whole.

        Every error of the API is looked at through here, so each is known to be a document and to have its request id.
        """
        assert self.headers["Content-Type"] == "application/problem+json", self
        document: dict[str, Any] = self.json
        assert (self.status, document["code"], document.get("param")) == (status, code, param), document
        assert document["status"] == status
        assert document["type"] == f"urn:holdfast:problem:{code}"
        assert document["title"]
        assert document["detail"]
        assert isinstance(document["retryable"], bool)
        assert document["request_id"] == self.headers["X-Request-Id"] != ""
        return document


class Api:
    """Calls one gateway as one app."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str) -> None:
        self.session = session
        self.url = url
        self.key = key

    async def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Any request; `body` bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        all_headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json", **(headers or {})}
        async with self.session.request(method, self.url + path, data=data, headers=all_headers) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def create(self, **fields: Any) -> Answer:
        """Create an order; a field of None is left out."""
        return await self.request("POST", "/v1/orders", order_body(**fields))

    async def created(self, **fields: Any) -> dict[str, Any]:
        """A new order."""
        answer = await self.create(**fields)
        assert answer.status == 201, answer
        order: dict[str, Any] = answer.json
        return order

    async def get(self, order_id: str) -> dict[str, Any]:
        answer = await self.request("GET", f"/v1/orders/{order_id}")
        assert answer.status == 200, answer
        order: dict[str, Any] = answer.json
        return order

    async def pay(self, order_id: str, **fields: Any) -> Answer:
        body = {"channel": "wechatpay", "method": "native", **fields}
        return await self.request("POST", f"/v1/orders/{order_id}/pay", body)

    async def shown(self, order_id: str) -> dict[str, Any]:
        """Start a payment; the order, with somebody looking at its QR code."""
        answer = await self.pay(order_id)
        assert answer.status == 200, answer
        order: dict[str, Any] = answer.json["order"]
        return order

    async def close(self, order_id: str) -> Answer:
        return await self.request("POST", f"/v1/orders/{order_id}/close")

    async def sync(self, order_id: str) -> Answer:
        return await self.request("POST", f"/v1/orders/{order_id}/sync")

    async def timeline(self, order_id: str) -> list[dict[str, Any]]:
        answer = await self.request("GET", f"/v1/orders/{order_id}/timeline")
        events: list[dict[str, Any]] = answer.json["events"]
        return events

    async def until_state(self, order_id: str, state: str) -> dict[str, Any]:
        """The order, once it is in this state."""

        async def look() -> dict[str, Any] | None:
            order = await self.get(order_id)
            return order if order["state"] == state else None

        return await until(look)


def order_body(**fields: Any) -> dict[str, Any]:
    """The body of a create under a number of its own."""
    body = {"out_order_no": out_order_no(), "amount": 100, "currency": "CNY", "subject": "a thing", **fields}
    return {name: value for name, value in body.items() if value is not None}


def out_order_no() -> str:
    """A number no other test uses."""
    return f"T-{next(_numbers)}"


def run(work: Coroutine[Any, Any, T]) -> T:
    """Wait for something outside of a test's own loop: in a fixture of the session."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(work)


async def until(look: Callable[[], Awaitable[T | None]]) -> T:
    """What `look` finds, as soon as it finds anything."""
    async with asyncio.timeout(WITHIN_S):
        while not (found := await look()):
            await asyncio.sleep(0.02)
    return found


_numbers = itertools.count(1)
