"""Every fault of the simulated Alipay can be seen, and our channel believes nothing that it should not."""

import asyncio
from urllib.parse import parse_qsl

import aiohttp
import pytest

from channels.contract import Accepted, AlreadyPaid, ClosedAtChannel, NotFound, NotPaid, Paid, Unknown
from channels.simulator.alipay import LIES, AlipayPlatform
from tests.integration.simulator.alipay_accounts import alipay, channel_of, payer, scan
from tests.integration.simulator.wire import AT_ONCE, attempt, inbox, ledger, payment, stamp


def fields_of(received) -> dict[str, str]:
    charset = "gbk" if b"charset=gbk" in received.body else "utf-8"
    return dict(parse_qsl(received.body.decode(), keep_blank_values=True, encoding=charset))


# --- notifications


async def test_a_notification_has_what_the_real_one_has(alipay_folder, alipay_files):
    async with inbox(channel_of(alipay_files)) as box, alipay(alipay_folder, alipay_files) as wire:
        await wire.pay("TRADE0001", box.url, method="qr", subject="茶 + 100%", amount=1234)
        await wire.steer("/_sim/pay", payer(alipay_files, "TRADE0001"))
        received = await box.next()
        outcome = await wire.query("TRADE0001")
    told = fields_of(received)
    assert received.payment == outcome.payment
    assert received.headers["content-type"] == "application/x-www-form-urlencoded; charset=utf-8"
    assert told["subject"] == "茶 + 100%"
    assert (told["app_id"], told["seller_id"]) == (alipay_files.app_id, alipay_files.seller_id)
    assert (told["total_amount"], told["trade_status"], told["charset"]) == ("12.34", "TRADE_SUCCESS", "utf-8")
    assert told.keys() >= {"notify_id", "notify_time", "notify_type", "gmt_payment", "fund_bill_list", "buyer_id"}


async def test_a_refused_notification_comes_again_under_its_id_until_it_is_acknowledged(alipay_folder, alipay_files):
    async with inbox(channel_of(alipay_files)) as box, alipay(alipay_folder, alipay_files, payers=AT_ONCE) as wire:
        box.failures_left = 3
        await wire.pay("TRADE0001", box.url, method="qr")
        received = [await box.next() for _ in range(4)]
        assert [each.status for each in received] == [503, 503, 503, 200]
        assert len({fields_of(each)["notify_id"] for each in received}) == 1


def test_only_the_seven_bytes_are_an_acknowledgement():
    taken = AlipayPlatform.acknowledged
    assert taken(None, 200, b"success")
    for status, body in ((200, b"success\n"), (200, b'"success"'), (200, b"SUCCESS"), (200, b""), (201, b"success")):
        assert not taken(None, status, body)


async def test_a_duplicated_notification_comes_again_with_the_same_id(alipay_folder, alipay_files):
    async with (
        inbox(channel_of(alipay_files)) as box,
        alipay(alipay_folder, alipay_files, faults={"duplicate": 1.0}, payers=AT_ONCE) as wire,
    ):
        await wire.pay("TRADE0001", box.url, method="qr")
        first, second = await box.next(), await box.next()
        assert first.payment == second.payment
        assert fields_of(first)["notify_id"] == fields_of(second)["notify_id"]


async def test_a_dropped_notification_never_arrives_and_the_ledger_says_so(alipay_folder, alipay_files):
    async with (
        inbox(channel_of(alipay_files)) as box,
        alipay(alipay_folder, alipay_files, faults={"drop": 1.0}, payers=AT_ONCE) as wire,
    ):
        await wire.pay("TRADE0001", box.url, method="qr")
        await wire.until_paid("TRADE0001")
        assert box.empty()
    assert [line["kind"] for line in ledger(alipay_folder)] == ["opened", "entered", "paid", "notification_dropped"]


FALSE_STARTS = {"tamper": {"bad_signature", "malformed"}, "wrong_amount": {"bad_signature"}, "waiting": {"other_event"}}


