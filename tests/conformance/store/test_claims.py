"""Leases: due orders, refunds, webhooks and parked notifications are handed out once, until their time is over."""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from actors.checkpoint import birth, record
from actors.events import RefundRequested
from actors.order import Order
from gateway.storage.cases import Cases
from gateway.storage.group_commit import GroupCommit
from gateway.storage.notifications import Notifications
from gateway.storage.outbox import Outbox, OutboxRow
from gateway.storage.queries import query
from tests.conformance.store.stores import Store
from tests.conformance.store.writes import (
    APPLIED,
    LOST,
    NOW_MS,
    after,
    arrival,
    born,
    committing,
    moved,
    new,
    paid,
    paying,
)


async def due(committer: GroupCommit, *late_s: float) -> list[Order]:
    """Orders whose moment came so many seconds ago."""
    now_ms = int(time.time() * 1000)
    orders = [msgspec.structs.replace(new(), next_check_at_ms=int(now_ms - 1000 * each)) for each in late_s]
    verdicts = await asyncio.gather(*(committer.submit(birth(order, None)) for order in orders))
    assert set(verdicts) == {APPLIED}
    return orders


async def claimed(store: Store, grace_s: float = 0.0, limit: int = 10, lease_s: float = 30.0) -> list[tuple[Any, ...]]:
    """What was claimed, each by its id and version. The moment that it was claimed at is the store's, and now."""
    rows = await store.pool.fetch(query("claim_due"), grace_s, limit, lease_s)
    assert all(abs(row["at_ms"] - time.time() * 1000) < 5000 for row in rows)
    return sorted((row["order_id"], row["version"]) for row in rows)


# --- orders ---------------------------------------------------------------------------------------------------------


async def test_orders_that_are_due_are_claimed_the_longest_due_first(store: Store) -> None:
    async with committing(store.connect) as committer:
        long_ago, lately, _later = await due(committer, 100, 5, -60)
    assert await claimed(store, limit=1) == [(long_ago.order_id, 1)]
    assert await claimed(store, grace_s=20) == []
    assert await claimed(store) == [(lately.order_id, 1)]
    assert await claimed(store) == []


async def test_a_lease_pushes_the_moment_ahead_and_ends(store: Store) -> None:
    async with committing(store.connect) as committer:
        (order,) = await due(committer, 1)
    assert await claimed(store, lease_s=0.2) == [(order.order_id, 1)]
    (row,) = await store.rows("orders")
    assert 0 < row["next_check_at_ms"] - time.time() * 1000 <= 201
    assert (row["version"], len(await store.rows("events"))) == (1, 1)
    assert await claimed(store) == []
    await asyncio.sleep(0.25)
    assert await claimed(store) == [(order.order_id, 1)]


async def test_a_row_that_somebody_holds_is_not_claimed_and_not_waited_for(store: Store) -> None:
    async with committing(store.connect) as committer:
        held, free = await due(committer, 9, 5)
    async with store.held(held.order_id):
        assert await asyncio.wait_for(claimed(store), 5) == [(free.order_id, 1)]
    assert await claimed(store) == [(held.order_id, 1)]


async def test_concurrent_claims_never_share_an_order(store: Store) -> None:
    async with committing(store.connect) as committer:
        await due(committer, *range(1, 101))
    pages = await asyncio.gather(*(claimed(store, limit=20) for _ in range(5)))
    handed_out = [row for page in pages for row in page]
    assert len(handed_out) == len(set(handed_out))
    rest = await claimed(store, limit=100)
    assert len(handed_out) + len(rest) == 100


async def test_an_order_that_is_claimed_can_be_moved_by_whoever_knows_its_version(store: Store) -> None:
    async with committing(store.connect) as committer:
        (order,) = await due(committer, 1)
        assert await claimed(store)
        assert await committer.submit(moved(order)) is APPLIED
        assert await committer.submit(moved(order)) is LOST


# --- refunds --------------------------------------------------------------------------------------------------------


async def test_refunds_are_claimed_by_their_own_moment(store: Store) -> None:
    async with committing(store.connect) as committer:
        order = await paying(committer)
        write = moved(order, paid("T1"))
        assert await committer.submit(write) is APPLIED
        order = after(write)
        now_ms = int(time.time() * 1000)
        for number in ("B1", "B2"):
            write = moved(order, RefundRequested(now_ms - 3_600_000, number, 10))
            assert await committer.submit(write) is APPLIED
            order = after(write)
    rows = await store.pool.fetch(query("claim_due_refunds"), 0.0, 10, 30.0)
    assert [(row["order_id"], row["version"], sorted(row["refund_ids"])) for row in rows] == [
        (order.order_id, order.version, sorted(refund.refund_id for refund in order.refunds))
    ]
    assert await store.pool.fetch(query("claim_due_refunds"), 0.0, 10, 30.0) == []
    for row in await store.rows("refunds"):
        assert 25_000 < row["next_check_at_ms"] - time.time() * 1000 <= 30_001


