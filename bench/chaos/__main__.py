"""`./run chaos`: two gateways, everything around them failing. Exit code 0 only if nothing is amiss."""

import argparse
import asyncio
import os
import secrets
import shutil
import signal
import sys
from pathlib import Path

import msgspec

from bench.chaos.course import Course, Result
from bench.chaos.small_disk import leave_mount_namespace
from bench.chaos.stage import Play, Stage
from bench.demo.__main__ import SEED_MAX, between
from bench.processes import ROOT, ProcessError
from gateway.embedded import EmbeddedError

CHAOS_ROOT = ROOT / "var" / "chaos"


def main() -> int:
    """Play it and say how it ended."""
    options = _options()
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    directory = CHAOS_ROOT / f"{seed}-{os.getpid()}"
    directory.mkdir(parents=True, mode=0o700)
    play = Play(seconds=options.seconds, rate=options.rate, seed=seed, may_mount=leave_mount_namespace())
    try:
        result = asyncio.run(_run(play, directory))
    except (asyncio.CancelledError, KeyboardInterrupt):
        shutil.rmtree(directory, ignore_errors=True)
        print("chaos: aborted, nothing was judged", file=sys.stderr)
        return 130
    except (ProcessError, EmbeddedError, OSError, ExceptionGroup) as error:
        print(f"chaos: {_said(error)}\nchaos: logs are in {directory}", file=sys.stderr)
        return 3
    _leave(directory, result, keep=options.keep)
    if options.json:
        print(msgspec.json.encode(result).decode(), flush=True)
    return 0 if result.passed else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run chaos",
        description="Two gateways under load while everything around them fails, by a timeline drawn from the seed.",
    )
    parser.add_argument("--seconds", type=between(5, 86_400), default=60.0, help="how long things go wrong (60)")
    parser.add_argument("--rate", type=between(0.1, 1000), default=20.0, help="the shop's orders a second (20)")
    parser.add_argument("--seed", type=between(0, SEED_MAX, int), help="decides faults, payers, visitors; else drawn")
    parser.add_argument("--keep", action="store_true", help="leave logs, ledgers and tables (seen.json) where they are")
    parser.add_argument("--json", action="store_true", help="the result as the last line on stdout")
    return parser.parse_args()


async def _run(play: Play, directory: Path) -> Result:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with Stage(play, directory) as stage:
        return await Course(stage).run()


def _said(error: BaseException) -> str:
    """Groups of errors say nothing by themselves."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_said(each) for each in error.exceptions)
    return f"{type(error).__name__}: {error}"


def _leave(directory: Path, result: Result, *, keep: bool) -> None:
    if result.passed and not keep:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        print(f"chaos: ledgers and logs are in {directory}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
