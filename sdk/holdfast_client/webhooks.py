"""Webhooks are believed only after this: Standard Webhooks signatures over the exact bytes received."""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping

import msgspec

from holdfast_client.errors import BadSecret, BadSignature, MissingHeader, StaleWebhook, UnreadableWebhook
from holdfast_client.schema import Event

TOLERANCE_S = 300  # the specification's five minutes, in both directions


def verify_webhook(secret: str, headers: Mapping[str, str], body: bytes, now: float | None = None) -> Event:
    """Check a delivery and read it.

    Args:
        secret: the `whsec_...` secret of the app.
        headers: the request's headers, any case.
        body: the raw body; parsed and dumped again it would not verify.
        now: unix seconds; the machine's clock if left out.

    Raises:
        WebhookRefused: it is not to be believed (see the subclasses); answer 400.
        BadSecret: the secret itself can't be used.
    """
    webhook_id, timestamp, signatures = _required(headers)
    _check_time(timestamp, time.time() if now is None else now)
    expected = sign_webhook(secret, webhook_id, timestamp, body).encode()
    # The header carries one signature per secret while secrets rotate.
    if not any(hmac.compare_digest(expected, _bytes(given)) for given in signatures.split()):
        raise BadSignature("no signature matches")
    try:
        return msgspec.json.decode(body, type=Event)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableWebhook(str(error)) from error


def sign_webhook(secret: str, webhook_id: str, timestamp: str, body: bytes) -> str:
    """The signature header's value for one secret: `v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`."""
    signed = b".".join((_bytes(webhook_id), _bytes(timestamp), body))
    return "v1," + base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)).decode()


def _bytes(header: str) -> bytes:
    """A header's bytes; servers hand undecodable ones over as lone surrogates, which must not crash the check."""
    return header.encode("utf-8", "surrogateescape")


def _key(secret: str) -> bytes:
    text = secret.removeprefix("whsec_")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadSecret("not base64") from error
    if not key:
        raise BadSecret("empty")  # HMAC takes an empty key, and then anybody can sign
    return key


def _required(headers: Mapping[str, str]) -> tuple[str, str, str]:
    lower = {name.lower(): value for name, value in headers.items()}
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    for name in names:
        if not lower.get(name):
            raise MissingHeader(name)
    return lower[names[0]], lower[names[1]], lower[names[2]]


def _check_time(timestamp: str, now: float) -> None:
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise StaleWebhook("webhook-timestamp is not a number of seconds")
    age_s = now - int(timestamp)
    if abs(age_s) > TOLERANCE_S:
        raise StaleWebhook(f"{age_s:.0f} s old, at most {TOLERANCE_S} s either way")
