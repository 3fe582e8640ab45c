"""WeChat Pay notifications: what is believed, and that nothing else ever is."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels.contract import ChannelPayment, ChannelRefund, RefundState, RejectReason
from channels.errors import NotificationRejected
from tests.unit.wechatpay_platform import (
    ACCOUNT,
    CERTIFICATE_SERIAL,
    NOW_S,
    OUT_TRADE_NO,
    REFUND_NO,
    REFUND_NOTICE,
    TRADE,
    channel,
    notice,
    sealed,
    signed,
)

CHANNEL = channel()


def rejection(headers: dict[str, str], body: bytes, now_s: int = NOW_S) -> NotificationRejected:
    with pytest.raises(NotificationRejected) as caught:
        CHANNEL.notification(headers, body, now_s)
    return caught.value


def signed_rejection(body: bytes) -> RejectReason:
    return rejection(signed(body), body).reason


@pytest.mark.parametrize("how", [{}, {"serial": CERTIFICATE_SERIAL, "by": "certificate"}])
@pytest.mark.parametrize("state", ["SUCCESS", "REFUND"])
def test_a_genuine_notification_is_read_under_either_kind_of_key(how, state):
    body = notice({**TRADE, "trade_state": state})
    assert CHANNEL.notification(signed(body, **how), body, NOW_S) == ChannelPayment(
        channel="wechatpay",
        account=ACCOUNT,
        out_trade_no=OUT_TRADE_NO,
        channel_transaction=TRADE["transaction_id"],
        amount=100,
        currency="CNY",
        success_at_s=NOW_S,
    )


def test_another_account_amount_and_currency_are_stated_as_they_are():
    body = notice({**TRADE, "appid": "wxother", "amount": {"total": 1, "currency": "USD"}})
    payment = CHANNEL.notification(signed(body), body, NOW_S)
    assert (payment.account, payment.amount, payment.currency) == ("1900007291/wxother", 1, "USD")


def test_every_flipped_bit_of_the_body_is_refused():
    body = notice()
    headers = signed(body)
    for place in range(len(body)):
        flipped = bytearray(body)
        flipped[place] ^= 1 << place % 8
        assert rejection(headers, bytes(flipped)).reason is RejectReason.BAD_SIGNATURE


def test_every_changed_character_of_every_signature_header_is_refused():
    body = notice()
    headers = signed(body)
    for name, value in headers.items():
        for place, character in enumerate(value):
            for bit in (0, 1, 5):
                changed = value[:place] + chr(ord(character) ^ 1 << bit) + value[place + 1 :]
                rejection({**headers, name: changed}, body)


@pytest.mark.parametrize("name", ["signature", "serial", "timestamp", "nonce"])
def test_every_signature_header_is_needed(name):
    body = notice()
    headers = signed(body)
    del headers[f"wechatpay-{name}"]
    assert rejection(headers, body).reason is RejectReason.BAD_SIGNATURE


def test_a_signature_probe_is_refused_as_such_whatever_its_key():
    body = notice()
    for serial in (CERTIFICATE_SERIAL, "unknown"):
        headers = {**signed(body, serial=serial), "wechatpay-signature": "WECHATPAY/SIGNTEST/bad base64"}
        assert rejection(headers, body).reason is RejectReason.SIGNATURE_PROBE


def test_an_unknown_key_is_named_so_that_keys_can_be_refreshed():
    body = notice()
    error = rejection(signed(body, serial="5157F09E"), body)
    assert (error.reason, error.serial) == (RejectReason.UNKNOWN_KEY, "5157F09E")


def test_serials_are_compared_exactly():
    body = notice()
    headers = signed(body, serial=CERTIFICATE_SERIAL.lower(), by="certificate")
    assert rejection(headers, body).reason is RejectReason.UNKNOWN_KEY


@pytest.mark.parametrize("age_s", [300, -300, 10**9])
def test_a_notification_signed_five_minutes_off_is_stale(age_s):
    body = notice()
    assert rejection(signed(body), body, NOW_S + age_s).reason is RejectReason.STALE


@pytest.mark.parametrize("age_s", [299, -299])
def test_a_notification_within_five_minutes_is_believed(age_s):
    body = notice()
    assert CHANNEL.notification(signed(body), body, NOW_S + age_s).amount == 100


# --- refunds

REFUND_STATES = {
    "SUCCESS": RefundState.SUCCEEDED,
    "ABNORMAL": RefundState.ABNORMAL,
    "CLOSED": RefundState.FAILED,
    "PROCESSING": RefundState.PROCESSING,
}


def refund_notice(event_type: str = "REFUND.SUCCESS", **changed: object) -> bytes:
    return notice({**REFUND_NOTICE, **changed}, event_type)


@pytest.mark.parametrize("event_type", ["REFUND.SUCCESS", "REFUND.ABNORMAL", "REFUND.CLOSED"])
@pytest.mark.parametrize("status", REFUND_STATES)
def test_a_refund_s_notification_is_read_by_the_status_that_was_sealed(event_type, status):
    body = refund_notice(event_type, refund_status=status)
    assert CHANNEL.notification(signed(body), body, NOW_S) == ChannelRefund(
        channel="wechatpay",
        account=ACCOUNT,
        refund_no=REFUND_NO,
        state=REFUND_STATES[status],
        out_trade_no=OUT_TRADE_NO,
        channel_refund="50000000382026112100000000001",
        amount=30,
        currency="CNY",
        success_at_s=NOW_S,
        detail="支付用户零钱",
    )


def test_a_refund_of_another_merchant_is_stated_under_that_account():
    body = refund_notice(mchid="1900000000")
    assert CHANNEL.notification(signed(body), body, NOW_S).account == "1900000000/"


@pytest.mark.parametrize(
    "change",
    [
        {"refund_status": "REFUNDED"},
        {"refund_status": None},
        {"amount": {"total": 100}},
        {"amount": {"refund": 1.5}},
        {"amount": {"refund": 0}},
        {"out_refund_no": ""},
        {"mchid": None},
        {"refund_id": "a\0"},
    ],
)
def test_a_sealed_content_that_is_no_refund_is_unreadable(change):
    assert signed_rejection(refund_notice(**change)) is RejectReason.UNREADABLE


def test_a_payment_s_content_under_a_refund_s_event_is_unreadable_and_the_other_way_round():
    assert signed_rejection(notice(TRADE, "REFUND.SUCCESS")) is RejectReason.UNREADABLE
    assert signed_rejection(notice(REFUND_NOTICE, "TRANSACTION.SUCCESS")) is RejectReason.UNREADABLE


# --- what is neither


@pytest.mark.parametrize("event_type", ["REFUND.OTHER", "TRANSACTION.PAYSCORE", "", "transaction.success"])
def test_another_event_is_told_apart_only_after_its_signature_held(event_type):
    body = notice(event_type=event_type)
    assert signed_rejection(body) is RejectReason.OTHER_EVENT
    assert rejection(signed(b"other"), body).reason is RejectReason.BAD_SIGNATURE


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"null", b"\xff", b'{"event_type":1}', b"[" * 100_000, b'{"event_type":"TRANSACTION.SUCCESS"}'],
)
def test_a_signed_body_of_another_shape_is_malformed(body):
    assert signed_rejection(body) is RejectReason.MALFORMED


@pytest.mark.parametrize(
    "trade",
    [
        b"",
        b"[" * 100_000,
        {},
        {**TRADE, "trade_state": "NOTPAY"},
        {**TRADE, "trade_state": "CLOSED"},
        {**TRADE, "amount": {"total": 1.5, "currency": "CNY"}},
        {**TRADE, "amount": {"total": True, "currency": "CNY"}},
        {**TRADE, "amount": None},
        {**TRADE, "success_time": "yesterday"},
        {**TRADE, "transaction_id": None},
        {**TRADE, "out_trade_no": "a b"},
    ],
)
def test_a_sealed_content_that_is_no_payment_is_unreadable(trade):
    assert signed_rejection(notice(trade)) is RejectReason.UNREADABLE


@pytest.mark.parametrize(
    "change",
    [
        {"ciphertext": "AAAA"},
        {"ciphertext": "not base64!"},
        {"nonce": ""},
        {"nonce": "x" * 5000},
        {"associated_data": "refund"},
        {"algorithm": "AEAD_SM4_GCM"},
    ],
)
def test_a_resource_that_does_not_open_is_unreadable(change):
    whole = json.loads(notice())
    whole["resource"].update(change)
    assert signed_rejection(json.dumps(whole).encode()) is RejectReason.UNREADABLE


def test_absent_associated_data_counts_as_empty():
    whole = json.loads(notice())
    whole["resource"] = sealed(json.dumps(TRADE).encode(), "")
    del whole["resource"]["associated_data"]
    body = json.dumps(whole).encode()
    assert CHANNEL.notification(signed(body), body, NOW_S).amount == 100


def test_acknowledgement_and_refusals_in_the_words_of_the_platform():
    acknowledged = CHANNEL.acknowledge()
    assert (acknowledged.status, json.loads(acknowledged.body)["code"]) == (200, "SUCCESS")
    for reason in RejectReason:
        refused = CHANNEL.refuse(reason)
        assert (refused.status, json.loads(refused.body)) == (400, {"code": "FAIL", "message": reason.value})
    assert CHANNEL.refuse("try again").status == 503


text = st.text(max_size=40)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


def believed_or_rejected(headers: dict[str, str], body: bytes) -> None:
    with suppress(NotificationRejected):
        assert CHANNEL.notification(headers, body, NOW_S).channel == "wechatpay"


@settings(max_examples=300, deadline=None)
@given(body=st.binary(max_size=300), headers=st.dictionaries(st.sampled_from(sorted(signed(b""))), text))
def test_any_bytes_with_any_headers_are_rejected_and_nothing_else_happens(body, headers):
    with pytest.raises(NotificationRejected):
        CHANNEL.notification({**signed(b"other"), **headers}, body, NOW_S)


@settings(max_examples=300, deadline=None)
@given(body=st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_signed_body_is_believed_or_rejected(body):
    believed_or_rejected(signed(body), body)


@settings(max_examples=300, deadline=None)
@given(field=st.sampled_from([*TRADE, "amount.total", "amount.currency"]), value=json_values)
def test_any_value_in_any_field_of_a_sealed_payment_is_believed_or_rejected(field, value):
    outer, _, inner = field.partition(".")
    trade = {**TRADE, outer: {**TRADE["amount"], inner: value} if inner else value}
    body = notice(trade)
    believed_or_rejected(signed(body), body)


@settings(max_examples=300, deadline=None)
@given(field=st.sampled_from([*REFUND_NOTICE, "amount.refund", "amount.currency"]), value=json_values)
def test_any_value_in_any_field_of_a_sealed_refund_is_believed_or_rejected(field, value):
    outer, _, inner = field.partition(".")
    body = refund_notice(**{outer: {**REFUND_NOTICE["amount"], inner: value} if inner else value})
    believed_or_rejected(signed(body), body)
