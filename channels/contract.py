"""What every payment channel speaks: plain values in, flows of requests out.

A verb (`pay`, `query`, `close`, `refund`, `query_refund`, `statement`) is a generator: it yields `Request`s and is
sent `Response`s, or has `NoAnswer` thrown into it, and returns an outcome. It does no I/O, reads no clock and draws no
number: the time and a fresh nonce arrive in a `Stamp`. `gateway/transport.py` drives flows over HTTP; a test drives
them with plain values.

Outcomes are *yes*, *definite no* (a whitelist of codes per channel, each with its source) or `Unknown`. Anything not
understood is `Unknown`, never a no.
"""

from collections.abc import Generator, Iterator, Mapping
from enum import StrEnum
from typing import Protocol, TypeAlias, TypeVar

import msgspec

T = TypeVar("T")

ANSWER_BYTES_MAX = 1_000_000  # the longest real answer is a few kB; only statements are longer, and say so


class Request(msgspec.Struct, frozen=True):
    """One HTTP request of a flow. `target` is the exact path and query that was signed; it must go out unchanged.

    `origin` is scheme, host and port where they differ from the channel's base address (statements stand elsewhere);
    `answer_bytes_max` is how much of an answer is read before it counts as none.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""
    origin: str = ""
    answer_bytes_max: int = ANSWER_BYTES_MAX


class Response(msgspec.Struct, frozen=True):
    """The channel's answer. Header names are lower case; `body` is the exact bytes received."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Flow: TypeAlias = Generator[Request, Response, T]


class Stamp(msgspec.Struct, frozen=True):
    """What a flow may not find out by itself: the time (unix seconds) and a fresh random nonce of 32 characters."""

    now_s: int
    nonce: str


# --- what can be asked ------------------------------------------------------------------------------------------------


class CredentialType(StrEnum):
    """What the payer is given: a QR code's content, an address to open, a form to submit, parameters for the platform's
    own front-end call, or nothing (the payer has shown a code and the channel asks them)."""

    QR = "qr"
    URL = "url"
    FORM = "form"
    PARAMS = "params"
    NONE = "none"


class Param(msgspec.Struct, frozen=True):
    """One of a method's `params`: always text. `choices` or `pattern` (a full match) say what it may be."""

    name: str
    about: str
    required: bool = False
    choices: tuple[str, ...] = ()
    pattern: str = ""
    chars_max: int = 128


class Method(msgspec.Struct, frozen=True):
    """How a payer can meet a channel, and what an app must or may say with it.

    `renewable`: the same attempt, sent again when its credential has expired, is given a fresh one.
    """

    name: str
    about: str
    credential: CredentialType
    params: tuple[Param, ...] = ()
    renewable: bool = False


class AttemptKey(msgspec.Struct, frozen=True):
    """What names an attempt at a channel.

    `started_at_s` is when the attempt was first made durable and never changes, however often it is sent: UnionPay
    knows an order by its number *and* that time. `expires_at_s` is the expiry that the channel was given.
    """

    out_trade_no: str
    method: str
    started_at_s: int
    expires_at_s: int


class PaymentRequest(msgspec.Struct, frozen=True):
    """What a channel needs to know to let somebody pay. `amount` is in minor units (fen)."""

    attempt: AttemptKey
    amount: int
    currency: str
    subject: str
    notify_url: str
    return_url: str = ""
    params: Mapping[str, str] = {}


class RefundKey(msgspec.Struct, frozen=True):
    """What names a refund at a channel; `started_at_s` as in `AttemptKey`, of the refund itself.

    `refund_no` is 8 to 32 letters and digits, and never used for anything else at this channel.
    """

    refund_no: str
    started_at_s: int
    out_trade_no: str
    channel_transaction: str


class RefundRequest(msgspec.Struct, frozen=True):
    """Money to be given back: `amount` of the `total` that was paid, in minor units."""

    refund: RefundKey
    amount: int
    total: int
    currency: str
    reason: str
    notify_url: str


