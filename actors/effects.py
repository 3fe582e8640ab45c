"""What an order can ask to be done once its decision is durable: values, carried out elsewhere.

An effect may be lost with the process that held it. Everything it would do is also written in the order's row (an
attempt or refund found `submitting`, an attempt found `closing`, a `next_check_at`), so the sweep finds it again.
"""

from typing import TypeAlias

import msgspec


class Submit(msgspec.Struct, frozen=True):
    """Make attempt `number` payable at its channel."""

    number: int


class Query(msgspec.Struct, frozen=True):
    """Ask the channel what became of attempt `number`.

    `contested`: it has just refused to close it, as paid. If it then says *not paid*, closing it again at once would go
    round in circles.
    """

    number: int
    contested: bool = False


class Close(msgspec.Struct, frozen=True):
    """End attempt `number` at its channel."""

    number: int


class SubmitRefund(msgspec.Struct, frozen=True):
    """Have the channel give the refund's money back."""

    refund_id: str


class QueryRefund(msgspec.Struct, frozen=True):
    """Ask the channel what became of a refund."""

    refund_id: str


Effect: TypeAlias = Submit | Query | Close | SubmitRefund | QueryRefund
