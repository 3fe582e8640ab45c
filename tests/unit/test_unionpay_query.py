"""UnionPay: what each answer to a query and a close means, how answers are written, and which are believed."""

import pytest
from msgspec.structs import replace

from channels import moments
from channels.contract import (
    AlreadyPaid,
    ChannelPayment,
    ClosedAtChannel,
    Debited,
    NotClosable,
    NotFound,
    NotPaid,
    Paid,
    Response,
    Unknown,
)
from channels.unionpay import CLOSE_MARGIN_S, UNDECIDED_MARGIN_S
from tests.unit.unionpay_platform import (
    DOCUMENTED,
    EXPIRES_S,
    INVENTED,
    MER_ID,
    NOT_FOUND,
    NOW_S,
    ORDER_ID,
    PAID,
    QUERY_ID,
    SILENCES,
    STAMP,
    TXN_TIME,
    answer,
    attempt,
    certificate,
    channel,
    code,
    later,
    merchant_pem,
    raw,
    run,
    sent_fields,
    sign_pem,
    signed,
    signed_by_merchant,
)

PAID_QUERY = answer(PAID)
PAYMENT = ChannelPayment("unionpay", MER_ID, ORDER_ID, QUERY_ID, 100, "CNY", NOW_S + 67)
AFTER = EXPIRES_S - NOW_S + CLOSE_MARGIN_S
DECLINED = {
    *("10", "13", "30", "31", "32", "33", "38", "39", "43"),
    *("44", "61", "62", "63", "64", "65", "66", "67", "68", "73", "86", "87", "88", "89", "90", "91"),
}


# --- query


def test_a_query_names_the_order_by_its_number_and_its_first_moment():
    outcome, sent = run(channel().query(attempt(), later(1000)), PAID_QUERY)
    assert outcome == Paid(PAYMENT)
    fields = sent_fields(sent[0])
    assert fields.pop("signature") == signed_by_merchant(fields)
    assert fields == {
        "version": "5.1.0",
        "encoding": "UTF-8",
        "signMethod": "01",
        "txnType": "00",
        "txnSubType": "00",
        "bizType": "000000",
        "accessType": "0",
        "merId": MER_ID,
        "orderId": ORDER_ID,
        "txnTime": TXN_TIME,
        "certId": "69903319369",
    }


def test_where_queries_go_can_be_configured():
    asking = channel(query_path="/gateway/api/backTransReq.do")
    assert run(asking.query(attempt(), STAMP), NOT_FOUND)[1][0].target == "/gateway/api/backTransReq.do"


@pytest.mark.parametrize("method", ["web", "wap", "app", "qr", "barcode"])
@pytest.mark.parametrize(("after_s", "over"), [(2, False), (AFTER - 1, False), (AFTER, True)])
def test_every_code_of_a_query(method, after_s, over):
    """Whatever the answer itself says beside success and not found says nothing about the order."""
    one = channel()
    for resp_code in (*DOCUMENTED, *INVENTED):
        known = answer({**PAID, "respCode": resp_code})
        expected = Paid if resp_code == "00" else Unknown
        if resp_code == "34":
            expected = ClosedAtChannel if over else NotFound
        assert type(run(one.query(attempt(method), later(after_s)), known)[0]) is expected, resp_code


@pytest.mark.parametrize("method", ["web", "wap", "app", "qr", "barcode"])
@pytest.mark.parametrize(("after_s", "over"), [(2, False), (AFTER - 1, False), (AFTER, True)])
def test_every_code_of_the_order_that_was_asked_after(method, after_s, over):
    one = channel()
    for original in (*DOCUMENTED, *INVENTED):
        expected = ClosedAtChannel if over or (method == "barcode" and original in DECLINED) else NotPaid
        if original in ("00", "A6"):
            expected = Paid
        if original in ("03", "04", "05", "70", "83"):
            expected = Debited if over and original in ("03", "04", "83") else NotPaid
        if original in ("42", "74", "75"):
            expected = Debited
        if original in INVENTED:
            expected = Unknown
        known = answer({**PAID, "origRespCode": original})
        assert type(run(one.query(attempt(method), later(after_s)), known)[0]) is expected, original


