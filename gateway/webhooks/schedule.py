"""When a webhook is tried again, and when no more: pure."""

from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import TypeAlias

import msgspec

RETRY_AFTER_MAX_S = 3_600.0
GONE = 410


class Delivered(msgspec.Struct, frozen=True):
    """The app took it."""


class Again(msgspec.Struct, frozen=True):
    """The next try is due in `delay_s`."""

    delay_s: float


class Dead(msgspec.Struct, frozen=True):
    """No further try is made."""

    reason: str


Verdict: TypeAlias = Delivered | Again | Dead


def verdict_of(
    status: int | None, tries: int, schedule_s: Sequence[float], *, jitter: float, retry_after_s: float | None = None
) -> Verdict:
    """What follows from one try.

    Args:
        status: the HTTP status, or None when there was no answer. Only 2xx counts as taken.
        tries: how many tries were made, this one included.
        schedule_s: the delay before each try; its first entry is the one before the first.
        jitter: factor by which the delay is stretched, drawn by the caller, 1.0 for none.
        retry_after_s: what the app asked for; it can lengthen the delay, up to an hour.
    """
    if status is not None and 200 <= status < 300:
        return Delivered()
    if status == GONE:
        return Dead("the endpoint answered 410 Gone")
    if tries >= len(schedule_s):
        return Dead(f"all {len(schedule_s)} tries failed")
    return Again(max(schedule_s[tries] * jitter, min(retry_after_s or 0.0, RETRY_AFTER_MAX_S)))


def retry_after_s_of(value: str | None, now_s: float) -> float | None:
    """Read a Retry-After header: seconds or an HTTP date. None if there is none or it can't be understood."""
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now_s)
    except (ValueError, OverflowError):
        return None
