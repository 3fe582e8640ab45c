"""One order's mailbox: an event at a time, decided purely, made durable, then answered and acted upon.

There is no task per actor. An idle one is a few slots; a busy one waits for its journal's future.
"""

import asyncio
from collections import deque
from typing import TypeAlias

import msgspec

from actors.checkpoint import Arrival
from actors.events import Event
from actors.order import Order, Reply

INBOX_MAX = 64  # events waiting for one order; more is an attack or a loop


class Answer(msgspec.Struct, frozen=True):
    """What whoever told an event hears: the reply, and the order as it is durable now."""

    reply: Reply
    order: Order


Asked: TypeAlias = "asyncio.Future[Answer]"


class Letter(msgspec.Struct, eq=False):
    """An event on its way: who waits for it, the notification it came with, how often it lost the race so far.

    `seen` is a version of the order that its teller knows to exist: an actor that is behind reads it again first.
    """

    event: Event
    asked: Asked
    arrivals: tuple[Arrival, ...] = ()
    seen: int = 0
    lost: int = 0


class Actor:
    """An order in memory. `order` is None while it is being loaded; `busy` while loading or committing."""

    __slots__ = ("asked_at_ms", "busy", "inbox", "order", "order_id", "submitting", "watchers")

    def __init__(self, order_id: str, order: Order | None) -> None:
        self.order_id = order_id
        self.order = order
        self.busy = False
        self.inbox: deque[Letter] | None = None
        self.watchers: list[asyncio.Future[None]] | None = None
        self.submitting: frozenset[int] = frozenset()
        self.asked_at_ms = 0

    @property
    def idle(self) -> bool:
        """Whether it can be forgotten: nothing is under way and nobody waits any more."""
        waited_for = self.watchers is not None and not all(watcher.done() for watcher in self.watchers)
        return not (self.busy or self.inbox or waited_for or self.submitting)

    def wake_watchers(self) -> None:
        """Tell those who wait for a change that there was one."""
        watchers, self.watchers = self.watchers, None
        for watcher in watchers or ():
            if not watcher.done():
                watcher.set_result(None)
