"""Alipay's daily list: fetched from where Alipay says, unzipped within bounds, read exactly or not at all."""

import io
import tracemalloc
import zipfile

import pytest
from msgspec.structs import replace

from channels import alipay_bill
from channels.contract import Response, RowKind, StatementFile, StatementRow, Unknown
from channels.errors import NoAnswer, StatementUnreadable
from tests.unit.alipay_platform import BASE_URL, NOW_S, STAMP, answer, asked, channel, run, sent, signed_by_app, zipped

BILL = "alipay.data.dataservice.bill.downloadurl.query"
DAY = "2025-10-08"
ADDRESS = "http://dwbillcenter.alipay.com/downloadBillFile.resource?bizType=trade&fileId=%2Ftrade%2F1.csv.zip&token=2d"
HEADER = (
    "支付宝交易号,商户订单号,业务类型,商品名称,创建时间,完成时间,门店编号,门店名称,操作员,终端号,对方账户,订单金额（元）,商家实收（元）,"
    "支付宝红包（元）,集分宝（元）,支付宝优惠（元）,商家优惠（元）,券核销金额（元）,券名称,商家红包消费金额（元）,卡消费金额（元）,"
    "退款批次号/请求号,服务费（元）,分润（元）,备注"
)
PAYMENT = (
    "2025100822001481075000000001\t,01JD0000000000000000000ORD01\t,交易\t,测试商品\t,2025-10-08 09:59:58\t,"
    "2025-10-08 10:00:00\t,\t,\t,\t,\t,张三(138****1234)\t,12.30\t,12.00\t,0.00\t,0.00\t,0.00\t,0.30\t,0.00\t,\t,"
    "0.00\t,0.00\t,\t,-0.07\t,0.00\t,\t"
)
REFUND = (
    "2025100822001481075000000001\t,01JD0000000000000000000ORD01\t,退款\t,测试商品\t,2025-10-08 11:00:00\t,"
    "2025-10-08 11:00:01\t,\t,\t,\t,\t,张三(138****1234)\t,-2.30\t,-2.30\t,0.00\t,0.00\t,0.00\t,0.00\t,0.00\t,\t,"
    "0.00\t,0.00\t,RF01\t,0.01\t,0.00\t,退款\t"
)
END = "#-----------------------------------------业务明细列表结束------------------------------------"
TEN_O_CLOCK_S = NOW_S - 30 * 3600 - 3200  # of that day


def bill(*rows: str, header: str = HEADER, end: str = END) -> bytes:
    lines = [
        "#支付宝业务明细查询",
        "#账号：[20881011064993640156]",
        "#起始日期：[2025年10月08日 00:00:00]   终止日期：[2025年10月09日 00:00:00]",
        "#-----------------------------------------业务明细列表----------------------------------------",
        header,
        *rows,
        *([end] if end else []),
        f"#交易合计：{len(rows)}笔，商家实收共12.00元，商家优惠共0.30元",
        "#导出时间：[2025年10月09日 10:00:00]",
    ]
    return ("\r\n".join(lines) + "\r\n").encode("gbk")


def rows(*lines: str, **how: str) -> list[StatementRow]:
    return list(channel().statement_rows(StatementFile(DAY, bill(*lines, **how))))


def located(address: str = ADDRESS) -> Response:
    return answer(BILL, {"code": "10000", "msg": "Success", "bill_download_url": address})


def fetched(body: bytes, status: int = 200, address: str = ADDRESS):
    return run(channel().statement(DAY, STAMP), located(address), Response(status, {}, body))


# --- fetching


def test_the_list_is_asked_for_fetched_and_unzipped():
    outcome, requests = fetched(zipped(bill(PAYMENT)))
    assert outcome == StatementFile(DAY, bill(PAYMENT))
    assert asked(requests[0]) == (BILL, {"bill_type": "trade", "bill_date": DAY})
    assert signed_by_app(sent(requests[0]))
    fetch = requests[1]
    assert (fetch.method, fetch.origin) == ("GET", "http://dwbillcenter.alipay.com")
    assert fetch.origin + fetch.target == ADDRESS
    assert fetch.answer_bytes_max == alipay_bill.PACKED_BYTES_MAX
    assert fetch.body == b""


def test_the_origins_it_may_be_at_are_named_for_the_transport():
    assert "http://dwbillcenter.alipay.com" in channel().statement_origins


