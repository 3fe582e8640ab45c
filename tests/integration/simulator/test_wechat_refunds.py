"""Refunds at the simulated WeChat Pay: what is taken on, what becomes of it, who is told, and what the limits are."""

import json
import time
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from channels.contract import (
    ChannelRefund,
    NotFound,
    Paid,
    RefundKey,
    RefundKnown,
    RefundRequest,
    RefundState,
    Refused,
    Unknown,
)
from tests.integration.simulator.wechat_accounts import payer, resigned
from tests.integration.simulator.wire import Inbox, Wire, inbox, ledger, simulator, stamp

NUMBER = "TRADE0001"
LATER = 3600.0  # refunds that no test waits for


class Shop:
    """A trade of 100 that was paid, and refunds of it."""

    def __init__(self, wire: Wire, box: Inbox, transaction: str) -> None:
        self.wire = wire
        self.box = box
        self.transaction = transaction

    def request(self, refund_no: str = "R00000001", amount: int = 30, **how: object) -> RefundRequest:
        key = RefundKey(refund_no, int(time.time()), NUMBER, self.transaction)
        return RefundRequest(key, amount, 100, "CNY", how.get("reason", "商品已售完"), self.box.url)

    async def refund(self, *args: object, **how: object) -> object:
        return await self.wire.refund(self.request(*args, **how))

    async def told(self) -> ChannelRefund:
        told = (await self.box.next()).payment
        assert isinstance(told, ChannelRefund)
        return told


@pytest.fixture
async def shop(request, folder, channel) -> AsyncIterator[Shop]:
    """Parametrized by how long refunds take, if they shall."""
    after_s = getattr(request, "param", 0.05)
    async with inbox(channel) as box, simulator(folder, channel, refund_after_s=after_s) as wire:
        await wire.pay(NUMBER, box.url)
        await wire.steer("/_sim/pay", payer(channel, NUMBER))
        yield Shop(wire, box, (await box.next()).payment.channel_transaction)


slow = pytest.mark.parametrize("shop", [LATER], indirect=True)


def state(outcome: object) -> RefundState:
    assert isinstance(outcome, RefundKnown), outcome
    return outcome.refund.state


# --- what becomes of it


async def test_a_refund_is_taken_on_succeeds_and_is_told(shop, channel):
    accepted = await shop.refund()
    assert state(accepted) is RefundState.PROCESSING
    told = await shop.told()
    assert told.state is RefundState.SUCCEEDED
    assert (told.amount, told.currency, told.account) == (30, "CNY", channel.account)
    assert (told.refund_no, told.out_trade_no) == ("R00000001", NUMBER)
    assert told.channel_refund == accepted.refund.channel_refund
    assert abs(told.success_at_s - time.time()) < 5
    assert await shop.wire.query_refund(shop.request().refund) == RefundKnown(told)


@pytest.mark.parametrize(
    ("fault", "expected"), [("refund_closed", RefundState.FAILED), ("refund_abnormal", RefundState.ABNORMAL)]
)
async def test_a_refund_can_come_to_nothing(shop, fault, expected):
    await shop.wire.steer("/_faults", {fault: 1.0})
    await shop.refund()
    told = await shop.told()
    assert (told.state, told.success_at_s) == (expected, None)
    assert await shop.wire.query_refund(shop.request().refund) == RefundKnown(told)
    await shop.wire.steer("/_faults", {fault: 0.0})
    assert state(await shop.refund()) is expected  # this number stays what it is
    if expected is RefundState.FAILED:
        await shop.refund("R00000002", 100)  # and its amount is free again
        assert (await shop.told()).state is RefundState.SUCCEEDED
    else:
        assert isinstance(await shop.refund("R00000002", 71), Refused)


async def test_an_abnormal_refund_succeeds_once_somebody_helps(shop, channel):
    await shop.wire.steer("/_faults", {"refund_abnormal": 1.0})
    await shop.refund()
    abnormal = await shop.told()
    target = f"/v3/refund/domestic/refunds/{abnormal.channel_refund}/apply-abnormal-refund"
    body = {"out_refund_no": "R00000001", "type": "MERCHANT_BANK_CARD"}
    answer = await shop.wire.send(resigned(channel, "POST", target, body))
    assert (answer.status, json.loads(answer.body)["status"]) == (200, "PROCESSING")
    assert (await shop.told()).state is RefundState.SUCCEEDED
    assert (await shop.wire.send(resigned(channel, "POST", target, body))).status == 400


