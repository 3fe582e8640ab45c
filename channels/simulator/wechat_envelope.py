"""How WeChat Pay signs: answers over the raw body, notifications over a sealed one, or wrongly on purpose. Pure."""

import hashlib

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from channels import signing
from channels.moments import rfc3339
from channels.simulator.faults import draw
from channels.simulator.wechat_faults import WechatFaults
from channels.simulator.wechat_keys import Merchant, PlatformKeys

SCHEME = "WECHATPAY2-SHA256-RSA2048"
CLOCK_SKEW_S = 300


class Seal(msgspec.Struct, frozen=True):
    """A key to sign with and the serial it goes by."""

    serial: str
    private_key: RSAPrivateKey


class Notice(msgspec.Struct, frozen=True):
    """What a notification is about: its kind and its plaintext."""

    event_type: str
    summary: str
    original_type: str
    plaintext: bytes
    at_s: int


def answer_seal(keys: PlatformKeys, faults: WechatFaults, asked: str, roll: float) -> Seal:
    """The key that signs an answer: the one the request's `Wechatpay-Serial` names, else a platform certificate.

    Args:
        asked: the request's `Wechatpay-Serial`, may be empty.
        roll: a number in [0, 1) that decides between the certificates while they rotate.
    """
    if asked == keys.public_key_id:
        return Seal(keys.public_key_id, keys.private_key)
    for certificate in keys.certificates:
        if certificate.serial == asked:
            return Seal(certificate.serial, certificate.private_key)
    certificate = keys.certificates[1 if roll < faults.rotation else 0]
    return Seal(certificate.serial, certificate.private_key)


def notification_seal(keys: PlatformKeys, faults: WechatFaults, seed: int, subject: str) -> Seal:
    """The key that signs a trade's notification, drawn like its faults."""
    by_certificate = draw(seed, "certificate", subject) < faults.certificate_share
    return answer_seal(keys, faults, "" if by_certificate else keys.public_key_id, draw(seed, "rotation", subject))


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


def sealed(merchant: Merchant, notice: Notice, identity: str) -> bytes:
    """The body of a notification. It is the same at every delivery, so its sealing nonce may be."""
    nonce = hashlib.sha256(notice.plaintext).hexdigest()[:12]
    digest = hashlib.sha256(f"notice {identity}".encode()).hexdigest()
    associated_data = notice.original_type
    return msgspec.json.encode(
        {
            "id": "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32])),
            "create_time": rfc3339(notice.at_s),
            "resource_type": "encrypt-resource",
            "event_type": notice.event_type,
            "summary": notice.summary,
            "resource": {
                "original_type": notice.original_type,
                "algorithm": "AEAD_AES_256_GCM",
                "ciphertext": signing.seal(
                    merchant.seal_key, nonce.encode(), associated_data.encode(), notice.plaintext
                ),
                "associated_data": associated_data,
                "nonce": nonce,
            },
        }
    )


def deliver(seal: Seal, body: bytes, variant: str, now_s: int, nonce: str) -> tuple[dict[str, str], bytes]:
    """Headers and body of one delivery, genuine (`variant` empty) or wrong in the named way."""
    if variant == "stale":
        now_s -= CLOCK_SKEW_S + 60
    headers = {} if variant == "unsigned" else sign(seal, body, now_s, nonce)
    if variant == "probe":
        headers["Wechatpay-Signature"] = "WECHATPAY/SIGNTEST/" + headers["Wechatpay-Signature"][19:]
    if variant == "wrong_serial":
        headers["Wechatpay-Serial"] = hashlib.sha1(nonce.encode(), usedforsecurity=False).hexdigest().upper()
    if variant == "tamper":
        body = _flip_one_bit(headers, body, nonce)
    return {"Content-Type": "application/json", "User-Agent": "Mozilla/4.0", **headers}, body


def _flip_one_bit(headers: dict[str, str], body: bytes, nonce: str) -> bytes:
    """Flip a bit of the body or swap a letter of the signature, as the nonce decides."""
    at = int.from_bytes(hashlib.sha256(nonce.encode()).digest()[:4])
    if at % 2 or not body:
        signature = headers["Wechatpay-Signature"]
        place = at % 300
        other = "B" if signature[place] == "A" else "A"
        headers["Wechatpay-Signature"] = signature[:place] + other + signature[place + 1 :]
        return body
    place = at % len(body)
    return body[:place] + bytes([body[place] ^ 1 << (at >> 8) % 8]) + body[place + 1 :]
