"""What nobody knows is found out: lost replies, sessions that go on without us, rows that somebody else holds."""

import asyncio
from typing import Any

import pytest

from actors.checkpoint import Write, birth, record
from actors.errors import Unavailable
from gateway.storage.group_commit import Bounds, GroupCommit
from gateway.storage.outbox import OutboxRow
from tests.conformance.store.stores import Store
from tests.conformance.store.writes import (
    APPLIED,
    LOST,
    WITHIN_S,
    accepted,
    after,
    arrival,
    born,
    committing,
    moved,
    new,
    paid,
    paying,
)


async def version(store: Store, order_id: str) -> int:
    (found,) = [order["version"] for order in await store.rows("orders") if order["order_id"] == order_id]
    assert sum(event["order_id"] == order_id for event in await store.rows("events")) == found
    return int(found)


async def prepared(committer: GroupCommit) -> Any:
    """A new order, on a connection that knows the statement which moves it: one reply a flush from here on."""
    first, second = await born(committer, 2)
    assert await committer.submit(moved(first)) is APPLIED
    return second


async def test_a_move_whose_reply_was_lost_is_recognised_as_our_own(store: Store) -> None:
    async with committing(store.connect) as committer:
        order = await prepared(committer)
        store.lose_next_reply()
        assert await committer.submit(moved(order)) is APPLIED
    assert store.replies_lost == 1
    assert await version(store, order.order_id) == 2


async def test_a_birth_whose_reply_was_lost_is_recognised_as_our_own(store: Store) -> None:
    async with committing(store.connect) as committer:
        first, second = new(buyer="b"), new(buyer="b", subject="y")
        assert await committer.submit(birth(first, b"1" * 16)) is APPLIED
        store.lose_next_reply()
        assert await committer.submit(birth(second, b"2" * 16)) is APPLIED
    assert store.replies_lost == 1
    assert await version(store, second.order_id) == 1


async def test_our_own_write_is_recognised_when_another_writer_moved_the_order_further(store: Store) -> None:
    """The row's version says nothing any more: only the event tells that version 2 was ours."""
    on_the_way: list[Write] = []
    async with committing(store.connect_patiently) as theirs:

        async def connect() -> Any:
            while on_the_way:
                assert await theirs.submit(on_the_way.pop(0)) is APPLIED
            return await store.connect()

        async with committing(connect) as ours:
            order = await prepared(ours)
            waiting = after(moved(order))
            on_the_way += [moved(waiting, accepted()), moved(after(moved(waiting, accepted())), paid("T1"))]
            store.lose_next_reply()
            assert await ours.submit(moved(order)) is APPLIED
    assert await version(store, order.order_id) == 4


async def test_a_payment_that_collides_with_its_own_first_sending_is_not_called_refused(store: Store) -> None:
    """Sent again, the move misses and its rows are not inserted a second time."""
    owed: list[OutboxRow] = []
    async with committing(store.connect, owed=owed) as committer:
        for number in range(2):
            order = await paying(committer)
            if number:
                store.lose_next_reply()
            assert await committer.submit(moved(order, paid(f"T{number}"))) is APPLIED
    assert store.replies_lost == 1
    assert len(owed) == 2
    assert len(await store.rows("outbox")) == len(await store.rows("payments")) == 2


async def test_a_notification_whose_reply_was_lost_is_kept_once(store: Store) -> None:
    async with committing(store.connect) as committer:
        assert await committer.submit(record(arrival(1))) is APPLIED
        store.lose_next_reply()
        assert await committer.submit(record(arrival(2))) is APPLIED
    assert store.replies_lost == 1
    assert [row["notification_id"] for row in await store.rows("notifications")] == [1, 2]


# --- rows that somebody else holds ----------------------------------------------------------------------------------


async def test_a_row_held_by_somebody_else_does_not_hold_its_neighbours(store: Store) -> None:
    async with committing(store.connect, Bounds(answer_s=1.0)) as committer:
        held, *free = await born(committer, 20)
        async with store.held(held.order_id):
            waiting = committer.submit(moved(held))
            neighbours = [committer.submit(moved(order)) for order in free]
            verdicts = await asyncio.wait_for(asyncio.gather(*neighbours), WITHIN_S)
            assert set(verdicts) == {APPLIED}
            assert await asyncio.wait_for(committer.submit(birth(new(), None)), WITHIN_S) is APPLIED
            with pytest.raises(Unavailable):
                await asyncio.wait_for(waiting, WITHIN_S)
    assert await version(store, held.order_id) == 1


async def test_a_row_that_is_let_go_in_time_is_written(store: Store) -> None:
    async with committing(store.connect, Bounds(answer_s=WITHIN_S)) as committer:
        held, free = await born(committer, 2)
        async with store.held(held.order_id):
            waiting = committer.submit(moved(held))
            assert await committer.submit(moved(free)) is APPLIED
            assert not waiting.done()
        assert await asyncio.wait_for(waiting, WITHIN_S) is APPLIED
    assert await version(store, held.order_id) == 2


async def test_who_waited_for_a_row_sees_what_was_done_to_it(store: Store) -> None:
    """Both compare with version 1 while the row is held; the first to get it moves it, the other has lost."""
    async with committing(store.connect_patiently) as ours, committing(store.connect_patiently) as theirs:
        (order,) = await born(ours)
        async with store.held(order.order_id):
            both = [committer.submit(moved(order)) for committer in (ours, theirs)]
            await asyncio.sleep(0.1)
        verdicts = await asyncio.wait_for(asyncio.gather(*both), WITHIN_S)
    assert sorted(verdicts) == [APPLIED, LOST]
    assert await version(store, order.order_id) == 2


async def test_a_statement_that_we_gave_up_is_carried_out_when_its_row_is_free(store: Store) -> None:
    """A plain read says 'not there' all the while; whoever wins in the end, it is written once and we are told so."""
    bounds = Bounds(statement_timeout_s=0.6, answer_s=2.0)
    connects = iter([store.connect_patiently])

    async def connect() -> Any:
        return await next(connects, store.connect)()

    async with committing(connect, bounds) as committer:
        held, *free = await born(committer, 3)
        async with store.held(held.order_id):
            doubtful = committer.submit(moved(held))
            await asyncio.sleep(0.05)  # sent alone: a statement that waits holds the rows it has got already
            for order in free:
                assert await asyncio.wait_for(committer.submit(moved(order)), WITHIN_S) is APPLIED
            await asyncio.sleep(0.3)
            assert not doubtful.done()
            assert await version(store, held.order_id) == 1
        assert await asyncio.wait_for(doubtful, WITHIN_S) is APPLIED
    assert await version(store, held.order_id) == 2