@pytest.mark.parametrize(
    "address",
    [
        f"{BASE_URL}/bill?x=1",
        "https://dwbillcenter.alipay.com/downloadBillFile.resource?x=1",
        "http://dwbillcenter.alipaydev.com/x",
    ],
)
def test_it_may_be_at_alipay_or_where_the_gateway_is(address):
    outcome, requests = fetched(zipped(bill()), address=address)
    assert isinstance(outcome, StatementFile)
    assert requests[1].origin + requests[1].target == address


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://localhost/bill",
        "http://dwbillcenter.alipay.com.evil.org/x",
        "http://evil.org/dwbillcenter.alipay.com",
        "http://user@dwbillcenter.alipay.com/x",
        "http://dwbillcenter.alipay.com:8080/x",
        "http://dwbillcenter.alipay.com",
        "http://dwbillcenter.alipay.com@evil.org/x",
        "ftp://dwbillcenter.alipay.com/x",
        "file:///etc/passwd",
        "//dwbillcenter.alipay.com/x",
        "/bill",
        "http://dwbillcenter.alipay.com/x\r\nHost: evil.org",
        "http://dwbillcenter.alipay.com/账单",
        "http://[::1/x",
        "",
    ],
)
def test_it_is_never_fetched_from_anywhere_else(address):
    outcome, requests = run(channel().statement(DAY, STAMP), located(address))
    assert isinstance(outcome, Unknown)
    assert len(requests) == 1


@pytest.mark.parametrize("day", ["", "2025-10-32", "20251008", "yesterday", "2025-10"])
def test_what_is_no_day_is_not_asked_about(day):
    assert type(run(channel().statement(day, STAMP))[0]) is Unknown


@pytest.mark.parametrize(
    "body",
    [
        b"",
        "<html>链接已失效</html>".encode("gbk"),
        b"PK\x03\x04",
        zipped(bill(PAYMENT))[:-30],
        zipped(bill(PAYMENT))[:100],
        zipped(bill(PAYMENT), name="20881011064993640156_20251008_账务明细.csv"),
    ],
)
def test_what_is_no_such_zip_is_unknown(body):
    assert isinstance(fetched(body)[0], Unknown)


def test_a_broken_download_is_unknown():
    assert isinstance(fetched(zipped(bill(PAYMENT)), status=404)[0], Unknown)
    silence = run(channel().statement(DAY, STAMP), located(), NoAnswer("timeout", sent=True))[0]
    assert isinstance(silence, Unknown)
    damaged = bytearray(zipped(bill(PAYMENT)))
    damaged[120] ^= 0xFF
    assert isinstance(fetched(bytes(damaged))[0], Unknown)


def test_names_marked_as_utf_8_are_read_too():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("20881011064993640156_20251008_业务明细.csv", b"list")
    assert alipay_bill.detail(packed.getvalue()) == b"list"


def test_an_entry_of_a_folder_of_lists_or_none_is_no_list():
    for names in (["a_业务明细.csv", "b_业务明细.csv"], [], [f"{number}.csv" for number in range(80)]):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name in names:
                archive.writestr(name, b"list")
        assert alipay_bill.detail(packed.getvalue()) is None


