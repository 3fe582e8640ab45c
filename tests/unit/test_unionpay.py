"""UnionPay: what is sent to let somebody pay, and what each answer to that means."""

import json

import pytest

from channels import unionpay_wire
from channels.contract import (
    Accepted,
    AlreadyPaid,
    Channel,
    Credential,
    CredentialType,
    Refused,
    Unknown,
)
from channels.errors import NoAnswer
from channels.unionpay import TXN_TIME_WINDOW_S
from tests.unit.unionpay_platform import (
    DOCUMENTED,
    EXPIRES_S,
    INVENTED,
    MER_ID,
    NOT_FOUND,
    NOTIFY_URL,
    NOW_S,
    ORDER_ID,
    PAID,
    PAY_TIMEOUT,
    SILENCES,
    STAMP,
    TXN_TIME,
    answer,
    attempt,
    channel,
    code,
    later,
    payment,
    run,
    sent_fields,
    signed_by_merchant,
)

PAID_QUERY = answer(PAID)
QR = "https://qr.95516.com/00010001/62211234567890123456789012345678"
TN = "201611210940000123456"
SHOWN = {"qr": {"qrCode": QR}, "app": {"tn": TN}, "barcode": {}}


def test_it_is_a_channel():
    one: Channel = channel()
    assert (one.name, one.account) == ("unionpay", MER_ID)
    assert {name: method.credential.value for name, method in one.methods.items()} == {
        "web": "form",
        "wap": "form",
        "app": "params",
        "qr": "qr",
        "barcode": "none",
    }


def test_our_table_is_the_platforms_table():
    assert set(unionpay_wire.MEANINGS) == set(DOCUMENTED)


# --- pay: forms


@pytest.mark.parametrize(("method", "channel_type"), [("web", "07"), ("wap", "08")])
def test_a_form_is_made_without_asking_anybody(method, channel_type):
    request = payment(method, return_url="https://shop.example.com/thanks?a=1")
    outcome, sent = run(channel().pay(request, STAMP))
    assert sent == []
    assert isinstance(outcome, Accepted)
    form = json.loads(outcome.credential.value)
    signature = form["fields"].pop("signature")
    assert form == {
        "action": "https://gateway.test.95516.com/gateway/api/frontTransReq.do",
        "charset": "UTF-8",
        "fields": {
            "version": "5.1.0",
            "encoding": "UTF-8",
            "signMethod": "01",
            "txnType": "01",
            "txnSubType": "01",
            "bizType": "000201",
            "channelType": channel_type,
            "accessType": "0",
            "merId": MER_ID,
            "orderId": ORDER_ID,
            "txnTime": TXN_TIME,
            "currencyCode": "156",
            "txnAmt": "100",
            "frontUrl": "https://shop.example.com/thanks?a=1",
            "backUrl": NOTIFY_URL,
            "payTimeout": PAY_TIMEOUT,
            "reqReserved": "测试商品",
            "certId": "69903319369",
        },
    }
    assert signature == signed_by_merchant(form["fields"])
    assert (outcome.credential.type, outcome.credential.expires_at_s) == (CredentialType.FORM, EXPIRES_S)


def test_a_form_without_a_return_address_leaves_it_out():
    outcome, _ = run(channel().pay(payment("web"), STAMP))
    assert "frontUrl" not in json.loads(outcome.credential.value)["fields"]


@pytest.mark.parametrize(
    ("subject", "reserved"),
    [
        ("", None),
        ("a=1&b={2}[3]\"'", "a 1 b  2  3   "),
        ("line\r\nbreak\0\ud800", "line  break  "),
        ("公" * 1000, "公" * 256),
    ],
)
def test_what_is_sold_goes_along_without_the_signs_that_do_harm(subject, reserved):
    outcome, _ = run(channel().pay(payment("web", subject=subject), STAMP))
    assert json.loads(outcome.credential.value)["fields"].get("reqReserved") == reserved


def test_the_same_attempt_gives_the_same_form_a_minute_later():
    assert run(channel().pay(payment("web"), STAMP)) == run(channel().pay(payment("web"), later(60)))


# --- pay: codes and numbers


