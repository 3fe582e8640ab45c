"""What the tests of refunds stand on: one gateway with the real adapters, one simulator that plays all platforms.

Nobody pays unless told to. `agreed` compares what an app is told of an order's refunds with what the platforms wrote
down.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from channels.simulator.credentials import KEY_MODULES, Account, make_credentials
from gateway.config.rules import OFFICIAL_HOSTS
from tests.integration.gateway_parts import Answer, Api, add_app, gateway_process, process, run, until, write_config
from tests.integration.simulator.survival import CHECKS, PATIENT, SWEEP

CHANNELS = tuple(KEY_MODULES)
METHODS = {"wechatpay": "native", "alipay": "page", "unionpay": "qr"}
LADDERS = {**CHECKS, "pay_wait_s": 1.0, "refund_s": [0.1, 0.1, 0.2, 0.3]}
REFUND_AFTER_S = 0.2
AMOUNT = 100


Stage: TypeAlias = tuple[str, str, str, dict[str, Account]]


class Till(msgspec.Struct, frozen=True):
    """An app that sells and gives back, the payers, and the platforms behind it all."""

    api: Api
    platform_url: str
    accounts: dict[str, Account]

    # --- the platforms

    async def steer(self, path: str, order: object | None = None) -> Any:
        """POST to the simulator's steering, or GET without an order: its JSON."""
        method = "GET" if order is None else "POST"
        async with self.api.session.request(method, self.platform_url + path, json=order) as answer:
            return await answer.json()

    @asynccontextmanager
    async def faults(self, channel: str, **shares: float) -> AsyncIterator[None]:
        """While the block runs, these faults at this platform."""
        await self.steer("/_faults", {channel: shares})
        try:
            yield
        finally:
            await self.steer("/_faults", {channel: dict.fromkeys(shares, 0.0)})

    async def somebody_pays(self, channel: str, out_trade_no: str) -> None:
        """Now, even what was closed: the payer was at it already."""
        paid = await self.steer("/_sim/pay", {**self._trade(channel, out_trade_no), "late": True})
        assert paid["state"] == "paid", paid

    async def settle(self, refund: dict[str, Any], number: int, state: str) -> None:
        """The platform decides so about a refund of this attempt."""
        trade = self._trade(refund["channel"], f"{refund['order_id']}{number:02d}")
        await self.steer("/_sim/refund", {**trade, "refund_no": refund["refund_id"], "state": state})

    async def notify(self, channel: str, out_trade_no: str, topic: str = "") -> int:
        """Tell of a payment or a refund once more; the status that the gateway answered."""
        sent = await self.steer("/_sim/notify", {**self._trade(channel, out_trade_no), "topic": topic})
        return int(sent["status"])

    def _trade(self, channel: str, out_trade_no: str) -> dict[str, str]:
        return {"channel": channel, "merchant": self.accounts[channel].merchant, "out_trade_no": out_trade_no}

    async def trades(self, order_id: str) -> list[dict[str, Any]]:
        """What was made payable there for the order."""
        every = await self.steer("/_sim/trades")
        return [trade for trade in every if trade["out_trade_no"].startswith(order_id)]

    async def at_platforms(self, order_id: str) -> dict[str, tuple[str, str, int]]:
        """The order's refunds there: channel, state and amount by number."""
        return {
            number: (trade["channel"], refund["state"], refund["amount"])
            for trade in await self.trades(order_id)
            for number, refund in trade["refunds"].items()
        }

    # --- the app

    async def pay(self, order_id: str, channel: str) -> str:
        """Make it payable there; the attempt's number at the channel."""
        answer = await self.api.pay(order_id, channel=channel, method=METHODS[channel])
        assert answer.status == 200, answer
        payment = answer.json["payment"]
        if payment["credential"]["type"] == "url":  # a trade exists from the moment on at which the page is opened
            async with self.api.session.get(payment["credential"]["value"]) as page:
                assert page.status == 200
        attempt_id: str = payment["attempt_id"]
        return attempt_id

    async def wanted(self, **fields: Any) -> dict[str, Any]:
        """An order that can be paid anywhere."""
        return await self.api.created(amount=AMOUNT, return_url="https://shop.example/", **fields)

    async def sold(self, channel: str, **fields: Any) -> str:
        """A paid order's id."""
        order_id: str = (await self.wanted(**fields))["order_id"]
        await self.somebody_pays(channel, await self.pay(order_id, channel))
        await self.api.until_state(order_id, "paid")
        return order_id

    async def sold_twice(self, channel: str, other: str) -> str:
        """An order paid at `other`, and then once more at `channel`."""
        order_id: str = (await self.wanted())["order_id"]
        first = await self.pay(order_id, other)
        second = await self.pay(order_id, channel)
        await self.somebody_pays(other, first)
        await self.api.until_state(order_id, "paid")
        await self.somebody_pays(channel, second)
        return order_id

    async def refund(self, order_id: str, amount: int = AMOUNT, number: str = "B1") -> Answer:
        body = {"out_refund_no": f"{order_id}-{number}", "amount": amount}
        return await self.api.request("POST", f"/v1/orders/{order_id}/refunds", body)

    async def until_refund(self, order_id: str, *states: str) -> list[dict[str, Any]]:
        """The order's refunds, once they are in these states, in the order they were begun in."""

        async def look() -> list[dict[str, Any]] | None:
            refunds: list[dict[str, Any]] = (await self.api.get(order_id))["refunds"]
            return refunds if [each["state"] for each in refunds] == list(states) else None

        return await until(look)

    async def cases(self, order_id: str, state: str = "open") -> list[dict[str, Any]]:
        page = (await self.api.request("GET", f"/v1/cases?limit=100&state={state}")).json
        return [case for case in page["cases"] if case["order_id"] == order_id]

    async def resolve(self, case: dict[str, Any], action: str) -> Answer:
        body = {"action": action, "by": "ann", "note": "looked at it"}
        return await self.api.request("POST", f"/v1/cases/{case['case_id']}/resolve", body)

    async def agreed(self, order_id: str) -> dict[str, Any]:
        """The order, after both sides were found to say the same of every refund of it."""
        order = await self.api.get(order_id)
        there = await self.at_platforms(order_id)
        here = {each["refund_id"]: each for each in order["refunds"]}
        assert there.keys() <= here.keys(), "given back, and nobody here wrote it down"
        for number, mine in here.items():
            state = {"reversed": "failed"}.get(mine["state"], mine["state"])
            # What was refused the platform has never heard of.
            theirs = there.get(number, (mine["channel"], "failed", mine["amount"]))
            assert (mine["channel"], state, mine["amount"]) == theirs
        given = sum(amount for channel, state, amount in there.values() if state != "failed")
        paid = sum(each["amount"] for each in await self.trades(order_id) if each["transaction"])
        assert order["refunded_amount"] <= order["paid_amount"]
        assert given <= paid
        return order


@contextmanager
def till_stage(folder: Path, database_url: str) -> Iterator[Stage]:
    """The platforms' address, the gateway's, an app's key, and our accounts."""
    accounts: dict[str, Account] = make_credentials(folder / "platforms", ["holdfast"])["holdfast"]
    options = ("--port", "0", "--pay-rate", "0", "--time-scale", "0.002", "--refund-after-s", str(REFUND_AFTER_S))
    serve = ("serve", "--dir", str(folder / "platforms"), *options)
    with process("channels.simulator", *serve, log=folder / "simulator.log") as (_, line):
        url = json.loads(line)["url"]
        sections: dict[str, Any] = {"checks": LADDERS, "sweep": SWEEP}
        for name, account in accounts.items():
            addresses = dict.fromkeys(OFFICIAL_HOSTS[name], url)
            sections[f"channels.{name}"] = {
                **addresses,
                "timeout_s": 0.4,
                "breaker_failures": PATIENT,
                **account.section(),
            }
        config = write_config(folder / "gateway.toml", database_url, None, **sections)
        with gateway_process(config) as running:
            yield url, running.url, run(add_app(database_url, "shop")).api_key, accounts
