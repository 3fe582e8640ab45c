"""The people who pay: whether somebody pays a trade, and how long after the code was shown. Pure, from the seed."""

import msgspec

from channels.simulator.faults import Seconds, Share, draw


class Payers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A payer turns up with probability `rate` and pays between `after_min_s` and `after_max_s`."""

    rate: Share = 0.95
    after_min_s: Seconds = 0.2
    after_max_s: Seconds = 3.0


def pays_after_s(payers: Payers, seed: int, subject: str) -> float | None:
    """Seconds until somebody pays; None if nobody ever does."""
    if draw(seed, "payer", subject) >= payers.rate:
        return None
    span_s = max(0.0, payers.after_max_s - payers.after_min_s)
    return payers.after_min_s + draw(seed, "patience", subject) * span_s
