"""Notifications: believed only when verified, recorded in any case, acknowledged when durable, credited once."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import asyncpg
import pytest
from multidict import CIMultiDict

from gateway.api.callbacks import UNVERIFIED_BYTES_MAX
from tests.integration.gateway_parts import NOBODY, Answer, Api, Platform, Running, until
from tests.integration.raw_http import Raw

Message: TypeAlias = tuple[bytes, Mapping[str, str]]
ACKNOWLEDGED = '{"code":"SUCCESS","message":"成功"}'.encode()


@pytest.fixture
async def order(api: Api) -> dict[str, Any]:
    """An order whose QR code somebody is looking at."""
    created = await api.created(amount=1200)
    return await api.shown(created["order_id"])


async def notify(api: Api, order_id: str, message: Message, attempt: str = "01") -> Answer:
    """Deliver a notification as the platform would."""
    body, headers = message
    path = f"/callbacks/wechatpay/{order_id}/{attempt}"
    async with api.session.post(api.url + path, data=body, headers=headers) as answer:
        return Answer(answer.status, answer.headers, await answer.read())


def genuine(platform: Platform, order: dict[str, Any], **stated: Any) -> Message:
    """What the platform sends when this order is paid."""
    body = platform.notice(order["order_id"] + "01", **{"amount": 1200, **stated})
    return body, platform.signed(body)


async def verdicts(database: asyncpg.Connection, order_id: str) -> list[str]:
    """What was recorded of the order's notifications."""
    found = await database.fetch("SELECT verdict FROM notifications WHERE order_id = $1 ORDER BY received_at", order_id)
    return [record["verdict"] for record in found]


async def owed(database: asyncpg.Connection, order_id: str) -> list[str]:
    """The webhooks about the order."""
    found = await database.fetch("SELECT type FROM outbox WHERE order_id = $1 ORDER BY seq", order_id)
    return [record["type"] for record in found]


async def test_a_genuine_notification_credits_the_order(
    api: Api, platform: Platform, order: dict[str, Any], database: asyncpg.Connection
) -> None:
    body, headers = genuine(platform, order)
    order_id = order["order_id"]
    answer = await notify(api, order_id, (body, {**headers, "Authorization": "Bearer x", "Cookie": "y"}))
    assert (answer.status, answer.body) == (200, ACKNOWLEDGED)
    paid = await api.get(order_id)
    assert (paid["state"], paid["paid_amount"], paid["late"]) == ("paid", 1200, False)
    record = await database.fetchrow("SELECT * FROM notifications WHERE order_id = $1", order_id)
    assert (record["verdict"], record["body"], record["attempt"]) == ("verified", body, "01")
    kept = json.loads(record["headers"])
    assert kept["wechatpay-signature"] == headers["Wechatpay-Signature"]
    assert not {"authorization", "cookie"} & kept.keys()
    assert await owed(database, order_id) == ["order.paid"]
    evidence = (await api.timeline(order_id))[-1]["evidence"]
    assert evidence["evidence"] == f"notification {record['notification_id']}"


# --- what is not believed -------------------------------------------------------------------------------------------


def forged(platform: Platform, order: dict[str, Any]) -> Message:
    body, headers = genuine(platform, order)
    return body, {**headers, "Wechatpay-Signature": "A" * 342 + "=="}


def tampered(platform: Platform, order: dict[str, Any]) -> Message:
    body, headers = genuine(platform, order)
    return body[:-3] + bytes([body[-3] ^ 1]) + body[-2:], headers


def of_another_body(platform: Platform, order: dict[str, Any]) -> Message:
    return platform.notice(order["order_id"] + "01", 1200), genuine(platform, order)[1]


def stale(platform: Platform, order: dict[str, Any]) -> Message:
    body, _ = genuine(platform, order)
    return body, platform.signed(body, age_s=301)


def from_the_future(platform: Platform, order: dict[str, Any]) -> Message:
    body, _ = genuine(platform, order)
    return body, platform.signed(body, age_s=-301)


def probe(platform: Platform, order: dict[str, Any]) -> Message:
    body, headers = genuine(platform, order)
    return body, {**headers, "Wechatpay-Signature": "WECHATPAY/SIGNTEST/" + headers["Wechatpay-Signature"][19:]}


