"""WeChat Pay: what each answer means, and what is sent."""

import base64
import json
import re
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from msgspec.structs import replace

from channels.contract import (
    Accepted,
    AlreadyPaid,
    Channel,
    ClosedAtChannel,
    Credential,
    NotPaid,
    Paid,
    Refused,
    Response,
    Unknown,
)
from channels.errors import NoAnswer
from channels.moments import of_rfc3339
from tests.unit.wechatpay_platform import (
    ACCOUNT,
    APPID,
    ATTEMPT,
    CERTIFICATE_SERIAL,
    MCHID,
    NOT_AFTER,
    NOW_S,
    OUT_TRADE_NO,
    PUBLIC_KEY_ID,
    REQUEST,
    STAMP,
    TRADE,
    answer,
    certificate,
    channel,
    error,
    key,
    run,
    sealed,
    signed,
)

CODE_URL = "weixin://wxpay/bizpayurl?pr=p4lpSuKzz"
NOT_EXIST = error(404, "ORDER_NOT_EXIST")


def test_it_is_a_channel():
    one: Channel = channel()
    assert (one.name, one.account) == ("wechatpay", ACCOUNT)
    assert list(one.methods) == ["native", "jsapi", "mini", "h5", "app"]
    assert all(name == method.name for name, method in one.methods.items())


# --- pay


def test_an_accepted_prepay_gives_the_code_until_the_attempt_expires():
    outcome, sent = run(channel().pay(REQUEST, STAMP), answer({"code_url": CODE_URL}))
    assert outcome == Accepted(Credential("qr", CODE_URL, NOW_S + 1800))
    assert (sent[0].method, sent[0].target) == ("POST", "/v3/pay/transactions/native")
    assert json.loads(sent[0].body) == {
        "appid": APPID,
        "mchid": MCHID,
        "description": "测试商品",
        "out_trade_no": OUT_TRADE_NO,
        "time_expire": "2025-10-09T17:23:20+08:00",
        "notify_url": REQUEST.notify_url,
        "amount": {"total": 100, "currency": "CNY"},
    }


@pytest.mark.parametrize("later_s", [1, 1790, 1800, 100_000])
def test_the_same_request_sends_the_same_parameters_at_any_other_time(later_s):
    later = replace(STAMP, now_s=NOW_S + later_s, nonce="m" * 32)
    _, first = run(channel().pay(REQUEST, STAMP), NoAnswer("timeout", sent=True))
    _, again = run(channel().pay(REQUEST, later), NoAnswer("timeout", sent=True))
    assert first[0].body == again[0].body
    assert first[0].headers["Authorization"] != again[0].headers["Authorization"]


@pytest.mark.parametrize(
    ("expires_in_s", "sent_in_s"), [(-5, 60), (59, 60), (61, 61), (3 * 3600, 3 * 3600), (30 * 86400, 7 * 86400)]
)
def test_the_expiry_stays_within_what_the_platform_takes(expires_in_s, sent_in_s):
    request = replace(REQUEST, attempt=replace(ATTEMPT, expires_at_s=NOW_S + expires_in_s))
    _, sent = run(channel().pay(request, STAMP), NoAnswer("x", sent=True))
    assert of_rfc3339(json.loads(sent[0].body)["time_expire"]) == NOW_S + sent_in_s


@pytest.mark.parametrize(
    ("expires_in_s", "now_in_s", "signed_in_s", "ends_in_s"),
    [
        (1800, 0, 0, 1800),  # time_expire ends it
        (3 * 3600, 0, 0, 2 * 3600),  # the code dies before
        (3 * 3600, 0, 40, 2 * 3600 + 40),  # counted on the platform's clock, from its answer
        (3 * 3600, 0, -40, 2 * 3600 - 40),
        (1800, 0, -40, 1800),
        (1800, 1790, 1790, 1850),  # the platform raises what is left to one minute
        (1800, 4000, 4010, 4070),
    ],
)
def test_a_credential_ends_when_nobody_can_pay_with_it_any_more(expires_in_s, now_in_s, signed_in_s, ends_in_s):
    request = replace(REQUEST, attempt=replace(ATTEMPT, expires_at_s=NOW_S + expires_in_s))
    now = replace(STAMP, now_s=NOW_S + now_in_s)
    outcome, _ = run(channel().pay(request, now), answer({"code_url": CODE_URL}, at_s=NOW_S + signed_in_s))
    assert outcome.credential.expires_at_s == NOW_S + ends_in_s


