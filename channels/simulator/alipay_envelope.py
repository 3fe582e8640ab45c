"""How Alipay signs: answers over the text of their node, notifications over their fields; or wrongly, if told. Pure."""

import hashlib
from collections.abc import Mapping
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from channels import forms, signing
from channels.simulator.alipay_keys import PlatformKeys
from channels.simulator.alipay_requests import Asked
from channels.simulator.platform import Reply

ODD: Final = 'brace } { " sign in "sign":" value, a+b&c=d 100%25 \\ </end>'


def node_of(stated: Mapping[str, object]) -> str:
    """What is said, as Alipay writes it: slashes escaped."""
    return msgspec.json.encode(stated).decode().replace("/", "\\/")


def answer(keys: PlatformKeys, asked: Asked | None, node: str, *, variant: str = "") -> Reply:
    """An answer around its node. Of an unknown question, the node is an error's.

    Args:
        variant: empty if it is genuine, `unsigned` also for what Alipay itself does not sign; `tamper`, `wrong_key`.
    """
    name = f"{asked.method.replace('.', '_')}_response" if asked else "error_response"
    charset = asked.charset if asked else "utf-8"
    said = node.encode(charset, "replace")
    parts = [f'"{name}":'.encode() + said]
    if variant != "unsigned":
        key = _answer_key(keys, asked, variant)
        signature = signing.sign(key, said[:-1] + b" }" if variant == "tamper" else said)
        if asked is not None and asked.certified:
            parts.append(f'"alipay_cert_sn":"{keys.certificate_sn}"'.encode())
        parts.append(f'"sign":"{signature}"'.encode())
    return Reply(200, {"Content-Type": f"text/html;charset={charset}"}, b"{" + b",".join(parts) + b"}")


def _answer_key(keys: PlatformKeys, asked: Asked | None, variant: str) -> RSAPrivateKey:
    if variant == "wrong_key":
        return keys.strangers_key
    return keys.certified_key if asked is not None and asked.certified else keys.private_key


def page(text: str, status: int = 200) -> Reply:
    """What a browser is shown when something is wrong: GBK, as the real one's."""
    body = f"<!DOCTYPE html><html><head><title>支付宝</title></head><body><p>{text}</p></body></html>"
    return Reply(status, {"Content-Type": "text/html;charset=GBK"}, body.encode("gbk", "replace"))


def notification(
    key: RSAPrivateKey, fields: Mapping[str, str], charset: str, *, sign_empties: bool, tamper: str = ""
) -> tuple[Mapping[str, str], bytes]:
    """Headers and body of one delivery.

    Args:
        sign_empties: whether empty values are part of what is signed.
        tamper: a nonce that decides which bit is flipped after it was signed; empty if none is.
    """
    encoded = {name: value.encode(charset, "replace") for name, value in fields.items()}
    signed = {name: value for name, value in encoded.items() if value or sign_empties}
    message = b"&".join(name.encode() + b"=" + signed[name] for name in sorted(signed))
    text = {name: value.decode(charset) for name, value in encoded.items()}
    sent = {**text, "sign": signing.sign(key, message), "sign_type": "RSA2"}
    body = forms.encode(sent, charset)
    headers = {"Content-Type": f"application/x-www-form-urlencoded; charset={charset}", "User-Agent": "Mozilla/4.0"}
    return headers, _flipped(body, tamper) if tamper else body


def _flipped(body: bytes, nonce: str) -> bytes:
    """One bit is flipped, where the nonce says."""
    at = int.from_bytes(hashlib.sha256(nonce.encode()).digest()[:4])
    place = at % len(body)
    return body[:place] + bytes([body[place] ^ 1 << (at >> 16) % 8]) + body[place + 1 :]
