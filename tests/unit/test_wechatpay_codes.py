"""WeChat Pay: what each code it documents means to each verb, and that nothing else means anything."""

import pytest

from channels.contract import (
    AlreadyPaid,
    ClosedAtChannel,
    NoStatement,
    NotFound,
    Refused,
    Response,
    StatementNotReady,
    Unknown,
)
from channels.errors import NoAnswer
from tests.unit.wechatpay_platform import (
    ATTEMPT,
    NOW_S,
    REFUND_KEY,
    REFUND_REQUEST,
    REQUEST,
    STAMP,
    answer,
    channel,
    error,
    run,
)

VERBS = {
    "pay": REQUEST,
    "query": ATTEMPT,
    "close": ATTEMPT,
    "refund": REFUND_REQUEST,
    "query_refund": REFUND_KEY,
    "statement": "2025-10-07",  # two days before now: its list was ready long ago
}

# Every code of the fact sheet with the statuses it comes with, in every spelling seen; then what it means to each verb.
# Where a verb is not named it is unknown. A refusal of pay or refund counts only once a query has found nothing.
DOCUMENTED = {
    "PARAM_ERROR": ((400,), {"pay": Refused, "refund": Refused}),
    "INVALID_REQUEST": ((400,), {"pay": Refused, "refund": Refused}),
    "APPID_MCHID_NOT_MATCH": ((400,), {"pay": Refused}),
    "MCH_NOT_EXISTS": ((400, 404), {"pay": Refused, "refund": Refused}),
    "ORDER_CLOSED": ((400,), {"pay": Refused, "close": ClosedAtChannel}),
    "ORDERCLOSED": ((400,), {"pay": Refused, "close": ClosedAtChannel}),
    "ORDER_PAID": ((400,), {"pay": AlreadyPaid, "close": AlreadyPaid}),
    "ORDERPAID": ((400,), {"pay": AlreadyPaid, "close": AlreadyPaid}),
    "SIGN_ERROR": ((401,), {}),
    "NO_AUTH": ((403,), {"pay": Refused, "refund": Refused}),
    "NOAUTH": ((403,), {"pay": Refused, "refund": Refused}),
    "OUT_TRADE_NO_USED": ((403,), {}),
    "RULE_LIMIT": ((403,), {"pay": Refused}),
    "RULELIMIT": ((403,), {"pay": Refused}),
    "TRADE_ERROR": ((403,), {"pay": Refused}),
    "NOT_ENOUGH": ((403,), {"refund": Refused}),
    "USER_ACCOUNT_ABNORMAL": ((403,), {"refund": Refused}),
    "ORDER_NOT_EXIST": ((404,), {"query": NotFound, "close": NotFound}),
    "ORDERNOTEXIST": ((404,), {"query": NotFound, "close": NotFound}),
    "RESOURCE_NOT_EXISTS": ((404,), {"refund": Refused, "query_refund": NotFound}),
    "NO_STATEMENT_EXIST": ((400,), {"statement": NoStatement}),
    "STATEMENT_CREATING": ((400,), {"statement": StatementNotReady}),
    "FREQUENCY_LIMITED": ((429,), {}),
    "RATELIMIT_EXCEEDED": ((429,), {}),
    "SYSTEM_ERROR": ((500,), {}),
    "SYSTEMERROR": ((500,), {}),
    "SERVICE_UNAVAILABLE": ((502, 503), {}),
}
NOTHING_THERE = {"pay": error(404, "ORDER_NOT_EXIST"), "refund": error(404, "RESOURCE_NOT_EXISTS")}

UNDECIDED = [
    error(429, "ORDER_PAID"),
    error(500, "ORDER_CLOSED"),
    error(503, "PARAM_ERROR"),
    error(408, "ORDER_NOT_EXIST"),
    error(429, "RESOURCE_NOT_EXISTS"),
    error(500, "NO_STATEMENT_EXIST"),
    error(302, "ORDER_NOT_EXIST"),
    error(404, ""),
    error(400, "SOMETHING_NEW"),
    Response(404, {}, b""),
    Response(405, {}, b""),
    Response(400, {}, b"<html>"),
    Response(400, {}, b"\xff\xfe"),
    Response(400, {}, b'{"code":' + b"[" * 100_000),
    Response(400, {}, b'{"code": 7}'),
    Response(200, {}, b"{}"),
    answer(None, status=202),
    answer({}, status=200),
    answer({}, status=201),
    answer(b"[" * 100_000),
    NoAnswer("timeout", sent=True),
    NoAnswer("connection refused", sent=False),
]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("status", "code"), [(status, code) for code, (statuses, _) in DOCUMENTED.items() for status in statuses]
)
def test_every_documented_code_of_every_verb(verb, status, code):
    expected = DOCUMENTED[code][1].get(verb, Unknown)
    confirming = [NOTHING_THERE[verb]] if expected is Refused else []
    outcome, _ = run(getattr(channel(), verb)(VERBS[verb], STAMP), error(status, code), *confirming)
    assert type(outcome) is expected
    if expected is Refused:
        assert outcome == Refused(code=code, message="文字")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("reply", UNDECIDED)
def test_silence_and_answers_that_decide_nothing_are_unknown(verb, reply):
    outcome, _ = run(getattr(channel(), verb)(VERBS[verb], STAMP), reply)
    assert type(outcome) is Unknown


@pytest.mark.parametrize("verb", VERBS)
def test_an_unverifiable_answer_is_unknown_to_every_verb(verb):
    for how in ({"by": "merchant"}, {"at_s": NOW_S - 300}):
        outcome, _ = run(getattr(channel(), verb)(VERBS[verb], STAMP), answer({}, **how))
        assert type(outcome) is Unknown
        assert "not believed" in outcome.reason
