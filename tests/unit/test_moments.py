"""Times of the wire: three spellings of Beijing's clock, and nothing else taken for one."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels import moments

NOW_S = 1_760_000_000
SHANGHAI = ZoneInfo("Asia/Shanghai")


def test_each_platforms_spelling():
    assert moments.rfc3339(NOW_S) == "2025-10-09T16:53:20+08:00"
    assert moments.plain(NOW_S) == "2025-10-09 16:53:20"
    assert moments.compact(NOW_S) == "20251009165320"


@given(st.integers(800_000_000, 4_000_000_000))  # since 1995; before, Shanghai had summers
def test_every_second_is_shanghais_and_comes_back(unix_s):
    assert moments.plain(unix_s) == datetime.fromtimestamp(unix_s, SHANGHAI).strftime("%Y-%m-%d %H:%M:%S")
    assert moments.of_plain(moments.plain(unix_s)) == unix_s
    assert moments.of_compact(moments.compact(unix_s)) == unix_s
    assert moments.of_rfc3339(moments.rfc3339(unix_s)) == unix_s


def test_a_fraction_is_cut_off():
    assert moments.of_plain("2025-10-09 16:53:20.999") == NOW_S
    assert moments.of_plain("2025-10-09 16:53:20.0") == NOW_S
    assert moments.of_rfc3339("2025-10-09T16:53:20.999999999+08:00") == NOW_S


def test_an_offset_is_heeded():
    assert moments.of_rfc3339("2025-10-09T08:53:20Z") == NOW_S
    assert moments.of_rfc3339("2025-10-09T04:53:20-04:00") == NOW_S


@pytest.mark.parametrize(
    "text",
    [
        *("", "2025-10-09", "2025-10-09T16:53:20", "2025-10-09 16:53", " 2025-10-09 16:53:20", "2025-10-09 16:53:20\n"),
        *("2025-13-09 16:53:20", "2025-02-30 16:53:20", "2025-10-09 24:00:00", "2025-10-09 16:53:60"),
        *("0000-01-01 00:00:00", "2025-10-09 16:53:20.", "2025-10-09 16:53:20+08:00", "２025-10-09 16:53:20"),
        *("2025-1-9 6:53:20", "20251009165320", "1760000000", "2025-10-09 16:53:20.1234567890"),
    ],
)
def test_what_is_not_that_spelling_is_none(text):
    assert moments.of_plain(text) is None


@pytest.mark.parametrize("text", ["", "2025100916532", "202510091653200", "20251309165320", "20250230165320", "x" * 14])
def test_what_is_not_the_compact_spelling_is_none(text):
    assert moments.of_compact(text) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "2025-10-09T16:53:20", "2025-10-09 16:53:20+08:00", "2025-10-09T16:53:20+0800", "2025-10-09T16:53:20+08"),
        *("2025-02-30T16:53:20Z", "0000-01-01T00:00:00Z", "2025-10-09T16:53:20+99:00", "2025-10-09t16:53:20z"),
    ],
)
def test_what_has_no_offset_or_is_no_time_is_none(text):
    assert moments.of_rfc3339(text) is None


def test_the_ends_of_the_calendar_are_times_or_none_but_never_an_error():
    assert moments.of_rfc3339("0001-01-01T00:00:00+08:00") == -62135625600
    assert moments.of_rfc3339("9999-12-31T23:59:59-23:59") is not None
    assert moments.of_plain("9999-12-31 23:59:59") == 253402271999
