"""WeChat Pay's daily list: how it is fetched and proved, and how its lines are read."""

import gzip
import hashlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from channels.contract import (
    NoStatement,
    Response,
    RowKind,
    StatementFile,
    StatementNotReady,
    StatementRow,
    Unknown,
)
from channels.errors import NoAnswer, StatementUnreadable
from channels.moments import of_plain
from channels.wechatpay_bill import rows, unpacked
from tests.unit.wechatpay_platform import (
    APPID,
    MCHID,
    OUT_TRADE_NO,
    REFUND_NO,
    STAMP,
    TRANSACTION,
    answer,
    channel,
    error,
    run,
)

HEADER = (
    "交易时间,公众账号ID,商户号,特约商户号,设备号,微信订单号,商户订单号,用户标识,交易类型,交易状态,付款银行,货币种类,"
    "应结订单金额,代金券金额,微信退款单号,商户退款单号,退款金额,充值券退款金额,退款类型,退款状态,商品名称,商户数据包,"
    "手续费,费率,订单金额,申请退款金额,费率备注"
)
NAMES = HEADER.split(",")
SUMMARY_HEADER = "总交易单数,应结订单总金额,退款总金额,充值券退款总金额,手续费总金额,订单总金额,申请退款总金额"
SUMMARY = f"{SUMMARY_HEADER}\r\n`2,`0.40,`0.30,`0.00,`0.00000,`1.00,`0.30\r\n"
PAID = {
    "交易时间": "2026-11-21 10:00:00",
    "公众账号ID": APPID,
    "商户号": MCHID,
    "特约商户号": "0",
    "微信订单号": TRANSACTION,
    "商户订单号": OUT_TRADE_NO,
    "用户标识": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o",
    "交易类型": "NATIVE",
    "交易状态": "SUCCESS",
    "付款银行": "OTHERS",
    "货币种类": "CNY",
    "应结订单金额": "0.40",
    "代金券金额": "0.60",
    "微信退款单号": "0",
    "商户退款单号": "0",
    "退款金额": "0.00",
    "充值券退款金额": "0.00",
    "商品名称": "测试商品",
    "手续费": "0.01000",
    "费率": "0.60%",
    "订单金额": "1.00",
    "申请退款金额": "0.00",
}
RETURNED = {
    **PAID,
    "交易时间": "2026-11-21 11:00:00",
    "交易状态": "REFUND",
    "应结订单金额": "0.00",
    "代金券金额": "0.00",
    "微信退款单号": "50000000382026112100000000001",
    "商户退款单号": REFUND_NO,
    "退款金额": "0.12",
    "退款类型": "ORIGINAL",
    "退款状态": "SUCCESS",
    "手续费": "-0.01000",
    "订单金额": "0.00",
    "申请退款金额": "0.30",
}
PAYMENT_ROW = StatementRow(
    kind=RowKind.PAYMENT,
    out_trade_no=OUT_TRADE_NO,
    channel_transaction=TRANSACTION,
    amount=100,
    fee=1,
    at_s=of_plain("2026-11-21 10:00:00"),
)
REFUND_ROW = StatementRow(
    kind=RowKind.REFUND,
    out_trade_no=OUT_TRADE_NO,
    channel_transaction=TRANSACTION,
    amount=30,
    refund_no=REFUND_NO,
    channel_refund="50000000382026112100000000001",
    fee=-1,
    at_s=of_plain("2026-11-21 11:00:00"),
)


def line(fields: dict[str, str], names: list[str] = NAMES) -> str:
    return ",".join(f"`{fields.get(name, '')}" for name in names) + "\r\n"


def bill(*lines: dict[str, str], header: str = HEADER, summary: str = SUMMARY) -> bytes:
    body = "".join(line(fields, header.split(",")) for fields in lines)
    return b"\xef\xbb\xbf" + f"{header}\r\n{body}{summary}".encode()


def read(content: bytes) -> list[StatementRow]:
    return list(rows(content, MCHID))


# --- lines


def test_payments_and_refunds_are_read_with_what_they_cost_before_coupons():
    assert read(bill(PAID, RETURNED)) == [PAYMENT_ROW, REFUND_ROW]