@pytest.mark.parametrize("fault", FALSE_STARTS)
async def test_a_wrong_notification_comes_first_and_the_genuine_one_follows(alipay_folder, alipay_files, fault):
    async with (
        inbox(channel_of(alipay_files)) as box,
        alipay(alipay_folder, alipay_files, faults={fault: 1.0}, payers=AT_ONCE) as wire,
    ):
        for number in range(6):
            await wire.pay(f"TRADE{number:04d}", box.url, method="qr")
            wrong, genuine = await box.next(), await box.next()
            if wrong.payment is None:
                assert wrong.reason in FALSE_STARTS[fault]
            else:  # the flipped bit wrote a letter of an escape the other way: it says the same
                assert (fault, wrong.payment) == ("tamper", genuine.payment)
            assert genuine.payment.out_trade_no == f"TRADE{number:04d}"


@pytest.mark.parametrize("fault", ["wrong_app", "wrong_seller"])
async def test_alipays_word_on_a_strangers_trade_names_the_stranger(alipay_folder, alipay_files, fault):
    own = channel_of(alipay_files)
    async with inbox(own) as box, alipay(alipay_folder, alipay_files, faults={fault: 1.0}, payers=AT_ONCE) as wire:
        await wire.pay("TRADE0001", box.url, method="qr")
        wrong, genuine = (await box.next()).payment, (await box.next()).payment
        assert wrong.out_trade_no == genuine.out_trade_no == "TRADE0001"
        assert wrong.account != genuine.account == own.account
        assert wrong.channel_transaction != genuine.channel_transaction


@pytest.mark.parametrize("fault", ["gbk", "empties_signed", "empties_unsigned", "odd_values"])
async def test_what_is_odd_about_a_notification_is_read_all_the_same(alipay_folder, alipay_files, fault):
    async with (
        inbox(channel_of(alipay_files)) as box,
        alipay(alipay_folder, alipay_files, faults={fault: 1.0}, payers=AT_ONCE) as wire,
    ):
        await wire.pay("TRADE0001", box.url, method="qr", subject="茶 ☕ + %41")
        received = await box.next()
        assert received.payment.amount == 100
        told = fields_of(received)
    assert (told["charset"] == "gbk") is (fault == "gbk")
    assert ("" in told.values()) is fault.startswith("empties")
    assert ('"sign":"' in told.get("body", "")) is (fault == "odd_values")


async def test_a_test_can_send_any_variant_and_sees_the_answer(alipay_folder, alipay_files):
    async with inbox(channel_of(alipay_files)) as box, alipay(alipay_folder, alipay_files, payers=AT_ONCE) as wire:
        await wire.pay("TRADE0001", box.url, method="qr")
        await box.next()
        for variant in ("", "wrong_amount", "waiting"):
            answer = await wire.steer("/_sim/notify", payer(alipay_files, "TRADE0001", variant=variant))
            assert answer == ({"status": 400, "body": "fail"} if variant else {"status": 200, "body": "success"})


async def test_the_platform_can_state_something_else_than_the_truth(alipay_folder, alipay_files):
    async with inbox(channel_of(alipay_files)) as box, alipay(alipay_folder, alipay_files) as wire:
        await wire.pay("TRADE0001", box.url, method="qr")
        lie = {"amount": 1, "currency": "USD", "stated": {"seller_id": "2088000000000000"}}
        await wire.steer("/_sim/pay", payer(alipay_files, "TRADE0001", **lie))
        told = (await box.next()).payment
        asked = (await wire.query("TRADE0001")).payment
        assert (told.amount, told.currency, told.account) == (1, "USD", f"{alipay_files.app_id}/2088000000000000")
        assert (asked.amount, asked.currency) == (1, "USD")


# --- requests


async def test_an_error_before_leaves_nothing_and_an_error_after_leaves_the_trade(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files, faults={"error_before": 1.0}) as wire:
        outcome = await wire.pay("TRADE0001", method="qr")
        assert outcome == Unknown("answered 20000 isp.unknow-error 系统繁忙")
        assert await wire.steer("/_sim/trades") == []
        await wire.steer("/_faults", {"error_before": 0.0, "error_after": 1.0})
        assert await wire.pay("TRADE0001", method="qr") == Unknown("answered 20000 aop.ACQ.SYSTEM_ERROR 系统异常")
        await wire.steer("/_sim/pay", scan(alipay_files, "TRADE0001"))
        assert isinstance(await wire.close("TRADE0001"), Unknown)
        await wire.steer("/_faults", {"error_after": 0.0})
        assert await wire.query("TRADE0001") == ClosedAtChannel()


