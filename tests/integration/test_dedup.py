"""The duplicate hint against a real Valkey that is killed, frozen, flushed and filled with rubbish."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.dedup import Dedup
from gateway.embedded import Valkey
from gateway.metrics import Metrics

PRINT = bytes(range(16))
KEY = f"holdfast:submission:shop:{PRINT.hex()}"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def dedup(redis_url: str, metrics: Metrics) -> AsyncIterator[Dedup]:
    # A generous timeout, so that a busy machine is not mistaken for a dead Redis.
    made = Dedup(redis_url, window_ms=60_000, timeout_ms=5_000, metrics=metrics)
    yield made
    await made.stop()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def own_valkey() -> AsyncIterator[Valkey]:
    """A server of this test's own, to be killed and frozen."""
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as root:
        server = Valkey(Path(root), die_with_parent=True)
        await server.start()
        try:
            yield server
        finally:
            await server.stop(force=True)


@pytest.fixture
async def hasty(own_valkey: Valkey, metrics: Metrics) -> AsyncIterator[Dedup]:
    made = Dedup(own_valkey.url, window_ms=60_000, timeout_ms=50, metrics=metrics)
    yield made
    await made.stop()


def count(metrics: Metrics, result: str) -> int:
    return int(metrics.registry.get_sample_value("holdfast_dedup_total", {"result": result}) or 0)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.01)


async def test_another_number_with_the_same_content_is_hinted_at(dedup: Dedup, metrics: Metrics) -> None:
    assert await dedup.hint("shop", PRINT, "A-1") is None
    assert await dedup.hint("shop", PRINT, "A-2") == "A-1"
    assert await dedup.hint("shop", PRINT, "A-1") is None, "our own retry"
    assert (count(metrics, "new"), count(metrics, "hit")) == (1, 2)


async def test_other_apps_and_other_contents_do_not_collide(dedup: Dedup) -> None:
    assert await dedup.hint("shop", PRINT, "A-1") is None
    assert await dedup.hint("other", PRINT, "A-2") is None
    assert await dedup.hint("shop", PRINT[::-1], "A-3") is None


async def test_the_hint_expires_with_the_window(dedup: Dedup, redis: Redis) -> None:
    await dedup.hint("shop", PRINT, "A-1")
    await dedup.hint("shop", PRINT, "A-2")
    assert 0 < await redis.pttl(KEY) <= 60_000
    await redis.delete(KEY)
    assert await dedup.hint("shop", PRINT, "A-2") is None


@pytest.mark.parametrize("number", ["a b\r\nSET x 1\r\n", "咖啡-1", "\x01\x7f", "'\"\\", "x" * 400])
async def test_any_number_survives_the_way_through_redis(dedup: Dedup, number: str) -> None:
    assert await dedup.hint("shop", PRINT, number) is None
    assert await dedup.hint("shop", PRINT, "other") == number


async def test_a_number_redis_can_not_carry_raises_nothing(dedup: Dedup) -> None:
    assert await dedup.hint("shop", PRINT, "\ud800") is None


async def test_hints_of_one_turn_share_one_pipeline_and_are_ordered(
    dedup: Dedup, metrics: Metrics, redis: Redis
) -> None:
    before = (await redis.info("commandstats"))["cmdstat_set"]["calls"] if await redis.set("warm", 1) else 0
    answers = await asyncio.gather(*(dedup.hint("shop", PRINT, f"A-{number}") for number in range(1_000)))
    assert answers == [None] + ["A-0"] * 999
    assert (await redis.info("commandstats"))["cmdstat_set"]["calls"] == before + 1_000
    assert count(metrics, "unavailable") == 0


async def test_a_thousand_different_submissions_at_once_are_all_new(dedup: Dedup) -> None:
    prints = [number.to_bytes(16, "big") for number in range(1_000)]
    assert await asyncio.gather(*(dedup.hint("shop", print_, "A-1") for print_ in prints)) == [None] * 1_000


async def test_more_than_may_wait_are_answered_at_once(dedup: Dedup, metrics: Metrics) -> None:
    answers = await asyncio.gather(*(dedup.hint("shop", PRINT, "A-1") for _ in range(6_000)))
    assert answers == [None] * 6_000
    assert count(metrics, "unavailable") > 0


async def test_a_hint_that_is_cancelled_harms_no_other(dedup: Dedup) -> None:
    hung_up = asyncio.create_task(dedup.hint("shop", PRINT, "A-1"))
    stays = asyncio.create_task(dedup.hint("shop", PRINT, "A-2"))
    await asyncio.sleep(0)
    hung_up.cancel()
    assert await stays == "A-1"


async def test_a_flush_forgets_and_nothing_else(dedup: Dedup, redis: Redis) -> None:
    await dedup.hint("shop", PRINT, "A-1")
    await redis.flushall()
    assert await dedup.hint("shop", PRINT, "A-2") is None
    assert await dedup.hint("shop", PRINT, "A-3") == "A-2"


@pytest.mark.parametrize(
    "rubbish",
    [b"", b"A-1", b"\xff\xfe", b"holdfast:1:", b"holdfast:1:\xff", b"holdfast:2:A-1", b"holdfast:1:" + b"x" * 600],
)
async def test_a_value_that_is_not_ours_is_rubbish_and_no_hint(
    dedup: Dedup, redis: Redis, metrics: Metrics, rubbish: bytes
) -> None:
    await redis.set(KEY, rubbish)
    assert await dedup.hint("shop", PRINT, "A-1") is None
    assert count(metrics, "rubbish") == 1


