"""Births and moves: what wins, what loses, what is refused, and that nothing else is left behind."""

import asyncio
from typing import Any

import msgspec
import pytest

from actors.checkpoint import Write, birth, record
from actors.errors import WriteRejected
from actors.events import CloseRequested, OutcomeUnknown, Verb
from actors.order import AttemptState, OrderState, PaymentKind
from gateway.storage.outbox import OutboxRow
from tests.conformance.store.stores import Store
from tests.conformance.store.writes import (
    APPLIED,
    ENDPOINT,
    LOST,
    NOW_MS,
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

FINGERPRINT = b"f" * 16


async def versions(store: Store) -> dict[str, list[int]]:
    """Every order's versions as the events tell them, which the order's own must agree with."""
    found: dict[str, list[int]] = {}
    for event in sorted(await store.rows("events"), key=lambda event: event["version"]):
        found.setdefault(event["order_id"], []).append(event["version"])
    for order in await store.rows("orders"):
        assert found[order["order_id"]] == list(range(1, order["version"] + 1))
    return found


async def count(store: Store, table: str) -> int:
    return len(await store.rows(table))


# --- births ---------------------------------------------------------------------------------------------------------


async def test_a_birth_is_an_order_and_its_first_event(store: Store) -> None:
    order = new(buyer="b", items_json="[ 1 ]", metadata_json='{"a":"茶"}', webhook_url="https://w", late_payment="hold")
    async with committing(store.connect) as committer:
        assert await committer.submit(birth(order, FINGERPRINT)) is APPLIED
    (row,), (event,) = await store.rows("orders"), await store.rows("events")
    assert row == {
        "order_id": order.order_id,
        "app_id": "shop",
        "out_order_no": order.content.out_order_no,
        "amount": 100,
        "currency": "CNY",
        "subject": "x",
        "buyer": "b",
        "items": "[ 1 ]",
        "metadata": '{"a":"茶"}',
        "webhook_url": "https://w",
        "return_url": None,
        "late_payment": "hold",
        "fingerprint": FINGERPRINT,
        "state": "created",
        "reason": None,
        "version": 1,
        "paid_amount": 0,
        "refunded_amount": 0,
        "late": False,
        "created_at_ms": NOW_MS,
        "expires_at_ms": NOW_MS + 1_800_000,
        "next_check_at_ms": NOW_MS + 1_800_000,
        "paid_at_ms": None,
        "closed_at_ms": None,
        "step": 0,
    }
    assert event.pop("op_id") > 0
    assert event == {
        "order_id": order.order_id,
        "version": 1,
        "at_ms": NOW_MS,
        "type": "OrderCreated",
        "state": "created",
        "evidence": None,
    }


async def test_of_twins_in_one_batch_one_is_born(store: Store) -> None:
    async with committing(store.connect) as committer:
        twins = [birth(new(out_order_no="same"), None) for _ in range(5)]
        verdicts = await asyncio.gather(*(committer.submit(twin) for twin in twins))
    assert sorted(verdicts) == [APPLIED, *[LOST] * 4]
    assert len(await versions(store)) == 1


async def test_a_number_is_an_apps_own(store: Store) -> None:
    async with committing(store.connect) as committer, committing(store.connect) as rival:
        (first,) = await born(committer, out_order_no="same")
        (other,) = await born(committer, out_order_no="same", app_id="other")
        assert await rival.submit(birth(new(out_order_no="same"), None)) is LOST
    assert set(await versions(store)) == {first.order_id, other.order_id}


async def test_equal_submissions_are_one_for_as_long_as_the_window_lasts(store: Store) -> None:
    async with committing(store.connect, window_ms=300) as ours, committing(store.connect, window_ms=300) as theirs:
        equal = [birth(new(buyer="b"), FINGERPRINT) for _ in range(6)]
        verdicts = await asyncio.gather(
            *(ours.submit(write) for write in equal[:3]), *(theirs.submit(write) for write in equal[3:])
        )
        assert sorted(verdicts) == [APPLIED, *[LOST] * 5]
        assert await ours.submit(birth(new(buyer="b", app_id="other"), FINGERPRINT)) is APPLIED
        assert await ours.submit(birth(new(buyer="b"), b"g" * 16)) is APPLIED
        await asyncio.sleep(0.35)
        assert await theirs.submit(birth(new(buyer="b"), FINGERPRINT)) is APPLIED
    assert await count(store, "orders") == 4
    assert await count(store, "submissions") == 3


async def test_what_is_refused_as_a_conflict_was_never_submitted(store: Store) -> None:
    """Its number is taken, so its fingerprint is free for the order that is right."""
    async with committing(store.connect) as committer:
        await born(committer, out_order_no="taken")
        assert await committer.submit(birth(new(out_order_no="taken", buyer="b"), FINGERPRINT)) is LOST
        assert await store.rows("submissions") == []
        assert await committer.submit(birth(new(buyer="b"), FINGERPRINT)) is APPLIED


# --- moves ----------------------------------------------------------------------------------------------------------


async def test_a_move_changes_the_order_and_adds_what_belongs_to_it(store: Store) -> None:
    owed: list[OutboxRow] = []
    async with committing(store.connect, owed=owed) as committer:
        order = await paying(committer)
        assert await committer.submit(moved(order, accepted())) is APPLIED
        order = after(moved(order, accepted()))
        assert await committer.submit(moved(order, paid("T1"))) is APPLIED
        order = after(moved(order, paid("T1")))
    (row,) = await store.rows("orders")
    assert (row["state"], row["version"], row["paid_amount"]) == ("paid", 4, 100)
    assert (row["paid_at_ms"], row["next_check_at_ms"], row["step"]) == (
        order.paid_at_ms,
        order.next_check_at_ms,
        order.step,
    )
    (attempt,) = await store.rows("attempts")
    assert attempt == {
        "attempt_id": f"{order.order_id}01",
        "order_id": order.order_id,
        "number": 1,
        "channel": "wechatpay",
        "account": "1900/wx",
        "method": "native",
        "params": None,
        "state": "succeeded",
        "failure_code": None,
        "credential": None,  # nobody needs it any more
        "failure_message": None,
        "submits": 1,
        "started_at_ms": NOW_MS,
        "submitted_at_ms": NOW_MS,
    }
    (payment,) = await store.rows("payments")
    assert payment == {
        "channel": "wechatpay",
        "account": "1900/wx",
        "channel_transaction": "T1",
        "order_id": order.order_id,
        "attempt_id": f"{order.order_id}01",
        "kind": "credit",
        "amount": 100,
        "currency": "CNY",
        "success_at_ms": NOW_MS - 7,
        "learned_at_ms": NOW_MS,
        "learned_by": "query",
    }
    (webhook,) = await store.rows("outbox")
    assert (webhook["event_id"], webhook["body"], webhook["url"]) == (owed[0].event_id, owed[0].body, ENDPOINT)
    assert (webhook["state"], webhook["tries"], webhook["seq"], webhook["type"]) == ("owed", 0, 4, "order.paid")
    assert (await versions(store))[order.order_id] == [1, 2, 3, 4]
    types = {event["version"]: event["type"] for event in await store.rows("events")}
    assert types == {1: "OrderCreated", 2: "PayRequested", 3: "SubmitAccepted", 4: "PaymentReported"}


async def test_a_write_to_an_order_that_somebody_else_moved_is_lost(store: Store) -> None:
    async with committing(store.connect) as ours, committing(store.connect) as theirs:
        (order,) = await born(ours)
        assert await theirs.submit(moved(order)) is APPLIED
        assert await ours.submit(moved(order)) is LOST
        skipping = moved(after(moved(after(moved(order)), accepted())), paid("T1"))
        assert await ours.submit(skipping) is LOST
    assert await versions(store) == {order.order_id: [1, 2]}


async def test_a_write_to_an_order_that_does_not_exist_is_lost(store: Store) -> None:
    async with committing(store.connect) as committer:
        assert await committer.submit(moved(new())) is LOST
    assert await count(store, "events") == 0


async def test_a_lost_write_leaves_nothing_behind_but_its_notification(store: Store) -> None:
    async with committing(store.connect) as ours, committing(store.connect) as theirs:
        (order,) = await born(ours)
        waiting = after(moved(order))
        write = msgspec.structs.replace(moved(waiting, paid("T1", amount=7)), arrivals=(arrival(7),))
        assert write.case is not None
        assert write.announce is not None
        assert await theirs.submit(moved(order)) is APPLIED
        assert await theirs.submit(moved(waiting, accepted())) is APPLIED
        assert await ours.submit(write) is LOST
    for table in ("payments", "outbox", "cases"):
        assert await store.rows(table) == []
    assert [attempt["state"] for attempt in await store.rows("attempts")] == ["pending"]
    assert [row["body"] for row in await store.rows("notifications")] == [b"\x00raw"]


async def test_two_committers_with_the_same_orders_share_them_out(store: Store) -> None:
    async with committing(store.connect) as left, committing(store.connect) as right:
        orders = await born(left, 60)
        for _ in range(3):
            writes = [moved(order, None if order.version == 1 else accepted()) for order in orders]
            there = [left.submit(write) for write in writes]
            back = [right.submit(write) for write in reversed(writes)]
            verdicts = zip(await asyncio.gather(*there), reversed(await asyncio.gather(*back)), strict=True)
            assert {frozenset(pair) for pair in verdicts} == {frozenset((APPLIED, LOST))}
            orders = [after(write) for write in writes]
    assert all(found == [1, 2, 3, 4] for found in (await versions(store)).values())


# --- what hangs on an order -----------------------------------------------------------------------------------------


async def test_a_notification_alone_is_kept_and_kept_once(store: Store) -> None:
    async with committing(store.connect) as committer:
        assert await committer.submit(record(arrival(1))) is APPLIED
        again = msgspec.structs.replace(arrival(1), body=b"other")
        assert await committer.submit(record(again)) is APPLIED
    (row,) = await store.rows("notifications")
    assert row == {
        "notification_id": 1,
        "channel": "wechatpay",
        "order_id": "X",
        "attempt": "01",
        "verdict": "verified",
        "headers": '{"a":"b"}',
        "body": b"\x00raw",
        "received_at_ms": NOW_MS,
    }


async def test_money_that_does_not_fit_is_held_and_opens_a_case(store: Store) -> None:
    async with committing(store.connect) as committer:
        order = await paying(committer)
        write = moved(order, paid("T1", amount=7))
        assert await committer.submit(write) is APPLIED
    (case,) = await store.rows("cases")
    assert (case["order_id"], case["version"], case["reason"]) == (order.order_id, 3, "amount_mismatch")
    assert case["evidence"] == write.evidence.decode()
    assert case["opened_at_ms"] == NOW_MS
    assert case["resolved_at_ms"] is None
    assert [payment["kind"] for payment in await store.rows("payments")] == ["held"]
    assert [order["state"] for order in await store.rows("orders")] == ["exception"]


async def test_an_app_that_this_process_has_not_heard_of_yet_is_told_all_the_same(store: Store) -> None:
    from gateway.sealing import Sealer
    from gateway.storage.apps import Apps

    apps = Apps(store.pool, Sealer(bytes(32)))
    await apps.add("young", "https://young.example/w")
    await apps.add("mute", None)
    async with committing(store.connect, endpoint=None) as committer:
        for app_id in ("young", "mute", "nobody"):
            (order,) = await born(committer, app_id=app_id)
            assert await committer.submit(moved(order)) is APPLIED
            assert await committer.submit(moved(after(moved(order)), paid(f"T-{app_id}"))) is APPLIED
    owed = await store.rows("outbox")
    assert [(row["app_id"], row["url"]) for row in owed] == [("young", "https://young.example/w")]


async def test_an_attempt_that_is_written_again_keeps_its_first_moment(store: Store) -> None:
    async with committing(store.connect) as committer:
        order = await paying(committer)
        event = OutcomeUnknown(NOW_MS + 5, 1, Verb.SUBMIT, "silence")
        write = moved(order, event)
        later = tuple(
            msgspec.structs.replace(attempt, started_at_ms=NOW_MS + 1, submitted_at_ms=NOW_MS + 2, method="other")
            for attempt in write.attempts
        )
        assert later
        assert await committer.submit(msgspec.structs.replace(write, attempts=later)) is APPLIED
    (attempt,) = await store.rows("attempts")
    assert (attempt["started_at_ms"], attempt["submitted_at_ms"], attempt["method"]) == (NOW_MS, NOW_MS + 2, "native")
    assert attempt["state"] == "unknown"


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "poison",
    [{"subject": "a\0b"}, {"subject": "\ud800"}, {"amount": 2**63}, {"amount": 0}, {"currency": "yuan"}],
    ids=["NUL", "surrogate", "too large", "zero", "not a currency"],
)
async def test_one_row_that_is_refused_fails_alone(store: Store, poison: dict[str, Any]) -> None:
    async with committing(store.connect) as committer:
        orders = [new() for _ in range(30)]
        orders.insert(17, new(**poison))
        futures = [committer.submit(birth(order, None)) for order in orders]
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
    refused = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, WriteRejected)]
    assert refused == [17]
    assert outcomes.count(APPLIED) == 30
    assert len(await versions(store)) == 30


