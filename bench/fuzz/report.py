"""What a run of the fuzz found, for machines and people."""

from collections.abc import Mapping, Sequence
from math import ceil

import msgspec
from rich.table import Table

from bench.fuzz.handling import Finding, Slowest

WIRE_SHOWN_MAX = 1_500


class Cost(msgspec.Struct, frozen=True):
    """CPU time of handling one message, in microseconds; `slowest` names the mutant that took longest."""

    p50_us: float
    p999_us: float
    max_us: float
    slowest: Slowest


class Latency(msgspec.Struct, frozen=True):
    """Over HTTP, in milliseconds: for information, as it measures the machine's other work too."""

    p50_ms: float
    p999_ms: float
    max_ms: float


class ChannelReport(msgspec.Struct, frozen=True):
    """One channel's run. Of the `mutants`, `neutral` ones were not sent: they say what a genuine message says.

    `verdicts` are the channel's own, `statuses` the gateway's; `credited` counts orders that the genuine notifications
    credited when all was over, out of `orders`.
    """

    channel: str
    mutants: int
    neutral: int
    sent: int
    seconds: float
    per_s: float
    connections: int
    verdicts: Mapping[str, int]
    statuses: Mapping[int, int]
    handling: Cost
    http: Latency
    orders: int
    credited: int
    findings: tuple[Finding, ...]


class Report(msgspec.Struct, frozen=True):
    """All channels."""

    seed: int
    passed: bool
    channels: tuple[ChannelReport, ...]


def cost(taken_ns: Sequence[int], slowest: Slowest) -> Cost:
    """Of what was handled."""
    p50, p999, most = _percentiles(taken_ns, 1e3)
    return Cost(p50, p999, most, slowest)


def latency(taken_ns: Sequence[int]) -> Latency:
    """Of what was answered."""
    return Latency(*_percentiles(taken_ns, 1e6))


def _percentiles(taken_ns: Sequence[int], unit: float) -> tuple[float, float, float]:
    ordered = sorted(taken_ns) or [0]
    p50, p999 = (ordered[max(0, ceil(share * len(ordered)) - 1)] for share in (0.5, 0.999))
    return round(p50 / unit, 3), round(p999 / unit, 3), round(ordered[-1] / unit, 3)


def table(report: Report) -> Table:
    """For people."""
    shown = Table(title=f"forged and broken notifications, seed {report.seed}")
    shown.add_column("")
    for each in report.channels:
        shown.add_column(each.channel, justify="right")
    for name, values in _rows(report.channels):
        shown.add_row(name, *values)
    return shown


def _rows(channels: Sequence[ChannelReport]) -> list[tuple[str, list[str]]]:
    verdicts = sorted({name for each in channels for name in each.verdicts})
    statuses = sorted({status for each in channels for status in each.statuses})
    return [
        ("mutants", [f"{each.mutants:,}" for each in channels]),
        ("neutral, not sent", [f"{each.neutral:,}" for each in channels]),
        ("sent a second", [f"{each.per_s:,.0f}" for each in channels]),
        *((f"  {name}", [f"{each.verdicts.get(name, 0):,}" for each in channels]) for name in verdicts),
        *((f"  HTTP {status}", [f"{each.statuses.get(status, 0):,}" for each in channels]) for status in statuses),
        ("CPU a message, p50", [f"{each.handling.p50_us:,.0f} µs" for each in channels]),
        ("  p99.9", [f"{each.handling.p999_us:,.0f} µs" for each in channels]),
        ("  max", [f"{each.handling.max_us:,.0f} µs" for each in channels]),
        ("  of", [each.handling.slowest.mutation for each in channels]),
        ("HTTP p50 / p99.9 / max", [_spread(each.http) for each in channels]),
        ("genuine ones credited after", [f"{each.credited} of {each.orders}" for each in channels]),
        ("findings", [str(len(each.findings)) for each in channels]),
    ]


def _spread(http: Latency) -> str:
    return f"{http.p50_ms:.1f} / {http.p999_ms:.0f} / {http.max_ms:.0f} ms"


def described(finding: Finding, *, whole: bool) -> str:
    """A finding for people: what, how to see it again, and the request's bytes if `whole`."""
    where = f"{finding.channel}, seed {finding.seed}, number {finding.number} ({finding.mutation})"
    request = f"\n  {finding.wire[:WIRE_SHOWN_MAX]!r}" if whole and finding.wire else ""
    return f"{where}: {finding.what}{request}"
