"""What the visitors saw, as plain values: promises, refusals, reads, webhooks. The invariants are judged by it.

Numbers of orders and of refunds are the visitors' own, and no order has a refund's.
"""

from copy import copy

import msgspec


class Wanted(msgspec.Struct, frozen=True):
    """What a visitor set out to buy; written down before anything is sent."""

    out_order_no: str
    amount: int
    channel: str
    late_payment: str = "accept"
    currency: str = "CNY"


class Made(msgspec.Struct, frozen=True):
    """A create that was answered with an order."""

    out_order_no: str
    order_id: str
    amount: int
    currency: str


class RefundMade(msgspec.Struct, frozen=True):
    """A wish for money back that was answered with a refund."""

    out_refund_no: str
    refund_id: str
    order_id: str
    amount: int


class Read(msgspec.Struct, frozen=True):
    """An order as a gateway showed it. Reads of one order follow each other: each began after the one before."""

    order_id: str
    gateway: str
    version: int
    state: str


class Told(msgspec.Struct, frozen=True):
    """A webhook that was believed."""

    event_id: str
    order_id: str
    out_order_no: str
    type: str
    seq: int
    state: str
    paid_amount: int
    at_s: float


class History(msgspec.Struct):
    """All of it. `refused`: some create of this number had a definite no; `unsure`: some had no answer that says
    anything. `broken` is what no gateway may ever answer; `silent` counts requests without an answer."""

    wanted: dict[str, Wanted] = {}
    made: list[Made] = []
    refused: set[str] = set()
    unsure: set[str] = set()
    refunds: list[RefundMade] = []
    reads: list[Read] = []
    told: list[Told] = []
    broken: list[str] = []
    silent: int = 0

    def copied(self) -> "History":
        """As it is now: what is seen later does not come into it."""
        return History(**{name: copy(getattr(self, name)) for name in self.__struct_fields__})