# --- what a channel states --------------------------------------------------------------------------------------------


class Credential(msgspec.Struct, frozen=True):
    """What the payer needs, until `expires_at_s`: after it, a channel that does not know the attempt never will.

    `value` is the QR code's content, the URL, or JSON text: `{"action": ..., "charset": ..., "fields": {...}}` of a
    form to POST, or the object of parameters. Empty for NONE.
    """

    type: CredentialType
    value: str
    expires_at_s: int


class ChannelPayment(msgspec.Struct, frozen=True):
    """A payment as the channel states it, after its signature was verified and its content decrypted.

    `account` is the merchant account the channel names (its mchid, app id, merId), not the one we expected:
    whoever credits must compare it, the amount and the currency.
    """

    channel: str
    account: str
    out_trade_no: str
    channel_transaction: str
    amount: int
    currency: str
    success_at_s: int


class RefundState(StrEnum):
    """Where a refund is at its channel. ABNORMAL: it stands still until a person at the platform helps; not a no."""

    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABNORMAL = "abnormal"


class ChannelRefund(msgspec.Struct, frozen=True):
    """A refund as the channel states it, verified. What a channel leaves out in that place is None."""

    channel: str
    account: str
    refund_no: str
    state: RefundState
    out_trade_no: str | None = None
    channel_refund: str | None = None
    amount: int | None = None
    currency: str = "CNY"
    success_at_s: int | None = None
    detail: str = ""


class RowKind(StrEnum):
    """What a line of a statement is about. A void counts as a refund."""

    PAYMENT = "payment"
    REFUND = "refund"


class StatementRow(msgspec.Struct, frozen=True):
    """One line of a channel's daily list: money that moved. `amount` is positive, in minor units."""

    kind: RowKind
    out_trade_no: str
    channel_transaction: str
    amount: int
    currency: str = "CNY"
    refund_no: str | None = None
    channel_refund: str | None = None
    fee: int | None = None
    at_s: int | None = None


# --- outcomes -------------------------------------------------------------------------------------------------------


class Accepted(msgspec.Struct, frozen=True):
    """pay: the channel took the request; nobody has paid yet."""

    credential: Credential


class Refused(msgspec.Struct, frozen=True):
    """pay: a definite no to this submission, by a whitelisted code: it gave nobody anything to pay with.

    refund: a definite no; nothing was moved and nothing will be under this number. The code `too_late`: because it was
    not sent in the time in which the channel would have taken it; under a fresh number it can be.
    """

    code: str
    message: str


class Paid(msgspec.Struct, frozen=True):
    """query: the money is there."""

    payment: ChannelPayment


class NotPaid(msgspec.Struct, frozen=True):
    """query: the channel knows the attempt and it can still be paid."""


class NotFound(msgspec.Struct, frozen=True):
    """query, close, query_refund: the channel does not know it (yet). Not a no: a request may still be on its way, and
    at some channels nothing exists before the payer opens what they were given."""


class Debited(msgspec.Struct, frozen=True):
    """query: the channel speaks of a debit that is no payment to us, or not yet: never a no, and nothing to credit."""

    reason: str


class ClosedAtChannel(msgspec.Struct, frozen=True):
    """query, close: it can not be paid any more, by the channel's own word."""


class NotClosable(msgspec.Struct, frozen=True):
    """close: this channel can not end it; it ends by itself at the expiry that the channel was given."""


class AlreadyPaid(msgspec.Struct, frozen=True):
    """pay, close: the channel says that it was paid. Query for the facts."""


class RefundKnown(msgspec.Struct, frozen=True):
    """refund, query_refund: the channel has the refund; `refund.state` says how far it is."""

    refund: ChannelRefund


class StatementFile(msgspec.Struct, frozen=True):
    """statement: the day's list, verified as far as the channel lets us, decompressed. `statement_rows` reads it."""

    day: str
    content: bytes


class NoStatement(msgspec.Struct, frozen=True):
    """statement: the channel says that there is none for this day, for good."""


