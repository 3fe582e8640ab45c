"""A decision as what is to be stored: one `Write` for the group commit. Pure."""

from typing import Any

import msgspec

from actors.events import Event
from actors.order import Announcement, Attempt, Decision, Order, Payment, Reason, Refund, Settlement


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A notification as it came in, recorded whatever becomes of it. Headers as JSON, body as received."""

    notification_id: int
    channel: str
    order_id: str
    attempt: str
    verdict: str
    headers_json: str
    body: bytes
    received_at_ms: int


class Write(msgspec.Struct, frozen=True, gc=False):
    """All that one transition makes durable, or nothing of it. `order.version` 1 is a birth, which needs no evidence.

    `payments` are new, `accepted` were held and are the credit now; `about` is the refund that is announced.
    `fingerprint` is set on the birth of an order whose buyer was named; `arrivals` alone (no order) is allowed.
    """

    order: Order | None
    event_type: str = ""
    evidence: bytes = b""
    at_ms: int = 0
    attempts: tuple[Attempt, ...] = ()
    payments: tuple[Payment, ...] = ()
    accepted: tuple[Payment, ...] = ()
    refunds: tuple[Refund, ...] = ()
    announce: Announcement | None = None
    about: str | None = None
    case: Reason | None = None
    settles: Settlement | None = None
    fingerprint: bytes | None = None
    arrivals: tuple[Arrival, ...] = ()


def birth(order: Order, fingerprint: bytes | None) -> Write:
    """The write that makes a new order exist."""
    return Write(order=order, at_ms=order.created_at_ms, fingerprint=fingerprint)


def move(before: Order, event: Event, decision: Decision, arrivals: tuple[Arrival, ...] = ()) -> Write:
    """The write that moves an order from `before` to the decision's order: only the rows that changed."""
    after = decision.order
    known = len(before.attempts)
    return Write(
        order=after,
        event_type=type(event).__name__,
        evidence=_evidence(event),
        at_ms=event.at_ms,
        attempts=tuple(
            attempt
            for index, attempt in enumerate(after.attempts)
            if index >= known or attempt is not before.attempts[index]
        ),
        payments=after.payments[len(before.payments) :],
        accepted=tuple(
            payment for payment, known in zip(after.payments, before.payments, strict=False) if payment is not known
        ),
        refunds=tuple(refund for refund in after.refunds if refund not in before.refunds),
        announce=decision.announce,
        about=decision.about,
        case=decision.case,
        settles=decision.settles,
        arrivals=arrivals,
    )


def record(arrival: Arrival) -> Write:
    """A notification that moves no order, kept all the same."""
    return Write(order=None, at_ms=arrival.received_at_ms, arrivals=(arrival,))


_encode = msgspec.json.Encoder().encode


def _evidence(facts: Any) -> bytes:
    return _encode(facts)
