"""UnionPay: the daily file: when it is there, how it is unpacked, and what its lines say."""

import io
import zipfile
import zlib
from base64 import b64decode, b64encode

import pytest

from channels import moments, unionpay_bill
from channels.contract import (
    NoStatement,
    RowKind,
    StatementFile,
    StatementNotReady,
    StatementRow,
    Unknown,
)
from channels.errors import StatementUnreadable
from channels.unionpay_bill import LINE_BYTES, WIDTHS
from tests.unit.unionpay_platform import (
    DOCUMENTED,
    ECHO,
    INVENTED,
    MER_ID,
    SILENCES,
    Stamp,
    answer,
    channel,
    run,
    sent_fields,
    signed_by_merchant,
)

DAY = "2026-11-21"
NEXT_NOON_S = moments.of_plain("2026-11-22 12:00:00")
STAMP = Stamp(NEXT_NOON_S, "n" * 32)
FILE_ECHO = {
    **{name: value for name, value in ECHO.items() if name != "orderId"},
    "txnType": "76",
    "txnTime": "20261122120000",
    "fileType": "00",
    "settleDate": "1121",
    "fileName": f"{MER_ID}_20261121.zip",
}
SALE = {4: "000001", 5: "1121094107", 6: "6226********0048", 7: "000000000100", 10: "212611211000000000001"}
SALE |= {12: "01JD0000000000000000000ORD01", 16: "D000000000001", 17: "C000000000099", 20: "01", 28: MER_ID}
REFUND = {**SALE, 7: "000000000030", 10: "212611211000000000002", 12: "RF01JD00000000000000000001", 16: "C000000000000"}
REFUND |= {17: "D000000000030", 20: "04", 27: "212611211000000000001", 41: "01JD0000000000000000000ORD01"}
SOLD = StatementRow(
    kind=RowKind.PAYMENT,
    out_trade_no="01JD0000000000000000000ORD01",
    channel_transaction="212611211000000000001",
    amount=100,
    fee=1,
    at_s=moments.of_plain("2026-11-21 09:41:07"),
)
GIVEN_BACK = StatementRow(
    kind=RowKind.REFUND,
    out_trade_no="01JD0000000000000000000ORD01",
    channel_transaction="212611211000000000001",
    amount=30,
    refund_no="RF01JD00000000000000000001",
    channel_refund="212611211000000000002",
    fee=0,
    at_s=moments.of_plain("2026-11-21 09:41:07"),
)


def line(columns: dict[int, str], charset: str = "gbk") -> bytes:
    fields = [columns.get(number, "").encode(charset)[:width].ljust(width) for number, width in enumerate(WIDTHS, 1)]
    return b" ".join(fields)


def packed(entries: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> str:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return b64encode(zlib.compress(buffer.getvalue())).decode()


def file(content: str) -> object:
    return answer({**FILE_ECHO, "respCode": "00", "respMsg": "成功[0000000]", "fileContent": content})


def read(*lines: bytes, day: str = DAY, end: bytes = b"\r\n") -> list[StatementRow]:
    return list(channel().statement_rows(StatementFile(day, end.join(lines))))


def complaint(*lines: bytes) -> str:
    with pytest.raises(StatementUnreadable) as caught:
        read(*lines)
    return str(caught.value)


# --- fetching


def test_a_days_file_is_fetched_from_the_file_service():
    content = line(SALE) + b"\r\n" + line(REFUND) + b"\r\n"
    entries = {f"INN26112188ZM_{MER_ID}": content, f"INN26112188ZME_{MER_ID}": b"not looked at"}
    outcome, sent = run(channel().statement(DAY, STAMP), file(packed(entries)))
    assert outcome == StatementFile(DAY, content)
    assert list(channel().statement_rows(outcome)) == [SOLD, GIVEN_BACK]
    request = sent[0]
    assert (request.method, request.target, request.origin) == ("POST", "/", "https://filedownload.test.95516.com")
    assert request.answer_bytes_max == 100_000_000
    fields = sent_fields(request)
    assert fields.pop("signature") == signed_by_merchant(fields)
    assert fields == {
        "version": "5.1.0",
        "encoding": "UTF-8",
        "signMethod": "01",
        "txnType": "76",
        "txnSubType": "01",
        "bizType": "000000",
        "accessType": "0",
        "merId": MER_ID,
        "settleDate": "1121",
        "fileType": "00",
        "txnTime": "20261122120000",
        "certId": "69903319369",
    }


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2026-11-21 09:00:00", StatementNotReady),
        ("2026-11-22 00:00:00", StatementNotReady),
        ("2026-11-22 11:59:59", StatementNotReady),
        ("2026-11-22 12:00:00", NoStatement),
        ("2027-11-22 12:00:00", NoStatement),
    ],
)
def test_no_such_file_means_not_yet_before_the_next_noon_and_never_after(now, expected):
    now_s = moments.of_plain(now)
    none = answer({**FILE_ECHO, "txnTime": moments.compact(now_s), "respCode": "98"})
    assert isinstance(run(channel().statement(DAY, Stamp(now_s, "n" * 32)), none)[0], expected)


