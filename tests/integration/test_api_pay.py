"""Paying: the credential, joining, refusals and outcomes that nobody knows, against a channel over the wire."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import asyncpg
import pytest
from aiohttp import web

from gateway.storage.apps import NewApp
from tests.integration.gateway_parts import Api, Platform, Running, started, until, write_config

Sections: TypeAlias = dict[str, dict[str, Any]]
IMPATIENT: Sections = {"checks": {"pay_wait_s": 0.5, "queries_s": [0.2]}, "wechatpay": {"timeout_s": 0.3}}
PATIENT: Sections = {"checks": {"queries_s": [0.2]}}


async def prepays(platform: Platform, order_id: str) -> int:
    """How often the channel was asked to make an attempt of this order payable, as its codes tell."""
    return sum(trade["codes"] for trade in await platform.trades(order_id))


async def test_the_credential_is_what_the_channel_gave(api: Api, platform: Platform) -> None:
    order = await api.created()
    answer = await api.pay(order["order_id"])
    assert answer.status == 200
    payment, shown = answer.json["payment"], answer.json["order"]
    assert payment["attempt_id"] == order["order_id"] + "01"
    assert payment["state"] == "pending"
    assert payment["credential"]["type"] == "qr"
    assert payment["credential"]["value"].startswith("weixin://wxpay/bizpayurl?pr=")
    assert order["created_at"] < payment["credential"]["expires_at"] < order["expires_at"], "the channel ends it first"
    assert (shown["state"], shown["version"]) == ("paying", 3)
    attempt = shown["attempts"][0]
    assert (attempt["channel"], attempt["method"], attempt["failure"]) == ("wechatpay", "native", None)
    assert {**payment, "submitted_at": attempt["submitted_at"]}.items() <= attempt.items()
    trade = (await platform.trades(order["order_id"]))[0]
    assert (trade["out_trade_no"], trade["amount"], trade["state"]) == (payment["attempt_id"], 100, "waiting")


async def test_paying_again_is_the_same_credential_and_no_call(api: Api, platform: Platform) -> None:
    order = await api.created()
    answers = [await api.pay(order["order_id"]) for _ in range(3)]
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert await prepays(platform, order["order_id"]) == 1


async def test_many_pays_at_once_join(api: Api, platform: Platform) -> None:
    order = await api.created()
    answers = await asyncio.gather(*(api.pay(order["order_id"]) for _ in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.json["payment"]["credential"]["value"] for answer in answers}) == 1
    assert await prepays(platform, order["order_id"]) == 1


async def test_pays_at_two_gateways_are_one_attempt(api: Api, second_api: Api, platform: Platform) -> None:
    """The gateways know nothing of each other, so the channel may be asked twice, but under one number."""
    order = await api.created()
    answers = await asyncio.gather(*((api, second_api)[n % 2].pay(order["order_id"]) for n in range(10)))
    assert {answer.status for answer in answers} == {200}
    assert {answer.json["payment"]["attempt_id"] for answer in answers} == {order["order_id"] + "01"}
    assert [trade["out_trade_no"] for trade in await platform.trades(order["order_id"])] == [order["order_id"] + "01"]


async def test_a_payment_is_notified_credited_and_told_with_its_evidence(
    api: Api, second_api: Api, platform: Platform, database: asyncpg.Connection
) -> None:
    order_id = (await api.created())["order_id"]
    await api.shown(order_id)
    trade = await platform.pay(order_id + "01")
    paid = await api.until_state(order_id, "paid")
    assert (paid["paid_amount"], paid["late"], paid["next_check_at"]) == (100, False, None)
    assert paid["attempts"][0]["state"] == "succeeded"
    assert paid["attempts"][0]["credential"] is None
    assert await second_api.get(order_id) == paid, "whoever is asked"
    timeline = await api.timeline(order_id)
    assert [event["type"] for event in timeline] == [
        "OrderCreated",
        "PayRequested",
        "SubmitAccepted",
        "PaymentReported",
    ]
    assert [event["version"] for event in timeline] == [1, 2, 3, 4]
    evidence = timeline[-1]["evidence"]
    assert (evidence["source"], evidence["transaction"]) == ("notification", trade["transaction"])
    notification_id = int(evidence["evidence"].removeprefix("notification "))
    kept = await database.fetchrow(
        "SELECT order_id, verdict FROM notifications WHERE notification_id = $1", notification_id
    )
    assert tuple(kept) == (order_id, "verified")


@pytest.mark.parametrize("state", ["paid", "closed", "expired"])
async def test_an_order_that_needs_no_payment_is_not_paid_again(
    api: Api, platform: Platform, database: asyncpg.Connection, state: str
) -> None:
    order_id = (await api.created())["order_id"]
    if state == "paid":
        await api.shown(order_id)
        await platform.pay(order_id + "01")
        await api.until_state(order_id, "paid")
    elif state == "closed":
        assert (await api.close(order_id)).status == 200
    else:
        await _age(database, order_id)
        await api.until_state(order_id, "closed")
    document = (await api.pay(order_id)).problem(409, "order_closed" if state == "expired" else f"order_{state}")
    assert document["order_id"] == order_id
    assert (await api.get(order_id))["state"] == ("closed" if state == "expired" else state)
    assert len(await platform.trades(order_id)) == (state == "paid")


async def _age(database: asyncpg.Connection, order_id: str) -> None:
    """Move an order half an hour into the past, as another gateway would have left it."""
    await database.execute(
        """
        UPDATE orders
           SET expires_at = expires_at - interval '31 minutes', next_check_at = next_check_at - interval '31 minutes',
               version = version + 1
         WHERE order_id = $1
        """,
        order_id,
    )


async def test_a_pay_at_the_moment_of_expiry_is_refused_and_closes(
    gateway: Running, shop: NewApp, session: aiohttp.ClientSession, platform: Platform, tmp_path: Path
) -> None:
    """Before any timer or sweep has noticed: the pay request itself finds that it is too late."""
    slow: Sections = {"sweep": {"every_s": 600}, "orders": {"expires_in_s": 0.3}}
    config = write_config(tmp_path / "gateway.toml", gateway.database_url, platform, **slow)
    async with started(config) as running:
        api = Api(session, running.url, shop.api_key)
        order_id = (await api.created())["order_id"]

        async def refused() -> bool:
            answer = await api.pay(order_id)
            return answer.status == 409 and answer.problem(409, answer.json["code"])["order_id"] == order_id

        await until(refused)
        await api.until_state(order_id, "closed")


# --- refusals -------------------------------------------------------------------------------------------------------

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Between:
    """A channel's front that answers some requests by itself and hands the others on to the real one."""

    def __init__(self, platform: Platform) -> None:
        self.url = ""
        self.refusals: list[tuple[int, bytes]] = []
        self.seen: list[str] = []
        self._platform = platform

    async def serve(self, request: web.BaseRequest) -> web.Response:
        self.seen.append(f"{request.method} {request.path.rpartition('/')[2]}")
        if request.path.endswith("/native") and self.refusals:
            status, body = self.refusals.pop(0)
            return web.Response(status=status, body=body, content_type="application/json")
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            hop = {"Host", "Content-Length", "Transfer-Encoding", "Connection"}
            headers = {name: value for name, value in request.headers.items() if name not in hop}
            url = self._platform.url + request.raw_path
            async with session.request(request.method, url, data=await request.read(), headers=headers) as answer:
                passed = {name: value for name, value in answer.headers.items() if name not in hop}
                return web.Response(status=answer.status, body=await answer.read(), headers=passed)