def test_a_bomb_is_given_up_whatever_size_it_claims_to_have():
    bomb = zipped(bytes(3_000_000))
    assert len(bomb) < 10_000
    assert alipay_bill.detail(bomb, bytes_max=2_999_999) is None
    assert alipay_bill.detail(bomb, bytes_max=3_000_000) is not None
    tracemalloc.start()
    assert alipay_bill.detail(bomb, bytes_max=1000) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000  # it was not unpacked to see how large it is
    claimed = bomb.replace((3_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert claimed != bomb
    assert alipay_bill.detail(claimed, bytes_max=1000) is None or len(alipay_bill.detail(claimed, bytes_max=1000)) <= 10


# --- reading


def test_a_payment_and_a_refund_are_read_by_the_columns_names():
    assert rows(PAYMENT, REFUND) == [
        StatementRow(
            kind=RowKind.PAYMENT,
            out_trade_no="01JD0000000000000000000ORD01",
            channel_transaction="2025100822001481075000000001",
            amount=1230,
            fee=7,
            at_s=TEN_O_CLOCK_S,
        ),
        StatementRow(
            kind=RowKind.REFUND,
            out_trade_no="01JD0000000000000000000ORD01",
            channel_transaction="2025100822001481075000000001",
            amount=230,
            refund_no="RF01",
            fee=-1,
            at_s=TEN_O_CLOCK_S + 3601,
        ),
    ]


def test_a_refund_is_one_by_its_kind_and_not_by_its_sign():
    (row,) = rows(REFUND.replace("-2.30", "2.30"))
    assert (row.kind, row.amount) == (RowKind.REFUND, 230)


def test_a_refund_that_was_made_without_a_number_has_none():
    (row,) = rows(REFUND.replace("RF01", ""))
    assert row.refund_no is None


def test_the_columns_may_stand_in_any_order_and_have_half_width_brackets():
    order = [11, 0, 2, 1, 21, 22, 5, 4, 3]
    cut = [",".join(line.split(",")[place] for place in order) for line in (HEADER, PAYMENT)]
    assert rows(cut[1], header=cut[0].replace("（", "(").replace("）", ")")) == rows(PAYMENT)


def test_a_day_without_trades_has_no_rows():
    assert rows() == []


@pytest.mark.parametrize("name", ["咖啡,大杯", ",", "a,b,c,d", "12.30,12.00", "100,2025-10-08 09:59:58"])
def test_commas_in_the_goods_name_move_no_amount(name):
    assert rows(PAYMENT.replace("测试商品", name)) == rows(PAYMENT)


@pytest.mark.parametrize("name", ['say "hi', "'", "#1", "券\t券"])
def test_other_signs_in_the_goods_name_are_just_signs(name):
    assert rows(PAYMENT.replace("测试商品", name), REFUND) == rows(PAYMENT, REFUND)


def test_a_sign_that_is_not_gbk_costs_no_amount():
    content = bill(PAYMENT).replace("测试商品".encode("gbk"), b"\x81\x30\x81\x30 \xff\xfe")
    assert list(alipay_bill.rows(content)) == rows(PAYMENT)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("交易\t", "转账\t", "业务类型"),
        ("交易\t", "\t", "业务类型"),
        ("12.30", "", "订单金额"),
        ("12.30", "0.00", "订单金额"),
        ("12.30", "12.3.0", "订单金额"),
        ("12.30", "1e3", "订单金额"),
        ("12.30", "--12.30", "订单金额"),
        ("-0.07", "x", "服务费"),
        ("2025-10-08 10:00:00", "yesterday", "完成时间"),
        ("01JD0000000000000000000ORD01", "", "商户订单号"),
        ("01JD0000000000000000000ORD01", "两个 字", "商户订单号"),
        ("2025100822001481075000000001", "", "支付宝交易号"),
        ("张三", "张,三", "26 fields"),
        ("-0.07\t,0.00\t,\t", "-0.07\t,0.00\t,a,b\t", "26 fields"),
        ("测试商品\t,", "", "24 fields"),
    ],
)
def test_a_line_that_is_not_understood_is_named_and_nothing_is_guessed(old, new, says):
    line = PAYMENT.replace(old, new)
    if old == "2025-10-08 10:00:00":
        line = line.replace("2025-10-08 09:59:58", new)
    with pytest.raises(StatementUnreadable, match=rf"line 7: .*{says}"):
        rows(REFUND, line)


def test_a_missing_or_doubled_column_is_named():
    with pytest.raises(StatementUnreadable, match="line 5: no column 退款批次号/请求号"):
        rows(header=HEADER.replace("退款批次号/请求号", "退款号"))
    with pytest.raises(StatementUnreadable, match="line 5: a column is there twice"):
        rows(header=HEADER.replace("门店名称", "业务类型"))


def test_a_list_that_is_cut_off_says_so_after_what_it_had():
    read = alipay_bill.rows(bill(PAYMENT, end=""))
    assert next(read).amount == 1230
    with pytest.raises(StatementUnreadable, match="ends without"):
        list(read)
    for content in (b"", b"\0" * 1000, bill()[: bill().index(b"\r\n")]):
        with pytest.raises(StatementUnreadable):
            list(alipay_bill.rows(content))


def test_the_same_list_is_fetched_at_any_later_time():
    later = replace(STAMP, now_s=NOW_S + 90 * 86400)
    outcome, _ = run(channel().statement(DAY, later), located(), Response(200, {}, zipped(bill(PAYMENT))))
    assert isinstance(outcome, StatementFile)
