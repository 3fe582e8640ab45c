"""When an order is to be looked at next: ladders of delays, pure.

An order counts in `step` how many rungs of its present ladder it has used; entering another state starts at rung 0.
"""

import msgspec

from actors.order import Attempt, Order

STEP_MAX = 10_000  # rungs that repeat for weeks are not counted on: more than any ladder has


class Schedule(msgspec.Struct, frozen=True):
    """The ladders, in milliseconds. Defaults are the recipe's: 30 s of silence, then 10, 20, 30 s, then slower.

    `by_method` holds the ladders of those channels and methods that have their own: a QR code waits for a person, a bar
    code does not.
    """

    timeout_ms: int = 30_000
    queries_ms: tuple[int, ...] = (10_000, 20_000, 30_000)
    slow_queries_ms: tuple[int, ...] = (60_000, 180_000, 300_000, 600_000, 1_800_000)
    closing_ms: tuple[int, ...] = (5_000, 10_000, 20_000, 30_000, 60_000, 180_000, 300_000, 600_000)
    watch_ms: tuple[int, ...] = (60_000, 600_000, 3_600_000, 21_600_000)
    exception_ms: tuple[int, ...] = (3_600_000,) * 24 + (21_600_000,) * 24
    refund_ms: tuple[int, ...] = (5_000, 10_000, 20_000, 30_000, 60_000, 300_000, 1_800_000, 3_600_000, 21_600_000)
    not_found_final_ms: int = 600_000
    by_method: dict[tuple[str, str], "Schedule"] = {}

    def of(self, channel: str, method: str) -> "Schedule":
        """The ladders of what is paid like this."""
        return self.by_method.get((channel, method), self)


def after_query(schedule: Schedule, step: int, at_ms: int, expires_at_ms: int) -> int:
    """When a paying order is queried again after its `step`-th query: quick rungs, slow rungs, the last one repeated,
    and never later than its expiry (when closing begins)."""
    quick, slow = schedule.queries_ms, schedule.slow_queries_ms
    delay_ms = quick[step] if step < len(quick) else slow[min(step - len(quick), len(slow) - 1)]
    return min(at_ms + delay_ms, max(expires_at_ms, at_ms))


def gone_after(schedule: Schedule, attempt: Attempt) -> int:
    """From when on a channel that does not know the attempt never will.

    Some know nothing before the payer opens what they were given: that must have expired. And no request of ours may
    still be on its way.
    """
    last_ms = attempt.submitted_at_ms
    if attempt.credential is not None:
        last_ms = max(last_ms, attempt.credential.expires_at_ms)
    return last_ms + schedule.not_found_final_ms


def closing_check(schedule: Schedule, step: int, at_ms: int, order: Order, attempt: Attempt) -> int | None:
    """When a closing attempt is asked after again; None: the ladder is used up, nobody knows.

    It is not used up while the attempt may still come to an end by itself, by the expiry that its channel was given or
    by never having been known: until then its last rung is repeated, and either moment is looked at as it comes.
    """
    ends_ms = order.expires_at_ms if attempt.credential is None else attempt.credential.expires_at_ms
    moments_ms = (ends_ms, gone_after(schedule, attempt))
    rungs_ms = schedule.closing_ms
    if step >= len(rungs_ms) and at_ms >= max(moments_ms) + rungs_ms[-1]:
        return None
    check_ms = at_ms + rungs_ms[min(step, len(rungs_ms) - 1)]
    return min([check_ms, *(moment_ms for moment_ms in moments_ms if moment_ms > at_ms)])


def watch_check(schedule: Schedule, step: int, closed_at_ms: int) -> int | None:
    """When a closed order is looked at again, counted from its closing; None: from here on the bill decides."""
    return closed_at_ms + schedule.watch_ms[step] if step < len(schedule.watch_ms) else None


def paid_watch_check(schedule: Schedule, step: int, at_ms: int) -> int | None:
    """When a paid order's closed attempts are looked at again, counted from the look before; None: the bill decides."""
    rungs_ms = (0, *schedule.watch_ms)
    return at_ms + rungs_ms[step + 1] - rungs_ms[step] if step < len(schedule.watch_ms) else None


def exception_check(schedule: Schedule, step: int, at_ms: int) -> int | None:
    """When an order in exception asks its channel again; None: from here on the bill decides."""
    return at_ms + schedule.exception_ms[step] if step < len(schedule.exception_ms) else None


def refund_check(schedule: Schedule, step: int, at_ms: int) -> int:
    """When an open refund is asked after again; the last rung is repeated for ever: unknown never becomes a no."""
    rungs_ms = schedule.refund_ms
    return at_ms + rungs_ms[min(step, len(rungs_ms) - 1)]
