"""`./run bench`: measures, on this machine and in one run, what the product costs, and prints it.

Figures of two runs do not compare on a shared machine; the ratios of one run do, and CPU time a request nearly
does.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from bench import interruption
from bench.children import CHECKOUT, ChildError
from bench.scenarios import ceiling, channels, create, golive, memory, payment, restart
from bench.scenarios.setting import BenchError, Findings, Setting

SCENARIOS: dict[str, Callable[[Setting], Findings]] = {
    "ceiling": ceiling.measure,
    "create": create.measure,
    "payment": payment.measure,
    "golive": golive.measure,
    "restart": restart.measure,
    "memory": memory.measure,
    "channels": channels.measure,
}
DEFAULT = ("create", "payment", "golive")
ROOT = CHECKOUT / "var" / "bench"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenarios and print what they found."""
    options = _options(arguments)
    interruption.listen()
    console = Console(stderr=True)
    try:
        found = [_measure(name, options, console) for name in options.scenarios or DEFAULT]
    except (BenchError, ChildError) as error:
        console.print(f"[bold red]bench failed[/]: {error}", highlight=False)
        console.print(f"logs stay under {ROOT}", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("stopped; nothing was measured")
        return 130
    console.print(_table(found))
    if options.json:
        figures = {name: value for each in found for name, value in each.figures.items()}
        sys.stdout.write(msgspec.json.encode(figures).decode() + "\n")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run bench", description=__doc__)
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; default: {' '.join(DEFAULT)}"
    )
    parser.add_argument("--json", action="store_true", help="the figures as one line of JSON, last on stdout")
    parser.add_argument("--seconds", type=_seconds, default=2.0, help="how long one measurement lasts (default 2)")
    parser.add_argument("--connections", type=_connections, default=64, help="of the load (default 64)")
    parser.add_argument(
        "--orders", type=_orders, default=100_000, help="open ones that `restart` finds (default 100,000)"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    return options


def _seconds(text: str) -> float:
    return _within(float(text), 0.2, 60)


def _connections(text: str) -> int:
    return int(_within(int(text), 1, 1000))


def _orders(text: str) -> int:
    return int(_within(int(text), 1000, 5_000_000))


def _within(number: float, least: float, most: float) -> float:
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{number} is not between {least} and {most}")
    return number


def _measure(name: str, options: argparse.Namespace, console: Console) -> Findings:
    """In a new directory; after a failure it stays, for its logs."""
    directory = ROOT / f"{name}-{os.getpid()}"
    directory.mkdir(parents=True)
    console.print(f"{name} ...", end=" ")
    since = time.monotonic()
    setting = Setting(directory, options.seconds, options.connections, options.orders)
    try:
        found = SCENARIOS[name](setting)
    except KeyboardInterrupt:
        shutil.rmtree(directory)
        raise
    console.print(f"{time.monotonic() - since:.0f} s")
    shutil.rmtree(directory)
    return found


def _table(found: Sequence[Findings]) -> Table:
    table = Table(title="on this machine, load and databases included")
    for title, justify in (("measured", "left"), ("", "right"), ("", "left")):
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    for each in found:
        for row in each.rows:
            table.add_row(row.what, row.value, row.remark)
        table.add_section()
    return table


if __name__ == "__main__":
    sys.exit(main())
