"""The simulated Alipay: whose requests it believes, however they are sent, and with which keys it signs."""

import asyncio
import json
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from msgspec.structs import replace

from channels import signing
from channels.alipay import Alipay
from channels.contract import Accepted, NotFound, Paid, Refused, Unknown
from channels.moments import plain
from tests.integration.simulator.alipay_accounts import alipay, ask, channel_of, params_of
from tests.integration.simulator.wire import AT_ONCE, attempt, inbox, payment, stamp

NODE = "alipay_trade_query_response"


def query(wire, number="TRADE0001"):
    return params_of(next(wire.channel.query(attempt(number), stamp())))


def signed(files, params, charset="utf-8"):
    """Parameters signed as the platform documents it, by nothing of ours but RSA."""
    key = signing.load_private_key(Path(files.private_key_file).read_bytes(), "key")
    left = {name: value for name, value in params.items() if name != "sign" and value}
    message = "&".join(f"{name}={left[name]}" for name in sorted(left))
    return {**params, "sign": signing.sign(key, message.encode(charset))}


# --- who may speak


BAD = {
    "no app": ({"app_id": ""}, "40001", "isv.missing-app-id"),
    "no method": ({"method": ""}, "40001", "isv.missing-method"),
    "no signature": ({"sign": ""}, "40001", "isv.missing-signature"),
    "no kind of signature": ({"sign_type": ""}, "40001", "isv.missing-signature-type"),
    "no time": ({"timestamp": ""}, "40001", "isv.missing-timestamp"),
    "no version": ({"version": ""}, "40001", "isv.missing-version"),
    "a made-up app, whatever its signature": (
        {"app_id": "2021000000000000", "sign": "x"},
        "40002",
        "isv.invalid-app-id",
    ),
    "an unknown method": ({"method": "alipay.trade.order"}, "40002", "isv.invalid-method"),
    "the old kind of signature": ({"sign_type": "RSA"}, "40002", "isv.invalid-signature-type"),
    "another charset": ({"charset": "latin-1"}, "40002", "isv.invalid-charset"),
    "no such time": ({"timestamp": "2026-11-21T10:00:00"}, "40002", "isv.invalid-timestamp"),
    "another content": ({"biz_content": '{"out_trade_no":"TRADE0002"}'}, "40002", "isv.invalid-signature"),
    "another field": ({"notify_url": "https://example.com/"}, "40002", "isv.invalid-signature"),
}


@pytest.mark.parametrize("bad", BAD)
async def test_what_the_gateway_refuses_it_refuses_in_its_words_and_does_not_sign(alipay_folder, alipay_files, bad):
    change, code, sub_code = BAD[bad]
    async with alipay(alipay_folder, alipay_files) as wire:
        answer = await ask(wire, {**query(wire), **change})
        said = json.loads(answer.body)
        (node,) = said.values()
        assert (answer.status, node["code"], node["sub_code"]) == (200, code, sub_code)
        assert answer.headers["content-type"] == "text/html;charset=utf-8"
        known = change.get("method", "alipay.trade.query") == "alipay.trade.query"
        assert list(said) == [NODE if known and sub_code != "isv.invalid-charset" else "error_response"]


async def test_our_channel_takes_a_gateway_refusal_for_what_it_is(alipay_folder, alipay_files, alipay_keys):
    async with alipay(alipay_folder, alipay_files) as wire:
        control = channel_of(alipay_keys[1]["control"], wire.url)
        wire.channel = Alipay(replace(control._credentials, app_id=alipay_files.app_id))  # our app, signed by theirs
        refused = await wire.pay("TRADE0001", method="qr")
        assert isinstance(refused, Refused)
        assert isinstance(await wire.query("TRADE0001"), Unknown)


@pytest.mark.parametrize("content", ["{", "[]", '{"out_trade_no":7}', "null", "[" * 5000])
async def test_content_that_is_no_content_is_refused(alipay_folder, alipay_files, content):
    async with alipay(alipay_folder, alipay_files) as wire:
        answer = await ask(wire, signed(alipay_files, {**query(wire), "biz_content": content}), in_body=True)
        assert json.loads(answer.body)[NODE]["sub_code"] == "isv.invalid-parameter"


# --- however it is sent


def spellings(params):
    """The same request as SDKs of different hands send it: target, body."""
    query = urlencode(params)
    spaced = urlencode(params, quote_via=quote)
    common = urlencode({name: value for name, value in params.items() if name != "biz_content"})
    content = urlencode({"biz_content": params["biz_content"]})
    return {
        "all in the query, GET": ("GET", f"/gateway.do?{query}", ""),
        "all in the query, POST": ("POST", f"/gateway.do?{query}", ""),
        "content in the body": ("POST", f"/gateway.do?{common}", content),
        "all in the body": ("POST", "/gateway.do", query),
        "blanks as %20": ("GET", f"/gateway.do?{spaced}", ""),
        "an absolute target": ("POST", f"http://openapi.alipay.com/gateway.do?{common}", content),
    }


@pytest.mark.parametrize("spelling", spellings({"biz_content": ""}))
async def test_a_request_is_read_wherever_its_parameters_stand(alipay_folder, alipay_files, spelling):
    async with alipay(alipay_folder, alipay_files) as wire:
        own = params_of(
            next(wire.channel.pay(payment("TRADE0001", "http://e.com/n", method="qr", subject="茶 +%"), stamp()))
        )
        method, target, body = spellings(own)[spelling]
        said = await over_a_socket(wire.url, method, target, body)
        assert said["alipay_trade_precreate_response"]["msg"] == "Success"
        (trade,) = await wire.steer("/_sim/trades")
        assert trade["description"] == "茶 +%"


