"""How a payer can meet a channel: what there is, what must be said with it, and what the payer is given."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import aiohttp
import pytest
import segno

from channels.contract import CredentialType
from gateway.app import Gateway
from gateway.storage.apps import NewApp
from tests.integration.gateway_parts import NOBODY, Api, add_app
from tests.integration.made_up_channels import SHOWN, Made, gateway_with, make_three, notify

NATIVE: dict[str, Any] = {"channel": "wechatpay", "method": "native"}
JSAPI: dict[str, Any] = {"channel": "wechatpay", "method": "jsapi", "params": {"openid": "o1"}}
WEB: dict[str, Any] = {"channel": "unionpay", "method": "web"}
BARCODE: dict[str, Any] = {"channel": "unionpay", "method": "barcode", "params": {"code": "62001"}}


@pytest.fixture
def made() -> Made:
    return make_three()


@pytest.fixture
async def app(database_url: str) -> NewApp:
    return await add_app(database_url, "shop")


@pytest.fixture
async def running(made: Made, database_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway_with(made, tmp_path, database_url, checks={"pay_wait_s": 0.5}) as gateway:
        yield gateway


@pytest.fixture
def api(session: aiohttp.ClientSession, running: Gateway, app: NewApp) -> Api:
    return Api(session, running.url, app.api_key)


# --- what there is --------------------------------------------------------------------------------------------------


async def test_an_installation_says_what_it_can_do(api: Api) -> None:
    answer = await api.request("GET", "/v1/channels")
    assert answer.status == 200
    offers = {
        (channel["channel"], method["method"]): method
        for channel in answer.json["channels"]
        for method in channel["methods"]
    }
    assert {name: method["credential"] for name, method in offers.items()} == {
        ("alipay", "native"): "qr",
        ("alipay", "page"): "url",
        ("unionpay", "barcode"): "none",
        ("unionpay", "web"): "form",
        ("wechatpay", "jsapi"): "params",
        ("wechatpay", "native"): "qr",
    }
    assert list(offers) == sorted(offers)
    assert offers["wechatpay", "jsapi"]["params"] == [
        {
            "name": "openid",
            "about": "the payer's id",
            "required": True,
            "choices": [],
            "pattern": None,
            "chars_max": 28,
        },
        {
            "name": "scene",
            "about": "where the payer is",
            "required": False,
            "choices": ["shop", "home"],
            "pattern": None,
            "chars_max": 128,
        },
        {
            "name": "payer_ip",
            "about": "the payer's IPv4 address",
            "required": False,
            "choices": [],
            "pattern": "[0-9.]{7,15}",
            "chars_max": 128,
        },
    ]
    assert "account of" not in answer.body.decode(), "our merchant accounts are nobody's business"


async def test_only_an_app_is_told(api: Api) -> None:
    answer = await api.request("GET", "/v1/channels", headers={"Authorization": "Bearer hk_nobody"})
    answer.problem(401, "unauthorized", "Authorization")


# --- what must be said ----------------------------------------------------------------------------------------------


async def test_what_is_wrong_is_refused_and_nothing_is_written(api: Api, made: Made) -> None:
    """Every kind of mistake: tests/unit/test_chosen.py."""
    created = await api.created()
    order_id = created["order_id"]
    document = (await api.pay(order_id, channel="cash", method="native")).problem(
        400, "channel_not_installed", "channel"
    )
    assert "alipay, unionpay, wechatpay" in document["detail"]
    document = (await api.pay(order_id, **{**JSAPI, "params": None})).problem(400, "parameter_missing", "params.openid")
    assert "the payer's id" in document["detail"]
    (await api.pay(order_id, **{**JSAPI, "params": {"openid": "\0"}})).problem(
        400, "parameter_invalid", "params.openid"
    )
    assert await api.get(order_id) == created
    assert [channel.called for channel in made.by_name.values()] == [[], [], []]


async def test_params_reach_the_channel_and_the_same_ones_the_same_credential(api: Api, made: Made) -> None:
    order_id = (await api.created())["order_id"]
    params = {"scene": "shop", "openid": "o1"}
    first = await api.pay(order_id, **{**JSAPI, "params": params})
    assert first.status == 200
    again = await api.pay(order_id, **{**JSAPI, "params": dict(reversed(params.items()))})
    assert (again.status, again.body) == (200, first.body)
    assert made.wechatpay.calls("pay") == 1
    assert made.wechatpay.trades[order_id + "01"].request.params == params
    other = await api.pay(order_id, **{**JSAPI, "params": {"openid": "o2"}})
    assert other.json["payment"]["attempt_id"] == order_id + "02", "another payer"


@pytest.mark.parametrize("params", [None, {}])
async def test_no_params_are_no_params_however_that_is_said(api: Api, made: Made, params: Any) -> None:
    order_id = (await api.created())["order_id"]
    first = await api.pay(order_id, **NATIVE)
    again = await api.pay(order_id, **NATIVE, params=params)
    assert (again.status, again.body) == (200, first.body)
    assert made.wechatpay.calls("pay") == 1


# --- what the payer is given ----------------------------------------------------------------------------------------


GIVEN: list[tuple[dict[str, Any], str, Any]] = [
    (NATIVE, "qr", "https://qr.example/{number}"),
    ({"channel": "alipay", "method": "page"}, "url", "https://pay.example/{number}"),
    (WEB, "form", {"action": "https://pay.example/", "charset": "UTF-8", "fields": {"a": "<&\"'>"}}),
    (JSAPI, "params", {"paySign": "x", "timeStamp": "1"}),
    (BARCODE, "none", None),
]


@pytest.mark.parametrize(("pay", "kind", "value"), GIVEN, ids=lambda value: str(value)[:20])
async def test_a_credential_is_what_its_kind_says(
    api: Api, database_url: str, pay: dict[str, Any], kind: str, value: Any
) -> None:
    created = await api.created()
    answer = await api.pay(created["order_id"], **pay)
    assert answer.status == 200
    credential = answer.json["payment"]["credential"]
    wanted = value.format(number=created["order_id"] + "01") if isinstance(value, str) else value
    assert (credential["type"], credential["value"]) == (kind, wanted)
    assert credential["expires_at"] < created["expires_at"]
    order = await api.get(created["order_id"])
    assert order["attempts"][0]["credential"] == credential, "also from the database"


async def test_a_payer_who_showed_a_code_is_asked_once(api: Api, made: Made, running: Gateway) -> None:
    """There is nothing to show, which is no reason to ask the channel again."""
    order_id = (await api.created())["order_id"]
    answers = [await api.pay(order_id, **BARCODE) for _ in range(3)]
    assert {(answer.status, answer.body) for answer in answers} == {(200, answers[0].body)}
    assert made.unionpay.calls("pay") == 1
    made.unionpay.somebody_pays(order_id + "01")
    assert await notify(api.session, running.url, "unionpay", order_id + "01") == 200
    assert (await api.get(order_id))["state"] == "paid"


async def test_a_bar_code_that_is_paid_at_once_is_a_success_and_no_refusal(api: Api, made: Made) -> None:
    """A till that reads a refusal charges once more."""
    made.unionpay.pays_at_once = True
    order_id = (await api.created())["order_id"]
    answer = await api.pay(order_id, **BARCODE)
    assert (answer.status, answer.json["payment"]["state"]) == (200, "succeeded")
    assert (answer.json["order"]["state"], answer.json["payment"]["credential"]) == ("paid", None)
    (await api.pay(order_id, **BARCODE)).problem(409, "order_paid")


async def test_an_expired_credential_is_never_shown(api: Api, made: Made) -> None:
    """Its renewal was of unknown outcome; asked after, the attempt is payable, but not with what was shown before."""
    made.wechatpay.life_s = 0
    order_id = (await api.created())["order_id"]
    await api.pay(order_id, **NATIVE)
    made.wechatpay.silent = {"pay"}
    assert (await api.pay(order_id, **NATIVE)).status == 202
    made.wechatpay.silent, made.wechatpay.life_s = set(), None
    answer = await api.pay(order_id, **NATIVE)
    assert answer.status == 200
    expires_at = datetime.fromisoformat(answer.json["payment"]["credential"]["expires_at"])
    assert expires_at > datetime.fromisoformat(answer.json["order"]["created_at"]) + timedelta(minutes=20)


async def test_what_a_channel_can_not_be_sent_names_its_field(api: Api, made: Made) -> None:
    made.wechatpay.refuses = "subject: must hold something that can be shown"
    order_id = (await api.created())["order_id"]
    (await api.pay(order_id, **NATIVE)).problem(422, "payment_refused", "subject")


# --- as a picture ---------------------------------------------------------------------------------------------------


async def test_a_qr_code_is_drawn(api: Api) -> None:
    order_id = (await api.created())["order_id"]
    content = (await api.pay(order_id, **NATIVE)).json["payment"]["credential"]["value"]
    answer = await api.request("GET", f"/v1/orders/{order_id}/qr.svg")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/svg+xml")
    assert answer.headers["Cache-Control"] == "no-store", "the next payment has another one"
    drawn = ElementTree.fromstring(answer.body)  # noqa: S314 - our own
    width = int(drawn.attrib["width"])
    assert width == 8 * segno.make(content, error="m", micro=False).symbol_size(border=4)[0]
    assert b'fill="#fff"' in answer.body, "a dark page must not show through"
    assert b"http" not in answer.body.replace(b'xmlns="http://www.w3.org/2000/svg"', b"")
    assert (await api.request("GET", f"/v1/orders/{order_id}/qr.svg")).body == answer.body


@pytest.mark.parametrize("state", ["created", "form", "paid", "closed", "expired"])
async def test_where_there_is_no_qr_code_to_show_that_is_said(
    api: Api, made: Made, running: Gateway, state: str
) -> None:
    order_id = (await api.created(expires_in_s=5 if state == "expired" else None))["order_id"]
    if state != "created":
        await api.pay(order_id, **(WEB if state == "form" else NATIVE))
    if state == "paid":
        made.wechatpay.somebody_pays(order_id + "01")
        await notify(api.session, running.url, "wechatpay", order_id + "01")
    if state == "closed":
        await api.close(order_id)
    document = (await api.request("GET", f"/v1/orders/{order_id}/qr.svg")).problem(409, "qr_unavailable")
    assert document["order_id"] == order_id
    assert state in document["detail"]


async def test_a_qr_code_of_nobody_or_of_another_app_is_not_found(api: Api, database_url: str) -> None:
    other = await add_app(database_url, "other")
    order_id = (await api.created())["order_id"]
    await api.pay(order_id, **NATIVE)
    stranger = Api(api.session, api.url, other.api_key)
    for who, number in ((api, NOBODY), (stranger, order_id), (api, "x")):
        (await who.request("GET", f"/v1/orders/{number}/qr.svg")).problem(404, "order_not_found", "order_id")
    nobody = await api.request("GET", f"/v1/orders/{order_id}/qr.svg", headers={"Authorization": ""})
    nobody.problem(401, "unauthorized", "Authorization")
    (await api.request("GET", f"/v1/orders/{order_id}/qrxsvg")).problem(404, "not_found")


async def test_a_content_that_fits_no_qr_code_is_said_to_be_none(
    api: Api, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SHOWN, CredentialType.QR, "x" * 3000)
    order_id = (await api.created())["order_id"]
    assert (await api.pay(order_id, **NATIVE)).status == 200
    (await api.request("GET", f"/v1/orders/{order_id}/qr.svg")).problem(409, "qr_unavailable")
