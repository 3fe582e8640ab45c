"""Alipay's daily list of trades: unzipped and read line by line.

A zip whose entries have GBK names: the list (`..._业务明细.csv`) and sums by shop. The list is GBK: lines with `#`,
a header, one line a payment and one a refund with TABs behind the values, and a line that says that it ends. Nothing in
it is signed, so what it alone says is a reason to ask the platform, never one to move money.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeAlias

from channels.contract import RowKind, StatementRow
from channels.errors import StatementUnreadable
from channels.moments import of_plain
from channels.money import fen_of_yuan

PACKED_BYTES_MAX: Final = 64 * 1024 * 1024
UNPACKED_BYTES_MAX: Final = 512 * 1024 * 1024  # a million lines have about 300 MB
ENTRIES_MAX: Final = 64  # a real one has two

_DETAIL: Final = "业务明细.csv"
_GOODS: Final = "商品名称"
_REQUEST: Final = "退款批次号/请求号"
_KINDS: Final = {"交易": RowKind.PAYMENT, "退款": RowKind.REFUND}
_COLUMNS: Final = (
    *("支付宝交易号", "商户订单号", "业务类型", _GOODS, "创建时间", "完成时间"),
    *("订单金额（元）", _REQUEST, "服务费（元）"),
)
_AMOUNTS: Final = ("订单金额（元）", "商家实收（元）", "服务费（元）")
_NUMBER = re.compile(r"[0-9A-Za-z_\-|*@]{1,64}", re.ASCII)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", re.ASCII)
_UTF8_NAME: Final = 0x800  # the flag by which an entry says that its name is UTF-8; Alipay's do not
_ENCRYPTED: Final = 0x1

_Field: TypeAlias = Callable[[str], str]  # a line's field by its column's name


def detail(packed: bytes, bytes_max: int = UNPACKED_BYTES_MAX) -> bytes | None:
    """The list inside the zip; None if this is no such zip, is broken, or holds more than `bytes_max`."""
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            entries = archive.infolist()
            found = [entry for entry in entries if _name(entry).endswith(_DETAIL)]
            if len(entries) > ENTRIES_MAX or len(found) != 1 or found[0].flag_bits & _ENCRYPTED:
                return None
            with archive.open(found[0]) as stream:
                content = stream.read(bytes_max + 1)  # whatever size the entry claims to have
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError):
        return None
    return content if len(content) <= bytes_max else None


def rows(content: bytes) -> Iterator[StatementRow]:
    """The money that moved, as the list states it.

    Raises:
        StatementUnreadable: naming the line.
    """
    places: Mapping[str, int] = {}
    for number, line in enumerate(io.BytesIO(content), start=1):
        text = line.decode("gb18030", "replace").strip("\r\n")  # a broken sign in a name costs no amount
        if text.startswith("#"):
            if places and "结束" in text:
                return
        elif text and not places:
            places = _places(text, number)
        elif text:
            try:
                yield _row(_fields(text, places), places)
            except _Strange as strange:
                raise StatementUnreadable(f"line {number}: {strange}") from None
    raise StatementUnreadable("it ends without the line that says so (业务明细列表结束)")


class _Strange(Exception):
    """What is wrong with a line."""


def _name(entry: zipfile.ZipInfo) -> str:
    if entry.flag_bits & _UTF8_NAME:
        return entry.filename
    return entry.filename.encode("cp437", "replace").decode("gbk", "replace")  # zipfile takes unmarked names for cp437


def _places(header: str, number: int) -> Mapping[str, int]:
    names = [name.strip().replace("(", "（").replace(")", "）") for name in header.split(",")]
    missing = [name for name in _COLUMNS if name not in names]
    if missing:
        raise StatementUnreadable(f"line {number}: no column {missing[0]}")
    if len(set(names)) != len(names):
        raise StatementUnreadable(f"line {number}: a column is there twice")
    return {name: place for place, name in enumerate(names)}


def _fields(text: str, places: Mapping[str, int]) -> list[str]:
    """A line's fields. The goods' name is a merchant's own text and nothing quotes its commas: it ends where two times
    follow. With other surplus fields nobody could say which are the amounts. (What we send holds no commas.)"""
    fields = [field.strip() for field in text.split(",")]
    surplus = len(fields) - len(places)
    if surplus > 0:
        goods, created = places[_GOODS], places["创建时间"] + surplus
        if created != goods + 1 + surplus or not all(map(_MOMENT.fullmatch, fields[created : created + 2])):
            raise _Strange(f"has {len(fields)} fields, the header {len(places)}")
        fields[goods : goods + 1 + surplus] = [",".join(fields[goods : goods + 1 + surplus])]
    if len(fields) != len(places):
        raise _Strange(f"has {len(fields)} fields, the header {len(places)}")
    return fields


def _row(fields: list[str], places: Mapping[str, int]) -> StatementRow:
    def field(name: str) -> str:
        return fields[places[name]] if name in places else ""

    kind = _KINDS.get(field("业务类型"))
    if kind is None:
        raise _Strange(f"业务类型 {field('业务类型')[:32]!r} is not known")
    amounts = {name: _signed_fen(name, field(name)) for name in _AMOUNTS if name in places}
    amount, fee = amounts["订单金额（元）"], amounts["服务费（元）"]
    if not amount:
        raise _Strange("订单金额（元） is missing or zero")
    at_s = of_plain(field("完成时间")) or of_plain(field("创建时间"))
    if at_s is None:
        raise _Strange("完成时间 is no time")
    refund = kind is RowKind.REFUND
    return StatementRow(
        kind=kind,
        out_trade_no=_number(field, "商户订单号"),
        channel_transaction=_number(field, "支付宝交易号"),
        amount=abs(amount),  # refunds are listed below zero, by some sources above it
        refund_no=_number(field, _REQUEST) if refund and field(_REQUEST) else None,
        fee=None if fee is None else -abs(fee) if refund else abs(fee),
        at_s=at_s,
    )


def _signed_fen(name: str, text: str) -> int | None:
    fen = fen_of_yuan(text.removeprefix("-"))
    if fen is None and text:
        raise _Strange(f"{name} {text[:32]!r} is no amount")
    return -fen if fen is not None and text.startswith("-") else fen


def _number(field: _Field, name: str) -> str:
    if not _NUMBER.fullmatch(field(name)):
        raise _Strange(f"{name} {field(name)[:64]!r} is no number")
    return field(name)