def test_the_channel_reads_its_own_statements():
    file = StatementFile(day="2026-11-21", content=bill(PAID))
    assert list(channel().statement_rows(file)) == [PAYMENT_ROW]


@pytest.mark.parametrize("change", [lambda b: b[3:], lambda b: b.replace(b"\r\n", b"\n"), lambda b: b + b"\r\n\r\n"])
def test_no_byte_order_mark_plain_line_ends_and_blank_lines_are_all_the_same(change):
    assert read(change(bill(PAID, RETURNED))) == [PAYMENT_ROW, REFUND_ROW]


def test_a_day_without_lines_is_read_as_such():
    assert read(bill()) == []


def test_columns_are_found_by_name_wherever_they_stand():
    turned = ",".join(reversed(NAMES))
    assert read(bill(PAID, RETURNED, header=turned)) == [PAYMENT_ROW, REFUND_ROW]
    more = HEADER.replace("交易状态", "新的一列,交易状态")
    assert read(bill(PAID, RETURNED, header=more)) == [PAYMENT_ROW, REFUND_ROW]


def test_a_goods_name_that_looks_like_a_separator_moves_no_amount():
    name = "偷,`0.01000,`0.60%,`999.00,`0.00,`"
    assert read(bill({**PAID, "商品名称": name, "商户数据包": "x,`y"})) == [PAYMENT_ROW]


def test_the_older_layout_has_one_amount():
    older = [{"应结订单金额": "总金额", "代金券金额": "企业红包金额"}.get(name, name) for name in NAMES[:24]]
    paid, returned = {**PAID, "总金额": "1.00"}, {**RETURNED, "总金额": "0.00", "退款金额": "0.30"}
    assert read(bill(paid, returned, header=",".join(older))) == [PAYMENT_ROW, REFUND_ROW]


@pytest.mark.parametrize(
    ("text", "fen"), [("1", 100), ("1.0", 100), ("0.01", 1), ("123456789.01", 12345678901), ("19.99000", 1999)]
)
def test_yuan_become_fen_to_the_last_one(text, fen):
    assert read(bill({**PAID, "订单金额": text}))[0].amount == fen


@pytest.mark.parametrize(
    ("text", "fen"), [("0.00000", 0), ("0.32000", 32), ("-0.27000", -27), ("0.00600", None), ("", None), ("?", None)]
)
def test_a_fee_is_whole_fen_or_none(text, fen):
    assert read(bill({**PAID, "手续费": text}))[0].fee == fen


@pytest.mark.parametrize(("state", "moved"), [("SUCCESS", 1), ("PROCESSING", 1), ("CHANGE", 1), ("FAIL", 0)])
def test_a_refund_that_failed_moved_no_money(state, moved):
    assert read(bill({**RETURNED, "退款状态": state})) == [REFUND_ROW] * moved


def test_a_bar_code_payment_taken_back_counts_as_a_refund():
    [row] = read(bill({**PAID, "交易状态": "REVOKED"}))
    assert (row.kind, row.amount, row.refund_no) == (RowKind.REFUND, 100, None)


