"""UnionPay's file of a settlement day, made from the ledger, and what can be wrong with it. Pure.

It lists trades that succeeded: payments on the day they were made, refunds and voids on the day they were taken. Unlike
the real platform, which makes it for the next morning, this one also hands out today's as far as it is, unless the
fault `bill_calendar` says that the real calendar holds.
"""

import hashlib
import io
import zipfile
import zlib
from base64 import b64encode
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

import msgspec

from channels.moments import compact, of_compact
from channels.simulator.faults import draw
from channels.simulator.platform import Call, Done, Moment
from channels.simulator.trades import Paid, Refund, RefundState, Trade, Trades
from channels.simulator.unionpay_faults import UnionpayFaults
from channels.simulator.unionpay_requests import Download
from channels.simulator.unionpay_statements import OK, answered, settlement_day, trace_no

NO_FILE: Final = "98"
DAYS_KEPT: Final = 300  # a day without its year is the last such day
READY_AFTER_S: Final = 33 * 3600  # from the day's first second
FEE_PER_MILLE: Final = 6
SHOP_NAME: Final = "模拟商户（上海）有限公司"

ZM_WIDTHS: Final = (
    *(3, 11, 11, 6, 10, 19, 12, 4, 2, 21, 2, 32, 2, 6, 10, 13, 13, 4, 15, 2, 2, 6, 2, 4, 32, 1, 21, 15, 1, 15),
    *(32, 13, 13, 8, 32, 13, 13, 12, 2, 1, 32, 98),
)
ZME_WIDTHS: Final = (3, 11, 11, 6, 10, 19, 12, 4, 2, 2, 6, 10, 4, 12, 13, 13, 15, 15, 1, 12, 2, 135)
_ZIPPED_AT: Final = (2026, 1, 1, 0, 0, 0)  # the same content gives the same file


class _Line(msgspec.Struct, frozen=True):
    """What a line of the file says, and what its faults are drawn by."""

    subject: str
    columns: dict[int, str]


def download(
    channel: str, trades: Trades, call: Call, asked: Download, faults: UnionpayFaults, seed: int, moment: Moment
) -> Done:
    """The file of the newest day of that name, or that there is none."""
    day = _newest(asked.day, moment)
    calendar = draw(seed, "bill_calendar", asked.day) < faults.bill_calendar
    if day is None or (calendar and moment.now_s < _began_s(day) + READY_AFTER_S):
        return answered(asked.said, NO_FILE)
    if draw(seed, "bill_not_ready", asked.day, str(call.count)) < faults.bill_not_ready:
        return answered(asked.said, NO_FILE)
    genuine = [line for trade in trades.all(channel, call.merchant) for line in _lines_of(trade, day, calendar)]
    told = [line.columns for each in genuine for line in _told(each, faults, seed)]
    if not told:
        return answered(asked.said, NO_FILE)
    more = {
        "fileName": f"{call.merchant}_{day}.zip",
        "fileContent": packed(call.merchant, day, told),
        "fileType": "00",
        "settleDate": asked.day,
    }
    return answered(asked.said, OK, more)


def packed(merchant: str, day: str, lines: list[dict[int, str]]) -> str:
    """`fileContent`: the file of trades and one without disputes, zipped, deflated, in base64."""
    files = {
        f"INN{day[2:]}88ZM_{merchant}": b"".join(_line(columns, ZM_WIDTHS) for columns in lines),
        f"INN{day[2:]}88ZME_{merchant}": _line({1: "E74"}, ZME_WIDTHS),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _ZIPPED_AT), content)
    return b64encode(zlib.compress(buffer.getvalue())).decode()


def _line(columns: dict[int, str], widths: tuple[int, ...]) -> bytes:
    """Columns of fixed widths, counted in bytes of GBK, a blank between them."""
    cut = [columns.get(number, "").encode("gbk")[:width].ljust(width) for number, width in enumerate(widths, 1)]
    return b" ".join(cut) + b"\r\n"


# --- days ------------------------------------------------------------------------------------------------------------


