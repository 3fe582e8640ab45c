"""What goes wrong, drawn from a seed: the same seed and the same order of things give the same faults. Pure.

Draws hang on a trade's description and on how many trades of that description its merchant made before, not on our
numbers: two merchants who sell the same things to the same people meet the same faults.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated

import msgspec

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]

TIMEOUT = "timeout"


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shares (0 to 1) of trades, notifications or requests that meet each fault; what every platform knows.

    Of notifications: `drop` it never arrives, nor do its retries; `duplicate` it arrives again after it was
    acknowledged; `delay_s` it waits up to so long; `out_of_order` it waits until a later one was sent; `tamper` one
    with a bit flipped comes first and the genuine one after it.

    Of requests: `error_before`, `error_after` a 500 without and with the request executed; `timeout` executed, never
    answered; `rate_limited` too many, not executed; `slow` answered up to `slow_s` later.

    Of closes: `close_race` the payer pays just before the close arrives; `close_overtaken` whoever was at it pays just
    after. Of statements: `bill_not_ready`, and lines that are `bill_missing`, `bill_extra` or say another amount
    (`bill_amount`).

    A platform's own faults are the fields that its own struct adds.
    """

    drop: Share = 0.0
    duplicate: Share = 0.0
    delay_s: Seconds = 0.0
    out_of_order: Share = 0.0
    tamper: Share = 0.0
    error_before: Share = 0.0
    error_after: Share = 0.0
    timeout: Share = 0.0
    rate_limited: Share = 0.0
    slow: Share = 0.0
    slow_s: Seconds = 2.0
    close_race: Share = 0.0
    close_overtaken: Share = 0.0
    bill_not_ready: Share = 0.0
    bill_missing: Share = 0.0
    bill_extra: Share = 0.0
    bill_amount: Share = 0.0


class NotificationPlan(msgspec.Struct, frozen=True):
    """What will happen to one notification."""

    dropped: bool
    delay_s: float
    overtaken: bool
    false_starts: tuple[str, ...]
    duplicates: int


def draw(seed: int, *labels: str) -> float:
    """A number in [0, 1) that depends on the seed and the labels alone."""
    digest = hashlib.blake2b("\x1f".join((str(seed), *labels)).encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def plan_notification(faults: Faults, variants: tuple[str, ...], seed: int, subject: str) -> NotificationPlan:
    """Decide a notification at once, so that retries do not draw again."""
    duplicated = draw(seed, "duplicate", subject) < faults.duplicate
    return NotificationPlan(
        dropped=draw(seed, "drop", subject) < faults.drop,
        delay_s=draw(seed, "delay", subject) * faults.delay_s,
        overtaken=draw(seed, "out_of_order", subject) < faults.out_of_order,
        false_starts=tuple(name for name in variants if draw(seed, name, subject) < getattr(faults, name)),
        duplicates=1 + int(draw(seed, "duplicates", subject) * 3) if duplicated else 0,
    )


def request_fault(
    faults: Faults, names: Mapping[str, bool], seed: int, subject: str, verb: str, call: int
) -> str | None:
    """What happens to the `call`-th request of this verb about this subject: at most one fault."""
    left = draw(seed, "request", subject, verb, str(call))
    for name in names:
        left -= getattr(faults, name)
        if left < 0:
            return name
    return None


def slow_for_s(faults: Faults, seed: int, subject: str, verb: str, call: int) -> float:
    """How much longer than needed the answer takes."""
    if draw(seed, "slow", subject, verb, str(call)) >= faults.slow:
        return 0.0
    return draw(seed, "slow_s", subject, verb, str(call)) * faults.slow_s
