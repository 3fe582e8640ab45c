"""When an order is to be looked at next: ladders of delays, pure.

An order counts in `step` how many rungs of its present ladder it has used; entering another state starts at rung 0.
"""

import msgspec


class Schedule(msgspec.Struct, frozen=True):
    """The ladders, in milliseconds. Defaults are the recipe's: 30 s of silence, then 10, 20, 30 s, then slower."""

    timeout_ms: int = 30_000
    queries_ms: tuple[int, ...] = (10_000, 20_000, 30_000)
    slow_queries_ms: tuple[int, ...] = (60_000, 180_000, 300_000, 600_000, 1_800_000)
    closing_ms: tuple[int, ...] = (5_000, 10_000, 20_000, 30_000, 60_000, 180_000, 300_000, 600_000)
    watch_ms: tuple[int, ...] = (60_000, 600_000, 3_600_000, 21_600_000)
    exception_ms: tuple[int, ...] = (3_600_000,) * 24 + (21_600_000,) * 24
    not_found_final_ms: int = 600_000


def after_query(schedule: Schedule, step: int, at_ms: int, expires_at_ms: int) -> int:
    """When a paying order is queried again after its `step`-th query: quick rungs, slow rungs, the last one repeated,
    and never later than its expiry (when closing begins)."""
    quick, slow = schedule.queries_ms, schedule.slow_queries_ms
    delay_ms = quick[step] if step < len(quick) else slow[min(step - len(quick), len(slow) - 1)]
    return min(at_ms + delay_ms, max(expires_at_ms, at_ms))


def closing_check(schedule: Schedule, step: int, at_ms: int) -> int | None:
    """When a closing order asks again; None: the ladder is used up, nobody knows."""
    return at_ms + schedule.closing_ms[step] if step < len(schedule.closing_ms) else None


def watch_check(schedule: Schedule, step: int, closed_at_ms: int) -> int | None:
    """When a closed order is looked at again, counted from its closing; None: from here on the bill decides."""
    return closed_at_ms + schedule.watch_ms[step] if step < len(schedule.watch_ms) else None


def exception_check(schedule: Schedule, step: int, at_ms: int) -> int | None:
    """When an order in exception asks its channel again; None: from here on the bill decides."""
    return at_ms + schedule.exception_ms[step] if step < len(schedule.exception_ms) else None