@asynccontextmanager
async def between(platform: Platform) -> AsyncIterator[Between]:
    front = Between(platform)
    runner = web.ServerRunner(web.Server(front.serve))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        front.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield front
    finally:
        await runner.cleanup()


@pytest.fixture
async def front(platform: Platform) -> AsyncIterator[Between]:
    async with between(platform) as running:
        yield running


@pytest.fixture
async def fronted(
    gateway: Running, shop: NewApp, session: aiohttp.ClientSession, platform: Platform, front: Between, tmp_path: Path
) -> AsyncIterator[Api]:
    """A gateway whose channel is the front."""
    sections: Sections = {**PATIENT, "wechatpay": {"base_url": front.url}}
    config = write_config(tmp_path / "gateway.toml", gateway.database_url, platform, **sections)
    async with started(config) as running:
        yield Api(session, running.url, shop.api_key)


async def test_a_definite_refusal_is_told_and_the_order_payable_again(fronted: Api, front: Between) -> None:
    front.refusals = [(403, '{"code":"NO_AUTH","message":"商户无权限"}'.encode())]
    order_id = (await fronted.created())["order_id"]
    document = (await fronted.pay(order_id)).problem(422, "payment_refused")
    assert document["order_id"] == order_id
    assert "NO_AUTH" in document["detail"]
    attempt = (await fronted.get(order_id))["attempts"][0]
    assert (attempt["state"], attempt["failure"]) == ("failed", {"code": "NO_AUTH", "message": "商户无权限"})
    answer = await fronted.pay(order_id)
    assert answer.status == 200
    assert answer.json["payment"]["attempt_id"] == order_id + "02"
    assert [attempt["state"] for attempt in answer.json["order"]["attempts"]] == ["failed", "pending"]


