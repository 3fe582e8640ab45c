"""Alipay: every code that its documents name, for every verb. What is not said to decide, decides nothing."""

import pytest

from channels import alipay_wire
from channels.contract import (
    AlreadyPaid,
    ClosedAtChannel,
    NoStatement,
    NotFound,
    RefundKnown,
    Refused,
    StatementNotReady,
    Unknown,
)
from tests.unit.alipay_platform import (
    ATTEMPT,
    REFUND,
    REFUND_NO,
    REFUND_REQUEST,
    REQUEST,
    STAMP,
    TRADE,
    answer,
    channel,
    failed,
    run,
    unsigned,
)

QUERY, REFUND_QUERY = "alipay.trade.query", "alipay.trade.fastpay.refund.query"
BILL = "alipay.data.dataservice.bill.downloadurl.query"
DAY = "2025-10-08"

# The public codes, with each sub_code that a document or a real answer shows for them.
PUBLIC = [
    ("10003", ""),
    *(("20000", sub) for sub in ("isp.unknow-error", "aop.unknow-error", "aop.ACQ.SYSTEM_ERROR")),
    *(("20001", sub) for sub in ("aop.invalid-auth-token", "aop.auth-token-time-out", "aop.invalid-app-auth-token")),
    *(("40005", sub) for sub in ("isv.app-call-limited", "isv.method-call-limited")),
]
REJECTED = [
    *(("40001", sub) for sub in ("isv.missing-method", "isv.missing-signature", "isv.missing-app-id")),
    *(("40002", sub) for sub in ("isv.invalid-signature", "isv.invalid-app-id", "isv.invalid-timestamp")),
    ("40002", "isv.suspected-attack"),
    ("40003", "isv.missing-signature-config"),
    ("40006", "isv.insufficient-isv-permissions"),
]
BUSINESS = [
    *("TRADE_NOT_EXIST", "SYSTEM_ERROR", "INVALID_PARAMETER", "TRADE_STATUS_ERROR", "REASON_TRADE_STATUS_INVALID"),
    *("REASON_ILLEGAL_STATUS", "TRADE_HAS_SUCCESS", "TRADE_HAS_CLOSE", "TRADE_HAS_FINISHED", "CONTEXT_INCONSISTENT"),
    *("APPLY_PC_MERCHANT_CODE_ERROR", "TOTAL_FEE_EXCEED", "BUYER_SELLER_EQUAL", "EXIST_FORBIDDEN_WORD"),
    *("ACCESS_FORBIDDEN", "PARTNER_ERROR", "TRADE_CANCEL_TIME_OUT", "CANCEL_NOT_ALLOWED"),
    *("SELLER_BALANCE_NOT_ENOUGH", "REFUND_AMT_NOT_EQUAL_TOTAL", "REASON_TRADE_REFUND_FEE_ERR"),
    *("TRADE_NOT_ALLOW_REFUND", "NOT_ALLOW_PARTIAL_REFUND", "REASON_TRADE_BEEN_FREEZEN", "REFUND_FEE_ERROR"),
    *("DISCORDANT_REPEAT_REQUEST", "REFUND_CHARGE_ERROR", "ALLOC_AMOUNT_VALIDATE_ERROR"),
    *("BUYER_ENABLE_STATUS_FORBID", "BUYER_ERROR", "BUYER_NOT_EXIST", "CURRENCY_NOT_SUPPORT"),
    *("CUSTOMER_VALIDATE_ERROR", "ENTERPRISE_PAY_BIZ_ERROR", "ONLINE_TRADE_VOUCHER_NOT_ALLOW_REFUND"),
    *("OVERDRAFT_AGREEMENT_NOT_MATCH", "OVERDRAFT_ASSIGN_ACCOUNT_INVALID", "REFUNDALLOC_UNAUTH_LIMIT"),
    *("REFUND_ACCOUNT_NOT_EXIST", "REFUND_ROYALTY_PAYEE_ACCOUNT_NOT_EXIST", "TRADE_SETTLE_ERROR"),
    *("USER_NOT_MATCH_ERR",),
]
STRANGE = ["AQC.SYSTEM_ERROR", "aop.ACQ.SYSTEM_ERROR", "ACQ.", "ACQ.acq.trade_not_exist", "ACQ.SOMETHING_NEW", ""]
BILLS = [
    *("NO_BILL_DATA", "BILL_NOT_EXIST", "BILL_DATE_BEFORE_REGISTRATION", "TYPE_NOT_SUPPORTED", "SYSTEM_RATE_LIMIT"),
    *("USER_RATE_LIMIT", "INVAILID_ARGUMENTS", "isp.bill_not_exist", "isp.no_bill_data"),
]
SUB_CODES = [*(f"ACQ.{name}" for name in BUSINESS), *STRANGE, *BILLS]

