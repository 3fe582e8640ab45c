"""What the survival tests share: one platform, one gateway, and people who buy while something goes wrong.

Everybody pays at once unless a test says otherwise. What an order went through is in its events: a fault that nobody
met would prove nothing.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from channels.simulator.credentials import Account, make_credentials
from examples.shop.browser import Browser
from tests.integration.gateway_parts import Api, add_app, gateway_process, process, run, until, write_config

SOLD = 4  # orders a fault
SHARE = 0.6  # of requests that meet a fault which lets nothing through: sooner or later one does not
CHECKS = {
    "timeout_s": 0.3,
    "queries_s": [0.1, 0.1, 0.2, 0.2, 0.3],
    "slow_queries_s": [0.3],
    "closing_s": [0.1, 0.1, 0.2, 0.3],
    "watch_s": [0.1, 0.2, 0.3],
    "not_found_final_s": 60,
    "pay_wait_s": 0.2,
}
PATIENT = 10_000  # silences in a row until a channel is paused: one test's are not to pause the next one's
SWEEP = {"every_s": 0.1, "grace_s": 0.1, "lease_s": 1.0}

Events = list[dict[str, Any]]


class Stage(msgspec.Struct, frozen=True):
    """What a module's tests stand on: the platform, our account there, the gateway, an app's key."""

    channel: str
    platform_url: str
    account: Account
    gateway_url: str
    api_key: str

    async def steer(self, path: str, order: object) -> Any:
        """POST to the simulator's steering: its JSON."""
        async with aiohttp.ClientSession() as session, session.post(self.platform_url + path, json=order) as answer:
            return await answer.json()

    async def payer(self, out_trade_no: str, **stated: Any) -> Any:
        """Somebody pays now, or does what `stated` says."""
        trade = {"channel": self.channel, "merchant": self.account.merchant, "out_trade_no": out_trade_no}
        return await self.steer("/_sim/pay", {**trade, **stated})

    @asynccontextmanager
    async def faults(self, **shares: float) -> AsyncIterator[None]:
        """While the block runs, these faults."""
        await self.steer("/_faults", shares)
        try:
            yield
        finally:
            await self.steer("/_faults", dict.fromkeys(shares, 0.0))

    @asynccontextmanager
    async def nobody_pays(self) -> AsyncIterator[None]:
        """While the block runs, only who is told to."""
        await self.steer("/_sim/payers", {"rate": 0.0})
        try:
            yield
        finally:
            await self.steer("/_sim/payers", {"rate": 1.0})


@contextmanager
def stage(channel: str, folder: Path, database_url: str, **section: Any) -> Iterator[Stage]:
    """A platform and a gateway; `section` goes into `[channels.X]`."""
    account: Account = make_credentials(folder / channel, ["holdfast"], [channel])["holdfast"][channel]
    options = ("--port", "0", "--pay-after-s", "0:0", "--pay-rate", "1", "--time-scale", "0.002")
    serve = ("serve", "--dir", str(folder / channel), "--channels", channel, *options)
    with process("channels.simulator", *serve, log=folder / "simulator.log") as (_, line):
        url = json.loads(line)["url"]
        own = {"base_url": url, "timeout_s": 0.3, "breaker_failures": PATIENT, **account.section(), **section}
        sections: dict[str, Mapping[str, Any]] = {"checks": CHECKS, "sweep": SWEEP, f"channels.{channel}": own}
        config = write_config(folder / "gateway.toml", database_url, None, **sections)
        with gateway_process(config) as running:
            yield Stage(channel, url, account, running.url, run(add_app(database_url, "shop")).api_key)


class Sales(msgspec.Struct, frozen=True):
    """People who buy: each wants one order, and opens whatever they are given to pay with. `params` by method."""

    stage: Stage
    api: Api
    browser: Browser
    params: Mapping[str, Mapping[str, str]] = {}

    async def sell(self, subject: str, method: str) -> dict[str, Any]:
        """An order that somebody wants to pay, and asks again how while nobody can tell them; it, once it is paid."""
        order_id = (await self.api.created(subject=subject))["order_id"]
        opened: set[str] = set()

        async def look() -> dict[str, Any] | None:
            params = self.params.get(method, {})
            answer = await self.api.pay(order_id, channel=self.stage.channel, method=method, params=params)
            payment = answer.json.get("payment") or {}
            credential = payment.get("credential")
            if credential and payment["attempt_id"] not in opened and await self._open(credential):
                opened.add(payment["attempt_id"])
            order = await self.api.get(order_id)
            return order if order["state"] == "paid" else None

        return await until(look)

    async def _open(self, credential: Mapping[str, Any]) -> bool:
        """Go to the cashier; an app's order is taken there by Alipay's own app."""
        value = credential["value"]
        if credential["type"] == "params" and "orderString" in value:
            return await self.browser.open("url", f"{self.stage.platform_url}/gateway.do?{value['orderString']}")
        return await self.browser.open(credential["type"], value)

    async def sold(self, methods: Sequence[str], count: int = SOLD, **faults: float) -> Events:
        """The events of so many orders that were paid, by these methods in turn, while these faults were on."""
        name = next(iter(faults), "nothing")
        async with self.stage.faults(**faults):
            sales = (
                self.sell(f"{name} {number} of {count}", methods[number % len(methods)]) for number in range(count)
            )
            orders = await asyncio.gather(*sales)
        assert {order["paid_amount"] for order in orders} == {100}
        return [event for order in orders for event in await self.api.timeline(order["order_id"])]

    async def verdicts(self, *names: str) -> float:
        """How many notifications the gateway has judged so."""
        lines = (await self.api.request("GET", "/metrics")).body.decode().splitlines()
        counted = [line for line in lines if line.startswith("holdfast_notifications_total{")]
        named = [line for line in counted if any(f'verdict="{name}"' in line for name in names)]
        return sum(float(line.rpartition(" ")[2]) for line in named)

    async def until_verified(self, count: float) -> None:
        """Wait until the gateway has believed so many notifications in all."""

        async def look() -> bool:
            return await self.verdicts("verified") >= count

        await until(look)


def sources(events: Events) -> set[str]:
    """How it was learned that the orders were paid."""
    return {event["evidence"]["source"] for event in events if event["type"] == "PaymentReported"}


def unknowns(events: Events) -> Events:
    """What nobody could tell."""
    return [event for event in events if event["type"] == "OutcomeUnknown"]