@pytest.mark.parametrize(("original", "expected"), [("05", ClosedAtChannel), ("70", ClosedAtChannel)])
def test_what_waits_for_a_payer_long_after_its_time_has_ended(original, expected):
    known = answer({**PAID, "origRespCode": original})
    after = AFTER - CLOSE_MARGIN_S + UNDECIDED_MARGIN_S
    asked = [run(channel().query(attempt(), later(after_s)), known)[0] for after_s in (after - 1, after)]
    assert [type(outcome) for outcome in asked] == [NotPaid, expected]


@pytest.mark.parametrize("silence", SILENCES)
def test_silence_about_an_order_is_unknown(silence):
    assert isinstance(run(channel().query(attempt(), later(AFTER)), silence)[0], Unknown)


@pytest.mark.parametrize(
    "changed", [{"merId": "777290058110097"}, {"orderId": "x" * 28}, {"txnTime": "20261121094001"}]
)
def test_an_answer_about_something_else_is_unknown(changed):
    assert isinstance(run(channel().query(attempt(), STAMP), answer({**PAID, **changed}))[0], Unknown)


@pytest.mark.parametrize("txn_type", ["", "00", "04", "31"])
def test_a_success_of_another_kind_of_trade_is_no_payment(txn_type):
    assert isinstance(run(channel().query(attempt(), STAMP), answer({**PAID, "txnType": txn_type}))[0], Unknown)


@pytest.mark.parametrize(
    ("changed", "payment_changed"),
    [
        ({"traceTime": ""}, {"success_at_s": NOW_S}),
        ({"traceTime": "1399999999"}, {"success_at_s": NOW_S}),
        ({"traceTime": "0229000000"}, {"success_at_s": NOW_S}),  # in no year near this one
        ({"currencyCode": "840"}, {"currency": "XXX"}),
        ({"currencyCode": ""}, {}),  # the currency it is settled in, at the same amount
        ({"txnAmt": "000000000099"}, {"amount": 99}),
        ({"settleAmt": "7", "settleCurrencyCode": "840"}, {}),
        ({"accNo": "6226********0048=+&x[&]{&}"[:17]}, {}),
    ],
)
def test_what_a_payment_states(changed, payment_changed):
    outcome, _ = run(channel().query(attempt(), STAMP), answer({**PAID, **changed}))
    assert outcome == Paid(replace(PAYMENT, **payment_changed))


@pytest.mark.parametrize(
    "changed",
    [
        {"txnAmt": ""},
        {"txnAmt": "0"},
        {"txnAmt": "1.00"},
        {"txnAmt": "-100"},
        {"txnAmt": "１００"},
        {"txnAmt": "9" * 16},
        {"queryId": ""},
        {"currencyCode": "", "settleCurrencyCode": ""},
        {"currencyCode": "", "settleAmt": "99"},
    ],
)
def test_a_success_that_leaves_out_what_a_payment_needs_is_unknown(changed):
    assert isinstance(run(channel().query(attempt(), STAMP), answer({**PAID, **changed}))[0], Unknown)


@pytest.mark.parametrize(
    ("txn_time", "trace_time", "success"),
    [
        ("20261231235959", "0101000107", 1_798_732_867),  # the next year's first minute
        ("20270101000000", "1231235958", 1_798_732_798),  # their clock is behind ours
        ("20280229235900", "0229235901", 1_835_452_741),
    ],
)
def test_the_year_that_a_trace_time_leaves_out_is_the_nearest(txn_time, trace_time, success):

    asked = attempt(started_at_s=moments.of_compact(txn_time), expires_at_s=success + 1000)
    known = answer({**PAID, "txnTime": txn_time, "traceTime": trace_time})
    outcome, _ = run(channel().query(asked, replace(STAMP, now_s=success)), known)
    assert outcome.payment.success_at_s == success


# --- close


