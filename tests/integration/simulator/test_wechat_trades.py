"""The simulated WeChat Pay: our own channel against it over a real socket; every way to pay, and what it refuses."""

import json
import time
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from channels.contract import Accepted, AlreadyPaid, ClosedAtChannel, NotFound, NotPaid, Paid, Refused, Unknown
from tests.integration.simulator.wechat_accounts import mchid_of, payer, resigned
from tests.integration.simulator.wire import AT_ONCE, WITHIN_S, Wire, attempt, inbox, ledger, payment, simulator, stamp

NOWHERE = "http://127.0.0.1:9/none"

# --- the life of a trade


async def test_a_trade_is_made_paid_told_and_queried(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel, payers=AT_ONCE) as wire:
        accepted = await wire.pay("TRADE0001", box.url, amount=1234)
        assert isinstance(accepted, Accepted)
        assert accepted.credential.value.startswith("weixin://wxpay/bizpayurl?pr=")
        told = (await box.next()).payment
        asked = await wire.query("TRADE0001")
        assert asked == Paid(told)
        assert (told.amount, told.currency, told.account) == (1234, "CNY", channel.account)
        assert abs(told.success_at_s - time.time()) < WITHIN_S
        assert await wire.close("TRADE0001") == AlreadyPaid()
        assert await wire.pay("TRADE0001", box.url, amount=1234) == AlreadyPaid()


async def test_an_unpaid_trade_is_closed_and_stays_closed(folder, channel):
    async with simulator(folder, channel) as wire:
        await wire.pay("TRADE0001")
        assert await wire.query("TRADE0001") == NotPaid()
        assert await wire.close("TRADE0001") == ClosedAtChannel()
        assert await wire.close("TRADE0001") == ClosedAtChannel()
        assert await wire.query("TRADE0001") == ClosedAtChannel()
        assert isinstance(await wire.pay("TRADE0001"), Refused)
        assert "not payable" in (await wire.steer("/_sim/pay", payer(channel, "TRADE0001")))["error"]
    assert [line["kind"] for line in ledger(folder)] == ["opened", "closed"]


async def test_what_was_never_made_is_not_found(folder, channel):
    async with simulator(folder, channel) as wire:
        assert await wire.query("TRADE0001") == NotFound()
        assert await wire.close("TRADE0001") == NotFound()


async def test_a_prepay_may_be_sent_again_only_with_the_same_parameters(folder, channel):
    async with simulator(folder, channel) as wire:
        first, again = await wire.pay("TRADE0001"), await wire.pay("TRADE0001")
        assert isinstance(again, Accepted)
        assert first.credential.value != again.credential.value
        for change in ({"amount": 101}, {"subject": "another"}, {"life_s": 3600}, {"method": "app"}):
            other = await wire.pay("TRADE0001", **change)
            assert isinstance(other, Unknown)
            assert "OUT_TRADE_NO_USED" in other.reason


async def test_nobody_pays_after_time_expire_but_that_does_not_close(folder, channel):
    async with simulator(folder, channel) as wire:
        await wire.pay("TRADE0001")
    [made] = ledger(folder)
    (folder / "ledger.jsonl").write_text(json.dumps({**made, "expires_at_s": int(time.time())}) + "\n")
    async with simulator(folder, channel) as wire:
        assert "not payable" in (await wire.steer("/_sim/pay", payer(channel, "TRADE0001")))["error"]
        assert await wire.query("TRADE0001") == NotPaid()


async def test_a_time_expire_less_than_a_minute_away_is_raised_to_one(folder, channel):
    async with simulator(folder, channel) as wire:
        request = next(channel.pay(payment("TRADE0001", NOWHERE), stamp()))
        body = {**json.loads(request.body), "time_expire": "2020-01-01T00:00:00+08:00"}
        assert (await wire.send(resigned(channel, "POST", request.target, body))).status == 200
    [made] = ledger(folder)
    assert made["expires_at_s"] == int(made["at"]) + 60


async def test_two_merchants_have_their_own_numbers_keys_and_trades(folder, channel, control):
    async with inbox(control) as box, simulator(folder, channel) as wire:
        other = Wire(wire._session, wire.url, control)
        await wire.pay("TRADE0001", subject="same")
        await other.pay("TRADE0001", box.url, subject="same", amount=7)
        await wire.steer("/_sim/pay", payer(control, "TRADE0001"))
        assert (await box.next()).payment.amount == 7
        assert await wire.query("TRADE0001") == NotPaid()
        assert len(await wire.steer("/_sim/trades")) == 2
        assert len(await wire.steer(f"/_sim/trades?merchant={mchid_of(channel)}")) == 1