async def test_a_key_of_the_wrong_type_is_rubbish_and_spoils_no_neighbour(
    dedup: Dedup, redis: Redis, metrics: Metrics
) -> None:
    await redis.lpush(KEY, "x")
    prints = [bytes(16), PRINT, bytes([1] * 16)]
    await dedup.hint("shop", prints[2], "A-0")
    assert await asyncio.gather(*(dedup.hint("shop", print_, "A-1") for print_ in prints)) == [None, None, "A-0"]
    assert count(metrics, "rubbish") == 1


async def test_a_redis_that_refuses_to_write_is_unavailable(dedup: Dedup, redis: Redis, metrics: Metrics) -> None:
    await redis.config_set("maxmemory", 1)
    try:
        assert await dedup.hint("shop", PRINT, "A-1") is None
    finally:
        await redis.config_set("maxmemory", 0)
    assert count(metrics, "unavailable") == 1
    assert await dedup.hint("shop", PRINT, "A-1") is None
    assert count(metrics, "new") == 1


async def test_a_killed_redis_costs_nothing_and_is_found_again(
    own_valkey: Valkey, hasty: Dedup, metrics: Metrics
) -> None:
    await until_new(hasty, metrics)
    await own_valkey.stop(force=True)
    assert not await hasty.ping()
    assert await asyncio.gather(*(hasty.hint("shop", PRINT, "A-2") for _ in range(100))) == [None] * 100
    assert count(metrics, "unavailable") >= 100
    await own_valkey.start()
    await until_new(hasty, metrics)
    assert await hasty.ping()


async def test_a_frozen_redis_is_asked_once_and_then_left_alone(
    own_valkey: Valkey, hasty: Dedup, metrics: Metrics
) -> None:
    await until_new(hasty, metrics)
    pid = int(own_valkey.pid_path.read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        assert await hasty.hint("shop", PRINT, "A-2") is None  # this one pays the 50 ms
        loop = asyncio.get_running_loop()
        asked = loop.create_task(hasty.hint("shop", PRINT, "A-3"))
        await asyncio.sleep(0)
        assert asked.done(), "while Redis is frozen a hint does not wait for anything"
        assert asked.result() is None
        assert not await hasty.ping()
    finally:
        os.kill(pid, signal.SIGCONT)
    await until_new(hasty, metrics)


async def test_after_a_freeze_no_answer_reaches_the_wrong_question(
    own_valkey: Valkey, hasty: Dedup, metrics: Metrics
) -> None:
    """The classic fault of a shared connection: late answers shift, and one customer gets another's number."""
    await until_new(hasty, metrics)
    pid = int(own_valkey.pid_path.read_text())
    for turn in range(5):
        os.kill(pid, signal.SIGSTOP)
        await asyncio.gather(*(hasty.hint("late", bytes([n] * 16), f"late-{turn}") for n in range(20)))
        os.kill(pid, signal.SIGCONT)
        await until_new(hasty, metrics)
        prints = [bytes([turn, n] * 8) for n in range(20)]
        answers = await asyncio.gather(*(hasty.hint("calm", print_, "calm") for print_ in prints))
        assert answers == [None] * 20


async def until_new(dedup: Dedup, metrics: Metrics) -> None:
    """Hint with ever new contents until Redis has answered one."""
    before = count(metrics, "new")
    async with asyncio.timeout(30):
        while count(metrics, "new") == before:
            assert await dedup.hint("fresh", os.urandom(16), "A-1") is None
            await asyncio.sleep(0.01)


async def test_a_server_that_talks_rubbish_is_unavailable(metrics: Metrics) -> None:
    async def rubbish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n*-7\r\n$99999999999\r\n\xff\x00")
        writer.close()

    server = await asyncio.start_server(rubbish, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    dedup = Dedup(url, window_ms=1_000, timeout_ms=200, metrics=metrics)
    try:
        for number in range(5):
            assert await dedup.hint("shop", PRINT, f"A-{number}") is None
        assert not await dedup.ping()
        assert count(metrics, "unavailable") == 5
    finally:
        await dedup.stop()
        server.close()


async def test_stopping_leaves_nobody_waiting(own_valkey: Valkey, metrics: Metrics) -> None:
    dedup = Dedup(own_valkey.url, window_ms=1_000, timeout_ms=60_000, metrics=metrics)
    await until_new(dedup, metrics)
    pid = int(own_valkey.pid_path.read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        waiting = [asyncio.create_task(dedup.hint("shop", bytes([n] * 16), "A-1")) for n in range(10)]
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            await dedup.stop()
            assert await asyncio.gather(*waiting) == [None] * 10
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_without_redis_every_hint_is_none(metrics: Metrics) -> None:
    dedup = Dedup(None, window_ms=1_000, timeout_ms=50, metrics=metrics)
    assert await dedup.hint("shop", PRINT, "A-1") is None
    assert await dedup.hint("shop", PRINT, "A-2") is None
    assert await dedup.ping()
    await dedup.stop()
