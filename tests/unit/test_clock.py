"""The database's time: the wall clock of this machine may say what it likes."""

from typing import Any, cast

import asyncpg

from gateway.clock import DatabaseClock, elapsed_s


class Machine:
    """A machine whose wall clock and whose time pass as they are told, and a database that has a clock of its own."""

    def __init__(self) -> None:
        self.wall_s, self.elapsed_s, self.database_s = 1000.0, 5.0, 1234.5
        self.there_s, self.back_s = 2.0, 2.0  # the question's way, and the answer's

    def passes(self, seconds: float) -> None:
        self.wall_s, self.elapsed_s = self.wall_s + seconds, self.elapsed_s + seconds
        self.database_s += seconds

    def clock(self) -> DatabaseClock:
        return DatabaseClock(lambda: self.wall_s, lambda: self.elapsed_s)

    async def fetchval(self, _sql: str) -> Any:
        self.passes(self.there_s)
        said_s = self.database_s
        self.passes(self.back_s)
        return said_s


def connection(machine: Machine) -> asyncpg.Connection:
    return cast(asyncpg.Connection, machine)


def test_before_the_database_was_asked_it_is_this_machines_clock() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.passes(3)
    assert clock.now_ms() == 1_003_000


async def test_it_is_the_databases_clock_and_how_far_ours_is_off_is_known() -> None:
    machine = Machine()
    clock = machine.clock()
    await clock.adjust(connection(machine))
    assert clock.now_ms() == machine.database_s * 1000
    assert clock.offset_ms == 234_500
    machine.passes(60)
    assert clock.now_ms() == machine.database_s * 1000


async def test_a_wall_clock_that_is_set_changes_nothing_before_and_after_the_database_is_asked_again() -> None:
    machine = Machine()
    clock = machine.clock()
    await clock.adjust(connection(machine))
    machine.wall_s += 3600
    machine.passes(1)
    assert clock.now_ms() == machine.database_s * 1000
    await clock.adjust(connection(machine))
    assert clock.now_ms() == machine.database_s * 1000
    assert clock.offset_ms == 234_500 - 3_600_000


async def adjusted(clock: DatabaseClock, machine: Machine, there_s: float, back_s: float) -> float:
    """How wrong the clock is, in seconds, after the database was asked over ways of these lengths."""
    machine.there_s, machine.back_s = there_s, back_s
    await clock.adjust(connection(machine))
    return round(clock.now_ms() / 1000 - machine.database_s, 3)


async def test_a_slow_answer_does_not_spoil_what_a_fast_one_said() -> None:
    machine = Machine()
    clock = machine.clock()
    assert await adjusted(clock, machine, 0.01, 0.01) == 0
    assert await adjusted(clock, machine, 8.0, 0.0) == 0
    assert await adjusted(clock, machine, 0.0, 8.0) == 0


async def test_the_first_answer_is_better_than_none_and_a_faster_one_better_still() -> None:
    machine = Machine()
    clock = machine.clock()
    assert await adjusted(clock, machine, 8.0, 0.0) == 4
    assert await adjusted(clock, machine, 0.0, 4.0) == -2
    assert await adjusted(clock, machine, 0.1, 0.1) == 0


async def test_a_clock_that_drifts_is_followed() -> None:
    machine = Machine()
    clock = machine.clock()
    assert await adjusted(clock, machine, 0.0, 0.0) == 0
    machine.database_s -= 2
    assert await adjusted(clock, machine, 0.2, 0.2) == 0


def test_the_time_that_passes_never_goes_back() -> None:
    moments = [elapsed_s() for _ in range(1000)]
    assert moments == sorted(moments)