def test_a_long_subject_is_cut_to_127_characters():
    _, sent = run(channel().pay(replace(REQUEST, subject="好" * 200), STAMP), NoAnswer("x", sent=True))
    assert json.loads(sent[0].body)["description"] == "好" * 127


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("currency", "USD"),
        ("amount", 0),
        ("amount", -1),
        ("amount", True),
        ("method", "scan"),
        ("out_trade_no", "short"),
        ("out_trade_no", "x" * 33),
        ("out_trade_no", "with blank"),
        ("subject", ""),
        ("subject", "\ud800"),
        ("notify_url", "https://example.com/?a=1"),
        ("notify_url", "https://example.com/" + "x" * 256),
        ("notify_url", "ftp://example.com/"),
        ("notify_url", "https://example.com/a b"),
    ],
)
def test_what_the_platform_can_not_take_is_refused_by_name_and_never_sent(field, value):
    of_attempt = field in ("method", "out_trade_no")
    change = {"attempt": replace(ATTEMPT, **{field: value})} if of_attempt else {field: value}
    outcome, sent = run(channel().pay(replace(REQUEST, **change), STAMP))
    assert isinstance(outcome, Refused)
    assert outcome.code == "invalid_request"
    assert outcome.message.startswith(f"{field}: ")
    assert sent == []


@pytest.mark.parametrize(
    ("confirming", "expected"),
    [
        (NOT_EXIST, Refused),
        (answer({**TRADE, "trade_state": "CLOSED"}), Refused),
        (answer({**TRADE, "trade_state": "NOTPAY"}), Unknown),
        (answer(TRADE), AlreadyPaid),
        (error(401, "SIGN_ERROR"), Unknown),
        (error(500, "SYSTEM_ERROR"), Unknown),
        (NoAnswer("timeout", sent=True), Unknown),
    ],
)
def test_a_refusal_counts_only_if_no_earlier_send_was_taken(confirming, expected):
    outcome, sent = run(channel().pay(REQUEST, STAMP), error(400, "PARAM_ERROR"), confirming)
    assert type(outcome) is expected
    assert sent[1].method == "GET"
    nonces = [re.search('nonce_str="([^"]*)"', each.headers["Authorization"])[1] for each in sent]
    assert nonces[0] != nonces[1]


# --- query


@pytest.mark.parametrize(
    ("trade_state", "expected"),
    [
        ("SUCCESS", Paid),
        ("REFUND", Paid),
        ("NOTPAY", NotPaid),
        ("USERPAYING", NotPaid),
        ("ACCEPT", NotPaid),
        ("CLOSED", ClosedAtChannel),
        ("REVOKED", ClosedAtChannel),
        ("PAYERROR", ClosedAtChannel),
        ("", Unknown),
        ("success", Unknown),
        ("NEW_STATE", Unknown),
    ],
)
def test_every_trade_state(trade_state, expected):
    outcome, _ = run(channel().query(ATTEMPT, STAMP), answer({**TRADE, "trade_state": trade_state}))
    assert type(outcome) is expected


def test_a_paid_answer_states_the_order_amount_not_what_the_payer_gave_after_coupons():
    outcome, sent = run(channel().query(ATTEMPT, STAMP), answer(TRADE))
    assert sent[0].target == f"/v3/pay/transactions/out-trade-no/{OUT_TRADE_NO}?mchid={MCHID}"
    assert sent[0].body == b""
    payment = outcome.payment
    assert (payment.amount, payment.currency, payment.success_at_s) == (100, "CNY", NOW_S)
    assert (payment.account, payment.channel_transaction) == (ACCOUNT, TRADE["transaction_id"])


@pytest.mark.parametrize(("field", "value"), [("mchid", "1900000000"), ("appid", "wxother")])
def test_money_of_another_account_is_stated_under_that_account(field, value):
    outcome, _ = run(channel().query(ATTEMPT, STAMP), answer({**TRADE, field: value}))
    assert outcome.payment.account != channel().account
    assert value in outcome.payment.account


