"""The real parts: a gateway on embedded databases, the simulated platforms with nobody who pays, orders being paid."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import aiohttp
import asyncpg
import msgspec

from bench.accounts import METHODS
from bench.fuzz.corpus import Wanted
from bench.fuzz.parties import Parties, make_parties
from bench.gateways import add_app
from bench.processes import Child, ProcessError, free_port, python
from gateway.embedded import Postgres, Valkey

# No payer pays, so nobody is asked whether one did: the fuzz is all that can credit an order.
CONFIG = """\
env = "dev"
[server]
port = {port}
single_process = true
[database]
url = "embedded"
[redis]
url = "embedded"
[embedded]
root = "{root}"
[orders]
expires_in_s = 21600
[checks]
timeout_s = 86400
"""
ORDERS_SQL = "SELECT order_id, state, amount, paid_amount FROM orders"
PAYMENTS_SQL = "SELECT order_id, account, kind, amount, currency FROM payments"
STOP_S = 15.0


class Order(msgspec.Struct, frozen=True):
    """A row of the orders."""

    order_id: str
    state: str
    amount: int
    paid_amount: int


class Payment(msgspec.Struct, frozen=True):
    """A row of the payments; `kind` is credit, excess or held."""

    order_id: str
    account: str
    kind: str
    amount: int
    currency: str


class Books(NamedTuple):
    """Orders by id, and payments."""

    orders: dict[str, Order]
    payments: list[Payment]


class Stage:
    """`async with Stage(directory, channels)`; whatever was started is ended."""

    def __init__(self, directory: Path, channels: Sequence[str]) -> None:
        self.parties: Parties
        self.gateway: Child
        self.host, self.port = "127.0.0.1", free_port()
        self._directory = directory
        self._channels = channels
        self._api_key = ""
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Stage":
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        self.parties = await asyncio.to_thread(make_parties, self._directory, self._channels)
        serve = ("serve", "--dir", self.parties.folder, "--port", 0, "--pay-rate", 0, "--channels", *self._channels)
        simulator = self._child("simulator", python("channels.simulator", *serve))
        url = json.loads(await simulator.start(ready='"url"'))["url"]
        config = self._directory / "holdfast.toml"
        config.write_text(CONFIG.format(port=self.port, root=self._directory) + self.parties.ours.sections(url))
        for server in (Postgres(self._directory), Valkey(self._directory)):
            self._stack.push_async_callback(server.stop, force=True)
        self.gateway = self._child("gateway", python("gateway", "serve", "--config", config))
        await self.gateway.start(ready="serving")
        self._api_key = (await add_app(config, "fuzz"))["api_key"]

    def _child(self, name: str, argv: list[str]) -> Child:
        child = Child(name, argv, self._directory / f"{name}.log")
        self._stack.push_async_callback(child.stop, STOP_S)
        return child

    async def orders(self, channel: str, count: int) -> list[Wanted]:
        """Orders that are being paid through this channel, each of another amount.

        Raises:
            ProcessError: the gateway does not make them payable.
        """
        return [await self._order(channel, number) for number in range(count)]

    async def _order(self, channel: str, number: int) -> Wanted:
        amount = 1_999 + 100 * number
        content = {"amount": amount, "currency": "CNY", "subject": "A cup of tea"}
        created = await self._post("/v1/orders", {"out_order_no": f"{channel}-{number}", **content})
        wish = {"channel": channel, "method": METHODS[channel]}
        order_id = created["order_id"]
        paying = await self._post(f"/v1/orders/{order_id}/pay", wish)
        attempt_id = paying["payment"]["attempt_id"]
        notify_url = f"http://{self.host}:{self.port}/callbacks/{channel}/{order_id}/{attempt_id[-2:]}"
        return Wanted(attempt_id, amount, notify_url)

    async def _post(self, path: str, body: object) -> Any:
        headers = {"Authorization": f"Bearer {self._api_key}"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://{self.host}:{self.port}{path}", json=body, headers=headers) as answer,
        ):
            text = await answer.text()
        if answer.status not in (200, 201):
            raise ProcessError(f"{path}: {answer.status} {text[:1000]}")
        return json.loads(text)

    async def books(self) -> Books:
        """What Postgres holds."""
        connection = await asyncpg.connect(Postgres(self._directory).url)
        try:
            orders = [Order(*row) for row in await connection.fetch(ORDERS_SQL)]
            payments = [Payment(*row) for row in await connection.fetch(PAYMENTS_SQL)]
        finally:
            await connection.close()
        return Books({order.order_id: order for order in orders}, payments)
