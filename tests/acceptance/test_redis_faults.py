"""Redis is killed, frozen, emptied and filled with rubbish in mid-load, and no answer changes: it decides nothing."""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import redis.asyncio as redis

from bench.chaos.on_databases import fill_with_rubbish
from tests.acceptance.stage import Stage, clean, customers, until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

SCRIPTS = 40
AT_ONCE = 8
CHANNEL = {"pay-rate": 1, "pay-after-s": "0:0.2"}

# What an app hears of the steps of `script`: status, problem code, and which order it is about.
EXPECTED = [
    (201, None, "first"),
    (200, None, "first"),  # the same again: a retry
    (409, "duplicate_submission", "first"),  # the same content under another number, a moment later
    (409, "order_conflict", "first"),  # the same number, another amount
    (201, None, "second"),  # another content of the same buyer
    (201, None, "third"),  # the first one's content, but nobody says who buys
    (201, None, "fourth"),  # twice: two customers may buy the same
    (409, "duplicate_submission", "first"),
    (200, None, "first"),
]

Fault = Callable[[Stage, redis.Redis], Awaitable[None]]
names = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """One set; the window in which submissions count as duplicates is long, so that a slow machine changes nothing."""
    overrides = {"orders": {"duplicate_window_ms": 60_000}}
    directory = Path(tmp_path_factory.mktemp("redis"))
    async with Stage(directory, channel=CHANNEL, faults={"drop": 0.2}, overrides=overrides) as stage:
        await stage.gateway.serve()
        yield stage


async def script(stage: Stage, name: str) -> list[tuple[int, str | None, str]]:
    """Creates and duplicates of one buyer, one after the other; what was heard, with ids replaced by names."""
    one = {"out_order_no": f"{name}-a", "amount": 100, "currency": "CNY", "subject": "tea", "buyer": name}
    anonymous = {key: value for key, value in one.items() if key != "buyer"}
    steps: list[dict[str, Any]] = [
        one,
        one,
        one | {"out_order_no": f"{name}-b"},
        one | {"amount": 200},
        one | {"out_order_no": f"{name}-c", "subject": "cake"},
        anonymous | {"out_order_no": f"{name}-d"},
        anonymous | {"out_order_no": f"{name}-e"},
        one | {"out_order_no": f"{name}-f"},
        one,
    ]
    known: dict[str, str] = {}
    heard = []
    for step in steps:
        status, told = await create(stage, step)
        alias = known.setdefault(told["order_id"], ("first", "second", "third", "fourth", "fifth")[len(known)])
        heard.append((status, told.get("code"), alias))
    return heard


async def create(stage: Stage, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    headers = {"authorization": f"Bearer {stage.api_key}"}
    async with stage.session.post(f"{stage.gateway.url}/v1/orders", json=body, headers=headers) as answer:
        return answer.status, await answer.json()


async def nothing(stage: Stage, client: redis.Redis) -> None:
    """No fault: what all others are compared with."""


async def kill(stage: Stage, client: redis.Redis) -> None:
    """Dead for a while, then back, empty."""
    assert stage.valkey.pid is not None
    os.kill(stage.valkey.pid, signal.SIGKILL)
    await asyncio.sleep(0.3)  # the fault's length, here and below
    await stage.valkey.start()


async def freeze(stage: Stage, client: redis.Redis) -> None:
    """Connected, and silent."""
    assert stage.valkey.pid is not None
    os.kill(stage.valkey.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(0.5)
    finally:
        os.kill(stage.valkey.pid, signal.SIGCONT)


async def flush(stage: Stage, client: redis.Redis) -> None:
    """It has forgotten everything."""
    await client.flushall()
    await asyncio.sleep(0.02)


async def rubbish(stage: Stage, client: redis.Redis) -> None:
    """Every key holds what nobody wrote: bytes, another kind of value, the number of an order that does not exist."""
    await fill_with_rubbish(client)
    await asyncio.sleep(0.02)


@pytest.mark.parametrize("fault", [nothing, kill, freeze, flush, rubbish])
async def test_every_answer_is_the_same_while_redis(fault: Fault, stage: Stage) -> None:
    places, done = asyncio.Semaphore(AT_ONCE), asyncio.Event()
    run = next(names)

    async def one(number: int) -> list[tuple[int, str | None, str]]:
        async with places:
            return await script(stage, f"run{run}-{number}")

    async def keep_failing() -> None:
        async with redis.Redis.from_url(stage.valkey.url) as client:
            while not done.is_set():
                await fault(stage, client)
                await asyncio.sleep(0.01)

    async with customers(stage, f"redis{run}", every_s=0.05) as wanted:
        failing = asyncio.create_task(keep_failing())
        heard = await asyncio.gather(*(one(number) for number in range(SCRIPTS)))
        done.set()
        await failing
    assert [told for told in heard if told != EXPECTED] == []
    await until(partial(stage.all_paid, wanted), 30)
    assert clean(await stage.settled())


async def test_a_create_that_died_between_redis_and_postgres_is_made_by_its_retry(stage: Stage) -> None:
    """The mark in Redis outlives the process; the retry carries the same number, and another number is not refused."""
    body = {"out_order_no": "died-a", "amount": 7, "currency": "CNY", "subject": "tea", "buyer": "died"}
    await stage.gateway.kill()
    await stage.gateway.serve(crash_at="before_commit:1")
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever a client makes of a connection that ends
        await create(stage, body)
    await stage.gateway.died()
    await stage.gateway.serve()
    status, told = await create(stage, body | {"out_order_no": "died-b"})
    assert status == 201, told
    status, told = await create(stage, body)
    assert (status, told["code"]) == (409, "duplicate_submission")