@pytest.mark.parametrize(
    ("method", "path", "special"),
    [
        ("app", "appTransReq.do", {"txnSubType": "01", "bizType": "000201", "payTimeout": PAY_TIMEOUT}),
        ("qr", "backTransReq.do", {"txnSubType": "07", "bizType": "000000", "payTimeout": PAY_TIMEOUT}),
        ("barcode", "backTransReq.do", {"txnSubType": "06", "bizType": "000000", "qrNo": "6220000000000000001"}),
    ],
)
def test_what_is_sent_to_make_it_payable(method, path, special):
    outcome, sent = run(
        channel().pay(payment(method), STAMP), code("05" if method == "barcode" else "00", **SHOWN[method])
    )
    assert isinstance(outcome, Accepted)
    fields = sent_fields(sent[0])
    assert fields.pop("signature") == signed_by_merchant(fields)
    assert fields == {
        "version": "5.1.0",
        "encoding": "UTF-8",
        "signMethod": "01",
        "txnType": "01",
        "channelType": "08",
        "accessType": "0",
        "merId": MER_ID,
        "orderId": ORDER_ID,
        "txnTime": TXN_TIME,
        "currencyCode": "156",
        "txnAmt": "100",
        "backUrl": NOTIFY_URL,
        "reqReserved": "测试商品",
        "certId": "69903319369",
        **special,
    }
    assert (sent[0].method, sent[0].target, sent[0].origin) == ("POST", f"/gateway/api/{path}", "")
    assert sent[0].headers == {"Content-Type": "application/x-www-form-urlencoded;charset=UTF-8"}


def test_what_the_payer_is_given():
    assert run(channel().pay(payment("qr"), STAMP), code("00", qrCode=QR))[0] == Accepted(
        Credential(CredentialType.QR, QR, EXPIRES_S)
    )
    assert run(channel().pay(payment("app"), STAMP), code("00", tn=TN))[0] == Accepted(
        Credential(CredentialType.PARAMS, f'{{"tn":"{TN}"}}', EXPIRES_S)
    )
    assert run(channel().pay(payment("barcode"), STAMP), code("03"))[0] == Accepted(
        Credential(CredentialType.NONE, "", EXPIRES_S)
    )


@pytest.mark.parametrize("shown", [{}, {"qrCode": ""}, {"tn": TN}, {"qrCode": "x" * 513}])
def test_a_success_without_the_code_is_unknown(shown):
    assert isinstance(run(channel().pay(payment("qr"), STAMP), code("00", **shown))[0], Unknown)


def test_the_same_request_sends_the_same_bytes_at_another_time():
    _, first = run(channel().pay(payment(), STAMP), NoAnswer("timeout", sent=True))
    _, again = run(channel().pay(payment(), later(60)), NoAnswer("timeout", sent=True))
    assert first == again


PRESENTED = {"10", "13", "30", "31", "32", "33", "38", "39", "43"}
DECLINED = PRESENTED | {
    *("44", "61", "62", "63", "64", "65", "66", "67", "68", "73", "86", "87", "88", "89", "90", "91"),
}


@pytest.mark.parametrize("method", ["qr", "app"])
def test_every_code_of_making_it_payable(method):
    """A definite no is only what the platform checks before, and (12) what it has made before and told nobody."""
    one, shown = channel(), SHOWN[method]
    for resp_code in (*DOCUMENTED, *INVENTED):
        refused = resp_code in PRESENTED | {"12"}
        confirmation = [NOT_FOUND] if refused else []
        outcome, _ = run(one.pay(payment(method), STAMP), code(resp_code, **shown), *confirmation)
        assert type(outcome) is (Accepted if resp_code == "00" else Refused if refused else Unknown), resp_code
        if refused:
            assert outcome.code == resp_code


def test_every_code_of_a_barcode():
    one = channel()
    for resp_code in (*DOCUMENTED, *INVENTED):
        refused = resp_code in DECLINED
        outcome, _ = run(one.pay(payment("barcode"), STAMP), code(resp_code), *([NOT_FOUND] if refused else []))
        expected = Refused if refused else Unknown
        if resp_code in ("00", "A6"):
            expected = AlreadyPaid
        if resp_code in ("03", "04", "05"):
            expected = Accepted
        assert type(outcome) is expected, resp_code