# --- submissions ----------------------------------------------------------------------------------------------------


async def test_submissions_are_forgotten_a_minute_after_their_window(store: Store) -> None:
    for window_ms, fingerprint in ((-61_000, b"1" * 16), (-50_000, b"2" * 16)):
        async with committing(store.connect, window_ms=window_ms) as committer:
            assert await committer.submit(birth(new(buyer="b"), fingerprint)) is APPLIED
    await store.pool.execute(query("forget_submissions"))
    assert [row["fingerprint"] for row in await store.rows("submissions")] == [b"2" * 16]


# --- webhooks -------------------------------------------------------------------------------------------------------


async def owed(store: Store, *urls: str) -> list[OutboxRow]:
    """Webhooks as the committer writes them; they are due at once."""
    told: list[OutboxRow] = []
    async with committing(store.connect, owed=told) as committer:
        for number, url in enumerate(urls):
            (order,) = await born(committer, webhook_url=url)
            assert await committer.submit(moved(order)) is APPLIED
            assert await committer.submit(moved(after(moved(order)), paid(f"T-{number}-{url}"))) is APPLIED
    return told


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Webhooks are nobody's when they are written, as if the process that owed them had died long ago."""
    from tests.conformance.store import writes

    monkeypatch.setattr(writes, "WEBHOOK_LEASE_MS", -1000)


async def test_a_webhook_belongs_to_its_writer_for_a_while(store: Store) -> None:
    await owed(store, "http://a/x")
    assert await Outbox(store.pool).claim(10, 30) == []


@pytest.mark.usefixtures("at_once")
async def test_a_claim_hands_out_the_webhook_as_it_was_written_and_once(store: Store) -> None:
    (written,) = await owed(store, "http://a/x")
    outbox = Outbox(store.pool)
    assert await outbox.claim(10, 0.2) == [written]
    assert await outbox.claim(10, 30) == []
    await asyncio.sleep(0.25)
    assert await outbox.claim(10, 30) == [written]


@pytest.mark.usefixtures("at_once")
async def test_paused_endpoints_are_left_out(store: Store) -> None:
    first, second, third = await owed(store, "http://down:80/x?y=//a", "http://down:8080/x", "http://up")
    outbox = Outbox(store.pool)
    rows = await outbox.claim(10, 30, ["shop down:80", "shop elsewhere"])
    assert {row.event_id for row in rows} == {second.event_id, third.event_id}
    assert await outbox.claim(10, 30) == [first]


@pytest.mark.usefixtures("at_once")
async def test_marks_are_kept_with_their_evidence(store: Store) -> None:
    rows = await owed(store, "http://a", "http://b", "http://c", "http://d")
    outbox = Outbox(store.pool)
    await outbox.delivered(rows[0], 204)
    await outbox.failed(rows[1], 100.0, 500, "HTTP 500")
    await outbox.failed(rows[2], -1.0, None, "a\0\ud800")
    await outbox.dead(rows[3], 410, "gone")
    found = {row["url"][-1]: row for row in await store.rows("outbox")}
    kept = {url: (row["state"], row["tries"], row["last_status"], row["last_error"]) for url, row in found.items()}
    assert kept == {
        "a": ("delivered", 1, 204, None),
        "b": ("owed", 1, 500, "HTTP 500"),
        "c": ("owed", 1, None, "a?"),
        "d": ("dead", 1, 410, "gone"),
    }
    assert [url for url, row in found.items() if row["delivered_at_ms"] is not None] == ["a"]
    assert 90_000 < found["b"]["next_try_at_ms"] - time.time() * 1000 <= 100_001
    assert [(row.event_id, row.tries) for row in await outbox.claim(10, 30)] == [(rows[2].event_id, 1)]


@pytest.mark.usefixtures("at_once")
async def test_marks_may_be_written_twice_and_delivered_is_final(store: Store) -> None:
    (row,) = await owed(store, "http://a")
    outbox = Outbox(store.pool)

    async def stands() -> tuple[Any, ...]:
        (found,) = await store.rows("outbox")
        return found["state"], found["tries"], found["last_error"]

    await outbox.failed(row, 100.0, 500, "first")
    await outbox.failed(row, 0.0, 500, "again")
    assert await stands() == ("owed", 1, "first")
    await outbox.dead(msgspec.structs.replace(row, tries=1), 410, "gone")
    await outbox.failed(msgspec.structs.replace(row, tries=9), 0.0, 500, "late")
    assert await stands() == ("dead", 2, "gone")
    await outbox.delivered(row, 200)
    await outbox.dead(msgspec.structs.replace(row, tries=9), 500, "late")
    assert await stands() == ("delivered", 1, None)


# --- the inbox and its cases ----------------------------------------------------------------------------------------


