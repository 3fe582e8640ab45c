"""Amounts between minor units (fen, an integer) and the wire's texts: yuan with two decimals, or fen. No floats."""

import re

_YUAN = re.compile(r"(0|[1-9][0-9]{0,12})(?:\.([0-9]{1,5}))?", re.ASCII)
FEN_DIGITS_MAX = 15


def yuan(fen: int) -> str:
    """`1200` as `12.00`."""
    return f"{fen // 100}.{fen % 100:02d}"


def fen_of_yuan(text: str) -> int | None:
    """`12.00`, `12.0` or `12` as 1200; None if it is anything else or holds a part of a fen."""
    found = _YUAN.fullmatch(text)
    if found is None:
        return None
    decimals = (found[2] or "").ljust(2, "0")
    return None if decimals[2:].strip("0") else int(found[1]) * 100 + int(decimals[:2])


def fen_of_digits(text: str) -> int | None:
    """`1200` or `000000001200` as 1200; None if it is anything but digits."""
    return int(text) if len(text) <= FEN_DIGITS_MAX and text.isascii() and text.isdigit() else None
