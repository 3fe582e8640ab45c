"""The simulated Alipay's trades: they exist once a payer has come, by each way to pay, and end as the real ones do."""

import json
from urllib.parse import unquote

import aiohttp
import pytest

from channels.alipay import Cancelled
from channels.contract import (
    Accepted,
    AlreadyPaid,
    ClosedAtChannel,
    NotFound,
    NotPaid,
    Paid,
    Refused,
    Unknown,
)
from tests.integration.simulator.alipay_accounts import alipay, channel_of, params_of, payer, scan
from tests.integration.simulator.wire import AT_ONCE, attempt, inbox, ledger, payment, stamp

# --- codes


async def test_a_code_is_no_trade_until_somebody_scans_it(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire:
        shown = await wire.pay("TRADE0001", method="qr")
        assert isinstance(shown, Accepted)
        assert shown.credential.value.startswith("https://qr.alipay.com/bav")
        assert await wire.query("TRADE0001") == NotFound()
        assert await wire.close("TRADE0001") == NotFound()
        await wire.steer("/_sim/pay", scan(alipay_files, "TRADE0001"))
        assert await wire.query("TRADE0001") == NotPaid()
        paid = await wire.steer("/_sim/pay", payer(alipay_files, "TRADE0001"))
        outcome = await wire.query("TRADE0001")
        assert isinstance(outcome, Paid)
        assert outcome.payment.channel_transaction == paid["transaction"]
        assert outcome.payment.account == alipay_files.account
    kinds = [line["kind"] for line in ledger(alipay_folder)]
    assert kinds[:3] == ["opened", "entered", "paid"]


async def test_after_a_close_that_found_nothing_the_code_can_still_be_paid(alipay_folder, alipay_files):
    async with inbox(channel_of(alipay_files)) as box, alipay(alipay_folder, alipay_files) as wire:
        await wire.pay("TRADE0001", box.url, method="qr")
        assert await wire.close("TRADE0001") == NotFound()
        await wire.steer("/_sim/pay", payer(alipay_files, "TRADE0001"))
        assert (await box.next()).payment.out_trade_no == "TRADE0001"


async def test_a_second_code_of_a_number_takes_the_place_of_the_first(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire:
        first = await wire.pay("TRADE0001", method="qr")
        second = await wire.pay("TRADE0001", method="qr")
        assert first.credential.value != second.credential.value
        dearer = await wire.pay("TRADE0001", method="qr", amount=200)
        assert isinstance(dearer, Accepted)  # nothing is known of the number yet
        (trade,) = await wire.steer("/_sim/trades")
        assert (trade["amount"], trade["code"]) == (200, dearer.credential.value)
        await wire.steer("/_sim/pay", scan(alipay_files, "TRADE0001"))
        assert isinstance(await wire.pay("TRADE0001", method="qr", amount=300), Unknown)  # CONTEXT_INCONSISTENT
        await wire.steer("/_sim/pay", payer(alipay_files, "TRADE0001"))
        assert await wire.pay("TRADE0001", method="qr", amount=200) == AlreadyPaid()  # TRADE_HAS_SUCCESS


async def test_the_cashier_finds_a_trade_by_its_code_and_pays_it(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire, aiohttp.ClientSession() as browser:
        shown = await wire.pay("TRADE0001", method="qr", amount=1234)
        async with browser.get(f"{wire.url}/cashier", params={"code": shown.credential.value}) as page:
            assert "CNY 12.34" in await page.text()
            cashier = page.url
        async with browser.post(cashier) as page:
            assert "Paid." in await page.text()
        assert isinstance(await wire.query("TRADE0001"), Paid)


# --- what browsers and apps submit


@pytest.mark.parametrize("method", ["page", "wap", "app"])
async def test_a_signed_address_makes_the_trade_when_somebody_opens_it(alipay_folder, alipay_files, method):
    async with alipay(alipay_folder, alipay_files) as wire, aiohttp.ClientSession() as browser:
        given = await wire.pay("TRADE0001", method=method, subject="茶 & Tee", return_url="https://shop.example.com/r")
        assert await wire.query("TRADE0001") == NotFound()
        value = given.credential.value
        url = f"{wire.url}/gateway.do?{json.loads(value)['orderString']}" if method == "app" else value
        for _ in range(2):  # reloading it changes nothing
            async with browser.get(url) as page:
                assert (page.status, page.url.path) == (200, f"/cashier/alipay/{alipay_files.app_id}/TRADE0001")
                assert "茶 ＆ Tee" in await page.text()
        assert await wire.query("TRADE0001") == NotPaid()
        await wire.steer("/_sim/pay", payer(alipay_files, "TRADE0001"))
        assert isinstance(await wire.query("TRADE0001"), Paid)
        async with browser.get(url) as page:
            assert "TRADE_HAS_SUCCESS" in await page.text()
    assert [line["kind"] for line in ledger(alipay_folder)][:2] == ["opened", "paid"]


async def test_a_form_may_carry_the_content_in_its_body(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire, aiohttp.ClientSession() as browser:
        given = await wire.pay("TRADE0001", method="page")
        address, _, content = given.credential.value.partition("&biz_content=")
        content, _, rest = content.partition("&")
        async with browser.post(f"{address}&{rest}", data={"biz_content": unquote(content.replace("+", " "))}) as page:
            assert page.url.path.startswith("/cashier/alipay/")


async def test_what_is_wrong_with_a_page_is_shown_to_the_payer_in_gbk(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire, aiohttp.ClientSession() as browser:
        given = await wire.pay("TRADE0001", method="page", amount=100)
        async with browser.get(given.credential.value.replace("1.00", "9.00")) as page:
            assert page.headers["Content-Type"] == "text/html;charset=GBK"
            assert "无效签名" in (await page.read()).decode("gbk")
        assert await wire.query("TRADE0001") == NotFound()


async def test_people_pay_pages_by_themselves_once_they_are_open(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files, payers=AT_ONCE) as wire, aiohttp.ClientSession() as browser:
        given = await wire.pay("TRADE0001", method="wap")
        await browser.get(given.credential.value)
        await wire.until_paid("TRADE0001")


# --- ends


async def test_a_trade_that_waits_can_be_closed_again_and_again(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire:
        await wire.pay("TRADE0001", method="qr")
        await wire.steer("/_sim/pay", scan(alipay_files, "TRADE0001"))
        assert await wire.close("TRADE0001") == ClosedAtChannel()
        assert await wire.close("TRADE0001") == ClosedAtChannel()  # TRADE_STATUS_ERROR, and asked
        assert await wire.query("TRADE0001") == ClosedAtChannel()
        assert isinstance(await wire.pay("TRADE0001", method="qr"), Refused)  # TRADE_HAS_CLOSE
        refused = await wire.steer("/_sim/pay", payer(alipay_files, "TRADE0001"))
        assert refused == {"error": "not payable: closed"}


async def test_a_paid_trade_can_not_be_closed(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire:
        await wire.pay("TRADE0001", method="qr")
        await wire.steer("/_sim/pay", payer(alipay_files, "TRADE0001"))
        assert await wire.close("TRADE0001") == AlreadyPaid()


async def test_an_expiry_closes_what_was_entered_and_leaves_nothing_of_what_was_not(alipay_folder, alipay_files):
    started_s = stamp().now_s - 7000
    late = {"method": "qr", "started_s": started_s, "life_s": 7100}
    async with alipay(alipay_folder, alipay_files) as wire:
        for number in ("TRADE0001", "TRADE0002"):
            assert isinstance(await wire.pay(number, **late), Accepted)
        await wire.steer("/_sim/pay", scan(alipay_files, "TRADE0001"))
    opened = [line for line in ledger(alipay_folder) if line["kind"] == "opened"]
    assert {line["expires_at_s"] for line in opened} == {started_s + 7100}
    lines = (alipay_folder / "ledger.jsonl").read_text().replace(str(started_s + 7100), str(started_s))
    (alipay_folder / "ledger.jsonl").write_text(lines)  # as if the time had gone by
    async with alipay(alipay_folder, alipay_files) as wire:
        assert await wire.query("TRADE0001") == ClosedAtChannel()
        assert await wire.query("TRADE0002") == NotFound()
        for number in ("TRADE0001", "TRADE0002"):
            assert "error" in await wire.steer("/_sim/pay", payer(alipay_files, number))


async def test_what_would_end_too_soon_is_refused(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire:
        outcome = await wire.pay("TRADE0001", method="qr", started_s=stamp().now_s - 3600, life_s=3600)
        assert isinstance(outcome, Refused)
        assert outcome.code == "INVALID_PARAMETER"


async def test_cancel_closes_what_waits_and_gives_back_what_was_paid(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire:
        for number in ("TRADE0001", "TRADE0002", "TRADE0003"):
            await wire.pay(number, method="qr")
        await wire.steer("/_sim/pay", scan(alipay_files, "TRADE0002"))
        await wire.steer("/_sim/pay", payer(alipay_files, "TRADE0003"))
        outcomes = [
            await wire.run(wire.channel.cancel(attempt(number), stamp()))
            for number in ("TRADE0001", "TRADE0002", "TRADE0003")
        ]
        assert outcomes == [NotFound(), Cancelled(refunded=False), Cancelled(refunded=True)]
        assert await wire.query("TRADE0002") == ClosedAtChannel()
        assert isinstance(await wire.query("TRADE0003"), Paid)  # TRADE_CLOSED, with the time of its payment


async def test_another_merchants_trade_does_not_exist(alipay_folder, alipay_files, alipay_keys):
    async with alipay(alipay_folder, alipay_files) as wire:
        await wire.pay("TRADE0001", method="qr")
        paid = await wire.steer("/_sim/pay", payer(alipay_files, "TRADE0001"))
        wire.channel = channel_of(alipay_keys[1]["control"])
        assert await wire.query("TRADE0001") == NotFound()
        flow = wire.channel._ask("alipay.trade.query", {"trade_no": paid["transaction"]}, stamp())
        assert (await wire.run(flow)).name == "TRADE_NOT_EXIST"


async def test_a_trade_can_be_asked_after_by_alipays_number_paid_or_not(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire:
        await wire.pay("TRADE0001", method="qr")
        await wire.steer("/_sim/pay", scan(alipay_files, "TRADE0001"))
        node = json.loads(await raw(wire, {"out_trade_no": "TRADE0001"}))
        assert node["trade_status"] == "WAIT_BUYER_PAY"
        assert "send_pay_date" not in node
        same = json.loads(await raw(wire, {"trade_no": node["trade_no"], "out_trade_no": "TRADE0009"}))
        assert same == node
        await wire.steer("/_sim/pay", payer(alipay_files, "TRADE0001"))
        paid = json.loads(await raw(wire, {"trade_no": node["trade_no"]}))
        assert (paid["trade_no"], paid["trade_status"]) == (node["trade_no"], "TRADE_SUCCESS")


async def raw(wire, biz):
    return (await wire.run(wire.channel._ask("alipay.trade.query", biz, stamp()))).node


async def test_what_a_payer_is_told_to_pay_must_be_written_as_alipay_takes_it(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire:
        own = next(wire.channel.pay(payment("TRADE0001", "http://127.0.0.1:9/n", method="qr"), stamp()))
        for change in (
            {"subject": "a/b"},
            {"subject": ""},
            {"total_amount": "0.00"},
            {"total_amount": "1.001"},
            {"out_trade_no": "a-b"},
            {"product_code": "QUICK_WAP_PAY"},
            {"time_expire": "tomorrow"},
        ):
            biz = {**json.loads(params_of(own)["biz_content"]), **change}
            flow = wire.channel._ask("alipay.trade.precreate", biz, stamp())
            assert (await wire.run(flow)).code == "40004", change
        assert await wire.steer("/_sim/trades") == []


async def test_a_trade_survives_a_restart_with_its_state(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire:
        for number in ("TRADE0001", "TRADE0002", "TRADE0003"):
            await wire.pay(number, method="qr")
        await wire.steer("/_sim/pay", scan(alipay_files, "TRADE0002"))
        await wire.steer("/_sim/pay", payer(alipay_files, "TRADE0003"))
        before = await wire.query("TRADE0003")
    async with alipay(alipay_folder, alipay_files) as wire:
        assert await wire.query("TRADE0001") == NotFound()
        assert await wire.query("TRADE0002") == NotPaid()
        assert await wire.query("TRADE0003") == before
