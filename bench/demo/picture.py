"""What the person sees: a live picture on a terminal, a line every few seconds elsewhere, and the verdict."""

import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bench.auditor import ChannelReport, Latency, Report
from bench.books import Finding
from bench.demo.figures import Figures, Moment
from bench.demo.stage import Kill

LINE_EVERY_S = 2.0
FINDINGS_SHOWN = 5
KILLS_SHOWN = 4
COLUMNS = (
    *("", "orders", "paid at channel", "known to gateway", "told to shop", "dropped", "by query"),
    *("too much", "given back", "control knows"),
)


class Picture:
    """Draws on stderr: stdout is for the result."""

    def __init__(self, seconds: float) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._seconds = seconds
        self._kills: list[str] = []
        self._kill_count = 0
        self._live: Live | None = None
        self._lined_at = 0.0

    def __enter__(self) -> "Picture":
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.freeze()

    def say(self, what: str, detail: str = "", took_s: float | None = None) -> None:
        """A step done."""
        line = Text.assemble(("▸ ", "cyan"), f"{what:<16}", f"{detail:<74}")
        if took_s is not None:
            line.append(f"{took_s:>6.1f}s", "dim")
        self._print(line)

    def killed(self, kill: Kill) -> None:
        """Keep a kill on the screen."""
        self._kill_count += 1
        whom = f"gateway {kill.gateway_pid}, control {kill.control_pid}"
        self._kills.append(f"t={kill.at_s:4.1f}s  kill -9  {whom}: serving again after {kill.back_after_s:.2f}s")
        if self._live is None:
            self._print(Text.assemble(("  ✗ ", "red"), self._kills[-1]))

    def show(self, at_s: float, now: Moment, phase: str) -> None:
        """Draw this moment."""
        if not self._console.is_terminal:
            self._line(at_s, now.total, phase)
            return
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=8, transient=False)
            self._live.start()
        self._live.update(self._drawn(at_s, now, phase))

    def _print(self, line: str | Text = "") -> None:
        self._console.print(line, soft_wrap=True)

    def freeze(self) -> None:
        """Leave the last picture as it is."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _line(self, at_s: float, now: Figures, phase: str) -> None:
        if time.monotonic() - self._lined_at < LINE_EVERY_S:
            return
        self._lined_at = time.monotonic()
        self._print(
            f"t={at_s:4.1f}s {phase:<8} orders {now.orders}  paid at channel {now.paid_at_channel}"
            f"  here {now.paid_here}  told {now.told}  dropped {now.notifications_dropped}"
            f"  found by query {now.found_by_query}  too much {now.excess}, given back {now.given_back}"
            f"  control {now.control_paid}/{now.control_paid_at_channel}"
        )

    def _drawn(self, at_s: float, now: Moment, phase: str) -> Group:
        total = now.total
        open_here = max(0, total.paid_at_channel - total.excess - total.told)
        open_control = max(0, total.control_paid_at_channel - total.control_paid)
        arms = Table.grid(padding=(0, 3))
        arms.add_row("holdfast", _missing(open_here))
        arms.add_row(
            "control",
            _missing(open_control),
            "[dim]updates on a verified notification, never asks; same orders, same faults[/]",
        )
        head = Table.grid(padding=(0, 3))
        head.add_row(f"[b]t={at_s:2.0f}s[/]", phase, ProgressBar(self._seconds, min(at_s, self._seconds), width=40))
        foot = f"[dim]webhooks[/] {now.webhooks}   [dim]gateway kill -9[/] x{self._kill_count}"
        kills = [Text(f"  {line}", "red dim") for line in self._kills[-KILLS_SHOWN:]]
        return Group(Text(""), head, _channels(now), Text.from_markup(foot), Text(""), arms, *kills)

    # --- the verdict

    def verdict(self, report: Report, channels: Mapping[str, ChannelReport], settled_after_s: float) -> None:
        """What the auditor found, in all and by channel."""
        self.freeze()
        self._print()
        self._print(_verdict_line(report))
        for name, latency in (("known", report.known_after), ("told", report.told_after)):
            if latency is not None:
                self._print(f"          paid -> {name:<6} {_latency(latency)}")
        learned, told = report.learned_by, report.told_by
        self._print(
            f"          learned by notification {learned.get('notification', 0)}, by query {learned.get('query', 0)};"
            f" shop told by webhook {told.get('webhook', 0)}, by asking {told.get('answer', 0)};"
            f" settled after {settled_after_s:.1f}s"
        )
        self._print(f"          paid beyond an order's own {report.excess}, given back {report.given_back}")
        for name, channel in channels.items():
            self._print(_channel_line(name, channel))
        self._print(
            Text.assemble(
                "control   notifications only, same seed:  ",
                (f"LOST {len(report.control_lost)}", "bold red" if report.control_lost else "green"),
                ("   against LOST ", "dim"),
                (f"{len(report.lost)}", "bold green" if not report.lost else "bold red"),
            )
        )
        for name in ("lost", "double", "phantom", "mismatch"):
            self._findings(name, getattr(report, name))

    def _findings(self, name: str, findings: list[Finding]) -> None:
        for finding in findings[:FINDINGS_SHOWN]:
            self._print(Text.assemble((f"  {name}: ", "red"), f"{finding.subject}: {finding.why}"))
        if len(findings) > FINDINGS_SHOWN:
            self._print(f"  {name}: and {len(findings) - FINDINGS_SHOWN} more")


def _channels(now: Moment) -> Table:
    """A line a channel, and one for all together."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column else "left")
    for name, each in now.channels.items():
        table.add_row(name, *_cells(each))
    table.add_row("together", *_cells(now.total), style="bold")
    return table


def _cells(figures: Figures) -> tuple[str, ...]:
    known = (figures.orders, figures.paid_at_channel, figures.paid_here, figures.told)
    learned = (figures.notifications_dropped, figures.found_by_query, figures.excess, figures.given_back)
    return (*map(str, known), *map(str, learned), f"{figures.control_paid}/{figures.control_paid_at_channel}")


def _channel_line(name: str, channel: ChannelReport) -> Text:
    line = Text(
        f"          {name:<11} paid {channel.paid_at_channel}  here {channel.paid_here}  told {channel.told}"
        f"  dropped {channel.dropped}  found by query {channel.found_by_query}"
        f"  too much {channel.excess}, given back {channel.given_back}   "
    )
    line.append(f"lost {channel.lost}", "bold red" if channel.lost else "green")
    return line.append(f"   control lost {channel.control_lost} of {channel.control_paid_at_channel}", "dim")


def _missing(count: int) -> str:
    return f"[green]{'all told':>16}[/]" if count == 0 else f"[yellow]{f'{count} not yet':>16}[/]"


def _verdict_line(report: Report) -> Text:
    counts = [(name, len(getattr(report, name))) for name in ("lost", "double", "phantom", "mismatch")]
    line = Text("audit     channel, gateway, shop:  ")
    for name, count in counts:
        line.append(f"{name} {count}   ", "bold red" if count else "green")
    if not report.paid_at_channel:
        return line.append("nothing was paid: nothing is proven", "bold yellow")
    return line.append("PASS" if report.passed else "FAIL", "bold green" if report.passed else "bold red")


def _latency(latency: Latency) -> str:
    return f"p50 {latency.p50_s:.2f}s   p99 {latency.p99_s:.2f}s   max {latency.max_s:.2f}s"
