"""How the platform signs: answers over the raw body, notifications over a sealed one, or wrongly on purpose. Pure."""

import hashlib
from collections.abc import Mapping

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from channels import signing
from channels.simulator.credentials import Merchant, PlatformCredentials
from channels.simulator.faults import Faults, Variant, draw
from channels.simulator.trades import Trade
from channels.simulator.wechat import CLOCK_SKEW_S, SCHEME, rfc3339, transaction


class Seal(msgspec.Struct, frozen=True):
    """A key to sign with and the serial it goes by."""

    serial: str
    private_key: RSAPrivateKey


class Message(msgspec.Struct, frozen=True):
    """Headers and body, as they go out."""

    headers: dict[str, str]
    body: bytes


def answer_seal(credentials: PlatformCredentials, faults: Faults, asked: str, roll: float) -> Seal:
    """The key that signs an answer: the one the request's `Wechatpay-Serial` names, else a platform certificate.

    Args:
        asked: the request's `Wechatpay-Serial`, may be empty.
        roll: a number in [0, 1) that decides between the certificates while they rotate.
    """
    if asked == credentials.public_key_id:
        return Seal(credentials.public_key_id, credentials.private_key)
    for certificate in credentials.certificates:
        if certificate.serial == asked:
            return Seal(certificate.serial, certificate.private_key)
    certificate = credentials.certificates[1 if roll < faults.rotation else 0]
    return Seal(certificate.serial, certificate.private_key)


def notification_seal(credentials: PlatformCredentials, faults: Faults, seed: int, subject: str) -> Seal:
    """The key that signs a trade's notification, drawn like its faults."""
    by_certificate = draw(seed, "certificate", subject) < faults.certificate_share
    return answer_seal(
        credentials, faults, "" if by_certificate else credentials.public_key_id, draw(seed, "rotation", subject)
    )


def sign(seal: Seal, body: bytes, now_s: int, nonce: str) -> dict[str, str]:
    """The signature headers of an answer or notification."""
    message = f"{now_s}\n{nonce}\n".encode() + body + b"\n"
    return {
        "Wechatpay-Timestamp": str(now_s),
        "Wechatpay-Nonce": nonce,
        "Wechatpay-Signature": signing.sign(seal.private_key, message),
        "Wechatpay-Serial": seal.serial,
        "Wechatpay-Signature-Type": SCHEME,
    }


def notice(merchant: Merchant, trade: Trade) -> bytes:
    """The body of a payment notification. It is the same at every delivery, so its sealing nonce may be."""
    plaintext = transaction(trade)
    nonce = hashlib.sha256(plaintext).hexdigest()[:12]
    identity = hashlib.sha256(f"notice {trade.made.mchid} {trade.made.out_trade_no}".encode()).hexdigest()
    return msgspec.json.encode(
        {
            "id": "-".join((identity[:8], identity[8:12], identity[12:16], identity[16:20], identity[20:32])),
            "create_time": rfc3339(trade.paid.success_at if trade.paid else 0),
            "resource_type": "encrypt-resource",
            "event_type": "TRANSACTION.SUCCESS",
            "summary": "支付成功",
            "resource": {
                "original_type": "transaction",
                "algorithm": "AEAD_AES_256_GCM",
                "ciphertext": signing.seal(merchant.seal_key, nonce.encode(), b"transaction", plaintext),
                "associated_data": "transaction",
                "nonce": nonce,
            },
        }
    )


def deliver(seal: Seal, body: bytes, variant: Variant, now_s: int, nonce: str) -> Message:
    """One delivery of a notification, genuine or wrong in the named way."""
    if variant is Variant.STALE:
        now_s -= CLOCK_SKEW_S + 60
    headers = sign(seal, body, now_s, nonce)
    if variant is Variant.PROBE:
        headers["Wechatpay-Signature"] = "WECHATPAY/SIGNTEST/" + headers["Wechatpay-Signature"][19:]
    if variant is Variant.WRONG_SERIAL:
        headers["Wechatpay-Serial"] = hashlib.sha1(nonce.encode(), usedforsecurity=False).hexdigest().upper()
    if variant is Variant.TAMPERED:
        body = _flip_one_bit(headers, body, nonce)
    return Message(headers=_with_type(headers), body=body)


def _flip_one_bit(headers: dict[str, str], body: bytes, nonce: str) -> bytes:
    """Flip a bit of the body or swap a letter of the signature, as the nonce decides."""
    at = int.from_bytes(hashlib.sha256(nonce.encode()).digest()[:4])
    if at % 2:
        signature = headers["Wechatpay-Signature"]
        place = at % 300
        other = "B" if signature[place] == "A" else "A"
        headers["Wechatpay-Signature"] = signature[:place] + other + signature[place + 1 :]
        return body
    place = at % len(body)
    return body[:place] + bytes([body[place] ^ 1 << (at >> 8) % 8]) + body[place + 1 :]


def _with_type(headers: Mapping[str, str]) -> dict[str, str]:
    return {"Content-Type": "application/json", "User-Agent": "Mozilla/4.0", **headers}
