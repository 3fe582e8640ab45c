"""How an order's end looks as a value: closing, which waits for its channel's word, and closed. Pure."""

import msgspec

from actors import deadlines
from actors.deadlines import Schedule
from actors.order import Attempt, AttemptState, Order, OrderState

replace = msgspec.structs.replace


def closing(order: Order, live: Attempt, at_ms: int, schedule: Schedule) -> Order:
    """The order one version on, with this attempt to be closed at its channel."""
    return order.advanced(
        replace(live, state=AttemptState.CLOSING),
        state=OrderState.CLOSING,
        reason=None,
        step=0,
        next_check_at_ms=deadlines.closing_check(schedule, 0, at_ms, order, live),
    )


def closed(order: Order, at_ms: int, schedule: Schedule) -> Order:
    """The order one version on, closed for the app. What ever left the house is still watched at its channel."""
    watched = any(attempt.state is AttemptState.CLOSED for attempt in order.attempts)
    return order.advanced(
        state=OrderState.CLOSED,
        reason=None,
        closed_at_ms=at_ms,
        step=0,
        next_check_at_ms=deadlines.watch_check(schedule, 0, at_ms) if watched else None,
    )
