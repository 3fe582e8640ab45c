"""What an app may rely on in holdfast_client."""

import base64
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from html.parser import HTMLParser

import msgspec
import pytest
import standardwebhooks
from aiohttp import web
from aiohttp.test_utils import TestServer

import holdfast_client as sdk

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(b"x" * 32).decode()
NOW = 1_764_000_000
ORDER = {
    "order_id": "0" * 26, "out_order_no": "A-1", "amount": 100, "currency": "CNY", "subject": "tea 茶",
    "state": "paid", "version": 3, "paid_amount": 100, "attempts": [], "some_new_member": 1,
}  # fmt: skip
BODY = json.dumps(
    {"id": "evt_1", "type": "order.paid", "created": "2025-11-24T16:00:00.123Z", "seq": 3, "data": {"object": ORDER}},
    ensure_ascii=False,
).encode()


def headers(body: bytes = BODY, *, secret: str = SECRET, at_s: int = NOW) -> dict[str, str]:
    signature = sdk.sign_webhook(secret, "evt_1", str(at_s), body)
    return {"Webhook-Id": "evt_1", "Webhook-Timestamp": str(at_s), "Webhook-Signature": signature}


# --- webhooks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [BODY, b"{}", "emoji \U0001f980".encode()])
def test_signatures_equal_those_of_the_standardwebhooks_package(body: bytes) -> None:
    theirs = standardwebhooks.Webhook(SECRET).sign("evt_1", datetime.fromtimestamp(NOW, tz=UTC), body.decode())
    assert sdk.sign_webhook(SECRET, "evt_1", str(NOW), body) == theirs


def test_the_standardwebhooks_package_believes_our_signature_and_refuses_a_changed_body() -> None:
    now_s = int(datetime.now(tz=UTC).timestamp())
    standardwebhooks.Webhook(SECRET).verify(BODY, headers(at_s=now_s))
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(SECRET).verify(BODY + b" ", headers(at_s=now_s))


def test_a_verified_webhook_is_read_into_an_event() -> None:
    event = sdk.verify_webhook(SECRET, headers(), BODY, now=NOW)
    assert (event.id, event.type, event.seq) == ("evt_1", "order.paid", 3)
    assert event.data.object.state is sdk.OrderState.PAID


def test_one_good_signature_among_several_is_enough_while_secrets_rotate() -> None:
    rotated = headers(secret=OTHER_SECRET)
    rotated["Webhook-Signature"] += " v1a,unknown " + headers()["Webhook-Signature"]
    assert sdk.verify_webhook(SECRET, rotated, BODY, now=NOW).seq == 3
    assert sdk.verify_webhook(OTHER_SECRET, rotated, BODY, now=NOW).seq == 3


@pytest.mark.parametrize("name", ["Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"])
def test_a_missing_header_is_named(name: str) -> None:
    incomplete = {key: value for key, value in headers().items() if key != name}
    with pytest.raises(sdk.MissingHeader, match=name.lower()):
        sdk.verify_webhook(SECRET, incomplete, BODY, now=NOW)


@pytest.mark.parametrize("off_s", [-301, 301])
def test_a_webhook_more_than_five_minutes_off_is_stale_and_exactly_five_is_not(off_s: int) -> None:
    with pytest.raises(sdk.StaleWebhook):
        sdk.verify_webhook(SECRET, headers(), BODY, now=NOW + off_s)
    nearly = off_s - 1 if off_s > 0 else off_s + 1
    assert sdk.verify_webhook(SECRET, headers(), BODY, now=NOW + nearly).seq == 3


@pytest.mark.parametrize("timestamp", ["now", "1e9", "-5", "٣", "9" * 40, "17.5"])
def test_a_timestamp_that_is_no_plain_number_is_refused(timestamp: str) -> None:
    with pytest.raises(sdk.StaleWebhook):
        sdk.verify_webhook(SECRET, {**headers(), "Webhook-Timestamp": timestamp}, BODY, now=NOW)


@pytest.mark.parametrize(
    ("changed", "body"),
    [
        ({}, BODY.replace(b'"amount": 100', b'"amount": 900')),
        ({"Webhook-Id": "evt_2"}, BODY),
        ({"Webhook-Timestamp": str(NOW + 1)}, BODY),
        ({"Webhook-Signature": "v1,"}, BODY),
        ({"Webhook-Signature": "v1,é\udcff"}, BODY),
        ({"Webhook-Id": "\udcff"}, BODY),
        ({"Webhook-Signature": headers(secret=OTHER_SECRET)["Webhook-Signature"]}, BODY),
    ],
)
def test_nothing_that_was_signed_can_be_changed(changed: dict[str, str], body: bytes) -> None:
    with pytest.raises(sdk.BadSignature):
        sdk.verify_webhook(SECRET, {**headers(), **changed}, body, now=NOW)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"id": 1}', b"\xff"])
