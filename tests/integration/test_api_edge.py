"""Who asks, and in what HTTP: a wrong key is 401, another's order 404, no HTTP 400; each a problem document."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from gateway.api import bodies
from gateway.storage.apps import NewApp
from tests.integration.gateway_parts import NOBODY, WITHIN_S, Api, Platform, Running, started, write_config
from tests.integration.raw_http import Raw, read_answer

pytestmark = pytest.mark.usefixtures("untouched")


@pytest.fixture
def api(session: aiohttp.ClientSession, gateway: Running, clumsy: NewApp) -> Api:
    return Api(session, gateway.url, clumsy.api_key)


# --- who asks -------------------------------------------------------------------------------------------------------


CALLS = [
    ("GET", "/v1/orders/{}"),
    ("GET", "/v1/orders?out_order_no=the-one"),
    ("GET", "/v1/orders/{}/timeline"),
    ("POST", "/v1/orders/{}/pay"),
    ("POST", "/v1/orders/{}/close"),
    ("POST", "/v1/orders/{}/sync"),
]


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_another_apps_order_does_not_exist(
    order_id: str, api: Api, stranger: NewApp, method: str, path: str
) -> None:
    body = {"channel": "wechatpay", "method": "native"} if path.endswith("pay") else None
    path = path.format(order_id)
    theirs = Api(api.session, api.url, stranger.api_key)
    theirs_answer = await theirs.request(method, path, body)
    nobodys = await theirs.request(method, path.replace(order_id, NOBODY).replace("the-one", "no-one"), body)
    documents = [answer.problem(404, "order_not_found", answer.json["param"]) for answer in (theirs_answer, nobodys)]
    for document in documents:
        del document["request_id"]
    assert documents[0] == documents[1], "what is another's looks like what is not there"


@pytest.mark.parametrize("wrong_id", ["x", "0" * 25, "0" * 27, "a" * 26, "%00" * 26, "..%2f..", "0" * 25 + "%0A"])
@pytest.mark.parametrize("call", ["", "/timeline"])
async def test_what_is_no_order_id_is_not_found(raw: Raw, wrong_id: str, call: str) -> None:
    (await raw.get(f"/v1/orders/{wrong_id}{call}")).problem(404, "order_not_found", "order_id")


KEYS = {
    "missing": None,
    "empty": "",
    "only the scheme": "Bearer",
    "nothing after the scheme": "Bearer ",
    "two spaces": "Bearer  {key}",
    "more after it": "Bearer {key} x",
    "another scheme": "Basic {key}",
    "no scheme": "{key}",
    "wrong": "Bearer hk_" + "A" * 43,
    "cut off": "Bearer {short}",
    "huge": "Bearer " + "A" * 7_000,
    "lower case": "Bearer {lower}",
}


@pytest.mark.parametrize("name", KEYS)
async def test_a_wrong_key_is_nobody(raw: Raw, clumsy: NewApp, name: str) -> None:
    template = KEYS[name]
    lines = []
    if template is not None:
        key = clumsy.api_key
        lines.append("Authorization: " + template.format(key=key, short=key[:-1], lower=key.lower()))
    for method, path in (("POST", "/v1/orders"), *CALLS):
        answer = await raw.ask(method, path.format(NOBODY), *lines, "Content-Length: 0")
        answer.problem(401, "unauthorized", "Authorization")
        assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_two_keys_are_one_too_many(raw: Raw, clumsy: NewApp, stranger: NewApp) -> None:
    lines = [f"Authorization: Bearer {app.api_key}" for app in (clumsy, stranger)]
    (await raw.ask("GET", f"/v1/orders/{NOBODY}", *lines)).problem(401, "unauthorized", "Authorization")


async def test_the_scheme_is_not_case_sensitive(raw: Raw, clumsy: NewApp) -> None:
    answer = await raw.ask("GET", f"/v1/orders/{NOBODY}", f"Authorization: bearer {clumsy.api_key}")
    answer.problem(404, "order_not_found", "order_id")


# --- HTTP -----------------------------------------------------------------------------------------------------------


LINES = b"POST /v1/orders HTTP/1.1\r\nHost: x\r\n"
NOT_HTTP = {
    "length and chunks": LINES + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": LINES + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "signed length": LINES + b"Content-Length: +5\r\n\r\nhello",
    "negative length": LINES + b"Content-Length: -5\r\n\r\nhello",
    "unknown transfer coding": LINES + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two hosts": LINES + b"Host: y\r\n\r\n",
    "no host": b"POST /v1/orders HTTP/1.1\r\n\r\n",
    "bare line feeds": b"POST /v1/orders HTTP/1.1\nHost: x\n\n",
    "folded header": LINES + b"X-Folded: a\r\n b\r\n\r\n",
    "zero byte in a header": LINES + b"X-Zero: a\0b\r\n\r\n",
    "space before the colon": LINES + b"Content-Length : 5\r\n\r\nhello",
    "long header": LINES + b"X-Long: " + b"x" * 9_000 + b"\r\n\r\n",
    "long target": b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "many headers": LINES + b"".join(b"X-%d: x\r\n" % n for n in range(2_000)) + b"\r\n",
    "chunk of no size": LINES + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    "rubbish": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "target that is not ascii": "GET /v1/orders/\u5e97 HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    "http/2.0": b"GET /livez HTTP/2.0\r\nHost: x\r\n\r\n",
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http/0.9": b"GET /livez\r\n\r\n",
    "http/1.2": b"GET /livez HTTP/1.2\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("name", NOT_HTTP)
async def test_what_is_not_http_is_refused_in_a_problem_document(raw: Raw, name: str) -> None:
    answer = await raw.send(NOT_HTTP[name])
    answer.problem(400, answer.json["code"])
    assert answer.json["code"] in ("request_malformed", "protocol_unsupported")


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/order", "/v1/orders/x/y/z", "/callbacks", "//", "/v1/orders/", "/%2e"]
)
async def test_an_unknown_path_is_not_found(raw: Raw, path: str) -> None:
    answer = await raw.get(path)
    answer.problem(404, answer.json["code"], answer.json.get("param"))


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/orders", "GET,POST"),
        ("HEAD", "/v1/orders", "GET,POST"),
        ("PUT", f"/v1/orders/{NOBODY}", "GET"),
        ("GET", f"/v1/orders/{NOBODY}/pay", "POST"),
        ("POST", f"/v1/orders/{NOBODY}/timeline", "GET"),
        ("GET", f"/callbacks/wechatpay/{NOBODY}/01", "POST"),
        ("TRACE", "/livez", "GET,HEAD"),
        ("OPTIONS", "/v1/orders", "GET,POST"),
    ],
)
async def test_a_wrong_method_is_told_which_are_right(api: Api, method: str, path: str, allowed: str) -> None:
    answer = await api.request(method, path)
    if method != "HEAD":
        answer.problem(405, "method_not_allowed")
    assert answer.status == 405
    assert sorted(answer.headers["Allow"].split(",")) == allowed.split(",")


@pytest.mark.parametrize("given", ["abc", "0.1:2-3_Z", "x" * 64])
async def test_a_request_id_of_the_callers_comes_back(raw: Raw, given: str) -> None:
    answer = await raw.ask("GET", "/v1/orders", f"X-Request-Id: {given}")
    assert answer.problem(401, "unauthorized", "Authorization")["request_id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, '"x"', "a\tb", "<script>", "\u5e97"])
async def test_a_malformed_request_id_is_replaced(raw: Raw, given: str) -> None:
    answer = await raw.ask("GET", "/v1/orders", f"X-Request-Id: {given}")
    request_id = answer.problem(401, "unauthorized", "Authorization")["request_id"]
    assert request_id.startswith("req_")


async def test_every_request_has_an_id_of_its_own(raw: Raw) -> None:
    answers = [await raw.ask("GET", "/livez") for _ in range(3)]
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == 3


async def test_a_body_that_stops_half_way_is_given_up_and_its_connection_closed(
    gateway: Running, platform: Platform, clumsy: NewApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_WAIT_S", 0.2)
    key = f"Authorization: Bearer {clumsy.api_key}\r\nContent-Type: application/json\r\n"
    halves = [
        f"POST /v1/orders HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 100\r\n\r\n" + '{"out',
        f"POST /v1/orders HTTP/1.1\r\nHost: x\r\n{key}Transfer-Encoding: chunked\r\n\r\n5\r\n" + '{"out\r\n',
        f"POST /callbacks/wechatpay/{NOBODY}/01 HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 100\r\n\r\n" + '{"id',
    ]
    async with started(write_config(tmp_path / "gateway.toml", gateway.database_url, platform)) as running:
        await asyncio.gather(*(_is_given_up(running.url, half.encode()) for half in halves))


async def _is_given_up(url: str, half: bytes) -> None:
    async with asyncio.timeout(WITHIN_S):
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        writer.write(half)
        (await read_answer(reader)).problem(408, "request_timeout")
        assert await reader.read() == b"", "the connection is closed"
        writer.close()


async def test_a_caller_who_hangs_up_in_his_body_leaves_nothing(raw: Raw, gateway: Running, clumsy: NewApp) -> None:
    where = urlsplit(gateway.url)
    for length in (b"Content-Length: 100\r\n", b"Transfer-Encoding: chunked\r\n"):
        _, writer = await asyncio.open_connection(where.hostname, where.port)
        key = f"Authorization: Bearer {clumsy.api_key}\r\nContent-Type: application/json\r\n".encode()
        writer.write(LINES + key + length + b'\r\n{"out')
        await writer.drain()
        writer.transport.abort()
    assert (await raw.ask("GET", "/livez")).status == 200


async def test_nothing_here_was_a_mistake_of_ours(gateway: Running, raw: Raw) -> None:
    """Runs last: the session's gateway logged no failed request and no traceback."""
    log = gateway.log.read_text()
    assert "request_failed" not in log, log[-3000:]
    assert "Traceback" not in log, log[-3000:]
