"""The demo shop's own promises: each webhook once, nothing older than what it knows, nothing forgotten."""

import asyncio
import base64
import itertools
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from bench.ledgers import ShopOrder, read_shop_ledger
from examples.shop import bookkeeping
from examples.shop.counter import Counter
from examples.shop.ledger import SCHEMA, Ledger
from examples.shop.purchases import Purchase, purchase
from holdfast_client import Event, Order, OrderState, sign_webhook
from holdfast_client.schema import EventData

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
WANTED = Purchase(out_order_no="A-1", subject="A-1", amount=500)


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """An empty ledger with the order A-1 written down."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(SCHEMA.read_text("utf-8"))
    bookkeeping.remember(connection, WANTED, 1.0, 10.0)
    yield connection
    connection.close()


def order(state: OrderState, version: int, *, amount: int = 500, out_order_no: str = "A-1") -> Order:
    paid = amount if state is OrderState.PAID else 0
    return Order(
        order_id="0" * 26, out_order_no=out_order_no, amount=amount, currency="CNY", subject=out_order_no,
        state=state, version=version, paid_amount=paid,
    )  # fmt: skip


def event(webhook_id: str, subject: Order) -> Event:
    return Event(webhook_id, "order." + subject.state, datetime.now(UTC), subject.version, EventData(subject))


def row(connection: sqlite3.Connection) -> tuple[str, int, int]:
    found: tuple[str, int, int] = connection.execute("SELECT state, seq, fulfilled_count FROM orders").fetchone()
    return found


# --- bookkeeping ----------------------------------------------------------------------------------------------------


def test_a_webhook_that_comes_three_times_fulfils_once_and_is_counted_three_times(
    connection: sqlite3.Connection,
) -> None:
    news = [bookkeeping.receive(connection, event("evt_1", order(OrderState.PAID, 3)), 2.0) for _ in range(3)]
    assert news == [True, False, False]
    assert row(connection) == ("paid", 3, 1)
    assert connection.execute("SELECT delivery_count, effective FROM inbox").fetchall() == [(3, 1)]


def test_any_order_of_arrival_ends_paid_and_fulfilled_once() -> None:
    told = [("evt_1", OrderState.PAYING, 2), ("evt_2", OrderState.PAID, 3), ("evt_3", OrderState.PAID, 4)]
    for arrival in itertools.permutations(told):
        connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.executescript(SCHEMA.read_text("utf-8"))
        bookkeeping.remember(connection, WANTED, 1.0, 10.0)
        for webhook_id, state, version in arrival:
            bookkeeping.receive(connection, event(webhook_id, order(state, version)), 2.0)
        assert row(connection) == ("paid", 4, 1)
        connection.close()


def test_a_closed_order_that_was_paid_late_is_still_fulfilled(connection: sqlite3.Connection) -> None:
    bookkeeping.receive(connection, event("evt_1", order(OrderState.CLOSED, 4)), 2.0)
    bookkeeping.receive(connection, event("evt_2", order(OrderState.PAID, 5)), 3.0)
    assert row(connection) == ("paid", 5, 1)


@pytest.mark.parametrize(
    "stranger",
    [order(OrderState.PAID, 3, amount=1), order(OrderState.PAID, 3, out_order_no="B-1")],
)
def test_another_amount_or_a_stranger_s_order_fulfils_nothing_and_is_kept(
    connection: sqlite3.Connection, stranger: Order
) -> None:
    assert not bookkeeping.receive(connection, event("evt_1", stranger), 2.0)
    assert row(connection) == ("new", 0, 0)
    assert connection.execute("SELECT count(*) FROM inbox").fetchone() == (1,)


def test_an_answer_and_a_webhook_about_the_same_payment_fulfil_once(connection: sqlite3.Connection) -> None:
    assert bookkeeping.learn(connection, order(OrderState.PAID, 3), 3, "answer", 2.0)
    assert not bookkeeping.receive(connection, event("evt_1", order(OrderState.PAID, 3)), 3.0)
    assert row(connection) == ("paid", 3, 1)
    assert connection.execute("SELECT learned_by, paid_at FROM orders").fetchone() == ("answer", 2.0)


def test_a_quiet_order_is_asked_about_ever_more_rarely_until_it_is_final(connection: sqlite3.Connection) -> None:
    take = partial(bookkeeping.take_quiet, connection, pause_s=10.0, limit=5)
    assert take(now=9.9) == []
    assert [quiet.order_id for quiet in take(now=10.0)] == [None]
    assert take(now=19.9) == []
    assert len(take(now=20.0)) == 1
    assert take(now=39.9) == []
    bookkeeping.learn(connection, order(OrderState.PAID, 3), 3, "answer", 40.0)
    assert take(now=1e9) == []


def test_an_order_is_written_down_once_even_if_the_till_starts_again(connection: sqlite3.Connection) -> None:
    assert not bookkeeping.remember(connection, WANTED, 5.0, 50.0)
    assert bookkeeping.recall(connection, "A-1") == WANTED


def test_the_same_seed_buys_the_same_things_and_about_one_in_twenty_names_its_buyer() -> None:
    bought = [purchase(7, "p", number) for number in range(2000)]
    assert bought == [purchase(7, "p", number) for number in range(2000)]
    assert bought != [purchase(8, "p", number) for number in range(2000)]
    assert len({wanted.subject for wanted in bought}) == 2000
    assert 50 < sum(wanted.buyer is not None for wanted in bought) < 200


# --- the ledger's writer --------------------------------------------------------------------------------------------


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """A ledger on disk."""
    ledger = Ledger(tmp_path / "shop.sqlite")
    yield ledger
    await ledger.close()


async def test_waiting_writes_share_a_transaction_and_one_bad_write_undoes_only_itself(ledger: Ledger) -> None:
    def write(connection: sqlite3.Connection, number: int) -> int:
        bookkeeping.remember(connection, purchase(1, "p", number), 1.0, 2.0)
        if number == 5:
            raise ValueError("no")
        return number

    results = await asyncio.gather(*(ledger.do(partial(write, number=n)) for n in range(10)), return_exceptions=True)
    assert [number for number in results if not isinstance(number, BaseException)] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert isinstance(results[5], ValueError)
    assert (await ledger.do(bookkeeping.counts))["orders"] == 9


async def test_the_file_is_synced_at_every_commit(ledger: Ledger) -> None:
    pragmas = await ledger.do(
        lambda connection: [
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
        ]
    )
    assert pragmas == ["wal", 2]


async def test_the_auditor_reads_what_the_shop_writes(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.do(lambda connection: bookkeeping.remember(connection, WANTED, 1.0, 10.0))
    await ledger.do(lambda connection: bookkeeping.receive(connection, event("evt_1", order(OrderState.PAID, 3)), 2.5))
    assert read_shop_ledger(tmp_path / "shop.sqlite") == [
        ShopOrder(
            out_order_no="A-1", order_id="0" * 26, amount=500, currency="CNY", paid_amount=500, fulfilled_count=1,
            learned_by="webhook", paid_at_s=2.5,
        )
    ]  # fmt: skip


# --- the door -------------------------------------------------------------------------------------------------------


async def test_the_door_answers_204_only_for_a_signed_webhook_and_400_for_anything_else(ledger: Ledger) -> None:
    await ledger.do(lambda connection: bookkeeping.remember(connection, WANTED, 1.0, 10.0))
    told = {"order_id": "0" * 26, "out_order_no": "A-1", "amount": 500, "currency": "CNY", "subject": "A-1",
            "state": "paid", "version": 3, "paid_amount": 500}  # fmt: skip
    created = datetime.now(UTC).isoformat()
    sent = {"id": "evt_1", "type": "order.paid", "created": created, "seq": 3, "data": {"object": told}}
    body = json.dumps(sent).encode()
    now = str(int(time.time()))
    signature = sign_webhook(SECRET, "evt_1", now, body)
    signed = {"webhook-id": "evt_1", "webhook-timestamp": now, "webhook-signature": signature}
    door = Counter(ledger, SECRET).application()
    async with TestServer(door) as server, ClientSession(server.make_url("")) as client:
        statuses = []
        for data, headers in [(body + b" ", signed), (body, {}), (body, signed), (body, signed)]:
            async with client.post("/webhooks", data=data, headers=headers) as response:
                statuses.append(response.status)
        async with client.get("/status") as response:
            counted = await response.json()
    assert statuses == [400, 400, 204, 204]
    assert (counted["fulfilled"], counted["webhooks"], counted["webhooks_effective"]) == (1, 2, 1)
