"""Amounts: exact, integers, and nothing that is not one."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.money import fen_of_digits, fen_of_yuan, yuan


@given(st.integers(0, 10**14))
def test_yuan_is_what_decimal_says_and_comes_back(fen):
    assert yuan(fen) == str((Decimal(fen) / 100).quantize(Decimal("0.01")))
    assert fen_of_yuan(yuan(fen)) == fen


@pytest.mark.parametrize(
    ("text", "fen"),
    [
        ("0.01", 1),
        ("0.1", 10),
        ("0.00", 0),
        ("0", 0),
        ("12", 1200),
        ("12.0", 1200),
        ("12.30", 1230),
        ("12.3000", 1230),
        ("100000000.00", 10**10),
        ("19.99", 1999),
        ("0.29", 29),
        ("1.15", 115),
    ],
)
def test_yuan_texts_are_read_exactly(text, fen):
    assert fen_of_yuan(text) == fen


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "1 ", " 1", "1\n", "-1", "+1", "-0.01", ".5", "1.", "1..2", "1.2.3", "01", "00.01", "0x1"),
        *("1e2", "1E2", "NaN", "Infinity", "1,000.00", "1_000", "0.001", "0.015", "1.000001", "9" * 14, "9" * 10_000),
        *("١", "１", "½", "1.０１", "¥1", "1元", "None", "null", "true", "\0", "1\x00"),
    ],
)
def test_what_is_not_an_amount_of_whole_fen_is_none(text):
    assert fen_of_yuan(text) is None


@pytest.mark.parametrize(("text", "fen"), [("0", 0), ("1", 1), ("000000001200", 1200), ("1200", 1200)])
def test_digits_are_read_as_fen(text, fen):
    assert fen_of_digits(text) == fen


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.0", "1e3", " 1", "1\n", "１", "1_0", "9" * 16, "1,0"])
def test_what_is_not_digits_is_none(text):
    assert fen_of_digits(text) is None
