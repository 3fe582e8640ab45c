"""The session's gateways, their channel, their apps, and a client for each test."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest

from gateway.embedded import Postgres, Valkey
from gateway.storage.apps import NewApp
from tests.integration.gateway_parts import Api, Platform, Running, add_app, gateway_process, simulator, write_config

T = TypeVar("T")


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
    _run(_create_database(postgres.url))
    config = tmp_path_factory.mktemp("gateway") / "gateway.toml"
    with gateway_process(write_config(config, database_url, platform, redis={"url": valkey.url})) as running:
        yield running


@pytest.fixture(scope="session")
def second_gateway(
    gateway: Running, platform: Platform, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """Another one over the same database, without Redis."""
    config = tmp_path_factory.mktemp("second") / "gateway.toml"
    with gateway_process(write_config(config, gateway.database_url, platform)) as running:
        yield running


@pytest.fixture(scope="session")
def shop(gateway: Running) -> NewApp:
    """The app the tests call as."""
    return _run(add_app(gateway.database_url, "shop"))


@pytest.fixture(scope="session")
def stranger(gateway: Running) -> NewApp:
    """Another app, which must not see what the shop has."""
    return _run(add_app(gateway.database_url, "stranger"))


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


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(coroutine)
