"""An order as apps see it: the JSON of replies and of webhooks, made in one place."""

from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from actors.events import Credential, CredentialType
from actors.order import Attempt, AttemptState, Order, OrderState, Refund, RefundState, attempt_id


class CredentialView(msgspec.Struct, frozen=True):
    """What the payer needs to pay: text of a QR code or an address, object of a form or of parameters, or nothing."""

    type: str
    value: str | msgspec.Raw | None
    expires_at: str


class FailureView(msgspec.Struct, frozen=True):
    """Why an attempt failed, in the channel's words."""

    code: str
    message: str


class AttemptView(msgspec.Struct, frozen=True):
    """One try to pay."""

    attempt_id: str
    channel: str
    method: str
    state: str
    credential: CredentialView | None
    submitted_at: str
    failure: FailureView | None


class RefundView(msgspec.Struct, frozen=True):
    """Money on its way back. `out_refund_no` is null where the rules or people gave back what no order may keep."""

    refund_id: str
    order_id: str
    out_refund_no: str | None
    cause: str
    amount: int
    currency: str
    reason: str
    state: str
    channel: str
    channel_refund: str | None
    created_at: str
    succeeded_at: str | None
    next_check_at: str | None
    failure: FailureView | None


class OrderView(msgspec.Struct, frozen=True):
    """The order. `closing` is shown as `paying`: money may still arrive."""

    order_id: str
    out_order_no: str
    amount: int
    currency: str
    subject: str
    buyer: str | None
    items: msgspec.Raw | None
    metadata: msgspec.Raw | None
    return_url: str | None
    webhook_url: str | None
    late_payment: str
    state: str
    version: int
    refund_status: str
    paid_amount: int
    refunded_amount: int
    late: bool
    reason: str | None
    created_at: str
    expires_at: str
    paid_at: str | None
    closed_at: str | None
    next_check_at: str | None
    attempts: list[AttemptView]
    refunds: list[RefundView]


class PaymentView(msgspec.Struct, frozen=True):
    """The attempt a pay request led to."""

    attempt_id: str
    state: str
    credential: CredentialView | None


class PayView(msgspec.Struct, frozen=True):
    """The answer to a pay request."""

    payment: PaymentView | None
    order: OrderView


class _WebhookData(msgspec.Struct, frozen=True, omit_defaults=True):
    object: OrderView
    refund: RefundView | None = None


class _WebhookView(msgspec.Struct, frozen=True):
    id: str
    type: str
    created: str
    seq: int
    data: _WebhookData


_encode = msgspec.json.Encoder().encode


def order_view(order: Order) -> OrderView:
    """The order as its app sees it."""
    content = order.content
    expires_at = rfc3339(order.expires_at_ms)
    checked_at_expiry = order.next_check_at_ms == order.expires_at_ms
    return OrderView(
        order_id=order.order_id,
        out_order_no=content.out_order_no,
        amount=content.amount,
        currency=content.currency,
        subject=content.subject,
        buyer=content.buyer,
        items=_raw(content.items_json),
        metadata=_raw(content.metadata_json),
        return_url=content.return_url,
        webhook_url=content.webhook_url,
        late_payment=content.late_payment,
        state=OrderState.PAYING if order.state is OrderState.CLOSING else order.state,
        version=order.version,
        refund_status=_refund_status(order),
        paid_amount=order.paid_amount,
        refunded_amount=order.refunded_amount,
        late=order.late,
        reason=order.reason,
        created_at=rfc3339(order.created_at_ms),
        expires_at=expires_at,
        paid_at=_moment(order.paid_at_ms),
        closed_at=_moment(order.closed_at_ms),
        next_check_at=expires_at if checked_at_expiry else _moment(order.next_check_at_ms),
        attempts=[_attempt_view(order, attempt) for attempt in order.attempts],
        refunds=[refund_view(order, refund) for refund in order.refunds],
    )


