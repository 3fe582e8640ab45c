"""What goes wrong when: drawn from the seed. Pure.

All kinds are dealt like a pack of cards, so that a run long enough meets every one of them. Faults overlap, but not on
the same part: what is down can not fail in a second way.
"""

import random

import msgspec

GATEWAYS = ("gateway1", "gateway2")
GAP_S = (0.4, 2.2)  # between the beginnings of two faults
FIRST_S = 1.0  # the load is there by then


class Kind(msgspec.Struct, frozen=True):
    """One way to fail. `part` is what fails, with `{}` where the target's name goes; `lasts_s` its shortest and longest
    time, where it has one."""

    name: str
    part: str
    lasts_s: tuple[float, float] = (0.0, 0.0)
    targets: tuple[str, ...] = ("",)


class Fault(msgspec.Struct, frozen=True):
    """One thing that will go wrong. `roll`, in [0, 1), decides what the kind leaves open."""

    at_s: float
    kind: str
    part: str
    target: str
    lasts_s: float
    roll: float


KINDS = (
    # the processes
    Kind("gateway_kill", "{}", targets=GATEWAYS),
    Kind("gateway_kill_twice", "{}", (0.1, 2.5), GATEWAYS),  # the second time while it starts
    Kind("gateway_crash_point", "{}", (2.0, 4.0), GATEWAYS),
    Kind("gateway_drain", "{}", targets=GATEWAYS),
    Kind("gateway_drain_kill", "{}", (0.0, 1.5), GATEWAYS),
    Kind("gateway_freeze", "{}", (1.0, 6.0), GATEWAYS),
    Kind("clock_jump", "{} clock", (2.0, 6.0), GATEWAYS),
    # between a gateway and the database
    Kind("net_slow", "{} net", (1.0, 4.0), GATEWAYS),
    Kind("net_silent", "{} net", (1.0, 6.0), GATEWAYS),
    Kind("net_hole", "{} net", (1.0, 6.0), GATEWAYS),
    Kind("net_away", "{} net", (1.0, 4.0), GATEWAYS),
    Kind("net_reset", "{} net", targets=GATEWAYS),
    Kind("reply_lost", "{} net", (1.0, 3.0), GATEWAYS),
    # the database
    Kind("postgres_restart", "postgres"),
    Kind("postgres_backend_kill", "postgres"),
    Kind("postgres_sessions_end", "postgres", (0.5, 2.0)),
    Kind("postgres_freeze", "postgres", (1.0, 6.0)),
    Kind("postgres_read_only", "postgres", (1.0, 4.0)),
    Kind("postgres_disk_full", "postgres", (1.0, 4.0)),
    Kind("postgres_rows_locked", "postgres", (1.0, 4.0)),
    Kind("postgres_crowded", "postgres", (1.0, 4.0)),
    # the cache
    Kind("redis_flush", "redis"),
    Kind("redis_rubbish", "redis"),
    Kind("redis_freeze", "redis", (0.5, 4.0)),
    Kind("redis_kill", "redis", (0.2, 2.0)),
    # the channels
    Kind("channel_freeze", "channel", (1.0, 4.0)),
    Kind("channel_errors", "channel errors", (1.0, 4.0)),
    Kind("channel_executes_silently", "channel errors", (1.0, 4.0)),
    Kind("channel_limits", "channel errors", (1.0, 4.0)),
    Kind("channel_slow", "channel slow", (1.0, 4.0)),
    Kind("notifications_lost", "notifications", (1.0, 4.0)),
    Kind("notifications_late", "notifications", (1.0, 4.0)),
    Kind("notifications_forged", "notifications", (1.0, 4.0)),
    Kind("notifications_repeated", "notifications", (1.0, 4.0)),
    # the app's endpoint
    Kind("endpoint_down", "endpoint", (1.0, 4.0)),
    Kind("endpoint_slow", "endpoint", (1.0, 4.0)),
    Kind("endpoint_drips", "endpoint", (1.0, 4.0)),
    Kind("endpoint_redirects", "endpoint", (1.0, 4.0)),
    Kind("endpoint_fails", "endpoint", (1.0, 4.0)),
    Kind("endpoint_takes_silently", "endpoint", (1.0, 4.0)),
)


def timeline(seed: int, seconds: float) -> list[Fault]:
    """The faults of a run, by their beginning; the last begins before `seconds` are over."""
    rng = random.Random(f"chaos:{seed}")
    faults: list[Fault] = []
    pack: list[Kind] = []
    at_s = FIRST_S
    while at_s < seconds:
        if not pack:
            pack = list(KINDS)
            rng.shuffle(pack)
        faults.append(_fault(rng, pack.pop(), at_s))
        at_s += rng.uniform(*GAP_S)
    return faults


def _fault(rng: random.Random, kind: Kind, at_s: float) -> Fault:
    target = rng.choice(kind.targets)
    return Fault(
        at_s=round(at_s, 3),
        kind=kind.name,
        part=kind.part.format(target),
        target=target,
        lasts_s=round(rng.uniform(*kind.lasts_s), 3),
        roll=rng.random(),
    )
