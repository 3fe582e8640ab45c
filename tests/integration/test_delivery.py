"""Webhooks delivered to real endpoints that fail, hang, flood, redirect and die, from a real outbox."""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook

from gateway.metrics import Metrics
from gateway.sealing import Sealer
from gateway.storage.apps import Apps
from gateway.storage.outbox import Outbox, OutboxRow
from gateway.webhooks import delivery as delivery_module
from gateway.webhooks.delivery import Delivery

BODY = '{"id":"evt","subject":"咖啡", "n" : 1}'.encode()


class Shop:
    """A real endpoint. `answer` decides what it does; it keeps what it was sent."""

    def __init__(self) -> None:
        self.url = ""
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.answer: Callable[[web.BaseRequest], Any] = lambda request: web.Response()
        self.running = 0
        self.running_max = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        try:
            answer = self.answer(request)
            response: web.StreamResponse = await answer if asyncio.iscoroutine(answer) else answer
            return response
        finally:
            self.running -= 1

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.seen]


@asynccontextmanager
async def opened(count: int = 1) -> AsyncIterator[list[Shop]]:
    shops, runners = [Shop() for _ in range(count)], []
    for shop in shops:
        runner = web.ServerRunner(web.Server(shop.handle), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        shop.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hooks"
        runners.append(runner)
    try:
        yield shops
    finally:
        for runner in runners:
            await runner.cleanup()


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with opened() as (shop,):
        yield shop


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=4) as pool:
        yield pool


@pytest.fixture
async def secret(pool: asyncpg.Pool) -> str:
    return (await Apps(pool, Sealer(bytes(32))).add("shop", None)).webhook_secret


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@asynccontextmanager
async def delivering(pool: asyncpg.Pool, metrics: Metrics, **changed: Any) -> AsyncIterator[Delivery]:
    settings: dict[str, Any] = {
        "schedule_s": [0, 0.01, 0.01, 0.01, 0.01, 0.01],
        "timeout_s": 10.0,
        "jitter": 0.0,
        "per_endpoint": 4,
        "lease_s": 30.0,
        "claim_every_s": 0.02,
    }
    made = Delivery(Outbox(pool), Apps(pool, Sealer(bytes(32))), metrics, **settings | changed)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def rows_for(url: str, *event_ids: str) -> list[OutboxRow]:
    return [OutboxRow(event_id, "shop", "ORDER", 3, "order.paid", url, BODY, 0, 0) for event_id in event_ids]


async def store(pool: asyncpg.Pool, rows: list[OutboxRow], due_in_s: float = 30.0) -> None:
    """As the group commit does: owed, under the lease of the process that commits them."""
    await pool.executemany(
        "INSERT INTO outbox (event_id, app_id, order_id, seq, type, url, body, next_try_at, created_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, clock_timestamp() + $8 * interval '1 s', clock_timestamp())",
        [(row.event_id, row.app_id, row.order_id, row.seq, row.type, row.url, row.body, due_in_s) for row in rows],
    )


async def states(pool: asyncpg.Pool) -> Counter[str]:
    return Counter(row["state"] for row in await pool.fetch("SELECT state FROM outbox"))


async def until(true: Callable[[], Any]) -> None:
    """Wait until the condition, which may be a coroutine function, holds."""
    async with asyncio.timeout(60):
        while True:
            held = true()
            if await held if asyncio.iscoroutine(held) else held:
                return
            await asyncio.sleep(0.01)


async def until_states(pool: asyncpg.Pool, **expected: int) -> None:
    async def reached() -> bool:
        return await states(pool) == expected

    await until(reached)


async def test_what_was_committed_is_delivered_as_stored_signed_and_marked(
    pool: asyncpg.Pool, metrics: Metrics, shop: Shop, secret: str
) -> None:
    rows = rows_for(shop.url, "evt_1")
    await store(pool, rows)
    async with delivering(pool, metrics) as delivery:
        delivery.owe(rows)
        await until_states(pool, delivered=1)
    ((headers, body),) = shop.seen
    assert body == BODY
    assert Webhook(secret).verify(body, headers)
    assert (headers["content-type"], headers["user-agent"]) == ("application/json", "Holdfast")
    assert metrics.registry.get_sample_value("holdfast_told_after_seconds_count") == 1


