"""What the core needs from outside, as Protocols: a journal, a clock, somebody who carries out effects."""

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from actors.checkpoint import Write
from actors.effects import Effect
from actors.order import Order


class Verdict(StrEnum):
    """What became of a write. There is no third: until it is known, the journal keeps asking and answers nobody."""

    APPLIED = "applied"
    LOST = "lost"  # the order was moved by somebody else, or the order that was to be born exists already


class Journal(Protocol):
    """Where orders are durable."""

    def commit(self, write: Write) -> "asyncio.Future[Verdict]":
        """Make a write durable together with the others of this moment.

        The future fails with `Overloaded`, `Unavailable` or `WriteRejected` only when nothing was written.
        """

    def load(self, order_id: str) -> "asyncio.Future[Order | None]":
        """The order as it is stored now."""


class RunEffects(Protocol):
    """Carries out what a durable decision asked for. Must not block and must not raise."""

    def __call__(self, order: Order, effects: Sequence[Effect]) -> None: ...


class Clock(Protocol):
    """The database's time, near enough."""

    def now_ms(self) -> int: ...
