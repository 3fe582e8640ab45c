"""What an order can ask to be done once its decision is durable: values, carried out elsewhere.

An effect may be lost with the process that held it. Everything it would do is also written in the order's row (an
attempt found `submitting` or `closing`, a `next_check_at`), so the sweep finds it again.
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


Effect: TypeAlias = Submit | Query | Close
