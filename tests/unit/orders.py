"""Orders for the tests of the core: told events until they are where a test begins."""

from typing import Any

import msgspec

from actors.deadlines import Schedule
from actors.events import (
    CloseRequested,
    Credential,
    CredentialType,
    Event,
    OutcomeUnknown,
    PaymentReported,
    PayRequested,
    ReportedClosed,
    Source,
    SubmitAccepted,
    Verb,
)
from actors.lifecycle import transition
from actors.order import Content, Decision, Order, new_order

SCHEDULE = Schedule()
BORN_MS = 1_000_000
EXPIRES_MS = BORN_MS + 1_800_000
CONTENT = Content(app_id="shop", out_order_no="A-1", amount=100, currency="CNY", subject="tea")
CREDENTIAL = Credential(CredentialType.QR, "weixin://pay", EXPIRES_MS)
FINAL_MS = EXPIRES_MS + SCHEDULE.not_found_final_ms


def fresh(**changes: Any) -> Order:
    content = msgspec.structs.replace(CONTENT, **changes)
    return new_order("0" * 26, content, BORN_MS, EXPIRES_MS)


def pay(at_ms: int = BORN_MS + 1, in_flight: frozenset[int] = frozenset(), **changes: Any) -> PayRequested:
    wish = PayRequested(at_ms, "wechatpay", "m/a", "native", None, in_flight)
    return msgspec.structs.replace(wish, **changes)


def paid_event(at_ms: int = BORN_MS + 9000, **changes: Any) -> PaymentReported:
    facts: dict[str, Any] = {
        "number": 1,
        "source": Source.NOTIFICATION,
        "channel": "wechatpay",
        "account": "m/a",
        "transaction": "T1",
        "amount": 100,
        "currency": "CNY",
        "success_at_ms": at_ms - 500,
    }
    return PaymentReported(at_ms=at_ms, **(facts | changes))


def qr(expires_at_ms: int, value: str = "x") -> Credential:
    return Credential(CredentialType.QR, value, expires_at_ms)


def told(order: Order, *events: Event) -> Order:
    for event in events:
        order = transition(order, event, SCHEDULE).order
    return order


def decide(order: Order, event: Event) -> Decision:
    return transition(order, event, SCHEDULE)


SUBMITTING = told(fresh(), pay())
PENDING = told(SUBMITTING, SubmitAccepted(BORN_MS + 50, 1, CREDENTIAL))
UNKNOWN = told(SUBMITTING, OutcomeUnknown(BORN_MS + 50, 1, Verb.SUBMIT, "silence"))
CLOSING = told(PENDING, CloseRequested(BORN_MS + 60))
CLOSED = told(CLOSING, ReportedClosed(BORN_MS + 70, 1))
PAID = told(PENDING, paid_event())
