"""Alipay: what a query's answer means, and which bytes of an answer are believed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.alipay import Alipay, Credentials
from channels.contract import ChannelPayment, ClosedAtChannel, NotFound, NotPaid, Paid, Response, Unknown
from tests.unit.alipay_platform import (
    ACCOUNT,
    APP_ID,
    ATTEMPT,
    BASE_URL,
    NOW_S,
    OUT_TRADE_NO,
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

QUERY = "alipay.trade.query"
NOT_EXIST = failed(QUERY, "ACQ.TRADE_NOT_EXIST")


def paid(**changes) -> Paid:
    payment = {
        "channel": "alipay",
        "account": ACCOUNT,
        "out_trade_no": OUT_TRADE_NO,
        "channel_transaction": TRADE_NO,
        "amount": 100,
        "currency": "CNY",
        "success_at_s": NOW_S,
    }
    return Paid(ChannelPayment(**{**payment, **changes}))


def query(reply):
    return run(channel().query(ATTEMPT, STAMP), reply)[0]


@pytest.mark.parametrize("status", ["TRADE_SUCCESS", "TRADE_FINISHED"])
def test_a_paid_trade_is_stated_with_its_whole_price_and_the_time_it_was_paid(status):
    outcome, requests = run(channel().query(ATTEMPT, STAMP), answer(QUERY, {**TRADE, "trade_status": status}))
    assert outcome == paid()
    assert asked(requests[0]) == (QUERY, {"out_trade_no": OUT_TRADE_NO})
    assert signed_by_app(sent(requests[0]))


def test_a_trade_that_is_closed_was_paid_if_it_has_a_time_of_payment():
    assert query(answer(QUERY, {**TRADE, "trade_status": "TRADE_CLOSED"})) == paid()
    for unpaid in ({"send_pay_date": ""}, {"send_pay_date": None}):
        assert query(answer(QUERY, {**TRADE, "trade_status": "TRADE_CLOSED", **unpaid})) == ClosedAtChannel()
    bare = {"code": "10000", "out_trade_no": OUT_TRADE_NO, "trade_status": "TRADE_CLOSED"}
    assert query(answer(QUERY, bare)) == ClosedAtChannel()


def test_a_trade_that_waits_for_its_buyer_is_not_paid_and_one_that_does_not_exist_not_found():
    assert query(waiting(buyer_pay_amount="0.00")) == NotPaid()
    assert query(NOT_EXIST) == NotFound()


@pytest.mark.parametrize(
    ("amount", "fen"),
    [('"0.01"', 1), ('"88.88"', 8888), ("88.88", 8888), ("88.8", 8880), ('"100000000.00"', 10**10), ("19.99", 1999)],
)
def test_an_amount_is_read_exactly_even_where_it_is_a_number(amount, fen):
    node = json.dumps({**TRADE, "total_amount": "@"}).replace('"@"', amount)
    assert query(answer(QUERY, node)) == paid(amount=fen)


@pytest.mark.parametrize(
    "amount", ['""', '"0.00"', '"-1.00"', '"1.001"', "1e2", "null", "true", '"１.00"', "[1]", "{}"]
)
def test_an_amount_that_is_none_makes_a_payment_unknown(amount):
    node = json.dumps({**TRADE, "total_amount": "@"}).replace('"@"', amount)
    assert isinstance(query(answer(QUERY, node)), Unknown)


def test_a_payment_without_a_time_is_one_that_was_made_by_now():
    assert query(answer(QUERY, {**TRADE, "send_pay_date": ""})) == paid()
    assert query(answer(QUERY, {**TRADE, "send_pay_date": "soon"})) == paid()


def test_a_foreign_currency_is_stated_as_it_is():
    assert query(answer(QUERY, {**TRADE, "trans_currency": "USD"})) == paid(currency="USD")
    assert isinstance(query(answer(QUERY, {**TRADE, "trans_currency": "yuan"})), Unknown)


@pytest.mark.parametrize(
    "reply",
    [
        answer(QUERY, {**TRADE, "out_trade_no": OUT_TRADE_NO[:-1]}),
        answer(QUERY, {**TRADE, "trade_status": "TRADE_PENDING"}),
        answer(QUERY, {**TRADE, "trade_status": ""}),
        answer(QUERY, {**TRADE, "trade_no": ""}),
        answer(QUERY, {**TRADE, "trade_no": "a b"}),
        answer(QUERY, {**TRADE, "code": "10003"}),
        answer(QUERY, {**TRADE, "code": "40004"}),
        answer(QUERY, {**TRADE, "code": ""}),
        unsigned(QUERY, TRADE),
        unsigned(QUERY, {"code": "40004", "msg": "Business Failed", "sub_code": "ACQ.TRADE_NOT_EXIST"}),
        answer("alipay.trade.close", TRADE),
    ],
)
def test_anything_else_about_a_trade_is_unknown(reply):
    assert isinstance(query(reply), Unknown)


# --- answers: what is signed, and where it ends


@pytest.mark.parametrize(
    "note",
    [
        "}",
        "{",
        '"',
        "\\",
        '\\"}',
        '"},"sign":"',
        'brace } " sign in "sign":" value',
        "\u2028",
        "测试",
        "}" * 50,
        "</br>",
    ],
)
def test_a_node_ends_where_its_json_ends_whatever_its_values_hold(note):
    assert query(answer(QUERY, {**TRADE, "subject_note": note})) == paid()
    tampered = answer(QUERY, {**TRADE, "subject_note": note}).body.replace(b'"1.00"', b'"9.00"')
    assert isinstance(query(Response(200, {}, tampered)), Unknown)


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_value_in_a_node_leaves_the_signature_whole(name, value):
    assert query(answer(QUERY, {f"x{name}": value, **TRADE})) == paid()


def test_every_flipped_bit_of_a_signed_node_is_noticed():
    body = answer(QUERY, TRADE).body
    begin, end = body.index(b":{") + 1, body.index(b'},"sign"') + 1
    for place in range(begin, end):
        flipped = bytearray(body)
        flipped[place] ^= 1 << place % 8
        assert isinstance(query(Response(200, {}, bytes(flipped))), Unknown)


def test_the_parts_may_come_in_any_order_and_with_blanks_between():
    node = json.dumps(TRADE)
    signature, parts = sign(node.encode()), {}
    parts["node"], parts["sign"] = f'"alipay_trade_query_response" : {node}', f'"sign" : "{signature}"'
    for order in (("node", "sign"), ("sign", "node")):
        assert query(Response(200, {}, ("{ " + " , ".join(parts[one] for one in order) + "\n}").encode())) == paid()


def test_of_two_nodes_with_one_name_the_one_that_is_read_is_the_one_that_is_verified():
    cheap = json.dumps({**TRADE, "total_amount": "0.01"})
    genuine = answer(QUERY, TRADE).body
    assert query(Response(200, {}, b'{"alipay_trade_query_response":' + cheap.encode() + b"," + genuine[1:])) == paid()
    last = genuine[:-1] + b',"alipay_trade_query_response":' + cheap.encode() + b"}"
    assert isinstance(query(Response(200, {}, last)), Unknown)


def test_with_certificates_an_answer_is_verified_with_the_one_it_names():
    known = {"old": key("alipay").public_key(), "new": key("renewed").public_key()}
    one = Alipay(Credentials(APP_ID, SELLER_ID, BASE_URL, key("app"), known, "own", "root"))

    def asks(reply):
        return run(one.query(ATTEMPT, STAMP), reply)[0]

    assert asks(answer(QUERY, TRADE, alipay_cert_sn="old")) == paid()
    assert asks(answer(QUERY, TRADE, by="renewed", alipay_cert_sn="new")) == paid()
    assert asks(answer(QUERY, TRADE, by="renewed")) == paid()
    assert isinstance(asks(answer(QUERY, TRADE, alipay_cert_sn="new")), Unknown)
    assert "certificate next" in asks(answer(QUERY, TRADE, by="renewed", alipay_cert_sn="next")).reason
    first = json.loads(answer(QUERY, TRADE, alipay_cert_sn="old").body)
    node = answer(QUERY, TRADE).body.partition(b',"sign"')[0]
    before = node + f',"alipay_cert_sn":"old","sign":"{first["sign"]}"}}'.encode()
    assert asks(Response(200, {}, before)) == paid()