async def test_a_refunded_trade_is_paid_and_says_so(shop, channel):
    paid = await shop.wire.query(NUMBER)
    await shop.refund()
    await shop.told()
    assert await shop.wire.query(NUMBER) == paid
    assert isinstance(paid, Paid)
    target = f"/v3/pay/transactions/out-trade-no/{NUMBER}?mchid={channel.account.split('/')[0]}"
    stated = json.loads((await shop.wire.send(resigned(channel, "GET", target))).body)
    assert (stated["trade_state"], stated["amount"]["total"]) == ("REFUND", 100)


async def test_a_refund_under_way_is_settled_after_a_restart(folder, channel):
    async with inbox(channel) as box:
        async with simulator(folder, channel, refund_after_s=LATER) as wire:
            await wire.pay(NUMBER, box.url)
            await wire.steer("/_sim/pay", payer(channel, NUMBER))
            shop = Shop(wire, box, (await box.next()).payment.channel_transaction)
            await shop.refund()
        assert [line["kind"] for line in ledger(folder)] == ["opened", "paid", "notified", "refund_opened"]
        async with simulator(folder, channel) as wire:
            assert (await shop.told()).state is RefundState.SUCCEEDED


async def test_a_refund_without_an_address_is_told_to_nobody(shop, channel):
    body = {"transaction_id": shop.transaction, "out_refund_no": "R00000001"}
    body["amount"] = {"refund": 1, "total": 100, "currency": "CNY"}
    answer = await shop.wire.send(resigned(channel, "POST", "/v3/refund/domestic/refunds", body))
    assert answer.status == 200
    await shop.refund("R00000002")
    assert (await shop.told()).refund_no == "R00000002"
    assert shop.box.empty()


# --- again, and again with something else


@slow
async def test_the_same_refund_again_is_the_same_refund(shop, folder):
    first, again = await shop.refund(), await shop.refund()
    assert first == again
    assert len([line for line in ledger(folder) if line["kind"] == "refund_opened"]) == 1


@slow
@pytest.mark.parametrize("change", [{"amount": 31}, {"reason": "other"}])
async def test_the_same_number_with_something_else_is_no_other_refund(shop, change):
    """The platform refuses it, our channel asks and finds the first one: whoever asked compares the amounts."""
    await shop.refund()
    again = await shop.refund(**change)
    assert state(again) is RefundState.PROCESSING
    assert again.refund.amount == 30


@slow
async def test_an_unanswered_refund_was_taken_on(shop):
    await shop.wire.steer("/_faults", {"error_after": 1.0})
    assert isinstance(await shop.refund(), Unknown)
    await shop.wire.steer("/_faults", {"error_after": 0.0})
    assert state(await shop.wire.query_refund(shop.request().refund)) is RefundState.PROCESSING
    assert state(await shop.refund()) is RefundState.PROCESSING


@pytest.mark.parametrize("fault", ["answer_probe", "answer_unsigned", "answer_tamper"])
async def test_a_lie_about_a_refund_is_not_believed(shop, fault):
    await shop.wire.steer("/_faults", {fault: 1.0})
    assert isinstance(await shop.refund(), Unknown)
    assert isinstance(await shop.wire.query_refund(shop.request().refund), Unknown)
    await shop.wire.steer("/_faults", {fault: 0.0})
    assert (await shop.told()).state is RefundState.SUCCEEDED


@pytest.mark.parametrize("fault", ["tamper", "probe", "stale", "wrong_serial"])
async def test_a_wrong_notification_of_a_refund_comes_before_the_genuine_one(shop, fault):
    await shop.wire.steer("/_faults", {fault: 1.0})
    await shop.refund()
    assert (await shop.box.next()).payment is None
    assert (await shop.told()).state is RefundState.SUCCEEDED


# --- limits


