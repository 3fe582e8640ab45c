"""Ending a payment and asking after it: only the channel's word closes, and whoever asks learns what is true."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from gateway.storage.apps import NewApp
from tests.integration.gateway_parts import Api, Platform, Running, started, until, write_config

IMPATIENT: dict[str, Mapping[str, Any]] = {
    "checks": {"pay_wait_s": 0.4, "closing_s": [0.2, 0.2, 0.2, 5]},
    "wechatpay": {"timeout_s": 0.3},
}


async def owed(database: asyncpg.Connection, order_id: str) -> list[str]:
    found = await database.fetch("SELECT type FROM outbox WHERE order_id = $1 ORDER BY seq", order_id)
    return [record["type"] for record in found]


async def queries(api: Api) -> float:
    """How often the gateway asked the channel after an attempt."""
    answer = await api.request("GET", "/metrics")
    lines = [line for line in answer.body.decode().splitlines() if "_seconds_count{" in line and 'op="query"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def four_seconds_later(database: asyncpg.Connection, order_id: str) -> None:
    """The row says when an attempt was sent."""
    sent = "UPDATE attempts SET submitted_at = submitted_at - interval '4 s' WHERE order_id = $1"
    await database.execute(sent, order_id)


# --- close ----------------------------------------------------------------------------------------------------------


async def test_an_order_nobody_tried_to_pay_closes_at_once(
    api: Api, platform: Platform, database: asyncpg.Connection
) -> None:
    order_id = (await api.created())["order_id"]
    answer = await api.close(order_id)
    assert (answer.status, answer.json["state"]) == (200, "closed")
    assert answer.json["closed_at"] is not None
    assert answer.json["next_check_at"] is None
    assert await owed(database, order_id) == ["order.closed"]
    assert await platform.trades(order_id) == []


async def test_an_order_that_could_be_paid_closes_at_its_channel_first(
    api: Api, platform: Platform, database: asyncpg.Connection
) -> None:
    order_id = (await api.created())["order_id"]
    await api.shown(order_id)
    answer = await api.close(order_id)
    assert (answer.status, answer.json["state"]) == (200, "closed")
    assert answer.json["attempts"][0]["state"] == "closed"
    assert answer.json["next_check_at"] is not None, "money may still arrive: it is watched for a while"
    assert (await platform.trades(order_id))[0]["state"] == "closed"
    assert await owed(database, order_id) == ["order.closed"]


async def test_closing_again_is_the_same_closed_order(api: Api) -> None:
    order_id = (await api.created())["order_id"]
    await api.shown(order_id)
    answers = await asyncio.gather(*(api.close(order_id) for _ in range(5)))
    again = await api.close(order_id)
    assert {(answer.status, answer.body) for answer in answers} == {(200, again.body)}
    assert again.json["version"] == 5, "closing once, closed once"


async def test_an_order_paid_meanwhile_is_paid_and_not_closed(
    api: Api, platform: Platform, database: asyncpg.Connection
) -> None:
    """The notification is lost: that it is paid is what the channel answers to the close."""
    order_id = (await api.created())["order_id"]
    await api.shown(order_id)
    async with platform.faults(drop=1.0):
        await platform.pay(order_id + "01")
    assert (await api.close(order_id)).problem(409, "order_paid")["order_id"] == order_id
    paid = await api.get(order_id)
    assert (paid["state"], paid["paid_amount"]) == ("paid", 100)
    assert await owed(database, order_id) == ["order.paid"]
    (await api.close(order_id)).problem(409, "order_paid")


async def test_a_channel_that_says_nothing_leaves_the_order_open(
    gateway: Running, shop: NewApp, session: aiohttp.ClientSession, platform: Platform, tmp_path: Path
) -> None:
    """202 and shown as paying while nobody knows; closed as soon as the channel says so, and not before."""
    config = write_config(tmp_path / "gateway.toml", gateway.database_url, platform, **IMPATIENT)
    async with started(config) as running:
        api = Api(session, running.url, shop.api_key)
        order_id = (await api.created())["order_id"]
        await api.shown(order_id)
        async with platform.faults(error_before=1.0):
            answer = await api.close(order_id)
            assert (answer.status, answer.json["state"]) == (202, "paying")
            assert (await platform.trades(order_id))[0]["state"] == "waiting"
            (await api.pay(order_id)).problem(409, "order_closing")
        await api.until_state(order_id, "closed")
        assert (await platform.trades(order_id))[0]["state"] == "closed"


async def test_paid_after_closed_is_late_and_paid(api: Api, platform: Platform, database: asyncpg.Connection) -> None:
    """The channel contradicts its own word; the money is here all the same, and the app wants it."""
    order_id = (await api.created())["order_id"]
    await api.shown(order_id)
    await api.close(order_id)
    body = platform.notice(order_id + "01", 100)
    path = f"{api.url}/callbacks/wechatpay/{order_id}/01"
    async with api.session.post(path, data=body, headers=platform.signed(body)) as answer:
        assert answer.status == 200
    paid = await api.get(order_id)
    assert (paid["state"], paid["late"], paid["paid_amount"]) == ("paid", True, 100)
    assert await owed(database, order_id) == ["order.closed", "order.paid"]


async def test_paid_after_closed_is_held_if_the_app_asked_for_that(
    api: Api, platform: Platform, database: asyncpg.Connection
) -> None:
    order_id = (await api.created(late_payment="hold"))["order_id"]
    await api.shown(order_id)
    await api.close(order_id)
    body = platform.notice(order_id + "01", 100)
    path = f"{api.url}/callbacks/wechatpay/{order_id}/01"
    async with api.session.post(path, data=body, headers=platform.signed(body)) as answer:
        assert answer.status == 200
    held = await api.get(order_id)
    assert (held["state"], held["reason"], held["paid_amount"]) == ("exception", "late_payment", 0)
    assert await owed(database, order_id) == ["order.closed", "order.late_payment"]


# --- sync -----------------------------------------------------------------------------------------------------------


async def test_sync_finds_a_payment_whose_notification_was_lost(api: Api, platform: Platform) -> None:
    order_id = (await api.created())["order_id"]
    await api.shown(order_id)
    async with platform.faults(drop=1.0):
        trade = await platform.pay(order_id + "01")
    answer = await api.sync(order_id)
    assert (answer.status, answer.json["state"], answer.json["paid_amount"]) == (200, "paid", 100)
    evidence = (await api.timeline(order_id))[-1]["evidence"]
    assert (evidence["source"], evidence["transaction"]) == ("query", trade["transaction"])


async def test_sync_of_what_is_not_paid_changes_nothing(api: Api) -> None:
    created = await api.created()
    assert (await api.sync(created["order_id"])).json == created
    shown = await api.shown(created["order_id"])
    assert (await api.sync(created["order_id"])).json == shown


async def test_many_syncs_at_once_ask_once(api: Api, platform: Platform) -> None:
    order_id = (await api.created())["order_id"]
    shown = await api.shown(order_id)
    before = await queries(api)
    async with platform.faults(slow=1.0, slow_s=0.5):
        answers = await asyncio.gather(*(api.sync(order_id) for _ in range(20)))
    assert [answer.json for answer in answers] == [shown] * 20
    assert await queries(api) - before == 1


async def test_sync_at_a_silent_channel_answers_what_is_known(
    gateway: Running, shop: NewApp, session: aiohttp.ClientSession, platform: Platform, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "gateway.toml", gateway.database_url, platform, **IMPATIENT)
    async with started(config) as running:
        api = Api(session, running.url, shop.api_key)
        order_id = (await api.created())["order_id"]
        shown = await api.shown(order_id)
        async with platform.faults(timeout=1.0):
            answer = await api.sync(order_id)
    assert (answer.status, answer.json) == (200, shown)


# --- reading --------------------------------------------------------------------------------------------------------


async def test_reading_a_paying_order_asks_the_channel_once(
    api: Api, platform: Platform, database: asyncpg.Connection
) -> None:
    """Not while it is fresh; after three seconds once for all who read; and that finds what was lost."""
    order_id = (await api.created())["order_id"]
    await api.shown(order_id)
    before = await queries(api)
    await asyncio.gather(*(api.get(order_id) for _ in range(10)))
    assert await queries(api) == before
    await database.execute(
        "UPDATE attempts SET submitted_at = submitted_at - interval '4 s' WHERE order_id = $1", order_id
    )
    async with platform.faults(drop=1.0):
        await platform.pay(order_id + "01")
    orders = await asyncio.gather(*(api.get(order_id) for _ in range(10)))
    assert {order["state"] for order in orders} <= {"paying", "paid"}
    paid = await api.until_state(order_id, "paid")
    assert paid["paid_amount"] == 100
    assert await queries(api) - before == 1


async def test_reading_by_the_apps_own_number_asks_as_well(
    api: Api, platform: Platform, database: asyncpg.Connection
) -> None:
    created = await api.created()
    order_id = created["order_id"]
    await api.shown(order_id)
    await database.execute(
        "UPDATE attempts SET submitted_at = submitted_at - interval '4 s' WHERE order_id = $1", order_id
    )
    async with platform.faults(drop=1.0):
        await platform.pay(order_id + "01")

    async def paid() -> bool:
        answer = await api.request("GET", f"/v1/orders?out_order_no={created['out_order_no']}")
        return bool(answer.json["state"] == "paid")

    await until(paid)


@pytest.mark.parametrize("state", ["created", "paid", "closed"])
async def test_reading_what_is_not_paying_asks_nobody(
    api: Api, platform: Platform, database: asyncpg.Connection, state: str
) -> None:
    order_id = (await api.created())["order_id"]
    if state == "paid":
        await api.shown(order_id)
        await platform.pay(order_id + "01")
        await api.until_state(order_id, "paid")
    elif state == "closed":
        await api.close(order_id)
    await database.execute(
        "UPDATE attempts SET submitted_at = submitted_at - interval '4 s' WHERE order_id = $1", order_id
    )
    before = await queries(api)
    for _ in range(3):
        assert (await api.get(order_id))["state"] == state
    assert await queries(api) == before