def order_with(write: Write, **changes: Any) -> Write:
    return msgspec.structs.replace(write, order=msgspec.structs.replace(write.order, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"state": OrderState.PAID},
        {"paid_amount": 100},
        {"refunded_amount": 1},
        {"refunded_amount": -1},
        {"state": OrderState.EXCEPTION},
        {"state": "lost"},
    ],
    ids=["paid without money", "money without paid", "too much back", "negative", "no reason", "no such state"],
)
async def test_an_order_that_must_never_be_is_refused(store: Store, changes: dict[str, Any]) -> None:
    async with committing(store.connect) as committer:
        bad, good = await born(committer, 2)
        outcomes = await asyncio.gather(
            committer.submit(order_with(moved(bad), **changes)), committer.submit(moved(good)), return_exceptions=True
        )
    assert [type(outcome) for outcome in outcomes] == [WriteRejected, type(APPLIED)]
    assert await versions(store) == {bad.order_id: [1], good.order_id: [1, 2]}
    assert [row["order_id"] for row in await store.rows("attempts")] == [good.order_id]


async def test_a_second_live_attempt_is_refused(store: Store) -> None:
    async with committing(store.connect) as committer:
        order = await paying(committer)
        write = moved(order, CloseRequested(NOW_MS + 1))
        second = msgspec.structs.replace(order.attempts[0], number=2, state=AttemptState.PENDING)
        with pytest.raises(WriteRejected, match="attempts_one_live"):
            await committer.submit(msgspec.structs.replace(write, attempts=(second,)))
        ended = msgspec.structs.replace(order.attempts[0], state=AttemptState.CLOSED)
        assert await committer.submit(msgspec.structs.replace(write, attempts=(ended, second))) is APPLIED
    assert [row["state"] for row in await store.rows("attempts")] == ["closed", "pending"]