def unknown_key(platform: Platform, order: dict[str, Any]) -> Message:
    body, headers = genuine(platform, order)
    return body, {**headers, "Wechatpay-Serial": "F" * 40}


def unsigned(platform: Platform, order: dict[str, Any]) -> Message:
    return genuine(platform, order)[0], {"Content-Type": "application/json"}


def signed_twice(platform: Platform, order: dict[str, Any]) -> Message:
    body, headers = genuine(platform, order)
    twice = CIMultiDict(headers)
    twice.add("Wechatpay-Signature", "x")
    return body, twice


def payment_called_a_refund(platform: Platform, order: dict[str, Any]) -> Message:
    body = genuine(platform, order)[0].replace(b"TRANSACTION.SUCCESS", b"REFUND.SUCCESS")
    return body, platform.signed(body)


def forged_other_event(platform: Platform, order: dict[str, Any]) -> Message:
    """Nobody but the platform may have anything acknowledged."""
    body = genuine(platform, order)[0].replace(b"TRANSACTION.SUCCESS", b"COUPON.USE")
    return body, genuine(platform, order)[1]


def refund_of_another_attempt(platform: Platform, order: dict[str, Any]) -> Message:
    body = platform.refund_notice(order["order_id"] + "02")
    return body, platform.signed(body)


def not_json(platform: Platform, order: dict[str, Any]) -> Message:
    return b"<xml/>", platform.signed(b"<xml/>")


def empty(platform: Platform, order: dict[str, Any]) -> Message:
    return b"", platform.signed(b"")


def brackets(platform: Platform, order: dict[str, Any]) -> Message:
    body = b"[" * 60_000
    return body, platform.signed(body)


def not_sealed(platform: Platform, order: dict[str, Any]) -> Message:
    body = json.loads(genuine(platform, order)[0])
    body["resource"]["nonce"] = "x" * 12
    return json.dumps(body).encode(), platform.signed(json.dumps(body).encode())


def brackets_inside(platform: Platform, order: dict[str, Any]) -> Message:
    body = platform.seal(b"[" * 40_000)
    return body, platform.signed(body)


def not_a_payment(platform: Platform, order: dict[str, Any]) -> Message:
    number = order["order_id"] + "01"
    state = {"mchid": "1", "appid": "wx", "out_trade_no": number, "trade_state": "NOTPAY"}
    body = platform.seal(json.dumps(state).encode())
    return body, platform.signed(body)


def no_amount(platform: Platform, order: dict[str, Any]) -> Message:
    files, number = platform.files, order["order_id"] + "01"
    state = {"mchid": files.mchid, "appid": files.appid, "out_trade_no": number, "trade_state": "SUCCESS"}
    body = platform.seal(json.dumps(state).encode())
    return body, platform.signed(body)


def of_another_attempt(platform: Platform, order: dict[str, Any]) -> Message:
    body = platform.notice(order["order_id"] + "02", 1200)
    return body, platform.signed(body)


def of_another_order(platform: Platform, order: dict[str, Any]) -> Message:
    body = platform.notice(NOBODY + "01", 1200)
    return body, platform.signed(body)


Make: TypeAlias = Callable[[Platform, dict[str, Any]], Message]
NOT_BELIEVED: list[tuple[Make, str]] = [
    (forged, "bad_signature"),
    (tampered, "bad_signature"),
    (of_another_body, "bad_signature"),
    (unsigned, "bad_signature"),
    (signed_twice, "bad_signature"),
    (stale, "stale"),
    (from_the_future, "stale"),
    (probe, "signature_probe"),
    (unknown_key, "unknown_key"),
    (payment_called_a_refund, "unreadable"),
    (forged_other_event, "bad_signature"),
    (refund_of_another_attempt, "misdirected"),
    (not_json, "malformed"),
    (empty, "malformed"),
    (brackets, "malformed"),
    (not_sealed, "unreadable"),
    (brackets_inside, "unreadable"),
    (not_a_payment, "unreadable"),
    (no_amount, "unreadable"),
    (of_another_attempt, "misdirected"),
    (of_another_order, "misdirected"),
]


