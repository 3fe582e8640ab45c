"""Client of the Holdfast payment center: create orders, let them be paid, believe only verified webhooks."""

from holdfast_client.client import Holdfast
from holdfast_client.errors import (
    BadSecret,
    BadSignature,
    HoldfastError,
    MissingHeader,
    Problem,
    StaleWebhook,
    Unreachable,
    UnreadableWebhook,
    WebhookRefused,
)
from holdfast_client.pages import form_page
from holdfast_client.retry import Retry
from holdfast_client.schema import (
    Attempt,
    AttemptState,
    Channel,
    Credential,
    Event,
    Failure,
    Method,
    Order,
    OrderState,
    Param,
    Payment,
    PayResult,
    Refund,
    RefundState,
)
from holdfast_client.webhooks import sign_webhook, verify_webhook

__all__ = [
    "Attempt",
    "AttemptState",
    "BadSecret",
    "BadSignature",
    "Channel",
    "Credential",
    "Event",
    "Failure",
    "Holdfast",
    "HoldfastError",
    "Method",
    "MissingHeader",
    "Order",
    "OrderState",
    "Param",
    "PayResult",
    "Payment",
    "Problem",
    "Refund",
    "RefundState",
    "Retry",
    "StaleWebhook",
    "Unreachable",
    "UnreadableWebhook",
    "WebhookRefused",
    "form_page",
    "sign_webhook",
    "verify_webhook",
]
