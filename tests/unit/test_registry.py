"""Actors with a journal whose verdicts the test decides: order of events, lost races, bounds, memory."""

import asyncio
import sys
from collections.abc import Sequence

import msgspec
import pytest

from actors.actor import INBOX_MAX
from actors.checkpoint import Arrival, Write
from actors.deadlines import Schedule
from actors.effects import Effect, Submit
from actors.errors import OrderNotFound, Overloaded, Stopped, Unavailable
from actors.events import (
    CloseRequested,
    Credential,
    CredentialType,
    Due,
    OutcomeUnknown,
    PayRequested,
    SubmitAccepted,
    SyncRequested,
    Verb,
)
from actors.order import Content, Order, OrderState, Reply, new_order
from actors.ports import Verdict
from actors.registry import LOST_MAX, Registry

ORDER_ID = "0" * 26
CONTENT = Content(app_id="shop", out_order_no="A-1", amount=100, currency="CNY", subject="tea")
ARRIVAL = Arrival(1, "wechatpay", ORDER_ID, "01", "verified", "{}", b"{}", 1000)


class Clock:
    def now_ms(self) -> int:
        return 1000


class HeldJournal:
    """Keeps every write until the test gives its verdict; loads from `stored` at once."""

    def __init__(self) -> None:
        self.held: list[tuple[Write, asyncio.Future[Verdict]]] = []
        self.stored: dict[str, Order] = {}
        self.loads = 0

    def commit(self, write: Write) -> "asyncio.Future[Verdict]":
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self.held.append((write, future))
        return future

    def load(self, order_id: str) -> "asyncio.Future[Order | None]":
        self.loads += 1
        future: asyncio.Future[Order | None] = asyncio.get_running_loop().create_future()
        future.set_result(self.stored.get(order_id))
        return future

    async def next(self) -> tuple[Write, "asyncio.Future[Verdict]"]:
        while not self.held:
            await asyncio.sleep(0)
        return self.held.pop(0)

    async def apply_next(self) -> Write:
        write, future = await self.next()
        if write.order is not None:
            self.stored[write.order.order_id] = write.order
        future.set_result(Verdict.APPLIED)
        await asyncio.sleep(0)
        return write


class Stage:
    def __init__(self, actors_max: int = 100) -> None:
        self.journal = HeldJournal()
        self.effects: list[Effect] = []
        self.registry = Registry(self.journal, Clock(), Schedule(), self._run, actors_max)
        self.journal.stored[ORDER_ID] = new_order(ORDER_ID, CONTENT, 1000, 1_801_000)

    def _run(self, order: Order, effects: Sequence[Effect]) -> None:
        self.effects += effects


@pytest.fixture
async def stage() -> Stage:
    return Stage()


def pay() -> PayRequested:
    return PayRequested(1001, "wechatpay", "m/a", "native")


async def test_nobody_is_answered_and_nothing_runs_before_the_write_is_durable(stage: Stage) -> None:
    asked = stage.registry.ask(ORDER_ID, pay())
    _, future = await stage.journal.next()
    assert not asked.done()
    assert stage.effects == []
    future.set_result(Verdict.APPLIED)
    assert (await asked).reply is Reply.WAIT
    assert stage.effects == [Submit(1)]


async def test_one_event_at_a_time_each_on_what_the_one_before_made_durable(stage: Stage) -> None:
    first, second = stage.registry.ask(ORDER_ID, pay()), stage.registry.ask(ORDER_ID, CloseRequested(1002))
    await stage.journal.apply_next()
    assert first.done()
    assert not second.done()
    write = await stage.journal.apply_next()
    assert write.order is not None
    assert (write.order.version, write.order.state) == (3, OrderState.CLOSING)
    assert (await second).reply is Reply.WAIT
    assert stage.journal.loads == 1


async def test_a_lost_race_reloads_and_the_event_is_heard_again_before_the_others(stage: Stage) -> None:
    asked, later = stage.registry.ask(ORDER_ID, CloseRequested(1002)), stage.registry.ask(ORDER_ID, pay())
    _, future = await stage.journal.next()
    before = stage.journal.stored[ORDER_ID]
    stage.journal.stored[ORDER_ID] = msgspec.structs.replace(before, version=5)
    future.set_result(Verdict.LOST)
    write = await stage.journal.apply_next()
    assert write.order is not None
    assert (write.order.version, write.event_type) == (6, "CloseRequested")
    assert (await asked).order.state is OrderState.CLOSED
    assert (await later).reply is Reply.ORDER_CLOSED