def refund_view(order: Order, refund: Refund) -> RefundView:
    """A refund as its app sees it."""
    failure = None
    if refund.failure_code is not None:
        failure = FailureView(refund.failure_code, refund.failure_message or "")
    payment = next(payment for payment in order.payments if refund.gives_back(payment))
    return RefundView(
        refund_id=refund.refund_id,
        order_id=order.order_id,
        out_refund_no=refund.out_refund_no,
        cause=refund.cause,
        amount=refund.amount,
        currency=payment.currency,
        reason=refund.reason,
        state=refund.state,
        channel=refund.channel,
        channel_refund=refund.channel_refund,
        created_at=rfc3339(refund.started_at_ms),
        succeeded_at=_moment(refund.succeeded_at_ms),
        next_check_at=_moment(refund.next_check_at_ms),
        failure=failure,
    )


def refund_json(order: Order, refund: Refund) -> bytes:
    """The refund's JSON."""
    return _encode(refund_view(order, refund))


def order_json(order: Order) -> bytes:
    """The order's JSON."""
    return _encode(order_view(order))


def pay_json(order: Order, attempt: Attempt | None) -> bytes:
    """The JSON answer to a pay request."""
    payment = None
    if attempt is not None:
        number = attempt_id(order.order_id, attempt.number)
        payment = PaymentView(number, attempt.state, _credential_view(_offered(attempt)))
    return _encode(PayView(payment, order_view(order)))


def event_id(order: Order) -> str:
    """The webhook's id: the same for every try, and for whoever derives it."""
    return f"evt_{order.order_id}_{order.version}"


def webhook_json(order: Order, event_type: str, created_at_ms: int, about: str | None = None) -> bytes:
    """The body of a webhook about the order at this version; `about` is the refund that it is about."""
    refund = None if about is None else order.refund(about)
    data = _WebhookData(order_view(order), None if refund is None else refund_view(order, refund))
    return _encode(_WebhookView(event_id(order), event_type, rfc3339(created_at_ms), order.version, data))


def rfc3339(at_ms: int) -> str:
    """Unix milliseconds as RFC 3339 in UTC."""
    seconds, milliseconds = divmod(at_ms, 1000)
    return f"{_second(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=4096)
def _second(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _moment(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)


def _raw(json: str | None) -> msgspec.Raw | None:
    return None if json is None else msgspec.Raw(json.encode())


def _refund_status(order: Order) -> str:
    """By what has really gone back of the payment that paid the order."""
    credit = order.credit
    succeeded = sum(
        refund.amount
        for refund in order.refunds
        if refund.state is RefundState.SUCCEEDED and credit is not None and refund.gives_back(credit)
    )
    if not succeeded:
        return "none"
    return "full" if succeeded == order.paid_amount else "partial"


def _attempt_view(order: Order, attempt: Attempt) -> AttemptView:
    failure = None
    if attempt.failure_code is not None:
        failure = FailureView(attempt.failure_code, attempt.failure_message or "")
    return AttemptView(
        attempt_id=attempt_id(order.order_id, attempt.number),
        channel=attempt.channel,
        method=attempt.method,
        state=attempt.state,
        credential=_credential_view(_offered(attempt)),
        submitted_at=rfc3339(attempt.submitted_at_ms),
        failure=failure,
    )


def _offered(attempt: Attempt) -> Credential | None:
    """Nobody is to be led to an attempt that is being closed."""
    return None if attempt.state is AttemptState.CLOSING else attempt.credential


def _credential_view(credential: Credential | None) -> CredentialView | None:
    if credential is None:
        return None
    value: str | msgspec.Raw | None = credential.value
    if credential.type in (CredentialType.FORM, CredentialType.PARAMS):
        value = msgspec.Raw(credential.value.encode())
    elif credential.type is CredentialType.NONE:
        value = None
    return CredentialView(credential.type, value, rfc3339(credential.expires_at_ms))