async def test_what_nobody_owed_us_is_found_by_a_claim(
    pool: asyncpg.Pool, metrics: Metrics, shop: Shop, secret: str
) -> None:
    await store(pool, rows_for(shop.url, *(f"evt_{number}" for number in range(500))), due_in_s=-1)
    async with delivering(pool, metrics):
        await until_states(pool, delivered=500)
    assert Counter(shop.ids) == {f"evt_{number}": 1 for number in range(500)}


async def test_a_failed_try_is_repeated_with_the_same_id_and_a_fresh_signature(
    pool: asyncpg.Pool, metrics: Metrics, shop: Shop, secret: str
) -> None:
    statuses = iter([500, 503, 200])
    shop.answer = lambda request: web.Response(status=next(statuses))
    times = iter(range(1_000, 10_000, 100))
    rows = rows_for(shop.url, "evt_1")
    await store(pool, rows)
    async with delivering(pool, metrics, clock=lambda: float(next(times))) as delivery:
        delivery.owe(rows)
        await until_states(pool, delivered=1)
    assert shop.ids == ["evt_1"] * 3
    assert len({headers["webhook-timestamp"] for headers, _ in shop.seen}) == 3
    assert len({headers["webhook-signature"] for headers, _ in shop.seen}) == 3
    assert await pool.fetchval("SELECT tries FROM outbox") == 3


async def test_when_the_schedule_is_used_up_the_webhook_is_dead_and_visible(
    pool: asyncpg.Pool, metrics: Metrics, shop: Shop, secret: str
) -> None:
    shop.answer = lambda request: web.Response(status=500)
    await store(pool, rows_for(shop.url, "evt_1"), due_in_s=-1)
    async with delivering(pool, metrics, schedule_s=[0, 0.01, 0.01]):
        await until_states(pool, dead=1)
    assert len(shop.seen) == 3
    assert await pool.fetchval("SELECT last_error FROM outbox") == "all 3 tries failed; the last: HTTP 500"
    assert metrics.registry.get_sample_value("holdfast_webhook_attempts_total", {"result": "dead"}) == 1


async def test_gone_is_dead_at_once(pool: asyncpg.Pool, metrics: Metrics, shop: Shop, secret: str) -> None:
    shop.answer = lambda request: web.Response(status=410)
    await store(pool, rows_for(shop.url, "evt_1"), due_in_s=-1)
    async with delivering(pool, metrics):
        await until_states(pool, dead=1)
    assert len(shop.seen) == 1


async def test_retry_after_is_honoured(pool: asyncpg.Pool, metrics: Metrics, shop: Shop, secret: str) -> None:
    shop.answer = lambda request: web.Response(status=429, headers={"Retry-After": "1200"})
    await store(pool, rows_for(shop.url, "evt_1"), due_in_s=-1)
    async with delivering(pool, metrics):
        await until(lambda: pool.fetchval("SELECT tries = 1 FROM outbox"))
    due_in_s = await pool.fetchval("SELECT extract(epoch FROM next_try_at - now())::float8 FROM outbox")
    assert 1_100 < due_in_s <= 1_200


async def test_a_redirect_is_a_failure_and_is_not_followed(pool: asyncpg.Pool, metrics: Metrics, secret: str) -> None:
    async with opened(2) as (shop, other):
        shop.answer = lambda request: web.Response(status=307, headers={"Location": other.url})
        await store(pool, rows_for(shop.url, "evt_1"), due_in_s=-1)
        async with delivering(pool, metrics, schedule_s=[0, 0]):
            await until_states(pool, dead=1)
        assert len(shop.seen) == 2
        assert other.seen == []


