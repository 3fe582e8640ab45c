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
from typing import cast

import msgspec
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import RawTestServer, TestServer
from yarl import URL

from bench.ledgers import ShopOrder, read_shop_ledger
from examples.shop import bookkeeping, browser, checkout
from examples.shop.browser import Browser
from examples.shop.checkout import Checkout
from examples.shop.counter import Counter
from examples.shop.customers import Customers, parse_mix
from examples.shop.ledger import SCHEMA, Ledger
from examples.shop.purchases import Purchase, Way
from holdfast_client import Credential, Event, Holdfast, Order, OrderState, PayResult, Problem, sign_webhook
from holdfast_client.errors import ProblemDocument
from holdfast_client.schema import AttemptState, EventData, Payment

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
WANTED = Purchase(out_order_no="A-1", subject="A-1", amount=500, pays_with=Way("alipay", "page"))
MINDED = msgspec.structs.replace(WANTED, pays_with=Way("wechatpay", "native"))
MIX = parse_mix("wechatpay.native:2, alipay.page, unionpay.qr:1")


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
    unanswered = bookkeeping.Quiet("A-1", order_id=None, payable=False, pays_with=WANTED.pays_with)
    assert take(now=10.0) == [unanswered]
    assert take(now=19.9) == []
    bookkeeping.learn(connection, order(OrderState.PAYING, 2), 2, "answer", 19.9)
    bookkeeping.show(connection, "A-1", Credential(type="url", value="http://x/"), WANTED.pays_with)
    assert take(now=20.0) == [bookkeeping.Quiet("A-1", "0" * 26, payable=True, pays_with=WANTED.pays_with)]
    assert take(now=39.9) == []
    bookkeeping.learn(connection, order(OrderState.PAID, 3), 3, "answer", 40.0)
    assert take(now=1e9) == []


def test_an_order_is_written_down_once_even_if_the_till_starts_again(connection: sqlite3.Connection) -> None:
    assert not bookkeeping.remember(connection, WANTED, 5.0, 50.0)
    assert bookkeeping.recall(connection, "A-1") == WANTED


def test_how_things_stand_is_counted_by_channel(connection: sqlite3.Connection) -> None:
    other = Purchase("B-1", "B-1", 100)
    bookkeeping.remember(connection, other, 1.0, 10.0)
    assert bookkeeping.counts(connection)["payable"] == 0
    bookkeeping.show(connection, "A-1", Credential(type="url", value="http://x/"), WANTED.pays_with)
    bookkeeping.receive(connection, event("evt_1", order(OrderState.PAID, 3)), 2.0)
    counted = bookkeeping.counts(connection)
    assert (counted["orders"], counted["payable"], counted["fulfilled"]) == (2, 1, 1)
    assert counted["channels"] == {
        "alipay": {"orders": 1, "payable": 1, "fulfilled": 1},
        "wechatpay": {"orders": 1, "payable": 0, "fulfilled": 0},
    }


# --- checkout -------------------------------------------------------------------------------------------------------


class Gateway:
    """Answers a pay without a credential, or with a problem of this code, as often as told."""

    def __init__(self, unknown: int, state: OrderState = OrderState.PAYING, code: str = "") -> None:
        self.unknown = unknown
        self.code = code
        self.paid = 0
        self.state = state

    async def create_order(self, **_: object) -> Order:
        return order(OrderState.CREATED, 1)

    async def pay(self, _order_id: str, *, channel: str, method: str, params: object) -> PayResult:
        assert (channel, method, params) == ("alipay", "page", None)
        self.paid += 1
        known = self.paid > self.unknown
        if self.code and not known:
            raise Problem(422, ProblemDocument(code=self.code))
        credential = Credential(type="url", value="http://x/") if known else None
        payment = Payment("0" * 28, AttemptState.PENDING if known else AttemptState.UNKNOWN, credential)
        return PayResult(payment if self.state is OrderState.PAYING else None, order(self.state, 1 + self.paid))


