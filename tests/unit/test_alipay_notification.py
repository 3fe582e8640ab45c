"""Alipay notifications: what is believed, and that nothing else ever is."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels.alipay import Alipay, Credentials
from channels.contract import Acknowledgement, ChannelPayment, ChannelRefund, RefundState, RejectReason
from channels.errors import NotificationRejected
from tests.unit.alipay_platform import (
    ACCOUNT,
    APP_ID,
    BASE_URL,
    NOTICE,
    NOW,
    NOW_S,
    OUT_TRADE_NO,
    REFUND_NO,
    SELLER_ID,
    TRADE_NO,
    channel,
    form,
    key,
    notice,
    sign,
)

CHANNEL = channel()
PAYMENT = ChannelPayment(
    channel="alipay",
    account=ACCOUNT,
    out_trade_no=OUT_TRADE_NO,
    channel_transaction=TRADE_NO,
    amount=100,
    currency="CNY",
    success_at_s=NOW_S,
)
REFUNDED = {
    **NOTICE,
    "refund_fee": "0.80",
    "gmt_refund": "2025-10-09 16:53:25.536",
    "out_biz_no": REFUND_NO,
}


def read(body: bytes, now_s: int = NOW_S):
    return CHANNEL.notification({}, body, now_s)


def rejection(body: bytes) -> RejectReason:
    with pytest.raises(NotificationRejected) as caught:
        read(body)
    return caught.value.reason


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in NOTICE.items() if name not in names}


# --- what is believed


@pytest.mark.parametrize("status", ["TRADE_SUCCESS", "TRADE_FINISHED"])
@pytest.mark.parametrize("charset", ["utf-8", "gbk", "UTF-8", "GBK"])
def test_a_genuine_payment_is_read_in_any_charset(status, charset):
    body = notice({**NOTICE, "trade_status": status, "charset": charset}, charset=charset)
    assert read(body) == PAYMENT


@pytest.mark.parametrize("signed_empty", [True, False])
def test_empty_values_may_be_signed_or_not(signed_empty):
    body = notice({**NOTICE, "body": "", "out_biz_no": "", "refund_fee": ""}, signed_empty=signed_empty)
    assert read(body) == PAYMENT


@pytest.mark.parametrize(
    "subject",
    ["a+b", "100%", "%41", "a=b", "a&b", "a&b=c", '{"a":"b&c"}', "a\nb", "长", "é", "'\"\\", " ", "%2B+%25", "&", "="],
)
def test_any_value_is_decoded_once(subject):
    assert read(notice({**NOTICE, "subject": subject})) == PAYMENT
    passed_back = notice({**NOTICE, "passback_params": "merchantBizType%3d3C%26merchantBizNo%3d2016010101111"})
    assert read(passed_back) == PAYMENT


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda text: "&" not in text))
@settings(max_examples=50, deadline=None)
def test_any_subject_leaves_the_signature_whole(subject):
    assert read(notice({**NOTICE, "subject": subject})) == PAYMENT


def test_its_age_does_not_matter_as_a_repetition_states_the_same():
    assert read(notice(NOTICE), NOW_S + 10**8) == PAYMENT


def test_another_app_seller_amount_and_currency_are_stated_as_they_are():
    payment = read(notice({**NOTICE, "app_id": "2099", "seller_id": "2088", "total_amount": "0.01"}))
    assert (payment.account, payment.amount) == ("2099/2088", 1)
    assert read(notice(without("seller_id"))).account == f"{APP_ID}/"
    assert read(notice({**NOTICE, "trans_currency": "USD"})).currency == "USD"


def test_the_time_of_payment_is_its_own_or_the_notifications_or_now():
    assert read(notice(without("gmt_payment"))).success_at_s == NOW_S + 2
    assert read(notice(without("gmt_payment", "notify_time")), NOW_S + 9).success_at_s == NOW_S + 9


def test_with_certificates_any_that_we_hold_may_have_signed():
    known = {"old": key("alipay").public_key(), "new": key("renewed").public_key()}
    one = Alipay(Credentials(APP_ID, SELLER_ID, BASE_URL, key("app"), known))
    for by in ("alipay", "renewed"):
        assert one.notification({}, notice({**NOTICE, "body": ""}, by=by, signed_empty=False), NOW_S) == PAYMENT
    with pytest.raises(NotificationRejected):
        one.notification({}, notice(NOTICE, by="app"), NOW_S)


# --- refunds, which come on the payment's address


@pytest.mark.parametrize("status", ["TRADE_SUCCESS", "TRADE_CLOSED"])
def test_a_refund_is_never_a_second_payment(status):
    refund = read(notice({**REFUNDED, "trade_status": status}))
    assert refund == ChannelRefund(
        channel="alipay",
        account=ACCOUNT,
        refund_no=REFUND_NO,
        state=RefundState.SUCCEEDED,
        out_trade_no=OUT_TRADE_NO,
        success_at_s=NOW_S + 5,
        detail="refunded in all: 0.80",
    )


@pytest.mark.parametrize("absent", ["refund_fee", "gmt_refund"])
def test_either_sign_of_a_refund_makes_it_one(absent):
    body = notice({name: value for name, value in REFUNDED.items() if name != absent})
    assert isinstance(read(body), ChannelRefund)


def test_a_refund_without_a_number_of_ours_still_tells_of_the_payment():
    assert read(notice({**REFUNDED, "out_biz_no": ""})) == PAYMENT
    assert rejection(notice({**REFUNDED, "out_biz_no": "", "trade_status": "TRADE_CLOSED"})) is RejectReason.OTHER_EVENT
    assert rejection(notice({**REFUNDED, "out_biz_no": "their own / 7"})) is RejectReason.OTHER_EVENT


def test_a_trade_that_ended_unpaid_is_no_refund_though_it_names_its_fee():
    ended = {**without("gmt_payment"), "trade_status": "TRADE_CLOSED", "refund_fee": "0.00", "gmt_close": NOW}
    for more in ({}, {"out_biz_no": REFUND_NO}):
        assert rejection(notice({**ended, **more})) is RejectReason.OTHER_EVENT


@pytest.mark.parametrize("status", ["WAIT_BUYER_PAY", "TRADE_CLOSED", "TRADE_PENDING", ""])
def test_other_states_are_other_events(status):
    assert rejection(notice({**NOTICE, "trade_status": status})) is RejectReason.OTHER_EVENT


@pytest.mark.parametrize("kind", ["dut_user_sign", "trade_status_syn", ""])
def test_other_kinds_of_notification_are_other_events(kind):
    assert rejection(notice({**NOTICE, "notify_type": kind})) is RejectReason.OTHER_EVENT


@pytest.mark.parametrize(
    "change",
    [
        *({"total_amount": wrong} for wrong in ("", "0", "0.00", "-1.00", "1.001", "1e2", "１.00", "1.00元", "NaN")),
        *({"trade_no": wrong} for wrong in ("", "a b", "x" * 65, "号")),
        *({"out_trade_no": wrong} for wrong in ("", "a-b", "x" * 65, "订单", "a\0b")),
        *({"seller_id": wrong} for wrong in ("2088\0", "卖家", "a\nb")),
        *({"trans_currency": wrong} for wrong in ("yuan", "CN", "CNYY")),
    ],
)
def test_a_payment_that_can_not_be_read_is_refused_though_it_is_genuine(change):
    assert rejection(notice({**NOTICE, **change})) is RejectReason.UNREADABLE


# --- what is not


def test_a_notification_signed_by_anybody_else_is_refused():
    for body in (notice(NOTICE, by="app"), notice(NOTICE, by="stranger")):
        assert rejection(body) is RejectReason.BAD_SIGNATURE


def test_sign_type_is_not_signed_and_must_be_the_one_we_know():
    genuine = {name: value.encode() for name, value in NOTICE.items()}
    message = "&".join(f"{name}={NOTICE[name]}" for name in sorted(NOTICE))
    for kind in (b"RSA", b"rsa2", b"", b"RSA2 ", b"NONE"):
        body = form({**genuine, "sign": sign(message.encode()).encode(), "sign_type": kind})
        assert rejection(body) is RejectReason.BAD_SIGNATURE
    kept = "&".join(sorted([message, "sign_type=RSA2"]))
    assert rejection(form({**genuine, "sign": sign(kept.encode()).encode(), "sign_type": b"RSA2"}))


@pytest.mark.parametrize("signature", ["", "AAAA", "not base64", "=", "sign%00", "é", "A" * 344])
def test_a_signature_that_is_none_is_refused(signature):
    body = form({**{name: value.encode() for name, value in NOTICE.items()}, "sign": signature.encode()})
    assert rejection(body + b"&sign_type=RSA2") is RejectReason.BAD_SIGNATURE


def test_every_flipped_bit_is_noticed():
    body = notice(NOTICE)
    for place in range(len(body)):
        flipped = bytearray(body)
        flipped[place] ^= 1 << place % 8
        with suppress(NotificationRejected):
            assert read(bytes(flipped)) == PAYMENT, place  # an escape in lower case, or a blank written the other way


@pytest.mark.parametrize("name", [name for name in NOTICE if name != "body"])
def test_every_field_that_is_taken_away_or_changed_is_noticed(name):
    body = notice(NOTICE)
    parts = body.split(b"&")
    left = [part for part in parts if not part.startswith(f"{name}=".encode())]
    assert len(left) == len(parts) - 1
    assert rejection(b"&".join(left)) is RejectReason.BAD_SIGNATURE
    assert rejection(b"&".join([*left, f"{name}=1".encode()])) is RejectReason.BAD_SIGNATURE


@pytest.mark.parametrize("field", [b"total_amount=0.01", b"sign=x", b"sign_type=RSA2", b"subject=", b"out_trade_no=1"])
def test_a_field_that_is_there_twice_is_refused(field):
    for body in (notice(NOTICE) + b"&" + field, field + b"&" + notice(NOTICE)):
        assert rejection(body) is RejectReason.MALFORMED


def test_a_field_that_is_added_is_noticed_and_an_empty_one_says_nothing():
    assert rejection(notice(NOTICE) + b"&refund_fee=1.00") is RejectReason.BAD_SIGNATURE
    assert read(notice(NOTICE, signed_empty=False) + b"&refund_fee=&gmt_refund=&x=") == PAYMENT


def test_a_genuine_string_that_is_cut_into_other_fields_is_refused():
    """A payer of 1 fen with `&total_amount=...` in the subject sends the same signed string as another form."""
    subject = "x&total_amount=1000.00&trade_no=1&trade_status=TRADE_SUCCESS&u="
    genuine = {**NOTICE, "subject": subject, "total_amount": "0.01"}
    signed = dict(pair.split("=", 1) for pair in sorted(f"{name}={value}" for name, value in genuine.items()))
    recut = {name: signed[name] for name in signed if name < "subject"}
    tail = "&".join(f"{name}={genuine[name]}" for name in sorted(genuine) if name > "subject")
    recut |= {
        "subject": "x",
        "total_amount": "1000.00",
        "trade_no": "1",
        "trade_status": "TRADE_SUCCESS",
        "u": f"&{tail}",
    }
    strings = ["&".join(f"{name}={one[name]}" for name in sorted(one)) for one in (genuine, recut)]
    assert strings[0] == strings[1]
    assert rejection(notice(recut)) is RejectReason.MALFORMED
    assert rejection(notice(genuine)) is RejectReason.MALFORMED


@pytest.mark.parametrize(
    "body",
    [b"", b"&", b"=", b"{}", b"<xml/>", b"sign=a&sign_type=RSA2", b"%", b"\xff" * 100, b"&" * 65536, b"a=1&" * 300],
)
def test_what_is_no_notification_at_all_is_refused(body):
    assert rejection(body) in (RejectReason.MALFORMED, RejectReason.BAD_SIGNATURE)


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_no_body_does_anything_but_be_refused(body):
    rejection(body)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_genuine_one_in_pieces_does_nothing_but_be_refused_or_state_the_same(data):
    body = notice(NOTICE)
    begin = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(begin, len(body)))
    put = data.draw(st.binary(max_size=10))
    with suppress(NotificationRejected):
        assert read(body[:begin] + put + body[end:]) == PAYMENT


# --- answers


def test_the_acknowledgement_is_exactly_seven_bytes():
    assert CHANNEL.acknowledge() == Acknowledgement(200, "text/plain", b"success")


def test_a_refusal_is_anything_else():
    assert CHANNEL.refuse(RejectReason.BAD_SIGNATURE) == Acknowledgement(400, "text/plain", b"fail")
    assert CHANNEL.refuse("try again") == Acknowledgement(503, "text/plain", b"fail")


# --- the way back of a payer


def test_a_return_address_is_verified_in_the_same_way():
    fields = {"app_id": APP_ID, "method": "alipay.trade.page.pay.return", "total_amount": "1.00", "trade_no": TRADE_NO}
    assert CHANNEL.returned(notice(fields))
    assert not CHANNEL.returned(notice(fields, by="stranger"))
    assert not CHANNEL.returned(notice(fields).replace(b"1.00", b"9.00"))
    assert not CHANNEL.returned(b"")


def test_a_return_address_is_no_notification_nor_the_other_way_round():
    back = {**NOTICE, "method": "alipay.trade.page.pay.return"}
    del back["notify_type"]
    assert rejection(notice(back)) is RejectReason.OTHER_EVENT
    assert not CHANNEL.returned(notice(NOTICE))
