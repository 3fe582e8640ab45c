"""Time and chance for a run: what the code under test asks the system for comes from the loop and from the seed.

`install` replaces the functions of `time`, `secrets`, `random`, `os` and `uuid` by doors that lead to the run that is
active, and to the real thing while none is; also where a function holds one as a default value, captured when its
module was read. Banned are what could not be replayed: sleeping, threads, uuids. `datetime.now` can not be replaced (it
is C); a test makes sure that the code under test does not call it.
"""

import os
import random
import secrets
import sys
import threading
import time
import types
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from tests.simulation.loop import SimulatedLoop

EPOCH_S: Final = 1_780_000_000.0  # the moment, by the wall clock, at which every run begins
OURS: Final = ("gateway", "actors", "channels")


class Banned(RuntimeError):
    """Something was asked of the system that could not be replayed."""


class _Run:
    """What the doors lead to."""

    def __init__(self, loop: SimulatedLoop, seed: int) -> None:
        self.loop = loop
        self.chance = random.Random(f"system {seed}")


_active: _Run | None = None


def _door(real: Callable[..., Any], simulated: Callable[..., Any]) -> Callable[..., Any]:
    def door(*args: Any, **options: Any) -> Any:
        return real(*args, **options) if _active is None else simulated(_active, *args, **options)

    return door


def _banned(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def refuse(_run: _Run, *_args: Any, **_options: Any) -> Any:
        raise Banned(name)

    return _door(real, refuse)


def _token_hex(run: _Run, count: int | None = None) -> str:
    return run.chance.randbytes(count or 32).hex()


_REPLACED: Final[dict[tuple[types.ModuleType, str], Callable[..., Any]]] = {
    (time, "time"): lambda run: EPOCH_S + run.loop.time(),
    (time, "monotonic"): lambda run: run.loop.time(),
    (time, "perf_counter"): lambda run: run.loop.time(),
    (time, "clock_gettime"): lambda run, _clock: run.loop.time(),
    (time, "time_ns"): lambda run: round((EPOCH_S + run.loop.time()) * 1e9),
    (time, "monotonic_ns"): lambda run: round(run.loop.time() * 1e9),
    (secrets, "token_hex"): _token_hex,
    (secrets, "token_bytes"): lambda run, count=32: run.chance.randbytes(count),
    (secrets, "token_urlsafe"): lambda run, count=32: (
        secrets.base64.urlsafe_b64encode(  # type: ignore[attr-defined]
            run.chance.randbytes(count)
        )
        .rstrip(b"=")
        .decode()
    ),
    (secrets, "randbits"): lambda run, bits: run.chance.getrandbits(bits),
    (secrets, "randbelow"): lambda run, bound: run.chance.randrange(bound),
    (os, "urandom"): lambda run, count: run.chance.randbytes(count),
    (random, "uniform"): lambda run, low, high: run.chance.uniform(low, high),
    (random, "random"): lambda run: run.chance.random(),
}
_BANNED: Final = ((time, "sleep"), (uuid, "uuid1"), (uuid, "uuid4"), (threading.Thread, "start"))


def install() -> None:
    """Put the doors in place; once a process."""
    if hasattr(time, "holdfast_simulation"):
        return
    time.holdfast_simulation = True  # type: ignore[attr-defined]
    doors: dict[Any, Any] = {}
    for (module, name), simulated in _REPLACED.items():
        real = getattr(module, name)
        doors[real] = _door(real, simulated)
        setattr(module, name, doors[real])
    for owner, name in _BANNED:
        setattr(owner, name, _banned(f"{owner.__name__}.{name}", getattr(owner, name)))
    for function in _functions():
        if function.__defaults__:
            function.__defaults__ = tuple(_replaced(doors, value) for value in function.__defaults__)
        if function.__kwdefaults__:
            function.__kwdefaults__ = {n: _replaced(doors, value) for n, value in function.__kwdefaults__.items()}


def _replaced(doors: dict[Any, Any], value: Any) -> Any:
    return doors.get(value, value) if isinstance(value, types.BuiltinFunctionType) else value


def _functions() -> Iterator[types.FunctionType]:
    """Every function and method of the code under test that was read so far."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in OURS:
            for value in list(vars(module).values()):
                if isinstance(value, types.FunctionType):
                    yield value
                elif isinstance(value, type) and value.__module__ == name:
                    yield from (inner for inner in vars(value).values() if isinstance(inner, types.FunctionType))


@contextmanager
def active(loop: SimulatedLoop, seed: int) -> Iterator[None]:
    """Lead the doors to this run."""
    global _active  # noqa: PLW0603 - a process has one clock
    _active = _Run(loop, seed)
    _forget_what_was_drawn()
    try:
        yield
    finally:
        _active = None


def _forget_what_was_drawn() -> None:
    """Chance that modules hold in stock, and counters that no run may inherit from the one before."""
    import itertools

    from gateway import ids
    from gateway.api import door

    ids._random_bytes = ids._draw().__next__
    ids._moment.cache_clear()
    door._PREFIX = secrets.token_hex(4)
    door._count = itertools.count(1)
