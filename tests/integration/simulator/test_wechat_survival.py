"""A payment survives every fault of the simulated WeChat Pay: the real gateway takes the order to `paid` all the same.

One gateway and one platform serve all tests; each test turns one fault on, sells a few things, and looks at what each
order went through: a fault that nobody met would prove nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from channels.simulator.wechat import LIES, REQUEST_FAULTS
from channels.simulator.wechat_faults import WechatFaults
from gateway.embedded import Postgres
from tests.conftest import Databases
from tests.integration.gateway_parts import (
    Api,
    Platform,
    add_app,
    gateway_process,
    run,
    simulator,
    until,
    write_config,
)
from tests.integration.simulator.survival import PATIENT

SOLD = 5  # orders a fault
SHARE = 0.6  # of requests that meet a fault which lets nothing through: sooner or later one does not
CHECKS = {
    "timeout_s": 0.3,
    "queries_s": [0.1, 0.1, 0.2, 0.2, 0.3],
    "slow_queries_s": [0.3],
    "closing_s": [0.1, 0.1, 0.2, 0.3],
    "not_found_final_s": 60,
    "pay_wait_s": 0.2,
}


@pytest.fixture(scope="module")
def stage(
    postgres: Postgres, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Platform, str, str]]:
    """The platform, where everybody pays at once; the gateway's address, and an app's key."""
    folder = tmp_path_factory.mktemp("survival")
    database_url = urlsplit(postgres.url)._replace(path=f"/{databases.take()}").geturl()
    with simulator(folder / "wechatpay") as platform:
        sweep = {"every_s": 0.1, "grace_s": 0.1, "lease_s": 1.0}
        own = {"timeout_s": 0.3, "breaker_failures": PATIENT}
        config = write_config(
            folder / "gateway.toml", database_url, platform, checks=CHECKS, sweep=sweep, wechatpay=own
        )
        with gateway_process(config) as running:
            app = run(add_app(database_url, "shop"))
            run(platform.steer("/_sim/payers", {"rate": 1.0, "after_min_s": 0.0, "after_max_s": 0.0}))
            yield platform, running.url, app.api_key


@pytest.fixture
async def api(stage: tuple[Platform, str, str]) -> AsyncIterator[Api]:
    async with aiohttp.ClientSession() as session:
        yield Api(session, *stage[1:])


@pytest.fixture
def platform(stage: tuple[Platform, str, str]) -> Platform:
    return stage[0]


async def sell(api: Api, subject: str, **how: Any) -> dict[str, Any]:
    """An order that somebody wants to pay, and asks again how while nobody can tell them; it, once it is paid."""
    order_id = (await api.created(subject=subject))["order_id"]

    async def look() -> dict[str, Any] | None:
        await api.pay(order_id, **how)
        order = await api.get(order_id)
        return order if order["state"] == "paid" else None

    return await until(look)


async def sold(api: Api, platform: Platform, count: int = SOLD, **faults: float) -> list[dict[str, Any]]:
    """The events of each of so many orders that were paid while these faults were on."""
    async with platform.faults(**faults):
        subjects = (f"{next(iter(faults))} {number} of {count}" for number in range(count))
        orders = await asyncio.gather(*(sell(api, subject) for subject in subjects))
    assert {order["paid_amount"] for order in orders} == {100}
    return [event for order in orders for event in await api.timeline(order["order_id"])]


async def verdicts(api: Api, *names: str) -> float:
    """How many notifications the gateway has judged so."""
    lines = (await api.request("GET", "/metrics")).body.decode().splitlines()
    counted = [line for line in lines if line.startswith("holdfast_notifications_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in counted if any(f'verdict="{name}"' in line for name in names))


def sources(events: list[dict[str, Any]]) -> set[str]:
    """How it was learned that the orders were paid."""
    return {event["evidence"]["source"] for event in events if event["type"] == "PaymentReported"}


# --- notifications

LATE = {"drop": 1.0, "delay_s": 60.0, "out_of_order": 1.0}
WRONG = {
    "tamper": ("bad_signature", "malformed", "unknown_key"),
    "probe": ("signature_probe",),
    "stale": ("stale",),
    "wrong_serial": ("unknown_key",),
}


@pytest.mark.parametrize("fault", LATE)
async def test_without_its_notification_the_payment_is_found_by_asking(
    api: Api, platform: Platform, fault: str
) -> None:
    assert "query" in sources(await sold(api, platform, **{fault: LATE[fault]}))


@pytest.mark.parametrize("fault", WRONG)
async def test_a_wrong_notification_before_the_genuine_one_is_refused_and_does_no_harm(
    api: Api, platform: Platform, fault: str
) -> None:
    before = await verdicts(api, *WRONG[fault])
    await sold(api, platform, **{fault: 1.0})
    assert await verdicts(api, *WRONG[fault]) > before


async def test_a_notification_that_comes_again_is_one_payment(api: Api, platform: Platform) -> None:
    before = await verdicts(api, "verified")
    await sold(api, platform, duplicate=1.0)

    async def twice() -> bool:
        return await verdicts(api, "verified") - before >= 2 * SOLD

    assert await until(twice)


async def test_a_notification_under_a_platform_certificate_is_believed(api: Api, platform: Platform) -> None:
    assert "notification" in sources(await sold(api, platform, certificate_share=1.0))


async def test_one_under_a_certificate_that_nobody_knows_yet_does_no_harm(api: Api, platform: Platform) -> None:
    before = await verdicts(api, "unknown_key", "verified")
    await sold(api, platform, rotation=1.0, certificate_share=1.0)
    assert await verdicts(api, "unknown_key", "verified") > before


# --- requests

PUT_OFF = ("error_before", "rate_limited", "accepted")  # not executed
EXECUTED = ("error_after", "timeout", *LIES)


@pytest.mark.parametrize("fault", [*PUT_OFF, *EXECUTED])
async def test_a_request_that_went_wrong_is_made_again_under_its_number(
    api: Api, platform: Platform, fault: str
) -> None:
    events = await sold(api, platform, **{fault: SHARE})
    assert [event for event in events if event["type"] == "OutcomeUnknown"], "nobody met the fault"


WAYS: dict[str, dict[str, str]] = {
    "jsapi": {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"},
    "mini": {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"},
    "app": {},
    "h5": {"payer_client_ip": "1.2.3.4", "type": "Wap"},
}


async def test_every_way_to_pay_survives_answers_that_are_lost(api: Api, platform: Platform) -> None:
    async with platform.faults(error_after=SHARE):
        sales = (sell(api, f"by {name} {number}", method=name, params=WAYS[name]) for name in WAYS for number in (1, 2))
        orders = await asyncio.gather(*sales)
    assert [attempt["method"] for order in orders for attempt in order["attempts"]] == [n for n in WAYS for _ in (1, 2)]


async def test_an_answer_that_comes_too_late_is_no_answer(api: Api, platform: Platform) -> None:
    events = await sold(api, platform, slow=1.0, slow_s=0.8)
    assert [event for event in events if event["type"] == "OutcomeUnknown"], "nobody met the fault"


@pytest.mark.parametrize("fault", EXECUTED)
async def test_if_no_answer_ever_gets_through_the_notification_does(api: Api, platform: Platform, fault: str) -> None:
    """Not one request is answered so that it could be believed, and yet somebody has paid."""
    async with platform.faults(**{fault: 1.0}):
        order_id = (await api.created(subject=f"deaf to {fault}"))["order_id"]
        assert (await api.pay(order_id)).status == 202
        await platform.pay(f"{order_id}01")
        assert (await api.until_state(order_id, "paid"))["paid_amount"] == 100


async def test_a_payer_who_is_faster_than_the_close_has_paid(api: Api, platform: Platform) -> None:
    await platform.steer("/_sim/payers", {"rate": 0.0})
    try:
        async with platform.faults(close_race=1.0):
            order_id = (await api.shown((await api.created())["order_id"]))["order_id"]
            await api.close(order_id)
            assert (await api.until_state(order_id, "paid"))["closed_at"] is None
    finally:
        await platform.steer("/_sim/payers", {"rate": 1.0})


# --- what does not touch payments, and all together

BESIDE = ("not_enough", "refund_closed", "refund_abnormal", "refund_minute")
LISTS = ("bill_not_ready", "bill_missing", "bill_extra", "bill_amount", "bill_hash", "bill_calendar")


async def test_faults_of_refunds_and_lists_touch_no_payment(api: Api, platform: Platform) -> None:
    await sold(api, platform, 2, **dict.fromkeys((*BESIDE, *LISTS), 1.0))


async def test_all_faults_at_once_lose_nothing(api: Api, platform: Platform) -> None:
    requests = dict.fromkeys((*PUT_OFF, *EXECUTED), 0.07)
    notifications = dict.fromkeys(("drop", "out_of_order", "duplicate", *WRONG), 0.4)
    keys = {"certificate_share": 0.5, "rotation": 0.5}
    await sold(api, platform, 20, **requests, **notifications, **keys, delay_s=1.0, slow=0.2, slow_s=0.5)


def test_every_fault_has_its_test() -> None:
    tested = {*LATE, *WRONG, *PUT_OFF, *EXECUTED, *BESIDE, *LISTS}
    tested |= {"duplicate", "certificate_share", "rotation", "slow", "slow_s", "close_race", "close_overtaken"}
    assert tested == set(WechatFaults.__struct_fields__)
    assert {*PUT_OFF, *EXECUTED} == {*REQUEST_FAULTS, "timeout"}