class StatementNotReady(msgspec.Struct, frozen=True):
    """statement: not made yet; ask again later."""


class Unknown(msgspec.Struct, frozen=True):
    """Nobody knows: silence, a 5xx, an unverifiable answer, a code not on the list. Ask again, never conclude."""

    reason: str


PayOutcome: TypeAlias = Accepted | Refused | AlreadyPaid | Unknown
QueryOutcome: TypeAlias = Paid | NotPaid | NotFound | Debited | ClosedAtChannel | Unknown
CloseOutcome: TypeAlias = ClosedAtChannel | AlreadyPaid | NotFound | NotClosable | Unknown
RefundOutcome: TypeAlias = RefundKnown | Refused | Unknown
RefundQueryOutcome: TypeAlias = RefundKnown | NotFound | Unknown
StatementOutcome: TypeAlias = StatementFile | NoStatement | StatementNotReady | Unknown
Notified: TypeAlias = ChannelPayment | ChannelRefund


# --- notifications --------------------------------------------------------------------------------------------------


class Acknowledgement(msgspec.Struct, frozen=True):
    """The exact answer the channel wants to its notification."""

    status: int
    content_type: str
    body: bytes


class RejectReason(StrEnum):
    """Why a notification is not believed; but OTHER_EVENT is: verified, and nothing we act on. It is acknowledged."""

    MALFORMED = "malformed"
    BAD_SIGNATURE = "bad_signature"
    SIGNATURE_PROBE = "signature_probe"
    UNKNOWN_KEY = "unknown_key"
    STALE = "stale"
    UNREADABLE = "unreadable"
    OTHER_EVENT = "other_event"


# --- the channel ----------------------------------------------------------------------------------------------------


class Channel(Protocol):
    """One payment channel with one merchant account. Implementations are values built once, at start."""

    @property
    def name(self) -> str:
        """The channel's name in our API: wechatpay, alipay, unionpay."""

    @property
    def account(self) -> str:
        """The merchant account, as `ChannelPayment.account` names it when the money is ours."""

    @property
    def methods(self) -> Mapping[str, Method]:
        """How the payer can meet it, by name: native, jsapi, ..."""

    def pay(self, request: PaymentRequest, stamp: Stamp) -> Flow[PayOutcome]:
        """Make the attempt payable. Safe to run again with the same request: same number, same parameters."""

    def query(self, attempt: AttemptKey, stamp: Stamp) -> Flow[QueryOutcome]:
        """Ask what became of an attempt."""

    def close(self, attempt: AttemptKey, stamp: Stamp) -> Flow[CloseOutcome]:
        """End an unpaid attempt."""

    def refund(self, request: RefundRequest, stamp: Stamp) -> Flow[RefundOutcome]:
        """Give money back. Safe to run again with the same request: same number, same amount."""

    def query_refund(self, refund: RefundKey, stamp: Stamp) -> Flow[RefundQueryOutcome]:
        """Ask what became of a refund."""

    def notification(self, headers: Mapping[str, str], body: bytes, now_s: int) -> Notified:
        """Verify and read a notification (lower-case header names, raw body).

        Raises:
            NotificationRejected: it is not believed; `.reason` says why. Nothing in it may be used.
        """

    def acknowledge(self) -> Acknowledgement:
        """'We have it, stop sending', in the channel's words."""

    def refuse(self, reason: str) -> Acknowledgement:
        """'We do not have it, send it again', in the channel's words."""

    def statement(self, day: str, stamp: Stamp) -> Flow[StatementOutcome]:
        """Fetch the list of a day (`YYYY-MM-DD`, the channel's own calendar)."""

    def statement_rows(self, file: StatementFile) -> Iterator[StatementRow]:
        """Read it, line by line; long: off the loop.

        Raises:
            StatementUnreadable: naming the line.
        """

    def refresh_keys(self, stamp: Stamp) -> Flow[bool]:
        """Fetch the channel's current verification keys; true if they were learned."""