@pytest.mark.parametrize("changes", [{"number": 0}, {"number": 100}, {"state": "lost"}], ids=str)
async def test_an_attempt_that_must_never_be_is_refused(store: Store, changes: dict[str, Any]) -> None:
    async with committing(store.connect) as committer:
        (order,) = await born(committer)
        write = moved(order)
        bad = tuple(msgspec.structs.replace(attempt, **changes) for attempt in write.attempts)
        with pytest.raises(WriteRejected):
            await committer.submit(msgspec.structs.replace(write, attempts=bad))
    assert await versions(store) == {order.order_id: [1]}


async def test_a_second_credit_is_refused(store: Store) -> None:
    async with committing(store.connect) as committer:
        order = await paying(committer)
        first = moved(order, paid("T1"))
        second = msgspec.structs.replace(first.payments[0], transaction="T2")
        both = msgspec.structs.replace(first, payments=(*first.payments, second))
        with pytest.raises(WriteRejected, match="payments_one_credit"):
            await committer.submit(both)
        excess = msgspec.structs.replace(second, kind=PaymentKind.EXCESS)
        assert await committer.submit(msgspec.structs.replace(first, payments=(*first.payments, excess))) is APPLIED
    assert [row["kind"] for row in await store.rows("payments")] == ["credit", "excess"]


