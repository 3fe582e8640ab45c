"""What every payment channel speaks: plain values in, flows of requests out.

A verb (`pay`, `query`, `close`) is a generator: it yields `Request`s and is sent `Response`s, or has `NoAnswer` thrown
into it, and returns an outcome. It does no I/O, reads no clock and draws no number: the time and a fresh nonce arrive
in a `Stamp`. `gateway/transport.py` drives flows over HTTP; a test drives them with plain values.

Outcomes are *yes*, *definite no* (a whitelist of codes per channel, each with its source) or `Unknown`. Anything not
understood is `Unknown`, never a no.
"""

from collections.abc import Generator, Mapping
from enum import StrEnum
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec

T = TypeVar("T")


class Request(msgspec.Struct, frozen=True):
    """One HTTP request of a flow. `target` is the exact path and query that was signed; it must go out unchanged."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""


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


class PaymentRequest(msgspec.Struct, frozen=True):
    """What a channel needs to know to let somebody pay. `amount` is in minor units (fen)."""

    out_trade_no: str
    method: str
    amount: int
    currency: str
    subject: str
    notify_url: str
    expires_at_s: int
    params: Mapping[str, Any] = {}


class Credential(msgspec.Struct, frozen=True):
    """What the payer needs: `type` is qr, url, form or params; `value` the QR content, the URL, ..."""

    type: str
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


# --- outcomes -------------------------------------------------------------------------------------------------------


class Accepted(msgspec.Struct, frozen=True):
    """pay: the channel took the request; nobody has paid yet."""

    credential: Credential


class Refused(msgspec.Struct, frozen=True):
    """pay: a definite no, by a whitelisted code. Nothing exists at the channel that could be paid."""

    code: str
    message: str


class Paid(msgspec.Struct, frozen=True):
    """query: the money is there."""

    payment: ChannelPayment


class NotPaid(msgspec.Struct, frozen=True):
    """query: the channel knows the attempt and it can still be paid."""


class NotFound(msgspec.Struct, frozen=True):
    """query, close: the channel does not know the attempt (yet). Not a no: a request may still be on its way."""


class ClosedAtChannel(msgspec.Struct, frozen=True):
    """query, close: it can not be paid any more, by the channel's own word."""


class AlreadyPaid(msgspec.Struct, frozen=True):
    """close: the channel refuses because it was paid. Query for the facts."""


class Unknown(msgspec.Struct, frozen=True):
    """Nobody knows: silence, a 5xx, an unverifiable answer, a code not on the list. Ask again, never conclude."""

    reason: str


PayOutcome: TypeAlias = Accepted | Refused | AlreadyPaid | Unknown
QueryOutcome: TypeAlias = Paid | NotPaid | NotFound | ClosedAtChannel | Unknown
CloseOutcome: TypeAlias = ClosedAtChannel | AlreadyPaid | NotFound | Unknown


# --- notifications --------------------------------------------------------------------------------------------------


class Acknowledgement(msgspec.Struct, frozen=True):
    """The exact answer the channel wants to its notification."""

    status: int
    content_type: str
    body: bytes


class RejectReason(StrEnum):
    """Why a notification is not believed."""

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
    def methods(self) -> frozenset[str]:
        """How the payer can meet it: native, jsapi, ..."""

    def pay(self, request: PaymentRequest, stamp: Stamp) -> Flow[PayOutcome]:
        """Make the attempt payable. Safe to run again with the same request: same number, same parameters."""

    def query(self, out_trade_no: str, stamp: Stamp) -> Flow[QueryOutcome]:
        """Ask what became of an attempt."""

    def close(self, out_trade_no: str, stamp: Stamp) -> Flow[CloseOutcome]:
        """End an unpaid attempt."""

    def notification(self, headers: Mapping[str, str], body: bytes, now_s: int) -> ChannelPayment:
        """Verify and read a notification (lower-case header names, raw body).

        Raises:
            NotificationRejected: it is not believed; `.reason` says why. Nothing in it may be used.
        """

    def acknowledge(self) -> Acknowledgement:
        """'We have it, stop sending', in the channel's words."""

    def refuse(self, reason: str) -> Acknowledgement:
        """'We do not have it, send it again', in the channel's words."""

    def refresh_keys(self, stamp: Stamp) -> Flow[bool]:
        """Fetch the channel's current verification keys; true if they were learned."""