def test_a_live_answer_about_an_unpaid_trade_names_no_currency_and_empty_fields():
    trade = {name: TRADE[name] for name in ("mchid", "appid", "out_trade_no")}
    live = {**trade, "trade_state": "NOTPAY", "amount": {"payer_currency": "CNY", "total": 100}, "transaction_id": ""}
    outcome, _ = run(channel().query(ATTEMPT, STAMP), answer({**live, "success_time": "", "attach": ""}))
    assert outcome == NotPaid()


@pytest.mark.parametrize("state", ["NOTPAY", "CLOSED"])
@pytest.mark.parametrize("field", ["mchid", "appid"])
def test_an_unpaid_trade_of_another_account_says_nothing(field, state):
    outcome, _ = run(channel().query(ATTEMPT, STAMP), answer({**TRADE, "trade_state": state, field: "other"}))
    assert type(outcome) is Unknown


@pytest.mark.parametrize(
    "change",
    [
        {"out_trade_no": "01JD0000000000000000000ORD02"},
        {"amount": {"total": 1.0, "currency": "CNY"}},
        {"amount": {"total": True, "currency": "CNY"}},
        {"amount": {"total": "100", "currency": "CNY"}},
        {"amount": {"total": 0, "currency": "CNY"}},
        {"amount": {"total": -100, "currency": "CNY"}},
        {"amount": {"total": 10**30, "currency": "CNY"}},
        {"amount": {"total": 100}},
        {"amount": {"total": 100, "currency": "cny"}},
        {"amount": None},
        {"transaction_id": None},
        {"transaction_id": ""},
        {"transaction_id": "a\u0000b"},
        {"transaction_id": "12\n"},
        {"success_time": None},
        {"success_time": "2025-10-09 16:53:20"},
        {"success_time": "2025-10-09T16:53:20"},
        {"success_time": "2025-02-30T16:53:20+08:00"},
        {"success_time": "2025-W01-1T16:53:20+08:00"},
        {"mchid": None},
    ],
)
def test_a_paid_answer_that_is_not_exactly_understood_is_unknown(change):
    outcome, _ = run(channel().query(ATTEMPT, STAMP), answer({**TRADE, **change}))
    assert type(outcome) is Unknown


@pytest.mark.parametrize(
    ("success_time", "unix_s"),
    [
        ("2025-10-09T16:53:20+08:00", NOW_S),
        ("2025-10-09T08:53:20Z", NOW_S),
        ("2025-10-09T08:53:20.999999999Z", NOW_S),
        ("2025-10-09T00:53:20-08:00", NOW_S),
        ("1969-12-31T23:59:59Z", -1),
        ("0001-01-01T00:00:00+14:00", -62135647200),
    ],
)
def test_success_time_is_read_to_the_second(success_time, unix_s):
    outcome, _ = run(channel().query(ATTEMPT, STAMP), answer({**TRADE, "success_time": success_time}))
    assert outcome.payment.success_at_s == unix_s


# --- close


def test_only_a_signed_204_closes():
    outcome, sent = run(channel().close(ATTEMPT, STAMP), answer(status=204))
    assert outcome == ClosedAtChannel()
    assert json.loads(sent[0].body) == {"mchid": MCHID}
    assert sent[0].target == f"/v3/pay/transactions/out-trade-no/{OUT_TRADE_NO}/close"
    for other in (Response(204, {}, b""), answer(b"{}", status=200), answer(status=202)):
        outcome, _ = run(channel().close(ATTEMPT, STAMP), other)
        assert type(outcome) is Unknown


# --- belief


def test_the_request_is_signed_over_exactly_what_goes_out():
    _, [request] = run(channel().close(ATTEMPT, STAMP), NoAnswer("x", sent=True))
    scheme, pairs = request.headers["Authorization"].split(" ", 1)
    parts = dict(re.findall(r'(\w+)="([^"]*)"', pairs))
    message = f"POST\n{request.target}\n{NOW_S}\n{parts['nonce_str']}\n".encode() + request.body + b"\n"
    signature = base64.b64decode(parts["signature"])
    key("merchant").public_key().verify(signature, message, PKCS1v15(), SHA256())
    assert scheme == "WECHATPAY2-SHA256-RSA2048"
    assert (parts["mchid"], parts["serial_no"], parts["timestamp"]) == (MCHID, "ABCDEF", str(NOW_S))
    assert request.headers["Wechatpay-Serial"] == PUBLIC_KEY_ID
    assert request.headers["Accept"] == request.headers["Content-Type"] == "application/json"
    assert request.headers["User-Agent"]


