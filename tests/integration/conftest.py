"""The session's gateways, their channel, their apps, and a client for each test."""

from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest

from gateway.embedded import Postgres, Valkey
from gateway.storage.apps import NewApp
from tests.integration.gateway_parts import (
    NOBODY,
    Api,
    Platform,
    Running,
    add_app,
    gateway_process,
    run,
    simulator,
    write_config,
)
from tests.integration.raw_http import Raw


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The session's WeChat Pay."""
    with simulator(tmp_path_factory.mktemp("wechatpay")) as running:
        yield running


@pytest.fixture(scope="session")
def gateway(
    postgres: Postgres, valkey: Valkey, platform: Platform, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """The session's gateway, with Redis, on a database that only it and `second_gateway` write."""
    database_url = urlsplit(postgres.url)._replace(path="/gateway").geturl()
    run(_create_database(postgres.url))
    config = tmp_path_factory.mktemp("gateway") / "gateway.toml"
    with gateway_process(write_config(config, database_url, platform, redis={"url": valkey.url})) as running:
        yield running


@pytest.fixture(scope="session")
def second_gateway(gateway: Running, platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Another one over the same database, without Redis."""
    config = tmp_path_factory.mktemp("second") / "gateway.toml"
    with gateway_process(write_config(config, gateway.database_url, platform)) as running:
        yield running


@pytest.fixture(scope="session")
def shop(gateway: Running) -> NewApp:
    """The app the tests call as."""
    return run(add_app(gateway.database_url, "shop"))


@pytest.fixture(scope="session")
def stranger(gateway: Running) -> NewApp:
    """Another app, which must not see what the shop has."""
    return run(add_app(gateway.database_url, "stranger"))


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as opened:
        yield opened


@pytest.fixture
def api(session: aiohttp.ClientSession, gateway: Running, shop: NewApp) -> Api:
    """The shop at the session's gateway."""
    return Api(session, gateway.url, shop.api_key)


@pytest.fixture
def second_api(session: aiohttp.ClientSession, second_gateway: Running, shop: NewApp) -> Api:
    """The shop at the gateway without Redis."""
    return Api(session, second_gateway.url, shop.api_key)


@pytest.fixture
async def database(gateway: Running) -> AsyncIterator[asyncpg.Connection]:
    """The session's gateways' database."""
    connection = await asyncpg.connect(gateway.database_url)
    yield connection
    await connection.close()


async def _create_database(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE DATABASE gateway TEMPLATE holdfast_template")
    finally:
        await connection.close()


# --- for bad input --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def clumsy(gateway: Running) -> NewApp:
    """An app that does nothing right."""
    return run(add_app(gateway.database_url, "clumsy"))


@pytest.fixture
def raw(gateway: Running, clumsy: NewApp) -> Raw:
    """The clumsy app, byte by byte."""
    return Raw(gateway.url, clumsy.api_key)


@pytest.fixture(scope="session")
def order_id(gateway: Running, clumsy: NewApp) -> str:
    """An order that no bad input may move; its out_order_no is `the-one`."""

    async def create() -> str:
        async with aiohttp.ClientSession() as session:
            created = await Api(session, gateway.url, clumsy.api_key).created(out_order_no="the-one")
            return str(created["order_id"])

    return run(create())


ROWS = """
WITH mine AS (SELECT * FROM orders WHERE app_id = $1)
SELECT (SELECT array_agg(mine ORDER BY order_id)::text FROM mine) AS orders,
       (SELECT count(*) FROM submissions WHERE app_id = $1) AS submissions,
       (SELECT count(*) FROM outbox WHERE app_id = $1) AS outbox,
       (SELECT count(*) FROM events JOIN mine USING (order_id)) AS events,
       (SELECT count(*) FROM attempts JOIN mine USING (order_id)) AS attempts,
       (SELECT count(*) FROM payments JOIN mine USING (order_id)) AS payments,
       (SELECT count(*) FROM notifications WHERE order_id = $2) AS notifications
"""


@pytest.fixture(scope="module")
def untouched(gateway: Running, clumsy: NewApp, order_id: str) -> Iterator[None]:
    """All tests of a file together leave no row behind, and none is changed."""

    async def rows() -> str:
        connection = await asyncpg.connect(gateway.database_url)
        try:
            return str(await connection.fetchrow(ROWS, clumsy.app_id, NOBODY))
        finally:
            await connection.close()

    before = run(rows())
    yield
    assert run(rows()) == before
