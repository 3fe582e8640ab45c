"""`./run fuzz`: mutated notifications at the real gateway. None may be believed, none may hurt.

Exit code 0: no order was credited, nothing was answered 5xx or not at all, nothing took 5 ms of CPU time, and the
genuine notifications credited afterwards. 1: something was found; each finding comes with its seed, its number and its
bytes.
"""

import argparse
import asyncio
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console

from bench.accounts import possible
from bench.fuzz.kinds import KINDS
from bench.fuzz.report import ChannelReport, Report, described, table
from bench.fuzz.run import run_channel
from bench.fuzz.stage import Stage
from bench.processes import ROOT, ProcessError
from gateway.embedded import EmbeddedError

FUZZ_ROOT = ROOT / "var" / "fuzz"
COUNT = 1_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, and say what was found."""
    options = _options(arguments)
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    directory = FUZZ_ROOT / f"{seed}-{os.getpid()}"
    directory.mkdir(parents=True, mode=0o700)
    console = Console(stderr=True, highlight=False)
    try:
        report = uvloop.run(_fuzz(options.channel or list(_channels()), options.count, seed, directory, console))
    except (asyncio.CancelledError, KeyboardInterrupt):
        shutil.rmtree(directory, ignore_errors=True)
        console.print("fuzz: aborted, nothing was judged")
        return 130
    except (ProcessError, EmbeddedError) as error:
        console.print(f"fuzz: {error}\nfuzz: logs are in {directory}", markup=False)
        return 3
    _tell(report, directory, console)
    if options.json:
        print(msgspec.json.encode(report).decode(), flush=True)
    return 0 if report.passed else 1


def _channels() -> tuple[str, ...]:
    return tuple(name for name in possible() if name in KINDS)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=_count, default=COUNT, help=f"mutants of each channel ({COUNT:,})")
    parser.add_argument(
        "--channel", nargs="+", choices=_channels(), metavar="NAME", help=f"of {', '.join(_channels())}"
    )
    parser.add_argument("--seed", type=int, help="makes the same mutations again; drawn and printed if left out")
    parser.add_argument("--json", action="store_true", help="the report as the last line on stdout")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 1_000_000_000:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and a billion")
    return count


async def _fuzz(channels: Sequence[str], count: int, seed: int, directory: Path, console: Console) -> Report:
    _abort_on_interrupt()
    reports: list[ChannelReport] = []
    with console.status("starting ...") as status:
        async with Stage(directory, channels) as stage:
            for name in channels:
                report = await run_channel(
                    stage,
                    KINDS[name],
                    seed=seed,
                    count=count,
                    progress=lambda done, name=name: status.update(f"{name}: {done:,} of {count:,}"),  # type: ignore[misc]
                )
                reports.append(report)
    return Report(seed, passed=not any(each.findings for each in reports), channels=tuple(reports))


def _abort_on_interrupt() -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _tell(report: Report, directory: Path, console: Console) -> None:
    console.print(table(report))
    found = [finding for each in report.channels for finding in each.findings]
    if not found:
        shutil.rmtree(directory, ignore_errors=True)
        return
    shown: set[str] = set()
    for finding in found:
        console.print(described(finding, whole=finding.mutation not in shown), markup=False, soft_wrap=True)
        shown.add(finding.mutation)
        (directory / f"{finding.channel}-{finding.number}.http").write_bytes(finding.wire)
    console.print(f"fuzz: {len(found)} findings; their requests and all logs are in {directory}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
