"""Messages that others made: the official SDK's test vectors, and every exchange of an independent client."""

import base64
import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from channels import signing
from channels.contract import (
    Accepted,
    AttemptKey,
    ClosedAtChannel,
    NotFound,
    Paid,
    PaymentRequest,
    RefundKey,
    RefundKnown,
    RefundRequest,
    RefundState,
    RejectReason,
    Response,
    RowKind,
    Stamp,
    StatementFile,
    Unknown,
)
from channels.errors import NotificationRejected
from channels.simulator import wechat_requests
from channels.simulator.platform import Incoming, Refusal
from channels.simulator.wechat_keys import Merchant, PlatformKeys
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
NUMBER = "ORD20261121000001"
TRADE = "/v3/pay/transactions/out-trade-no"
REFUNDS = "/v3/refund/domestic/refunds"
DAY = "2026-11-21"
REFUND_KEY = RefundKey("RF20261121000001", PEER_CLOCK_S, NUMBER, "4200000000202611210000000001")
REFUND = RefundRequest(REFUND_KEY, 30, 100, "CNY", "商品已售完", "https://e.com/n")
PARAMS = {"jsapi": {"openid": "o"}, "h5": {"payer_client_ip": "1.2.3.4", "type": "Wap"}}


def attempt(method: str = "native", number: str = NUMBER) -> AttemptKey:
    return AttemptKey(number, method, PEER_CLOCK_S, PEER_CLOCK_S + 200)


def prepay(method: str) -> PaymentRequest:
    return PaymentRequest(attempt(method), 100, "CNY", "x", "https://e.com/n", params=PARAMS.get(method, {}))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("native", "weixin://wxpay/bizpayurl?pr=p4lpSuKzz"),
        ("jsapi", '"package":"prepay_id=wx201410272009395522657a690389285100"'),
        ("h5", "https://wx.tenpay.com/cgi-bin/mmpayweb-bin/checkmweb?prepay_id=wx2016121516420242444321ca0631331346"),
    ],
)
def test_recorded_prepays_give_what_the_payer_needs(mode, method, given):
    answer = recorded(exchange(mode, f"POST /v3/pay/transactions/{method} "))
    prepaid = outcome(peer_channel().pay(prepay(method), STAMP), answer)
    assert isinstance(prepaid, Accepted)
    assert given in prepaid.credential.value
    assert prepaid.credential.expires_at_s == PEER_CLOCK_S + 200


@pytest.mark.parametrize("mode", MODES)
def test_recorded_answers_mean_what_they_say(mode):
    channel = peer_channel()
    paid = outcome(channel.query(attempt(), STAMP), recorded(exchange(mode, f"GET {TRADE}/ORD")))
    assert isinstance(paid, Paid)
    assert (paid.payment.amount, paid.payment.account) == (100, channel.account)
    assert outcome(channel.query(attempt(), STAMP), recorded(exchange(mode, f"GET {TRADE}/NOTEXIST"))) == NotFound()
    assert outcome(channel.close(attempt(), STAMP), recorded(exchange(mode, f"POST {TRADE}/"))) == ClosedAtChannel()


@pytest.mark.parametrize("mode", MODES)
def test_recorded_refunds_are_under_way(mode):
    channel = peer_channel()
    known = outcome(channel.refund(REFUND, STAMP), recorded(exchange(mode, f"POST {REFUNDS}")))
    assert isinstance(known, RefundKnown)
    refund = known.refund
    assert (refund.state, refund.amount, refund.account) == (RefundState.PROCESSING, 30, channel.account)
    assert outcome(channel.query_refund(REFUND_KEY, STAMP), recorded(exchange(mode, f"GET {REFUNDS}/RF"))) == known


@pytest.mark.parametrize("mode", MODES)
def test_the_recorded_statement_has_the_hash_that_was_signed_and_is_read(mode):
    channel = peer_channel()
    link, file = exchange(mode, "GET /v3/bill/tradebill"), exchange(mode, "GET /v3/billdownload/file")
    statement = outcome(channel.statement(DAY, STAMP), recorded(link), recorded(file))
    assert isinstance(statement, StatementFile)
    [row] = channel.statement_rows(statement)
    assert (row.kind, row.out_trade_no, row.amount, row.fee) == (RowKind.PAYMENT, NUMBER, 100, 1)
    forged = recorded(file)
    forged = msgspec.structs.replace(forged, body=gzip.compress(gzip.decompress(forged.body).replace(b"1.00", b"9.00")))
    assert isinstance(outcome(channel.statement(DAY, STAMP), recorded(link), forged), Unknown)


def test_the_recorded_certificate_list_is_learned_and_then_used():
    channel = peer_channel(knows_certificate=False)
    certificates = recorded(exchange("certificate", "GET /v3/certificates"))
    answer = recorded(exchange("certificate", f"GET {TRADE}/ORD"))
    assert isinstance(outcome(channel.query(attempt(), STAMP), answer, certificates), Paid)


