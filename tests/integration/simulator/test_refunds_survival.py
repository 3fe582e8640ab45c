"""Money goes back exactly once at each platform, whatever happens on the way; both sides' books say the same.

The real adapters speak with the simulator. What the tests assert about the platforms is what the platforms wrote down.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import aiohttp
import pytest

from channels.simulator import alipay, unionpay, wechat
from gateway.embedded import Postgres
from tests.conftest import Databases
from tests.integration.gateway_parts import Api
from tests.integration.simulator.giving_back import AMOUNT, CHANNELS, Stage, Till, till_stage

OTHER = {"wechatpay": "alipay", "alipay": "wechatpay", "unionpay": "wechatpay"}  # UnionPay's can not be closed
LIES = {"wechatpay": wechat.LIES, "alipay": {**alipay.LIES, "answer_other": ""}, "unionpay": unionpay.LIES}
each_channel = pytest.mark.parametrize("channel", CHANNELS)


@pytest.fixture(scope="module")
def stage(postgres: Postgres, databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """All three platforms and a gateway."""
    database_url = urlsplit(postgres.url)._replace(path=f"/{databases.take()}").geturl()
    with till_stage(tmp_path_factory.mktemp("refunds"), database_url) as made:
        yield made


@pytest.fixture
async def till(stage: Stage) -> AsyncIterator[Till]:
    platform_url, gateway_url, key, accounts = stage
    async with aiohttp.ClientSession() as session:
        yield Till(Api(session, gateway_url, key), platform_url, accounts)


# --- without faults


@each_channel
async def test_all_of_it_goes_back(till: Till, channel: str) -> None:
    order_id = await till.sold(channel)
    assert (await till.refund(order_id)).status == 201
    (refund,) = await till.until_refund(order_id, "succeeded")
    assert (await till.at_platforms(order_id)) == {refund["refund_id"]: (channel, "succeeded", AMOUNT)}
    order = await till.agreed(order_id)
    assert (order["state"], order["refund_status"], order["refunded_amount"]) == ("paid", "full", AMOUNT)


@each_channel
async def test_parts_add_up_and_never_exceed(till: Till, channel: str) -> None:
    order_id = await till.sold(channel)
    parts = [await till.refund(order_id, amount, f"B{amount}") for amount in (30, 50)]
    assert [part.status for part in parts] == [201, 201]
    (await till.refund(order_id, 21, "B21")).problem(409, "refund_exceeds_paid")
    assert (await till.refund(order_id, 20, "B20")).status == 201
    await till.until_refund(order_id, *["succeeded"] * 3)
    order = await till.agreed(order_id)
    assert (order["refund_status"], order["refunded_amount"]) == ("full", AMOUNT)
    assert sorted(amount for _, _, amount in (await till.at_platforms(order_id)).values()) == [20, 30, 50]


@each_channel
async def test_asked_for_ten_times_at_once_it_goes_back_once(till: Till, channel: str) -> None:
    order_id = await till.sold(channel)
    answers = await asyncio.gather(*(till.refund(order_id) for _ in range(10)))
    assert len({answer.json["refund_id"] for answer in answers}) == 1
    await till.until_refund(order_id, "succeeded")
    await till.agreed(order_id)


@each_channel
async def test_a_second_payment_goes_back_by_itself_where_it_came_from(till: Till, channel: str) -> None:
    order_id = await till.sold_twice(channel, OTHER[channel])
    (refund,) = await till.until_refund(order_id, "succeeded")
    assert (refund["cause"], refund["channel"], refund["out_refund_no"]) == ("excess", channel, None)
    for _ in range(2):
        await till.notify(channel, f"{order_id}02")
    order = await till.agreed(order_id)
    assert (order["state"], order["refund_status"], order["paid_amount"]) == ("paid", "none", AMOUNT)
    assert await till.at_platforms(order_id) == {refund["refund_id"]: (channel, "succeeded", AMOUNT)}
    assert (await till.refund(order_id)).status == 201  # the order's own money is still there to be given back
    await till.until_refund(order_id, "succeeded", "succeeded")
    assert (await till.agreed(order_id))["refund_status"] == "full"


@pytest.mark.parametrize("channel", ["wechatpay", "alipay"])
async def test_a_payment_after_the_close_goes_back_if_the_app_wants_none(till: Till, channel: str) -> None:
    api = till.api
    order_id = (await till.wanted(late_payment="refund"))["order_id"]
    attempt_id = await till.pay(order_id, channel)
    assert (await api.close(order_id)).json["state"] == "closed"
    await till.somebody_pays(channel, attempt_id)
    (refund,) = await till.until_refund(order_id, "succeeded")
    assert refund["cause"] == "late"
    assert (await till.agreed(order_id))["state"] == "closed"


# --- answers and notifications


@each_channel
async def test_if_no_answer_gets_through_the_notification_moves_it(till: Till, channel: str) -> None:
    """The refund was executed; what was answered, to it and to every question about it, is a 500."""
    order_id = await till.sold(channel)
    async with till.faults(channel, error_after=1.0):
        assert (await till.refund(order_id, 40)).status in (201, 202), "the notification may be here before we answer"
        await till.until_refund(order_id, "succeeded")
    last = (await till.api.timeline(order_id))[-1]
    assert (last["type"], last["evidence"]["source"]) == ("RefundReported", "notification")
    await till.agreed(order_id)


async def test_alipay_tells_of_all_of_it_as_the_end_of_the_trade(till: Till) -> None:
    order_id = await till.sold("alipay")
    async with till.faults("alipay", error_after=1.0, closed_notice=1.0):
        await till.refund(order_id)
        await till.until_refund(order_id, "succeeded")
    assert (await till.agreed(order_id))["refund_status"] == "full"


LOST = {"error_after": 0.6, "timeout": 0.4, "slow": 1.0, "rate_limited": 0.6}


@pytest.mark.parametrize("fault", LOST)
async def test_a_refund_whose_answers_are_lost_is_found_by_asking(till: Till, fault: str) -> None:
    async with asyncio.TaskGroup() as together:
        for channel in CHANNELS:
            together.create_task(given_back_in_spite_of(till, channel, slow_s=0.8, **{fault: LOST[fault]}))


async def test_lies_about_a_refund_are_not_believed(till: Till) -> None:
    """Executed, and answered that it failed, under signatures that are none."""
    async with asyncio.TaskGroup() as together:
        for channel, lies in LIES.items():
            together.create_task(given_back_in_spite_of(till, channel, **dict.fromkeys(lies, 0.7 / len(lies))))


async def given_back_in_spite_of(till: Till, channel: str, **faults: float) -> None:
    """Whatever the platform answers, and although it tells nothing by itself."""
    order_ids = [await till.sold(channel) for _ in range(3)]
    async with till.faults(channel, drop=1.0, **faults):
        await asyncio.gather(*(till.refund(order_id) for order_id in order_ids))
        for order_id in order_ids:
            await till.until_refund(order_id, "succeeded")
    for order_id in order_ids:
        await till.agreed(order_id)


@each_channel
async def test_a_refund_that_never_arrived_is_sent_again_under_its_number(till: Till, channel: str) -> None:
    order_id = await till.sold(channel)
    async with till.faults(channel, error_before=1.0):
        answer = await till.refund(order_id)
        assert (answer.status, answer.json["state"]) == (202, "unknown")
        assert await till.at_platforms(order_id) == {}
    await till.until_refund(order_id, "succeeded")
    assert list(await till.at_platforms(order_id)) == [answer.json["refund_id"]]
    await till.agreed(order_id)


@each_channel
async def test_told_again_and_again_it_is_one_refund(till: Till, channel: str) -> None:
    order_id = await till.sold(channel)
    async with till.faults(channel, duplicate=1.0):
        refund_id = (await till.refund(order_id, 40)).json["refund_id"]
        await till.until_refund(order_id, "succeeded")
        before = (await till.api.get(order_id))["version"]
        assert [await till.notify(channel, f"{order_id}01", refund_id) for _ in range(3)] == [200] * 3
    assert (await till.agreed(order_id))["version"] == before


SLOW_TO_SAY = {
    "wechatpay": {"drop": 1.0},
    "alipay": {"no_fund_change": 1.0, "refund_unseen": 0.7, "drop": 1.0},
    "unionpay": {"refund_pending": 1.0, "drop": 1.0},
}


@each_channel
async def test_what_its_platform_is_still_at_is_asked_after(till: Till, channel: str) -> None:
    order_id = await till.sold(channel)
    async with till.faults(channel, **SLOW_TO_SAY[channel]):
        answer = await till.refund(order_id)
        assert answer.json["state"] in ("processing", "unknown", "submitting", "succeeded")
        await till.until_refund(order_id, "succeeded")
    await till.agreed(order_id)


# --- a no, and people

NO = {"wechatpay": "not_enough", "alipay": "not_enough"}
FAILS = {"wechatpay": "refund_closed", "unionpay": "refund_failed"}


@pytest.mark.parametrize("channel", NO)
async def test_a_refusal_is_told_and_makes_room(till: Till, channel: str) -> None:
    order_id = await till.sold(channel)
    async with till.faults(channel, **{NO[channel]: 1.0}):
        (await till.refund(order_id)).problem(422, "refund_refused")
    assert (await till.agreed(order_id))["refunded_amount"] == 0
    assert (await till.refund(order_id, number="B2")).status == 201
    await till.until_refund(order_id, "failed", "succeeded")
    assert (await till.agreed(order_id))["refund_status"] == "full"


@pytest.mark.parametrize("channel", FAILS)
async def test_what_fails_after_it_was_taken_is_told_and_makes_room(till: Till, channel: str) -> None:
    order_id = await till.sold(channel)
    async with till.faults(channel, **{FAILS[channel]: 1.0}):
        assert (await till.refund(order_id)).status == 201
        await till.until_refund(order_id, "failed")
    assert (await till.agreed(order_id))["refunded_amount"] == 0
    assert (await till.refund(order_id, number="B2")).status == 201
    await till.until_refund(order_id, "failed", "succeeded")
    await till.agreed(order_id)


@pytest.mark.parametrize("channel", NO)
async def test_an_excess_that_was_refused_is_given_back_when_people_say_so(till: Till, channel: str) -> None:
    async with till.faults(channel, **{NO[channel]: 1.0}):
        order_id = await till.sold_twice(channel, OTHER[channel])
        await till.until_refund(order_id, "failed")
    (case,) = await till.cases(order_id)
    assert case["reason"] == "refund_failed"
    assert (await till.resolve(case, "retry")).status == 200
    await till.until_refund(order_id, "succeeded")
    await till.agreed(order_id)
    assert await till.cases(order_id) == []


@pytest.mark.parametrize("channel", FAILS)
async def test_an_excess_whose_refund_failed_is_given_back_when_people_say_so(till: Till, channel: str) -> None:
    """The platform never moves money under a number that has failed there: it takes another one."""
    async with till.faults(channel, **{FAILS[channel]: 1.0}):
        order_id = await till.sold_twice(channel, OTHER[channel])
        await till.until_refund(order_id, "failed")
    (case,) = await till.cases(order_id)
    assert case["reason"] == "refund_failed"
    assert (await till.resolve(case, "retry")).status == 200
    await till.until_refund(order_id, "failed", "succeeded")
    await till.agreed(order_id)
    assert await till.cases(order_id) == []


async def test_an_abnormal_refund_is_for_people_and_ends_when_the_platform_says_so(till: Till) -> None:
    order_id = await till.sold("wechatpay")
    async with till.faults("wechatpay", refund_abnormal=1.0):
        await till.refund(order_id)
        (refund,) = await till.until_refund(order_id, "abnormal")
    (case,) = await till.cases(order_id)
    assert case["reason"] == "refund_abnormal"
    await till.settle(refund, 1, "succeeded")
    await till.until_refund(order_id, "succeeded")
    await till.agreed(order_id)
    assert await till.cases(order_id) == []


@pytest.mark.parametrize("channel", FAILS)
async def test_money_that_came_back_after_all_is_a_reversal_and_for_people(till: Till, channel: str) -> None:
    order_id = await till.sold(channel)
    await till.refund(order_id)
    (refund,) = await till.until_refund(order_id, "succeeded")
    await till.settle(refund, 1, "failed")
    await till.until_refund(order_id, "reversed")
    assert [case["reason"] for case in await till.cases(order_id)] == ["refund_reversed"]
    order = await till.agreed(order_id)
    assert (order["refund_status"], order["refunded_amount"]) == ("none", 0)