ABSENT = failed(QUERY, "ACQ.TRADE_NOT_EXIST")
NO_REFUND = answer(REFUND_QUERY, {"code": "10000", "msg": "Success"})

PAY_REFUSED = {
    *("INVALID_PARAMETER", "ACCESS_FORBIDDEN", "EXIST_FORBIDDEN_WORD", "PARTNER_ERROR", "TOTAL_FEE_EXCEED"),
    *("BUYER_SELLER_EQUAL", "TRADE_HAS_CLOSE"),
}
PAY_ASKED = {"TRADE_HAS_SUCCESS", "CONTEXT_INCONSISTENT", "APPLY_PC_MERCHANT_CODE_ERROR"}
REFUND_UNDECIDED = {
    *("SYSTEM_ERROR", "DISCORDANT_REPEAT_REQUEST", "REFUND_CHARGE_ERROR"),
    *("REASON_ILLEGAL_STATUS", "TRADE_HAS_SUCCESS", "CONTEXT_INCONSISTENT", "APPLY_PC_MERCHANT_CODE_ERROR"),
    *("TOTAL_FEE_EXCEED", "BUYER_SELLER_EQUAL", "EXIST_FORBIDDEN_WORD", "ACCESS_FORBIDDEN", "PARTNER_ERROR"),
    *("TRADE_CANCEL_TIME_OUT", "CANCEL_NOT_ALLOWED"),
}
NOT_WAITING = {"TRADE_STATUS_ERROR", "REASON_TRADE_STATUS_INVALID", "REASON_ILLEGAL_STATUS"}


def name_of(sub_code: str) -> str:
    return sub_code.removeprefix("ACQ.")


@pytest.mark.parametrize("sub_code", SUB_CODES)
def test_pay(sub_code):
    name = name_of(sub_code)
    follow_up = [ABSENT] if name in PAY_REFUSED | PAY_ASKED else []
    outcome, _ = run(channel().pay(REQUEST, STAMP), failed("alipay.trade.precreate", sub_code), *follow_up)
    assert type(outcome) is (Refused if name in PAY_REFUSED else Unknown)


@pytest.mark.parametrize("sub_code", SUB_CODES)
def test_query(sub_code):
    outcome, _ = run(channel().query(ATTEMPT, STAMP), failed(QUERY, sub_code))
    assert type(outcome) is (NotFound if sub_code == "ACQ.TRADE_NOT_EXIST" else Unknown)


@pytest.mark.parametrize("sub_code", SUB_CODES)
def test_close(sub_code):
    name = name_of(sub_code)
    for state, expected in (("TRADE_SUCCESS", AlreadyPaid), ("WAIT_BUYER_PAY", Unknown)):
        follow_up = [answer(QUERY, {**TRADE, "trade_status": state})] if name in NOT_WAITING else []
        outcome, _ = run(channel().close(ATTEMPT, STAMP), failed("alipay.trade.close", sub_code), *follow_up)
        found = NotFound if sub_code == "ACQ.TRADE_NOT_EXIST" else Unknown
        assert type(outcome) is (expected if name in NOT_WAITING else found)


@pytest.mark.parametrize("sub_code", SUB_CODES)
def test_cancel(sub_code):
    outcome, _ = run(channel().cancel(ATTEMPT, STAMP), failed("alipay.trade.cancel", sub_code))
    assert type(outcome) is (NotFound if sub_code == "ACQ.TRADE_NOT_EXIST" else Unknown)


@pytest.mark.parametrize("sub_code", SUB_CODES)
def test_refund(sub_code):
    refused = sub_code.startswith("ACQ.") and name_of(sub_code) in set(BUSINESS) - REFUND_UNDECIDED
    follow_up = [NO_REFUND] if refused or sub_code == "ACQ.DISCORDANT_REPEAT_REQUEST" else []
    outcome, _ = run(channel().refund(REFUND_REQUEST, STAMP), failed("alipay.trade.refund", sub_code), *follow_up)
    assert type(outcome) is (Refused if refused else Unknown)


@pytest.mark.parametrize("sub_code", SUB_CODES)
def test_query_refund(sub_code):
    outcome, _ = run(channel().query_refund(REFUND, STAMP), failed(REFUND_QUERY, sub_code))
    assert type(outcome) is (NotFound if sub_code == "ACQ.TRADE_NOT_EXIST" else Unknown)


