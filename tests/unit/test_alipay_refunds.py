"""Alipay: refunds, and what each answer about them means."""

import pytest
from msgspec.structs import replace

from channels.contract import ChannelRefund, NotFound, RefundKnown, RefundState, Refused, Unknown
from channels.errors import NoAnswer
from tests.unit.alipay_platform import (
    ACCOUNT,
    NOW,
    NOW_S,
    OUT_TRADE_NO,
    REFUND,
    REFUND_NO,
    REFUND_REQUEST,
    STAMP,
    TRADE_NO,
    answer,
    asked,
    channel,
    failed,
    run,
    sent,
    signed_by_app,
    unsigned,
)

SEND, ASK = "alipay.trade.refund", "alipay.trade.fastpay.refund.query"
DONE = {
    "code": "10000",
    "msg": "Success",
    "fund_change": "Y",
    "gmt_refund_pay": NOW,
    "out_trade_no": OUT_TRADE_NO,
    "refund_fee": "0.80",
    "trade_no": TRADE_NO,
}
FOUND = {
    "code": "10000",
    "msg": "Success",
    "out_request_no": REFUND_NO,
    "out_trade_no": OUT_TRADE_NO,
    "refund_amount": "0.30",
    "refund_status": "REFUND_SUCCESS",
    "gmt_refund_pay": NOW,
    "total_amount": "1.00",
    "trade_no": TRADE_NO,
}
NONE = {"code": "10000", "msg": "Success"}


def succeeded(**changes) -> RefundKnown:
    stated = {"amount": 30, "success_at_s": NOW_S, **changes}
    return RefundKnown(
        ChannelRefund(
            channel="alipay",
            account=ACCOUNT,
            refund_no=REFUND_NO,
            state=RefundState.SUCCEEDED,
            out_trade_no=OUT_TRADE_NO,
            **stated,
        )
    )


def refund(*answers):
    return run(channel().refund(REFUND_REQUEST, STAMP), *answers)


def query(reply):
    return run(channel().query_refund(REFUND, STAMP), reply)[0]


def test_a_refund_is_done_when_money_moved_by_it_and_the_sum_of_all_refunds_is_not_its_amount():
    outcome, requests = refund(answer(SEND, DONE))
    assert outcome == succeeded(amount=None)
    assert asked(requests[0]) == (
        SEND,
        {"trade_no": TRADE_NO, "out_request_no": REFUND_NO, "refund_amount": "0.30", "refund_reason": "不要了"},
    )
    assert signed_by_app(sent(requests[0]))
    assert "notify_url" not in sent(requests[0])


def test_the_same_refund_sends_the_same_content_again():
    _, first = refund(NoAnswer("timeout", sent=True))
    later = replace(STAMP, now_s=NOW_S + 1000, nonce="m" * 32)
    _, again = run(channel().refund(REFUND_REQUEST, later), NoAnswer("timeout", sent=True))
    assert asked(first[0]) == asked(again[0])


def test_without_the_platforms_number_ours_names_the_trade_and_without_a_reason_there_is_none():
    request = replace(REFUND_REQUEST, refund=replace(REFUND, channel_transaction=""), reason="")
    _, requests = run(channel().refund(request, STAMP), NoAnswer("x", sent=False))
    biz = {"out_trade_no": OUT_TRADE_NO, "out_request_no": REFUND_NO, "refund_amount": "0.30"}
    assert asked(requests[0]) == (SEND, biz)


def test_a_reason_is_sent_as_alipay_takes_it():
    request = replace(REFUND_REQUEST, reason="wrong size, a&b\n" + "长" * 300)
    _, requests = run(channel().refund(request, STAMP), NoAnswer("x", sent=False))
    reason = asked(requests[0])[1]["refund_reason"]
    assert reason.startswith("wrong size， a＆b 长")
    assert len(reason) == 256


@pytest.mark.parametrize("change", [{"fund_change": "N"}, {"fund_change": ""}, {"fund_change": "y"}])
def test_if_no_money_moved_by_this_call_the_refund_is_asked_after(change):
    reply = answer(SEND, {**DONE, **change})
    assert refund(reply, answer(ASK, FOUND))[0] == succeeded()
    assert isinstance(refund(reply, answer(ASK, NONE))[0], Unknown)
    assert isinstance(refund(reply, failed(ASK, "ACQ.SYSTEM_ERROR"))[0], Unknown)
    assert isinstance(refund(reply, NoAnswer("timeout", sent=True))[0], Unknown)


