"""Bad input is a 4xx problem document that names the field; it leaves no row behind and is never a 5xx."""

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from gateway.storage.apps import NewApp
from tests.integration.gateway_parts import (
    NOBODY,
    Answer,
    Api,
    Running,
    order_body,
)
from tests.integration.raw_http import Raw

BRACKETS = b"[" * 100_000
FEWER_BRACKETS = b"[" * 60_000  # as many as fit into a body
pytestmark = pytest.mark.usefixtures("untouched")


@pytest.fixture
def api(session: aiohttp.ClientSession, gateway: Running, clumsy: NewApp) -> Api:
    return Api(session, gateway.url, clumsy.api_key)


def body(**raw: str) -> bytes:
    """A create whose other fields are fine; values are JSON text."""
    fine = {name: json.dumps(value) for name, value in order_body().items()}
    return ("{" + ",".join(f'"{name}":{value}' for name, value in {**fine, **raw}.items()) + "}").encode()


def with_more(more: bytes) -> bytes:
    """A fine create with more text before its closing bracket."""
    return body()[:-1] + more + b"}"


NOT_AN_AMOUNT = [
    *("1.5", "1.0", "1e2", "1E2", "0x10", "true", "false", "-1", "-0", "0", "null", '"100"', "[]", "{}", "[1]"),
    *("1" + "0" * 12 + "1", "1" + "0" * 30, "9" * 4000, "9223372036854775808", "-9223372036854775809", "1e400"),
]
NOT_JSON = ["NaN", "Infinity", "-Infinity", "01", "+1", ".5", "1_000", "undefined", "'1'", "", "1;"]


@pytest.mark.parametrize("amount", NOT_AN_AMOUNT, ids=lambda amount: amount[:24])
async def test_an_amount_is_a_positive_integer_and_nothing_else(api: Api, amount: str) -> None:
    answer = await api.request("POST", "/v1/orders", body(amount=amount))
    answer.problem(400, "parameter_invalid", "amount")


@pytest.mark.parametrize("amount", NOT_JSON)
async def test_what_is_not_json_is_malformed(api: Api, amount: str) -> None:
    answer = await api.request("POST", "/v1/orders", body(amount=amount))
    answer.problem(400, "body_malformed")


WRONG_FIELDS = [
    ("out_order_no", '""'),
    ("out_order_no", '"with space"'),
    ("out_order_no", '"' + "x" * 65 + '"'),
    ("out_order_no", '"x\\n"'),
    ("out_order_no", '"店"'),
    ("out_order_no", "7"),
    ("currency", '"USD"'),
    ("currency", '"cny"'),
    ("currency", "null"),
    ("subject", '""'),
    ("subject", "null"),
    ("subject", "5"),
    ("subject", '"' + "x" * 128 + '"'),
    ("buyer", '""'),
    ("buyer", "{}"),
    ("buyer", '"' + "x" * 129 + '"'),
    ("items", "{}"),
    ("items", json.dumps([{"name": "x"}] * 101)),
    ("items[0]", "[1]"),
    ("items[0]", "[null]"),
    ("items[0].name", '[{"name": ""}]'),
    ("items[0].name", '[{"quantity": 1}]'),
    ("items[0].quantity", '[{"name": "x", "quantity": 1.0}]'),
    ("items[0].quantity", '[{"name": "x", "quantity": true}]'),
    ("items[0].amount", '[{"name": "x", "amount": -1}]'),
    ("items[0].price", '[{"name": "x", "price": 1}]'),
    ("expires_in_s", "4"),
    ("expires_in_s", "0"),
    ("expires_in_s", "604801"),
    ("expires_in_s", "60.5"),
    ("expires_in_s", "false"),
    ("metadata", "[]"),
    ("metadata[...]", '{"a": 1}'),
    ("metadata[...]", '{"a": {"b": "c"}}'),
    ("metadata[...]", '{"a": "' + "x" * 513 + '"}'),
    ("metadata", '{"": "x"}'),
    ("metadata", json.dumps({"k" * 129: "x"})),
    ("metadata", json.dumps({f"k{n}": "x" for n in range(51)})),
    ("late_payment", '"give"'),
    ("late_payment", "null"),
]


