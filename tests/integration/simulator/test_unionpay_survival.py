"""A payment survives every fault of the simulated UnionPay: the real gateway takes the order to `paid` all the same."""

from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import aiohttp
import pytest

from channels.simulator.unionpay import LIES, REQUEST_FAULTS, VARIANTS
from channels.simulator.unionpay_faults import UnionpayFaults
from examples.shop.browser import Browser
from gateway.embedded import Postgres
from tests.conftest import Databases
from tests.integration.gateway_parts import Api
from tests.integration.simulator.survival import SHARE, SOLD, Sales, Stage, sources, stage, unknowns

WAYS = ("web", "wap", "app", "qr", "barcode")
PARAMS = {"barcode": {"qr_no": "6220000000000000001"}}


@pytest.fixture(scope="module")
def unionpay(postgres: Postgres, databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A simulated UnionPay and a gateway."""
    folder = tmp_path_factory.mktemp("survival")
    database_url = urlsplit(postgres.url)._replace(path=f"/{databases.take()}").geturl()
    with stage("unionpay", folder, database_url) as made:
        yield made


@pytest.fixture
async def sales(unionpay: Stage) -> AsyncIterator[Sales]:
    async with aiohttp.ClientSession() as session, Browser() as browser:
        yield Sales(unionpay, Api(session, unionpay.gateway_url, unionpay.api_key), browser, PARAMS)


# --- without faults


async def test_an_order_is_paid_by_every_method(sales: Sales) -> None:
    before = await sales.verdicts("verified")
    await sales.sold(WAYS, 5)
    await sales.until_verified(before + 5)


# --- notifications

LATE = {"drop": 1.0, "delay_s": 60.0, "out_of_order": 1.0}
WRONG = VARIANTS
BENIGN = ("rotation", "empty_fields", "url_query", "defect")


@pytest.mark.parametrize("fault", LATE)
async def test_without_its_notification_the_payment_is_found_by_asking(sales: Sales, fault: str) -> None:
    assert "query" in sources(await sales.sold(("qr", "web"), **{fault: LATE[fault]}))


@pytest.mark.parametrize("fault", WRONG)
async def test_a_wrong_notification_before_the_genuine_one_does_no_harm(sales: Sales, fault: str) -> None:
    before = await sales.verdicts("bad_signature")
    await sales.sold(("qr",), **{fault: 1.0})
    assert await sales.verdicts("bad_signature") > before


@pytest.mark.parametrize("fault", BENIGN)
async def test_what_is_genuine_in_an_unusual_way_is_believed(sales: Sales, fault: str) -> None:
    before = await sales.verdicts("verified")
    await sales.sold(("qr",), **{fault: 1.0})
    await sales.until_verified(before + SOLD)


async def test_a_notification_that_comes_again_is_one_payment(sales: Sales) -> None:
    before = await sales.verdicts("verified")
    await sales.sold(("qr",), duplicate=1.0)
    await sales.until_verified(before + 2 * SOLD)


# --- requests

PUT_OFF = ("error_before", "rate_limited")  # not executed
EXECUTED = ("error_after", "timeout", *LIES)


@pytest.mark.parametrize("fault", [*PUT_OFF, *EXECUTED])
async def test_what_a_request_that_went_wrong_has_begun_is_ended_or_begun_anew(sales: Sales, fault: str) -> None:
    """A code whose answer was lost can not be had again: the attempt ends, and the app pays with another."""
    assert unknowns(await sales.sold(("qr", "barcode"), **{fault: SHARE})), "nobody met the fault"


async def test_an_answer_that_comes_too_late_is_no_answer(sales: Sales) -> None:
    assert unknowns(await sales.sold(("qr",), slow=1.0, slow_s=0.8)), "nobody met the fault"


@pytest.mark.parametrize("fault", EXECUTED)
async def test_if_no_answer_ever_gets_through_the_notification_does(sales: Sales, fault: str) -> None:
    """Not one request is answered so that it could be believed, and yet somebody has paid."""
    stage, api = sales.stage, sales.api
    async with stage.nobody_pays(), stage.faults(**{fault: 1.0}):
        order_id = (await api.created(subject=f"deaf to {fault}"))["order_id"]
        assert (await api.pay(order_id, channel="unionpay", method="qr")).status == 202
        await stage.payer(f"{order_id}01")
        assert (await api.until_state(order_id, "paid"))["paid_amount"] == 100


# --- payments


@pytest.mark.parametrize("fault", ["pending", "moved"])
async def test_a_payment_that_is_not_settled_yet_is_asked_after_again(sales: Sales, fault: str) -> None:
    assert sources(await sales.sold(("qr",), drop=1.0, **{fault: 1.0})) == {"query"}


async def test_a_barcode_that_the_bank_is_still_at_is_paid_in_the_end(sales: Sales) -> None:
    await sales.sold(("barcode",), barcode_pending=1.0)


async def test_a_declined_barcode_leaves_the_order_payable(sales: Sales) -> None:
    for pending in (0.0, 1.0):
        events = await sales.sold(("barcode",), barcode_declined=SHARE, barcode_pending=pending)
        assert [event for event in events if event["type"] in ("SubmitRefused", "ReportedClosed")], (
            "nobody met the fault"
        )


async def test_a_payment_in_the_last_moment_is_found_while_closing(sales: Sales) -> None:
    """There is no close at UnionPay: the order waits for the payment time to pass, and asks."""
    stage, api = sales.stage, sales.api
    async with stage.nobody_pays(), stage.faults(drop=1.0):
        order_id = (await api.created(subject="last moment"))["order_id"]
        assert (await api.pay(order_id, channel="unionpay", method="qr")).status == 200
        assert (await api.close(order_id)).status == 202
        await stage.payer(f"{order_id}01")
        assert (await api.until_state(order_id, "paid"))["closed_at"] is None


# --- what does not touch payments, and all together

BESIDE = ("refund_pending", "refund_failed", "void_late", "close_race", "close_overtaken")
LISTS = ("bill_not_ready", "bill_missing", "bill_extra", "bill_amount", "bill_calendar")


async def test_faults_of_refunds_and_lists_touch_no_payment(sales: Sales) -> None:
    await sales.sold(WAYS, 5, **dict.fromkeys((*BESIDE, *LISTS), 1.0))


async def test_all_faults_at_once_lose_nothing(sales: Sales) -> None:
    requests = dict.fromkeys((*PUT_OFF, *EXECUTED), 0.03)
    notifications = dict.fromkeys(("drop", "out_of_order", "duplicate", *WRONG), 0.4)
    other = dict.fromkeys((*BENIGN, "pending", "moved", "barcode_pending", "barcode_declined"), 0.3)
    await sales.sold(WAYS, 20, **requests, **notifications, **other, delay_s=1.0, slow=0.2, slow_s=0.5)


def test_every_fault_has_its_test() -> None:
    tested = {*LATE, *WRONG, *BENIGN, *PUT_OFF, *EXECUTED, *BESIDE, *LISTS}
    tested |= {"duplicate", "slow", "slow_s", "pending", "moved", "barcode_pending", "barcode_declined"}
    assert tested == set(UnionpayFaults.__struct_fields__)
    assert {*PUT_OFF, *EXECUTED} == {*REQUEST_FAULTS, "timeout"}