@pytest.mark.parametrize(
    ("known", "after_s", "expected"),
    [
        (PAID_QUERY, 2, AlreadyPaid()),
        (NOT_FOUND, 2, NotClosable()),
        (code("00", origRespCode="05"), 2, NotClosable()),
        (code("00", origRespCode="64"), 2, NotClosable()),
        (NOT_FOUND, AFTER, ClosedAtChannel()),
        (code("00", origRespCode="64"), AFTER, ClosedAtChannel()),
        (code("00", origRespCode="05"), AFTER, NotClosable()),
    ],
)
def test_there_is_no_close_only_the_end_of_the_payment_time(known, after_s, expected):
    outcome, sent = run(channel().close(attempt(), later(after_s)), known)
    assert outcome == expected
    assert [request.target for request in sent] == ["/gateway/api/queryTrans.do"]


@pytest.mark.parametrize("silence", [*SILENCES, code("06"), code("00", origRespCode="42")])
def test_a_close_of_unknown_outcome_stays_unknown(silence):
    assert isinstance(run(channel().close(attempt(), later(AFTER)), silence)[0], Unknown)


# --- answers as they are written


def test_what_stands_in_brackets_is_opaque_and_a_line_end_is_not_part_of_it():
    fields = signed({**PAID, "respMsg": "成功[a&b=c]", "reserved": "{x=1&y=[&]}", "accNo": "+/=="})
    plain = raw(fields)
    for body in (plain, plain + b"\n", plain + b"\r\n"):
        assert isinstance(run(channel().query(attempt(), STAMP), Response(200, {}, body))[0], Paid)


def test_an_answer_parsed_like_a_form_would_not_verify():
    body = raw(signed(PAID))
    assert b"+" in body
    for changed in (
        body.replace(b"+", b" "),
        body.replace(b"\r\n", b"\n"),
        body.replace(b"respCode=00", b"respCode=34"),
    ):
        assert isinstance(run(channel().query(attempt(), STAMP), Response(200, {}, changed))[0], Unknown)


@pytest.mark.parametrize("twice", [b"&respCode=00", b"&origRespCode=00", b"&signature=x", b"&merId=777290058110048"])
def test_an_answer_that_says_a_thing_twice_is_unknown(twice):
    assert isinstance(run(channel().query(attempt(), STAMP), Response(200, {}, raw(signed(PAID)) + twice))[0], Unknown)


def test_an_open_bracket_swallows_the_rest_and_does_no_harm():
    for body in (b"a={" * 100_000, b"[" * 300_000, b"&" * 300_000, b"a=1&" * 1000):
        assert isinstance(run(channel().query(attempt(), STAMP), Response(200, {}, body))[0], Unknown)


def test_empty_fields_are_no_part_of_what_is_signed():
    fields = {**signed(PAID), "payType": "", "reqReserved": ""}
    assert isinstance(run(channel().query(attempt(), STAMP), Response(200, {}, raw(fields)))[0], Paid)


def test_an_answer_that_is_not_in_our_encoding_is_unknown():
    fields = signed({**PAID, "respMsg": "成功"}, charset="gbk")
    body = "&".join(f"{name}={value}" for name, value in fields.items()).encode("gbk")
    assert isinstance(run(channel().query(attempt(), STAMP), Response(200, {}, body))[0], Unknown)


@pytest.mark.parametrize(
    "forged",
    [
        answer({**PAID, "version": "5.0.0"}),
        answer({**PAID, "signMethod": "11"}),
        answer(PAID, by="stranger"),
        answer(PAID, by="stranger", pem=certificate("stranger", "stranger")),
        answer(PAID, pem=sign_pem("041@8310000000083040@某某公司@00016495")),
        answer(PAID, pem=sign_pem("041@Z2017-11-1@00040000:SIGN@00000001")),
        answer(PAID, pem=sign_pem("中国银联股份有限公司")),
        answer(PAID, by="merchant", pem=merchant_pem()),
        Response(200, {}, raw({**PAID, "signature": signed(PAID)["signature"]})),
    ],
)
def test_an_answer_that_is_not_unionpays_word_is_unknown(forged):
    outcome, _ = run(channel().query(attempt(), STAMP), forged)
    assert isinstance(outcome, Unknown)
    assert "not believed: bad_signature" in outcome.reason


def test_the_test_environments_name_is_believed_only_where_it_is_configured():
    known = answer(PAID, pem=sign_pem("041@Z2017-11-1@00040000:SIGN@00000001"))
    assert isinstance(run(channel(accept_test_names=True).query(attempt(), STAMP), known)[0], Paid)