SIGNED = [
    each for each in PEER["exchanges"] if any(name == "Wechatpay-Signature" for name, _ in each["response_headers"])
]


@pytest.mark.parametrize("vector", SIGNED, ids=lambda each: each["request_line"].split()[1].partition("?")[0])
@pytest.mark.parametrize(
    "forgery", ["none", "body", "signature", "nonce", "timestamp", "serial", "age", "no signature"]
)
def test_every_recorded_signature_verifies_and_every_forged_one_is_refused(vector, forgery):
    answer, now_s = recorded(vector), PEER_CLOCK_S
    headers, body = dict(answer.headers), answer.body
    match forgery:
        case "body":
            body += b" "
        case "signature":
            headers["wechatpay-signature"] = base64.b64encode(bytes(256)).decode()
        case "nonce" | "timestamp":
            headers[f"wechatpay-{forgery}"] = headers[f"wechatpay-{forgery}"][:-1] + "5"
        case "serial":
            ids = [PEER["public_key_id"], PEER["platform_serial"]]
            headers["wechatpay-serial"] = ids[1 - ids.index(headers["wechatpay-serial"])]
        case "age":
            now_s = int(headers["wechatpay-timestamp"]) + 300
        case "no signature":
            del headers["wechatpay-signature"]
    channel = peer_channel()
    with pytest.raises(NotificationRejected) as caught:
        channel.notification(headers, body, now_s)  # an answer is signed as a notification is, but none of its kind
    genuine = caught.value.reason in (RejectReason.MALFORMED, RejectReason.UNREADABLE, RejectReason.OTHER_EVENT)
    assert genuine == (forgery == "none")


# --- our own signatures


def requests_and_front_end() -> list[tuple[bytes, str]]:
    """What we sign in a payment through a page, each with our signature: the prepay, then the front-end parameters."""
    flow = peer_channel().pay(prepay("jsapi"), STAMP)
    request = next(flow)
    pairs = dict(re.findall(r'(\w+)="([^"]*)"', request.headers["Authorization"]))
    lines = f"POST\n{request.target}\n{PEER_CLOCK_S}\n{pairs['nonce_str']}\n".encode() + request.body + b"\n"
    answer = recorded(exchange("public key", "POST /v3/pay/transactions/jsapi "))
    given = json.loads(outcome(peer_channel().pay(prepay("jsapi"), STAMP), answer).credential.value)
    four = f"{given['appId']}\n{given['timeStamp']}\n{given['nonceStr']}\n{given['package']}\n".encode()
    return [(lines, pairs["signature"]), (four, given["paySign"])]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl to compare with")
def test_our_signatures_are_openssl_s_byte_for_byte(tmp_path):
    key = tmp_path / "key.pem"
    key.write_bytes(OWN_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for message, signature in requests_and_front_end():
        signing_command = ["openssl", "dgst", "-sha256", "-sign", str(key)]
        theirs = subprocess.run(signing_command, input=message, capture_output=True, check=True).stdout
        assert signature == base64.b64encode(theirs).decode()


# --- the independent client's exchanges, its requests


def platform() -> PlatformKeys:
    certificate = signing.load_certificate(PEER["keys"]["wx_mch_cert.pem"].encode(), "vector")
    seal_key = AESGCM(PEER["apiv3_key"].encode())
    merchant = Merchant("peer", PEER["mchid"], PEER["appid"], PEER["mch_serial"], certificate.public_key, seal_key)
    return PlatformKeys(PEER["public_key_id"], OWN_KEY, (), {merchant.mchid: merchant})


def incoming(vector: dict) -> Incoming:
    method, target, _ = vector["request_line"].split(" ")
    raw = base64.b64decode(vector["request_raw_b64"])
    headers = {name.lower(): value for name, value in vector["request_headers"]}
    return Incoming(method, target, headers, raw.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("vector", PEER["exchanges"], ids=lambda each: urlsplit(each["request_line"].split()[1]).path)
def test_the_simulator_believes_the_recorded_requests_byte_for_byte(vector):
    request = incoming(vector)
    stamped_s = int(request.headers["authorization"].partition('timestamp="')[2][:10])
    assert wechat_requests.authenticate(platform(), request, stamped_s).mchid == PEER["mchid"]
    forged = Incoming(request.method, request.target, request.headers, request.body + b" ")
    assert refused(forged, stamped_s) == (401, "SIGN_ERROR", wechat_requests.BAD_SIGNATURE)
    assert refused(request, stamped_s + 300) == (401, "SIGN_ERROR", wechat_requests.BAD_TIMESTAMP)


def refused(request: Incoming, now_s: int) -> tuple[int, str, str]:
    with pytest.raises(Refusal) as caught:
        wechat_requests.authenticate(platform(), request, now_s)
    problem = json.loads(caught.value.reply.body)
    return caught.value.reply.status, problem["code"], problem["message"]
