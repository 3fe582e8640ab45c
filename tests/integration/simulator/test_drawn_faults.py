"""Faults are drawn from a seed, share by share, and are switched while the simulator runs."""

import asyncio

import pytest

from channels.simulator.faults import Faults, draw, plan_notification, request_fault, slow_for_s
from channels.simulator.payers import Payers, pays_after_s
from channels.simulator.wechat import REQUEST_FAULTS
from channels.simulator.wechat_faults import WechatFaults
from channels.wechatpay import WeChatPay
from tests.integration.simulator.wechat_accounts import channel_of, mchid_of
from tests.integration.simulator.wire import AT_ONCE, WITHIN_S, Wire, inbox, simulator


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
def test_a_share_is_met_over_many_subjects(share):
    plans = [plan_notification(Faults(drop=share), (), 7, f"thing {number}#0") for number in range(4000)]
    assert abs(sum(plan.dropped for plan in plans) / 4000 - share) < 0.03


def test_the_seed_decides_and_different_seeds_decide_differently():
    faults = Faults(drop=0.5, duplicate=0.5, delay_s=3, tamper=0.5, out_of_order=0.5)
    plans = [[plan_notification(faults, ("tamper",), seed, f"thing {n}#0") for n in range(50)] for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]
    assert all(0 <= plan.delay_s < 3 for plan in plans[0])
    assert {plan.false_starts for plan in plans[0]} == {(), ("tamper",)}


def test_one_request_meets_at_most_one_fault_and_a_repetition_draws_again():
    faults = WechatFaults(**dict.fromkeys(REQUEST_FAULTS, 0.1))
    drawn = {request_fault(faults, REQUEST_FAULTS, 1, "thing#0", "query", call) for call in range(400)}
    assert drawn == {None, *REQUEST_FAULTS}
    assert request_fault(WechatFaults(), REQUEST_FAULTS, 1, "thing#0", "query", 1) is None


def test_slowness_stays_within_its_bound():
    faults = Faults(slow=0.5, slow_s=2.0)
    waits = [slow_for_s(faults, 1, f"thing {number}#0", "query", 1) for number in range(500)]
    assert 0.4 < sum(wait > 0 for wait in waits) / 500 < 0.6
    assert max(waits) < 2.0


def test_payers_turn_up_at_their_rate_and_within_their_time():
    payers = Payers(rate=0.95, after_min_s=0.2, after_max_s=3.0)
    drawn = [pays_after_s(payers, 1, f"thing {number}#0") for number in range(4000)]
    paying = [after for after in drawn if after is not None]
    assert abs(len(paying) / 4000 - 0.95) < 0.02
    assert 0.2 <= min(paying) < max(paying) <= 3.0
    assert pays_after_s(payers, 1, "thing 5#0") == pays_after_s(payers, 1, "thing 5#0")


def test_draws_are_even():
    drawn = [draw(1, "x", str(number)) for number in range(10_000)]
    assert abs(sum(drawn) / 10_000 - 0.5) < 0.02


async def test_same_things_sold_by_two_merchants_meet_the_same_faults_and_payers(folder, keys):
    ours, theirs = channel_of(keys[1]["holdfast"]), channel_of(keys[1]["control"])
    payers = Payers(rate=0.5, after_min_s=0.0, after_max_s=0.1)
    faults = {"drop": 0.5, "error_before": 0.2, "error_after": 0.2}
    async with inbox(ours) as box, simulator(folder, ours, faults=faults, payers=payers) as wire:
        other = Wire(wire._session, wire.url, theirs)
        for number in range(40):
            subject = f"sold by both {number}"
            mine = await wire.pay(f"TRADE{number:04d}", box.url, subject=subject)
            assert type(mine) is type(await other.pay(f"T-{number:06d}", box.url, subject=subject))
        async with asyncio.timeout(WITHIN_S):
            while True:
                shown = await fates(wire, ours)
                if shown == await fates(wire, theirs) and ("paid", True) in shown.values():
                    break
                await asyncio.sleep(0.05)
        assert {state for state, _ in shown.values()} == {"paid", "waiting"}


async def fates(wire: Wire, of: WeChatPay) -> dict[str, tuple[str, bool]]:
    trades = await wire.steer(f"/_sim/trades?merchant={mchid_of(of)}")
    return {trade["description"]: (trade["state"], trade["dropped"]) for trade in trades}


async def test_the_same_thing_sold_again_draws_again_also_after_a_restart(folder, channel):
    faults, shown = {"drop": 0.5}, []
    async with inbox(channel) as box:
        for start in (0, 10):
            async with simulator(folder, channel, faults=faults, payers=AT_ONCE) as wire:
                for number in range(start, start + 10):
                    await wire.pay(f"TRADE{number:04d}", box.url, subject="coffee")
                    await wire.until_paid(f"TRADE{number:04d}")
                shown = [trade["dropped"] for trade in await wire.steer("/_sim/trades")]
    plans = [plan_notification(Faults(drop=0.5), (), 1, f"coffee#{number}") for number in range(20)]
    assert shown == [plan.dropped for plan in plans]
    assert set(shown) == {True, False}


async def test_faults_and_payers_are_switched_while_running_and_mistakes_are_named(folder, channel):
    async with simulator(folder, channel) as wire:
        assert (await wire.steer("/_faults", {"drop": 0.25}))["wechatpay"]["drop"] == 0.25
        assert (await wire.steer("/_faults", {"wechatpay": {"duplicate": 0.5}}))["wechatpay"]["drop"] == 0.25
        assert "nonsense" in (await wire.steer("/_faults", {"nonsense": 1}))["error"]
        assert "nonsense" in (await wire.steer("/_faults", {"nonsense": {"drop": 1}}))["error"]
        assert "$.drop" in (await wire.steer("/_faults", {"drop": 2}))["error"]
        assert (await wire.steer("/_sim/payers", {"rate": 0.5}))["rate"] == 0.5
        assert "error" in await wire.steer("/_sim/payers", {"rate": "all"})
        assert (await wire.steer("/_faults"))["wechatpay"]["drop"] == 0.25