async def over_a_socket(url, method, target, body):
    """Byte for byte: an HTTP client would put an absolute target right."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    form = "application/x-www-form-urlencoded;charset=utf-8"
    head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {form}\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
    answer = await reader.read()
    writer.close()
    return json.loads(answer.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize(
    "content",
    [
        '{"out_trade_no":"TRADE0001","total_amount":"1.00","subject":"\\u8336","product_code":"QR_CODE_OFFLINE"}',
        '{ "subject" : "茶", "total_amount" : 1.00, "out_trade_no" : "TRADE0001" }',
        '{"out_trade_no":"TRADE0001","total_amount":1,"subject":"茶","goods_detail":[{"a":{}}],"store_id":"NJ_1"}',
    ],
)
async def test_content_may_be_any_json_of_the_same_meaning(alipay_folder, alipay_files, content):
    async with alipay(alipay_folder, alipay_files) as wire:
        params = {**query(wire), "method": "alipay.trade.precreate", "biz_content": content}
        answer = await ask(wire, signed(alipay_files, params))
        assert json.loads(answer.body)["alipay_trade_precreate_response"]["msg"] == "Success"
        (trade,) = await wire.steer("/_sim/trades")
        assert (trade["description"], trade["amount"]) == ("茶", 100)


async def test_a_request_in_gbk_is_read_and_answered_in_gbk(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire:
        content = '{"out_trade_no":"TRADE0001","total_amount":"1.00","subject":"茶"}'
        params = {**query(wire), "method": "alipay.trade.precreate", "charset": "GBK", "biz_content": content}
        body = urlencode(signed(alipay_files, params, "gbk"), encoding="gbk")
        said = await over_a_socket(wire.url, "POST", "/gateway.do", body)
        assert said["alipay_trade_precreate_response"]["msg"] == "Success"
        (trade,) = await wire.steer("/_sim/trades")
        assert trade["description"] == "茶"
        missing = signed(alipay_files, {**query(wire, "TRADE0009"), "charset": "gbk"}, "gbk")
        answer = await ask(wire, missing)
        assert answer.headers["content-type"] == "text/html;charset=gbk"
        assert "交易不存在".encode("gbk") in answer.body


async def test_empty_parameters_are_not_part_of_what_is_signed(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire:
        answer = await ask(wire, signed(alipay_files, {**query(wire), "app_auth_token": "", "return_url": ""}))
        assert json.loads(answer.body)[NODE]["sub_code"] == "ACQ.TRADE_NOT_EXIST"


async def test_two_of_a_parameter_are_not_a_request(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire:
        said = await over_a_socket(wire.url, "GET", f"/gateway.do?{urlencode(query(wire))}&app_id=1", "")
        assert said["error_response"]["sub_code"] == "isv.invalid-encoding"


# --- how it signs


@pytest.mark.parametrize("certified", [False, True])
async def test_answers_and_notifications_are_signed_in_the_mode_of_the_request(alipay_folder, alipay_files, certified):
    own, other = (channel_of(alipay_files, certified=mode) for mode in (certified, not certified))
    async with (
        inbox(own) as box,
        alipay(alipay_folder, alipay_files, certified=certified, payers=AT_ONCE) as wire,
    ):
        assert isinstance(await wire.pay("TRADE0001", box.url, method="qr"), Accepted)
        assert (await box.next()).payment.out_trade_no == "TRADE0001"
        answer = await wire.send(next(wire.channel.query(attempt("TRADE0001"), stamp())))
        assert ("alipay_cert_sn" in json.loads(answer.body)) is certified
        assert isinstance(await wire.query("TRADE0001"), Paid)
        theirs = other.query(attempt("TRADE0001"), stamp())
        next(theirs)
        with pytest.raises(StopIteration) as ended:
            theirs.send(answer)
        assert isinstance(ended.value.value, Unknown)  # keys of the two modes are not to be mixed up


async def test_a_certificate_that_is_not_the_apps_is_refused(alipay_folder, alipay_files, alipay_keys):
    async with alipay(alipay_folder, alipay_files, certified=True) as wire:
        control = channel_of(alipay_keys[1]["control"], certified=True)
        theirs = control._credentials.app_cert_sn
        wire.channel = Alipay(replace(wire.channel._credentials, app_cert_sn=theirs))
        refused = await wire.run(wire.channel._ask("alipay.trade.query", {"out_trade_no": "TRADE0001"}, stamp()))
        assert "isv.invalid-app-cert-sn" in refused.said


async def test_slashes_are_escaped_and_the_signature_is_over_the_very_text(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files, faults={"odd_values": 1.0}) as wire:
        answer = await wire.send(
            next(wire.channel.pay(payment("TRADE0001", "http://127.0.0.1:9/n", method="qr"), stamp()))
        )
        assert b'"qr_code":"https:\\/\\/qr.alipay.com\\/bav' in answer.body
        assert b'"sign\\":\\"' in answer.body
        assert await wire.query("TRADE0001") == NotFound()


async def test_the_time_of_a_request_is_not_compared_with_the_clock(alipay_folder, alipay_files):
    """Version 2 of the real one documents no window."""
    async with alipay(alipay_folder, alipay_files) as wire:
        old = signed(alipay_files, {**query(wire), "timestamp": plain(1)})
        assert json.loads((await ask(wire, old)).body)[NODE]["sub_code"] == "ACQ.TRADE_NOT_EXIST"