async def test_money_of_an_unknown_order_is_parked_once_told_again_and_given_up(store: Store) -> None:
    inbox = Notifications(store.pool)
    money = ("wechatpay", "1900", "T1")
    await inbox.park(1, "X" * 26, money, '{"amount":1}', -1.0)
    await inbox.park(2, "X" * 26, money, '{"amount":1}', -1.0)
    await inbox.park(3, "X" * 26, ("wechatpay", "1900", "T2"), '{"amount":2}', -0.5)
    first, second = await inbox.claim(10, 30)
    assert (first.notification_id, second.notification_id, first.tries) == (1, 3, 0)
    assert await inbox.claim(10, 30) == []
    await inbox.postpone(first, -1.0)
    await inbox.postpone(first, 100.0)  # said before: it counts once
    (again,) = await inbox.claim(10, 30)
    assert (again.notification_id, again.tries) == (1, 1)
    for _ in range(2):
        await inbox.orphan(1)
    await inbox.orphan(3)
    (case,) = await Cases(store.pool).page(app_id=None, is_open=True, after=None, rows_max=10)
    assert (case.order_id, case.version, case.app_id, case.reason) == ("X" * 26, 0, None, "orphan_notification")
    assert msgspec.json.decode(case.evidence_json or "") == {
        "notifications": [
            {"notification_id": 1, "said": {"amount": 1}},
            {"notification_id": 3, "said": {"amount": 2}},
        ]
    }
    assert await Cases(store.pool).close_orphan("X" * 26, "ann", "not ours")
    assert not await Cases(store.pool).close_orphan("X" * 26, "bob", "again")
    settled = await Cases(store.pool).one("X" * 26, 0)
    assert settled is not None
    assert (settled.resolution, settled.resolved_by, settled.note) == ("close", "ann", "not ours")
    assert abs((settled.resolved_at_ms or 0) - time.time() * 1000) < 5000


async def test_money_that_comes_up_later_opens_the_orders_case_again(store: Store) -> None:
    inbox, cases = Notifications(store.pool), Cases(store.pool)
    await inbox.park(1, "X" * 26, ("wechatpay", "1900", "T1"), "{}", -1.0)
    await inbox.orphan(1)
    assert await cases.close_orphan("X" * 26, "ann", "not ours")
    await inbox.park(2, "X" * 26, ("wechatpay", "1900", "T2"), "{}", -1.0)
    await inbox.orphan(2)
    (case,) = await cases.page(app_id=None, is_open=True, after=None, rows_max=10)
    assert (case.resolved_at_ms, case.resolution, case.resolved_by) == (None, "close", "ann")


async def test_what_its_order_knows_is_parked_no_longer(store: Store) -> None:
    inbox = Notifications(store.pool)
    await inbox.park(1, "X" * 26, ("wechatpay", "1900", "T1"), "{}", -1.0)
    await inbox.unpark(1)
    await inbox.unpark(1)
    assert await store.rows("parked") == []


async def test_notifications_are_forgotten_by_age_but_not_what_is_parked(store: Store) -> None:
    inbox = Notifications(store.pool)
    numbers = [NOW_MS + offset << 21 for offset in range(4)]
    async with committing(store.connect) as committer:
        for number, verdict in zip(numbers, ("verified", "stale", "verified", "stale"), strict=True):
            kept = msgspec.structs.replace(arrival(number), verdict=verdict)
            assert await committer.submit(record(kept)) is APPLIED
    await inbox.park(numbers[0], "X" * 26, ("wechatpay", "1900", "T1"), "{}", -1.0)
    assert await inbox.forget(NOW_MS + 3, 10, unverified=True) == 1
    assert await inbox.forget(NOW_MS + 3, 10, unverified=False) == 1
    assert [row["notification_id"] for row in await store.rows("notifications")] == [numbers[0], numbers[3]]
    await inbox.orphan(numbers[0])
    await inbox.forget_orphans(NOW_MS + 3)
    assert await inbox.forget(NOW_MS + 9, 1, unverified=False) == 1
    assert await store.rows("parked") == []


async def test_cases_are_listed_by_page_and_counted(store: Store) -> None:
    async with committing(store.connect) as committer:
        orders = [await paying(committer) for _ in range(3)]
        for number, order in enumerate(orders):
            assert await committer.submit(moved(order, paid(f"T{number}", amount=7))) is APPLIED
    cases = Cases(store.pool)
    every = await cases.page(app_id="shop", is_open=True, after=None, rows_max=10)
    assert [case.order_id for case in every] == sorted(order.order_id for order in orders)
    assert await cases.page(app_id="shop", is_open=True, after=(every[0].order_id, 3), rows_max=1) == [every[1]]
    assert await cases.page(app_id="stranger", is_open=True, after=None, rows_max=10) == []
    assert await cases.page(app_id=None, is_open=False, after=None, rows_max=10) == []
    (counted,) = await store.pool.fetch(query("open_cases"))
    assert (counted["reason"], counted["count"]) == ("amount_mismatch", 3)
    assert isinstance(counted["oldest_s"], float)
