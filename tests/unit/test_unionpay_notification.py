"""UnionPay: which notifications are believed, what they say, and what is answered."""

import re
from datetime import UTC, datetime
from urllib.parse import urlencode

import pytest
from msgspec.structs import replace

from channels import certificates
from channels.contract import Acknowledgement, ChannelPayment, ChannelRefund, RefundState, RejectReason
from channels.errors import NotificationRejected
from channels.unionpay import TRUSTED_MAX
from tests.unit.unionpay_platform import (
    DOCUMENTED,
    INVENTED,
    MER_ID,
    NOTICE,
    NOW_S,
    ORDER_ID,
    OWNER,
    QUERY_ID,
    REFUND,
    STAMP,
    certificate,
    channel,
    middle_pem,
    notice,
    root_pem,
    run,
    sign_pem,
    signed,
)

PAYMENT = ChannelPayment("unionpay", MER_ID, ORDER_ID, QUERY_ID, 100, "CNY", NOW_S + 67)
GIVEN_BACK = {
    **NOTICE,
    "orderId": REFUND.refund_no,
    "txnType": "04",
    "txnSubType": "00",
    "txnAmt": "30",
    "settleAmt": "30",
    "origQryId": QUERY_ID,
    "queryId": "212611211000000000002",
}
REFUNDED = ChannelRefund(
    channel="unionpay",
    account=MER_ID,
    refund_no=REFUND.refund_no,
    state=RefundState.SUCCEEDED,
    channel_refund="212611211000000000002",
    amount=30,
    success_at_s=NOW_S + 67,
)


def read(body: bytes, now_s: int = NOW_S + 90, **changes):
    return channel(**changes).notification({}, body, now_s)


def rejection(body: bytes, now_s: int = NOW_S + 90) -> RejectReason:
    with pytest.raises(NotificationRejected) as caught:
        read(body, now_s)
    return caught.value.reason


# --- what they say


def test_a_notification_is_the_payment_it_states():
    assert read(notice()) == PAYMENT


@pytest.mark.parametrize(
    ("changed", "payment"),
    [
        ({"merId": "777290058110097"}, {"account": "777290058110097"}),  # whoever credits compares
        ({"txnAmt": "99"}, {"amount": 99}),
        ({"currencyCode": "840"}, {"currency": "XXX"}),
        ({"respCode": "A6"}, {}),
        ({"respMsg": "success"}, {}),
        ({"traceTime": ""}, {"success_at_s": NOW_S}),
        ({"reqReserved": "a|b+c d=100%&x"}, {}),
        ({"respMsg": "成功[0000000]", "exchangeRate": "", "payType": ""}, {}),
    ],
)
def test_what_else_a_payment_may_state(changed, payment):
    assert read(notice({**NOTICE, **changed})) == replace(PAYMENT, **payment)


@pytest.mark.parametrize("txn_type", ["04", "31"])
def test_a_refund_or_void_is_told_with_its_end(txn_type):
    told = {**GIVEN_BACK, "txnType": txn_type}
    assert read(notice(told)) == REFUNDED
    failed = replace(REFUNDED, state=RefundState.FAILED, success_at_s=None)
    failed = replace(failed, detail="respCode 60 (failed at the issuer) 失败")
    assert read(notice({**told, "respCode": "60", "respMsg": "失败"})) == failed


UNDECIDED = {
    *("02", "03", "04", "05", "06", "12", "34", "37", "42", "70", "74", "75", "83", "85", "98", "99", *INVENTED),
    *(str(unexplained) for unexplained in range(76, 83)),
}


def test_every_code_of_every_kind_of_notification():
    """Of a payment only success is told; its failure moves nothing, and the next query decides."""
    for code in (*DOCUMENTED, *INVENTED):
        paid, told = notice({**NOTICE, "respCode": code}), notice({**GIVEN_BACK, "respCode": code})
        if code in ("00", "A6"):
            assert (read(paid), read(told)) == (PAYMENT, REFUNDED)
            continue
        assert rejection(paid) is RejectReason.OTHER_EVENT, code
        if code in UNDECIDED:
            assert rejection(told) is RejectReason.OTHER_EVENT, code
        else:
            assert read(told).state is RefundState.FAILED, code


