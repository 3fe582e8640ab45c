"""Ctrl-C and SIGTERM end a bench, once, by KeyboardInterrupt; where a child would be forgotten, they wait.

An exception between the start of a process and the moment its handle is kept would leave that process running.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Interruption:
    """What is known of it; a process has one, as it has one set of signal handlers."""

    postponed = 0
    heard = False
    due = False


def listen() -> None:
    """From now on an interrupt is a KeyboardInterrupt."""
    _Interruption.postponed, _Interruption.heard, _Interruption.due = 0, False, False
    for sign in SIGNALS:
        signal.signal(sign, _interrupt)


@contextmanager
def postponed() -> Iterator[None]:
    """An interrupt within the block is raised at its end; the block must be bounded in time."""
    _Interruption.postponed += 1
    try:
        yield
    finally:
        _Interruption.postponed -= 1
        _raise_if_due()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Only the first counts: a second Ctrl-C must not keep the children from being ended.

    The signals are not set to be ignored, for a child that is just being born would inherit that and never end.
    """
    if not _Interruption.heard:
        _Interruption.heard = _Interruption.due = True
        _raise_if_due()


def _raise_if_due() -> None:
    if _Interruption.due and not _Interruption.postponed:
        _Interruption.due = False
        raise KeyboardInterrupt
