"""Apps and the clock, as the gateway reads them from a store."""

import time

import pytest

from gateway.clock import DatabaseClock
from gateway.sealing import Sealer
from gateway.storage.apps import _ADD_APP, _ADD_KEY, App, AppError, Apps, UnknownAppError
from gateway.storage.endpoints import Endpoints
from gateway.storage.queries import query
from tests.conformance.store.stores import Store

URL = "https://shop.example/webhooks"


@pytest.fixture
def apps(store: Store) -> Apps:
    return Apps(store.pool, Sealer(bytes(32)))


async def test_an_app_is_known_by_its_key_and_its_endpoint(store: Store, apps: Apps) -> None:
    made = await apps.add("shop", URL)
    mute = await apps.add("mute", None)
    assert await apps.authenticate(made.api_key) == App("shop", URL)
    assert await apps.authenticate(mute.api_key) == App("mute", None)
    assert await apps.authenticate("hk_" + "x" * 43) is None
    assert (await apps.webhook("shop")).url == URL
    with pytest.raises(UnknownAppError):
        await apps.webhook("nobody")
    endpoints = Endpoints(store.pool)
    await endpoints.start()
    assert (endpoints.url("shop"), endpoints.url("mute")) == (URL, None)
    await endpoints.stop()


async def test_an_app_whose_name_is_taken_leaves_no_key_behind(store: Store, apps: Apps) -> None:
    first = await apps.add("shop", URL)
    with pytest.raises(AppError):
        await apps.add("shop", "https://other.example/")
    assert len(await store.rows("app_keys")) == 1
    assert await apps.authenticate(first.api_key) == App("shop", URL)


async def test_nobody_sees_an_app_before_it_is_whole(store: Store, apps: Apps) -> None:
    with pytest.raises(ZeroDivisionError):
        await half_an_app(store)
    assert await store.rows("apps") == []
    assert await store.rows("app_keys") == []
    assert (await apps.add("half", URL)).app_id == "half"


async def half_an_app(store: Store) -> None:
    async with store.pool.acquire() as connection, connection.transaction():
        assert await connection.fetchval(_ADD_APP, "half", URL, b"sealed") == "half"
        await connection.execute(_ADD_KEY, b"k" * 32, "half", "hk_")
        assert await store.rows("apps") == []
        raise ZeroDivisionError


async def test_the_stores_clock_is_asked(store: Store) -> None:
    clock = DatabaseClock(lambda: time.time() - 5)
    await clock.adjust(store.pool)
    assert 4_900 < clock.offset_ms < 5_100
    assert await store.pool.fetchval(query("writable")) is True