@pytest.mark.parametrize("txn_type", ["", "00", "02", "03", "76", "95", "１"])
def test_other_kinds_of_trades_move_nothing(txn_type):
    assert rejection(notice({**NOTICE, "txnType": txn_type})) is RejectReason.OTHER_EVENT


@pytest.mark.parametrize(
    "left_out", [{"txnAmt": ""}, {"txnAmt": "0"}, {"txnAmt": "1e2"}, {"queryId": ""}, {"orderId": ""}, {"txnTime": ""}]
)
def test_a_payment_that_leaves_out_what_it_needs_is_not_credited(left_out):
    assert rejection(notice({**NOTICE, **left_out})) is RejectReason.UNREADABLE


# --- how they are written


@pytest.mark.parametrize("charset", ["GBK", "gbk", "UTF-8", "utf-8"])
def test_the_charset_is_the_one_it_names(charset):
    body = notice({**NOTICE, "encoding": charset, "respMsg": "成功[0000000]"}, charset=charset.lower())
    assert read(body) == PAYMENT


@pytest.mark.parametrize("charset", ["", "utf-16", "latin-1", "rot13", "idna", "gb2312\0"])
def test_another_charset_is_not_read(charset):
    assert rejection(notice({**NOTICE, "encoding": charset})) is RejectReason.UNREADABLE


def test_a_code_that_is_not_in_its_charset_is_not_read_but_a_payment_may_come_with_any_words():
    assert rejection(notice({**NOTICE, "respCode": "成功"}, charset="gbk")) is RejectReason.UNREADABLE
    assert read(notice({**NOTICE, "respMsg": "成功"}, charset="gbk")) == PAYMENT


def test_line_ends_of_the_certificate_are_part_of_what_is_signed():
    body = notice()
    assert b"%0D%0A" in body
    assert rejection(body.replace(b"%0D%0A", b"%0A")) is RejectReason.BAD_SIGNATURE


def test_a_blank_and_a_plus_are_told_apart():
    body = notice({**NOTICE, "reqReserved": "a+b c"})
    assert read(body) == PAYMENT
    assert rejection(body.replace(b"a%2Bb+c", b"a+b+c")) is RejectReason.BAD_SIGNATURE


@pytest.mark.parametrize("twice", [b"&respCode=00", b"&txnAmt=1", b"&signature=", b"&%72espCode=00", b"&merId=1"])
def test_a_notification_that_says_a_thing_twice_is_not_believed(twice):
    assert rejection(notice() + twice) is RejectReason.MALFORMED
    assert rejection(twice[1:] + b"&" + notice()) is RejectReason.MALFORMED


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"\xff\xfe\x00",
        b"=" * 60_000,
        b"&" * 60_000,
        b"signPubKeyCert=x&version=5.1.0&signMethod=01",
        b"version=5.1.0&signMethod=01&signPubKeyCert=&signature=",
        b"version=5.1.0&signMethod=01&signature=%FF&signPubKeyCert=" + b"A" * 60_000,
        b"&".join(b"f%d=1" % number for number in range(1000)),
    ],
)
def test_rubbish_is_not_believed(body):
    assert rejection(body) in (RejectReason.MALFORMED, RejectReason.BAD_SIGNATURE)


# --- belief


@pytest.mark.parametrize("name", [name for name in NOTICE if NOTICE[name]])
def test_every_field_is_under_the_signature(name):
    fields = signed(NOTICE)
    for changed in ({name: fields[name] + "0"}, {name: ""}, {"added": "1"}):
        assert rejection(urlencode({**fields, **changed}).encode()) is RejectReason.BAD_SIGNATURE


@pytest.mark.parametrize("swallowed", ["currencyCode", "merId", "orderId", "respCode", "txnAmt", "txnType"])
def test_a_signed_text_cut_into_other_fields_is_refused(swallowed):
    """The values are signed as they are, so a field can hide in the value of the one before it."""
    fields = signed(NOTICE)
    names = sorted(name for name in fields if fields[name] and name != "signature")
    before = names[names.index(swallowed) - 1]
    merged = {**fields, before: f"{fields[before]}&{swallowed}={fields[swallowed]}"}
    del merged[swallowed]
    assert rejection(urlencode(merged).encode()) in (RejectReason.MALFORMED, RejectReason.BAD_SIGNATURE)


