"""An interrupted bench forgets no child: while one is being started or ended, the interrupt waits."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import interruption
from bench.children import STOP_TIMEOUT_S, child
from gateway.embedded.supervisor import command_of

BIRTHS = 24
STEP_S = 0.0004  # a birth takes some milliseconds


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """The handlers of a bench, for the length of a test."""
    before = {sign: signal.getsignal(sign) for sign in interruption.SIGNALS}
    interruption.listen()
    yield
    for sign, handler in before.items():
        signal.signal(sign, handler)


@pytest.mark.parametrize("sign", interruption.SIGNALS)
def test_an_interrupt_is_raised_at_once(sign: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(sign)


@pytest.mark.parametrize("sign", interruption.SIGNALS)
def test_a_postponed_interrupt_is_raised_at_the_end_of_the_outermost_block(sign: signal.Signals) -> None:
    reached = []

    def interrupted() -> None:
        with interruption.postponed():
            with interruption.postponed():
                signal.raise_signal(sign)
                reached.append("inner")
            reached.append("outer")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert reached == ["inner", "outer"]


def test_a_second_interrupt_is_not_heard() -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_is_ended_whenever_in_its_start_the_interrupt_comes(tmp_path: Path) -> None:
    """Real signals at moments from before the birth to after it; a bench has other threads, and so has this."""
    for step in range(BIRTHS):
        since = time.monotonic()
        interruption.listen()
        timer = threading.Timer(step * STEP_S, os.kill, (os.getpid(), signal.SIGTERM))
        with pytest.raises(KeyboardInterrupt):
            start_and_wait(timer, tmp_path)
        timer.join()
        assert time.monotonic() - since < STOP_TIMEOUT_S, "it did not listen to the SIGTERM that ends it"
    left = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if str(tmp_path) in command_of(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


def start_and_wait(timer: threading.Timer, directory: Path) -> None:
    timer.start()
    with child("server", "bench.serving", str(directory), directory=directory):
        timer.join()