@pytest.mark.parametrize(("param", "value"), WRONG_FIELDS, ids=lambda text: text[:30])
async def test_a_field_with_a_wrong_value_is_named(api: Api, param: str, value: str) -> None:
    answer = await api.request("POST", "/v1/orders", body(**{param.partition("[")[0]: value}))
    code = "parameter_invalid"
    if param.endswith("price"):
        code = "parameter_unknown"
    elif param.endswith("name") and "quantity" in value:
        code = "parameter_missing"
    answer.problem(400, code, param)


NOT_A_URL = [
    *("shop.example", "ftp://shop.example", "http://", "javascript:alert(1)", "http://shop.example:99999/x"),
    *("http://a b/", "http://user:password@shop.example/", "http://[::1", "http://\u5e97.example/", "//shop.example/"),
    *("http://shop.example/\\u0009", "http://shop.example/#fragment", "x" * 513),
]


@pytest.mark.parametrize("url", NOT_A_URL, ids=lambda url: url[:30])
@pytest.mark.parametrize("param", ["webhook_url", "return_url"])
async def test_an_address_is_http_and_holds_no_user(api: Api, param: str, url: str) -> None:
    answer = await api.request("POST", "/v1/orders", body(**{param: f'"{url}"'}))
    answer.problem(400, "parameter_invalid", param)


@pytest.mark.parametrize("name", ["out_order_no", "amount", "currency", "subject"])
async def test_a_missing_field_is_named(api: Api, name: str) -> None:
    answer = await api.create(**{name: None})
    answer.problem(400, "parameter_missing", name)


@pytest.mark.parametrize(
    "name", ["state", "paid_amount", "order_id", "app_id", "version", "Amount", "amount ", "", "__proto__", "价"]
)
async def test_an_unknown_field_is_refused_and_named(api: Api, name: str) -> None:
    answer = await api.request("POST", "/v1/orders", {**order_body(), name: "paid"})
    answer.problem(400, "parameter_unknown", name or None)


DUPLICATES = [
    ("amount", b',"amount":1'),
    ("amount", b',"amo\\u0075nt":1'),
    ("amount", b',"\\u0061mount" :1'),
    ("subject", b',"subject":"a thing"'),
    ("metadata", b',"metadata":{},"metadata":{}'),
    ("a", b',"metadata":{"a":"1","a":"2"}'),
    ("a", b',"metadata":{"a":"1","\\u0061":"2"}'),
    ("name", b',"items":[{"name":"x"},{"name":"y","name":"z"}]'),
    ("quantity", b',"items":[{"name":"x","quantity":1,"quant\\u0069ty":2}]'),
]


@pytest.mark.parametrize(("param", "more"), DUPLICATES, ids=lambda text: str(text)[:40])
async def test_a_field_that_stands_there_twice_is_refused(api: Api, param: str, more: bytes) -> None:
    answer = await api.request("POST", "/v1/orders", with_more(more))
    answer.problem(400, "parameter_duplicate", param)


HIDDEN = [
    ("subject", r'"a\u0000b"'),
    ("subject", r'"a\u0007b"'),
    ("subject", r'"a\nb"'),
    ("subject", r'"a\u007fb"'),
    ("subject", r'"a\u0085b"'),
    ("subject", '"a\x7fb"'),
    ("subject", '"a\x85b"'),
    ("subject", r'"\ud800"'),
    ("subject", r'"\udc00\ud800"'),
    ("subject", r'"x\udfff"'),
    ("buyer", r'"\u0000"'),
    ("metadata.a", r'{"a":"\u0000"}'),
    ("metadata.a", r'{"a":"\ud800"}'),
    ("metadata", r'{"\u0000":"a"}'),
    ("items[0].name", r'[{"name":"\u0000"}]'),
    ("items[1].sku", r'[{"name":"x"},{"name":"y","sku":"\ud83d"}]'),
]


