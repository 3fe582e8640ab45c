"""Order ids and notification ids: time-ordered, made here, never guessable."""

import os
import secrets
from collections.abc import Iterator
from functools import lru_cache

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: letters and digits, none that look alike
_PAIRS = [high + low for high in _DIGITS for low in _DIGITS]  # ten bits a step
_RANDOM_SHIFTS = tuple(range(70, -1, -10))


def order_id(at_ms: int) -> str:
    """26 characters: 50 bits of unix milliseconds, then 80 random bits; sorts by time."""
    random = int.from_bytes(_random_bytes(), "big")
    return _moment(at_ms) + "".join([_PAIRS[random >> shift & 1023] for shift in _RANDOM_SHIFTS])


def notification_id(at_ms: int) -> int:
    """A positive 63-bit number: 42 bits of unix milliseconds, then 21 random bits."""
    return (at_ms & (1 << 42) - 1) << 21 | secrets.randbits(21)


def first_notification_id(at_ms: int) -> int:
    """The lowest number that a notification of that moment can have."""
    return max(at_ms, 0) << 21


@lru_cache(maxsize=8)
def _moment(at_ms: int) -> str:
    return "".join([_PAIRS[at_ms >> shift & 1023] for shift in range(40, -1, -10)])


def _draw() -> Iterator[bytes]:
    """Ten random bytes at a time; the system is asked for many at once, because asking is what costs."""
    while True:
        drawn = os.urandom(10 * 256)
        yield from (drawn[first : first + 10] for first in range(0, len(drawn), 10))


_random_bytes = _draw().__next__