@pytest.mark.parametrize("day", ["", "20261121", "2026-13-01", "2026-11-21 ", "2026-11-21\0", "２026-11-21"])
def test_what_is_no_day_is_not_asked_for(day):
    assert isinstance(run(channel().statement(day, STAMP))[0], Unknown)


def test_every_code_of_a_file():
    one = channel()
    content = packed({"INN26112188ZM_1": line(SALE)})
    for code in (*DOCUMENTED, *INVENTED):
        outcome, _ = run(one.statement(DAY, STAMP), answer({**FILE_ECHO, "respCode": code, "fileContent": content}))
        expected = StatementFile if code == "00" else NoStatement if code == "98" else Unknown
        assert type(outcome) is expected, code


@pytest.mark.parametrize("silence", SILENCES)
def test_silence_is_no_statement_and_no_word_about_one(silence):
    assert isinstance(run(channel().statement(DAY, STAMP), silence)[0], Unknown)


def test_the_file_of_another_day_is_not_taken():
    other = {**FILE_ECHO, "respCode": "00", "settleDate": "1120", "fileContent": packed({"ZM_": line(SALE)})}
    assert isinstance(run(channel().statement(DAY, STAMP), answer(other))[0], Unknown)


# --- unpacking


def test_several_files_of_trades_are_one_list():
    content = packed({"INN01ZM_1": line(SALE), "INN02ZM_1.txt": line(REFUND) + b"\n", "INN01ZME_1": b"x"})
    assert list(unionpay_bill.rows(DAY, unionpay_bill.unpack(content))) == [SOLD, GIVEN_BACK]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "not base64 at all!",
        b64encode(b"not zlib").decode(),
        b64encode(zlib.compress(b"not a zip")).decode(),
        b64encode(zlib.compress(b"x" * 1000)[:-4]).decode(),
        packed({"INN26112188ZM_1": line(SALE)})[:-8],
        packed({}),
        packed({"INN26112188ZME_1": b"only disputes"}),
        packed({f"{number}ZM_": b"" for number in range(65)}),
    ],
)
def test_what_is_packed_otherwise_is_unreadable(content):
    with pytest.raises(StatementUnreadable, match=r"^fileContent: "):
        unionpay_bill.unpack(content)
    assert isinstance(run(channel().statement(DAY, STAMP), file(content))[0], Unknown)


def test_a_file_that_would_not_end_is_cut_off(monkeypatch):
    monkeypatch.setattr(unionpay_bill, "LINES_BYTES_MAX", 5_000_000)
    with pytest.raises(StatementUnreadable, match="more than 5000000 bytes"):
        unionpay_bill.unpack(packed({"ZM_1": b" " * 3_000_000, "ZM_2": b" " * 3_000_000}))
    monkeypatch.setattr(unionpay_bill, "ZIP_BYTES_MAX", 10_000)
    with pytest.raises(StatementUnreadable, match="cut off, or more than 10000 bytes"):
        unionpay_bill.unpack(b64encode(zlib.compress(b"\0" * 50_000_000)).decode())


