"""Messages that others made: the official SDK's test vectors, and every exchange of an independent client."""

import base64
import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from channels import signing
from channels.contract import (
    Accepted,
    ClosedAtChannel,
    NotFound,
    Paid,
    PaymentRequest,
    RejectReason,
    Response,
    Stamp,
)
from channels.errors import NotificationRejected
from channels.simulator import wechat
from channels.simulator.credentials import Merchant, PlatformCredentials
from channels.simulator.wechat import Incoming, Refusal
from channels.wechatpay import Credentials, WeChatPay

VECTORS = Path(__file__).parent / "vectors"
OFFICIAL = json.loads((VECTORS / "wechat_official_go_tests.json").read_bytes())
PEER = json.loads((VECTORS / "wechat_peer_wechatpayv3.json").read_bytes())
PEER_CLOCK_S = 1795362130
MODES = {"certificate": slice(0, 11), "public key": slice(11, 21)}
OWN_KEY = generate_private_key(public_exponent=65537, key_size=2048)


# --- the official SDK


def official_channel() -> WeChatPay:
    """A channel that holds the vector's certificate, and its key of 16 bytes, which real accounts do not have."""
    vector = OFFICIAL["notification"]
    certificate = signing.load_certificate(vector["platform_cert_pem"].encode(), "vector")
    keys = {certificate.serial: certificate.public_key}
    return WeChatPay(Credentials("1", "a", "S", OWN_KEY, vector["apiv3_key"].encode(), keys))


def official_rejection(now_s: int) -> RejectReason:
    vector = OFFICIAL["notification"]
    headers = {name.lower(): value for name, value in vector["headers"].items()}
    with pytest.raises(NotificationRejected) as caught:
        official_channel().notification(headers, vector["body"].encode(), now_s)
    return caught.value.reason


def test_the_official_notification_verifies_at_its_time_and_is_no_payment():
    assert official_rejection(OFFICIAL["notification"]["clock_unix"]) is RejectReason.OTHER_EVENT


def test_the_official_notification_is_stale_five_minutes_later():
    assert official_rejection(OFFICIAL["notification"]["clock_unix"] + 300) is RejectReason.STALE


def test_the_official_resource_opens_to_the_official_plaintext():
    vector = OFFICIAL["notification"]
    resource = json.loads(vector["body"])["resource"]
    nonce, data = resource["nonce"].encode(), resource["associated_data"].encode()
    plaintext = signing.open_seal(AESGCM(vector["apiv3_key"].encode()), nonce, data, resource["ciphertext"])
    assert plaintext == vector["expected_plaintext"].encode()


def test_the_official_signature_verifies():
    certificate = signing.load_certificate(OFFICIAL["notification"]["platform_cert_pem"].encode(), "vector")
    vector = OFFICIAL["signer"]
    assert signing.verify(certificate.public_key, vector["message"].encode(), vector["expected_signature_b64"])


# --- the independent client's exchanges, its channel's answers


def peer_channel(*, knows_certificate: bool = True) -> WeChatPay:
    certificate = signing.load_certificate(PEER["keys"]["wx_platform_cert.pem"].encode(), "vector")
    public = signing.load_public_key(PEER["keys"]["wx_pubkey_pub.pem"].encode(), "vector")
    keys = {PEER["public_key_id"]: public}
    if knows_certificate:
        keys[PEER["platform_serial"]] = certificate.public_key
    assert certificate.serial == PEER["platform_serial"]
    api_v3_key = PEER["apiv3_key"].encode()
    return WeChatPay(Credentials(PEER["mchid"], PEER["appid"], PEER["mch_serial"], OWN_KEY, api_v3_key, keys))


def exchange(mode: str, start: str) -> dict:
    return next(each for each in PEER["exchanges"][MODES[mode]] if each["request_line"].startswith(start))


def recorded(vector: dict) -> Response:
    headers = {name.lower(): value for name, value in vector["response_headers"]}
    return Response(vector["response_status"], headers, base64.b64decode(vector["response_body_b64"]))


def outcome(flow, *answers: Response):
    left = list(answers)
    try:
        next(flow)
        while True:
            flow.send(left.pop(0))
    except StopIteration as stop:
        return stop.value


STAMP = Stamp(PEER_CLOCK_S, "n" * 32)
REQUEST = PaymentRequest("ORD20261121000001", "native", 100, "CNY", "x", "https://e.com/n", PEER_CLOCK_S + 600)
TRADE = "/v3/pay/transactions/out-trade-no"


@pytest.mark.parametrize("mode", MODES)
def test_recorded_answers_mean_what_they_say(mode):
    channel = peer_channel()
    prepaid = outcome(channel.pay(REQUEST, STAMP), recorded(exchange(mode, "POST /v3/pay/transactions/native")))
    assert isinstance(prepaid, Accepted)
    assert prepaid.credential.value == "weixin://wxpay/bizpayurl?pr=p4lpSuKzz"
    paid = outcome(channel.query("ORD20261121000001", STAMP), recorded(exchange(mode, f"GET {TRADE}/ORD")))
    assert isinstance(paid, Paid)
    assert (paid.payment.amount, paid.payment.account) == (100, channel.account)
    assert outcome(channel.query("x", STAMP), recorded(exchange(mode, f"GET {TRADE}/NOTEXIST"))) == NotFound()
    assert outcome(channel.close("x", STAMP), recorded(exchange(mode, f"POST {TRADE}/"))) == ClosedAtChannel()


def test_the_recorded_certificate_list_is_learned_and_then_used():
    channel = peer_channel(knows_certificate=False)
    certificates = recorded(exchange("certificate", "GET /v3/certificates"))
    answer = recorded(exchange("certificate", f"GET {TRADE}/ORD"))
    assert isinstance(outcome(channel.query("ORD20261121000001", STAMP), answer, certificates), Paid)


# --- the independent client's exchanges, its requests


def platform() -> PlatformCredentials:
    certificate = signing.load_certificate(PEER["keys"]["wx_mch_cert.pem"].encode(), "vector")
    seal_key = AESGCM(PEER["apiv3_key"].encode())
    merchant = Merchant("peer", PEER["mchid"], PEER["appid"], PEER["mch_serial"], certificate.public_key, seal_key)
    return PlatformCredentials(PEER["public_key_id"], OWN_KEY, (), {merchant.mchid: merchant})


def incoming(vector: dict) -> Incoming:
    method, target, _ = vector["request_line"].split(" ")
    raw = base64.b64decode(vector["request_raw_b64"])
    headers = {name.lower(): value for name, value in vector["request_headers"]}
    return Incoming(method, target, headers, raw.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("vector", PEER["exchanges"], ids=lambda each: urlsplit(each["request_line"].split()[1]).path)
def test_the_simulator_believes_the_recorded_requests_byte_for_byte(vector):
    request = incoming(vector)
    stamped_s = int(request.headers["authorization"].partition('timestamp="')[2][:10])
    assert wechat.authenticate(platform(), request, stamped_s).mchid == PEER["mchid"]
    forged = Incoming(request.method, request.target, request.headers, request.body + b" ")
    with pytest.raises(Refusal, match=f"401 SIGN_ERROR: {wechat.BAD_SIGNATURE}"):
        wechat.authenticate(platform(), forged, stamped_s)
    with pytest.raises(Refusal, match="timestamp"):
        wechat.authenticate(platform(), request, stamped_s + 300)
