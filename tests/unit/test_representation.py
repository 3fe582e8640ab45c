"""What apps see of an order."""

import json

import msgspec
import pytest

from actors.deadlines import Schedule
from actors.events import CloseRequested, Credential, CredentialType, PayRequested, SubmitAccepted
from actors.lifecycle import transition
from actors.order import Content, Order, new_order
from gateway.representation import event_id, order_json, pay_json, rfc3339, webhook_json

AT_MS = 1_795_000_000_123
ORDER = new_order(
    "0" * 26, Content("shop", "A-1", 100, "CNY", "茶", metadata_json='{"b":"1","a":"2"}'), AT_MS, AT_MS + 60_000
)


def paying() -> Order:
    order = transition(ORDER, PayRequested(AT_MS, "wechatpay", "m/a", "native"), Schedule()).order
    return transition(
        order, SubmitAccepted(AT_MS, 1, Credential(CredentialType.QR, "weixin://x", AT_MS + 1)), Schedule()
    ).order


def test_an_order_shows_what_its_app_gave_and_no_account_of_ours() -> None:
    shown = json.loads(order_json(ORDER))
    assert (shown["out_order_no"], shown["subject"], shown["metadata"]) == ("A-1", "茶", {"b": "1", "a": "2"})
    assert shown["state"] == "created"
    assert (shown["created_at"], shown["expires_at"]) == ("2026-11-18T11:06:40.123Z", "2026-11-18T11:07:40.123Z")
    assert "app_id" not in shown


def test_closing_is_shown_as_paying() -> None:
    order = transition(paying(), CloseRequested(AT_MS), Schedule()).order
    assert order.state == "closing"
    shown = json.loads(order_json(order))
    assert shown["state"] == "paying"
    assert (shown["attempts"][0]["state"], shown["attempts"][0]["credential"]) == ("closing", None), (
        "nobody is led there"
    )


def test_an_attempt_shows_its_credential_and_never_our_merchant_account() -> None:
    order = paying()
    raw = pay_json(order, order.live_attempt)
    assert json.loads(raw)["payment"]["credential"] == {
        "type": "qr",
        "value": "weixin://x",
        "expires_at": rfc3339(AT_MS + 1),
    }
    assert b"m/a" not in raw


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        (CredentialType.URL, "https://x/?a=1&b=2", "https://x/?a=1&b=2"),
        (
            CredentialType.FORM,
            '{"action":"https://x","fields":{"a":"\\u8336\\""}}',
            {"action": "https://x", "fields": {"a": '茶"'}},
        ),
        (CredentialType.PARAMS, '{"paySign":"a/b+c=="}', {"paySign": "a/b+c=="}),
        (CredentialType.NONE, "", None),
    ],
)
def test_a_credential_is_text_or_the_object_that_its_text_holds_or_nothing(
    kind: CredentialType, value: str, shown: object
) -> None:
    order = transition(ORDER, PayRequested(AT_MS, "alipay", "m/a", "x"), Schedule()).order
    order = transition(order, SubmitAccepted(AT_MS, 1, Credential(kind, value, AT_MS + 1)), Schedule()).order
    credential = {"type": str(kind), "value": shown, "expires_at": rfc3339(AT_MS + 1)}
    assert json.loads(pay_json(order, order.live_attempt))["payment"]["credential"] == credential
    body = json.loads(webhook_json(order, "order.closed", AT_MS))
    assert body["data"]["object"]["attempts"][0]["credential"] == credential


def test_a_webhook_has_an_id_that_anybody_can_derive_and_the_orders_version_as_seq() -> None:
    order = msgspec.structs.replace(ORDER, version=7)
    body = json.loads(webhook_json(order, "order.paid", AT_MS))
    assert (body["id"], body["seq"], body["type"]) == (event_id(order), 7, "order.paid")
    assert body["data"]["object"]["order_id"] == ORDER.order_id


def test_milliseconds_are_always_three_digits() -> None:
    assert rfc3339(1_000) == "1970-01-01T00:00:01.000Z"
    assert rfc3339(1_007) == "1970-01-01T00:00:01.007Z"
