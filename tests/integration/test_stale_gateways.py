"""Two gateways over one database: what one of them moved, the other must not answer or act upon as it was before."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from tests.integration.gateway_parts import Api, Platform, add_app, started, write_config


async def _moved_by_the_other(api: Api, second_api: Api) -> dict[str, Any]:
    """An order in the first gateway's memory as just created, with a payment started at the second."""
    order = await api.created()
    return await second_api.shown(order["order_id"])


async def test_a_paid_order_is_paid_at_both(api: Api, second_api: Api, platform: Platform) -> None:
    """Notifications come to where the payment was started; the other one still holds the order with its QR code."""
    order = await _moved_by_the_other(api, second_api)
    order_id = order["order_id"]
    assert (await api.pay(order_id)).json["payment"]["credential"] == order["attempts"][0]["credential"]
    await platform.pay(order_id + "01")
    await second_api.until_state(order_id, "paid")
    (await api.pay(order_id)).problem(409, "order_paid")
    (await api.close(order_id)).problem(409, "order_paid")
    assert (await api.sync(order_id)).json == await second_api.get(order_id)


async def test_a_paid_order_that_moved_on_is_shown_as_it_is_by_both(
    api: Api, second_api: Api, platform: Platform
) -> None:
    """More money came for it, and only one of them was told: what one has shown, the other may not take back."""
    order = await _moved_by_the_other(api, second_api)
    order_id = order["order_id"]
    await platform.pay(order_id + "01")
    paid = await second_api.until_state(order_id, "paid")
    assert await api.sync(order_id), "now the first one has it in its memory, too"
    more = platform.notice(order_id + "01", order["amount"])
    address = f"{second_api.url}/callbacks/wechatpay/{order_id}/01"
    async with second_api.session.post(address, data=more, headers=platform.signed(more)) as answer:
        assert answer.status in (200, 204)
    shown = (await second_api.get(order_id))["version"]
    assert shown > paid["version"]
    assert (await api.get(order_id))["version"] >= shown


async def test_a_closed_order_is_closed_at_both(api: Api, second_api: Api) -> None:
    order = await _moved_by_the_other(api, second_api)
    assert (await second_api.close(order["order_id"])).status == 200
    (await api.pay(order["order_id"])).problem(409, "order_closed")
    assert (await api.close(order["order_id"])).status == 200


async def test_sync_asks_about_what_the_other_started(api: Api, second_api: Api, platform: Platform) -> None:
    order = await _moved_by_the_other(api, second_api)
    async with platform.faults(drop=1.0):
        await platform.pay(order["order_id"] + "01")
    assert (await api.sync(order["order_id"])).json["state"] == "paid"


async def test_a_due_order_is_looked_after_by_a_gateway_that_remembers_it_as_new(
    database_url: str, platform: Platform, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Its payment was started elsewhere, that gateway is gone, the notification lost: the row says all that counts."""
    fast: dict[str, Any] = {"sweep": {"every_s": 0.05, "grace_s": 0}, "checks": {"timeout_s": 0.5}}
    config = write_config(tmp_path / "gateway.toml", database_url, platform, **fast)
    other_config = write_config(tmp_path / "other.toml", database_url, platform)
    app = await add_app(database_url, "shop")
    async with started(config) as running:
        api = Api(session, running.url, app.api_key)
        order_id = (await api.created())["order_id"]
        async with started(other_config) as other:
            await Api(session, other.url, app.api_key).shown(order_id)
        async with platform.faults(drop=1.0):
            await platform.pay(order_id + "01")
        connection = await asyncpg.connect(database_url)
        await connection.execute("UPDATE orders SET next_check_at = now()")
        await connection.close()
        await api.until_state(order_id, "paid")


async def test_closing_at_one_and_paying_at_the_other_end_alike_everywhere(
    api: Api, second_api: Api, platform: Platform
) -> None:
    """The race of the two is decided once: by the compare-and-set, and by the channel's word."""
    orders = [await _moved_by_the_other(api, second_api) for _ in range(10)]
    for order in orders:
        order_id = order["order_id"]
        _, closed = await asyncio.gather(platform.pay(order_id + "01"), api.close(order_id))
        assert closed.status in (200, 409), closed
        state = "closed" if closed.status == 200 else "paid"
        assert (await second_api.get(order_id))["state"] == state
        trade = (await platform.trades(order_id))[0]
        assert trade["state"] == state
