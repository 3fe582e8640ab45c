"""Exact percentiles: every latency is kept, eight bytes each, and sorted once at the end."""

from collections.abc import Sequence
from math import ceil

import msgspec


class Latency(msgspec.Struct, frozen=True):
    """Of one measurement, in milliseconds."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


def summarize(nanoseconds: Sequence[int]) -> Latency:
    """The nearest-rank percentiles of a non-empty sequence of nanoseconds."""
    ordered = sorted(nanoseconds)
    p50, p90, p99 = (round(ordered[_rank(share, len(ordered))] / 1e6, 3) for share in (0.5, 0.9, 0.99))
    return Latency(p50_ms=p50, p90_ms=p90, p99_ms=p99, max_ms=round(ordered[-1] / 1e6, 3))


def _rank(share: float, count: int) -> int:
    return max(0, ceil(share * count) - 1)
