"""Times between unix seconds and the texts of the wire. All three platforms live in Beijing's time, without summers."""

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

CHINA: Final = timezone(timedelta(hours=8))
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
_EPOCH_DAY: Final = _EPOCH.toordinal()
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_PLAIN = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(\.\d{1,9})?", re.ASCII)


def rfc3339(unix_s: int) -> str:
    """As WeChat Pay writes it: `2026-11-21T10:00:00+08:00`."""
    return datetime.fromtimestamp(unix_s, CHINA).isoformat()


def plain(unix_s: int) -> str:
    """As Alipay writes it: `2026-11-21 10:00:00`."""
    return datetime.fromtimestamp(unix_s, CHINA).isoformat(" ")[:19]


def compact(unix_s: int) -> str:
    """As UnionPay writes it: `20261121100000`."""
    return datetime.fromtimestamp(unix_s, CHINA).isoformat()[:19].replace("-", "").replace("T", "").replace(":", "")


def of_rfc3339(text: str) -> int | None:
    """Whole unix seconds of a time with an offset; None if it is anything else."""
    if not _RFC3339.fullmatch(text):
        return None
    try:
        return (datetime.fromisoformat(text) - _EPOCH) // _SECOND
    except (ValueError, OverflowError):
        return None


def of_plain(text: str) -> int | None:
    """Whole unix seconds of what `plain` writes, also with a fraction behind; None if it is anything else."""
    found = _PLAIN.fullmatch(text)
    return _beijing(found[1]) if found else None


def of_compact(text: str) -> int | None:
    """Unix seconds of what `compact` writes; None if it is anything else."""
    digits = len(text) == 14 and text.isascii() and text.isdigit()
    return _beijing(f"{text[:8]}T{text[8:]}") if digits else None


def _beijing(iso: str) -> int | None:
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return None
    days = moment.toordinal() - _EPOCH_DAY
    return ((days * 24 + moment.hour - 8) * 60 + moment.minute) * 60 + moment.second
