"""Another channel or method while one is open: that is closed at its channel first, or the other one has to wait."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from gateway.app import Gateway
from gateway.representation import rfc3339
from gateway.storage.apps import NewApp
from tests.integration.gateway_parts import Api, add_app, until
from tests.integration.made_up_channels import Made, gateway_with, make_three, notify

QUICK: dict[str, dict[str, Any]] = {
    "checks": {"pay_wait_s": 0.5, "queries_s": [0.1], "closing_s": [0.1], "not_found_final_s": 0.2},
    "sweep": {"every_s": 0.1, "grace_s": 0},
}
WECHAT: dict[str, Any] = {"channel": "wechatpay", "method": "native"}
ALIPAY: dict[str, Any] = {"channel": "alipay", "method": "page"}
UNIONPAY: dict[str, Any] = {"channel": "unionpay", "method": "web"}


@pytest.fixture
def made() -> Made:
    return make_three()


@pytest.fixture
async def app(database_url: str) -> NewApp:
    return await add_app(database_url, "shop")


@pytest.fixture
async def running(made: Made, database_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway_with(made, tmp_path, database_url, **QUICK) as gateway:
        yield gateway


@pytest.fixture
def api(session: aiohttp.ClientSession, running: Gateway, app: NewApp) -> Api:
    return Api(session, running.url, app.api_key)


def states(order: dict[str, Any]) -> list[tuple[str, str]]:
    return [(attempt["channel"], attempt["state"]) for attempt in order["attempts"]]


async def test_the_old_attempt_is_closed_before_the_new_one_begins(api: Api, made: Made) -> None:
    order_id = (await api.created())["order_id"]
    await api.pay(order_id, **WECHAT)
    answer = await api.pay(order_id, **ALIPAY)
    assert (answer.status, answer.json["payment"]["attempt_id"]) == (200, order_id + "02")
    assert answer.json["payment"]["credential"]["value"] == f"https://pay.example/{order_id}02"
    assert states(answer.json["order"]) == [("wechatpay", "closed"), ("alipay", "pending")]
    assert [verb for verb, _ in made.wechatpay.called] == ["pay", "close"]
    assert made.payable() == [order_id + "02"]
    types = [event["type"] for event in await api.timeline(order_id)]
    assert types[3:6] == ["PayRequested", "ReportedClosed", "PayRequested"], "the second attempt has its own intent"
    # And back again, with a number of its own.
    made.alipay.trades[order_id + "02"].opened = True
    back = await api.pay(order_id, **WECHAT)
    assert (back.status, back.json["payment"]["attempt_id"]) == (200, order_id + "03")


@pytest.mark.parametrize("first", [ALIPAY, UNIONPAY], ids=["not found", "not closable"])
async def test_what_can_not_be_closed_stays_and_is_named(api: Api, made: Made, first: dict[str, Any]) -> None:
    """Somebody may open it yet: Alipay has never heard of it, UnionPay closes nothing."""
    order_id = (await api.created())["order_id"]
    shown = await api.pay(order_id, **first)
    document = (await api.pay(order_id, **WECHAT)).problem(409, "payment_in_progress")
    assert (document["retryable"], document["order_id"]) == (True, order_id)
    credential = shown.json["payment"]["credential"]
    assert f"{first['channel']} {first['method']}" in document["detail"]
    assert credential["expires_at"] in document["detail"], "until when it is in the way"
    again = await api.pay(order_id, **first)
    assert (again.status, again.json["payment"]) == (200, shown.json["payment"])
    channel = made.by_name[first["channel"]]
    assert (channel.calls("pay"), channel.calls("close")) == (1, 1), "each request closes once"
    assert made.wechatpay.trades == {}


async def test_an_attempt_that_was_paid_meanwhile_ends_it(api: Api, made: Made) -> None:
    order_id = (await api.created())["order_id"]
    await api.pay(order_id, **WECHAT)
    made.wechatpay.somebody_pays(order_id + "01")
    document = (await api.pay(order_id, **ALIPAY)).problem(409, "order_paid")
    assert document["order_id"] == order_id
    paid = await api.get(order_id)
    assert (paid["state"], states(paid)) == ("paid", [("wechatpay", "succeeded")])
    assert made.alipay.trades == {}


async def test_while_the_channel_is_silent_nothing_new_begins(api: Api, made: Made) -> None:
    order_id = (await api.created())["order_id"]
    await api.pay(order_id, **WECHAT)
    made.wechatpay.silent = {"close", "query"}
    document = (await api.pay(order_id, **ALIPAY)).problem(409, "payment_in_progress")
    assert "wechatpay native is being closed" in document["detail"]
    assert states(await api.get(order_id)) == [("wechatpay", "closing")]
    (await api.pay(order_id, **WECHAT)).problem(409, "payment_in_progress")
    made.wechatpay.silent = set()
    answer = await api.pay(order_id, **ALIPAY)
    assert answer.status == 200
    assert states(answer.json["order"]) == [("wechatpay", "closed"), ("alipay", "pending")]


async def test_the_ladder_goes_on_when_the_caller_has_gone(api: Api, made: Made) -> None:
    order_id = (await api.created())["order_id"]
    await api.pay(order_id, **WECHAT)
    made.wechatpay.silent = {"close", "query"}
    (await api.pay(order_id, **ALIPAY)).problem(409, "payment_in_progress")
    made.wechatpay.silent = set()

    async def closed() -> bool:
        return states(await api.get(order_id)) == [("wechatpay", "closed")]

    await until(closed)
    assert (await api.get(order_id))["state"] == "paying", "the order is still to be paid"


async def test_who_comes_back_to_what_never_began_takes_it_up_again(
    made: Made, database_url: str, tmp_path: Path, app: NewApp, session: aiohttp.ClientSession
) -> None:
    """The channel was away from the first moment, so nobody holds anything of the attempt."""
    patient = {**QUICK, "checks": {**QUICK["checks"], "not_found_final_s": 600}}
    made.wechatpay.silent = {"pay", "close", "query"}
    async with gateway_with(made, tmp_path, database_url, **patient) as gateway:
        api = Api(session, gateway.url, app.api_key)
        order_id = (await api.created())["order_id"]
        assert (await api.pay(order_id, **WECHAT)).status == 202
        (await api.pay(order_id, **ALIPAY)).problem(409, "payment_in_progress")
        made.wechatpay.silent = set()
        answer = await api.pay(order_id, **WECHAT)
        assert (answer.status, answer.json["payment"]["attempt_id"]) == (200, order_id + "01")


async def test_a_late_payment_of_the_first_is_excess_once_the_second_was_paid(
    api: Api, made: Made, running: Gateway, database_url: str
) -> None:
    order_id = (await api.created())["order_id"]
    await api.pay(order_id, **WECHAT)
    await api.pay(order_id, **ALIPAY)
    made.alipay.somebody_pays(order_id + "02")
    assert await notify(api.session, running.url, "alipay", order_id + "02") == 200
    made.wechatpay.somebody_pays(order_id + "01")
    assert await notify(api.session, running.url, "wechatpay", order_id + "01") == 200
    paid = await api.get(order_id)
    assert (paid["state"], paid["paid_amount"]) == ("paid", 100)
    connection = await asyncpg.connect(database_url)
    kinds = await connection.fetch("SELECT channel, kind FROM payments ORDER BY learned_at")
    await connection.close()
    assert [tuple(kind) for kind in kinds] == [("alipay", "credit"), ("wechatpay", "excess")]


async def test_an_order_whose_channel_closes_nothing_is_closing_until_its_expiry_and_then_closed(
    api: Api, made: Made
) -> None:
    """No exception, no case for people: payTimeout ends it, and nothing was wrong."""
    order_id = (await api.created(expires_in_s=7))["order_id"]  # the channel is given five seconds less
    await api.pay(order_id, **UNIONPAY)
    made.unionpay.trades[order_id + "01"].opened = True
    answer = await api.close(order_id)
    assert (answer.status, answer.json["state"]) == (202, "paying")
    (await api.pay(order_id, **WECHAT)).problem(409, "order_closing")
    await api.until_state(order_id, "closed")
    assert {event["state"] for event in await api.timeline(order_id)} == {"created", "paying", "closing", "closed"}


async def test_a_form_that_nobody_opened_closes_after_its_expiry(api: Api, made: Made) -> None:
    """The channel never hears of it: not found is the last word once nobody can open it any more."""
    order_id = (await api.created(expires_in_s=6))["order_id"]
    await api.pay(order_id, **UNIONPAY)
    assert (await api.close(order_id)).status == 202
    closed = await api.until_state(order_id, "closed")
    assert closed["closed_at"] > closed["attempts"][0]["submitted_at"]
    types = [event["type"] for event in await api.timeline(order_id)]
    assert types[-1] == "ReportedNotFound"


async def test_an_attempt_is_named_by_its_first_moment_whoever_asks_after_it(
    made: Made, database_url: str, tmp_path: Path, app: NewApp, session: aiohttp.ClientSession
) -> None:
    """Sent twice, asked after and closed by another process: the same number, the same time, the same expiry.

    The attempt ends at its channel a little before the order does, so that the channel's word is the later one.
    """
    async with gateway_with(made, tmp_path, database_url, **QUICK) as first:
        api = Api(session, first.url, app.api_key)
        made.unionpay.silent = {"pay"}
        order_id = (await api.created(return_url="https://shop.example/back"))["order_id"]
        assert (await api.pay(order_id, **UNIONPAY)).status == 202
        made.unionpay.silent = set()
    async with gateway_with(made, tmp_path, database_url, **QUICK) as second:
        api = Api(session, second.url, app.api_key)
        answer = await api.pay(order_id, **UNIONPAY)
        assert answer.status == 200
        await api.sync(order_id)
        assert (await api.close(order_id)).status == 202
    keys = {key for _, key in made.unionpay.called}
    assert len(keys) == 1
    (key,) = keys
    order = answer.json["order"]
    assert (key.out_trade_no, key.method) == (order_id + "01", "web")
    assert {verb for verb, _ in made.unionpay.called} == {"pay", "query", "close"}
    assert order["created_at"][:19] <= _utc(key.started_at_s) <= order["attempts"][0]["submitted_at"]
    assert _utc(key.expires_at_s) < order["expires_at"]
    assert made.unionpay.trades[order_id + "01"].request.return_url == "https://shop.example/back"


def _utc(at_s: int) -> str:
    return rfc3339(at_s * 1000)


async def test_a_storm_of_changing_minds_at_two_gateways_leaves_one_payment_that_can_be_made(
    made: Made, database_url: str, tmp_path: Path, app: NewApp, session: aiohttp.ClientSession
) -> None:
    """Whatever is asked of whom at once: nothing breaks, and nobody could ever pay in two places."""
    (tmp_path / "other").mkdir()
    chance = random.Random(7)
    async with (
        gateway_with(made, tmp_path, database_url, **QUICK) as first,
        gateway_with(made, tmp_path / "other", database_url, **QUICK) as second,
    ):
        apis = [Api(session, each.url, app.api_key) for each in (first, second)]
        for _ in range(5):
            order_id = (await apis[0].created())["order_id"]
            wishes = [chance.choice([WECHAT, ALIPAY, {"channel": "alipay", "method": "native"}]) for _ in range(12)]
            paying = asyncio.gather(*(chance.choice(apis).pay(order_id, **wish) for wish in wishes))
            while not paying.done():
                await asyncio.sleep(0.001)
                mine = [number for number in made.payable() if number.startswith(order_id)]
                assert len(mine) <= 1
                for number in mine:  # Alipay closes only what somebody opened
                    channel = made.alipay if number in made.alipay.trades else made.wechatpay
                    channel.trades[number].opened = True
            for answer in await paying:  # who loses every race against the other gateway is sent away, unharmed
                assert answer.status in (200, 202, 409) or answer.json["code"] == "overloaded", answer.json
            order = await apis[0].get(order_id)
            assert (
                sum(
                    attempt["state"] in ("submitting", "pending", "unknown", "closing") for attempt in order["attempts"]
                )
                <= 1
            )
