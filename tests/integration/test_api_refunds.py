"""Refunds over HTTP: asked for by apps, owed by the rules, each exactly once at its channel."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from channels.contract import RefundKey, RefundRequest, RefundState
from gateway.app import Gateway
from gateway.storage.apps import NewApp
from tests.integration.gateway_parts import Answer, Api, add_app, until
from tests.integration.made_up_channels import Made, gateway_with, make_three, notify, notify_refund

QUICK: dict[str, dict[str, Any]] = {
    "checks": {"pay_wait_s": 0.5, "queries_s": [0.1], "closing_s": [0.1], "refund_s": [0.1], "not_found_final_s": 0.2},
    "sweep": {"every_s": 0.1, "grace_s": 0},
}
WECHAT: dict[str, Any] = {"channel": "wechatpay", "method": "native"}
ALIPAY: dict[str, Any] = {"channel": "alipay", "method": "page"}


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


async def paid(api: Api, made: Made, **fields: Any) -> str:
    """A paid order's id."""
    order_id: str = (await api.created(**fields))["order_id"]
    await api.pay(order_id, **WECHAT)
    made.wechatpay.somebody_pays(order_id + "01")
    assert await notify(api.session, api.url, "wechatpay", order_id + "01") == 200
    return order_id


async def refund(api: Api, order_id: str, number: str = "B1", amount: int = 40, **fields: Any) -> Answer:
    body = {"out_refund_no": f"{order_id}-{number}", "amount": amount, **fields}
    return await api.request("POST", f"/v1/orders/{order_id}/refunds", body)


async def test_a_part_goes_back_and_then_the_rest(api: Api, made: Made) -> None:
    order_id = await paid(api, made)
    answer = await refund(api, order_id, reason="broken")
    assert (answer.status, answer.json["state"], answer.json["amount"]) == (201, "succeeded", 40)
    assert (await api.get(order_id))["refund_status"] == "partial"
    rest = await refund(api, order_id, "B2", 60)
    assert rest.json["state"] == "succeeded"
    order = await api.get(order_id)
    assert (order["state"], order["refund_status"], order["refunded_amount"]) == ("paid", "full", 100)
    document = (await refund(api, order_id, "B3", 1)).problem(409, "refund_exceeds_paid")
    assert document["detail"] == "1 was asked for, 0 of 100 can be given back still"
    assert sum(request.amount for request in made.wechatpay.refunds.values()) == 100


async def test_the_same_number_again_is_the_same_refund(api: Api, made: Made) -> None:
    order_id = await paid(api, made)
    first = await refund(api, order_id)
    again = await refund(api, order_id)
    assert (again.status, again.json["refund_id"]) == (200, first.json["refund_id"])
    document = (await refund(api, order_id, amount=41)).problem(409, "refund_conflict")
    assert document["detail"] == f"{order_id}-B1 is a refund of 40 for the reason ''"
    assert len(made.wechatpay.refunds_sent) == 1
    other = await paid(api, made)
    body = {"out_refund_no": f"{order_id}-B1", "amount": 40}
    document = (await api.request("POST", f"/v1/orders/{other}/refunds", body)).problem(
        409, "refund_conflict", "out_refund_no"
    )
    assert document["order_id"] == order_id


async def test_fifty_at_once_never_give_back_more_than_was_paid(api: Api, made: Made) -> None:
    order_id = await paid(api, made)
    answers = await asyncio.gather(*(refund(api, order_id, f"B{number}", 30) for number in range(50)))
    assert sorted(answer.status for answer in answers).count(201) == 3
    assert {answer.status for answer in answers} == {201, 409}
    assert sum(request.amount for request in made.wechatpay.refunds.values()) == 90


async def test_silence_is_202_and_the_ladder_finds_out(api: Api, made: Made) -> None:
    order_id = await paid(api, made)
    made.wechatpay.silent = {"refund", "query_refund"}
    answer = await refund(api, order_id)
    assert (answer.status, answer.json["state"]) == (202, "unknown")
    made.wechatpay.silent = set()
    refund_id = answer.json["refund_id"]

    async def succeeded() -> bool:
        return bool((await api.request("GET", f"/v1/refunds/{refund_id}")).json["state"] == "succeeded")

    await until(succeeded)
    assert set(made.wechatpay.refunds_sent) == {refund_id}


