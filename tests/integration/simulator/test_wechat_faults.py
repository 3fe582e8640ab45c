"""Every fault of the simulated WeChat Pay can be seen, and our channel believes nothing that it should not."""

import asyncio
import json

import pytest

from channels.contract import Accepted, AlreadyPaid, ClosedAtChannel, NotFound, NotPaid, Paid, Unknown
from channels.simulator.faults import Faults, plan_notification, slow_for_s
from channels.simulator.payers import Payers
from channels.simulator.wechat import LIES
from tests.integration.simulator.wechat_accounts import payer
from tests.integration.simulator.wire import AT_ONCE, attempt, inbox, ledger, payment, simulator, stamp

# --- notifications


async def test_a_dropped_notification_never_arrives_and_the_ledger_says_so(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel, faults={"drop": 1.0}, payers=AT_ONCE) as wire:
        await wire.pay("TRADE0001", box.url)
        await wire.until_paid("TRADE0001")
        await wire.steer("/_faults", {"drop": 0.0})
        await wire.pay("TRADE0002", box.url)
        assert (await box.next()).payment.out_trade_no == "TRADE0002"
        assert box.empty()
    assert [line["out_trade_no"] for line in ledger(folder) if line["kind"] == "notification_dropped"] == ["TRADE0001"]


async def test_a_refused_notification_comes_again_newly_stamped_until_it_is_acknowledged(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel, payers=AT_ONCE) as wire:
        box.failures_left = 3
        await wire.pay("TRADE0001", box.url)
        received = [await box.next() for _ in range(4)]
        assert [each.status for each in received] == [503, 503, 503, 200]
        assert len({each.body for each in received}) == 1
        assert len({each.headers["wechatpay-nonce"] for each in received}) == 4


async def test_a_duplicated_notification_comes_again_after_it_was_acknowledged(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel, faults={"duplicate": 1.0}, payers=AT_ONCE) as wire:
        await wire.pay("TRADE0001", box.url)
        first, second = await box.next(), await box.next()
        assert first.status == 200
        assert first.payment == second.payment


FALSE_STARTS = {
    "tamper": {"bad_signature", "malformed", "unknown_key"},
    "probe": {"signature_probe"},
    "stale": {"stale"},
    "wrong_serial": {"unknown_key"},
}


@pytest.mark.parametrize("fault", FALSE_STARTS)
async def test_a_wrong_notification_comes_first_and_the_genuine_one_follows(folder, channel, fault):
    async with inbox(channel) as box, simulator(folder, channel, faults={fault: 1.0}, payers=AT_ONCE) as wire:
        for number in range(6):
            await wire.pay(f"TRADE{number:04d}", box.url)
            wrong, genuine = await box.next(), await box.next()
            assert wrong.payment is None
            assert wrong.reason in FALSE_STARTS[fault]
            assert genuine.payment.out_trade_no == f"TRADE{number:04d}"


async def test_a_later_notification_overtakes_an_earlier_one(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel, faults={"out_of_order": 1.0}, payers=AT_ONCE) as wire:
        await wire.pay("TRADE0001", box.url)
        await wire.until_paid("TRADE0001")
        await wire.steer("/_faults", {"out_of_order": 0.0})
        await wire.pay("TRADE0002", box.url)
        order = [(await box.next()).payment.out_trade_no for _ in range(2)]
        assert order == ["TRADE0002", "TRADE0001"]


async def test_a_delayed_notification_comes_after_its_delay(folder, channel):
    delay_s = plan_notification(Faults(delay_s=1.0), (), 1, "thing TRADE0001#0").delay_s
    async with inbox(channel) as box, simulator(folder, channel, faults={"delay_s": 1.0}, payers=AT_ONCE) as wire:
        await wire.pay("TRADE0001", box.url)
        await wire.until_paid("TRADE0001")
        paid_at = asyncio.get_running_loop().time()
        await box.next()
        assert asyncio.get_running_loop().time() - paid_at > delay_s - 0.2


async def test_a_test_can_send_any_variant_and_sees_the_answer(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel, payers=AT_ONCE) as wire:
        await wire.pay("TRADE0001", box.url)
        await box.next()
        for variant in ("", *FALSE_STARTS):
            answer = await wire.steer("/_sim/notify", payer(channel, "TRADE0001", variant=variant))
            assert answer["status"] == (400 if variant else 200)
            assert json.loads(answer["body"])["code"] == ("FAIL" if variant else "SUCCESS")


# --- requests


