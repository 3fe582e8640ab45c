"""UnionPay: refunds and voids: what is sent, what each answer means, and what is never sent twice."""

import pytest
from msgspec.structs import replace

from channels.contract import ChannelRefund, NotFound, RefundKnown, RefundState, Refused, Response, Unknown
from channels.errors import NoAnswer
from channels.unionpay import REFUND_LOST_AFTER_S, TXN_TIME_WINDOW_S
from tests.unit.unionpay_platform import (
    DOCUMENTED,
    INVENTED,
    MER_ID,
    NOTIFY_URL,
    NOW_S,
    PAID,
    QUERY_ID,
    REFUND,
    REFUND_NOT_FOUND,
    REFUNDED,
    SILENCES,
    STAMP,
    TXN_TIME,
    answer,
    channel,
    later,
    refund,
    refund_code,
    run,
    sent_fields,
    signed_by_merchant,
)

FULL = {"amount": 100}
TAKEN = refund_code("00", queryId="212611211000000000002", txnAmt="30", origQryId=QUERY_ID)
DONE = ChannelRefund(
    channel="unionpay",
    account=MER_ID,
    refund_no=REFUND.refund_no,
    state=RefundState.SUCCEEDED,
    channel_refund="212611211000000000002",
    amount=30,
    success_at_s=NOW_S + 67,
)
REFUSED = {"10", "11", "13", "14", "30", "31", "32", "33", "35", "36", "38", "39", "45"}
FAILED = REFUSED | {
    *("01", "40", "41", "43", "44", "46", "60", "61", "62", "63", "64", "65", "66", "67", "68", "69", "71", "73"),
    *("86", "87", "88", "89", "90", "91"),
}
LOST = TXN_TIME_WINDOW_S + REFUND_LOST_AFTER_S


@pytest.mark.parametrize(("verb", "txn_type", "amount"), [("refund", "04", 30), ("void", "31", 100)])
def test_what_is_sent_names_the_payment_by_its_query_id(verb, txn_type, amount):
    taken = refund_code("00", queryId="212611211000000000002", txnAmt=str(amount))
    outcome, sent = run(getattr(channel(), verb)(refund(amount=amount), STAMP), taken)
    expected = replace(DONE, state=RefundState.PROCESSING, amount=amount, success_at_s=None)
    assert outcome == RefundKnown(expected)
    assert sent[0].target == "/gateway/api/backTransReq.do"
    fields = sent_fields(sent[0])
    assert fields.pop("signature") == signed_by_merchant(fields)
    assert fields == {
        "version": "5.1.0",
        "encoding": "UTF-8",
        "signMethod": "01",
        "txnType": txn_type,
        "txnSubType": "00",
        "bizType": "000000",
        "channelType": "07",
        "accessType": "0",
        "merId": MER_ID,
        "orderId": REFUND.refund_no,
        "txnTime": TXN_TIME,
        "origQryId": QUERY_ID,
        "txnAmt": str(amount),
        "backUrl": NOTIFY_URL,
        "certId": "69903319369",
    }


@pytest.mark.parametrize("verb", ["refund", "void"])
def test_every_code_of_giving_back(verb):
    """00 is taken, not done. A refusal counts when UnionPay does not know the refund's number either."""
    one = channel()
    for resp_code in (*DOCUMENTED, *INVENTED):
        confirmation = [REFUND_NOT_FOUND] if resp_code in REFUSED else []
        outcome, _ = run(getattr(one, verb)(refund(**FULL), STAMP), refund_code(resp_code), *confirmation)
        expected = RefundKnown if resp_code == "00" else Refused if resp_code in REFUSED else Unknown
        assert type(outcome) is expected, resp_code
        if isinstance(outcome, RefundKnown):
            assert outcome.refund.state is RefundState.PROCESSING


def test_every_code_of_a_refunds_query():
    one = channel()
    for resp_code in (*DOCUMENTED, *INVENTED):
        expected = RefundKnown if resp_code == "00" else NotFound if resp_code == "34" else Unknown
        known = answer({**REFUNDED, "respCode": resp_code})
        assert type(run(one.query_refund(REFUND, STAMP), known)[0]) is expected, resp_code


@pytest.mark.parametrize("txn_type", ["04", "31"])
def test_every_code_of_the_refund_that_was_asked_after(txn_type):
    one = channel()
    for original in (*DOCUMENTED, *INVENTED):
        outcome, _ = run(
            one.query_refund(REFUND, STAMP), answer({**REFUNDED, "txnType": txn_type, "origRespCode": original})
        )
        state = outcome.refund.state if isinstance(outcome, RefundKnown) else None
        expected = RefundState.FAILED if original in FAILED else None
        if original in ("00", "A6"):
            expected = RefundState.SUCCEEDED
        if original in ("03", "04", "05"):
            expected = RefundState.PROCESSING
        assert state is expected, original