@pytest.mark.parametrize("sub_code", SUB_CODES)
def test_statement(sub_code):
    absent = any(name in sub_code.upper() for name in ("NO_BILL_DATA", "BILL_NOT_EXIST"))
    early = sub_code == "INVAILID_ARGUMENTS"
    never = sub_code == "BILL_DATE_BEFORE_REGISTRATION"
    for day, expected in ((DAY, StatementNotReady), ("2025-10-07", NoStatement)):
        outcome, _ = run(channel().statement(day, STAMP), failed(BILL, sub_code))
        if early and day == DAY:
            assert type(outcome) is StatementNotReady
        else:
            assert type(outcome) is (NoStatement if never else expected if absent else Unknown)


def conversations():
    one = channel()
    return {
        "alipay.trade.precreate": one.pay(REQUEST, STAMP),
        QUERY: one.query(ATTEMPT, STAMP),
        "alipay.trade.close": one.close(ATTEMPT, STAMP),
        "alipay.trade.cancel": one.cancel(ATTEMPT, STAMP),
        "alipay.trade.refund": one.refund(REFUND_REQUEST, STAMP),
        REFUND_QUERY: one.query_refund(REFUND, STAMP),
        BILL: one.statement(DAY, STAMP),
    }


@pytest.mark.parametrize(("code", "sub_code"), [*PUBLIC, ("99999", ""), ("", ""), ("40004", "")])
def test_a_public_code_that_is_no_refusal_decides_nothing_signed_or_not(code, sub_code):
    for signed in (True, False):
        for method, flow in conversations().items():
            node = {"code": code, "msg": "x", "sub_code": sub_code}
            reply = answer(method, node) if signed else unsigned(method, node)
            assert isinstance(run(flow, reply)[0], Unknown)


@pytest.mark.parametrize(("code", "sub_code"), REJECTED)
def test_what_the_gateway_refuses_never_reached_the_business(code, sub_code):
    node = {"code": code, "msg": "x", "sub_code": sub_code}
    for method, flow in conversations().items():
        replies = [unsigned("error_response", node)]
        if method == "alipay.trade.refund":  # an earlier send may have got through
            replies.append(unsigned(REFUND_QUERY, node))
        outcome, _ = run(flow, *replies)
        assert isinstance(outcome, Refused if method == "alipay.trade.precreate" else Unknown)


@pytest.mark.parametrize(("code", "sub_code"), REJECTED)
def test_a_refund_that_the_gateway_refused_is_believed_when_its_query_finds_none(code, sub_code):
    reply = unsigned("alipay.trade.refund", {"code": code, "sub_code": sub_code})
    outcome, _ = run(channel().refund(REFUND_REQUEST, STAMP), reply, NO_REFUND)
    assert outcome == Refused(code, sub_code)


def test_a_whole_list_of_tables_holds_nothing_that_says_system_error():
    tables = (
        alipay_wire.PAY_REFUSED,
        alipay_wire.PAY_EXISTS,
        alipay_wire.CLOSE_NOT_WAITING,
        alipay_wire.REFUND_REFUSED,
    )
    names = frozenset[str]().union(*tables)
    assert names <= set(BUSINESS)
    assert not [name for name in names if "SYSTEM_ERROR" in name]


def test_closed_means_closed_where_it_is_asked_about():
    closed = answer(QUERY, {**TRADE, "trade_status": "TRADE_CLOSED", "send_pay_date": ""})
    for name in NOT_WAITING:
        outcome, _ = run(channel().close(ATTEMPT, STAMP), failed("alipay.trade.close", f"ACQ.{name}"), closed)
        assert outcome == ClosedAtChannel()


def test_a_refund_number_that_was_used_with_another_amount_is_stated_with_that_amount():
    found = {
        "code": "10000",
        "out_trade_no": ATTEMPT.out_trade_no,
        "out_request_no": REFUND_NO,
        "refund_amount": "0.20",
    }
    reply = failed("alipay.trade.refund", "ACQ.DISCORDANT_REPEAT_REQUEST")
    outcome, _ = run(channel().refund(REFUND_REQUEST, STAMP), reply, answer(REFUND_QUERY, found))
    assert isinstance(outcome, RefundKnown)
    assert outcome.refund.amount == 20


def test_a_day_that_is_not_over_has_no_list_yet():
    for day in ("2025-10-09", "2025-10-10"):
        for sub_code in ("INVAILID_ARGUMENTS", "BILL_NOT_EXIST"):
            assert run(channel().statement(day, STAMP), failed(BILL, sub_code))[0] == StatementNotReady()
    assert type(run(channel().statement("2025-09-01", STAMP), failed(BILL, "INVAILID_ARGUMENTS"))[0]) is Unknown