def test_answers_signed_by_either_kind_of_key_are_believed():
    for how in ({}, {"serial": CERTIFICATE_SERIAL, "by": "certificate"}):
        outcome, _ = run(channel().query(ATTEMPT, STAMP), answer(TRADE, **how))
        assert type(outcome) is Paid


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"wechatpay-signature": "WECHATPAY/SIGNTEST/abc"},
        {"wechatpay-signature": "no base64"},
        {"wechatpay-nonce": ""},
        {"wechatpay-timestamp": ""},
        {"wechatpay-timestamp": "12x"},
        {"wechatpay-timestamp": "-1"},
        {"wechatpay-timestamp": "1" * 5000},
        {"wechatpay-signature-type": "WECHATPAY2-SM2-WITH-SM3"},
        {"wechatpay-serial": CERTIFICATE_SERIAL},
    ],
)
def test_a_2xx_that_does_not_verify_is_unknown(headers):
    body = json.dumps(TRADE).encode()
    headers = {**signed(body), **headers} if headers else {}
    outcome, _ = run(channel().query(ATTEMPT, STAMP), Response(200, headers, body))
    assert type(outcome) is Unknown
    assert "not believed" in outcome.reason


@pytest.mark.parametrize(("age_s", "expected"), [(299, Paid), (-299, Paid), (300, Unknown), (-300, Unknown)])
def test_an_answer_signed_300_seconds_off_is_not_believed(age_s, expected):
    outcome, _ = run(channel().query(ATTEMPT, STAMP), answer(TRADE, at_s=NOW_S - age_s))
    assert type(outcome) is expected


def test_a_missing_signature_type_means_the_only_one_there_is():
    reply = answer(TRADE)
    headers = {name: value for name, value in reply.headers.items() if name != "wechatpay-signature-type"}
    outcome, _ = run(channel().query(ATTEMPT, STAMP), replace(reply, headers=headers))
    assert type(outcome) is Paid


# --- keys


def certificate_list(*pems: bytes) -> Response:
    entries = [{"serial_no": "x", "encrypt_certificate": sealed(pem, "certificate")} for pem in pems]
    return Response(200, {}, json.dumps({"data": entries}).encode())


def test_an_answer_with_an_unknown_serial_refreshes_the_keys_once_and_is_then_believed():
    one, reply = channel(), answer(TRADE, serial="BEEF", by="new")
    outcome, sent = run(one.query(ATTEMPT, STAMP), reply, certificate_list(certificate("new")))
    assert type(outcome) is Paid
    assert sent[1].target == "/v3/certificates"
    outcome, _ = run(one.query(ATTEMPT, STAMP), reply)
    assert type(outcome) is Paid


def test_an_unknown_serial_that_stays_unknown_is_asked_for_once():
    reply = answer(TRADE, serial="DEAD", by="new")
    outcome, _ = run(channel().query(ATTEMPT, STAMP), reply, certificate_list(certificate("new")))
    assert type(outcome) is Unknown


@pytest.mark.parametrize(
    "reply",
    [
        certificate_list(),
        certificate_list(b"rubbish"),
        certificate_list(certificate("new", not_after=NOT_AFTER - timedelta(3600))),
        certificate_list(*[certificate("new")] * 17),
        Response(200, {}, certificate_list(certificate("new")).body.replace(b"AEAD_AES_256_GCM", b"NONE")),
        Response(200, {}, b"["),
        error(404, "RESOURCE_NOT_EXISTS"),
        NoAnswer("timeout", sent=True),
    ],
    ids=["none", "rubbish", "expired", "too many", "other algorithm", "no json", "no certificates", "silence"],
)
def test_a_refresh_that_brings_nothing_usable_changes_nothing(reply):
    one = channel()
    assert run(one.refresh_keys(STAMP), reply)[0] is False
    assert type(run(one.query(ATTEMPT, STAMP), answer(TRADE))[0]) is Paid


def test_an_unusable_certificate_does_not_hide_a_usable_one():
    assert run(channel().refresh_keys(STAMP), certificate_list(b"rubbish", certificate("new")))[0] is True