async def test_a_trade_is_found_only_under_the_mchid_that_asks(folder, channel, control):
    async with inbox(channel) as box, simulator(folder, channel, payers=AT_ONCE) as wire:
        await wire.pay("TRADE0001", box.url)
        transaction = (await box.next()).payment.channel_transaction
        ours, theirs = mchid_of(channel), mchid_of(control)
        for asking, mchid, status in ((channel, ours, 200), (channel, theirs, 404), (control, theirs, 404)):
            for path in ("out-trade-no/TRADE0001", f"id/{transaction}"):
                target = f"/v3/pay/transactions/{path}?mchid={mchid}"
                assert (await wire.send(resigned(asking, "GET", target))).status == status


@pytest.mark.parametrize(
    ("stated", "field", "value"),
    [
        ({"amount": 99}, "amount", 99),
        ({"currency": "USD"}, "currency", "USD"),
        ({"stated": {"mchid": "1900000001"}}, "account", "1900000001"),
        ({"stated": {"appid": "wxother"}}, "account", "wxother"),
    ],
)
async def test_a_platform_that_states_something_else_can_be_played(folder, channel, stated, field, value):
    async with inbox(channel) as box, simulator(folder, channel) as wire:
        await wire.pay("TRADE0001", box.url)
        await wire.steer("/_sim/pay", payer(channel, "TRADE0001", **stated))
        told = (await box.next()).payment
        assert str(value) in str(getattr(told, field))
        assert await wire.query("TRADE0001") == Paid(told)


# --- ways to pay

OPENID = "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"
WAYS = {
    "native": ({}, "NATIVE"),
    "jsapi": ({"openid": OPENID}, "JSAPI"),
    "mini": ({"openid": OPENID}, "JSAPI"),
    "app": ({}, "APP"),
    "h5": ({"payer_client_ip": "2001:db8::1", "type": "iOS", "app_name": "店", "bundle_id": "com.example"}, "MWEB"),
}


@pytest.mark.parametrize("method", WAYS)
async def test_every_way_to_pay_is_paid_told_and_stated_as_what_it_was(folder, channel, method):
    params, trade_type = WAYS[method]
    async with inbox(channel) as box, simulator(folder, channel, payers=AT_ONCE) as wire:
        accepted = await wire.pay("TRADE0001", box.url, method=method, params=params)
        assert isinstance(accepted, Accepted)
        assert accepted.credential.type is channel.methods[method].credential
        assert (await box.next()).payment.amount == 100
        target = f"/v3/pay/transactions/out-trade-no/TRADE0001?mchid={mchid_of(channel)}"
        stated = json.loads((await wire.send(resigned(channel, "GET", target))).body)
        assert stated["trade_type"] == trade_type
        assert stated["payer"]["openid"] == params.get("openid", stated["payer"]["openid"]) != ""


async def test_an_h5_address_opens_the_cashier_until_a_newer_one_is_handed_out(folder, channel):
    params, _ = WAYS["h5"]
    async with simulator(folder, channel) as wire, aiohttp.ClientSession() as browser:
        addresses = [
            (await wire.pay("TRADE0001", method="h5", params=params, return_url="https://shop.example.com/done?a=1"))
            for _ in range(2)
        ]
        old, new = (each.credential.value for each in addresses)
        assert parse_qs(urlsplit(new).query)["redirect_url"] == ["https://shop.example.com/done?a=1"]
        async with browser.get(old) as answer:
            assert answer.status == 404
        async with browser.get(new) as answer:
            assert answer.status == 200
            assert "TRADE0001" in await answer.text()


@pytest.mark.parametrize("method", WAYS)
async def test_what_a_payer_is_given_is_new_each_time(folder, channel, method):
    params, _ = WAYS[method]
    async with simulator(folder, channel) as wire:
        given = [await wire.pay("TRADE0001", method=method, params=params) for _ in range(3)]
        assert len({each.credential.value for each in given}) == 3


