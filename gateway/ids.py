"""Order ids and notification ids: time-ordered, made here, never guessable."""

import secrets

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: letters and digits, none that look alike
_PAIRS = [high + low for high in _DIGITS for low in _DIGITS]  # ten bits a step


def order_id(at_ms: int) -> str:
    """26 characters: 48 bits of unix milliseconds, then 80 random bits; sorts by time."""
    number = (at_ms << 80) | secrets.randbits(80)
    return "".join(_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10))


def notification_id(at_ms: int) -> int:
    """A positive 63-bit number: 42 bits of unix milliseconds, then 21 random bits."""
    return (at_ms & (1 << 42) - 1) << 21 | secrets.randbits(21)
