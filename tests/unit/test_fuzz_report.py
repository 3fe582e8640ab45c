"""The fuzz's report: what was found can be seen again, and the figures are those of what was measured."""

import io

from rich.console import Console

from bench.fuzz.handling import Finding, Slowest
from bench.fuzz.report import ChannelReport, Report, cost, described, latency, table

FINDING = Finding("alipay", 7, 42, "bits flipped", "believed: 1", b"POST /callbacks/x HTTP/1.1\r\n\r\nabc\xff")
CHANNEL = ChannelReport(
    channel="alipay",
    mutants=1_000,
    neutral=10,
    sent=990,
    seconds=2.0,
    per_s=495.0,
    connections=16,
    verdicts={"bad_signature": 980, "believed": 10},
    statuses={400: 990},
    handling=cost([1_000, 2_000, 3_000], Slowest(3_000, 5, "blown up")),
    http=latency([1_000_000, 2_000_000]),
    orders=6,
    credited=6,
    findings=(FINDING,),
)


def test_a_finding_names_its_seed_its_number_and_its_bytes() -> None:
    said = described(FINDING, whole=True)
    assert "alipay, seed 7, number 42 (bits flipped): believed: 1" in said
    assert r"abc\xff" in said
    assert "callbacks" not in described(FINDING, whole=False)


def test_the_figures_are_the_nearest_ranks() -> None:
    taken = list(range(1_000, 1_001_000, 1_000))
    assert cost(taken, Slowest()).p50_us == 500
    assert cost(taken, Slowest()).p999_us == 999
    assert cost(taken, Slowest()).max_us == 1_000
    assert (latency([1_000_000, 2_000_000]).p50_ms, latency([1_000_000, 2_000_000]).max_ms) == (1.0, 2.0)
    assert cost([], Slowest()).max_us == 0


def test_the_table_shows_each_channel_with_its_verdicts_and_statuses() -> None:
    told = Console(file=io.StringIO(), width=160)
    told.print(table(Report(7, passed=False, channels=(CHANNEL,))))
    shown = told.file.getvalue()  # type: ignore[attr-defined]
    for words in ("seed 7", "bad_signature", "HTTP 400", "990", "blown up", "6 of 6"):
        assert words in shown