async def test_nobody_pays_a_code_that_was_never_shown(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files, faults={"error_after": 1.0}, payers=AT_ONCE) as wire:
        assert isinstance(await wire.pay("TRADE0001", method="qr"), Unknown)
        await wire.steer("/_faults", {"error_after": 0.0})
        assert await wire.query("TRADE0001") == NotFound()
        assert isinstance(await wire.pay("TRADE0001", method="qr"), Accepted)
        await wire.until_paid("TRADE0001")


async def test_an_unanswered_request_was_executed(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files, faults={"timeout": 1.0}) as wire:
        request = payment("TRADE0001", "http://127.0.0.1:9/none", method="qr")
        assert isinstance(await wire.run(wire.channel.pay(request, stamp()), timeout_s=0.3), Unknown)
        await wire.steer("/_faults", {"timeout": 0.0})
        await wire.steer("/_sim/pay", scan(alipay_files, "TRADE0001"))
        assert await wire.query("TRADE0001") == NotPaid()


@pytest.mark.parametrize(
    ("fault", "reason", "executed"),
    [
        ("rate_limited", "answered 40005 isv.app-call-limited 应用调用次数超限", False),
        ("unsigned_error", "answer not believed: 20000 without a signature", True),
        ("bad_gateway", "status 502", True),
        ("answer_other", "the answer is about another trade or refund", True),
    ],
)
async def test_an_answer_that_decides_nothing(alipay_folder, alipay_files, fault, reason, executed):
    async with alipay(alipay_folder, alipay_files, faults={fault: 1.0}) as wire:
        assert await wire.pay("TRADE0001", method="qr") == Unknown(reason)
        assert len(await wire.steer("/_sim/trades")) == executed


@pytest.mark.parametrize("fault", LIES)
async def test_a_lie_under_a_wrong_signature_is_believed_by_no_verb(alipay_folder, alipay_files, fault):
    async with alipay(alipay_folder, alipay_files) as wire:
        await wire.pay("TRADE0001", method="qr")
        await wire.steer("/_sim/pay", payer(alipay_files, "TRADE0001"))
        await wire.steer("/_faults", {fault: 1.0})
        outcomes = [
            await wire.pay("TRADE0002", method="qr"),
            await wire.query("TRADE0001"),
            await wire.run(wire.channel.cancel(attempt("TRADE0009"), stamp())),
        ]
        assert [type(each) for each in outcomes] == [Unknown] * 3
        assert all("not believed" in each.reason for each in outcomes)
        await wire.steer("/_faults", {fault: 0.0})
        assert isinstance(await wire.query("TRADE0001"), Paid)


async def test_a_broken_page_is_what_the_payer_sees(alipay_folder, alipay_files):
    async with (
        alipay(alipay_folder, alipay_files, faults={"error_before": 1.0}) as wire,
        aiohttp.ClientSession() as browser,
    ):
        given = await wire.pay("TRADE0001", method="page")
        async with browser.get(given.credential.value) as page:
            assert page.status == 500
            assert "系统繁忙" in (await page.read()).decode("gbk")


async def test_a_slow_answer_takes_its_time(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files, faults={"slow": 1.0, "slow_s": 0.6}) as wire:
        began = asyncio.get_running_loop().time()
        assert isinstance(await wire.pay("TRADE0001", method="qr"), Accepted)
        assert asyncio.get_running_loop().time() - began > 0.01


async def test_a_payer_can_be_faster_than_a_close(alipay_folder, alipay_files):
    async with (
        inbox(channel_of(alipay_files)) as box,
        alipay(alipay_folder, alipay_files, faults={"close_race": 1.0}) as wire,
    ):
        await wire.pay("TRADE0001", box.url, method="qr")
        await wire.steer("/_sim/pay", scan(alipay_files, "TRADE0001"))
        assert await wire.close("TRADE0001") == AlreadyPaid()
        assert await wire.query("TRADE0001") == Paid((await box.next()).payment)


async def test_a_second_code_can_be_refused(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files, faults={"create_once": 1.0}) as wire:
        assert isinstance(await wire.pay("TRADE0001", method="qr"), Accepted)
        outcome = await wire.pay("TRADE0001", method="qr")
        assert isinstance(outcome, Unknown)  # nobody knows who holds the first
        assert "APPLY_PC_MERCHANT_CODE_ERROR" in outcome.reason
