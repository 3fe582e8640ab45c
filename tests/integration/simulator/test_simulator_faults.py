"""Every fault of the simulator can be seen, is drawn from the seed, and can be switched while it runs."""

import asyncio

import pytest

from channels.contract import Accepted, ClosedAtChannel, NotFound, NotPaid, Unknown
from channels.simulator.faults import (
    Faults,
    RequestFault,
    Variant,
    draw,
    plan_notification,
    request_fault,
    slow_for_s,
)
from channels.simulator.payers import Payers, pays_after_s
from channels.wechatpay import WeChatPay
from tests.integration.simulator.wechat_wire import (
    AT_ONCE,
    WITHIN_S,
    Wire,
    channel_of,
    inbox,
    ledger,
    prepay,
    simulator,
    stamp,
)

# --- drawn


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
def test_a_share_is_met_over_many_subjects(share):
    plans = [plan_notification(Faults(drop=share), 7, f"thing {number}#0") for number in range(4000)]
    assert abs(sum(plan.dropped for plan in plans) / 4000 - share) < 0.03


def test_the_seed_decides_and_different_seeds_decide_differently():
    faults = Faults(drop=0.5, duplicate=0.5, delay_s=3, tamper=0.5, out_of_order=0.5)
    plans = [[plan_notification(faults, seed, f"thing {n}#0") for n in range(50)] for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]
    assert all(0 <= plan.delay_s < 3 for plan in plans[0])


def test_one_request_meets_at_most_one_fault_and_a_repetition_draws_again():
    faults = Faults(error_before=0.2, error_after=0.2, timeout=0.2, rate_limited=0.2, accepted=0.2)
    drawn = {request_fault(faults, 1, "thing#0", "query", call) for call in range(200)}
    assert drawn == set(RequestFault)
    assert request_fault(Faults(), 1, "thing#0", "query", 1) is None


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


# --- seen: notifications


async def test_a_dropped_notification_never_arrives_and_the_ledger_says_so(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel, faults=Faults(drop=1.0), payers=AT_ONCE) as wire:
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
    async with inbox(channel) as box, simulator(folder, channel, faults=Faults(duplicate=1.0), payers=AT_ONCE) as wire:
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
    faults = Faults(**{fault: 1.0})
    async with inbox(channel) as box, simulator(folder, channel, faults=faults, payers=AT_ONCE) as wire:
        for number in range(6):
            await wire.pay(f"TRADE{number:04d}", box.url)
            wrong, genuine = await box.next(), await box.next()
            assert wrong.payment is None
            assert wrong.reason in FALSE_STARTS[fault]
            assert genuine.payment.out_trade_no == f"TRADE{number:04d}"


async def test_a_later_notification_overtakes_an_earlier_one(folder, channel):
    faults = Faults(out_of_order=1.0)
    async with inbox(channel) as box, simulator(folder, channel, faults=faults, payers=AT_ONCE) as wire:
        await wire.pay("TRADE0001", box.url)
        await wire.until_paid("TRADE0001")
        await wire.steer("/_faults", {"out_of_order": 0.0})
        await wire.pay("TRADE0002", box.url)
        order = [(await box.next()).payment.out_trade_no for _ in range(2)]
        assert order == ["TRADE0002", "TRADE0001"]


async def test_a_delayed_notification_comes_after_its_delay(folder, channel):
    delay_s = plan_notification(Faults(delay_s=1.0), 1, "thing TRADE0001#0").delay_s
    async with inbox(channel) as box, simulator(folder, channel, faults=Faults(delay_s=1.0), payers=AT_ONCE) as wire:
        await wire.pay("TRADE0001", box.url)
        await wire.until_paid("TRADE0001")
        paid_at = asyncio.get_running_loop().time()
        await box.next()
        assert asyncio.get_running_loop().time() - paid_at > delay_s - 0.2


async def test_a_test_can_send_any_variant_and_sees_the_answer(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel, payers=AT_ONCE) as wire:
        await wire.pay("TRADE0001", box.url)
        await box.next()
        order = {"mchid": channel.account.split("/")[0], "out_trade_no": "TRADE0001"}
        for variant in Variant:
            answer = await wire.steer("/_sim/notify", {**order, "variant": variant})
            assert answer == {"status": 200 if variant is Variant.GENUINE else 400}