@pytest.mark.parametrize(("make", "verdict"), NOT_BELIEVED, ids=lambda value: getattr(value, "__name__", ""))
async def test_what_is_not_believed_is_recorded_and_credits_nothing(
    api: Api, platform: Platform, order: dict[str, Any], database: asyncpg.Connection, make: Make, verdict: str
) -> None:
    message = make(platform, order)
    answer = await notify(api, order["order_id"], message)
    assert answer.status == 400
    assert answer.json["code"] == "FAIL"
    assert await verdicts(database, order["order_id"]) == [verdict]
    record = await database.fetchrow("SELECT body FROM notifications WHERE order_id = $1", order["order_id"])
    assert record["body"] == message[0][:UNVERIFIED_BYTES_MAX]
    assert await api.get(order["order_id"]) == order
    # The genuine one is not hindered by it.
    assert (await notify(api, order["order_id"], genuine(platform, order))).status == 200
    assert (await api.get(order["order_id"]))["state"] == "paid"


@pytest.mark.parametrize("variant", ["tamper", "probe", "stale", "wrong_serial"])
async def test_the_platforms_own_false_starts_are_refused_and_have_it_asked(
    api: Api, platform: Platform, order: dict[str, Any], database: asyncpg.Connection, variant: str
) -> None:
    order_id = order["order_id"]
    async with platform.faults(drop=1.0):
        await platform.pay(order_id + "01")
    assert (await platform.notify(order_id + "01", variant))["status"] == 400
    assert len(await verdicts(database, order_id)) == 1
    await api.until_state(order_id, "paid")
    learned_by = await database.fetchval("SELECT learned_by FROM payments WHERE order_id = $1", order_id)
    assert learned_by == "query", "the channel was asked, and its answer is believed"


# --- what is believed and moves no order ----------------------------------------------------------------------------


def other_event(platform: Platform, order: dict[str, Any]) -> Message:
    body = platform.seal(b"{}", event_type="COUPON.USE")
    return body, platform.signed(body)


def refund(platform: Platform, order: dict[str, Any]) -> Message:
    body = platform.refund_notice(order["order_id"] + "01", 1200)
    return body, platform.signed(body)


@pytest.mark.parametrize(("make", "verdict"), [(other_event, "other_event"), (refund, "foreign_refund")])
@pytest.mark.parametrize("paid_before", [False, True])
async def test_the_channels_own_word_that_is_no_payment_is_kept_and_acknowledged_and_credits_nothing(
    api: Api,
    platform: Platform,
    order: dict[str, Any],
    database: asyncpg.Connection,
    make: Make,
    verdict: str,
    paid_before: bool,
) -> None:
    """Else it would be sent for a day. It is the platform's, so it is kept whole and no stranger's measure counts."""
    order_id = order["order_id"]
    if paid_before:
        assert (await notify(api, order_id, genuine(platform, order))).status == 200
    before = await api.get(order_id)
    message = make(platform, order)
    answer = await notify(api, order_id, message)
    assert (answer.status, answer.body) == (200, ACKNOWLEDGED)
    assert await api.get(order_id) == before
    record = await database.fetchrow(
        "SELECT * FROM notifications WHERE order_id = $1 ORDER BY received_at DESC", order_id
    )
    assert (record["verdict"], record["body"]) == (verdict, message[0])
    metrics = (await api.request("GET", "/metrics")).body.decode()
    assert f'holdfast_notifications_total{{channel="wechatpay",verdict="{verdict}"}}' in metrics


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain;charset=GBK", "x", ""])
@pytest.mark.parametrize(
    "body", [b"", b"a=b&a=c", b"\xff\xfe\x00", b"%%%=&&&", b"\r\n" * 99, bytes(range(256))], ids=repr
)
async def test_any_bytes_of_any_kind_are_refused_in_the_channels_words(
    api: Api, platform: Platform, order: dict[str, Any], body: bytes, content_type: str
) -> None:
    """Alipay and UnionPay send forms; strangers send anything; nobody is asked what kind it is."""
    for headers in ({}, platform.signed(body)):
        answer = await notify(api, order["order_id"], (body, {**headers, "Content-Type": content_type}))
        assert (answer.status, answer.json["code"]) == (400, "FAIL")
    assert await api.get(order["order_id"]) == order