def test_a_signed_body_that_is_no_event_is_unreadable_rather_than_a_crash(body: bytes) -> None:
    with pytest.raises(sdk.UnreadableWebhook):
        sdk.verify_webhook(SECRET, headers(body), body, now=NOW)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_***"])
def test_a_secret_that_anybody_could_know_or_nobody_can_use_is_refused(secret: str) -> None:
    with pytest.raises(sdk.BadSecret):
        sdk.verify_webhook(secret, headers(), BODY, now=NOW)


# --- the client -----------------------------------------------------------------------------------------------------

QUICK = sdk.Retry(deadline_s=2.0, try_timeout_s=0.5, first_pause_s=0.001, pause_max_s=0.01)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def gateway(handler: Handler, retry: sdk.Retry = QUICK) -> AsyncIterator[sdk.Holdfast]:
    """A client before a server that answers everything with `handler`."""
    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", handler)
    async with TestServer(application) as server, sdk.Holdfast(str(server.make_url("")), "hk_1", retry=retry) as client:
        yield client


def problem(status: int, **members: object) -> web.Response:
    return web.json_response(members, status=status, content_type="application/problem+json")


async def test_a_create_is_retried_with_the_same_number_until_it_is_answered() -> None:
    seen: list[bytes] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(await request.read())
        match len(seen):
            case 1:
                assert request.transport is not None
                request.transport.close()
                return web.Response()
            case 2:
                return problem(503, code="overloaded", retryable=True)
            case 3:
                return problem(429, code="rate_limited", retryable=True)
            case 4:
                return web.Response(body=b"<html>")
        return web.json_response({**ORDER, "state": "created"}, status=201)

    async with gateway(handler) as client:
        order = await client.create_order(out_order_no="A-1", amount=100, currency="CNY", subject="tea", buyer="b")
    assert order.state is sdk.OrderState.CREATED
    assert len(seen) == 5
    assert len(set(seen)) == 1
    assert msgspec.json.decode(seen[0])["out_order_no"] == "A-1"


