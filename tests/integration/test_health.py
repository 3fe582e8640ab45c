"""Whether a gateway lives, is ready, and what it counts; its databases stopped and started under it."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.app import Gateway
from gateway.config import load
from gateway.embedded import Postgres, Valkey
from tests.integration.gateway_parts import Answer, Api, Platform, add_app, started, until, write_config

SOON_S = 5.0  # "within a few seconds"


async def readyz(api: Api) -> Answer:
    async with asyncio.timeout(SOON_S):
        return await api.request("GET", "/readyz")


async def until_ready(api: Api, status: int) -> Answer:
    async def look() -> Answer | None:
        answer = await readyz(api)
        return answer if answer.status == status else None

    return await until(look)


@pytest.fixture
async def own(
    durable_postgres: Postgres, platform: Platform, session: aiohttp.ClientSession, tmp_path: Path
) -> AsyncIterator[Api]:
    """A gateway on a Postgres of this test's own, which syncs as in production."""
    app = await add_app(durable_postgres.url, "shop")
    config = write_config(tmp_path / "gateway.toml", durable_postgres.url, platform, database={"allow_unsafe": False})
    async with started(config) as running:
        yield Api(session, running.url, app.api_key)


async def test_a_gateway_with_all_its_parts_is_ready(api: Api) -> None:
    assert (await api.request("GET", "/livez")).json == {"status": "alive"}
    answer = await readyz(api)
    assert answer.status == 200
    assert answer.json == {"status": "ready", "database": "writable", "redis": "up", "durability": "local"}


async def test_running_without_redis_on_purpose_is_not_degraded(second_api: Api) -> None:
    assert (await readyz(second_api)).json["status"] == "ready"


async def test_without_redis_it_is_degraded_and_ready(
    database_url: str, platform: Platform, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    app = await add_app(database_url, "shop")
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as root:
        valkey = Valkey(Path(root), die_with_parent=True)
        url = await valkey.start()
        try:
            config = write_config(tmp_path / "gateway.toml", database_url, platform, redis={"url": url})
            async with started(config) as running:
                api = Api(session, running.url, app.api_key)
                assert (await readyz(api)).json["status"] == "ready"
                first = await api.created(buyer="b")
                assert valkey.pid is not None
                os.kill(valkey.pid, signal.SIGKILL)
                answer = await readyz(api)
                assert (answer.status, answer.json["status"], answer.json["redis"]) == (200, "degraded", "down")
                document = (await api.create(buyer="b")).problem(409, "duplicate_submission", "out_order_no")
                assert document["order_id"] == first["order_id"]
                await valkey.start()

                async def ready() -> bool:
                    return bool((await readyz(api)).json["status"] == "ready")

                await until(ready)
        finally:
            await valkey.stop(force=True)


async def test_without_postgres_it_is_not_ready_and_comes_back_by_itself(own: Api, durable_postgres: Postgres) -> None:
    """Stopped as a machine stops; what was answered before is there afterwards, and what was refused is not."""
    order = await own.created()
    await durable_postgres.stop(force=True)
    assert (await until_ready(own, 503)).json["database"] == "unavailable"
    assert (await own.request("GET", "/livez")).status == 200
    refused = await own.create()
    assert refused.problem(503, "unavailable")["retryable"] is True
    assert refused.headers["Retry-After"] == "1"
    (await own.request("GET", f"/v1/orders/{order['order_id']}")).problem(503, "unavailable")
    await durable_postgres.start()
    await until_ready(own, 200)
    assert await own.get(order["order_id"]) == order
    await own.created()


async def test_an_unwritable_database_is_not_ready(own: Api, durable_postgres: Postgres) -> None:
    """Answers to reads are not enough: a standby, or an operator's read-only switch. What is final is shown even so."""
    final = (await own.created())["order_id"]
    assert (await own.close(final)).status == 200
    connection = await asyncpg.connect(durable_postgres.url)
    try:
        for value, status in (("on", 503), ("off", 200)):
            await connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
            await connection.execute("SELECT pg_reload_conf()")
            await until_ready(own, status)
            assert (await own.get(final))["state"] == "closed"
            assert (await own.create()).status == {503: 503, 200: 201}[status]
    finally:
        await connection.close()


async def test_a_gateway_that_stops_answers_what_it_has_begun(
    database_url: str, platform: Platform, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    app = await add_app(database_url, "shop")
    running = Gateway(load(write_config(tmp_path / "gateway.toml", database_url, platform), {}))
    await running.start()
    api = Api(session, running.url, app.api_key)
    order = await api.created()
    async with platform.faults(slow=1.0, slow_s=1.0):
        paying = asyncio.create_task(api.pay(order["order_id"]))

        async def begun() -> bool:
            return bool((await api.get(order["order_id"]))["state"] == "paying")

        await until(begun)
        await running.stop()
    answer = await paying
    assert answer.status == 200
    assert answer.json["payment"]["credential"] is not None


async def test_the_metrics_are_what_prometheus_reads(api: Api, platform: Platform) -> None:
    order_id = (await api.created(buyer="metrics"))["order_id"]
    await api.shown(order_id)
    await platform.pay(order_id + "01")
    await api.until_state(order_id, "paid")
    answer = await api.request("GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(answer.body.decode())
    samples = {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}
    for name in (
        ("holdfast_orders_total", "created"),
        ("holdfast_orders_total", "paid"),
        ("holdfast_learned_total", "notification"),
        ("holdfast_notifications_total", "wechatpay", "verified"),
        ("holdfast_channel_requests_seconds_count", "wechatpay", "pay", "accepted"),
        ("holdfast_actors",),
        ("process_resident_memory_bytes",),
    ):
        assert samples[name] >= 1, name
