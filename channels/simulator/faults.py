"""What goes wrong, drawn from a seed: the same seed and the same order of things give the same faults. Pure.

Draws hang on a trade's description and on how many trades of that description its merchant made before, not on our
numbers: two merchants who sell the same things to the same people meet the same faults.
"""

import hashlib
from enum import StrEnum
from typing import Annotated

import msgspec

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shares (0 to 1) of trades, notifications or requests that meet each fault.

    Of trades, by their notification: `drop` it never arrives, nor do its retries; `duplicate` it arrives again after it
    was acknowledged; `delay_s` it waits up to so long; `out_of_order` it waits until a later one was sent; `tamper`,
    `probe`, `stale`, `wrong_serial`: a bit flipped, a SIGNTEST signature, an old timestamp, a serial nobody knows come
    first and the genuine one after them. `certificate_share`: signed by a platform certificate instead of the public
    key; `rotation`: of what certificates sign, by the new one, which is also listed as soon as this is above 0.

    Of requests: `error_before`, `error_after` a 500 without and with the request executed; `timeout` executed, never
    answered; `rate_limited` a 429; `accepted` a 202, not executed; `slow` answered up to `slow_s` later.
    """

    drop: Share = 0.0
    duplicate: Share = 0.0
    delay_s: Seconds = 0.0
    out_of_order: Share = 0.0
    tamper: Share = 0.0
    probe: Share = 0.0
    stale: Share = 0.0
    wrong_serial: Share = 0.0
    certificate_share: Share = 0.0
    rotation: Share = 0.0
    error_before: Share = 0.0
    error_after: Share = 0.0
    timeout: Share = 0.0
    rate_limited: Share = 0.0
    accepted: Share = 0.0
    slow: Share = 0.0
    slow_s: Seconds = 2.0


class RequestFault(StrEnum):
    """What happens to one request besides its answer."""

    ERROR_BEFORE = "error_before"
    ERROR_AFTER = "error_after"
    TIMEOUT = "timeout"
    RATE_LIMITED = "rate_limited"
    ACCEPTED = "accepted"


class Variant(StrEnum):
    """How one delivery of a notification looks."""

    GENUINE = "genuine"
    TAMPERED = "tampered"
    PROBE = "probe"
    STALE = "stale"
    WRONG_SERIAL = "wrong_serial"


class NotificationPlan(msgspec.Struct, frozen=True):
    """What will happen to one trade's notification."""

    dropped: bool
    delay_s: float
    overtaken: bool
    false_starts: tuple[Variant, ...]
    duplicates: int


def draw(seed: int, *labels: str) -> float:
    """A number in [0, 1) that depends on the seed and the labels alone."""
    digest = hashlib.blake2b("\x1f".join((str(seed), *labels)).encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def plan_notification(faults: Faults, seed: int, subject: str) -> NotificationPlan:
    """Decide a trade's notification at once, so that retries do not draw again."""
    false_starts = (
        (Variant.TAMPERED, faults.tamper),
        (Variant.PROBE, faults.probe),
        (Variant.STALE, faults.stale),
        (Variant.WRONG_SERIAL, faults.wrong_serial),
    )
    duplicated = draw(seed, "duplicate", subject) < faults.duplicate
    return NotificationPlan(
        dropped=draw(seed, "drop", subject) < faults.drop,
        delay_s=draw(seed, "delay", subject) * faults.delay_s,
        overtaken=draw(seed, "out_of_order", subject) < faults.out_of_order,
        false_starts=tuple(variant for variant, share in false_starts if draw(seed, variant, subject) < share),
        duplicates=1 + int(draw(seed, "duplicates", subject) * 3) if duplicated else 0,
    )


def request_fault(faults: Faults, seed: int, subject: str, verb: str, call: int) -> RequestFault | None:
    """What happens to the `call`-th request of this verb about this subject: at most one fault."""
    left = draw(seed, "request", subject, verb, str(call))
    for fault in RequestFault:
        left -= getattr(faults, fault)
        if left < 0:
            return fault
    return None


def slow_for_s(faults: Faults, seed: int, subject: str, verb: str, call: int) -> float:
    """How much longer than needed the answer takes."""
    if draw(seed, "slow", subject, verb, str(call)) >= faults.slow:
        return 0.0
    return draw(seed, "slow_s", subject, verb, str(call)) * faults.slow_s
