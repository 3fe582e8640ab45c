"""A platform of a few lines for the unit tests of the WeChat Pay channel: it signs with `cryptography` alone."""

import json
from base64 import b64encode
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from channels.contract import AttemptKey, PaymentRequest, RefundKey, RefundRequest, Request, Response, Stamp
from channels.wechatpay import Credentials, WeChatPay

NOT_AFTER = datetime(2031, 5, 6, tzinfo=UTC)
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "t")])
NOW_S = 1_760_000_000
MCHID, APPID = "1900007291", "wx2421b1c4370ec43b"
ACCOUNT = f"{MCHID}/{APPID}"
API_V3_KEY = b"0123456789abcdef0123456789ABCDEF"
PUBLIC_KEY_ID = "PUB_KEY_ID_0119000072912024120500326400001234"
CERTIFICATE_SERIAL = "5157F09EFDC096DE15EBE81A47057A7232F1B8E1"
OUT_TRADE_NO = "01JD0000000000000000000ORD01"
TRANSACTION = "4200000000202611210000000001"
REFUND_NO = "01JD00000000000000000000RF"
STAMP = Stamp(now_s=NOW_S, nonce="n" * 32)
ATTEMPT = AttemptKey(OUT_TRADE_NO, "native", NOW_S, NOW_S + 1800)
REQUEST = PaymentRequest(
    attempt=ATTEMPT,
    amount=100,
    currency="CNY",
    subject="测试商品",
    notify_url="https://pay.example.com/callbacks/wechatpay/x/01",
)
TRADE: dict[str, Any] = {
    "mchid": MCHID,
    "appid": APPID,
    "out_trade_no": OUT_TRADE_NO,
    "transaction_id": TRANSACTION,
    "trade_state": "SUCCESS",
    "success_time": "2025-10-09T16:53:20+08:00",
    "amount": {"total": 100, "payer_total": 60, "currency": "CNY", "payer_currency": "USD"},
}
REFUND_KEY = RefundKey(REFUND_NO, NOW_S, OUT_TRADE_NO, TRANSACTION)
REFUND_REQUEST = RefundRequest(
    refund=REFUND_KEY,
    amount=30,
    total=100,
    currency="CNY",
    reason="商品已售完",
    notify_url="https://pay.example.com/callbacks/wechatpay/refunds/x",
)
REFUND: dict[str, Any] = {
    "refund_id": "50000000382026112100000000001",
    "out_refund_no": REFUND_NO,
    "transaction_id": TRANSACTION,
    "out_trade_no": OUT_TRADE_NO,
    "channel": "ORIGINAL",
    "user_received_account": "支付用户零钱",
    "success_time": "2025-10-09T16:53:20+08:00",
    "create_time": "2025-10-09T16:53:10+08:00",
    "status": "SUCCESS",
    "funds_account": "AVAILABLE",
    "amount": {"total": 100, "refund": 30, "payer_total": 60, "payer_refund": 18, "currency": "CNY", "from": []},
    "promotion_detail": [],
}
REFUND_NOTICE: dict[str, Any] = {
    "mchid": MCHID,
    **{name: REFUND[name] for name in ("transaction_id", "out_trade_no", "refund_id", "out_refund_no")},
    "refund_status": "SUCCESS",
    "success_time": "2025-10-09T16:53:20+08:00",
    "user_received_account": "支付用户零钱",
    "amount": {"total": 100, "refund": 30, "payer_total": 60, "payer_refund": 18},
}


@cache
def key(name: str) -> RSAPrivateKey:
    """One key a name and session: making one takes a tenth of a second."""
    return generate_private_key(public_exponent=65537, key_size=2048)


def channel() -> WeChatPay:
    """The channel, knowing the platform's public key and one certificate."""
    keys = {PUBLIC_KEY_ID: key("public").public_key(), CERTIFICATE_SERIAL: key("certificate").public_key()}
    return WeChatPay(Credentials(MCHID, APPID, "ABCDEF", key("merchant"), API_V3_KEY, keys, PUBLIC_KEY_ID))


def signed(body: bytes, *, serial: str = PUBLIC_KEY_ID, by: str = "public", at_s: int = NOW_S) -> dict[str, str]:
    """Signature headers over a body."""
    message = f"{at_s}\nnonce\n".encode() + body + b"\n"
    return {
        "wechatpay-timestamp": str(at_s),
        "wechatpay-nonce": "nonce",
        "wechatpay-serial": serial,
        "wechatpay-signature": b64encode(key(by).sign(message, PKCS1v15(), SHA256())).decode(),
        "wechatpay-signature-type": "WECHATPAY2-SHA256-RSA2048",
    }


def answer(body: object = None, status: int = 200, **how: Any) -> Response:
    """A signed 2xx."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return Response(status, signed(raw, **how), raw)


def error(status: int, code: str) -> Response:
    """An error answer: never signed."""
    return Response(status, {}, json.dumps({"code": code, "message": "文字"}).encode())


def sealed(plaintext: bytes, associated_data: str = "transaction") -> dict[str, str]:
    """An encrypted resource."""
    ciphertext = AESGCM(API_V3_KEY).encrypt(b"123456789012", plaintext, associated_data.encode())
    return {
        "algorithm": "AEAD_AES_256_GCM",
        "ciphertext": b64encode(ciphertext).decode(),
        "associated_data": associated_data,
        "nonce": "123456789012",
    }


def notice(content: object = TRADE, event_type: str = "TRANSACTION.SUCCESS") -> bytes:
    """The body of a notification."""
    plaintext = content if isinstance(content, bytes) else json.dumps(content).encode()
    return json.dumps(
        {"id": "EV-1", "event_type": event_type, "resource_type": "encrypt-resource", "resource": sealed(plaintext)}
    ).encode()


def certificate(name: str, not_after: datetime = NOT_AFTER, serial: int = 0xBEEF) -> bytes:
    """A self-signed certificate of one of the keys, valid for ten years before `NOT_AFTER`."""
    key_, start = key(name), NOT_AFTER - timedelta(3650)
    builder = x509.CertificateBuilder(NAME, NAME, key_.public_key(), serial, start, not_after)
    return builder.sign(key_, SHA256()).public_bytes(Encoding.PEM)


def run(flow: Generator[Request, Response, Any], *answers: Response | Exception) -> tuple[Any, list[Request]]:
    """Drive a flow with the given answers; its outcome and what it sent. Fails if it sends more or less."""
    sent: list[Request] = []
    left = list(answers)
    try:
        request = next(flow)
        while True:
            sent.append(request)
            reply = left.pop(0)
            request = flow.throw(reply) if isinstance(reply, Exception) else flow.send(reply)
    except StopIteration as stop:
        assert not left, f"answers nobody asked for: {left}"
        return stop.value, sent
