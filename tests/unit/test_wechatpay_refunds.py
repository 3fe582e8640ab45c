"""WeChat Pay refunds: what is sent, what the platform's words mean, and that a no is one only when nothing is there."""

import json

import pytest
from msgspec.structs import replace

from channels.contract import ChannelRefund, NotFound, RefundKnown, RefundState, Refused, Unknown
from channels.errors import NoAnswer
from tests.unit.wechatpay_platform import (
    ACCOUNT,
    NOW_S,
    OUT_TRADE_NO,
    REFUND,
    REFUND_KEY,
    REFUND_NO,
    REFUND_REQUEST,
    STAMP,
    TRANSACTION,
    answer,
    channel,
    error,
    run,
)

NOT_EXIST = error(404, "RESOURCE_NOT_EXISTS")
KNOWN = ChannelRefund(
    channel="wechatpay",
    account=ACCOUNT,
    refund_no=REFUND_NO,
    state=RefundState.SUCCEEDED,
    out_trade_no=OUT_TRADE_NO,
    channel_refund="50000000382026112100000000001",
    amount=30,
    currency="CNY",
    success_at_s=NOW_S,
    detail="支付用户零钱",
)


def refund(*answers, request=REFUND_REQUEST):
    return run(channel().refund(request, STAMP), *answers)


def query_refund(*answers):
    return run(channel().query_refund(REFUND_KEY, STAMP), *answers)


# --- what is sent


def test_a_refund_names_the_transaction_and_both_amounts():
    outcome, sent = refund(answer(REFUND))
    assert outcome == RefundKnown(KNOWN)
    assert (sent[0].method, sent[0].target) == ("POST", "/v3/refund/domestic/refunds")
    assert json.loads(sent[0].body) == {
        "transaction_id": TRANSACTION,
        "out_refund_no": REFUND_NO,
        "reason": "商品已售完",
        "notify_url": REFUND_REQUEST.notify_url,
        "amount": {"refund": 30, "total": 100, "currency": "CNY"},
    }


def test_without_a_transaction_it_names_our_number_instead():
    request = replace(REFUND_REQUEST, refund=replace(REFUND_KEY, channel_transaction=""))
    _, sent = refund(NoAnswer("x", sent=True), request=request)
    body = json.loads(sent[0].body)
    assert body["out_trade_no"] == OUT_TRADE_NO
    assert "transaction_id" not in body


def test_a_repetition_sends_the_same_bytes():
    later = replace(STAMP, now_s=NOW_S + 86400, nonce="m" * 32)
    _, first = refund(NoAnswer("x", sent=True))
    _, again = run(channel().refund(REFUND_REQUEST, later), NoAnswer("x", sent=True))
    assert first[0].body == again[0].body


@pytest.mark.parametrize(
    ("reason", "sent_reason"),
    [("", None), ("x" * 100, "x" * 80), ("好" * 40, "好" * 26), ("a" + "好" * 40, "a" + "好" * 26)],
)
def test_a_long_reason_is_cut_and_none_is_left_out(reason, sent_reason):
    _, sent = refund(NoAnswer("x", sent=True), request=replace(REFUND_REQUEST, reason=reason))
    assert json.loads(sent[0].body).get("reason") == sent_reason


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("currency", "USD"),
        ("amount", 0),
        ("amount", 101),
        ("amount", True),
        ("refund_no", ""),
        ("refund_no", "x" * 65),
        ("refund_no", "a b"),
        ("reason", "\ud800"),
        ("notify_url", "https://example.com/?a=1"),
    ],
)
def test_what_the_platform_can_not_take_is_refused_by_name_and_never_sent(field, value):
    change = {"refund": replace(REFUND_KEY, refund_no=value)} if field == "refund_no" else {field: value}
    outcome, sent = refund(request=replace(REFUND_REQUEST, **change))
    assert isinstance(outcome, Refused)
    assert outcome.message.startswith(f"{field}: ")
    assert sent == []


# --- what is answered

STATES = [
    ("PROCESSING", RefundState.PROCESSING),
    ("SUCCESS", RefundState.SUCCEEDED),
    ("CLOSED", RefundState.FAILED),
    ("ABNORMAL", RefundState.ABNORMAL),
]


@pytest.mark.parametrize("verb", [refund, query_refund])
@pytest.mark.parametrize(("status", "state"), STATES)
def test_every_refund_state(verb, status, state):
    outcome, _ = verb(answer({**REFUND, "status": status}))
    assert outcome == RefundKnown(replace(KNOWN, state=state))


@pytest.mark.parametrize("verb", [refund, query_refund])
@pytest.mark.parametrize("status", ["", "success", "REFUNDED", None])
def test_a_state_that_is_not_listed_is_unknown(verb, status):
    outcome, _ = verb(answer({**REFUND, "status": status}))
    assert type(outcome) is Unknown


@pytest.mark.parametrize("verb", [refund, query_refund])
@pytest.mark.parametrize(
    "change",
    [
        {"out_refund_no": "01JD00000000000000000000RX"},
        {"out_trade_no": "01JD0000000000000000000ORD02"},
        {"amount": {"refund": 30.0, "currency": "CNY"}},
        {"amount": {"refund": "30", "currency": "CNY"}},
        {"amount": {"refund": 0, "currency": "CNY"}},
        {"amount": {"refund": -30, "currency": "CNY"}},
        {"amount": {"refund": True, "currency": "CNY"}},
        {"amount": {"total": 100}},
        {"amount": None},
        {"refund_id": ""},
        {"refund_id": "a\0"},
        {"transaction_id": None},
    ],
)
def test_an_answer_that_is_not_exactly_understood_is_unknown(verb, change):
    outcome, _ = verb(answer({**REFUND, **change}))
    assert type(outcome) is Unknown


def test_a_refund_under_way_has_no_time_yet():
    under_way = {name: value for name, value in REFUND.items() if name != "success_time"}
    outcome, _ = query_refund(answer({**under_way, "status": "PROCESSING"}))
    assert outcome.refund.success_at_s is None


def test_a_query_names_our_number_and_no_account():
    outcome, sent = query_refund(NOT_EXIST)
    assert outcome == NotFound()
    assert (sent[0].method, sent[0].target) == ("GET", f"/v3/refund/domestic/refunds/{REFUND_NO}")


# --- a no


@pytest.mark.parametrize("code", ["NOT_ENOUGH", "INVALID_REQUEST", "RESOURCE_NOT_EXISTS"])
@pytest.mark.parametrize(
    ("confirming", "expected"),
    [
        (NOT_EXIST, Refused),
        (answer(REFUND), RefundKnown),
        (answer({**REFUND, "status": "NEW"}), Unknown),
        (error(401, "SIGN_ERROR"), Unknown),
        (error(500, "SYSTEM_ERROR"), Unknown),
        (error(404, "MCH_NOT_EXISTS"), Unknown),
        (NoAnswer("timeout", sent=True), Unknown),
    ],
)
def test_a_refusal_counts_only_if_no_earlier_send_was_taken(code, confirming, expected):
    outcome, sent = refund(error(403, code), confirming)
    assert type(outcome) is expected
    assert sent[1].target.endswith(f"/{REFUND_NO}")
