"""The simulated WeChat Pay: whose requests it believes, and which keys it signs with."""

import json
import time

import pytest
from msgspec.structs import replace

from channels.contract import Accepted, ClosedAtChannel, Request
from channels.simulator import wechat_keys, wechat_requests
from channels.wechatpay import WeChatPay
from tests.integration.simulator.wechat_accounts import channel_of, resigned
from tests.integration.simulator.wire import AT_ONCE, attempt, inbox, payment, simulator, stamp

# --- who may speak


def with_authorization(request: Request, change) -> Request:
    return replace(request, headers={**request.headers, "Authorization": change(request.headers["Authorization"])})


def query_at(channel: WeChatPay, age_s: int = 0) -> Request:
    return next(channel.query(attempt("TRADE0001"), replace(stamp(), now_s=int(time.time()) - age_s)))


FORGERIES = {
    "no authorization": (lambda r: with_authorization(r, lambda _: ""), wechat_requests.BAD_AUTHORIZATION_PAY),
    "another scheme": (
        lambda r: with_authorization(r, lambda a: a.replace("RSA2048", "SM2")),
        "签名信息错误，验签失败",
    ),
    "a pair is missing": (
        lambda r: with_authorization(r, lambda a: a.replace("nonce_str", "n")),
        "签名信息错误，验签失败",
    ),
    "another target": (lambda r: replace(r, target=r.target + "&a=1"), "签名错误"),
    "another body": (lambda r: replace(r, body=b"{}"), "签名错误"),
    "another nonce": (lambda r: with_authorization(r, lambda a: a.replace('nonce_str="', 'nonce_str="x')), "签名错误"),
    "another serial": (lambda r: with_authorization(r, lambda a: a.replace('serial_no="', 'serial_no="A')), "签名错误"),
    "another merchant": (lambda r: with_authorization(r, lambda a: a.replace('mchid="', 'mchid="9')), "签名错误"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_request_that_is_not_signed_as_it_came_gets_the_real_text_and_no_signature(folder, channel, forgery):
    forge, text = FORGERIES[forgery]
    async with simulator(folder, channel) as wire:
        answer = await wire.send(forge(query_at(channel)))
        assert (answer.status, json.loads(answer.body)["code"]) == (401, "SIGN_ERROR")
        assert json.loads(answer.body)["message"] == text
        assert not [name for name in answer.headers if name.startswith("wechatpay-")]


@pytest.mark.parametrize("age_s", [301, -301])
async def test_a_request_five_minutes_off_is_refused_before_its_signature_is_looked_at(folder, channel, age_s):
    async with simulator(folder, channel) as wire:
        answer = await wire.send(replace(query_at(channel, age_s), target="/v3/certificates"))
        assert json.loads(answer.body)["message"] == wechat_requests.BAD_TIMESTAMP


async def test_pairs_may_come_in_any_order_and_the_serial_in_lower_case(folder, channel):
    def shuffled(authorization: str) -> str:
        scheme, _, pairs = authorization.partition(" ")
        serial = authorization.partition('serial_no="')[2].partition('"')[0]
        return f"{scheme} {','.join(reversed(pairs.split(',')))}".replace(serial, serial.lower())

    async with simulator(folder, channel) as wire:
        answer = await wire.send(with_authorization(query_at(channel), shuffled))
        assert (answer.status, json.loads(answer.body)["code"]) == (404, "ORDER_NOT_EXIST")


async def test_certificates_without_authorization_get_their_own_text_and_a_missing_agent_is_named_first(
    folder, channel
):
    async with simulator(folder, channel) as wire:
        headers = {"Accept": "application/json", "User-Agent": "x"}
        answer = await wire.send(Request("GET", "/v3/certificates", headers))
        assert json.loads(answer.body)["message"] == wechat_requests.BAD_AUTHORIZATION
        answer = await wire.send(Request("GET", "/v3/certificates", {**headers, "User-Agent": ""}))
        assert (answer.status, json.loads(answer.body)["message"]) == (400, wechat_requests.NO_AGENT)


# --- keys


async def test_answers_are_signed_by_the_public_key_if_asked_for_and_by_a_certificate_otherwise(folder, keys):
    files = keys[1]["holdfast"]
    certificate = wechat_keys.load(keys[0]).certificates[0]
    for only, serial, number in ((False, files.public_key_id, "TRADE0001"), (True, certificate.serial, "TRADE0002")):
        channel = channel_of(files, certificates_only=only)
        async with simulator(folder, channel) as wire:
            answer = await wire.send(next(channel.pay(payment(number, "http://e.com/n"), stamp())))
            assert answer.headers["wechatpay-serial"] == serial
            assert await wire.close(number) == ClosedAtChannel()


async def test_a_rotated_certificate_is_fetched_when_it_first_signs(folder, keys):
    channel = channel_of(keys[1]["holdfast"], certificates_only=True)
    async with simulator(folder, channel, faults={"rotation": 1.0}) as wire:
        answer = await wire.send(next(channel.refresh_keys(stamp())))
        assert len(json.loads(answer.body)["data"]) == 2
        assert isinstance(await wire.pay("TRADE0001"), Accepted)


async def test_notifications_mix_both_kinds_of_key_and_a_refresh_makes_the_new_ones_believed(folder, keys):
    channel = channel_of(keys[1]["holdfast"])
    faults = {"certificate_share": 0.5, "rotation": 0.5}
    async with inbox(channel) as box, simulator(folder, channel, faults=faults, payers=AT_ONCE) as wire:
        for number in range(24):
            await wire.pay(f"TRADE{number:04d}", box.url)
        serials, paid = set(), set()
        while len(paid) < 24:
            received = await box.next()
            serials.add(received.headers["wechatpay-serial"])
            if received.reason == "unknown_key":
                assert await wire.run(channel.refresh_keys(stamp()))
            elif received.payment:
                paid.add(received.payment.out_trade_no)
        assert len(serials) == 3


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("/v3/bill/tradebill?bill_date=2026-11-21", wechat_requests.BAD_AUTHORIZATION),
        ("/v3/refund/domestic/refunds/R1", wechat_requests.BAD_AUTHORIZATION),
        ("/v3/pay/transactions/out-trade-no/TRADE0001?mchid=1", wechat_requests.BAD_AUTHORIZATION_PAY),
    ],
)
async def test_no_authorization_gets_the_text_of_its_path(folder, channel, target, text):
    async with simulator(folder, channel) as wire:
        request = with_authorization(resigned(channel, "GET", target), lambda _: "")
        answer = await wire.send(request)
        assert (answer.status, json.loads(answer.body)) == (401, {"code": "SIGN_ERROR", "message": text})