@pytest.mark.parametrize(
    ("fields", "change", "what"),
    [
        (PAID, {"交易状态": "NEW"}, "交易状态 'NEW' is not known"),
        (PAID, {"商户号": "1900000000"}, "商户号 is another merchant's"),
        (PAID, {"订单金额": "1.001"}, "订单金额 '1.001' is no amount"),
        (PAID, {"订单金额": "-1.00"}, "订单金额 '-1.00' is no amount"),
        (PAID, {"订单金额": "1e2"}, "订单金额 '1e2' is no amount"),
        (PAID, {"订单金额": "0.00"}, "订单金额 is missing or zero"),
        (PAID, {"订单金额": ""}, "订单金额 is missing or zero"),
        (PAID, {"交易时间": "2026-11-31 10:00:00"}, "交易时间 is no time"),
        (PAID, {"货币种类": ""}, "货币种类 is no currency"),
        (PAID, {"商户订单号": ""}, "商户订单号 or 微信订单号 is missing"),
        (PAID, {"微信订单号": "a b"}, "微信订单号 'a b' is no number"),
        (RETURNED, {"退款状态": ""}, "退款状态 '' is not known"),
        (RETURNED, {"商户退款单号": "0"}, "商户退款单号 is missing"),
        (RETURNED, {"申请退款金额": "0.00", "退款金额": "0.00"}, "申请退款金额 is missing or zero"),
    ],
)
def test_a_strange_line_is_named(fields, change, what):
    with pytest.raises(StatementUnreadable, match=f"^{re.escape(f'line 3: {what}')}$"):
        read(bill(PAID, {**fields, **change}))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "line 1: no column 交易时间"),
        (b"\xff\xfe", "line 1: is not UTF-8"),
        (b'{"code":"x"}', "line 1: no column 交易时间"),
        (bill(header=HEADER.replace("交易状态,", "")), "line 1: no column 交易状态"),
        (bill(header=HEADER.replace("订单金额,", "金额,").replace(",申请退款金额", "")), "line 1: no column 订单金额"),
        (bill(PAID, summary="x,`y\r\n"), "line 3: does not begin with a back-tick"),
        (bill(PAID, summary="`1,`2\r\n"), "line 3: has 2 fields, the header 27"),
        (bill(PAID, summary=""), "it ends without its summary (总交易单数)"),
        (bill(PAID).replace("测试".encode(), b"\xff\xfe"), "line 2: is not UTF-8"),
    ],
)
def test_a_file_of_another_shape_is_named(content, what):
    with pytest.raises(StatementUnreadable, match=re.escape(what)):
        read(content)


# --- packed


def test_a_packed_file_is_unpacked_up_to_a_limit():
    content = b"x" * 1000
    assert unpacked(gzip.compress(content), 1000) == content
    assert unpacked(gzip.compress(content), 999) is None
    assert unpacked(gzip.compress(content[:500]) + gzip.compress(content[500:]), 1000) == content
    assert unpacked(gzip.compress(content[:500]) + gzip.compress(content[500:]), 999) is None
    assert (unpacked(b""), unpacked(content, 1000), unpacked(content, 999)) == (b"", content, None)


@pytest.mark.parametrize("broken", [gzip.compress(b"x")[:-1], gzip.compress(b"x") + b"y", b"\x1f\x8b", b"\x1f\x8bxyz"])
def test_a_broken_one_is_none(broken):
    assert unpacked(broken) is None


def test_a_small_file_can_not_become_a_large_one():
    bomb = gzip.compress(b"\0" * 10_000_000)
    assert len(bomb) < 20_000
    assert unpacked(bomb, 1_000_000) is None


# --- fetching

DAY = "2026-11-21"
NEXT_DAY_S = of_plain("2026-11-22 00:00:00")
AT_TEN = replace(STAMP, now_s=NEXT_DAY_S + 10 * 3600)
DOWNLOAD = "/v3/billdownload/file?token=oMm%2fUqPjv_pgVEbq41QjzZ&tartype=gzip"
CONTENT = bill(PAID, RETURNED)


def fetch(*answers, at=AT_TEN, day=DAY):
    return run(channel().statement(day, at), *answers)