@pytest.mark.parametrize(
    "unclear",
    [
        (500, b'{"code":"SYSTEM_ERROR","message":"x"}'),
        (502, b"<html>bad gateway</html>"),
        (429, b'{"code":"FREQUENCY_LIMITED","message":"x"}'),
        (400, b'{"code":"NEVER_HEARD_OF","message":"x"}'),
        (400, b"not json"),
        (200, b'{"code_url":"weixin://unsigned"}'),
        (302, b""),
    ],
    ids=lambda answer: str(answer[0]),
)
async def test_what_is_not_a_definite_no_is_asked_after_and_sent_again_under_the_same_number(
    fronted: Api, front: Between, unclear: tuple[int, bytes]
) -> None:
    front.refusals = [unclear]
    order_id = (await fronted.created())["order_id"]
    answer = await fronted.pay(order_id)
    assert answer.status == 200, answer
    assert answer.json["payment"]["attempt_id"] == order_id + "01"
    assert "unsigned" not in answer.json["payment"]["credential"]["value"]
    sent = [call for call in front.seen if call in ("POST native", f"GET {order_id}01")]
    assert sent == ["POST native", f"GET {order_id}01", "POST native"], "asked after before it is sent again"


async def test_a_refusal_with_a_zero_byte_in_it_is_recorded_all_the_same(fronted: Api, front: Between) -> None:
    """What a channel says goes into rows; PostgreSQL takes no U+0000 in a text."""
    front.refusals = [(403, rb'{"code":"NO_AUTH","message":"a\u0000b"}')]
    order_id = (await fronted.created())["order_id"]
    (await fronted.pay(order_id)).problem(422, "payment_refused")


async def test_a_refusal_after_the_attempt_came_to_be_is_not_believed(
    fronted: Api, front: Between, platform: Platform
) -> None:
    """The first prepay arrived although its answer said 500; the second is refused as one that exists already."""
    async with platform.faults(error_after=1.0):
        order_id = (await fronted.created())["order_id"]
        asked = asyncio.create_task(fronted.pay(order_id))

        async def arrived() -> bool:
            return bool(await platform.trades(order_id))

        await until(arrived)
        front.refusals = [(400, b'{"code":"INVALID_REQUEST","message":"x"}')]
    await asked
    order = await fronted.get(order_id)
    assert order["state"] == "paying"
    assert order["attempts"][0]["state"] in ("pending", "unknown")
    await until(lambda: _credential(fronted, order_id))


async def _credential(api: Api, order_id: str) -> str | None:
    answer = await api.pay(order_id)
    assert answer.status in (200, 202), answer
    credential = answer.json["payment"]["credential"]
    return credential and str(credential["value"])


# --- nobody knows ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def impatient(
    gateway: Running, shop: NewApp, session: aiohttp.ClientSession, platform: Platform, tmp_path: Path
) -> AsyncIterator[Api]:
    """A gateway that lets nobody wait long."""
    config = write_config(tmp_path / "gateway.toml", gateway.database_url, platform, **IMPATIENT)
    async with started(config) as running:
        yield Api(session, running.url, shop.api_key)


@pytest.mark.parametrize("fault", ["timeout", "error_after", "error_before", "rate_limited", "accepted"])
async def test_an_unknown_outcome_is_202_and_recovered(impatient: Api, platform: Platform, fault: str) -> None:
    """While nothing of the channel can be believed the caller hears 202; as soon as it can, the code is there."""
    async with platform.faults(**{fault: 1.0}):
        order_id = (await impatient.created())["order_id"]
        answer = await impatient.pay(order_id)
        assert answer.status == 202, answer
        assert answer.json["payment"]["credential"] is None
        assert answer.json["payment"]["attempt_id"] == order_id + "01"
        assert answer.json["payment"]["state"] in ("submitting", "unknown")
        assert answer.json["order"]["state"] == "paying"
    value = await until(lambda: _credential(impatient, order_id))
    assert value.startswith("weixin://")
    trades = await platform.trades(order_id)
    assert [trade["out_trade_no"] for trade in trades] == [order_id + "01"], "one attempt, one number"


async def test_an_order_paid_while_nobody_knows_becomes_paid(impatient: Api, platform: Platform) -> None:
    """The prepay was taken, its answer lost, the payer paid (how, only he knows), the notification lost as well."""
    async with platform.faults(timeout=1.0, drop=1.0):
        order_id = (await impatient.created())["order_id"]
        assert (await impatient.pay(order_id)).status == 202
        await platform.pay(order_id + "01")
    paid = await impatient.until_state(order_id, "paid")
    assert paid["paid_amount"] == 100
    assert (await impatient.timeline(order_id))[-1]["evidence"]["source"] == "query"


async def test_a_caller_who_hangs_up_changes_nothing(api: Api, platform: Platform) -> None:
    """The payment goes on without him, and is there when he comes back."""
    async with platform.faults(slow=1.0, slow_s=0.5):
        order_id = (await api.created())["order_id"]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await api.pay(order_id)
        answer = await api.pay(order_id)
    assert answer.status == 200
    assert await prepays(platform, order_id) <= 1