def test_every_downgrade_is_refused():
    for changed in ({"version": "5.0.0"}, {"version": ""}, {"signMethod": "11"}, {"signMethod": "12"}):
        assert rejection(notice({**NOTICE, **changed})) is RejectReason.BAD_SIGNATURE


@pytest.mark.parametrize(
    "pem",
    [
        certificate("sign", "sign", common_name=OWNER),
        certificate("sign", "stranger", common_name=OWNER),
        certificate("sign", "middle", common_name=OWNER, issued_by="stranger"),
        certificate("sign", "middle", common_name="041@8310000000083040@别的公司@00016495"),
        certificate("sign", "middle", common_name="中国银联股份有限公司"),
        certificate("sign", "middle", common_name="041@x@ 中国银联股份有限公司@00016495"),
        certificate("sign", "middle", common_name="041@Z2017-11-1@00040000:SIGN@00000001"),
        middle_pem(),
        root_pem(),
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
    ],
)
def test_a_signature_that_verifies_is_nothing_without_a_certificate_that_is_trusted(pem):
    assert rejection(notice(pem=pem)) is RejectReason.BAD_SIGNATURE


def test_a_genuine_certificate_does_not_help_whoever_lacks_its_key():
    assert rejection(notice(by="stranger", pem=sign_pem())) is RejectReason.BAD_SIGNATURE


@pytest.mark.parametrize("signature", ["", "AAAA", "é", "=", "A" * 344])
def test_what_is_no_signature_does_not_verify(signature):
    assert rejection(urlencode({**signed(NOTICE), "signature": signature}).encode()) is RejectReason.BAD_SIGNATURE


def test_a_signature_written_in_another_way_is_not_the_signature():
    fields = signed(NOTICE)
    for other in (
        fields["signature"] + "\n",
        " " + fields["signature"],
        fields["signature"].replace("=", "") + "=="[:0],
    ):
        assert rejection(urlencode({**fields, "signature": other}).encode()) is RejectReason.BAD_SIGNATURE


def test_the_dates_are_looked_at_each_time_also_of_what_was_seen_before():
    one = channel()
    dies_s = int(datetime(2036, 1, 1, tzinfo=UTC).timestamp())
    born_s = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    for now_s in (NOW_S, dies_s, born_s):
        assert one.notification({}, notice(), now_s) == PAYMENT
    for now_s in (dies_s + 1, born_s - 1):
        with pytest.raises(NotificationRejected, match="out of date"):
            one.notification({}, notice(), now_s)


def test_a_certificate_changed_in_mid_run_is_believed_beside_the_old_one():
    one = channel()
    for _ in range(2):
        for subject in ("sign", "sign2"):
            assert one.notification({}, notice(by=subject, pem=sign_pem(OWNER, subject)), NOW_S) == PAYMENT


def test_a_valid_certificate_is_looked_at_once_and_not_remembered_for_ever(monkeypatch):
    seen = []
    genuine = certificates.validate

    def counted(pem, authorities):
        seen.append(pem)
        return genuine(pem, authorities)

    monkeypatch.setattr(certificates, "validate", counted)
    one = channel()
    for _ in range(3):
        one.notification({}, notice(), NOW_S)
    assert len(seen) == 1
    for _ in range(3):
        with pytest.raises(NotificationRejected):  # not UnionPay's key: the certificate's text is not remembered either
            one.notification({}, notice(by="stranger", pem=b"varied\n" + sign_pem()), NOW_S)
    assert len(seen) == 4
    for number in range(TRUSTED_MAX):
        one.notification({}, notice(pem=b"word %d\n" % number + sign_pem()), NOW_S)
    one.notification({}, notice(), NOW_S)
    assert len(seen) == 4 + TRUSTED_MAX + 1


def test_a_copy_is_believed_for_ever_because_nothing_says_when_it_was_sent():
    assert read(notice(), NOW_S + 5 * 365 * 86400) == PAYMENT


# --- what is answered


def test_what_is_answered():
    one = channel()
    assert one.acknowledge() == Acknowledgement(200, "text/plain", b"ok")
    assert one.refuse(RejectReason.BAD_SIGNATURE).status == 400
    assert one.refuse("try again").status == 503
    assert re.fullmatch(rb"x{256}", one.refuse("x" * 5000).body)
    assert one.refuse("\udc80").status == 503


def test_there_are_no_keys_to_fetch():
    assert run(channel().refresh_keys(STAMP)) == (False, [])
