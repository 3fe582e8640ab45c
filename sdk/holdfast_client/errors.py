"""The client's errors.

HoldfastError
├── Problem                the gateway answered: no
├── Unreachable            nobody answered in time: the outcome is unknown
├── BadSecret              the webhook secret is not `whsec_` and base64
└── WebhookRefused         this delivery is not to be believed
    ├── MissingHeader
    ├── StaleWebhook
    ├── BadSignature
    └── UnreadableWebhook
"""

import msgspec


class ProblemDocument(msgspec.Struct, frozen=True):
    """What an `application/problem+json` answer says (RFC 9457 and our members)."""

    title: str = ""
    detail: str = ""
    code: str = "unknown"
    param: str | None = None
    retryable: bool = False
    request_id: str | None = None
    order_id: str | None = None


class HoldfastError(Exception):
    """Something about the payment center went wrong."""


class Problem(HoldfastError):
    """The gateway refused; `code` says why, `param` names the field, `retryable` whether later may be better."""

    def __init__(self, status: int, document: ProblemDocument) -> None:
        super().__init__(f"{status} {document.code}: {document.detail or document.title}")
        self.status = status
        self.code = document.code
        self.param = document.param
        self.detail = document.detail
        self.retryable = document.retryable
        self.request_id = document.request_id
        self.order_id = document.order_id


class Unreachable(HoldfastError):
    """No usable answer before the deadline. Nothing is known: ask again with the same number, never assume a no."""

    def __init__(self, what: str, tries: int, reason: str) -> None:
        super().__init__(f"{what}: no answer after {tries} tries ({reason})")
        self.tries = tries
        self.reason = reason


class BadSecret(HoldfastError):
    """The webhook secret can't be used: it must be `whsec_` followed by base64."""


class WebhookRefused(HoldfastError):
    """This delivery is not to be believed; answer 400 and do nothing."""


class MissingHeader(WebhookRefused):
    """One of webhook-id, webhook-timestamp, webhook-signature is missing."""


class StaleWebhook(WebhookRefused):
    """The timestamp is not a number or more than five minutes off: a replay, or a clock is wrong."""


class BadSignature(WebhookRefused):
    """No signature of the delivery was made with this secret."""


class UnreadableWebhook(WebhookRefused):
    """Signed by the gateway, but not an event this client can read: update the client."""