async def test_same_things_sold_by_two_merchants_meet_the_same_faults_and_payers(folder, keys):
    ours, theirs = channel_of(keys[1]["holdfast"]), channel_of(keys[1]["control"])
    payers = Payers(rate=0.5, after_min_s=0.0, after_max_s=0.1)
    faults = Faults(drop=0.5, error_before=0.2, error_after=0.2)
    async with inbox(ours) as box, simulator(folder, ours, faults=faults, payers=payers) as wire:
        other = Wire(wire._session, wire.url, theirs)
        for number in range(40):
            subject = f"sold by both {number}"
            mine = await wire.pay(f"TRADE{number:04d}", box.url, subject=subject)
            assert type(mine) is type(await other.pay(f"T-{number:06d}", box.url, subject=subject))
        shown = {}
        loop = asyncio.get_running_loop()
        deadline = loop.time() + WITHIN_S
        while loop.time() < deadline:
            trades = await wire.steer("/_sim/trades")
            shown = {
                side: {
                    t["description"]: (t["state"], t["dropped"])
                    for t in trades
                    if t["mchid"] == one.account.split("/")[0]
                }
                for side, one in (("ours", ours), ("theirs", theirs))
            }
            if shown["ours"] == shown["theirs"] and any(state == "SUCCESS" for state, _ in shown["ours"].values()):
                break
            await asyncio.sleep(0.05)
        assert shown["ours"] == shown["theirs"]
        assert {state for state, _ in shown["ours"].values()} == {"SUCCESS", "NOTPAY"}


async def test_the_same_thing_sold_again_draws_again_also_after_a_restart(folder, channel):
    faults, shown = Faults(drop=0.5), []
    async with inbox(channel) as box:
        for start in (0, 10):
            async with simulator(folder, channel, faults=faults, payers=AT_ONCE) as wire:
                for number in range(start, start + 10):
                    await wire.pay(f"TRADE{number:04d}", box.url, subject="coffee")
                    await wire.until_paid(f"TRADE{number:04d}")
                shown = [trade["dropped"] for trade in await wire.steer("/_sim/trades")]
    assert shown == [plan_notification(faults, 1, f"coffee#{number}").dropped for number in range(20)]
    assert set(shown) == {True, False}


async def _fates(wire: Wire, of: WeChatPay) -> dict[str, tuple[str, bool]]:
    trades = await wire.steer(f"/_sim/trades?mchid={of.account.split('/')[0]}")
    return {trade["description"]: (trade["state"], trade["dropped"]) for trade in trades}


# --- seen: requests


async def test_an_error_before_leaves_nothing_and_an_error_after_leaves_the_trade(folder, channel):
    async with simulator(folder, channel, faults=Faults(error_before=1.0)) as wire:
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
    async with simulator(folder, channel, faults=Faults(error_after=1.0), payers=AT_ONCE) as wire:
        assert isinstance(await wire.pay("TRADE0001"), Unknown)
        await wire.steer("/_faults", {"error_after": 0.0})
        assert await wire.query("TRADE0001") == NotPaid()
        assert isinstance(await wire.pay("TRADE0001"), Accepted)
        await wire.until_paid("TRADE0001")


async def test_an_unanswered_request_was_executed(folder, channel):
    async with simulator(folder, channel, faults=Faults(timeout=1.0)) as wire:
        outcome = await wire.run(channel.query("TRADE0001", stamp()), timeout_s=0.3)
        assert isinstance(outcome, NotFound)  # a refusal is an answer: only what was executed can stay silent
        outcome = await wire.run(channel.pay(prepay("TRADE0001", "http://127.0.0.1:9/none"), stamp()), timeout_s=0.3)
        assert isinstance(outcome, Unknown)
        await wire.steer("/_faults", {"timeout": 0.0})
        assert await wire.query("TRADE0001") == NotPaid()


@pytest.mark.parametrize(("fault", "status"), [("rate_limited", 429), ("accepted", 202)])
async def test_a_request_put_off_is_unknown_and_was_not_executed(folder, channel, fault, status):
    async with simulator(folder, channel, faults=Faults(**{fault: 1.0})) as wire:
        outcome = await wire.pay("TRADE0001")
        assert isinstance(outcome, Unknown)
        assert outcome.reason.startswith(f"status {status}")
        await wire.steer("/_faults", {fault: 0.0})
        assert await wire.query("TRADE0001") == NotFound()


async def test_a_slow_answer_takes_its_time(folder, channel):
    faults = Faults(slow=1.0, slow_s=0.6)
    expected_s = slow_for_s(faults, 1, "thing TRADE0001#0", "prepay", 1)
    async with simulator(folder, channel, faults=faults) as wire:
        began = asyncio.get_running_loop().time()
        assert isinstance(await wire.pay("TRADE0001"), Accepted)
        assert asyncio.get_running_loop().time() - began >= expected_s > 0


async def test_faults_and_payers_are_switched_while_running_and_mistakes_are_named(folder, channel):
    async with simulator(folder, channel) as wire:
        assert (await wire.steer("/_faults", {"drop": 0.25}))["drop"] == 0.25
        assert (await wire.steer("/_faults", {"duplicate": 0.5}))["drop"] == 0.25
        assert "nonsense" in (await wire.steer("/_faults", {"nonsense": 1}))["error"]
        assert "$.drop" in (await wire.steer("/_faults", {"drop": 2}))["error"]
        assert (await wire.steer("/_sim/payers", {"rate": 0.5}))["rate"] == 0.5
        assert "error" in await wire.steer("/_sim/payers", {"rate": "all"})
        assert (await wire.steer("/_faults"))["drop"] == 0.25