async def test_an_event_that_loses_all_the_time_is_sent_away(stage: Stage) -> None:
    asked = stage.registry.ask(ORDER_ID, pay())
    for _ in range(LOST_MAX + 1):
        _, future = await stage.journal.next()
        future.set_result(Verdict.LOST)
    with pytest.raises(Overloaded):
        await asked


async def test_a_write_that_was_certainly_not_made_leaves_the_order_as_it_was(stage: Stage) -> None:
    asked = stage.registry.ask(ORDER_ID, pay())
    _, future = await stage.journal.next()
    future.set_exception(Unavailable("read only"))
    with pytest.raises(Unavailable):
        await asked
    assert stage.effects == []
    again = stage.registry.ask(ORDER_ID, pay())
    write = await stage.journal.apply_next()
    assert write.order is not None
    assert write.order.version == 2
    await again


async def test_a_submission_running_here_is_joined_and_one_that_came_back_is_not(stage: Stage) -> None:
    first = stage.registry.ask(ORDER_ID, pay())
    await stage.journal.apply_next()
    await first
    assert (await stage.registry.ask(ORDER_ID, pay())).reply is Reply.WAIT
    assert stage.effects == [Submit(1)]
    unknown = stage.registry.ask(ORDER_ID, OutcomeUnknown(1002, 1, Verb.SUBMIT, "silence"))
    await stage.journal.apply_next()
    await unknown
    await stage.registry.ask(ORDER_ID, pay())
    assert len(stage.effects) == 2, "the channel is asked"


async def test_an_unknown_order_is_not_found(stage: Stage) -> None:
    with pytest.raises(OrderNotFound):
        await stage.registry.ask("9" * 26, pay())
    assert len(stage.registry) == 0


async def test_a_notification_that_changes_nothing_is_recorded_before_it_is_answered(stage: Stage) -> None:
    event = SubmitAccepted(1002, 9, Credential(CredentialType.QR, "x", 2000))
    asked = stage.registry.ask(ORDER_ID, event, (ARRIVAL,))
    write, future = await stage.journal.next()
    assert (write.order, write.arrivals) == (None, (ARRIVAL,))
    assert not asked.done()
    future.set_result(Verdict.APPLIED)
    assert (await asked).reply is Reply.DONE


async def test_an_inbox_has_a_bound(stage: Stage) -> None:
    stage.registry.ask(ORDER_ID, pay())
    await stage.journal.next()
    waiting = [stage.registry.ask(ORDER_ID, SyncRequested(1)) for _ in range(INBOX_MAX + 1)]
    with pytest.raises(Overloaded):
        await waiting[-1]
    assert not waiting[0].done()


async def test_idle_actors_make_room_and_busy_ones_do_not() -> None:
    stage = Stage(actors_max=2)
    ids = [str(digit) * 26 for digit in range(4)]
    for order_id in ids:
        stage.journal.stored[order_id] = new_order(order_id, CONTENT, 1000, 1_801_000)
        await stage.registry.ask(order_id, SyncRequested(1))
    assert len(stage.registry) == 2
    for order_id in ids[:2]:
        stage.registry.ask(order_id, pay())
        await stage.journal.next()
    with pytest.raises(Overloaded):
        await stage.registry.ask(ids[2], pay())


async def test_whoever_waits_is_answered_when_the_registry_stops(stage: Stage) -> None:
    first, second = stage.registry.ask(ORDER_ID, pay()), stage.registry.ask(ORDER_ID, pay())
    _, future = await stage.journal.next()
    changed = stage.registry.changed(ORDER_ID)
    stage.registry.stop()
    with pytest.raises(Stopped):
        await second
    await changed
    future.set_result(Verdict.APPLIED)
    await first
    with pytest.raises(Stopped):
        await stage.registry.ask(ORDER_ID, pay())


async def test_a_caller_who_went_away_changes_nothing(stage: Stage) -> None:
    asked = stage.registry.ask(ORDER_ID, pay())
    await asyncio.sleep(0)
    asked.cancel()
    await stage.journal.apply_next()
    assert stage.registry.peek(ORDER_ID) is not None
    assert stage.effects == [Submit(1)]