@pytest.mark.parametrize(
    ("unknown", "code", "asked", "handed_over"),
    [
        (0, "", 1, 1),
        (2, "", 3, 1),
        (9, "", 3, 0),
        (2, "payment_refused", 3, 1),
        (9, "payment_refused", 3, 0),
        (1, "channel_unavailable", 1, 0),
    ],
)
async def test_a_customer_tries_again_while_the_answer_is_unknown_or_a_refusal_but_not_for_ever(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, unknown: int, code: str, asked: int, handed_over: int
) -> None:
    monkeypatch.setattr(checkout, "PAY_AGAIN_AFTER_S", 0.0)
    gateway, received = Gateway(unknown, code=code), []
    await ledger.do(lambda connection: bookkeeping.remember(connection, WANTED, 1.0, 10.0))
    await Checkout(cast(Holdfast, gateway), ledger, received.append).check_out(WANTED)
    assert (gateway.paid, len(received)) == (asked, handed_over)
    assert (await ledger.do(bookkeeping.counts))["payable"] == handed_over


async def test_an_order_that_was_paid_meanwhile_is_not_asked_for_again(ledger: Ledger) -> None:
    gateway, received = Gateway(0, OrderState.PAID), []
    await ledger.do(lambda connection: bookkeeping.remember(connection, WANTED, 1.0, 10.0))
    await Checkout(cast(Holdfast, gateway), ledger, received.append).check_out(WANTED)
    assert (gateway.paid, received) == (1, [])
    counted = await ledger.do(bookkeeping.counts)
    assert (counted["payable"], counted["fulfilled"]) == (1, 1)


async def test_a_customer_who_wants_to_pay_another_way_is_remembered_so_unless_that_can_not_be(ledger: Ledger) -> None:
    gateway, received = Gateway(1, code="payment_in_progress"), []
    await ledger.do(lambda connection: bookkeeping.remember(connection, MINDED, 1.0, 10.0))
    till = Checkout(cast(Holdfast, gateway), ledger, received.append)
    for known, handed_over in (("native", 0), ("page", 1)):
        await till.change(order(OrderState.PAYING, 1), Way("alipay", "page"))
        wanted = await ledger.do(lambda connection: bookkeeping.recall(connection, "A-1"))
        assert (wanted.pays_with.method, len(received)) == (known, handed_over)


# --- customers ------------------------------------------------------------------------------------------------------


def customers(seed: int) -> Customers:
    return Customers(rate=1, seconds=2000, seed=seed, prefix="p", start_at=0, mix=MIX)


def test_some_have_second_thoughts_and_buy_the_same_all_the_same() -> None:
    fickle = msgspec.structs.replace(customers(1), fickle=0.1)
    thoughts = [fickle.second_thought(number) for number in range(2000)]
    assert 150 < sum(thought is not None for thought in thoughts) < 250
    assert all(thought != purchase(number).pays_with for number, thought in enumerate(thoughts))
    assert fickle.purchase(7) == purchase(7)
    assert customers(1).second_thought(7) is None
    single = msgspec.structs.replace(fickle, mix=parse_mix("alipay.qr"))
    assert [single.second_thought(number) for number in range(50)] == [None] * 50


def purchase(number: int, seed: int = 1) -> Purchase:
    return customers(seed).purchase(number)


def test_the_same_seed_buys_the_same_things_and_about_one_in_twenty_names_its_buyer() -> None:
    bought = [purchase(number, 7) for number in range(2000)]
    assert bought == [purchase(number, 7) for number in range(2000)]
    assert bought != [purchase(number, 8) for number in range(2000)]
    assert len({wanted.subject for wanted in bought}) == 2000
    assert 50 < sum(wanted.buyer is not None for wanted in bought) < 200


def test_the_ways_to_pay_are_chosen_by_their_weights() -> None:
    chosen = [str(purchase(number).pays_with) for number in range(2000)]
    assert set(chosen) == {"wechatpay.native", "alipay.page", "unionpay.qr"}
    assert 900 < chosen.count("wechatpay.native") < 1100
    assert 400 < chosen.count("alipay.page") < 600


@pytest.mark.parametrize(
    "wrong", ["", "wechatpay", "wechatpay.", ".native", "a.b:", "a.b:0", "a.b:-1", "a.b:1.5", "a.b,a.b", "a.b:9999999"]
)
def test_a_mix_that_is_none_is_refused_and_named(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"expected|weight|twice"):
        parse_mix(wrong)


