"""The configured times of checks, as the core counts them."""

from actors.deadlines import Schedule
from gateway.config import Checks


def schedule_of(checks: Checks) -> Schedule:
    """The ladders in milliseconds."""
    return Schedule(
        timeout_ms=_ms(checks.timeout_s),
        queries_ms=tuple(map(_ms, checks.queries_s)),
        slow_queries_ms=tuple(map(_ms, checks.slow_queries_s)),
        closing_ms=tuple(map(_ms, checks.closing_s)),
        watch_ms=tuple(map(_ms, checks.watch_s)),
        exception_ms=tuple(map(_ms, checks.exception_s)),
        refund_ms=tuple(map(_ms, checks.refund_s)),
        not_found_final_ms=_ms(checks.not_found_final_s),
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
