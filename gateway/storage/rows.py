"""A write as rows: what each section of the flush's statement gets of it. Pure."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec

from actors.checkpoint import Write
from actors.events import Credential
from actors.order import Attempt, Order, Payment, Refund, Settlement, attempt_id
from gateway.representation import event_id, webhook_json
from gateway.storage.outbox import OutboxRow

Row: TypeAlias = tuple[Any, ...]

_encode = msgspec.json.Encoder().encode


class Settings(msgspec.Struct, frozen=True):
    """What rows need beyond the write. `webhook_url(app_id)` is the app's endpoint, None if it has none."""

    duplicate_window_ms: int
    webhook_lease_ms: int
    webhook_url: Callable[[str], str | None]


def owed_webhook(write: Write, settings: Settings) -> OutboxRow | None:
    """The webhook a write owes its app, if it announces anything.

    An empty `url` says that this process knows of no endpoint. The app may be younger than its last look, so the
    statement asks the table of apps.
    """
    order = write.order
    if order is None or write.announce is None:
        return None
    return OutboxRow(
        event_id=event_id(order),
        app_id=order.content.app_id,
        order_id=order.order_id,
        seq=order.version,
        type=write.announce,
        url=order.content.webhook_url or settings.webhook_url(order.content.app_id) or "",
        body=webhook_json(order, write.announce, write.at_ms, write.about),
        tries=0,
        created_at_ms=write.at_ms,
    )


def add_rows(
    into: dict[str, list[Row]], write: Write, op_id: int, webhook: OutboxRow | None, settings: Settings
) -> None:
    """Append a write's rows to the batch, by section."""
    order = write.order
    if order is not None and order.version == 1:
        _add(into, "births", _birth(order, write.fingerprint, op_id, settings.duplicate_window_ms))
    elif order is not None:
        evidence = write.evidence.decode()
        _add(into, "moves", (*_move(order), write.at_ms, write.event_type, op_id, evidence))
        if write.attempts:
            _add(into, "attempts", *(_attempt(order.order_id, attempt) for attempt in write.attempts))
        if write.payments:
            _add(into, "payments", *(_payment(order.order_id, payment) for payment in write.payments))
        if write.accepted:
            _add(into, "accepted", *(_payment(order.order_id, payment)[:4] for payment in write.accepted))
        if write.refunds:
            _add(into, "refunds", *(_refund(order, refund) for refund in write.refunds))
        if write.settles is not None:
            _add(into, "settled", _settlement(order, write.settles, write.at_ms))
        if write.case is not None:
            app_id = order.content.app_id
            _add(into, "cases", (order.order_id, order.version, app_id, write.case, evidence, write.at_ms))
    if webhook is not None:
        _add(into, "outbox", _outbox(webhook, settings))
    if write.arrivals:
        _add(into, "arrivals", *(msgspec.structs.astuple(arrival) for arrival in write.arrivals))


_LOCK_ORDER: dict[str, Callable[[Row], Any]] = {
    "births": lambda row: row[1:3],
    "moves": lambda row: row[0],
}


def in_lock_order(section: str, rows: Sequence[Row]) -> Sequence[Row]:
    """The rows in the order of the keys they lock: two processes that lock the same ones wait, and do not deadlock."""
    key = _LOCK_ORDER.get(section)
    return rows if key is None else sorted(rows, key=key)


def arrays(rows: Sequence[Row], width: int) -> list[Sequence[Any]]:
    """Rows turned into columns."""
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _add(into: dict[str, list[Row]], section: str, *rows: Row) -> None:
    into.setdefault(section, []).extend(rows)


def _birth(order: Order, fingerprint: bytes | None, op_id: int, window_ms: int) -> Row:
    content = order.content
    return (
        order.order_id,
        content.app_id,
        content.out_order_no,
        content.amount,
        content.currency,
        content.subject,
        content.buyer,
        content.items_json,
        content.metadata_json,
        content.webhook_url,
        content.return_url,
        content.late_payment,
        fingerprint,
        order.created_at_ms,
        order.expires_at_ms,
        order.next_check_at_ms,
        op_id,
        window_ms,
    )


def _move(order: Order) -> Row:
    return (
        order.order_id,
        order.version,
        order.state,
        order.reason,
        order.paid_amount,
        order.refunded_amount,
        order.late,
        order.paid_at_ms,
        order.closed_at_ms,
        order.step,
        order.next_check_at_ms,
    )


def _attempt(order_id: str, attempt: Attempt) -> Row:
    return (
        attempt_id(order_id, attempt.number),
        order_id,
        attempt.number,
        attempt.channel,
        attempt.account,
        attempt.method,
        attempt.params_json,
        attempt.state,
        _credential(attempt.credential),
        attempt.failure_code,
        attempt.failure_message,
        attempt.submits,
        attempt.started_at_ms,
        attempt.submitted_at_ms,
    )


def _credential(credential: Credential | None) -> str | None:
    return None if credential is None else _encode(credential).decode()


def _payment(order_id: str, payment: Payment) -> Row:
    return (
        payment.channel,
        payment.account,
        payment.transaction,
        order_id,
        attempt_id(order_id, payment.number),
        payment.kind,
        payment.amount,
        payment.currency,
        payment.success_at_ms,
        payment.learned_at_ms,
        payment.learned_by,
    )


def _refund(order: Order, refund: Refund) -> Row:
    return (
        refund.refund_id,
        order.content.app_id,
        order.order_id,
        refund.out_refund_no,
        refund.cause,
        attempt_id(order.order_id, refund.number),
        refund.channel,
        refund.account,
        refund.transaction,
        refund.amount,
        refund.reason,
        refund.state,
        refund.channel_refund,
        refund.failure_code,
        refund.failure_message,
        refund.submits,
        refund.step,
        refund.started_at_ms,
        refund.submitted_at_ms,
        refund.succeeded_at_ms,
        refund.next_check_at_ms,
    )


def _settlement(order: Order, settles: Settlement, at_ms: int) -> Row:
    return (
        order.order_id,
        " ".join(settles.reasons),
        settles.version,
        settles.resolution,
        settles.by,
        settles.note,
        order.version,
        at_ms,
    )


def _outbox(webhook: OutboxRow, settings: Settings) -> Row:
    return (
        webhook.event_id,
        webhook.app_id,
        webhook.order_id,
        webhook.seq,
        webhook.type,
        webhook.url,
        webhook.body,
        settings.webhook_lease_ms if webhook.url else 0,  # not ours to deliver: whoever claims it
        webhook.created_at_ms,
    )
