"""Everything an order can be told.

Each event carries the time it happened (`at_ms`, unix milliseconds, the database's clock) and the facts the decision
needs; the core asks nobody. `number` is the attempt an event speaks of.
"""

from enum import StrEnum
from typing import TypeAlias

import msgspec


class Source(StrEnum):
    """How we learned what a channel knows."""

    NOTIFICATION = "notification"
    QUERY = "query"


class Verb(StrEnum):
    """What we asked a channel to do."""

    SUBMIT = "submit"
    QUERY = "query"
    CLOSE = "close"


class RefundWord(StrEnum):
    """What a channel says of a refund."""

    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABNORMAL = "abnormal"


class CaseAction(StrEnum):
    """What people do about a case: ask or send again, take the money as it is, give it back, or leave it at that."""

    RETRY = "retry"
    ACCEPT = "accept"
    REFUND = "refund"
    CLOSE = "close"


class CredentialType(StrEnum):
    """What the payer is given. NONE: they have shown a code of theirs, and the channel asks them."""

    QR = "qr"
    URL = "url"
    FORM = "form"
    PARAMS = "params"
    NONE = "none"


class Credential(msgspec.Struct, frozen=True, gc=False):
    """What the payer needs to pay; `value` is text, JSON text for FORM and PARAMS.

    After `expires_at_ms` a channel that does not know the attempt never will.
    """

    type: CredentialType
    value: str
    expires_at_ms: int


class PayRequested(msgspec.Struct, frozen=True):
    """The app wants the payer to pay through this channel and method.

    `in_flight` holds the attempts whose submission is running in this process right now: one found `submitting` that is
    not among them was interrupted, and is asked after before anything is sent again. `tried_to_close` holds those that
    this request has had closed already, to make room: one that came back is not to be closed once more for its sake.
    `renewable`: the channel gives a fresh credential under the same number when the old one has expired.
    """

    at_ms: int
    channel: str
    account: str
    method: str
    params_json: str | None = None
    in_flight: frozenset[int] = frozenset()
    tried_to_close: frozenset[int] = frozenset()
    renewable: bool = True


class SubmitAccepted(msgspec.Struct, frozen=True):
    """The channel made the attempt payable."""

    at_ms: int
    number: int
    credential: Credential


class SubmitRefused(msgspec.Struct, frozen=True):
    """The channel said a definite no to this submission."""

    at_ms: int
    number: int
    code: str
    message: str


class OutcomeUnknown(msgspec.Struct, frozen=True):
    """Nobody knows what became of a request."""

    at_ms: int
    number: int
    verb: Verb
    reason: str


class PaymentReported(msgspec.Struct, frozen=True):
    """The channel states, verified, that an attempt was paid. `account` is whom it says it paid."""

    at_ms: int
    number: int
    source: Source
    channel: str
    account: str
    transaction: str
    amount: int
    currency: str
    success_at_ms: int
    evidence: str = ""


class ReportedNotPaid(msgspec.Struct, frozen=True):
    """The channel knows the attempt; it can still be paid. `contested`: and said the opposite a moment ago."""

    at_ms: int
    number: int
    contested: bool = False


class ReportedNotFound(msgspec.Struct, frozen=True):
    """The channel does not know the attempt: not a no, a request may still be on its way."""

    at_ms: int
    number: int


class ReportedDebited(msgspec.Struct, frozen=True):
    """The channel speaks of a debit that is no payment to us, or not yet."""

    at_ms: int
    number: int
    reason: str


class ReportedClosed(msgspec.Struct, frozen=True):
    """The channel says that the attempt can not be paid any more."""

    at_ms: int
    number: int


class ReportedNotClosable(msgspec.Struct, frozen=True):
    """The channel can not end the attempt; it ends by itself when the expiry that it was given has come."""

    at_ms: int
    number: int


class ReportedAlreadyPaid(msgspec.Struct, frozen=True):
    """The channel refused a close or a submission because the attempt is paid; the facts are still to be asked for."""

    at_ms: int
    number: int


class CloseRequested(msgspec.Struct, frozen=True):
    """The app wants nobody to be able to pay any more."""

    at_ms: int


class SyncRequested(msgspec.Struct, frozen=True):
    """Somebody wants the channel to be asked now."""

    at_ms: int


class Due(msgspec.Struct, frozen=True):
    """The order's `next_check_at` has come. A stale timer tells it too early; that changes nothing.

    The sweep claims a due order by pushing its `next_check_at` ahead, so it says which version it claimed instead: if
    the order has moved on since, it was looked after.
    """

    at_ms: int
    claimed_version: int | None = None


class RefundRequested(msgspec.Struct, frozen=True):
    """The app wants money of a paid order given back; `out_refund_no` is its own number for that."""

    at_ms: int
    out_refund_no: str
    amount: int
    reason: str = ""


class RefundReported(msgspec.Struct, frozen=True):
    """The channel states, verified, where a refund is. `amount` is None where it does not say."""

    at_ms: int
    refund_id: str
    source: Source
    channel: str
    account: str
    word: RefundWord
    amount: int | None = None
    channel_refund: str | None = None
    success_at_ms: int | None = None
    detail: str = ""
    evidence: str = ""


class RefundRefused(msgspec.Struct, frozen=True):
    """The channel said a definite no to this sending of a refund."""

    at_ms: int
    refund_id: str
    code: str
    message: str


class RefundNotFound(msgspec.Struct, frozen=True):
    """The channel does not know the refund: not a no, it is sent again under its number."""

    at_ms: int
    refund_id: str


class RefundOutcomeUnknown(msgspec.Struct, frozen=True):
    """Nobody knows what became of a refund's sending."""

    at_ms: int
    refund_id: str
    reason: str


class RefundsDue(msgspec.Struct, frozen=True):
    """The moment of an order's refunds has come; `claimed` names those that the sweep claimed at `claimed_version`."""

    at_ms: int
    claimed: tuple[str, ...] = ()
    claimed_version: int | None = None


class CaseResolved(msgspec.Struct, frozen=True):
    """People settle the case that was opened with `version`, for `reason`. `by` is who, `note` is why.

    `seen` is the order's version at which the case was found open: two who decide about it at once can not both win.
    """

    at_ms: int
    version: int
    reason: str
    action: CaseAction
    by: str
    note: str
    seen: int | None = None


Event: TypeAlias = (
    PayRequested
    | SubmitAccepted
    | SubmitRefused
    | OutcomeUnknown
    | PaymentReported
    | ReportedNotPaid
    | ReportedNotFound
    | ReportedDebited
    | ReportedClosed
    | ReportedNotClosable
    | ReportedAlreadyPaid
    | CloseRequested
    | SyncRequested
    | Due
    | RefundRequested
    | RefundReported
    | RefundRefused
    | RefundNotFound
    | RefundOutcomeUnknown
    | RefundsDue
    | CaseResolved
)