def test_without_a_word_on_money_the_refund_is_asked_after():
    bare = {name: value for name, value in DONE.items() if name != "fund_change"}
    outcome, requests = refund(answer(SEND, bare), answer(ASK, FOUND))
    assert outcome == succeeded()
    assert asked(requests[1])[0] == ASK


def test_a_refusal_is_believed_only_when_a_query_finds_no_refund():
    reply = failed(SEND, "ACQ.SELLER_BALANCE_NOT_ENOUGH")
    refused = Refused("SELLER_BALANCE_NOT_ENOUGH", "ACQ.SELLER_BALANCE_NOT_ENOUGH 文字")
    assert refund(reply, answer(ASK, NONE))[0] == refused
    assert refund(reply, failed(ASK, "ACQ.TRADE_NOT_EXIST"))[0] == refused
    assert refund(reply, answer(ASK, FOUND))[0] == succeeded()
    assert isinstance(refund(reply, NoAnswer("timeout", sent=True))[0], Unknown)


@pytest.mark.parametrize(
    "reply",
    [
        answer(SEND, {**DONE, "out_trade_no": "another"}),
        answer(SEND, {"code": "10000", "fund_change": "Y"}),
        answer(SEND, DONE, by="app"),
        unsigned(SEND, DONE),
        unsigned(SEND, {"code": "40004", "sub_code": "ACQ.TRADE_HAS_CLOSE"}),
        NoAnswer("timeout", sent=True),
    ],
)
def test_anything_else_about_a_refund_is_unknown(reply):
    assert isinstance(refund(reply)[0], Unknown)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("currency", {"currency": "USD"}),
        ("amount", {"amount": 0}),
        ("amount", {"amount": 101}),
        ("amount", {"amount": True}),
        ("refund_no", {"refund": replace(REFUND, refund_no="a-b")}),
        ("refund_no", {"refund": replace(REFUND, refund_no="")}),
    ],
)
def test_what_can_not_be_given_back_is_refused_without_a_request(field, change):
    outcome, requests = run(channel().refund(replace(REFUND_REQUEST, **change), STAMP))
    assert (outcome.code, outcome.message.partition(":")[0], requests) == ("invalid_request", field, [])


# --- asking after one


def test_a_found_refund_is_stated_with_its_amount_and_time():
    outcome, requests = run(channel().query_refund(REFUND, STAMP), answer(ASK, FOUND))
    assert outcome == succeeded()
    biz = {
        "trade_no": TRADE_NO,
        "out_request_no": REFUND_NO,
        "query_options": ["gmt_refund_pay", "deposit_back_info"],
    }
    assert asked(requests[0]) == (ASK, biz)


def test_older_answers_leave_the_status_out_and_an_amount_means_success():
    bare = {name: value for name, value in FOUND.items() if name not in ("refund_status", "gmt_refund_pay")}
    assert query(answer(ASK, bare)) == succeeded(success_at_s=None)


def test_an_answer_without_status_and_amount_is_no_such_refund_and_no_failure():
    assert query(answer(ASK, NONE)) == NotFound()
    assert query(answer(ASK, {**NONE, "out_trade_no": OUT_TRADE_NO, "refund_amount": "0.00"})) == NotFound()


def test_a_refund_to_a_bank_card_says_how_far_it_is():
    found = {**FOUND, "deposit_back_info": {"has_deposit_back": "true", "dback_status": "P"}}
    assert query(answer(ASK, found)) == succeeded(detail="on its way to a bank card: P")


@pytest.mark.parametrize(
    "change",
    [
        {"refund_status": "REFUND_PROCESSING"},
        {"refund_status": "REFUND_FAIL"},
        {"out_request_no": "another"},
        {"out_trade_no": "another"},
        {"code": "40004"},
    ],
)
def test_any_other_answer_is_unknown(change):
    assert isinstance(query(answer(ASK, {**FOUND, **change})), Unknown)
    assert isinstance(query(unsigned(ASK, FOUND)), Unknown)