async def test_an_endpoint_that_drips_costs_the_timeout_and_is_a_failure(
    pool: asyncpg.Pool, metrics: Metrics, shop: Shop, secret: str
) -> None:
    async def drip(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        for sign in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000:
            request.transport.write(bytes([sign]))
            await asyncio.sleep(0.02)
        return web.Response()

    shop.answer = drip
    await store(pool, rows_for(shop.url, "evt_1"), due_in_s=-1)
    async with delivering(pool, metrics, schedule_s=[0], timeout_s=0.3):
        await until_states(pool, dead=1)
    assert "Timeout" in await pool.fetchval("SELECT last_error FROM outbox")


async def test_of_a_huge_answer_only_a_little_is_read(
    pool: asyncpg.Pool, metrics: Metrics, shop: Shop, secret: str
) -> None:
    written = 0
    ended = asyncio.Event()

    async def flood(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65_536)
                written += 65_536
        finally:
            ended.set()

    shop.answer = flood
    await store(pool, rows_for(shop.url, "evt_1"), due_in_s=-1)
    async with delivering(pool, metrics):
        await until_states(pool, delivered=1)  # the status line said 200
        await until(ended.is_set)
    assert written < 20_000_000, "what fits the sockets' buffers, not what the endpoint would send"


async def test_answers_that_are_not_http_are_failures(
    pool: asyncpg.Pool, metrics: Metrics, shop: Shop, secret: str
) -> None:
    async def garbage(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(b"\x00\xff\x00 no HTTP \r\n\r\n")
        request.transport.close()
        return web.Response()

    shop.answer = garbage
    await store(pool, rows_for(shop.url, "evt_1"), due_in_s=-1)
    async with delivering(pool, metrics, schedule_s=[0, 0]):
        await until_states(pool, dead=1)


async def test_an_address_that_can_not_be_called_is_a_failure_and_harms_no_other(
    pool: asyncpg.Pool, metrics: Metrics, shop: Shop, secret: str
) -> None:
    await store(pool, rows_for("http://[::1", "evt_1"), due_in_s=-2)
    await store(pool, rows_for("ftp://x/", "evt_2"), due_in_s=-2)
    await store(pool, rows_for(shop.url, "evt_3"), due_in_s=-1)
    async with delivering(pool, metrics, schedule_s=[0]):
        await until_states(pool, dead=2, delivered=1)


async def test_a_webhook_whose_app_or_secret_is_gone_is_a_failure(
    pool: asyncpg.Pool, metrics: Metrics, shop: Shop, secret: str
) -> None:
    await store(pool, rows_for(shop.url, "evt_1"), due_in_s=-1)
    await pool.execute("UPDATE apps SET webhook_secret = 'rubbish'")
    async with delivering(pool, metrics, schedule_s=[0]):
        await until_states(pool, dead=1)
    assert shop.seen == []
    assert "can't be signed" in await pool.fetchval("SELECT last_error FROM outbox")


async def hang(request: web.BaseRequest) -> web.StreamResponse:
    await asyncio.Event().wait()
    return web.Response()


async def test_an_endpoint_that_hangs_delays_no_other(pool: asyncpg.Pool, metrics: Metrics, secret: str) -> None:
    async with opened(3) as (hanging, *healthy):
        hanging.answer = hang
        stuck = [f"stuck_{number}" for number in range(300)]
        await store(pool, rows_for(hanging.url, *stuck), due_in_s=-100)
        for shop in healthy:
            await store(pool, rows_for(shop.url, *(f"{shop.url}_{number}" for number in range(100))), due_in_s=-1)
        async with delivering(pool, metrics, timeout_s=50.0, lease_s=60.0):
            await until_states(pool, delivered=200, owed=300)
        assert [len(shop.seen) for shop in healthy] == [100, 100]
        assert hanging.running_max == 4, "as many tries at once as one endpoint may have"


async def test_a_dead_endpoint_is_paused_and_its_rows_occupy_no_claims(
    pool: asyncpg.Pool, metrics: Metrics, secret: str
) -> None:
    async with opened(2) as (broken, healthy):
        broken.answer = lambda request: web.Response(status=503)
        await store(pool, rows_for(broken.url, *(f"broken_{number}" for number in range(1_000))), due_in_s=-100)
        await store(pool, rows_for(healthy.url, *(f"fine_{number}" for number in range(100))), due_in_s=-1)
        async with delivering(pool, metrics, schedule_s=[0, 3_600], lease_s=3_600):
            await until_states(pool, delivered=100, owed=1_000)
            leased = await pool.fetchval("SELECT count(*) FROM outbox WHERE state = 'owed' AND next_try_at > now()")
            await until(lambda: metrics.registry.get_sample_value("holdfast_endpoints_paused") == 1)
        assert leased < 1_000, "rows that are due for longer did not have to be taken first"
        assert len(broken.seen) < 100, "a broken endpoint is not asked a thousand times"


async def test_a_paused_endpoint_that_healed_gets_everything(
    pool: asyncpg.Pool, metrics: Metrics, shop: Shop, secret: str
) -> None:
    healed = False
    shop.answer = lambda request: web.Response(status=200 if healed else 503)
    ids = [f"evt_{number}" for number in range(100)]
    await store(pool, rows_for(shop.url, *ids), due_in_s=-1)
    async with delivering(pool, metrics, schedule_s=[0] + [0.01] * 50, timeout_s=0.5, lease_s=0.6):
        await until(lambda: metrics.registry.get_sample_value("holdfast_endpoints_paused") == 1)
        healed = True
        await until_states(pool, delivered=100)
    assert set(shop.ids) == set(ids)


async def test_more_than_may_be_held_is_dropped_and_found_again(
    pool: asyncpg.Pool, metrics: Metrics, shop: Shop, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "HELD_MAX", 50)
    rows = rows_for(shop.url, *(f"evt_{number}" for number in range(300)))
    await store(pool, rows, due_in_s=0.3)
    async with delivering(pool, metrics) as delivery:
        delivery.owe(rows)
        assert metrics.registry.get_sample_value("holdfast_webhook_attempts_total", {"result": "dropped"}) == 250
        await until_states(pool, delivered=300)


async def test_places_for_tries_are_shared_out_among_endpoints(
    pool: asyncpg.Pool, metrics: Metrics, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "TRIES_MAX", 2)
    async with opened(5) as shops:
        for shop in shops:
            await store(pool, rows_for(shop.url, *(f"{shop.url}_{number}" for number in range(40))), due_in_s=-1)
        async with delivering(pool, metrics):
            await until_states(pool, delivered=200)
        assert [len(shop.seen) for shop in shops] == [40] * 5


async def test_a_row_whose_lease_would_pass_during_a_try_is_left_to_the_next_claim(
    pool: asyncpg.Pool, metrics: Metrics, shop: Shop, secret: str
) -> None:
    """Else another process would send it at the same time."""
    release = asyncio.Event()

    async def wait(request: web.BaseRequest) -> web.StreamResponse:
        await release.wait()
        return web.Response()

    shop.answer = wait
    rows = rows_for(shop.url, "evt_1", "evt_2")
    await store(pool, rows, due_in_s=3_600)
    async with delivering(pool, metrics, per_endpoint=1, timeout_s=10.0, lease_s=10.3) as delivery:
        delivery.owe(rows)
        await until(lambda: shop.seen)
        await asyncio.sleep(0.4)  # the lease is a matter of time, nothing else
        release.set()
        await until_states(pool, delivered=1, owed=1)
    assert shop.ids == ["evt_1"]


async def test_a_row_that_is_held_is_not_sent_twice_when_claimed_again(
    pool: asyncpg.Pool, metrics: Metrics, shop: Shop, secret: str
) -> None:
    rows = rows_for(shop.url, "evt_1")
    await store(pool, rows, due_in_s=-1)
    async with delivering(pool, metrics) as delivery:
        for _ in range(5):
            delivery.owe(rows)
        await until_states(pool, delivered=1)
    assert shop.ids == ["evt_1"]


async def test_a_burst_is_delivered_once_each(pool: asyncpg.Pool, metrics: Metrics, shop: Shop, secret: str) -> None:
    rows = rows_for(shop.url, *(f"evt_{number}" for number in range(2_000)))
    await store(pool, rows, due_in_s=300)
    async with delivering(pool, metrics, per_endpoint=16) as delivery:
        delivery.owe(rows)
        await until_states(pool, delivered=2_000)
    assert len(shop.ids) == len(set(shop.ids)) == 2_000
    assert shop.running_max <= 16


async def test_stopping_lets_running_tries_finish(
    pool: asyncpg.Pool, metrics: Metrics, shop: Shop, secret: str
) -> None:
    release = asyncio.Event()

    async def wait(request: web.BaseRequest) -> web.StreamResponse:
        await release.wait()
        return web.Response()

    shop.answer = wait
    rows = rows_for(shop.url, *(f"evt_{number}" for number in range(10)))
    await store(pool, rows)
    async with delivering(pool, metrics) as delivery:
        delivery.owe(rows)
        await until(lambda: shop.running == 4)
        stopping = asyncio.create_task(delivery.stop(drain_s=30))
        await asyncio.sleep(0)
        release.set()
        await stopping
        delivery.owe(rows)
    assert await states(pool) == {"delivered": 4, "owed": 6}


async def test_stopping_does_not_wait_longer_than_it_was_told(
    pool: asyncpg.Pool, metrics: Metrics, shop: Shop, secret: str
) -> None:
    shop.answer = hang
    rows = rows_for(shop.url, *(f"evt_{number}" for number in range(10)))
    await store(pool, rows)
    async with delivering(pool, metrics) as delivery:
        delivery.owe(rows)
        await until(lambda: shop.running == 4)
        async with asyncio.timeout(5):
            await delivery.stop(drain_s=0.05)
    assert await states(pool) == {"owed": 10}


async def test_a_lease_shorter_than_a_try_is_refused(pool: asyncpg.Pool, metrics: Metrics) -> None:
    with pytest.raises(ValueError, match=r"lease of 5 s must be longer than timeout_s \(10.0\)"):
        async with delivering(pool, metrics, lease_s=5):
            pass


DIES_AFTER_SENDING = """
import asyncio, os, sys
import asyncpg
from gateway import probe
from gateway.metrics import Metrics
from gateway.sealing import Sealer
from gateway.storage.apps import Apps
from gateway.storage.outbox import Outbox
from gateway.webhooks.delivery import Delivery

async def main():
    probe.arm(os.environ, production=False)
    async with asyncpg.create_pool(sys.argv[1], min_size=1, max_size=2) as pool:
        delivery = Delivery(Outbox(pool), Apps(pool, Sealer(bytes(32))), Metrics(), schedule_s=[0, 9], timeout_s=0.5,
                            jitter=0.0, per_endpoint=1, lease_s=0.6, claim_every_s=0.02)
        await delivery.start()
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_process_that_dies_between_the_2xx_and_its_mark_is_followed_by_one_that_delivers_again(
    pool: asyncpg.Pool, metrics: Metrics, shop: Shop, secret: str, database_url: str
) -> None:
    await store(pool, rows_for(shop.url, "evt_1"), due_in_s=-1)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        DIES_AFTER_SENDING,
        database_url,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"HOLDFAST_CRASH_AT": "webhook_sent"},
    )
    try:
        async with asyncio.timeout(60):
            assert await process.wait() == -signal.SIGKILL
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert shop.ids == ["evt_1"]
    assert await states(pool) == {"owed": 1}
    async with delivering(pool, metrics):
        await until_states(pool, delivered=1)
    assert shop.ids == ["evt_1", "evt_1"], "the same id, so that the app handles it once"
    for headers, body in shop.seen:
        assert Webhook(secret).verify(body, headers)
