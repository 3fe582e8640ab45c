"""Waiting for news of an order: none is missed, whatever happens while somebody looks."""

import asyncio
from typing import Any, cast

import pytest

from actors.deadlines import Schedule
from actors.events import CloseRequested, OutcomeUnknown, SyncRequested, Verb
from actors.order import Order, OrderState, new_order
from actors.ports import Verdict
from actors.registry import Registry
from gateway.api.auth import Authenticator
from gateway.api.callers_orders import CallersOrders
from gateway.storage.journal import Journal
from tests.unit.test_registry import CONTENT, ORDER_ID, Clock, HeldJournal, pay

NOBODY = cast(Authenticator, None)  # no request comes in here


class Waiting:
    """A registry over a held journal, and who waits for its one order."""

    def __init__(self) -> None:
        self.journal = HeldJournal()
        self.registry = Registry(self.journal, Clock(), Schedule(), lambda _order, _effects: None, 10)
        self.orders = CallersOrders(NOBODY, self.registry, cast(Journal, self.journal), single_process=False)
        self.order = new_order(ORDER_ID, CONTENT, 1000, 1_801_000)
        self.journal.stored[ORDER_ID] = self.order

    def later(self, order: Order, within_s: float = 5.0) -> "asyncio.Task[Order | None]":
        return asyncio.create_task(self.orders.later(order, asyncio.get_running_loop().time() + within_s))

    async def told(self, event: Any) -> Order:
        asked = self.registry.ask(ORDER_ID, event)
        await self.journal.apply_next()
        return (await asked).order


@pytest.fixture
async def waiting() -> Waiting:
    made = Waiting()
    await made.registry.ask(ORDER_ID, SyncRequested(1))
    return made


async def test_a_change_is_news(waiting: Waiting) -> None:
    later = waiting.later(waiting.order)
    await asyncio.sleep(0)
    assert (await waiting.told(pay())).state is OrderState.PAYING
    found = await later
    assert found is not None
    assert found.state is OrderState.PAYING


async def test_what_changed_before_anybody_waited_is_news_as_well(waiting: Waiting) -> None:
    """Between the answer to an event and the waiting for more, a channel that needs no call has answered."""
    await waiting.told(pay())
    found = await waiting.later(waiting.order)
    assert found is not None
    assert found.version == 2


async def test_what_changes_while_the_order_is_looked_at_is_news(waiting: Waiting) -> None:
    """It is in motion, so it is read from the database; by the time that comes, it has moved on."""
    closing = waiting.registry.ask(ORDER_ID, CloseRequested(1002))
    _, verdict = await waiting.journal.next()
    read: asyncio.Future[Order | None] = asyncio.get_running_loop().create_future()
    waiting.journal.load = lambda order_id: read  # type: ignore[method-assign]
    later = waiting.later(waiting.order)
    await asyncio.sleep(0)
    verdict.set_result(Verdict.APPLIED)
    await closing
    read.set_result(waiting.order)
    found = await later
    assert found is not None
    assert found.state is OrderState.CLOSED


async def test_an_answer_that_changed_nothing_is_news(waiting: Waiting) -> None:
    paying = await waiting.told(pay())
    later = waiting.later(paying)
    await asyncio.sleep(0)
    await waiting.registry.ask(ORDER_ID, OutcomeUnknown(1002, 1, Verb.QUERY, "silence"))
    assert await later == paying


async def test_no_news_until_the_deadline_are_none_and_nobody_is_left_waiting(waiting: Waiting) -> None:
    assert await waiting.later(waiting.order, within_s=0.01) is None
    assert await waiting.later(waiting.order, within_s=-1) is None
    assert all(watcher.done() for watcher in waiting.registry._actors[ORDER_ID].watchers or ())


async def test_whoever_waits_while_the_process_stops_is_not_kept_busy(waiting: Waiting) -> None:
    """Asked again and again, a registry that has stopped would never let the loop turn: the stop itself would hang."""
    later = waiting.later(waiting.order)
    await asyncio.sleep(0)
    waiting.registry.stop()
    assert await later == waiting.order
    assert await asyncio.wait_for(waiting.later(waiting.order), timeout=1.0) is None
