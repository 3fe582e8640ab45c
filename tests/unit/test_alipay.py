"""Alipay: what each answer means, and what is sent."""

import json
import re
import shutil
import subprocess
from base64 import b64encode
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from msgspec.structs import replace

from channels.alipay import Cancelled, Credentials
from channels.contract import (
    Accepted,
    AlreadyPaid,
    Channel,
    ClosedAtChannel,
    Credential,
    CredentialType,
    NotFound,
    Refused,
    Response,
    Unknown,
)
from channels.errors import NoAnswer
from tests.unit.alipay_platform import (
    ACCOUNT,
    APP_ID,
    ATTEMPT,
    BASE_URL,
    NOW,
    NOW_S,
    OUT_TRADE_NO,
    REQUEST,
    SELLER_ID,
    STAMP,
    TRADE,
    TRADE_NO,
    answer,
    asked,
    channel,
    failed,
    key,
    run,
    sent,
    sign,
    signed_by_app,
    unsigned,
    waiting,
)

PRECREATE, QUERY, CLOSE = "alipay.trade.precreate", "alipay.trade.query", "alipay.trade.close"
CANCEL = "alipay.trade.cancel"
QR = "https://qr.alipay.com/bavh4wjlxf12tper3a"
MADE = {"code": "10000", "msg": "Success", "out_trade_no": OUT_TRADE_NO, "qr_code": QR}
NOT_EXIST = failed(QUERY, "ACQ.TRADE_NOT_EXIST")
EXPIRES_AT_S = NOW_S + 1800


def by(method: str, **changes):
    """The request of another method."""
    return replace(REQUEST, attempt=replace(ATTEMPT, method=method), **changes)


def test_it_is_a_channel():
    one: Channel = channel()
    assert (one.name, one.account, list(one.methods)) == ("alipay", ACCOUNT, ["qr", "page", "wap", "app"])


def test_no_secret_shows_when_it_is_printed():
    assert "PrivateKey" not in repr(Credentials(APP_ID, SELLER_ID, BASE_URL, key("app"), {}))


# --- pay, by a code


def test_a_qr_code_is_asked_for_and_lives_until_the_time_that_was_sent():
    outcome, requests = run(channel().pay(REQUEST, STAMP), answer(PRECREATE, MADE))
    assert outcome == Accepted(Credential(CredentialType.QR, QR, EXPIRES_AT_S))
    params = sent(requests[0])
    assert signed_by_app(params)
    assert json.loads(params.pop("biz_content")) == {
        "out_trade_no": OUT_TRADE_NO,
        "total_amount": "1.00",
        "subject": "测试商品",
        "product_code": "QR_CODE_OFFLINE",
        "time_expire": "2025-10-09 17:23:20",
    }
    del params["sign"]
    assert params == {
        "app_id": APP_ID,
        "method": PRECREATE,
        "format": "JSON",
        "charset": "utf-8",
        "sign_type": "RSA2",
        "timestamp": NOW,
        "version": "1.0",
        "notify_url": REQUEST.notify_url,
    }


def test_biz_content_is_the_body_and_everything_else_the_query():
    _, requests = run(channel().pay(REQUEST, STAMP), NoAnswer("timeout", sent=True))
    assert requests[0].method == "POST"
    assert requests[0].body.startswith(b"biz_content=")
    assert "biz_content" not in requests[0].target
    assert requests[0].target.startswith("/gateway.do?")
    assert requests[0].headers["Content-Type"] == "application/x-www-form-urlencoded;charset=utf-8"
    assert re.fullmatch(r"[!-~]+", requests[0].target + requests[0].body.decode())


def test_the_same_request_sends_the_same_content_at_another_time():
    later = replace(STAMP, now_s=NOW_S + 1000, nonce="m" * 32)
    _, first = run(channel().pay(REQUEST, STAMP), NoAnswer("timeout", sent=True))
    _, again = run(channel().pay(REQUEST, later), NoAnswer("timeout", sent=True))
    assert asked(first[0]) == asked(again[0])


def test_a_qr_code_ends_within_the_two_hours_of_the_oldest_one():
    request = replace(REQUEST, attempt=replace(ATTEMPT, expires_at_s=NOW_S + 86400))
    outcome, requests = run(channel().pay(request, replace(STAMP, now_s=NOW_S + 600)), answer(PRECREATE, MADE))
    assert outcome.credential.expires_at_s == ATTEMPT.started_at_s + 7200
    assert asked(requests[0])[1]["time_expire"] == "2025-10-09 18:53:15"


