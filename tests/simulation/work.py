"""A statement as the simulated server sees it: what carries it out, what it locks, what it is given to work with."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec

from tests.simulation.locks import Lock
from tests.simulation.tables import Tables
from tests.simulation.wire import Record

# The locks a statement waited for, as its snapshot showed them to be needed. None: it waited for nobody, and what is
# there now is what its snapshot shows.
Seen: TypeAlias = frozenset[Lock] | None


class Work(msgspec.Struct):
    """What a statement is carried out with. `started_us` is its now(), `clock_us` its clock_timestamp()."""

    tables: Tables
    started_us: int
    clock_us: Callable[[], int]
    held: Callable[[Lock], bool]  # whether somebody else has a row locked
    read_only: bool


Run: TypeAlias = Callable[[Work, Sequence[Any], Seen], Sequence[Record]]


def no_locks(_tables: Tables, _parameters: Sequence[Any]) -> list[Lock]:
    """It waits for nobody."""
    return []


class Statement(msgspec.Struct, frozen=True):
    """One statement that the simulated database knows."""

    name: str
    run: Run
    locks: Callable[[Tables, Sequence[Any]], list[Lock]] = no_locks
    writes: bool = False
