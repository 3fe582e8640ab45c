"""An outage is a pause, never a failure: what a silent channel is not asked is asked later, and what it says is heard.

And each method is asked after when its own ladder says so.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from gateway import unanswered
from tests.integration.gateway_parts import Api, Platform, add_app, started, until, write_config

QUICK: dict[str, Any] = {
    "checks": {"pay_wait_s": 0.5, "timeout_s": 0.5, "queries_s": [0.2], "slow_queries_s": [0.2]},
    "sweep": {"every_s": 0.2, "grace_s": 0},
    "wechatpay": {"breaker_failures": 3, "breaker_pause_s": 0.5},
}
COUNT = "holdfast_channel_requests_seconds_count"


async def metric(api: Api, line: str) -> float:
    text = (await api.request("GET", "/metrics")).body.decode()
    return sum(float(each.rpartition(" ")[2]) for each in text.splitlines() if each.startswith(line))


async def test_while_a_channel_is_paused_nothing_is_lost_and_what_it_says_is_heard(
    platform: Platform, database_url: str, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    app = await add_app(database_url, "shop")
    async with started(write_config(tmp_path / "gateway.toml", database_url, platform, **QUICK)) as gateway:
        api = Api(session, gateway.url, app.api_key)
        shown = (await api.shown((await api.created(amount=1200))["order_id"]))["order_id"]
        async with platform.faults(error_before=1.0):

            async def paused() -> bool:
                return await metric(api, 'holdfast_channel_paused{channel="wechatpay"}') == 1

            await until(paused)  # the ladder of the order that is shown finds nobody
            answer = await api.pay((await api.created())["order_id"])
            assert (answer.status, answer.json["payment"]["credential"]) == (202, None)
            waiting = answer.json["order"]["order_id"]
            assert answer.json["order"]["state"] == "paying"

            async def refused() -> bool:
                return await metric(api, f'{COUNT}{{channel="wechatpay",op="query",result="paused"}}') > 0

            await until(refused)
            body = platform.notice(shown + "01", 1200)
            path = f"/callbacks/wechatpay/{shown}/01"
            assert (await api.request("POST", path, body, platform.signed(body))).status == 200
            assert (await api.get(shown))["state"] == "paid", "what the channel says by itself needs no answer of it"
            assert await paused()
            assert (await api.get(waiting))["state"] == "paying"

        async def taken_up() -> dict[str, Any] | None:
            order = await api.get(waiting)
            return order if order["attempts"][0]["state"] == "pending" else None

        order = await until(taken_up)
        assert len(order["attempts"]) == 1, "under the number that it had"
        again = await api.pay(waiting)
        assert (again.status, again.json["payment"]["attempt_id"]) == (200, waiting + "01")
        assert again.json["payment"]["credential"]["type"] == "qr"
        assert await metric(api, 'holdfast_channel_paused{channel="wechatpay"}') == 0
        await platform.pay(waiting + "01")
        await api.until_state(waiting, "paid")


async def test_what_was_paid_in_an_outage_is_found_when_the_channel_is_back_whatever_rung_its_ladder_is_on(
    platform: Platform,
    database_url: str,
    tmp_path: Path,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unanswered, "LOOK_EVERY_S", 0.2)
    database = await asyncpg.connect(database_url)
    slow = {**QUICK, "checks": {**QUICK["checks"], "slow_queries_s": [3600]}}
    app = await add_app(database_url, "shop")
    async with started(write_config(tmp_path / "gateway.toml", database_url, platform, **slow)) as gateway:
        api = Api(session, gateway.url, app.api_key)
        orders = [(await api.shown((await api.created(amount=1200))["order_id"]))["order_id"] for _ in range(5)]
        async with platform.faults(error_before=1.0, drop=1.0):
            for order_id in orders:
                await platform.pay(order_id + "01")

            async def on_the_last_rung() -> bool:
                late = (
                    "SELECT count(*) FROM orders WHERE state = 'paying' AND next_check_at > now() + interval '1 minute'"
                )
                return await database.fetchval(late) == len(orders)

            await until(on_the_last_rung)

        async def paid() -> bool:  # read where nobody asks the channel because of it
            return await database.fetchval("SELECT count(*) FROM orders WHERE state = 'paid'") == len(orders)

        await until(paid)
    await database.close()


async def test_each_method_is_asked_after_when_its_own_ladder_says_so(
    platform: Platform, database_url: str, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    sections: dict[str, Any] = {
        "channels.wechatpay.checks": {"timeout_s": 70},
        "channels.wechatpay.methods.native.checks": {"timeout_s": 100},
    }
    app = await add_app(database_url, "shop")
    async with started(write_config(tmp_path / "gateway.toml", database_url, platform, **sections)) as gateway:
        api = Api(session, gateway.url, app.api_key)
        native = (await api.pay((await api.created())["order_id"])).json["order"]
        params = {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"}
        jsapi = (await api.pay((await api.created())["order_id"], method="jsapi", params=params)).json["order"]
        assert [_waits_s(order) for order in (native, jsapi)] == [100, 70]


def _waits_s(order: dict[str, Any]) -> float:
    """How long after it was sent the attempt is asked after."""
    moments = [datetime.fromisoformat(text) for text in (order["attempts"][0]["submitted_at"], order["next_check_at"])]
    return round((moments[1] - moments[0]).total_seconds(), 1)