@pytest.mark.parametrize(
    ("method", "refusal", "known", "expected"),
    [
        ("qr", "12", PAID_QUERY, AlreadyPaid),
        ("qr", "12", code("00", origRespCode="05"), Refused),  # made before, its code told to nobody
        ("app", "12", code("00", origRespCode="05"), Refused),
        ("qr", "30", code("00", origRespCode="05"), Unknown),  # refused now, but an earlier send was taken
        ("barcode", "64", code("00", origRespCode="64"), Refused),
        ("barcode", "86", code("00", origRespCode="05"), Unknown),  # our own earlier send may have used the code up
        ("barcode", "86", PAID_QUERY, AlreadyPaid),
        ("barcode", "64", code("06"), Unknown),
        ("qr", "12", NoAnswer("timeout", sent=True), Unknown),
    ],
)
def test_a_refusal_counts_only_if_nothing_else_is_known(method, refusal, known, expected):
    outcome, sent = run(channel().pay(payment(method), STAMP), code(refusal), known)
    assert type(outcome) is expected
    assert sent[1].target == "/gateway/api/queryTrans.do"


@pytest.mark.parametrize("silence", SILENCES)
@pytest.mark.parametrize("method", ["qr", "app", "barcode"])
def test_silence_is_unknown(method, silence):
    assert isinstance(run(channel().pay(payment(method), STAMP), silence)[0], Unknown)


# --- pay: too late


@pytest.mark.parametrize("method", ["web", "wap"])
def test_a_form_that_would_arrive_too_late_is_not_given_out(method):
    in_time, _ = run(channel().pay(payment(method), later(TXN_TIME_WINDOW_S - 1)))
    assert isinstance(in_time, Accepted)
    outcome, sent = run(channel().pay(payment(method), later(TXN_TIME_WINDOW_S)))
    assert (outcome.code, sent) == ("too_late", [])


@pytest.mark.parametrize("expires_in_s", [2, 0, -100])
def test_after_its_payment_time_nothing_is_made_payable(expires_in_s):
    request = payment("web", attempt=attempt("web", expires_at_s=NOW_S + expires_in_s))
    assert run(channel().pay(request, STAMP))[0].code == "too_late"


@pytest.mark.parametrize(
    ("method", "known", "expected"),
    [
        ("qr", NOT_FOUND, Refused),
        ("qr", code("00", origRespCode="05"), Refused),
        ("qr", PAID_QUERY, AlreadyPaid),
        ("app", NOT_FOUND, Refused),
        ("app", NoAnswer("timeout", sent=True), Unknown),
        ("barcode", NOT_FOUND, Refused),
        ("barcode", code("00", origRespCode="05"), Unknown),
    ],
)
def test_what_could_only_arrive_too_late_is_asked_after_and_never_sent(method, known, expected):
    outcome, sent = run(channel().pay(payment(method), later(TXN_TIME_WINDOW_S)), known)
    assert type(outcome) is expected
    assert [request.target for request in sent] == ["/gateway/api/queryTrans.do"]


# --- pay: what can not be sent


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (payment(attempt=attempt("native")), "method"),
        (payment(attempt=attempt(out_trade_no="short7x")), "out_trade_no"),
        (payment(attempt=attempt(out_trade_no="x" * 33)), "out_trade_no"),
        (payment(attempt=attempt(out_trade_no="with_underscore")), "out_trade_no"),
        (payment(attempt=attempt(out_trade_no="０１２３４５６７８９")), "out_trade_no"),
        (payment(currency="USD"), "currency"),
        (payment(amount=0), "amount"),
        (payment(amount=-1), "amount"),
        (payment(amount=True), "amount"),
        (payment(amount=10**12), "amount"),
        (payment(notify_url="https://pay.example.com/n?order=1"), "notify_url"),
        (payment(notify_url="https://pay.example.com/" + "n" * 256), "notify_url"),
        (payment(notify_url="pay.example.com"), "notify_url"),
        (payment("web", return_url="javascript:alert(1)"), "return_url"),
        (payment("web", return_url="https://e.com/" + "r" * 256), "return_url"),
        (payment("qr", params={"qr_no": "6220000000000000001"}), "params.qr_no"),
        (payment("barcode", params={}), "params.qr_no"),
        (payment("barcode", params={"qr_no": "62200000000 0000001"}), "params.qr_no"),
        (payment("barcode", params={"qr_no": "622"}), "params.qr_no"),
    ],
)
def test_what_the_platform_could_not_take_is_refused_before_it_is_sent(request_, field):
    outcome, sent = run(channel().pay(request_, STAMP))
    assert (outcome.code, sent) == ("invalid_request", [])
    assert outcome.message.startswith(f"{field}:")
