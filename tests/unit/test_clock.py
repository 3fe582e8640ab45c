"""The database's time, near enough: a slow answer does not spoil what a fast one said."""

from typing import Any, cast

from gateway.clock import DatabaseClock


class Wall:
    """This machine's clock."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


class Database:
    """Answers with its own time, which is `ahead_s` of this machine's, after `there_s`; the answer needs `back_s`."""

    def __init__(self, wall: Wall) -> None:
        self._wall = wall
        self.ahead_s, self.there_s, self.back_s = 0.0, 0.0, 0.0

    async def fetchval(self, _sql: str) -> float:
        self._wall.now_s += self.there_s
        theirs = self._wall.now_s + self.ahead_s
        self._wall.now_s += self.back_s
        return theirs


async def adjusted(clock: DatabaseClock, database: Database, there_s: float, back_s: float) -> int:
    database.there_s, database.back_s = there_s, back_s
    await clock.adjust(cast(Any, database))
    return clock.offset_ms


async def test_a_slow_round_trip_does_not_replace_what_a_fast_one_said() -> None:
    wall = Wall()
    clock, database = DatabaseClock(wall), Database(wall)
    database.ahead_s = 7.0
    assert await adjusted(clock, database, 0.01, 0.01) == 7000
    assert await adjusted(clock, database, 8.0, 0.0) == 7000
    assert await adjusted(clock, database, 0.0, 8.0) == 7000


async def test_the_first_answer_is_better_than_none_and_a_faster_one_better_still() -> None:
    wall = Wall()
    clock, database = DatabaseClock(wall), Database(wall)
    database.ahead_s = 3600.0
    assert await adjusted(clock, database, 8.0, 0.0) == 3_604_000
    assert await adjusted(clock, database, 4.0, 0.0) == 3_602_000
    assert await adjusted(clock, database, 0.1, 0.1) == 3_600_000


async def test_a_clock_that_drifts_is_followed() -> None:
    wall = Wall()
    clock, database = DatabaseClock(wall), Database(wall)
    assert await adjusted(clock, database, 0.0, 0.0) == 0
    database.ahead_s = -2.0
    assert await adjusted(clock, database, 0.2, 0.2) == -2000