async def test_what_is_too_large_is_recorded_without_its_body(
    api: Api, platform: Platform, order: dict[str, Any], database: asyncpg.Connection
) -> None:
    body = b" " * 70_000 + genuine(platform, order)[0]
    answer = await notify(api, order["order_id"], (body, platform.signed(body)))
    answer.problem(413, "body_too_large")
    assert await verdicts(database, order["order_id"]) == ["too_large"]
    assert await api.get(order["order_id"]) == order


async def test_headers_that_are_not_utf_8_do_no_harm(
    api: Api, gateway: Running, platform: Platform, order: dict[str, Any], database: asyncpg.Connection
) -> None:
    order_id = order["order_id"]
    body, headers = genuine(platform, order)
    for nonce in (b"\xff\xfe\x80", headers["Wechatpay-Nonce"].encode()):
        lines = {name.encode(): value.encode() for name, value in headers.items()}
        lines |= {b"Wechatpay-Nonce": nonce, b"X-Y": b"\xe5\xba", b"Content-Length": b"%d" % len(body)}
        head = f"POST /callbacks/wechatpay/{order_id}/01 HTTP/1.1\r\nHost: x\r\n".encode()
        head += b"".join(name + b": " + value + b"\r\n" for name, value in lines.items())
        await Raw(gateway.url, "").send(head + b"\r\n" + body)
    assert await verdicts(database, order_id) == ["bad_signature", "verified"]
    assert (await api.get(order_id))["state"] == "paid"


@pytest.mark.parametrize("order_id", [NOBODY, "Z" * 26])
async def test_a_notification_of_an_unknown_order_is_recorded_and_sent_again(
    api: Api, platform: Platform, database: asyncpg.Connection, order_id: str
) -> None:
    body = platform.notice(order_id + "01", 1200)
    before = await verdicts(database, order_id)
    answer = await notify(api, order_id, (body, platform.signed(body)))
    assert (answer.status, answer.json["code"]) == (404, "FAIL")
    assert await verdicts(database, order_id) == [*before, "unknown_order"]


GARBAGE_PATHS = [
    *("wechatpay", f"wechatpay/{NOBODY}", f"wechatpay/{NOBODY}/1", f"wechatpay/{NOBODY}/001", f"wechatpay/{NOBODY}/00"),
    *(f"wechatpay/{NOBODY}/ab", f"wechatpay/{NOBODY}x/01", f"wechatpay/{NOBODY.lower()[:-1]}x/01", "wechatpay//01"),
    *(f"alipay/{NOBODY}/01", f"WECHATPAY/{NOBODY}/01", f"wechatpay/{NOBODY}/01/", f"wechatpay/{NOBODY}/%30%31%0A"),
    *(f"wechatpay/{NOBODY}/\u0660\u0661", f"wechatpay/%00{NOBODY[1:]}/01", f"..%2fwechatpay/{NOBODY}/01"),
]


@pytest.mark.parametrize("path", GARBAGE_PATHS, ids=ascii)
async def test_a_path_nobody_was_given_is_not_found(
    api: Api, platform: Platform, database: asyncpg.Connection, path: str
) -> None:
    before = await database.fetchval("SELECT count(*) FROM notifications")
    body = platform.notice(NOBODY + "01", 1200)
    answer = await api.request("POST", f"/callbacks/{path}", body, platform.signed(body))
    answer.problem(404, "not_found")
    assert await database.fetchval("SELECT count(*) FROM notifications") == before


# --- what is believed and does not fit ------------------------------------------------------------------------------


MISMATCHES: list[tuple[dict[str, Any], str]] = [
    ({"amount": 1199}, "amount_mismatch"),
    ({"amount": 1201}, "amount_mismatch"),
    ({"amount": 10**15}, "amount_mismatch"),
    ({"currency": "USD"}, "currency_mismatch"),
    ({"stated": {"mchid": "1900000001"}}, "account_mismatch"),
    ({"stated": {"appid": "wx0000000000000001"}}, "account_mismatch"),
]