def test_a_damaged_entry_is_unreadable():
    plain = zlib.decompress(b64decode(packed({"ZM_1": line(SALE)}, zipfile.ZIP_STORED)))
    damaged = plain.replace(b"000000000100", b"000000000900")
    with pytest.raises(StatementUnreadable, match="CRC"):
        unionpay_bill.unpack(b64encode(zlib.compress(damaged)).decode())


# --- lines


def test_a_line_has_the_length_of_the_demo():
    assert (len(WIDTHS), LINE_BYTES, len(line(SALE))) == (42, 607, 607)


def test_sales_refunds_and_voids_are_read_and_other_trades_left_out():
    void = {**REFUND, 20: "31"}
    assert read(line(SALE), b"", line(REFUND), b"   ", line(void), line({**SALE, 20: "03"})) == [
        SOLD,
        GIVEN_BACK,
        GIVEN_BACK,
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_both_line_ends_are_read(end):
    assert read(line(SALE), line(REFUND), end=end) == [SOLD, GIVEN_BACK]


def test_columns_are_counted_in_bytes_so_chinese_names_shift_nothing():
    named = {**SALE, 31: "上海某某商贸有限公司浦东第一分公司", 35: "备注"}
    assert read(line(named)) == [SOLD]
    assert "no blank before column" in complaint(
        line(named, charset="utf-8").replace("公司".encode(), "公司二".encode(), 1)[:607]
    )


def test_a_name_cut_in_the_middle_of_a_sign_does_no_harm():
    assert read(line({**SALE, 31: "a" + "公" * 20})) == [SOLD]


def test_blanks_at_the_end_of_a_line_may_be_missing():
    short = line({**SALE, 28: ""}).rstrip()
    assert len(short) < 260
    assert read(short) == [SOLD]


def test_a_fee_may_be_missing():
    assert read(line({**SALE, 16: ""}))[0].fee is None
    assert read(line({**SALE, 16: "C000000000007"}))[0].fee == -7


@pytest.mark.parametrize(
    ("day", "trace_time", "at"),
    [
        ("2027-01-01", "1231230500", "2026-12-31 23:05:00"),  # after the cut-off it is the next settlement day
        ("2026-12-31", "0101000001", "2027-01-01 00:00:01"),
        ("2028-03-01", "0229120000", "2028-02-29 12:00:00"),
    ],
)
def test_the_year_is_that_of_the_day(day, trace_time, at):
    assert read(line({**SALE, 5: trace_time}), day=day)[0].at_s == moments.of_plain(at)


def test_a_time_that_is_none_is_left_out():
    assert read(line({**SALE, 5: "9999999999"}))[0].at_s is None


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (line(SALE)[:100], "line 2: has 100 bytes, not 607"),
        (line(SALE) + b"x", "line 2: has 608 bytes, not 607"),
        (line(SALE)[1:] + b" ", "line 2: no blank before column 4"),
        (line({**SALE, 7: "00000000100x"}), "line 2: column 7: not an amount"),
        (line({**SALE, 7: "000000000000"}), "line 2: column 7: not an amount"),
        (line({**SALE, 7: "-00000000100"}), "line 2: column 7: not an amount"),
        (line({**SALE, 10: ""}), "line 2: column 10: empty"),
        (line({**SALE, 12: ""}), "line 2: column 12: empty"),
        (line({**SALE, 12: "订单"}), "line 2: column 12: not plain ASCII"),
        (line({**SALE, 12: "a\0b"}), "line 2: column 12: not plain ASCII"),
        (line({**SALE, 16: "000000000001"}), "line 2: column 16: not C or D and an amount"),
        (line({**SALE, 16: "X000000000001"}), "line 2: column 16: not C or D and an amount"),
        (line({**REFUND, 12: ""}), "line 2: column 12: empty"),
    ],
)
def test_a_line_that_can_not_be_read_is_named(broken, message):
    assert complaint(line(SALE), broken).startswith(message)


def test_a_statement_of_no_day_is_unreadable():
    with pytest.raises(StatementUnreadable, match=r"^day: "):
        read(line(SALE), day="1121")
