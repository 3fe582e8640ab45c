"""How UnionPay signs its answers and notifications, rightly, or wrongly on purpose. Pure."""

import hashlib
from collections.abc import Mapping
from typing import Final

from channels import signing
from channels.simulator.unionpay_keys import PlatformKeys, Signer

# The fields that may hold nothing, of those that messages have.
EMPTY: Final = ("exchangeRate", "payCardIssueName", "payType", "preAuthId")


def digest(fields: Mapping[str, str], charset: str = "utf-8") -> bytes:
    """What RSA is given: the hex SHA-256 of all that is not empty, sorted, without the signature."""
    text = "&".join(f"{name}={fields[name]}" for name in sorted(fields) if fields[name] and name != "signature")
    return hashlib.sha256(text.encode(charset)).hexdigest().encode()


def signed(signer: Signer, fields: Mapping[str, str], charset: str) -> dict[str, str]:
    """The fields in the order of an answer: by name, then the certificate, the signature last."""
    whole = {name: fields[name] for name in sorted(fields)} | {"signPubKeyCert": signer.pem}
    return {**whole, "signature": signing.sign(signer.private_key, digest(whole, charset))}


def delivered(
    keys: PlatformKeys, signer: Signer, fields: Mapping[str, str], variant: str, charset: str, nonce: str
) -> dict[str, str]:
    """The signed fields, genuine (`variant` empty) or wrong in the named way."""
    if variant in keys.impostors:
        return signed(keys.impostors[variant], fields, charset)
    if variant == "downgrade":
        return signed(signer, {**fields, "version": "5.0.0"}, charset)
    whole = signed(signer, fields, charset)
    match variant:
        case "unsigned":
            return {name: value for name, value in whole.items() if name != "signature"}
        case "lf":
            return {**whole, "signPubKeyCert": whole["signPubKeyCert"].replace("\r\n", "\n")}
        case "tamper":
            return _changed(whole, nonce)
    return whole


def raw(fields: Mapping[str, str], charset: str) -> bytes:
    """An answer's body: nothing in it is encoded."""
    return "&".join(f"{name}={value}" for name, value in fields.items()).encode(charset)


def with_empty_fields(fields: Mapping[str, str]) -> dict[str, str]:
    """The same with fields that hold nothing, which are no part of what is signed."""
    return {**dict.fromkeys(EMPTY, ""), **fields}


def _changed(whole: dict[str, str], nonce: str) -> dict[str, str]:
    """One sign of one field is another: which, the nonce decides."""
    at = int.from_bytes(hashlib.sha256(nonce.encode()).digest()[:4])
    names = [name for name, value in whole.items() if value]
    name = names[at % len(names)]
    place = (at >> 8) % len(whole[name])
    other = "0" if whole[name][place] != "0" else "1"
    return {**whole, name: whole[name][:place] + other + whole[name][place + 1 :]}
