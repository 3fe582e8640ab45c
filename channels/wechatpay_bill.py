"""WeChat Pay's daily list of trades, layout ALL: unpacked and read line by line.

One line a payment, at the time it succeeded, and one a refund, at the time it was accepted, in the state it had when
the list was made. Then a summary. The platform describes the file in its docs under bill-download/format-trade: a
header line, after it every field behind a back-tick, amounts in yuan.
"""

import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeAlias

from channels import moments
from channels.contract import RowKind, StatementRow
from channels.errors import StatementUnreadable
from channels.money import fen_of_yuan

PACKED_BYTES_MAX: Final = 64 * 1024 * 1024
GZIP_MAGIC: Final = b"\x1f\x8b"
UNPACKED_BYTES_MAX: Final = 512 * 1024 * 1024  # a million lines have about 300 MB

_SUMMARY = "总交易单数"
_COLUMNS = (
    *("交易时间", "商户号", "微信订单号", "商户订单号", "交易状态", "货币种类", "微信退款单号", "商户退款单号"),
    *("退款金额", "退款状态", "商品名称", "手续费"),
)
# Merchants without the coupon product still get the older layout, which has one amount instead of three.
_COST = ("订单金额", "总金额")  # as `amount.total` of the API
_RETURNED = ("申请退款金额", "退款金额")  # as `amount.refund` of the API: with what coupons had paid

_NUMBER = re.compile(r"[0-9A-Za-z_\-|*@]{1,64}", re.ASCII)
_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)
_REFUND_STATES = frozenset(
    {"SUCCESS", "PROCESSING", "CHANGE", "FAIL"}
)  # CHANGE: it left us, and did not reach the payer

_Field: TypeAlias = Callable[[str], str]  # a line's field by its column's name


def unpacked(body: bytes, bytes_max: int = UNPACKED_BYTES_MAX) -> bytes | None:
    """What a file holds; None if its gzip stream is broken, cut off, or holds more than `bytes_max`.

    One that is no such stream was unpacked on its way, by whoever understood `Content-Encoding`.
    """
    if not body.startswith(GZIP_MAGIC):
        return body if len(body) <= bytes_max else None
    parts: list[bytes] = []
    room = bytes_max
    while body:
        stream = zlib.decompressobj(wbits=31)
        try:
            parts.append(stream.decompress(body, room + 1))
        except zlib.error:
            return None
        room -= len(parts[-1])
        if room < 0 or not stream.eof:
            return None
        body = stream.unused_data
    return b"".join(parts)


def rows(content: bytes, mchid: str) -> Iterator[StatementRow]:
    """The money that moved, as this merchant's list states it. Refunds that failed moved none and are left out.

    Raises:
        StatementUnreadable: naming the line.
    """
    lines = enumerate(io.BytesIO(content), start=1)
    places = _places(_text(*next(lines, (1, b""))))
    for number, line in lines:
        text = _text(number, line)
        if text.lstrip("`").startswith(_SUMMARY):
            return
        if text:
            try:
                row = _row(_fields(text, len(places)), places, mchid)
            except _Strange as strange:
                raise StatementUnreadable(f"line {number}: {strange}") from None
            if row is not None:
                yield row
    raise StatementUnreadable(f"it ends without its summary ({_SUMMARY})")


class _Strange(Exception):
    """What is wrong with a line."""


def _text(number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
    except UnicodeDecodeError:
        raise StatementUnreadable(f"line {number}: is not UTF-8") from None


def _places(header: str) -> Mapping[str, int]:
    """Where each column stands. Behind the goods' name it is counted from the end: that name is the merchant's own
    text, and should a separator ever stand in it unescaped, the amounts behind it stay where they are."""
    names = [name.strip("` ") for name in header.split(",")]
    missing = [name for name in _COLUMNS if name not in names]
    missing += [either[0] for either in (_COST, _RETURNED) if not set(either) & set(names)]
    if missing:
        raise StatementUnreadable(f"line 1: no column {missing[0]}")
    goods = names.index("商品名称")
    return {name: place if place <= goods else place - len(names) for place, name in enumerate(names)}


def _fields(text: str, columns: int) -> list[str]:
    if not text.startswith("`"):
        raise _Strange("does not begin with a back-tick")
    fields = text[1:].split(",`")
    if len(fields) < columns:
        raise _Strange(f"has {len(fields)} fields, the header {columns}")
    return fields


def _row(fields: list[str], places: Mapping[str, int], mchid: str) -> StatementRow | None:
    def field(name: str) -> str:
        return fields[places[name]].strip() if name in places else ""

    if field("商户号") != mchid:
        raise _Strange("商户号 is another merchant's")
    state = field("交易状态")
    if state == "SUCCESS":
        return _stated(field, RowKind.PAYMENT, _amount(field, *_COST))
    if state not in ("REFUND", "REVOKED"):
        raise _Strange(f"交易状态 {state[:32]!r} is not known")
    if state == "REVOKED":  # a bar code payment taken back, listed under the payment's own numbers
        return _stated(field, RowKind.REFUND, _amount(field, *_RETURNED, *_COST))
    if field("退款状态") not in _REFUND_STATES:
        raise _Strange(f"退款状态 {field('退款状态')[:32]!r} is not known")
    if field("退款状态") == "FAIL":
        return None
    if not _number(field, "商户退款单号"):
        raise _Strange("商户退款单号 is missing")
    return _stated(field, RowKind.REFUND, _amount(field, *_RETURNED))


def _stated(field: _Field, kind: RowKind, amount: int) -> StatementRow:
    at_s, currency = moments.of_plain(field("交易时间")), field("货币种类")
    out_trade_no, transaction = _number(field, "商户订单号"), _number(field, "微信订单号")
    if at_s is None:
        raise _Strange("交易时间 is no time")
    if not _CURRENCY.fullmatch(currency):
        raise _Strange("货币种类 is no currency")
    if out_trade_no is None or transaction is None:
        raise _Strange("商户订单号 or 微信订单号 is missing")
    refund = kind is RowKind.REFUND
    return StatementRow(
        kind=kind,
        out_trade_no=out_trade_no,
        channel_transaction=transaction,
        amount=amount,
        currency=currency,
        refund_no=_number(field, "商户退款单号") if refund else None,
        channel_refund=_number(field, "微信退款单号") if refund else None,
        fee=_fee(field("手续费")),
        at_s=at_s,
    )


def _amount(field: _Field, *names: str) -> int:
    """The first of these amounts that is one."""
    for name in names:
        fen = fen_of_yuan(field(name))
        if fen is None and field(name):
            raise _Strange(f"{name} {field(name)[:32]!r} is no amount")
        if fen:
            return fen
    raise _Strange(f"{names[0]} is missing or zero")


def _number(field: _Field, name: str) -> str | None:
    """A number of an order, a transaction or a refund; None where there is none, which is written `0` or not at all."""
    value = field(name)
    if value in ("", "0"):
        return None
    if not _NUMBER.fullmatch(value):
        raise _Strange(f"{name} {value[:64]!r} is no number")
    return value


def _fee(text: str) -> int | None:
    """Fen; below zero where a refund brings the fee back. None if it holds a part of a fen."""
    fen = fen_of_yuan(text.removeprefix("-"))
    return -fen if fen is not None and text.startswith("-") else fen
