"""What channels/README.md says of adding a channel, done: one file (voucher.py), installed in a real gateway."""

import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from channels.contract import Channel
from gateway.app import Gateway
from gateway.config import Channels, load
from gateway.effect_runner import InstalledChannel
from gateway.metrics import Metrics
from gateway.stepping import Stepper
from gateway.transport import Transport
from tests.integration.gateway_parts import Api, add_app, until, write_config
from tests.integration.voucher import SIGNATURE, Vouchers

SECRET = b"a secret between two"


class House:
    """The voucher house: what it sold, and how it tells. `silent`: it tells nobody."""

    def __init__(self) -> None:
        self.vouchers: dict[str, dict[str, Any]] = {}
        self.silent = False
        self.answers: list[int] = []
        self.url = ""

    async def serve(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()
        if request.headers[SIGNATURE] != _mac(body):
            return web.Response(status=401)
        number = request.path.rpartition("/")[2]
        if request.method == "POST":
            wanted = json.loads(body)
            number = wanted["number"]
            made = {"shop": "teahouse", "state": "open", "code": f"voucher:{number}"}
            self.vouchers.setdefault(number, {**wanted, **made})
        if number not in self.vouchers:
            return _signed({"code": "no_such_voucher"}, 404)
        voucher = self.vouchers[number]
        if request.method == "DELETE" and voucher["state"] == "open":
            voucher["state"] = "torn"
        return _signed(voucher)

    async def sell(self, number: str, session: aiohttp.ClientSession) -> None:
        """Somebody pays at the counter."""
        voucher = self.vouchers[number]
        voucher.update(state="sold", receipt=f"receipt-{number}", sold_at=int(time.time()))
        if not self.silent:
            body = json.dumps(voucher).encode()
            for mac in ("0" * 64, _mac(body)):  # a forgery first
                async with session.post(voucher["notify"], data=body, headers={SIGNATURE: mac}) as answer:
                    self.answers.append(answer.status)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    running = House()
    runner = web.ServerRunner(web.Server(running.serve))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    running.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield running
    await runner.cleanup()


@pytest.fixture
async def api(house: House, database_url: str, tmp_path: Path, session: aiohttp.ClientSession) -> AsyncIterator[Api]:
    """An app at a gateway that knows vouchers and nothing else, and soon asks after what it hears nothing of."""

    def install(
        channels: Channels, metrics: Metrics, stepper: Stepper, clock: Callable[[], float]
    ) -> dict[str, InstalledChannel]:
        channel: Channel = Vouchers("teahouse", SECRET)
        transport = Transport(
            channel.name, house.url, timeout_s=2, concurrency=8, queue_max=8, metrics=metrics, stepper=stepper
        )
        return {channel.name: InstalledChannel(channel, transport)}

    quick = {"timeout_s": 0.2, "queries_s": [0.2], "slow_queries_s": [0.2], "pay_wait_s": 3}
    config = write_config(tmp_path / "gateway.toml", database_url, None, checks=quick, sweep={"every_s": 0.2})
    gateway = Gateway(load(config, {}), install)
    try:
        await gateway.start()
        shop = await add_app(database_url, "shop")
        yield Api(session, gateway.url, shop.api_key)
    finally:
        await gateway.stop()


async def pay(api: Api, **fields: Any) -> dict[str, Any]:
    order = await api.created()
    answer = await api.pay(order["order_id"], channel="voucher", method="counter", **fields)
    assert answer.status == 200, answer
    paying: dict[str, Any] = answer.json
    return paying


async def test_the_api_says_what_the_fourth_channel_can_and_refuses_the_rest(api: Api) -> None:
    known = (await api.request("GET", "/v1/channels")).json
    assert [channel["channel"] for channel in known["channels"]] == ["voucher"]
    order = await api.created()
    answer = await api.pay(order["order_id"], channel="voucher", method="counter", params={"city": "Atlantis"})
    problem = answer.problem(400, "parameter_invalid", "params.city")
    assert "Beijing, Shanghai" in problem["detail"]
    (await api.pay(order["order_id"])).problem(400, "channel_not_installed", "channel")


async def test_an_order_is_paid_with_a_voucher_when_the_house_says_so(
    api: Api, house: House, session: aiohttp.ClientSession
) -> None:
    paying = await pay(api, params={"city": "Beijing"})
    payment, order_id = paying["payment"], paying["order"]["order_id"]
    assert payment["credential"]["value"] == f"voucher:{payment['attempt_id']}"
    await house.sell(payment["attempt_id"], session)
    assert house.answers == [400, 200]
    paid = await api.until_state(order_id, "paid")
    assert (paid["paid_amount"], paid["attempts"][0]["state"]) == (100, "succeeded")


async def test_an_order_is_paid_with_a_voucher_although_the_house_says_nothing(
    api: Api, house: House, session: aiohttp.ClientSession
) -> None:
    house.silent = True
    paying = await pay(api, params={"city": "Shanghai"})
    await house.sell(paying["payment"]["attempt_id"], session)
    paid = await api.until_state(paying["order"]["order_id"], "paid")
    assert paid["paid_amount"] == 100
    assert house.answers == []


async def test_a_voucher_is_torn_up_when_its_order_is_closed(api: Api, house: House) -> None:
    paying = await pay(api, params={"city": "Beijing"})
    order_id, number = paying["order"]["order_id"], paying["payment"]["attempt_id"]
    assert (await api.close(order_id)).status in (200, 202)

    async def torn() -> bool:
        return house.vouchers[number]["state"] == "torn" and (await api.get(order_id))["state"] == "closed"

    assert await until(torn)


def _mac(body: bytes) -> str:
    return hmac.digest(SECRET, body, hashlib.sha256).hex()


def _signed(value: object, status: int = 200) -> web.Response:
    body = json.dumps(value).encode()
    return web.Response(status=status, body=body, headers={SIGNATURE: _mac(body), "Content-Type": "application/json"})