async def test_what_was_never_asked_for_is_not_found(shop):
    assert await shop.wire.query_refund(shop.request().refund) == NotFound()


@slow
async def test_no_more_goes_back_than_was_paid(shop):
    assert state(await shop.refund("R00000001", 60)) is RefundState.PROCESSING
    refused = await shop.refund("R00000002", 41)
    assert isinstance(refused, Refused)
    assert refused.code == "INVALID_REQUEST"
    assert state(await shop.refund("R00000003", 40)) is RefundState.PROCESSING
    assert isinstance(await shop.refund("R00000004", 1), Refused)


@slow
async def test_a_trade_is_refunded_at_most_fifty_times(shop):
    for number in range(50):
        assert state(await shop.refund(f"R{number:08d}", 1)) is RefundState.PROCESSING
    assert isinstance(await shop.refund("R00000050", 1), Refused)


@slow
async def test_a_second_refund_within_a_minute_can_be_too_early(shop):
    await shop.wire.steer("/_faults", {"refund_minute": 1.0})
    assert state(await shop.refund("R00000001", 1)) is RefundState.PROCESSING
    early = await shop.refund("R00000002", 1)
    assert isinstance(early, Unknown)
    assert "FREQUENCY_LIMITED" in early.reason
    assert await shop.wire.query_refund(shop.request("R00000002").refund) == NotFound()


@slow
async def test_money_that_is_not_there_is_refused_this_time(shop):
    await shop.wire.steer("/_faults", {"not_enough": 1.0})
    refused = await shop.refund()
    assert isinstance(refused, Refused)
    assert refused == Refused("NOT_ENOUGH", "基本账户余额不足，请充值后重新发起")
    await shop.wire.steer("/_faults", {"not_enough": 0.0})
    assert state(await shop.refund()) is RefundState.PROCESSING


@slow
async def test_what_was_not_paid_or_is_another_s_can_not_be_refunded(shop, control):
    await shop.wire.pay("TRADE0002", shop.box.url)
    unpaid = replace(shop.request(), refund=RefundKey("R00000001", 0, "TRADE0002", ""))
    assert (await shop.wire.refund(unpaid)).code == "RESOURCE_NOT_EXISTS"
    unknown = replace(shop.request(), refund=RefundKey("R00000001", 0, "TRADE0001", "4200000000"))
    assert (await shop.wire.refund(unknown)).code == "RESOURCE_NOT_EXISTS"
    theirs = Wire(shop.wire._session, shop.wire.url, control)
    assert (await theirs.refund(shop.request())).code == "RESOURCE_NOT_EXISTS"
    assert (await shop.wire.refund(replace(shop.request(), total=99))).code == "INVALID_REQUEST"


async def test_a_trade_of_more_than_a_year_ago_can_not_be_refunded(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel) as wire:
        await wire.pay(NUMBER, box.url)
        await wire.steer("/_sim/pay", payer(channel, NUMBER))
        await box.next()
    lines = ledger(folder)
    lines[1]["success_at"] -= 366 * 86400
    (folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    async with inbox(channel) as box, simulator(folder, channel) as wire:
        refused = await Shop(wire, box, lines[1]["transaction"]).refund()
        assert isinstance(refused, Refused)
        assert "一年" in refused.message


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"amount": {"refund": 30, "total": 100}},
        {"amount": {"refund": 30, "total": 100, "currency": "USD"}},
        {"amount": {"refund": 0, "total": 100, "currency": "CNY"}},
        {"transaction_id": ""},
        {"out_refund_no": "a b"},
        {"out_refund_no": "x" * 65},
        {"reason": "好" * 27},
        {"notify_url": "https://e.com/?a=1"},
    ],
)
async def test_a_refund_the_platform_does_not_take_makes_nothing(shop, channel, folder, change):
    request = next(channel.refund(shop.request(), stamp()))
    body = {**json.loads(request.body), **change}
    answer = await shop.wire.send(resigned(channel, "POST", request.target, body))
    assert (answer.status, json.loads(answer.body)["code"]) == (400, "PARAM_ERROR")
    assert not [line for line in ledger(folder) if line["kind"] == "refund_opened"]