async def test_what_never_arrived_is_sent_again_under_its_number(api: Api, made: Made) -> None:
    order_id = await paid(api, made)
    made.wechatpay.silent = {"refund_lost", "query_refund"}
    refund_id = (await refund(api, order_id)).json["refund_id"]
    made.wechatpay.silent = set()

    async def succeeded() -> bool:
        return bool((await api.request("GET", f"/v1/refunds/{refund_id}")).json["state"] == "succeeded")

    await until(succeeded)
    assert set(made.wechatpay.refunds_sent) == {refund_id}
    assert list(made.wechatpay.refunds) == [refund_id]


async def test_a_definite_no_is_told_and_makes_room(api: Api, made: Made) -> None:
    order_id = await paid(api, made)
    made.wechatpay.refund_refused = "no balance"
    (await refund(api, order_id)).problem(422, "refund_refused")
    made.wechatpay.refund_refused = ""
    assert (await refund(api, order_id, "B2", 100)).status == 201


async def test_processing_is_asked_after_and_can_be_synced(api: Api, made: Made) -> None:
    order_id = await paid(api, made)
    made.wechatpay.refund_state = RefundState.PROCESSING
    answer = await refund(api, order_id)
    assert (answer.status, answer.json["state"]) == (201, "processing")
    made.wechatpay.refund_state = RefundState.SUCCEEDED
    synced = await api.request("POST", f"/v1/refunds/{answer.json['refund_id']}/sync")
    assert synced.json["state"] == "succeeded"
    found = await api.request("GET", f"/v1/refunds?out_refund_no={order_id}-B1")
    assert found.json["refund_id"] == answer.json["refund_id"]


@pytest.mark.parametrize("by_payment_path", [False, True])
async def test_a_notification_says_where_a_refund_is(api: Api, made: Made, by_payment_path: bool) -> None:
    order_id = await paid(api, made)
    made.wechatpay.refund_state = RefundState.PROCESSING
    refund_id = (await refund(api, order_id)).json["refund_id"]
    made.wechatpay.silent = {"query_refund"}
    made.wechatpay.refund_state = RefundState.SUCCEEDED
    path = f"{order_id}/01" if by_payment_path else ""
    for _ in range(3):
        assert await notify_refund(api.session, api.url, "wechatpay", refund_id, path) == 200
    order = await api.get(order_id)
    assert (order["refunds"][0]["state"], order["refund_status"]) == ("succeeded", "partial")
    last = (await api.timeline(order_id))[-1]
    assert (last["type"], last["evidence"]["source"]) == ("RefundReported", "notification")


async def test_a_refund_told_before_its_payment_has_the_payment_asked_after(api: Api, made: Made) -> None:
    """As after a failover that lost both: the order is `paying`, and would ask by itself only in half a minute."""
    order_id: str = (await api.created())["order_id"]
    await api.pay(order_id, **WECHAT)
    made.wechatpay.somebody_pays(order_id + "01")
    key = RefundKey(f"{order_id}RAAAAA", 1, order_id + "01", f"transaction of {order_id}01")
    made.wechatpay.refunds[key.refund_no] = RefundRequest(key, 40, 100, "CNY", "broken", "https://here")
    assert await notify_refund(api.session, api.url, "wechatpay", key.refund_no) == 200

    async def paid() -> bool:
        return bool((await api.timeline(order_id))[-1]["state"] == "paid")  # a GET of the order would ask as well

    await until(paid)


async def test_a_refund_told_on_a_path_of_something_else_moves_nothing(api: Api, made: Made) -> None:
    order_id, other = await paid(api, made), await paid(api, made)
    made.wechatpay.refund_state = RefundState.PROCESSING
    refund_id = (await refund(api, order_id)).json["refund_id"]
    made.wechatpay.silent = {"query_refund"}
    made.wechatpay.refund_state = RefundState.SUCCEEDED
    for path in (f"{other}/01", f"refunds/{refund_id[:-1]}{'1' if refund_id[-1] != '1' else '2'}"):
        assert await notify_refund(api.session, api.url, "wechatpay", refund_id, path) == 400
    assert await notify_refund(api.session, api.url, "wechatpay", refund_id, "refunds/R1") == 404
    assert (await api.get(order_id))["refunds"][0]["state"] == "processing"


