"""What travels between an app and the gateway, as frozen values. Members this version does not know are ignored."""

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec


class OrderState(StrEnum):
    """Where an order stands. `paid` and `closed` are the ends it normally reaches."""

    CREATED = "created"
    PAYING = "paying"
    PAID = "paid"
    CLOSED = "closed"
    EXCEPTION = "exception"


class AttemptState(StrEnum):
    """Where one try to pay stands; `submitting` and `unknown` are not a no."""

    INIT = "init"
    SUBMITTING = "submitting"
    PENDING = "pending"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CLOSING = "closing"
    CLOSED = "closed"


class Credential(msgspec.Struct, frozen=True):
    """What the payer needs until `expires_at`. By `type`, `value` is:

    * qr: the text of a QR code; the gateway draws it, see `Holdfast.qr_svg`.
    * url: an address to send the payer's browser to.
    * form: `{"action", "charset", "fields"}`, to be posted by the payer's browser: see `form_page`.
    * params: an object for the platform's own call in the payer's browser or app.
    * none: nothing: the payer has shown a code, and the channel asks them.
    """

    type: str
    value: Any = None
    expires_at: datetime | None = None


class Failure(msgspec.Struct, frozen=True):
    """Why an attempt definitely failed, in the channel's code."""

    code: str
    message: str


class Attempt(msgspec.Struct, frozen=True):
    """One try to pay an order through one channel."""

    attempt_id: str
    channel: str
    method: str
    state: AttemptState
    credential: Credential | None = None
    submitted_at: datetime | None = None
    failure: Failure | None = None


class RefundState(StrEnum):
    """Where a refund stands: of these only `succeeded`, `failed` and `reversed` (it had succeeded) are ends.

    `abnormal`: it stands still at the channel until a person helps there. It counts as given back, as all do but
    `failed` and `reversed`.
    """

    SUBMITTING = "submitting"
    UNKNOWN = "unknown"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABNORMAL = "abnormal"
    REVERSED = "reversed"


class Refund(msgspec.Struct, frozen=True, kw_only=True):
    """Money of an order on its way back to the payer. `amount` in the currency's minor unit (fen).

    `cause` says who wanted it: app (you, under your `out_refund_no`), excess (the order was paid more than once), late
    (paid after its end, and you want `late_payment` refunded), people (who settled a case).
    """

    refund_id: str
    order_id: str
    amount: int
    currency: str
    state: RefundState
    cause: str = "app"
    out_refund_no: str | None = None
    reason: str = ""
    channel: str = ""
    channel_refund: str | None = None
    created_at: datetime | None = None
    succeeded_at: datetime | None = None
    next_check_at: datetime | None = None
    failure: Failure | None = None


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An order as the gateway knows it. Amounts are integers of the currency's minor unit (fen).

    `late_payment` says what becomes of a payment after its end: accept, refund, or hold. `refund_status`: none, partial
    or full, by what has really gone back of the payment that paid it; `refunded_amount` also counts what is on its way.
    """

    order_id: str
    out_order_no: str
    amount: int
    currency: str
    subject: str
    state: OrderState
    version: int
    buyer: str | None = None
    items: list[Any] | None = None
    metadata: dict[str, Any] | None = None
    webhook_url: str | None = None
    return_url: str | None = None
    late_payment: str = "accept"
    refund_status: str = "none"
    paid_amount: int = 0
    refunded_amount: int = 0
    late: bool = False
    reason: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    paid_at: datetime | None = None
    closed_at: datetime | None = None
    next_check_at: datetime | None = None
    attempts: list[Attempt] = []
    refunds: list[Refund] = []


class Payment(msgspec.Struct, frozen=True):
    """The live attempt of a `pay`. No credential: the channel's answer is not known yet; pay again or wait."""

    attempt_id: str
    state: AttemptState
    credential: Credential | None = None


class PayResult(msgspec.Struct, frozen=True):
    """The answer to a `pay`. No payment: there is nothing to pay any more; the order says why."""

    payment: Payment | None
    order: Order


class Param(msgspec.Struct, frozen=True, kw_only=True):
    """One of a method's params: always text. `choices` or `pattern` (a full match) say what it may be."""

    name: str
    about: str = ""
    required: bool = False
    choices: list[str] = []
    pattern: str | None = None
    chars_max: int | None = None


class Method(msgspec.Struct, frozen=True, kw_only=True):
    """How a payer can meet a channel; `credential` is the type of what they are then given."""

    method: str
    credential: str
    about: str = ""
    params: list[Param] = []


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A payment platform of this installation, and what can be asked of it in `pay`."""

    channel: str
    methods: list[Method] = []


class EventData(msgspec.Struct, frozen=True):
    """What an event is about: an order, and the refund of it that `refund.*` speaks of."""

    object: Order
    refund: Refund | None = None


class Event(msgspec.Struct, frozen=True):
    """A verified webhook. `id` is the same on every delivery; ignore one whose `seq` is not above what you have seen.

    `type` is order.paid, order.closed, refund.succeeded, ...: a plain string, because new types come without a new
    client. One about a refund (refund.succeeded, refund.failed, refund.reversed) has it in `data.refund`.
    """

    id: str
    type: str
    created: datetime
    seq: int
    data: EventData
