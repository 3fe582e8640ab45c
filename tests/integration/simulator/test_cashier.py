"""The page on which a person pays: what it shows, that its button pays, and that nothing shown there is executed."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from channels.contract import NotPaid, Paid
from channels.simulator.payers import Payers
from tests.integration.simulator.wechat_accounts import mchid_of
from tests.integration.simulator.wire import simulator


@pytest.fixture
async def browser() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def test_a_person_finds_the_trade_sees_its_code_and_pays(folder, channel, browser):
    async with simulator(folder, channel) as wire:
        await wire.pay("TRADE0001", amount=1234, subject="绿茶")
        page = f"/cashier/wechatpay/{mchid_of(channel)}/TRADE0001"
        listed = await (await browser.get(f"{wire.url}/cashier")).text()
        assert f'href="{page}"' in listed
        checkout = await (await browser.get(wire.url + page)).text()
        assert "CNY 12.34" in checkout
        assert "绿茶" in checkout
        assert checkout.count("<svg ") == 1
        paid = await browser.post(wire.url + page)
        assert (paid.status, paid.url.path) == (200, page)
        shown = await paid.text()
        assert "Paid." in shown
        assert "<button" not in shown
        assert isinstance(await wire.query("TRADE0001"), Paid)


async def test_paying_twice_pays_once(folder, channel, browser):
    async with simulator(folder, channel) as wire:
        await wire.pay("TRADE0001")
        page = f"{wire.url}/cashier/wechatpay/{mchid_of(channel)}/TRADE0001"
        await browser.post(page)
        first = await wire.query("TRADE0001")
        await browser.post(page)
        assert await wire.query("TRADE0001") == first


async def test_payers_who_pay_at_the_cashier_leave_alone_what_nobody_opened(folder, channel, browser):
    """As in life: a code that its merchant lost before he showed it to anybody is never paid."""
    at_once = Payers(rate=1.0, after_min_s=0.0, after_max_s=0.0, at_cashier=True)
    async with simulator(folder, channel, payers=at_once) as wire:
        await wire.pay("TRADE0001")
        shown = await wire.pay("TRADE0002")
        page = await browser.get(f"{wire.url}/cashier", params={"code": shown.credential.value})
        assert page.status == 200
        assert "<svg" not in await page.text(), "they have scanned it"
        await wire.until_paid("TRADE0002")
        assert isinstance(await wire.query("TRADE0001"), NotPaid)


async def test_what_a_merchant_writes_is_shown_and_not_executed(folder, channel, browser):
    async with simulator(folder, channel) as wire:
        await wire.pay("TRADE0001", subject='<script>alert(1)</script>"')
        for page in ("/cashier", f"/cashier/wechatpay/{mchid_of(channel)}/TRADE0001"):
            shown = await (await browser.get(wire.url + page)).text()
            assert "<script" not in shown
            assert "&lt;script&gt;" in shown


@pytest.mark.parametrize("path", ["/cashier/wechatpay/1/2", "/cashier/x", "/cashier/a/b/c/d", "/cashier?code=unheard"])
async def test_there_is_no_page_for_what_there_is_not(folder, channel, browser, path):
    async with simulator(folder, channel) as wire:
        answer = await browser.get(wire.url + path)
        assert answer.status == 404
        assert "no such trade" in await answer.text()
