"""Faults of those outside: the channels, by the simulator's own steering, and the apps' endpoint."""

import asyncio
import signal
from collections.abc import Mapping
from types import MappingProxyType

from bench.chaos.endpoint import Mood
from bench.chaos.on_gateways import Inflict
from bench.chaos.stage import DURING, Stage
from bench.chaos.timeline import Fault


async def freeze(stage: Stage, fault: Fault) -> str:
    """SIGSTOP: connected, and silent, to gateways and payers alike."""
    stage.simulator.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(fault.lasts_s)
    finally:
        stage.simulator.signal(signal.SIGCONT)
    return ""


def shares(**wanted: float) -> Inflict:
    """The simulator's faults have other shares for a while."""

    async def inflict(stage: Stage, fault: Fault) -> str:
        await stage.steer("/_faults", wanted)
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            await stage.steer("/_faults", {name: DURING.get(name, 0.0) for name in wanted})
        return " ".join(f"{name}={share:g}" for name, share in wanted.items())

    return inflict


def mood(kind: Mood) -> Inflict:
    """The apps' endpoint is in a bad mood for a while."""

    async def inflict(stage: Stage, fault: Fault) -> str:
        stage.endpoint.mood = kind
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            stage.endpoint.mood = Mood.FAIR
        return ""

    return inflict


FAULTS: Mapping[str, Inflict] = MappingProxyType(
    {
        "channel_freeze": freeze,
        "channel_errors": shares(error_before=0.3, error_after=0.3),
        "channel_executes_silently": shares(timeout=0.5),
        "channel_limits": shares(rate_limited=0.7),
        "channel_slow": shares(slow=1.0, slow_s=3.0),
        "notifications_lost": shares(drop=1.0),
        "notifications_late": shares(delay_s=4.0),
        "notifications_forged": shares(tamper=1.0),
        "notifications_repeated": shares(duplicate=1.0),
        "endpoint_down": mood(Mood.DOWN),
        "endpoint_slow": mood(Mood.SLOW),
        "endpoint_drips": mood(Mood.DRIPS),
        "endpoint_redirects": mood(Mood.REDIRECTS),
        "endpoint_fails": mood(Mood.FAILS),
        "endpoint_takes_silently": mood(Mood.TAKES_SILENTLY),
    }
)