def test_what_a_refund_states():
    outcome, sent = run(channel().query_refund(REFUND, later(3600)), answer(REFUNDED))
    assert outcome == RefundKnown(DONE)
    fields = sent_fields(sent[0])
    assert (fields["orderId"], fields["txnTime"], fields["txnType"]) == (REFUND.refund_no, TXN_TIME, "00")
    outcome, _ = run(channel().query_refund(REFUND, STAMP), answer({**REFUNDED, "origRespCode": "60"}))
    failed = replace(DONE, state=RefundState.FAILED, success_at_s=None)
    assert outcome == RefundKnown(replace(failed, detail="origRespCode 60 (failed at the issuer) 成功[0000000]"))


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (answer(REFUNDED), RefundKnown(DONE)),  # an earlier send won; this one was refused because of it
        (REFUND_NOT_FOUND, Refused),
        (answer({**REFUNDED, "origRespCode": "05"}), RefundKnown),
        (refund_code("37"), Unknown),
        (NoAnswer("timeout", sent=True), Unknown),
    ],
)
def test_a_refusal_of_a_refund_that_was_taken_before_is_no_refusal(known, expected):
    outcome, sent = run(channel().refund(refund(), STAMP), refund_code("45"), known)
    assert outcome == expected or type(outcome) is expected
    assert sent[1].target == "/gateway/api/queryTrans.do"


@pytest.mark.parametrize("silence", SILENCES)
def test_silence_about_a_refund_is_unknown(silence):
    assert isinstance(run(channel().refund(refund(), STAMP), silence)[0], Unknown)
    assert isinstance(run(channel().void(refund(**FULL), STAMP), silence)[0], Unknown)
    assert isinstance(run(channel().query_refund(REFUND, STAMP), silence)[0], Unknown)


@pytest.mark.parametrize(
    ("after_s", "known", "expected"),
    [
        (TXN_TIME_WINDOW_S, answer(REFUNDED), RefundKnown),
        (TXN_TIME_WINDOW_S, REFUND_NOT_FOUND, Unknown),
        (LOST - 1, REFUND_NOT_FOUND, Unknown),
        (LOST, REFUND_NOT_FOUND, Refused),  # it can not be on its way any more, and will never be sent again
        (LOST, answer(REFUNDED), RefundKnown),
        (LOST, refund_code("06"), Unknown),
        (LOST, NoAnswer("timeout", sent=True), Unknown),
        (10**7, REFUND_NOT_FOUND, Refused),
    ],
)
def test_an_old_refund_is_asked_after_and_never_sent(after_s, known, expected):
    outcome, sent = run(channel().refund(refund(), later(after_s)), known)
    assert type(outcome) is expected
    assert [request.target for request in sent] == ["/gateway/api/queryTrans.do"]


@pytest.mark.parametrize("txn_type", ["", "00", "01"])
def test_a_trade_that_is_no_refund_says_nothing_about_one(txn_type):
    assert isinstance(run(channel().query_refund(REFUND, STAMP), answer({**REFUNDED, "txnType": txn_type}))[0], Unknown)
    payment = answer({**PAID, "orderId": REFUND.refund_no})
    assert isinstance(run(channel().query_refund(REFUND, STAMP), payment)[0], Unknown)


def test_an_answer_about_another_refund_is_unknown():
    assert isinstance(run(channel().refund(refund(), STAMP), answer({**REFUNDED, "orderId": "x" * 10}))[0], Unknown)
    other_time = answer({**REFUNDED, "txnTime": "20261121094001"})
    assert isinstance(run(channel().query_refund(REFUND, STAMP), other_time)[0], Unknown)
    assert isinstance(run(channel().query_refund(REFUND, STAMP), Response(200, {}, b""))[0], Unknown)


@pytest.mark.parametrize(
    ("verb", "changes", "field"),
    [
        ("refund", {"refund": replace(REFUND, refund_no="1234567")}, "refund_no"),
        ("refund", {"refund": replace(REFUND, refund_no="a-refund")}, "refund_no"),
        ("refund", {"refund": replace(REFUND, channel_transaction="")}, "channel_transaction"),
        ("refund", {"refund": replace(REFUND, channel_transaction="2126&x=1")}, "channel_transaction"),
        ("refund", {"amount": 0}, "amount"),
        ("refund", {"amount": 101}, "amount"),
        ("refund", {"amount": True}, "amount"),
        ("refund", {"amount": 10**12, "total": 10**12}, "amount"),
        ("refund", {"currency": "USD"}, "currency"),
        ("refund", {"notify_url": NOTIFY_URL + "?a=1"}, "notify_url"),
        ("void", {"amount": 99}, "amount: a void"),
    ],
)
def test_what_the_platform_could_not_take_is_refused_before_it_is_sent(verb, changes, field):
    outcome, sent = run(getattr(channel(), verb)(refund(**changes), STAMP))
    assert (outcome.code, sent) == ("invalid_request", [])
    assert outcome.message.startswith(field)
