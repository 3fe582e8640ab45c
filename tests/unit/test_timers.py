"""One timer structure on the loop's own clock, moved by hand."""

import asyncio

import pytest

from actors.timers import SLOT_MS, Timers


class LoopClock:
    """Time as the event loop sees it."""

    def now_ms(self) -> int:
        return round(asyncio.get_running_loop().time() * 1000)


class Told:
    def __init__(self) -> None:
        self.ids: list[tuple[str, int]] = []
        self.clock = LoopClock()
        self.timers = Timers(self.clock, self.fire)
        self.waiting: asyncio.Event = asyncio.Event()

    def fire(self, order_id: str) -> None:
        self.ids.append((order_id, self.clock.now_ms()))
        self.waiting.set()

    async def until(self, count: int) -> None:
        while len(self.ids) < count:
            await self.waiting.wait()
            self.waiting.clear()


async def test_orders_fire_in_their_order_never_early_and_together_within_a_slot() -> None:
    told = Told()
    start_ms = told.clock.now_ms()
    due = {"late": start_ms + 500, "soon": start_ms + 100, "past": start_ms - 5000, "soon too": start_ms + 101}
    for order_id, at_ms in due.items():
        told.timers.arm(order_id, at_ms)
    await told.until(4)
    assert [order_id for order_id, _ in told.ids] == ["past", "soon", "soon too", "late"]
    assert all(fired_ms >= due[order_id] for order_id, fired_ms in told.ids)
    told.timers.stop()


async def test_stopped_timers_fire_no_more() -> None:
    told = Told()
    told.timers.arm("order", told.clock.now_ms() + 1)
    told.timers.stop()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3 * SLOT_MS / 1000):
            await told.until(1)


async def test_a_timer_armed_while_firing_is_kept() -> None:
    told = Told()

    def again(order_id: str) -> None:
        told.fire(order_id)
        if len(told.ids) < 3:
            timers.arm(order_id, told.clock.now_ms())

    timers = Timers(told.clock, again)
    timers.arm("order", told.clock.now_ms())
    await told.until(3)
    timers.stop()
