"""UnionPay's daily file: packed three times over, then lines of fixed widths, counted in bytes of GBK.

The widths are those of UnionPay's newest file-reading demo, the columns' names those of a public reader of such files.
It lists the trades that succeeded. Its second part, ZME (trades in dispute), has columns that nobody has published.
"""

import binascii
import io
import itertools
import zipfile
import zlib
from base64 import b64decode
from collections.abc import Iterator
from typing import Final

from channels import moments, money
from channels.contract import RowKind, StatementRow
from channels.errors import StatementUnreadable
from channels.unionpay_wire import REFUND, SALE, VOID, near

ZIP_BYTES_MAX: Final = 64_000_000
LINES_BYTES_MAX: Final = 256_000_000  # four hundred thousand trades
ENTRIES_MAX: Final = 64
CHUNK_BYTES: Final = 1_000_000

WIDTHS: Final = (
    *(3, 11, 11, 6, 10, 19, 12, 4, 2, 21, 2, 32, 2, 6, 10, 13, 13, 4, 15, 2, 2, 6, 2, 4, 32, 1, 21, 15, 1, 15),
    *(32, 13, 13, 8, 32, 13, 13, 12, 2, 1, 32, 98),
)
STARTS: Final = tuple(itertools.accumulate((width + 1 for width in WIDTHS[:-1]), initial=0))  # a blank stands between
LINE_BYTES: Final = STARTS[-1] + WIDTHS[-1]
LINE_BYTES_MIN: Final = STARTS[20] - 1  # up to the kind of trade; blanks after it may have been cut off

TRACE_TIME: Final = 5
AMOUNT: Final = 7
QUERY_ID: Final = 10
ORDER_ID: Final = 12
FEE: Final = 16
TXN_TYPE: Final = 20
ORIGINAL_QUERY_ID: Final = 27
ORIGINAL_ORDER_ID: Final = 41


def unpack(file_content: str) -> bytes:
    """The lines of a `fileContent`: base64 of zlib of a zip, whose entries named `ZM_` hold them.

    Raises:
        StatementUnreadable: it is packed otherwise, or would not end.
    """
    try:
        packed = zlib.decompressobj()
        archive = packed.decompress(b64decode(file_content, validate=True), ZIP_BYTES_MAX)
        if not packed.eof:
            raise StatementUnreadable(f"fileContent: cut off, or more than {ZIP_BYTES_MAX} bytes")
        with zipfile.ZipFile(io.BytesIO(archive)) as entries:
            names = [each.filename for each in entries.infolist() if "ZM_" in each.filename]
            if not 1 <= len(names) <= ENTRIES_MAX:
                raise StatementUnreadable(f"fileContent: {len(names)} files of trades")
            return _lines(entries, names)
    except (binascii.Error, ValueError, zlib.error, zipfile.BadZipFile, EOFError) as error:
        raise StatementUnreadable(f"fileContent: {error}") from error
    except (NotImplementedError, RuntimeError) as error:  # another compression than deflate, or encrypted
        raise StatementUnreadable(f"fileContent: {error}") from error


def _lines(entries: zipfile.ZipFile, names: list[str]) -> bytes:
    content = bytearray()
    for name in names:
        if content and not content.endswith(b"\n"):
            content += b"\n"
        with entries.open(name) as entry:  # an entry's own size is not believed
            while chunk := entry.read(CHUNK_BYTES):
                content += chunk
                if len(content) > LINES_BYTES_MAX:
                    raise StatementUnreadable(f"{name[:64]}: more than {LINES_BYTES_MAX} bytes")
    return bytes(content)


def rows(day: str, content: bytes) -> Iterator[StatementRow]:
    """The trades of a day's lines: sales, refunds and voids. Trades of other kinds are not ours and left out.

    Raises:
        StatementUnreadable: naming the line and the column.
    """
    noon_s = moments.of_plain(f"{day} 12:00:00")
    if noon_s is None:
        raise StatementUnreadable(f"day: {day[:32]!r} is not YYYY-MM-DD")
    for number, line in enumerate(io.BytesIO(content), 1):
        if line.strip():
            row = _Line(number, line.rstrip(b"\r\n")).row(noon_s)
            if row is not None:
                yield row


class _Line:
    """One line, cut at the widths. Only columns of plain ASCII are read: a name may be cut in the middle of a sign."""

    def __init__(self, number: int, line: bytes) -> None:
        self._number = number
        if not LINE_BYTES_MIN <= len(line) <= LINE_BYTES:
            raise self._unreadable(f"has {len(line)} bytes, not {LINE_BYTES}")
        self._line = line.ljust(LINE_BYTES)
        for column, start in enumerate(STARTS[1:], 2):
            if self._line[start - 1 : start] != b" ":
                raise self._unreadable(f"no blank before column {column}")

    def row(self, noon_s: int) -> StatementRow | None:
        kind = self._text(TXN_TYPE)
        if kind not in (SALE, REFUND, VOID):
            return None
        amount = money.fen_of_digits(self._text(AMOUNT))
        if not amount:
            raise self._unreadable(f"column {AMOUNT}: not an amount")
        at_s = near(self._text(TRACE_TIME), noon_s)
        if kind == SALE:
            return StatementRow(
                kind=RowKind.PAYMENT,
                out_trade_no=self._needed(ORDER_ID),
                channel_transaction=self._needed(QUERY_ID),
                amount=amount,
                fee=self._signed(FEE),
                at_s=at_s,
            )
        return StatementRow(
            kind=RowKind.REFUND,
            out_trade_no=self._text(ORIGINAL_ORDER_ID),
            channel_transaction=self._text(ORIGINAL_QUERY_ID),
            amount=amount,
            refund_no=self._needed(ORDER_ID),
            channel_refund=self._needed(QUERY_ID),
            fee=self._signed(FEE),
            at_s=at_s,
        )

    def _signed(self, column: int) -> int | None:
        """An amount with its sign: D (debit) is what the merchant pays, C (credit) what comes back; None if blank."""
        text = self._text(column)
        if not text:
            return None
        amount = money.fen_of_digits(text[1:])
        if amount is None or text[0] not in "CD":
            raise self._unreadable(f"column {column}: not C or D and an amount")
        return amount if text[0] == "D" else -amount

    def _needed(self, column: int) -> str:
        text = self._text(column)
        if not text:
            raise self._unreadable(f"column {column}: empty")
        return text

    def _text(self, column: int) -> str:
        start = STARTS[column - 1]
        field = self._line[start : start + WIDTHS[column - 1]].strip()
        if not (field.isascii() and (text := field.decode("ascii")).isprintable()):
            raise self._unreadable(f"column {column}: not plain ASCII")
        return text

    def _unreadable(self, why: str) -> StatementUnreadable:
        return StatementUnreadable(f"line {self._number}: {why}")
