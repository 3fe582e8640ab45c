"""Webhook signatures, checked by the Standard Webhooks reference package."""

import base64
import time

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from gateway.webhooks.signing import headers_of

SECRET = bytes(range(32))
OTHER = bytes(range(32, 64))
BODY = '{"id":"evt_1","type":"order.paid","subject":"咖啡"}'.encode()


def receiver(secret: bytes) -> Webhook:
    return Webhook("whsec_" + base64.b64encode(secret).decode())


def test_the_reference_package_verifies_our_signature() -> None:
    headers = headers_of([SECRET], "evt_1", int(time.time()), BODY)
    assert receiver(SECRET).verify(BODY, headers)["id"] == "evt_1"


def test_while_a_secret_rotates_receivers_of_either_verify() -> None:
    headers = headers_of([OTHER, SECRET], "evt_1", int(time.time()), BODY)
    assert len(headers["webhook-signature"].split(" ")) == 2
    assert receiver(SECRET).verify(BODY, headers)
    assert receiver(OTHER).verify(BODY, headers)


@pytest.mark.parametrize("changed", ["body", "id", "timestamp", "secret"])
def test_nothing_that_is_signed_can_be_changed(changed: str) -> None:
    now_s = int(time.time())
    headers = headers_of([SECRET], "evt_1", now_s, BODY)
    headers |= {"id": {"webhook-id": "evt_2"}, "timestamp": {"webhook-timestamp": str(now_s + 1)}}.get(changed, {})
    body = BODY + b" " if changed == "body" else BODY
    with pytest.raises(WebhookVerificationError):
        receiver(OTHER if changed == "secret" else SECRET).verify(body, headers)


def test_the_signature_is_the_one_of_the_specification() -> None:
    """The example of the Standard Webhooks specification's own test suites."""
    headers = headers_of(
        [base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")],
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