@pytest.mark.parametrize(("param", "value"), HIDDEN, ids=ascii)
async def test_control_characters_and_lone_surrogates_are_refused(api: Api, param: str, value: str) -> None:
    name = param.partition(".")[0].partition("[")[0]
    answer = await api.request("POST", "/v1/orders", body(**{name: value}))
    answer.problem(400, "parameter_invalid", param)


RAW = {
    "empty": b"",
    "white space": b" \n\t ",
    "array": b"[]",
    "array of orders": b"[" + body() + b"]",
    "null": b"null",
    "true": b"true",
    "text": b'"x"',
    "number": b"1",
    "two objects": body() + body(),
    "trailing text": body() + b"x",
    "byte order mark": b"\xef\xbb\xbf" + body(),
    "utf-16": body().decode().encode("utf-16"),
    "not utf-8": body(subject='"?"').replace(b"?", b"\xff\xfe"),
    "surrogates in utf-8": body(subject='"?"').replace(b"?", b"\xed\xa0\x80"),
    "overlong": body(subject='"?"').replace(b"?", b"\xc0\x80"),
    "raw zero byte": body(subject='"a\x00b"'),
    "raw control character": body(subject='"a\x01b"'),
    "raw line feed": body(subject='"a\nb"'),
    "cut off": body()[:-1],
    "cut off in an escape": body()[:-3] + b"\\u00",
    "bad escape": body(subject='"\\x41"'),
    "brackets": FEWER_BRACKETS,
    "brackets after an escape": b'"\\u0041"' + FEWER_BRACKETS,
    "braces": b'{"a":' * 12_000,
    "form": b"amount=1&subject=x",
    "xml": b"<order/>",
}


@pytest.mark.parametrize("name", RAW)
async def test_a_body_that_is_no_json_object_is_refused(api: Api, name: str) -> None:
    answer = await api.request("POST", "/v1/orders", RAW[name])
    if name == "braces":
        answer.problem(400, "parameter_unknown", "a")
    else:
        answer.problem(400, "body_malformed")