async def test_a_transaction_belongs_to_one_order(store: Store) -> None:
    async with committing(store.connect) as committer:
        orders = [await paying(committer) for _ in range(3)]
        writes = [moved(orders[0], paid("T1")), moved(orders[1], paid("T1")), moved(orders[2], paid("T3"))]
        outcomes = await asyncio.gather(*(committer.submit(write) for write in writes), return_exceptions=True)
    assert outcomes[2] is APPLIED
    assert {type(outcome) for outcome in outcomes[:2]} == {type(APPLIED), WriteRejected}
    assert await count(store, "payments") == 2
    assert await count(store, "outbox") == 2
    await versions(store)


@pytest.mark.parametrize("changes", [{"amount": 0}, {"kind": "gift"}, {"learned_by": "rumour"}], ids=str)
async def test_a_payment_that_must_never_be_is_refused(store: Store, changes: dict[str, Any]) -> None:
    async with committing(store.connect) as committer:
        order = await paying(committer)
        write = moved(order, paid("T1"))
        bad = tuple(msgspec.structs.replace(payment, **changes) for payment in write.payments)
        with pytest.raises(WriteRejected):
            await committer.submit(msgspec.structs.replace(write, payments=bad))
    assert await versions(store) == {order.order_id: [1, 2]}
    assert await count(store, "payments") == 0


async def test_two_writes_of_one_version_in_one_batch_are_not_both_made(store: Store) -> None:
    """Nobody sends them; if somebody did, one is refused by a key, and asked for alone it has lost."""
    async with committing(store.connect) as committer:
        (order,) = await born(committer)
        outcomes = await asyncio.gather(committer.submit(moved(order)), committer.submit(moved(order)))
    assert sorted(outcomes) == [APPLIED, LOST]
    assert await versions(store) == {order.order_id: [1, 2]}