async def test_a_definite_no_is_raised_at_once_with_all_it_says() -> None:
    calls = 0

    async def handler(_request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        return problem(409, code="duplicate_submission", param="buyer", retryable=False, order_id="X", detail="twice")

    async with gateway(handler) as client:
        with pytest.raises(sdk.Problem, match="409 duplicate_submission: twice") as caught:
            await client.create_order(out_order_no="A-2", amount=1, currency="CNY", subject="tea")
    assert (caught.value.status, caught.value.param, caught.value.order_id, calls) == (409, "buyer", "X", 1)


async def test_silence_until_the_deadline_is_unknown_not_a_no() -> None:
    short = sdk.Retry(deadline_s=0.2, try_timeout_s=0.1, first_pause_s=0.001, pause_max_s=0.01)
    async with sdk.Holdfast("http://127.0.0.1:1", "hk_1", retry=short) as client:
        with pytest.raises(sdk.Unreachable) as caught:
            await client.get("0" * 26)
    assert caught.value.tries > 1


async def test_a_5xx_until_the_deadline_is_raised_as_the_problem_it_was() -> None:
    async def handler(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=502, text="bad gateway")

    async with gateway(handler, sdk.Retry(deadline_s=0.1, first_pause_s=0.001)) as client:
        with pytest.raises(sdk.Problem) as caught:
            await client.sync("0" * 26)
    assert (caught.value.status, caught.value.code) == (502, "unknown")


async def test_retry_after_beyond_the_deadline_ends_the_tries() -> None:
    calls = 0

    async def handler(_request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        return web.Response(status=503, headers={"retry-after": "30"})

    async with gateway(handler) as client:
        with pytest.raises(sdk.Problem):
            await client.get("0" * 26)
    assert calls == 1


async def test_numbers_are_quoted_and_a_pay_without_credential_is_a_value() -> None:
    paths: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        paths.append(request.path_qs)
        if request.method == "GET":
            return web.json_response(ORDER)
        payment = {"attempt_id": "0" * 28, "state": "unknown", "credential": None}
        return web.json_response({"payment": payment, "order": {**ORDER, "state": "paying"}}, status=202)

    async with gateway(handler) as client:
        await client.get_by_number("A 1&x=é")
        result = await client.pay("0" * 26, channel="wechatpay", method="native")
    assert result.payment is not None
    assert result.payment.credential is None
    assert paths == ["/v1/orders?out_order_no=A%201%26x%3D%C3%A9", f"/v1/orders/{'0' * 26}/pay"]


PAYING = {**ORDER, "state": "paying"}


def paid_with(credential: object) -> web.Response:
    payment = {"attempt_id": "0" * 28, "state": "pending", "credential": credential}
    return web.json_response({"payment": payment, "order": PAYING})


@pytest.mark.parametrize(
    "credential",
    [
        {"type": "qr", "value": "weixin://x", "expires_at": "2026-11-24T16:00:00.000Z"},
        {"type": "form", "value": {"action": "https://x", "charset": "UTF-8", "fields": {"a": "b"}}},
        {"type": "params", "value": {"paySign": "x"}},
        {"type": "none", "value": None},
        {"type": "a new one", "value": [1, {"x": None}]},
    ],
    ids=lambda credential: credential["type"],
)
async def test_a_pay_says_what_the_method_needs_and_gives_what_the_channel_gave(credential: dict[str, object]) -> None:
    asked: list[object] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(await request.json())
        return paid_with(credential)

    async with gateway(handler) as client:
        await client.pay("0" * 26, channel="wechatpay", method="native")
        result = await client.pay("0" * 26, channel="wechatpay", method="jsapi", params={"openid": "o1"})
    assert asked == [
        {"channel": "wechatpay", "method": "native"},
        {"channel": "wechatpay", "method": "jsapi", "params": {"openid": "o1"}},
    ]
    assert result.payment is not None
    assert result.payment.credential is not None
    assert (result.payment.credential.type, result.payment.credential.value) == (
        credential["type"],
        credential["value"],
    )


REFUND = {
    "refund_id": "0" * 26 + "R00001", "order_id": "0" * 26, "out_refund_no": "B 1", "cause": "app", "amount": 40,
    "currency": "CNY", "reason": "broken", "state": "processing", "channel": "wechatpay", "channel_refund": None,
    "created_at": "2026-11-24T16:00:00.000Z", "succeeded_at": None, "next_check_at": None, "failure": None, "new": 1,
}  # fmt: skip


async def test_a_refund_is_asked_for_again_under_its_number_until_it_is_answered() -> None:
    seen: list[tuple[str, bytes]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((request.path, await request.read()))
        if len(seen) < 3:
            return problem(503, code="overloaded", retryable=True)
        return web.json_response(REFUND, status=202)

    async with gateway(handler) as client:
        refund = await client.refund("0" * 26, out_refund_no="B 1", amount=40, reason="broken")
    assert (refund.state, refund.amount, refund.cause, refund.failure) == (sdk.RefundState.PROCESSING, 40, "app", None)
    assert set(seen) == {(f"/v1/orders/{'0' * 26}/refunds", seen[0][1])}
    assert msgspec.json.decode(seen[0][1]) == {"out_refund_no": "B 1", "amount": 40, "reason": "broken"}


async def test_a_refund_is_found_by_either_number_and_asked_after() -> None:
    paths: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        paths.append(f"{request.method} {request.path_qs}")
        return web.json_response(REFUND)

    async with gateway(handler) as client:
        for refund in (
            await client.get_refund("R1"),
            await client.refund_by_number("B 1"),
            await client.sync_refund("R1"),
        ):
            assert refund.out_refund_no == "B 1"
    assert paths == ["GET /v1/refunds/R1", "GET /v1/refunds?out_refund_no=B%201", "POST /v1/refunds/R1/sync"]


async def test_a_refund_that_the_channel_refused_is_a_definite_no() -> None:
    async def handler(_request: web.Request) -> web.StreamResponse:
        return problem(422, code="refund_refused", detail="NOT_ENOUGH: no balance", retryable=False)

    async with gateway(handler) as client:
        with pytest.raises(sdk.Problem, match="422 refund_refused: NOT_ENOUGH"):
            await client.refund("0" * 26, out_refund_no="B", amount=1)


@pytest.mark.parametrize("state", ["succeeded", "failed", "reversed"])
def test_an_event_about_a_refund_has_the_refund_and_its_order(state: str) -> None:
    failure = None if state == "succeeded" else {"code": "closed", "message": "no such account"}
    refund = {**REFUND, "state": state, "failure": failure}
    order = {**ORDER, "refund_status": "partial", "refunded_amount": 40, "refunds": [refund]}
    body = json.dumps(
        {"id": "evt_1", "type": f"refund.{state}", "created": "2025-11-24T16:00:00.123Z", "seq": 5,
         "data": {"object": order, "refund": refund}}
    ).encode()  # fmt: skip
    event = sdk.verify_webhook(SECRET, headers(body), body, now=NOW)
    assert event.data.refund is not None
    assert event.data.object.refunds == [event.data.refund]
    assert (event.type, event.data.refund.state) == (f"refund.{state}", state)


def test_an_event_about_no_refund_has_none() -> None:
    event = sdk.verify_webhook(SECRET, headers(), BODY, now=NOW)
    assert (event.data.refund, event.data.object.refunds) == (None, [])


async def test_what_an_installation_can_do_is_read_with_its_rules() -> None:
    openid = {"name": "openid", "about": "the payer", "required": True, "choices": [], "pattern": None, "chars_max": 28}
    jsapi = {"method": "jsapi", "about": "", "credential": "params", "params": [openid], "new": 1}

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.path == "/v1/channels"
        return web.json_response({"channels": [{"channel": "wechatpay", "methods": [jsapi]}]})

    async with gateway(handler) as client:
        (channel,) = await client.channels()
    assert (channel.channel, channel.methods[0].method, channel.methods[0].credential) == (
        "wechatpay",
        "jsapi",
        "params",
    )
    assert channel.methods[0].params[0].required


async def test_a_qr_code_comes_as_the_picture_it_is() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/qr.svg") and "1" * 26 not in request.path:
            return web.Response(body=b"<svg/>", content_type="image/svg+xml")
        return problem(409, code="qr_unavailable", retryable=False)

    async with gateway(handler) as client:
        assert await client.qr_svg("0" * 26) == b"<svg/>"
        with pytest.raises(sdk.Problem, match="qr_unavailable"):
            await client.qr_svg("1" * 26)


# --- pages ----------------------------------------------------------------------------------------------------------


class Read(HTMLParser):
    """The forms of a page, as a browser reads them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.forms: list[dict[str, str | None]] = []
        self.fields: dict[str, str] = {}
        self.others: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "form":
            self.forms.append(found)
        elif tag == "input":
            self.fields[found["name"] or ""] = found["value"] or ""
        else:
            self.others.append(tag)


def form_of(action: str, fields: dict[str, str], charset: str = "UTF-8") -> sdk.Credential:
    return sdk.Credential("form", {"action": action, "charset": charset, "fields": fields})


def test_a_form_becomes_a_page_that_sends_itself() -> None:
    page = sdk.form_page(form_of("https://gateway.example/pay?a=1&b=2", {"txnAmt": "100", "submit": "x"}, "GBK"))
    read = Read(page)
    assert read.forms == [{"method": "post", "action": "https://gateway.example/pay?a=1&b=2", "accept-charset": "GBK"}]
    assert read.fields == {"txnAmt": "100", "submit": "x"}
    assert "HTMLFormElement.prototype.submit" in page, "a field may be called submit"
    assert "noscript" in read.others


@pytest.mark.parametrize(
    "nasty", ['"><script>alert(1)</script>', "'><b>", "&amp;", "{0}{action}%s", "茶\u2028", "</form>"]
)
def test_nothing_in_a_form_gets_out_of_its_place(nasty: str) -> None:
    plain = Read(sdk.form_page(form_of("https://x.example/", {"a": "b"})))
    read = Read(sdk.form_page(form_of(f"https://x.example/{nasty}", {nasty: nasty}, nasty)))
    assert read.fields == {nasty: nasty}
    assert read.forms[0]["action"] == f"https://x.example/{nasty}"
    assert read.forms[0]["accept-charset"] == nasty
    assert read.others == plain.others


@pytest.mark.parametrize(
    "credential",
    [
        sdk.Credential("qr", "weixin://x"),
        sdk.Credential("none", None),
        sdk.Credential("form", "https://x"),
        sdk.Credential("form", {"action": "https://x"}),
        sdk.Credential("form", {"action": "https://x", "fields": {"a": 1}}),
        form_of("javascript:alert(1)", {}),
        form_of("", {}),
    ],
)
def test_what_is_no_form_makes_no_page(credential: sdk.Credential) -> None:
    with pytest.raises(ValueError, match="form"):
        sdk.form_page(credential)


# --- retries --------------------------------------------------------------------------------------------------------


def test_pauses_grow_are_drawn_from_zero_up_and_respect_what_the_gateway_asked_for() -> None:
    retry = sdk.Retry(first_pause_s=0.1, pause_max_s=1.0)
    rng = random.Random(1)
    late = [retry.pause_s(1000, rng) for _ in range(500)]
    assert max(late) <= 1.0
    assert min(late) < 0.1
    assert max(retry.pause_s(1, rng) for _ in range(100)) <= 0.1
    assert retry.pause_s(1, rng, asked_for_s=5.0) >= 5.0