@pytest.mark.parametrize(("stated", "reason"), MISMATCHES, ids=str)
async def test_money_that_does_not_fit_is_held_for_people(
    api: Api,
    platform: Platform,
    order: dict[str, Any],
    database: asyncpg.Connection,
    stated: dict[str, Any],
    reason: str,
) -> None:
    order_id = order["order_id"]
    message = genuine(platform, order, **stated)
    for _ in range(2):  # the second is the platform's retry
        assert (await notify(api, order_id, message)).status == 200
    held = await api.get(order_id)
    assert (held["state"], held["reason"], held["paid_amount"]) == ("exception", reason, 0)
    assert await verdicts(database, order_id) == ["verified"] * 2
    assert await owed(database, order_id) == ["order.exception"]
    assert await database.fetch("SELECT reason, resolved_at FROM cases WHERE order_id = $1", order_id) == [
        (reason, None)
    ]
    kinds = await database.fetch("SELECT kind FROM payments WHERE order_id = $1", order_id)
    assert kinds == [("held",)]
    (await api.pay(order_id)).problem(409, "order_in_exception")


async def test_an_attempt_we_never_made_is_held_for_people(
    api: Api, platform: Platform, order: dict[str, Any], database: asyncpg.Connection
) -> None:
    order_id = order["order_id"]
    body = platform.notice(order_id + "07", 1200)
    assert (await notify(api, order_id, (body, platform.signed(body)), "07")).status == 200
    held = await api.get(order_id)
    assert (held["state"], held["reason"], held["paid_amount"]) == ("exception", "unknown_attempt", 0)


async def test_a_transaction_that_paid_one_order_never_pays_another(
    api: Api, platform: Platform, database: asyncpg.Connection
) -> None:
    """The platform would have to contradict itself; the database then refuses the second, and that is recorded."""
    orders = [await api.shown((await api.created(amount=1200))["order_id"]) for _ in range(2)]
    answers = [await notify(api, order["order_id"], genuine(platform, order, transaction="4" * 28)) for order in orders]
    assert [answer.status for answer in answers] == [200, 409]
    assert [(await api.get(order["order_id"]))["state"] for order in orders] == ["paid", "paying"]
    assert await verdicts(database, orders[1]["order_id"]) == ["contradictory"]


# --- once -----------------------------------------------------------------------------------------------------------


async def test_a_hundred_at_once_are_one_credit_and_a_hundred_acknowledgements(
    api: Api, second_api: Api, platform: Platform, order: dict[str, Any], database: asyncpg.Connection
) -> None:
    order_id = order["order_id"]
    message = genuine(platform, order)
    answers = await asyncio.gather(*(notify((api, second_api)[n % 2], order_id, message) for n in range(100)))
    assert {(answer.status, answer.body) for answer in answers} == {(200, ACKNOWLEDGED)}
    assert await verdicts(database, order_id) == ["verified"] * 100
    assert (await api.get(order_id))["paid_amount"] == 1200
    assert await owed(database, order_id) == ["order.paid"]
    assert await database.fetchval("SELECT count(*) FROM payments WHERE order_id = $1", order_id) == 1


async def test_a_second_transaction_is_recorded_as_excess_and_told(
    api: Api, platform: Platform, order: dict[str, Any], database: asyncpg.Connection
) -> None:
    order_id = order["order_id"]
    for _ in range(2):
        assert (await notify(api, order_id, genuine(platform, order))).status == 200
    paid = await api.get(order_id)
    assert (paid["state"], paid["paid_amount"]) == ("paid", 1200)
    kinds = await database.fetch("SELECT kind FROM payments WHERE order_id = $1 ORDER BY learned_at", order_id)
    assert kinds == [("credit",), ("excess",)]
    assert (await owed(database, order_id))[:2] == ["order.paid", "payment.duplicate"]


async def test_what_the_platform_sends_by_itself_arrives(api: Api, platform: Platform, order: dict[str, Any]) -> None:
    """From the QR code to paid over the wire, with the notification sent twice."""
    order_id = order["order_id"]
    async with platform.faults(duplicate=1.0):
        await platform.pay(order_id + "01")
        paid = await api.until_state(order_id, "paid")
    assert paid["attempts"][0]["state"] == "succeeded"

    async def acknowledged() -> bool:
        return bool((await platform.trades(order_id))[0]["notified"])

    await until(acknowledged)
