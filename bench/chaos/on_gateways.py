"""Faults of the gateways: killed, frozen, killed at exact points, on a wrong clock, on a bad line to their database."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

from bench.chaos import skewed
from bench.chaos.stage import Stage
from bench.chaos.timeline import Fault
from bench.gateways import Gateway
from bench.lossy_proxy import Weather
from bench.processes import ProcessError
from gateway.probe import PROBES

Inflict = Callable[[Stage, Fault], Awaitable[str]]

START_AGAIN_AFTER_S = 0.3
LOSE_EVERY_S = 0.1
JUMPS_S = (-3600.0, -300.0, -30.0, 30.0, 300.0, 3600.0)
PASSES_MAX = 30
DRAINED_WITHIN_S = 16.0  # twice the configured drain_s, and the ten seconds that a gateway gives itself beside it


async def serve(gateway: Gateway, crash_at: str = "") -> None:
    """Start it again and again until it serves, as whoever supervises processes does: the database may be away."""
    while True:
        try:
            await gateway.serve(crash_at=crash_at)
        except ProcessError:
            crash_at = ""
            await asyncio.sleep(START_AGAIN_AFTER_S)
        else:
            return


async def kill(stage: Stage, fault: Fault) -> str:
    """SIGKILL, and a new life."""
    gateway = stage.gateways[fault.target]
    pid = await gateway.kill()
    await serve(gateway)
    return f"pid {pid}"


async def kill_twice(stage: Stage, fault: Fault) -> str:
    """SIGKILL, and another one while it is starting or has just started."""
    gateway = stage.gateways[fault.target]
    first = await gateway.kill()
    starting = asyncio.create_task(serve(gateway))
    await asyncio.sleep(fault.lasts_s)
    second = await gateway.kill()
    await starting
    if not gateway.running:  # it was serving already when the second one came
        await serve(gateway)
    return f"pids {first}, {second}"


async def crash_point(stage: Stage, fault: Fault) -> str:
    """The next life ends by itself at an exact place, such as between a commit and its answer."""
    gateway = stage.gateways[fault.target]
    place = fault.roll * len(PROBES)
    name, nth = list(PROBES)[int(place)], 1 + int(place % 1 * PASSES_MAX)
    await gateway.kill()
    await serve(gateway, crash_at=f"{name}:{nth}")
    with contextlib.suppress(TimeoutError):
        await gateway.died(within_s=fault.lasts_s)
    reached = not gateway.running
    await gateway.kill()
    await serve(gateway)
    return f"{name}:{nth}, {'reached' if reached else 'not reached'}"


async def drain(stage: Stage, fault: Fault) -> str:
    """SIGTERM, as in a rolling deployment: it finishes what it has begun, ends, and has a successor."""
    gateway = stage.gateways[fault.target]
    by_itself = await gateway.stop(grace_s=DRAINED_WITHIN_S)
    await serve(gateway)
    return "ended by itself" if by_itself else "killed: it did not end in time"


async def drain_kill(stage: Stage, fault: Fault) -> str:
    """SIGTERM, and SIGKILL while it drains or has just ended."""
    gateway = stage.gateways[fault.target]
    await gateway.stop(grace_s=fault.lasts_s)
    await serve(gateway)
    return ""


async def freeze(stage: Stage, fault: Fault) -> str:
    """SIGSTOP beyond its leases; then it goes on as if nothing had been."""
    gateway = stage.gateways[fault.target]
    gateway.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(fault.lasts_s)
    finally:
        gateway.signal(signal.SIGCONT)
    return ""


async def clock_jump(stage: Stage, fault: Fault) -> str:
    """The machine's clock is set wrong, and right again."""
    jump_s = JUMPS_S[int(fault.roll * len(JUMPS_S))]
    skewed.set_offset(stage.clocks[fault.target], jump_s)
    try:
        await asyncio.sleep(fault.lasts_s)
    finally:
        skewed.set_offset(stage.clocks[fault.target], 0.0)
    return f"{jump_s:+g} s"


def weather(kind: Weather) -> Inflict:
    """The line to the database is bad for a while."""

    async def inflict(stage: Stage, fault: Fault) -> str:
        line = stage.lines[fault.target]
        line.set(kind)
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            line.set(Weather.FAIR)
        return ""

    return inflict


async def reset(stage: Stage, fault: Fault) -> str:
    """Every connection to the database ends, now."""
    stage.lines[fault.target].cut()
    return ""


async def reply_lost(stage: Stage, fault: Fault) -> str:
    """Statements are executed, and instead of their replies come ends of connections, again and again."""
    line = stage.lines[fault.target]
    before = line.replies_lost
    for _ in range(int(fault.lasts_s / LOSE_EVERY_S)):
        line.lose_next_reply()
        await asyncio.sleep(LOSE_EVERY_S)
    return f"{line.replies_lost - before} replies"


FAULTS: Mapping[str, Inflict] = MappingProxyType(
    {
        "gateway_kill": kill,
        "gateway_kill_twice": kill_twice,
        "gateway_crash_point": crash_point,
        "gateway_drain": drain,
        "gateway_drain_kill": drain_kill,
        "gateway_freeze": freeze,
        "clock_jump": clock_jump,
        "net_slow": weather(Weather.SLOW),
        "net_silent": weather(Weather.SILENT),
        "net_hole": weather(Weather.HOLE),
        "net_away": weather(Weather.AWAY),
        "net_reset": reset,
        "reply_lost": reply_lost,
    }
)
