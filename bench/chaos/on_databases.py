"""Faults of PostgreSQL, which is the truth, and of Redis, which decides nothing."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from types import MappingProxyType

import asyncpg
import redis.asyncio as redis

from bench.chaos.on_gateways import Inflict
from bench.chaos.stage import Stage
from bench.chaos.timeline import Fault
from bench.processes import send_to, with_children

BACKENDS = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE $1"
END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'holdfast%'"
END_EVERY_S = 0.2
LOCK = """
SELECT order_id FROM orders WHERE state IN ('created', 'paying', 'closing') ORDER BY order_id DESC LIMIT 5
FOR UPDATE SKIP LOCKED"""
PERSIST_S = 20.0

# --- PostgreSQL -----------------------------------------------------------------------------------------------------


async def restart(stage: Stage, _fault: Fault) -> str:
    """As `pg_ctl restart -m immediate`: no checkpoint, recovery from the log."""
    await stage.postgres.restart_immediate()
    return ""


async def backend_kill(stage: Stage, _fault: Fault) -> str:
    """SIGKILL for the committers' processes: PostgreSQL ends every session and recovers."""
    connection = await stage.connect()
    try:
        found = [row[0] for row in await connection.fetch(BACKENDS, "holdfast commit")]
        found = found or [row[0] for row in await connection.fetch(BACKENDS, "holdfast%")]
    finally:
        connection.terminate()
    send_to(found, signal.SIGKILL)
    await execute(stage, "SELECT 1")
    return f"{len(found)} processes"


async def sessions_end(stage: Stage, fault: Fault) -> str:
    """pg_terminate_backend (57P01) before, within or after whatever they do, again and again."""
    rounds = 1 + int(fault.lasts_s / END_EVERY_S)
    for _ in range(rounds):
        await execute(stage, END_SESSIONS)
        await asyncio.sleep(END_EVERY_S)
    return f"{rounds} times"


async def freeze(stage: Stage, fault: Fault) -> str:
    """SIGSTOP for every process of the server, postmaster first."""
    assert stage.postgres.pid is not None
    os.kill(stage.postgres.pid, signal.SIGSTOP)
    frozen = with_children(stage.postgres.pid)
    send_to(frozen, signal.SIGSTOP)
    try:
        await asyncio.sleep(fault.lasts_s)
    finally:
        send_to(frozen, signal.SIGCONT)
    return f"{len(frozen)} processes"


async def read_only(stage: Stage, fault: Fault) -> str:
    """As a copy that is not the primary: 25006 to every write."""
    await execute(stage, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    try:
        await asyncio.sleep(fault.lasts_s)
    finally:
        await execute(stage, "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")
    return ""


async def disk_full(stage: Stage, fault: Fault) -> str:
    """The disk that the events are on has no room (53100); the rest of the database has."""
    await stage.disk.fill()
    try:
        await asyncio.sleep(fault.lasts_s)
    finally:
        await stage.disk.free()
    return "tmpfs" if stage.disk.mounted else "a trigger says so: mounting is not allowed here"


async def rows_locked(stage: Stage, fault: Fault) -> str:
    """Somebody else holds the rows of a few open orders."""
    connection = await stage.connect()
    try:
        async with connection.transaction():
            locked = await connection.fetch(LOCK)
            await asyncio.sleep(fault.lasts_s)
    finally:
        connection.terminate()
    return f"{len(locked)} rows"


async def crowded(stage: Stage, fault: Fault) -> str:
    """Others hold every connection there is (53300), and the gateways have just lost theirs."""
    first = await stage.connect()
    others: list[asyncpg.Connection] = []
    try:
        await first.execute(END_SESSIONS)
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                others.append(await stage.connect())
        await asyncio.sleep(fault.lasts_s)
    finally:
        for connection in (first, *others):
            connection.terminate()
    return f"{len(others)} connections"


async def execute(stage: Stage, *statements: str) -> None:
    """Statements one by one, and again if the server is just coming back."""
    async with asyncio.timeout(PERSIST_S):
        for sql in statements:
            while True:
                try:
                    await stage.execute(sql)
                    break
                except (OSError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError):
                    await asyncio.sleep(0.05)


# --- Redis ----------------------------------------------------------------------------------------------------------


async def flush(stage: Stage, _fault: Fault) -> str:
    """It has forgotten everything."""
    async with redis.Redis.from_url(stage.valkey.url) as client:
        await client.flushall()
    return ""


async def rubbish(stage: Stage, _fault: Fault) -> str:
    """Every key holds what nobody wrote."""
    async with redis.Redis.from_url(stage.valkey.url) as client:
        return f"{await fill_with_rubbish(client)} keys"


async def fill_with_rubbish(client: redis.Redis) -> int:
    """Bytes, another kind of value, the number of an order that does not exist, by turns; how many keys there were."""
    keys = await client.keys("*")
    for number, key in enumerate(keys):
        if number % 3 == 0:
            await client.set(key, b"\xff\x00\xfe" * 200)
        elif number % 3 == 1:
            with contextlib.suppress(redis.ResponseError):  # the gateway was faster than the second command
                await client.delete(key)
                await client.rpush(key, "not", "a", "string")
        else:
            await client.set(key, b"holdfast:1:no-such-order")
    return len(keys)


async def redis_freeze(stage: Stage, fault: Fault) -> str:
    """Connected, and silent."""
    pid = stage.valkey.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(fault.lasts_s)
    finally:
        send_to([pid], signal.SIGCONT)
    return ""


async def redis_kill(stage: Stage, fault: Fault) -> str:
    """SIGKILL; it stays away for a while."""
    assert stage.valkey.pid is not None
    os.kill(stage.valkey.pid, signal.SIGKILL)
    try:
        await asyncio.sleep(fault.lasts_s)
    finally:
        await stage.valkey.start()
    return ""


FAULTS: Mapping[str, Inflict] = MappingProxyType(
    {
        "postgres_restart": restart,
        "postgres_backend_kill": backend_kill,
        "postgres_sessions_end": sessions_end,
        "postgres_freeze": freeze,
        "postgres_read_only": read_only,
        "postgres_disk_full": disk_full,
        "postgres_rows_locked": rows_locked,
        "postgres_crowded": crowded,
        "redis_flush": flush,
        "redis_rubbish": rubbish,
        "redis_freeze": redis_freeze,
        "redis_kill": redis_kill,
    }
)