def _newest(month_day: str, moment: Moment) -> str | None:
    """`YYYYMMDD` of the last day of that name, today included; None if it is none, or too long ago."""
    year = int(compact(moment.now_s)[:4])
    for each in (year, year - 1):
        began_s = of_compact(f"{each}{month_day}000000")
        if began_s is not None and 0 <= moment.now_s - began_s <= DAYS_KEPT * 86400:
            return f"{each}{month_day}"
    return None


def _began_s(day: str) -> int:
    began_s = of_compact(f"{day}000000")
    assert began_s is not None, "checked before"
    return began_s


def _falls_on(day: str, at_s: int, *, cut_off: bool) -> bool:
    near = abs(at_s - _began_s(day)) < timedelta(days=2).total_seconds()
    return near and settlement_day(at_s, cut_off=cut_off) == day[4:]


# --- lines -----------------------------------------------------------------------------------------------------------


def _lines_of(trade: Trade, day: str, calendar: bool) -> Iterator[_Line]:
    paid = trade.paid
    if paid is None or paid.details["code"] != OK:
        return
    if _falls_on(day, paid.success_at, cut_off=calendar):
        yield _Line(trade.subject, _sale(trade, paid))
    for number, refund in enumerate(trade.refunds.values()):
        succeeded = refund.state is RefundState.SUCCEEDED
        if succeeded and _falls_on(day, int(refund.made.at), cut_off=calendar):
            yield _Line(f"{trade.subject} refund {number}", _refund(trade, paid, refund))


def _sale(trade: Trade, paid: Paid) -> dict[int, str]:
    made, fee = trade.made, _fee(paid.amount)
    return {
        **_common(trade),
        4: trace_no(paid.transaction),
        5: made.details["txnTime"][4:],
        7: f"{paid.amount:012d}",
        10: paid.transaction,
        12: made.out_trade_no,
        16: f"D{fee:012d}",
        17: f"C{paid.amount - fee:012d}",
        20: "01",
        21: made.details["txnSubType"],
        22: made.details["bizType"],
    }


def _refund(trade: Trade, paid: Paid, refund: Refund) -> dict[int, str]:
    made = refund.made
    return {
        **_common(trade),
        4: trace_no(made.channel_refund),
        5: made.details["txnTime"][4:],
        7: f"{made.amount:012d}",
        10: made.channel_refund,
        12: made.refund_no,
        14: trace_no(paid.transaction),
        15: trade.made.details["txnTime"][4:],
        16: f"C{0:012d}",
        17: f"D{made.amount:012d}",
        20: made.details["kind"],
        21: "00",
        22: made.details["bizType"],
        27: paid.transaction,
        41: trade.made.out_trade_no,
    }


def _common(trade: Trade) -> dict[int, str]:
    return {
        1: "S22",
        2: "00049992",
        3: "00049992",
        6: "6226********0048",
        8: "5812",
        9: "07",
        13: "01",
        18: "0001",
        28: trade.made.merchant,
        31: SHOP_NAME,
        35: trade.made.details["reqReserved"],
    }


def _told(line: _Line, faults: UnionpayFaults, seed: int) -> Iterator[_Line]:
    """The line as the file has it: it may be missing, say another amount, or be followed by one of a trade that never
    was."""
    subject, columns = line.subject, line.columns
    if draw(seed, "bill_extra", subject) < faults.bill_extra:
        tail = int(hashlib.sha256(subject.encode()).hexdigest()[:15], 16)
        yield _Line(subject, {**columns, 10: f"99{tail % 10**19:019d}", 12: f"EXTRA{tail:019d}"})
    if draw(seed, "bill_missing", subject) < faults.bill_missing:
        return
    if draw(seed, "bill_amount", subject) < faults.bill_amount:
        yield _Line(subject, {**columns, 7: f"{int(columns[7]) + 1:012d}"})
        return
    yield line


def _fee(fen: int) -> int:
    return (fen * FEE_PER_MILLE + 500) // 1000
