"""The people who pay: whether somebody pays a trade, and how long after they could. Pure, from the seed."""

import msgspec

from channels.simulator.faults import Seconds, Share, draw


class Payers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A payer turns up with probability `rate` and pays between `after_min_s` and `after_max_s` after the platform gave
    out a way to pay; `at_cashier`: after somebody opened the cashier's page. Then a code that reached nobody, because
    the merchant died with it in his hands, is not paid."""

    rate: Share = 0.95
    after_min_s: Seconds = 0.2
    after_max_s: Seconds = 3.0
    at_cashier: bool = False


def pays_after_s(payers: Payers, seed: int, subject: str) -> float | None:
    """Seconds until somebody pays; None if nobody ever does."""
    if draw(seed, "payer", subject) >= payers.rate:
        return None
    span_s = max(0.0, payers.after_max_s - payers.after_min_s)
    return payers.after_min_s + draw(seed, "patience", subject) * span_s