@pytest.mark.parametrize(("method", "longest_s"), [("page", 15 * 86400), ("wap", 15 * 86400), ("qr", 7200)])
def test_what_the_platform_would_not_take_as_an_end_is_moved_to_what_it_takes(method, longest_s):
    for expires_at_s, taken in ((NOW_S, 120), (NOW_S + 10**8, longest_s)):
        request = replace(REQUEST, attempt=replace(ATTEMPT, method=method, expires_at_s=expires_at_s))
        answers = [answer(PRECREATE, MADE)] if method == "qr" else []
        outcome, _ = run(channel().pay(request, STAMP), *answers)
        assert outcome.credential.expires_at_s == ATTEMPT.started_at_s + taken


def test_the_other_contract_for_codes_has_its_own_product():
    _, requests = run(channel(qr_product="FACE_TO_FACE_PAYMENT").pay(REQUEST, STAMP), NoAnswer("x", sent=False))
    assert asked(requests[0])[1]["product_code"] == "FACE_TO_FACE_PAYMENT"


def test_with_certificates_every_request_names_them():
    own = channel(app_cert_sn="e90dd23a", root_cert_sn="687b_0294")
    params = sent(run(own.pay(REQUEST, STAMP), NoAnswer("x", sent=False))[1][0])
    assert (params["app_cert_sn"], params["alipay_root_cert_sn"]) == ("e90dd23a", "687b_0294")
    assert signed_by_app(params)


@pytest.mark.parametrize(
    ("subject", "shown"),
    [
        ("a/b=c&d,e", "a／b＝c＆d，e"),
        ("two\nlines\tand\0more", "two lines and more"),
        ("长" * 300, "长" * 256),
        ("half \ud83d a sign", "half   a sign"),
        ("🎁 100% off + more", "🎁 100% off + more"),
    ],
)
def test_a_subject_is_sent_as_alipay_takes_it(subject, shown):
    for method in ("qr", "page"):
        outcome, requests = run(
            channel().pay(by(method, subject=subject), STAMP), *([answer(PRECREATE, MADE)] if method == "qr" else [])
        )
        biz = asked(requests[0])[1] if requests else content_of(outcome.credential.value)
        assert biz["subject"] == shown


def content_of(url: str):
    return json.loads(params_of(url)["biz_content"])


