"""A payment survives every fault of the simulated Alipay: the real gateway takes the order to `paid` all the same."""

from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import aiohttp
import pytest

from channels.simulator.alipay import LIES, REQUEST_FAULTS
from channels.simulator.alipay_faults import AlipayFaults
from examples.shop.browser import Browser
from gateway.embedded import Postgres
from tests.conftest import Databases
from tests.integration.gateway_parts import Api
from tests.integration.simulator.survival import SHARE, SOLD, Sales, Stage, sources, stage, unknowns

WAYS = ("qr", "page", "wap", "app")


@pytest.fixture(scope="module")
def alipay(postgres: Postgres, databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A simulated Alipay and a gateway."""
    folder = tmp_path_factory.mktemp("survival")
    database_url = urlsplit(postgres.url)._replace(path=f"/{databases.take()}").geturl()
    with stage("alipay", folder, database_url) as made:
        yield made


@pytest.fixture
async def sales(alipay: Stage) -> AsyncIterator[Sales]:
    async with aiohttp.ClientSession() as session, Browser() as browser:
        yield Sales(alipay, Api(session, alipay.gateway_url, alipay.api_key), browser)


# --- without faults


async def test_an_order_is_paid_by_every_method(sales: Sales) -> None:
    before = await sales.verdicts("verified")
    await sales.sold(WAYS, 8)
    await sales.until_verified(before + 8)


# --- notifications

LATE = {"drop": 1.0, "delay_s": 60.0, "out_of_order": 1.0}
WRONG = {
    "tamper": ("bad_signature", "malformed"),
    "wrong_amount": ("bad_signature",),
    "waiting": ("other_event",),
}
STRANGERS = ("wrong_app", "wrong_seller")
ODD = ("gbk", "empties_signed", "empties_unsigned", "odd_values", "finished")


@pytest.mark.parametrize("fault", LATE)
async def test_without_its_notification_the_payment_is_found_by_asking(sales: Sales, fault: str) -> None:
    assert "query" in sources(await sales.sold(WAYS, **{fault: LATE[fault]}))


@pytest.mark.parametrize("fault", WRONG)
async def test_a_wrong_notification_before_the_genuine_one_does_no_harm(sales: Sales, fault: str) -> None:
    before = await sales.verdicts(*WRONG[fault])
    await sales.sold(("qr",), **{fault: 1.0})
    assert await sales.verdicts(*WRONG[fault]) > before


@pytest.mark.parametrize("fault", STRANGERS)
async def test_alipays_word_on_a_strangers_trade_is_not_credited_and_our_own_is(sales: Sales, fault: str) -> None:
    events = await sales.sold(("qr",), **{fault: 1.0})
    stated = {event["evidence"]["account"] for event in events if event["type"] == "PaymentReported"}
    assert len(stated - {sales.stage.account.account}) == SOLD, "nobody met the fault"


@pytest.mark.parametrize("fault", ODD)
async def test_what_is_genuine_in_an_unusual_way_is_believed(sales: Sales, fault: str) -> None:
    before = await sales.verdicts("verified")
    await sales.sold(WAYS, **{fault: 1.0})
    await sales.until_verified(before + SOLD)


async def test_a_notification_that_comes_again_is_one_payment(sales: Sales) -> None:
    before = await sales.verdicts("verified")
    await sales.sold(("qr",), duplicate=1.0)
    await sales.until_verified(before + 2 * SOLD)


# --- requests

PUT_OFF = ("error_before", "rate_limited")  # not executed
EXECUTED = ("error_after", "timeout", "unsigned_error", "bad_gateway", "answer_other", *LIES)


@pytest.mark.parametrize("fault", [*PUT_OFF, *EXECUTED])
async def test_a_request_that_went_wrong_is_made_again_under_its_number(sales: Sales, fault: str) -> None:
    """Also by whoever opens a page, unless it never comes: a browser is more patient than this test."""
    methods = ("qr",) if fault == "timeout" else ("qr", "page")
    assert unknowns(await sales.sold(methods, 2 * SOLD, **{fault: SHARE})), "nobody met the fault"


async def test_an_answer_that_comes_too_late_is_no_answer(sales: Sales) -> None:
    assert unknowns(await sales.sold(("qr",), slow=1.0, slow_s=0.8)), "nobody met the fault"


@pytest.mark.parametrize("fault", EXECUTED)
async def test_if_no_answer_ever_gets_through_the_notification_does(sales: Sales, fault: str) -> None:
    """Not one request is answered so that it could be believed, and yet somebody has paid."""
    async with sales.stage.nobody_pays(), sales.stage.faults(**{fault: 1.0}):
        order_id = (await sales.api.created(subject=f"deaf to {fault}"))["order_id"]
        assert (await sales.api.pay(order_id, channel="alipay", method="qr")).status == 202
        await sales.stage.payer(f"{order_id}01")
        assert (await sales.api.until_state(order_id, "paid"))["paid_amount"] == 100


# --- what is special about codes and closing


async def test_a_code_that_can_be_had_only_once_and_was_lost_is_not_lost_for_the_order(sales: Sales) -> None:
    """Its answer was lost and another is refused. The payer pays by a page instead, and nobody pays twice."""
    async with sales.stage.faults(create_once=1.0, error_after=1.0):
        order_id = (await sales.api.created(subject="one code"))["order_id"]
        assert (await sales.api.pay(order_id, channel="alipay", method="qr")).status == 202
    async with sales.stage.nobody_pays(), sales.stage.faults(create_once=1.0):
        await sales.stage.payer(f"{order_id}01")  # somebody held it all the same
        assert (await sales.api.until_state(order_id, "paid"))["paid_amount"] == 100


async def test_a_payer_who_is_faster_than_the_close_has_paid(sales: Sales) -> None:
    waits = {"stated": {"trade_status": "WAIT_BUYER_PAY"}}
    async with sales.stage.nobody_pays(), sales.stage.faults(close_race=1.0, drop=1.0):
        order_id = (await sales.api.created(subject="faster"))["order_id"]
        assert (await sales.api.pay(order_id, channel="alipay", method="qr")).status == 200
        await sales.stage.payer(f"{order_id}01", **waits)
        await sales.api.close(order_id)
        assert (await sales.api.until_state(order_id, "paid"))["closed_at"] is None


async def test_a_code_that_nobody_scanned_before_the_close_can_still_be_paid_and_is_found(sales: Sales) -> None:
    """Alipay does not know what nobody has scanned, and can not close it: the order stays guarded until its time."""
    async with sales.stage.nobody_pays(), sales.stage.faults(drop=1.0):
        order_id = (await sales.api.created(subject="guarded"))["order_id"]
        assert (await sales.api.pay(order_id, channel="alipay", method="qr")).status == 200
        assert (await sales.api.close(order_id)).status == 202
        await sales.stage.payer(f"{order_id}01")
        assert (await sales.api.until_state(order_id, "paid"))["paid_amount"] == 100


# --- what does not touch payments, and all together

REFUNDS = ("no_fund_change", "refund_unseen", "bank_card", "not_enough", "closed_notice")
LISTS = ("bill_not_ready", "bill_missing", "bill_extra", "bill_amount", "bill_link", "bill_calendar")


async def test_faults_of_refunds_and_lists_touch_no_payment(sales: Sales) -> None:
    await sales.sold(("qr", "wap"), 2, **dict.fromkeys((*REFUNDS, *LISTS), 1.0))


async def test_all_faults_at_once_lose_nothing(sales: Sales) -> None:
    requests = dict.fromkeys({*PUT_OFF, *EXECUTED} - {"timeout"}, 0.05)  # no page that never comes: see above
    notifications = dict.fromkeys(("drop", "out_of_order", "duplicate", *WRONG, *STRANGERS), 0.3)
    odd = dict.fromkeys(ODD, 0.3)
    await sales.sold(WAYS, 20, **requests, **notifications, **odd, delay_s=1.0, slow=0.2, slow_s=0.5)


def test_every_fault_has_its_test() -> None:
    tested = {*LATE, *WRONG, *STRANGERS, *ODD, *PUT_OFF, *EXECUTED, *REFUNDS, *LISTS}
    tested |= {"duplicate", "slow", "slow_s", "create_once", "close_race", "close_overtaken"}
    assert tested == set(AlipayFaults.__struct_fields__)
    assert {*PUT_OFF, *EXECUTED} == {*REQUEST_FAULTS, "timeout"}
