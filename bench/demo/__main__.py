"""`./run demo`: the proof, to be watched or to be run by a machine. Exit code 0 only if nothing is amiss."""

import argparse
import asyncio
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.demo.picture import Picture
from bench.demo.proof import Proof, Result
from bench.demo.stage import WAYS, Play, Stage
from bench.processes import ROOT, ProcessError
from gateway.embedded import EmbeddedError

DEMO_ROOT = ROOT / "var" / "demo"
SEED_MAX = 10**9  # it is part of every order's number, which the channel limits to 32 characters


def main() -> int:
    """Play it and say how it ended."""
    options = _options()
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    play = Play(seconds=options.seconds, rate=options.rate, seed=seed, channels=tuple(options.channels))
    directory = DEMO_ROOT / f"{seed}-{os.getpid()}"
    directory.mkdir(parents=True, mode=0o700)
    try:
        result = asyncio.run(_run(play, directory, hold=options.hold))
    except (asyncio.CancelledError, KeyboardInterrupt):
        shutil.rmtree(directory, ignore_errors=True)
        print("demo: aborted, nothing was judged", file=sys.stderr)
        return 130
    except (ProcessError, EmbeddedError) as error:
        print(f"demo: {error}\ndemo: logs are in {directory}", file=sys.stderr)
        return 3
    _leave(directory, result, hold=options.hold)
    if options.json:
        print(msgspec.json.encode(result).decode(), flush=True)
    return 0 if result.passed else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run demo",
        description="Orders, faults, kill -9, and an auditor who compares three ledgers. Ctrl-C drains and audits.",
    )
    parser.add_argument("--seconds", type=between(1, 3600), default=30.0, help="how long customers come (30)")
    parser.add_argument("--rate", type=between(0.1, 1000), default=100.0, help="orders a second (100)")
    parser.add_argument(
        "--seed",
        type=between(0, SEED_MAX, int),
        help="decides faults, payers and kills; drawn and printed if left out",
    )
    parser.add_argument(
        "--channels", nargs="+", choices=list(WAYS), default=list(WAYS), help="through which orders are paid (all)"
    )
    parser.add_argument("--json", action="store_true", help="the result as the last line on stdout")
    parser.add_argument("--hold", action="store_true", help="leave everything running after the audit, until Ctrl-C")
    return parser.parse_args()


def between(low: float, high: float, kind: Callable[[str], float] = float) -> Callable[[str], float]:
    """A number within bounds, for argparse."""

    def number(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return value

    return number


async def _run(play: Play, directory: Path, *, hold: bool) -> Result:
    drain = _drain_on_interrupt()
    with Picture(play.seconds) as picture:
        picture.say("seed", f"{play.seed}   (the same seed draws the same faults, payers and kills)")
        async with Stage(play, directory) as stage:
            result = await Proof(stage, picture, drain).run(freeze=not hold)
            if hold:
                await _hold(stage, picture)
                drain.clear()
                await drain.wait()
    return result


async def _hold(stage: Stage, picture: Picture) -> None:
    """Say what can be done on the standing stage: nobody pays any more but the person who is reading this."""
    waiting = await stage.hand_over_the_cashier()
    picture.say("holding", f"files {stage.directory}; Ctrl-C ends")
    picture.say("cashier", f"{stage.channel_url}/cashier   choose an order that waits, press Pay; one of each channel:")
    for page in waiting:
        picture.say("", page)
    picture.say("shop", f"{stage.shop_url}/orders/NUMBER   what the shop was told of it; all together: /status")
    picture.say("gateway", f"{stage.gateway_url}   Authorization: Bearer {stage.api_key}")


def _drain_on_interrupt() -> asyncio.Event:
    """The first signal asks for an end in order, the second cancels; either way children are ended on the way out."""
    drain, loop, task = asyncio.Event(), asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def interrupted() -> None:
        if drain.is_set():
            task.cancel()
        drain.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted)
    return drain


def _leave(directory: Path, result: Result, *, hold: bool) -> None:
    if result.passed and not hold:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        print(f"demo: ledgers and logs are in {directory}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