def sha1(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def link(content: bytes = CONTENT, at=AT_TEN, **changed: str) -> Response:
    whole = {
        "hash_type": "SHA1",
        "hash_value": sha1(content),
        "download_url": f"https://api.mch.weixin.qq.com{DOWNLOAD}",
    }
    return answer({**whole, **changed}, at_s=at.now_s)


def file(content: bytes = CONTENT) -> Response:
    """A download: never signed."""
    return Response(200, {"content-type": "text/plain"}, gzip.compress(content))


def test_a_statement_is_asked_for_fetched_unchanged_from_our_own_address_and_proved_by_its_hash():
    outcome, sent = fetch(link(), file())
    assert outcome == StatementFile(day=DAY, content=CONTENT)
    assert sent[0].target == f"/v3/bill/tradebill?bill_date={DAY}&bill_type=ALL&tar_type=GZIP"
    assert (sent[1].method, sent[1].target, sent[1].origin) == ("GET", DOWNLOAD, "")
    assert sent[1].answer_bytes_max > 10_000_000 > sent[0].answer_bytes_max
    assert sent[1].headers["Authorization"] != sent[0].headers["Authorization"]


def test_whatever_host_the_answer_names_nobody_else_is_asked():
    outcome, sent = fetch(link(download_url=f"https://evil.example.com{DOWNLOAD}"), file())
    assert type(outcome) is StatementFile
    assert (sent[1].target, sent[1].origin) == (DOWNLOAD, "")


@pytest.mark.parametrize(
    "changed",
    [
        {"hash_type": "MD5"},
        {"hash_type": 1},
        {"download_url": DOWNLOAD},
        {"download_url": "ftp://api.mch.weixin.qq.com/file"},
        {"download_url": "https://api.mch.weixin.qq.com/a b"},
        {"download_url": "https://api.mch.weixin.qq.com/a#b"},
        {"download_url": "https://api.mch.weixin.qq.com/a\r\nHost: x"},
        {"download_url": "https://api.mch.weixin.qq.com/店"},
    ],
)
def test_a_link_that_is_not_exactly_understood_is_unknown_and_nothing_is_fetched(changed):
    outcome, _ = fetch(link(**changed))
    assert type(outcome) is Unknown


@pytest.mark.parametrize(
    "download",
    [
        file(CONTENT + b"x"),
        Response(200, {}, gzip.compress(CONTENT)[:-5]),
        Response(200, {}, b""),
        error(400, "INVALID_REQUEST"),
        error(403, "NO_AUTH"),
        Response(302, {"location": "https://evil.example.com"}, b""),
        NoAnswer("timeout", sent=True),
    ],
    ids=["other bytes", "cut off", "nothing", "link expired", "no right", "elsewhere", "silence"],
)
def test_a_download_that_is_not_what_was_signed_is_unknown(download):
    outcome, _ = fetch(link(), download)
    assert type(outcome) is Unknown


def test_a_file_that_was_unpacked_on_its_way_is_proved_as_well():
    outcome, _ = fetch(link(), Response(200, {"content-encoding": "gzip"}, CONTENT))
    assert outcome == StatementFile(day=DAY, content=CONTENT)


def test_a_hash_over_the_packed_bytes_is_not_the_hash():
    assert type(fetch(link(hash_value=sha1(gzip.compress(CONTENT))), file())[0]) is Unknown
    assert type(fetch(link(hash_value=sha1(CONTENT).upper()), file())[0]) is StatementFile


@pytest.mark.parametrize(
    ("code", "hour", "expected"),
    [
        ("NO_STATEMENT_EXIST", 10, NoStatement),
        ("NO_STATEMENT_EXIST", 9, StatementNotReady),
        ("NO_STATEMENT_EXIST", -3, StatementNotReady),
        ("STATEMENT_CREATING", 10, StatementNotReady),
        ("STATEMENT_CREATING", 9, StatementNotReady),
        ("INVALID_REQUEST", 10, Unknown),
    ],
)
def test_there_is_no_statement_for_good_only_after_it_should_have_been_ready(code, hour, expected):
    outcome, _ = fetch(error(400, code), at=replace(STAMP, now_s=NEXT_DAY_S + hour * 3600))
    assert type(outcome) is expected


@pytest.mark.parametrize("day", ["", "20261121", "2026-11-31", "2026-11-21&x=1", "today"])
def test_a_day_that_is_none_is_not_asked_for(day):
    outcome, sent = fetch(day=day)
    assert (type(outcome), sent) == (Unknown, [])


# --- anything


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(NAMES), value=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_any_text_in_any_field_is_read_or_named(name, value):
    try:
        for row in read(bill({**RETURNED, name: value}, PAID)):
            assert row.amount > 0
    except StatementUnreadable:
        pass


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=300))
def test_any_bytes_are_unreadable_and_nothing_else(content):
    with pytest.raises(StatementUnreadable):
        read(content)
    assert unpacked(content) in (content, None)