async def test_a_new_order_is_in_memory_only_once_it_is_durable(stage: Stage) -> None:
    order = new_order("1" * 26, CONTENT, 1000, 2000)
    creating = asyncio.ensure_future(stage.registry.create(order, None))
    _, future = await stage.journal.next()
    assert stage.registry.peek(order.order_id) is None
    future.set_result(Verdict.LOST)
    assert await creating is Verdict.LOST
    assert stage.registry.peek(order.order_id) is None


async def test_an_idle_order_needs_no_task_and_less_than_two_kilobytes() -> None:
    stage, tasks = Stage(actors_max=10_000), len(asyncio.all_tasks())
    for number in range(100):
        content = msgspec.structs.replace(CONTENT, out_order_no=f"A-{number}", subject=f"tea {number}")
        creating = asyncio.ensure_future(stage.registry.create(new_order(f"{number:026d}", content, 1000, 2000), None))
        await stage.journal.apply_next()
        await creating
    assert len(asyncio.all_tasks()) == tasks
    actor = stage.registry._actors[f"{7:026d}"]
    assert _bytes_of(actor) < 2000


def _bytes_of(value: object) -> int:
    """The size of an object and of all it holds through slots and fields."""
    names = getattr(value, "__struct_fields__", None) or getattr(value, "__slots__", ())
    inner = [getattr(value, name) for name in names]
    return sys.getsizeof(value) + sum(_bytes_of(one) for one in inner if one is not None and not isinstance(one, bool))


async def test_an_actor_that_is_behind_reads_its_order_before_it_decides(stage: Stage) -> None:
    """Another process moved the order; whoever asks has just read so."""
    await stage.registry.ask(ORDER_ID, SyncRequested(1001))
    old = stage.journal.stored[ORDER_ID]
    stage.journal.stored[ORDER_ID] = msgspec.structs.replace(old, version=2, state=OrderState.CLOSED)
    assert (await stage.registry.ask(ORDER_ID, SyncRequested(1002), seen=1)).order.version == 1, "it is not behind"
    assert (await stage.registry.ask(ORDER_ID, pay(), seen=2)).reply is Reply.ORDER_CLOSED
    assert stage.journal.loads == 2


async def test_a_claim_of_the_sweep_tells_which_version_there_is(stage: Stage) -> None:
    await stage.registry.ask(ORDER_ID, SyncRequested(1001))
    old = stage.journal.stored[ORDER_ID]
    stage.journal.stored[ORDER_ID] = msgspec.structs.replace(old, version=2, expires_at_ms=1000)
    asked = stage.registry.ask(ORDER_ID, Due(1001, claimed_version=2))
    write = await stage.journal.apply_next()
    assert (await asked).order.state is OrderState.CLOSED
    assert write.order is not None
    assert write.order.version == 3


async def test_what_is_read_is_the_truth_whatever_was_seen(stage: Stage) -> None:
    """A database that lost a version must not be read for ever."""
    answer = await asyncio.wait_for(stage.registry.ask(ORDER_ID, SyncRequested(1001), seen=7), 5)
    assert answer.order.version == 1
    assert stage.journal.loads == 2


async def test_those_who_gave_up_waiting_are_not_kept(stage: Stage) -> None:
    await stage.registry.ask(ORDER_ID, SyncRequested(1001))
    for _ in range(100):
        stage.registry.changed(ORDER_ID).cancel()
    assert len(stage.registry._actors[ORDER_ID].watchers or ()) == 1


async def test_an_order_that_everybody_gave_up_waiting_for_makes_room() -> None:
    """A paid order may never change again: those who waited for it in vain must not keep it in memory for ever."""
    stage = Stage(actors_max=1)
    other = "1" * 26
    stage.journal.stored[other] = new_order(other, CONTENT, 1000, 1_801_000)
    await stage.registry.ask(ORDER_ID, SyncRequested(1))
    waiter = stage.registry.changed(ORDER_ID)
    with pytest.raises(Overloaded):
        await stage.registry.ask(other, SyncRequested(1))
    waiter.cancel()
    await stage.registry.ask(other, SyncRequested(1))
    assert stage.registry.peek(ORDER_ID) is None


async def test_whoever_waits_for_a_passivated_order_looks_again_after_a_moment(stage: Stage) -> None:
    changed = stage.registry.changed("9" * 26)
    assert not changed.done(), "looking at once, again and again, would be a loop"
    await changed