@pytest.mark.parametrize("name", ["out_order_no", "amount", "subject", "buyer", "metadata", "items", "unknown"])
@pytest.mark.parametrize("bracket", ["[", '{"a":'])
async def test_brackets_in_a_field_are_refused(api: Api, name: str, bracket: str) -> None:
    answer = await api.request("POST", "/v1/orders", body(**{name: bracket * (60_000 // len(bracket))}))
    assert answer.status == 400
    document = answer.problem(400, answer.json["code"], answer.json.get("param"))
    assert document["param"].startswith(name)


async def test_a_hundred_thousand_brackets_are_too_large(api: Api) -> None:
    answer = await api.request("POST", "/v1/orders", BRACKETS)
    answer.problem(413, "body_too_large")


async def test_a_large_body_is_refused_whether_its_length_is_told_or_not(api: Api) -> None:
    large = body(subject='"' + "x" * 70_000 + '"')

    async def chunks() -> AsyncIterator[bytes]:
        for first in range(0, len(large), 7_000):
            yield large[first : first + 7_000]

    (await api.request("POST", "/v1/orders", large)).problem(413, "body_too_large")
    headers = {"Authorization": f"Bearer {api.key}", "Content-Type": "application/json"}
    async with api.session.post(f"{api.url}/v1/orders", data=chunks(), headers=headers) as answer:
        Answer(answer.status, answer.headers, await answer.read()).problem(413, "body_too_large")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
async def test_a_wrong_content_type_is_refused(api: Api, content_type: str) -> None:
    answer = await api.request("POST", "/v1/orders", order_body(), {"Content-Type": content_type})
    answer.problem(415, "content_type_unsupported", "Content-Type")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "x"])
@pytest.mark.parametrize("path", ["/v1/orders", f"/v1/orders/{NOBODY}/pay"])
async def test_an_encoded_body_is_refused(api: Api, path: str, encoding: str) -> None:
    """Whether it holds what it says or not: nothing is unpacked."""
    for packed in (gzip.compress(body()), b"rubbish"):
        answer = await api.request("POST", path, packed, {"Content-Encoding": encoding})
        assert answer.status in (404, 415)
        answer.problem(answer.status, answer.json["code"], answer.json["param"])


# --- pay, close, sync, find -----------------------------------------------------------------------------------------


WRONG_PAYS = [
    ({"channel": "alipay", "method": "native"}, "channel_not_installed", "channel", "wechatpay"),
    ({"channel": "wechatpay", "method": "precreate"}, "method_not_offered", "method", "native"),
    ({"channel": "wechatpay", "method": "native", "params": {"a": "b"}}, "parameter_unknown", "params.a", "possible"),
    ({"channel": "wechatpay"}, "parameter_missing", "method", ""),
    ({"method": "native"}, "parameter_missing", "channel", ""),
    ({"channel": "WeChatPay", "method": "native"}, "parameter_invalid", "channel", ""),
    ({"channel": "x" * 33, "method": "native"}, "parameter_invalid", "channel", ""),
    ({"channel": 1, "method": "native"}, "parameter_invalid", "channel", ""),
    ({"channel": "wechatpay", "method": None}, "parameter_invalid", "method", ""),
    ({"channel": "wechatpay", "method": "native", "amount": 1}, "parameter_unknown", "amount", ""),
    ({"channel": "wechatpay", "method": "native", "params": []}, "parameter_invalid", "params", ""),
    ({"channel": "wechatpay", "method": "native", "params": {"a": "\0"}}, "parameter_invalid", "params.a", ""),
]


@pytest.mark.parametrize(("pay", "code", "param", "named"), WRONG_PAYS, ids=lambda value: str(value)[:40])
async def test_a_wrong_pay_names_the_field_and_what_is_possible(
    order_id: str, api: Api, pay: dict[str, Any], code: str, param: str, named: str
) -> None:
    answer = await api.request("POST", f"/v1/orders/{order_id}/pay", pay)
    assert named in answer.problem(400, code, param)["detail"]


@pytest.mark.parametrize("call", ["close", "sync"])
@pytest.mark.parametrize("more", [b"[]", b"null", b'{"force":true}', b"x", BRACKETS[:60_000]], ids=str)
async def test_close_and_sync_take_no_body(order_id: str, api: Api, call: str, more: bytes) -> None:
    answer = await api.request("POST", f"/v1/orders/{order_id}/{call}", more)
    unknown = more.startswith(b"{")
    answer.problem(400, "parameter_unknown" if unknown else "body_malformed", "force" if unknown else None)


@pytest.mark.parametrize("call", ["close", "sync"])
async def test_close_and_sync_unpack_nothing(order_id: str, api: Api, call: str) -> None:
    for packed in (gzip.compress(b"{}"), b"rubbish"):
        answer = await api.request("POST", f"/v1/orders/{order_id}/{call}", packed, {"Content-Encoding": "gzip"})
        answer.problem(415, "content_type_unsupported", "Content-Encoding")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "parameter_missing"),
        ("?out_order_no=", "parameter_missing"),
        ("?number=1", "parameter_missing"),
        ("?out_order_no=%00", "parameter_invalid"),
        ("?out_order_no=" + "x" * 65, "parameter_invalid"),
        ("?out_order_no=%ff", "parameter_invalid"),
        ("?out_order_no=%ed%a0%80", "parameter_invalid"),
        ("?out_order_no=a%0ab", "parameter_invalid"),
        ("?out_order_no=the-one&out_order_no=other", "parameter_duplicate"),
    ],
    ids=ascii,
)
async def test_a_wrong_query_is_refused(order_id: str, raw: Raw, query: str, code: str) -> None:
    (await raw.get(f"/v1/orders{query}")).problem(400, code, "out_order_no")