def params_of(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    return sent(type("R", (), {"target": f"?{parts.query}", "body": b""}))


UNACCEPTABLE = [
    ("currency", replace(REQUEST, currency="USD")),
    ("amount", replace(REQUEST, amount=0)),
    ("amount", replace(REQUEST, amount=-1)),
    ("amount", replace(REQUEST, amount=True)),
    ("amount", replace(REQUEST, amount=10**10 + 1)),
    ("subject", replace(REQUEST, subject="")),
    ("subject", replace(REQUEST, subject=" \n")),
    ("method", by("jsapi")),
    ("out_trade_no", replace(REQUEST, attempt=replace(ATTEMPT, out_trade_no="a-b"))),
    ("out_trade_no", replace(REQUEST, attempt=replace(ATTEMPT, out_trade_no="x" * 65))),
    ("out_trade_no", replace(REQUEST, attempt=replace(ATTEMPT, out_trade_no="订单"))),
    ("notify_url", replace(REQUEST, notify_url="https://e.com/" + "x" * 250)),
    ("notify_url", replace(REQUEST, notify_url="ftp://e.com/")),
    ("notify_url", replace(REQUEST, notify_url="https://e.com/支付")),
    ("return_url", by("page", return_url="javascript:alert(1)")),
    ("params.quit_url", by("page", params={"quit_url": "https://e.com/"})),
    ("params.quit_url", by("wap", params={"quit_url": "https://e.com/\n"})),
    ("params.quit_url", by("wap", params={"quit_url": "no address"})),
    ("params.qr_pay_mode", by("page", params={"qr_pay_mode": "5"})),
    ("params.out_trade_no", by("page", params={"out_trade_no": "another"})),
    ("params.total_amount", replace(REQUEST, params={"total_amount": "0.01"})),
]


@pytest.mark.parametrize(("field", "request_"), UNACCEPTABLE)
def test_what_can_not_be_sent_is_refused_without_a_request_and_names_the_field(field, request_):
    outcome, requests = run(channel().pay(request_, STAMP))
    assert isinstance(outcome, Refused)
    assert (outcome.code, outcome.message.partition(":")[0], requests) == ("invalid_request", field, [])


@pytest.mark.parametrize(
    "reply",
    [
        answer(PRECREATE, {**MADE, "out_trade_no": "another"}),
        answer(PRECREATE, {**MADE, "qr_code": ""}),
        answer(PRECREATE, {"code": "10000", "out_trade_no": OUT_TRADE_NO}),
        answer(PRECREATE, {**MADE, "qr_code": 7}),
        answer(QUERY, MADE),
        answer("error_response", MADE, by="app"),
        answer(PRECREATE, MADE, by="app"),
        answer(PRECREATE, MADE, sign=sign(json.dumps(MADE).encode())),
        answer(PRECREATE, MADE, sign=""),
        answer(PRECREATE, MADE, alipay_cert_sn="unknown"),
        unsigned(PRECREATE, MADE),
        answer(PRECREATE, {**MADE, "code": 10000}),
        answer(PRECREATE, "[]"),
        answer(PRECREATE, "null"),
        Response(500, {}, b""),
        Response(502, {}, answer(PRECREATE, MADE).body),
        Response(302, {}, answer(PRECREATE, MADE).body),
        Response(200, {}, b""),
        Response(200, {}, "<html>系统繁忙</html>".encode("gbk")),
        Response(200, {}, answer(PRECREATE, MADE).body[:-1]),
        Response(200, {}, answer(PRECREATE, MADE).body + b"}"),
        Response(200, {}, b'{"alipay_trade_precreate_response":' + b"[" * 100_000),
        Response(200, {}, b'{"alipay_trade_precreate_response":{"code":"10000"},"sign":7}'),
        NoAnswer("timeout", sent=True),
        NoAnswer("connection refused", sent=False),
    ],
)
def test_an_answer_that_can_not_be_believed_or_understood_decides_nothing(reply):
    outcome, _ = run(channel().pay(REQUEST, STAMP), reply)
    assert isinstance(outcome, Unknown)


def test_a_gateway_refusal_is_definite_whether_signed_or_not():
    genuine = (
        '{"code":"40002","msg":"Invalid Arguments","sub_code":"isv.invalid-app-id",'
        '"sub_msg":"无效的AppID参数，解决方案：https://open.alipay.com/api/errCheck?traceId=x&source=openapi"}'
    )
    for reply in (unsigned(PRECREATE, genuine), unsigned("error_response", genuine), answer(PRECREATE, genuine)):
        outcome, _ = run(channel().pay(REQUEST, STAMP), reply)
        assert isinstance(outcome, Refused)
        assert outcome.code == "40002"
        assert outcome.message.startswith("isv.invalid-app-id 无效的AppID参数")


def test_a_forged_signature_on_a_gateway_refusal_makes_it_unbelievable():
    reply = answer(PRECREATE, {"code": "40002", "sub_code": "isv.invalid-signature"}, by="app")
    assert isinstance(run(channel().pay(REQUEST, STAMP), reply)[0], Unknown)


def test_a_business_refusal_is_believed_only_when_a_query_finds_nothing_that_could_be_paid():
    refusal = failed(PRECREATE, "ACQ.TOTAL_FEE_EXCEED")
    for known, expected in (
        (NOT_EXIST, Refused("TOTAL_FEE_EXCEED", "ACQ.TOTAL_FEE_EXCEED 文字")),
        (answer(QUERY, {**TRADE, "trade_status": "TRADE_CLOSED", "send_pay_date": ""}), Refused),
        (answer(QUERY, TRADE), AlreadyPaid()),
        (waiting(), Unknown),
        (failed(QUERY, "aop.ACQ.SYSTEM_ERROR", "20000"), Unknown),
        (NoAnswer("timeout", sent=True), Unknown),
    ):
        outcome, _ = run(channel().pay(REQUEST, STAMP), refusal, known)
        assert outcome == expected or outcome.__class__ is expected


@pytest.mark.parametrize("name", ["TRADE_HAS_SUCCESS", "CONTEXT_INCONSISTENT", "APPLY_PC_MERCHANT_CODE_ERROR"])
def test_a_number_that_is_in_use_is_asked_about_and_never_refused_while_a_code_may_be_in_somebodys_hand(name):
    for known, expected in (
        (NOT_EXIST, Unknown),
        (waiting(), Unknown),
        (answer(QUERY, TRADE), AlreadyPaid),
        (answer(QUERY, {**TRADE, "trade_status": "TRADE_CLOSED", "send_pay_date": ""}), Refused),
    ):
        outcome, requests = run(channel().pay(REQUEST, STAMP), failed(PRECREATE, f"ACQ.{name}"), known)
        assert type(outcome) is expected
        assert asked(requests[1]) == (QUERY, {"out_trade_no": OUT_TRADE_NO})


# --- pay, by what the payer's browser or app sends


@pytest.mark.parametrize(
    ("method", "api", "product"),
    [
        ("page", "alipay.trade.page.pay", "FAST_INSTANT_TRADE_PAY"),
        ("wap", "alipay.trade.wap.pay", "QUICK_WAP_WAY"),
    ],
)
def test_a_page_is_a_signed_address_and_asks_nobody(method, api, product):
    outcome, requests = run(channel().pay(by(method, return_url="https://shop.example.com/r?x=1&y=2"), STAMP))
    assert requests == []
    assert (outcome.credential.type, outcome.credential.expires_at_s) == (CredentialType.URL, EXPIRES_AT_S)
    assert outcome.credential.value.startswith(f"{BASE_URL}/gateway.do?")
    params = params_of(outcome.credential.value)
    assert signed_by_app(params)
    assert (params["method"], params["notify_url"]) == (api, REQUEST.notify_url)
    assert params["return_url"] == "https://shop.example.com/r?x=1&y=2"
    biz = json.loads(params["biz_content"])
    assert (biz["product_code"], biz["total_amount"], biz["out_trade_no"]) == (product, "1.00", OUT_TRADE_NO)
    assert biz["time_expire"] == "2025-10-09 17:23:20"


def test_params_go_where_their_method_takes_them():
    page, _ = run(channel().pay(by("page", params={"qr_pay_mode": "4", "qrcode_width": "200"}), STAMP))
    wap, _ = run(channel().pay(by("wap", params={"quit_url": "https://shop.example.com/?a=1&b=2"}), STAMP))
    assert content_of(page.credential.value)["qrcode_width"] == "200"
    assert content_of(wap.credential.value)["quit_url"] == "https://shop.example.com/?a=1&b=2"
    assert "return_url" not in params_of(page.credential.value)


def test_an_app_gets_the_order_string():
    outcome, requests = run(channel().pay(by("app", return_url="https://shop.example.com/"), STAMP))
    assert requests == []
    assert outcome.credential.type is CredentialType.PARAMS
    params = params_of("?" + json.loads(outcome.credential.value)["orderString"])
    assert signed_by_app(params)
    assert params["method"] == "alipay.trade.app.pay"
    assert json.loads(params["biz_content"])["product_code"] == "QUICK_MSECURITY_PAY"
    assert "return_url" not in params


@pytest.mark.parametrize("method", ["page", "wap", "app"])
def test_what_is_over_is_not_given_out(method):
    late = replace(STAMP, now_s=EXPIRES_AT_S)
    assert run(channel().pay(by(method), late)) == (Refused("expired", "nobody could pay with it any more"), [])
    assert isinstance(run(channel().pay(by(method), replace(STAMP, now_s=EXPIRES_AT_S - 1)))[0], Accepted)


def test_with_everything_at_its_longest_an_address_stays_below_what_servers_take():
    urls = {"notify_url": "https://e.com/" + "%" * 242, "return_url": "https://e.com/" + "&" * 242}
    quit_url = {"quit_url": "https://e.com/" + '"' * 386}
    request = by("wap", subject="🎁" * 256, params=quit_url, amount=10**10, **urls)
    outcome, _ = run(channel(app_cert_sn="a" * 32, root_cert_sn="b" * 65).pay(request, STAMP))
    assert 5000 < len(outcome.credential.value) < 8000


# --- close


def test_a_close_is_over_when_the_platform_says_so():
    ended = {"code": "10000", "msg": "Success", "out_trade_no": OUT_TRADE_NO, "trade_no": TRADE_NO}
    outcome, requests = run(channel().close(ATTEMPT, STAMP), answer(CLOSE, ended))
    assert (outcome, asked(requests[0])) == (ClosedAtChannel(), (CLOSE, {"out_trade_no": OUT_TRADE_NO}))
    for other in ({**ended, "out_trade_no": "another"}, {"code": "10000"}):
        assert isinstance(run(channel().close(ATTEMPT, STAMP), answer(CLOSE, other))[0], Unknown)


def test_what_nobody_has_opened_can_not_be_ended():
    assert run(channel().close(ATTEMPT, STAMP), failed(CLOSE, "ACQ.TRADE_NOT_EXIST"))[0] == NotFound()


@pytest.mark.parametrize("name", ["TRADE_STATUS_ERROR", "REASON_TRADE_STATUS_INVALID", "REASON_ILLEGAL_STATUS"])
def test_what_can_not_be_closed_is_asked_about(name):
    for known, expected in (
        (answer(QUERY, TRADE), AlreadyPaid),
        (answer(QUERY, {**TRADE, "trade_status": "TRADE_CLOSED", "send_pay_date": ""}), ClosedAtChannel),
        (answer(QUERY, {**TRADE, "trade_status": "TRADE_CLOSED"}), AlreadyPaid),
        (waiting(), Unknown),
        (NOT_EXIST, Unknown),
        (NoAnswer("timeout", sent=True), Unknown),
    ):
        outcome, _ = run(channel().close(ATTEMPT, STAMP), failed(CLOSE, f"ACQ.{name}"), known)
        assert type(outcome) is expected


# --- cancel


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"action": "close", "retry_flag": "N"}, Cancelled(refunded=False)),
        ({"action": "refund", "retry_flag": "N"}, Cancelled(refunded=True)),
        ({"retry_flag": "N"}, NotFound()),
        ({"action": "close", "retry_flag": "Y"}, Unknown),
        ({"action": "undo", "retry_flag": "N"}, Unknown),
        ({"action": "close", "out_trade_no": "another"}, Unknown),
    ],
)
def test_a_cancel_tells_whether_it_was_paid(stated, expected):
    node = {"code": "10000", "msg": "Success", "out_trade_no": OUT_TRADE_NO, **stated}
    outcome, requests = run(channel().cancel(ATTEMPT, STAMP), answer(CANCEL, node))
    assert outcome == expected or type(outcome) is expected
    assert asked(requests[0]) == (CANCEL, {"out_trade_no": OUT_TRADE_NO})


