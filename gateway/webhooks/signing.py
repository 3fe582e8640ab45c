"""Standard Webhooks signatures: HMAC-SHA256 over `id.timestamp.body`, one for each secret in use.

Source: the Standard Webhooks specification 1.0, "Signature scheme".
"""

import base64
import hmac
from collections.abc import Iterable


def signature_of(secrets: Iterable[bytes], webhook_id: str, timestamp_s: int, body: bytes) -> str:
    """The header `webhook-signature`: `v1,<base64>`, several, separated by spaces, while a secret rotates."""
    content = f"{webhook_id}.{timestamp_s}.".encode() + body
    digests = (hmac.digest(secret, content, "sha256") for secret in secrets)
    return " ".join("v1," + base64.b64encode(digest).decode() for digest in digests)


def headers_of(secrets: Iterable[bytes], webhook_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """All headers of one try. The id is the same at every try, the timestamp is of this one."""
    return {
        "content-type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": signature_of(secrets, webhook_id, timestamp_s, body),
    }