async def test_an_error_before_leaves_nothing_and_an_error_after_leaves_the_trade(folder, channel):
    async with simulator(folder, channel, faults={"error_before": 1.0}) as wire:
        assert isinstance(await wire.pay("TRADE0001"), Unknown)
        await wire.steer("/_faults", {"error_before": 0.0})
        assert await wire.query("TRADE0001") == NotFound()
        await wire.steer("/_faults", {"error_after": 1.0})
        assert isinstance(await wire.pay("TRADE0001"), Unknown)
        assert isinstance(await wire.close("TRADE0002"), NotFound)
        await wire.steer("/_faults", {"error_after": 0.0})
        assert await wire.query("TRADE0001") == NotPaid()
        await wire.steer("/_faults", {"error_after": 1.0})
        assert isinstance(await wire.close("TRADE0001"), Unknown)
        await wire.steer("/_faults", {"error_after": 0.0})
        assert await wire.query("TRADE0001") == ClosedAtChannel()


async def test_nobody_pays_a_code_that_was_never_shown(folder, channel):
    async with simulator(folder, channel, faults={"error_after": 1.0}, payers=AT_ONCE) as wire:
        assert isinstance(await wire.pay("TRADE0001"), Unknown)
        await wire.steer("/_faults", {"error_after": 0.0})
        assert await wire.query("TRADE0001") == NotPaid()
        assert isinstance(await wire.pay("TRADE0001"), Accepted)
        await wire.until_paid("TRADE0001")


async def test_an_unanswered_request_was_executed(folder, channel):
    async with simulator(folder, channel, faults={"timeout": 1.0}) as wire:
        outcome = await wire.run(channel.query(attempt("TRADE0001"), stamp()), timeout_s=0.3)
        assert isinstance(outcome, NotFound)  # a refusal is an answer: only what was executed can stay silent
        outcome = await wire.run(channel.pay(payment("TRADE0001", "http://127.0.0.1:9/none"), stamp()), timeout_s=0.3)
        assert isinstance(outcome, Unknown)
        await wire.steer("/_faults", {"timeout": 0.0})
        assert await wire.query("TRADE0001") == NotPaid()


@pytest.mark.parametrize(("fault", "status"), [("rate_limited", 429), ("accepted", 202)])
async def test_a_request_put_off_is_unknown_and_was_not_executed(folder, channel, fault, status):
    async with simulator(folder, channel, faults={fault: 1.0}) as wire:
        outcome = await wire.pay("TRADE0001")
        assert isinstance(outcome, Unknown)
        assert outcome.reason.startswith(f"status {status}")
        await wire.steer("/_faults", {fault: 0.0})
        assert await wire.query("TRADE0001") == NotFound()


async def test_a_slow_answer_takes_its_time(folder, channel):
    faults = Faults(slow=1.0, slow_s=0.6)
    expected_s = slow_for_s(faults, 1, "thing TRADE0001#0", "prepay", 1)
    async with simulator(folder, channel, faults={"slow": 1.0, "slow_s": 0.6}) as wire:
        began = asyncio.get_running_loop().time()
        assert isinstance(await wire.pay("TRADE0001"), Accepted)
        assert asyncio.get_running_loop().time() - began >= expected_s > 0


@pytest.mark.parametrize("fault", LIES)
async def test_a_lie_under_a_wrong_signature_is_believed_by_no_verb(folder, channel, fault):
    async with simulator(folder, channel, faults={fault: 1.0}) as wire:
        for number in ("TRADE0001", "TRADE0002", "TRADE0003"):  # the flipped bit falls on another place each time
            outcomes = [await wire.pay(number), await wire.query(number), await wire.close(number)]
            assert [type(each) for each in outcomes] == [Unknown] * 3
            assert "not believed" in outcomes[1].reason
        assert isinstance(await wire.statement("2020-01-01"), Unknown)
        await wire.steer("/_faults", {fault: 0.0})
        assert await wire.query("TRADE0001") == ClosedAtChannel()  # it was executed all the same


async def test_a_payment_can_arrive_just_behind_a_close(folder, channel):
    late = Payers(rate=1.0, after_min_s=30.0, after_max_s=30.0)
    async with (
        inbox(channel) as box,
        simulator(folder, channel, faults={"close_overtaken": 1.0}, payers=late) as wire,
    ):
        await wire.pay("TRADE0001", box.url)
        assert await wire.close("TRADE0001") == ClosedAtChannel()
        told = (await box.next()).payment
        assert await wire.query("TRADE0001") == Paid(told)


async def test_a_payer_can_be_faster_than_a_close(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel, faults={"close_race": 1.0}) as wire:
        await wire.pay("TRADE0001", box.url)
        assert await wire.close("TRADE0001") == AlreadyPaid()
        assert await wire.query("TRADE0001") == Paid((await box.next()).payment)