@pytest.mark.parametrize("name", ["ACQ.SYSTEM_ERROR", "AQC.SYSTEM_ERROR", "ACQ.CANCEL_NOT_ALLOWED", "ACQ.NEW"])
def test_a_cancel_that_failed_decides_nothing(name):
    assert isinstance(run(channel().cancel(ATTEMPT, STAMP), failed(CANCEL, name))[0], Unknown)
    assert run(channel().cancel(ATTEMPT, STAMP), failed(CANCEL, "ACQ.TRADE_NOT_EXIST"))[0] == NotFound()


# --- signatures


def test_keys_are_not_fetched():
    assert run(channel().refresh_keys(STAMP)) == (False, [])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
@pytest.mark.parametrize("method", ["qr", "page", "wap", "app"])
def test_our_signatures_are_those_of_openssl(method, tmp_path):
    pem = tmp_path / "app.pem"
    pem.write_bytes(key("app").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    outcome, requests = run(channel().pay(by(method), STAMP), *([NoAnswer("x", sent=False)] if method == "qr" else []))
    if requests:
        params = sent(requests[0])
    else:
        value = outcome.credential.value
        params = params_of("?" + json.loads(value)["orderString"] if method == "app" else value)
    signature = params.pop("sign")
    message = "&".join(f"{name}={params[name]}" for name in sorted(params)).encode()
    openssl = ["openssl", "dgst", "-sha256", "-sign", str(pem)]
    assert (
        b64encode(subprocess.run(openssl, input=message, capture_output=True, check=True).stdout).decode() == signature
    )