async def test_the_second_of_two_payments_goes_back_by_itself(api: Api, made: Made, database_url: str) -> None:
    order_id = (await api.created())["order_id"]
    await api.pay(order_id, **WECHAT)
    await api.pay(order_id, **ALIPAY)
    made.alipay.somebody_pays(order_id + "02")
    assert await notify(api.session, api.url, "alipay", order_id + "02") == 200
    made.wechatpay.somebody_pays(order_id + "01")
    assert await notify(api.session, api.url, "wechatpay", order_id + "01") == 200

    async def back() -> bool:
        refunds = (await api.get(order_id))["refunds"]
        return bool(refunds and refunds[0]["state"] == "succeeded")

    await until(back)
    order = await api.get(order_id)
    assert (order["state"], order["refund_status"], order["refunds"][0]["cause"]) == ("paid", "none", "excess")
    assert [request.amount for request in made.wechatpay.refunds.values()] == [100]
    assert made.alipay.refunds == {}
    assert await notify(api.session, api.url, "wechatpay", order_id + "01") == 200
    connection = await asyncpg.connect(database_url)
    types = await connection.fetch("SELECT type, body FROM outbox WHERE order_id = $1 ORDER BY seq", order_id)
    await connection.close()
    assert [row["type"] for row in types] == ["order.paid", "payment.duplicate", "refund.succeeded"]
    assert b'"refund":{' in types[-1]["body"]


async def test_a_gateway_that_dies_with_a_refund_is_followed_by_another(
    made: Made, database_url: str, tmp_path: Path, app: NewApp, session: aiohttp.ClientSession
) -> None:
    made.wechatpay.silent = {"refund_lost", "query_refund"}
    async with gateway_with(made, tmp_path, database_url, **QUICK) as first:
        api = Api(session, first.url, app.api_key)
        order_id = await paid(api, made)
        refund_id = (await refund(api, order_id)).json["refund_id"]
    made.wechatpay.silent = set()
    (tmp_path / "other").mkdir()
    async with gateway_with(made, tmp_path / "other", database_url, **QUICK) as second:
        api = Api(session, second.url, app.api_key)

        async def succeeded() -> bool:
            return bool((await api.request("GET", f"/v1/refunds/{refund_id}")).json["state"] == "succeeded")

        await until(succeeded)
    assert set(made.wechatpay.refunds_sent) == {refund_id}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"amount": 1}, "out_refund_no"),
        ({"out_refund_no": "a b", "amount": 1}, "out_refund_no"),
        ({"out_refund_no": "B", "amount": 0}, "amount"),
        ({"out_refund_no": "B", "amount": 1.5}, "amount"),
        ({"out_refund_no": "B", "amount": True}, "amount"),
        ({"out_refund_no": "B", "amount": 1, "reason": "x" * 81}, "reason"),
        ({"out_refund_no": "B", "amount": 1, "state": "succeeded"}, "state"),
    ],
)
async def test_bad_input_names_its_field(api: Api, made: Made, body: dict[str, Any], param: str) -> None:
    order_id = await paid(api, made)
    answer = await api.request("POST", f"/v1/orders/{order_id}/refunds", body)
    assert answer.status == 400
    assert answer.json["param"] == param
    assert (await api.get(order_id))["refunds"] == []


async def test_another_apps_refund_does_not_exist(api: Api, made: Made, database_url: str) -> None:
    order_id = await paid(api, made)
    refund_id = (await refund(api, order_id)).json["refund_id"]
    stranger = Api(api.session, api.url, (await add_app(database_url, "stranger")).api_key)
    (await stranger.request("GET", f"/v1/refunds/{refund_id}")).problem(404, "refund_not_found", "refund_id")
    (await stranger.request("POST", f"/v1/refunds/{refund_id}/sync")).problem(404, "refund_not_found", "refund_id")
    (await stranger.request("GET", f"/v1/refunds?out_refund_no={order_id}-B1")).problem(
        404, "refund_not_found", "out_refund_no"
    )
    (await refund(stranger, order_id, "B2")).problem(404, "order_not_found", "order_id")


async def test_an_order_that_is_not_paid_has_nothing_to_give_back(api: Api) -> None:
    order_id = (await api.created())["order_id"]
    (await refund(api, order_id)).problem(409, "order_not_paid")