# --- what is refused


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"extra": 1}, "PARAM_ERROR"),
        ({"payer": {"openid": OPENID}}, "PARAM_ERROR"),
        ({"scene_info": {"device_id": "1"}}, "PARAM_ERROR"),
        ({"amount": {"total": 1.5}}, "PARAM_ERROR"),
        ({"amount": {"total": True}}, "PARAM_ERROR"),
        ({"amount": {"total": 0}}, "PARAM_ERROR"),
        ({"amount": {"total": 1, "currency": "USD"}}, "PARAM_ERROR"),
        ({"amount": {"total": 1, "more": 1}}, "PARAM_ERROR"),
        ({"description": ""}, "PARAM_ERROR"),
        ({"description": "x" * 128}, "PARAM_ERROR"),
        ({"out_trade_no": "short"}, "PARAM_ERROR"),
        ({"notify_url": "https://e.com/?q=1"}, "PARAM_ERROR"),
        ({"time_expire": "tomorrow"}, "PARAM_ERROR"),
        ({"appid": "wxother"}, "APPID_MCHID_NOT_MATCH"),
        ({"mchid": "1900000001"}, "NO_AUTH"),
    ],
)
async def test_a_prepay_the_platform_does_not_take_makes_nothing(folder, channel, change, code):
    async with simulator(folder, channel) as wire:
        body = {**json.loads(next(channel.pay(payment("TRADE0001", NOWHERE), stamp())).body), **change}
        answer = await wire.send(resigned(channel, "POST", "/v3/pay/transactions/native", body))
        assert 400 <= answer.status < 500
        assert json.loads(answer.body)["code"] == code
        assert await wire.steer("/_sim/trades") == []


H5_INFO = {"type": "Wap"}
SPECIAL = [
    ("jsapi", {"payer": None}, "payer"),
    ("jsapi", {"payer": {}}, "payer"),
    ("jsapi", {"payer": {"openid": "a b"}}, "payer.openid"),
    ("jsapi", {"payer": {"openid": OPENID, "sub": "x"}}, "payer"),
    ("app", {"payer": {"openid": OPENID}}, ""),
    ("h5", {"scene_info": {}}, "scene_info"),
    ("h5", {"scene_info": {"payer_client_ip": "1.2.3.4"}}, "scene_info"),
    ("h5", {"scene_info": {"h5_info": H5_INFO}}, "scene_info"),
    ("h5", {"scene_info": {"payer_client_ip": "nowhere", "h5_info": H5_INFO}}, "scene_info.payer_client_ip"),
    ("h5", {"scene_info": {"payer_client_ip": "1.2.3.4", "h5_info": {"type": "wap"}}}, "scene_info.h5_info.type"),
]


@pytest.mark.parametrize(("method", "change", "field"), SPECIAL)
async def test_each_way_has_its_own_rules(folder, channel, method, change, field):
    async with simulator(folder, channel) as wire:
        request = next(channel.pay(payment("TRADE0001", NOWHERE, method=method, params=WAYS[method][0]), stamp()))
        answer = await wire.send(resigned(channel, "POST", request.target, {**json.loads(request.body), **change}))
        problem = json.loads(answer.body)
        assert (answer.status, problem["code"]) == (400, "PARAM_ERROR")
        assert problem.get("detail", {}).get("field", "") == field


async def test_a_page_inside_wechat_without_openid_gets_the_real_text(folder, channel):
    async with simulator(folder, channel) as wire:
        request = next(channel.pay(payment("TRADE0001", NOWHERE, method="app"), stamp()))
        answer = await wire.send(resigned(channel, "POST", "/v3/pay/transactions/jsapi", request.body))
        assert json.loads(answer.body)["message"] == "JSAPI支付必须传openid"


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/v3/nothing", 404),
        ("GET", "/v3/pay/transactions/native", 405),
        ("POST", "/v3/pay/transactions/micropay", 404),
        ("POST", "/v3/certificates", 405),
        ("GET", "/v3/pay/transactions/out-trade-no/TRADE0001/close", 405),
        ("POST", "/v3/pay/transactions/id/1/close", 404),
        ("GET", "/v3/refund/domestic/refunds", 405),
        ("POST", "/v3/refund/domestic/refunds/R1", 405),
        ("POST", "/v3/bill/tradebill", 405),
    ],
)
async def test_unknown_paths_and_methods_have_an_empty_body(folder, channel, method, target, status):
    async with simulator(folder, channel) as wire:
        answer = await wire.send(resigned(channel, method, target))
        assert (answer.status, answer.body) == (status, b"")


async def test_a_body_that_is_too_large_or_no_json_is_refused(folder, channel):
    async with simulator(folder, channel) as wire:
        for body, status in ((b"x" * 70_000, 413), (b"{", 400), (b"[" * 60_000, 400)):
            answer = await wire.send(resigned(channel, "POST", "/v3/pay/transactions/native", body))
            assert answer.status == status


async def test_a_number_is_signed_as_it_stands_in_the_path(folder, channel):
    async with simulator(folder, channel) as wire:
        request = next(channel.query(attempt("A|B*C-D_E"), stamp()))
        assert "%7C" in request.target
        assert (await wire.send(request)).status == 404
