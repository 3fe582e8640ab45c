"""What customers want to buy: drawn from a seed, so that the same seed gives the same orders anywhere."""

import random

import msgspec

BUYER_SHARE = 0.05


class Purchase(msgspec.Struct, frozen=True):
    """One order to be made. The number is drawn before anything is sent, so that every retry carries the same one."""

    out_order_no: str
    subject: str
    amount: int
    currency: str = "CNY"
    buyer: str | None = None


def purchase(seed: int, prefix: str, number: int) -> Purchase:
    """The `number`-th order of this seed. Its subject is unique among all orders with this prefix."""
    rng = random.Random(f"{seed}:{prefix}:{number}")
    name = f"{prefix}-{number:06d}"
    buyer = f"buyer-{name}" if rng.random() < BUYER_SHARE else None
    return Purchase(out_order_no=name, subject=name, amount=rng.randint(1, 100_000), buyer=buyer)