# --- the ledger's writer --------------------------------------------------------------------------------------------


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """A ledger on disk."""
    ledger = Ledger(tmp_path / "shop.sqlite")
    yield ledger
    await ledger.close()


async def test_waiting_writes_share_a_transaction_and_one_bad_write_undoes_only_itself(ledger: Ledger) -> None:
    def write(connection: sqlite3.Connection, number: int) -> int:
        bookkeeping.remember(connection, purchase(number), 1.0, 2.0)
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
            out_order_no="A-1", channel="alipay", order_id="0" * 26, amount=500, currency="CNY", paid_amount=500,
            fulfilled_count=1, learned_by="webhook", paid_at_s=2.5,
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
        async with client.get("/orders/A-1?trade_status=anything") as response:
            returned = await response.json()
        async with client.get("/orders/A-2") as response:
            assert response.status == 404
    assert statuses == [400, 400, 204, 204]
    assert (counted["fulfilled"], counted["webhooks"], counted["webhooks_effective"]) == (1, 2, 1)
    assert (returned["state"], returned["channel"], returned["fulfilled_count"]) == ("paid", "alipay", 1)


# --- the customer's browser -----------------------------------------------------------------------------------------


class Cashier:
    """Pages that send a browser on to the cashier's, once they have failed as told; what was asked of them."""

    def __init__(self, failures: list[int]) -> None:
        self.failures = failures
        self.asked: list[tuple[str, str, bytes]] = []

    async def serve(self, request: web.BaseRequest) -> web.Response:
        self.asked.append((request.method, request.raw_path, await request.read()))
        if self.failures:
            return web.Response(status=self.failures.pop(0), text="no cashier")
        if request.path != "/cashier":
            return web.Response(status=302, headers={"Location": "/cashier"})
        return web.Response(text="press to pay")


async def opened(cashier: Cashier, kind: str, value: object) -> bool:
    async with RawTestServer(cashier.serve) as server, Browser() as customer:
        address = str(server.make_url("")).rstrip("/")
        if isinstance(value, dict):
            value = {**value, "action": address + str(value["action"])}
        return await customer.open(kind, address + value if isinstance(value, str) else value)


async def test_an_address_is_opened_exactly_as_it_is_and_leads_to_the_cashier() -> None:
    cashier, signed = Cashier([]), "/gateway.do?sign=a%2Bb%2F%3D&subject=%E8%8C%B6+x%20y"
    assert await opened(cashier, "url", signed)
    assert cashier.asked == [("GET", signed, b""), ("GET", "/cashier", b"")]


async def test_a_form_is_submitted_in_its_charset_and_leads_to_the_cashier() -> None:
    cashier = Cashier([])
    form = {"action": "/front.do", "charset": "gbk", "fields": {"name": "\u8336", "signature": "a+b/="}}
    assert await opened(cashier, "form", form)
    assert cashier.asked == [("POST", "/front.do", b"name=%B2%E8&signature=a%2Bb%2F%3D"), ("GET", "/cashier", b"")]


async def test_a_page_that_fails_or_leads_nowhere_is_loaded_again_and_one_that_says_no_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(browser, "RELOAD_AFTER_S", 0.0)
    assert await opened(cashier := Cashier([500, 502]), "url", "/page")
    assert len(cashier.asked) == 4
    assert await opened(cashier := Cashier([200, 202, 429]), "url", "/page")
    assert len(cashier.asked) == 5
    assert not await opened(cashier := Cashier([404]), "url", "/page")
    assert len(cashier.asked) == 1
    assert not await opened(cashier := Cashier([500] * 100), "url", "/page")
    assert len(cashier.asked) == browser.TRIES_MAX


async def test_a_code_is_taken_where_telephones_take_what_they_scan() -> None:
    cashier, code = Cashier([]), "weixin://wxpay/bizpayurl?pr=a&b=c"
    async with RawTestServer(cashier.serve) as server, Browser(str(server.make_url("/scan"))) as customer:
        assert await customer.open("qr", code)
    method, path, _ = cashier.asked[0]
    assert (method, URL(path, encoded=True).query) == ("GET", {"code": code})
    async with Browser() as customer:
        assert await customer.open("qr", code)
        assert await customer.open("params", {"package": "prepay_id=x"})
