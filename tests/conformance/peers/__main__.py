"""`./run conformance [WORD ...]`: all peers, or those whose name holds one of the words. One line a check.

The last line is `N passed, N failed`, and `, N skipped` if some could not play here. Peers of one platform play one
after the other, platforms side by side.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Final

from tests.conformance.peers.cast import CAST, PLAYS, Peer, account
from tests.conformance.peers.driver import Driver
from tests.conformance.peers.environments import NotInstalled, Unavailable
from tests.conformance.peers.play import Check, Play
from tests.conformance.peers.stage import Stage

PEER_WITHIN_S: Final = 60.0
INTERRUPTED: Final = 130


class Tally:
    """What was said so far."""

    def __init__(self) -> None:
        self.passed = self.failed = self.skipped = 0

    def report(self, peer: Peer, checks: Sequence[Check]) -> None:
        """Print a peer's checks and count them."""
        print(f"\n{peer.name}")
        for check in checks:
            self.passed += check.ok
            self.failed += not check.ok
            print(
                f"  {'ok  ' if check.ok else 'FAIL'}  {check.name}"
                + (f"\n        {check.detail}" if check.detail else "")
            )
        sys.stdout.flush()

    def skip(self, peer: Peer, why: str) -> None:
        """Say why a peer does not play. Whoever runs this in CI wants all of them."""
        if os.environ.get("CI") == "true":
            self.report(peer, [Check("the peer can be installed", ok=False, detail=why)])
            return
        self.skipped += 1
        print(f"\n{peer.name}\n  skipped: {why}", flush=True)

    def last_line(self) -> str:
        """Nothing follows it."""
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


def ready(peers: Iterable[Peer], tally: Tally) -> list[tuple[Peer, list[str]]]:
    """Make the environments; the peers that can play, with their commands."""
    playing = []
    for peer in peers:
        try:
            playing.append((peer, peer.prepare()))
        except Unavailable as missing:
            tally.skip(peer, str(missing))
        except NotInstalled as failed:
            tally.report(peer, [Check("the peer can be installed", ok=False, detail=str(failed))])
    return playing


async def perform(playing: Sequence[tuple[Peer, list[str]]], tally: Tally) -> None:
    """Everybody, on one stage."""
    async with Stage() as stage, asyncio.TaskGroup() as group:
        for _, troupe in groupby(playing, key=lambda each: each[0].platform):
            group.create_task(_in_turn(stage, list(troupe), tally))


async def _in_turn(stage: Stage, troupe: Sequence[tuple[Peer, list[str]]], tally: Tally) -> None:
    for peer, command in troupe:
        tally.report(peer, await _perform(stage, peer, command))


async def _perform(stage: Stage, peer: Peer, command: list[str]) -> list[Check]:
    log = stage.folder / f"{peer.driver}.{peer.mode}.log"
    async with Driver(peer.argv(command), account(stage, peer), log) as driver:
        play = Play(stage, peer.platform, peer.mode, driver)
        try:
            async with asyncio.timeout(PEER_WITHIN_S):
                await PLAYS[peer.platform](play)
        except Exception as error:
            play.checks.append(Check("it plays to the end", ok=False, detail=f"{type(error).__name__}: {error}"))
    return play.checks


def _end_in_order() -> None:
    """Ctrl-C and SIGTERM cancel, once: a second one must not keep the processes from being ended."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None

    def cancel() -> None:
        if not task.cancelling():
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, cancel)


async def main(words: Sequence[str]) -> int:
    """Play and count; the exit code."""
    tally = Tally()
    chosen = [peer for peer in CAST if not words or any(word in peer.name for word in words)]
    playing = ready(chosen, tally)
    _end_in_order()
    try:
        await perform(playing, tally)
    except Exception as error:
        tally.failed += 1
        print(f"\nFAIL  the stage stands to the end\n        {error!r}", flush=True)
    print(f"\n{tally.last_line()}")
    return 1 if tally.failed or not tally.passed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="run conformance", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="WORD")
    try:
        sys.exit(asyncio.run(main(parser.parse_args().words)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(INTERRUPTED)
