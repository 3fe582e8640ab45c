"""UnionPay, to be forged: a form that brings the certificate it was signed with. Whoever has a certificate can sign."""

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import TypeAlias

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicNumbers, generate_private_key
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA512
from cryptography.hazmat.primitives.serialization import Encoding

from bench.fuzz import bytewise
from bench.fuzz.corpus import Kind, Scene, told
from bench.fuzz.formwise import Form
from bench.fuzz.message import BODY_BYTES_MAX, Crafted, Message, Voucher, fields_of, form_meaning, with_fields
from bench.fuzz.parties import MERCHANT
from channels.simulator import unionpay_keys
from channels.simulator.key_files import load_key, make_key
from channels.simulator.trades import Trade
from channels.simulator.unionpay_keys import PlatformKeys, Signer

Fields: TypeAlias = Mapping[bytes, bytes]

FORM = Form(
    signature=b"signature",
    unsigned=(),
    telling=(
        *(b"txnAmt", b"settleAmt", b"orderId", b"queryId", b"respCode", b"merId", b"currencyCode", b"txnTime"),
        *(b"txnType", b"txnSubType", b"settleCurrencyCode", b"signPubKeyCert", b"encoding"),
    ),
    downgrades=(
        *((b"version", b"5.0.0"), (b"version", b"5.0.1"), (b"version", None), (b"version", b"5.1.0%00")),
        *((b"signMethod", b"11"), (b"signMethod", b"12"), (b"signMethod", None), (b"signMethod", b"1")),
        *((b"signature", None), (b"signature", b""), (b"signature", b"A" * 344), (b"signPubKeyCert", None)),
        *((b"signPubKeyCert", b""), (b"certId", b"68759585097"), (b"encoding", None), (b"encoding", b"")),
    ),
)
OWN_KEY_BITS = 4_096
HUGE_KEY_BITS = 16_384
AMOUNTS = (b"1", b"99999999", b"0")


class Keys(msgspec.Struct, frozen=True):
    """What the platform signs with, and what others can get: our own merchant's key and certificate."""

    platform: PlatformKeys
    merchant: Signer


def _load_keys(folder: Path) -> Keys:
    platform = unionpay_keys.load(folder)
    assert platform is not None, "they were made"
    files = unionpay_keys.load_merchant_files(folder, MERCHANT)
    pem = "\r\n".join(Path(files.certificate_file).read_text().splitlines())
    return Keys(platform, Signer(load_key(Path(files.private_key_file)), pem))


def _forged(scene: Scene, _trade: Trade, genuine: Message) -> Iterator[Crafted]:
    keys: Keys = scene.keys
    false: Keys = scene.impostors_keys
    fields = fields_of(genuine)
    true = keys.platform.signers[0]
    signers = {
        "another authority's certificate": false.platform.signers[0],
        "our own merchant certificate": keys.merchant,
        **{f"a certificate that is {name}": signer for name, signer in keys.platform.impostors.items()},
        **_strangers(true.pem),
    }
    for name, signer in signers.items():
        yield Crafted(f"signed with {name}", _signed(genuine, fields, signer))
        for amount in AMOUNTS:
            yield Crafted(f"signed with {name}, other amount", _signed(genuine, {**fields, b"txnAmt": amount}, signer))
        # The genuine certificate stands there as well, before or behind.
        for pem in (f"{true.pem}\r\n{signer.pem}", f"{signer.pem}\r\n{true.pem}", f"{true.pem}{signer.pem}"):
            both = Signer(signer.private_key, pem)
            yield Crafted(f"signed with {name}, two certificates", _signed(genuine, fields, both))
        shown = {**fields_of(_signed(genuine, fields, signer)), b"signPubKeyCert": true.pem.encode()}
        yield Crafted(f"signed with {name}, the genuine certificate shown", with_fields(genuine, shown))
    for name, odd in _odd_certificates(true.pem):
        yield Crafted(name, with_fields(genuine, {**fields, b"signPubKeyCert": odd}))
    yield from _weaker(genuine, fields, true)


def _weaker(genuine: Message, fields: Fields, true: Signer) -> Iterator[Crafted]:
    """What older versions and shared secrets would take."""
    text = _text(fields)
    for version in (b"5.0.0", b"5.1.0"):
        old = {**fields, b"version": version, b"certId": b"1"}
        digest = hashlib.sha1(_text(old), usedforsecurity=False).hexdigest().encode()
        for weak in (SHA1(), SHA256(), SHA512()):  # noqa: S303 - whoever forges takes them
            signature = b64encode(true.private_key.sign(digest, PKCS1v15(), weak))
            yield Crafted("the scheme of 5.0.0", with_fields(genuine, {**old, b"signature": signature}))
    for secret in (b"", b"0" * 32):
        inner = hashlib.sha256(secret).hexdigest().encode()
        for value in (
            hashlib.sha256(text + b"&" + inner).hexdigest().encode(),
            hmac.new(secret, text, "sha256").hexdigest().encode(),
            hashlib.sha256(text).hexdigest().encode(),
        ):
            for method in (b"11", b"01"):
                changed = {**fields, b"signMethod": method, b"signature": value}
                yield Crafted("a hash for a signature", with_fields(genuine, changed))
    raw = b64encode(true.private_key.sign(text, PKCS1v15(), SHA256()))  # hashed once where it must be twice
    yield Crafted("hashed once", with_fields(genuine, {**fields, b"signature": raw}))


def _odd(scene: Scene, trade: Trade) -> Iterator[Crafted]:
    """UnionPay signs it, and it says something odd."""
    keys: Keys = scene.keys
    genuine = told(scene.platform, trade)
    fields = fields_of(genuine)

    def signed(name: str, changes: Mapping[bytes, bytes | None]) -> Crafted:
        changed = {key: value for key, value in {**fields, **changes}.items() if value is not None}
        return Crafted(f"genuine, {name}", _signed(genuine, changed, keys.platform.signers[0]), Voucher.PLATFORM)

    for amount in (b"0", b"-1", b"1e3", b"12.00", b"9" * 40, b"", "１２".encode(), b" 1999", b"1999\n", b"0x1", b"1_9"):
        yield signed("odd amount", {b"txnAmt": amount})
    for name in (b"txnAmt", b"orderId", b"queryId", b"merId", b"currencyCode", b"txnTime", b"traceTime", b"txnType"):
        for value in (None, b"", b"\xff\xfe", b"\x00", b"\xed\xa0\x80", b"0", b"x" * 5_000, b"99999999999999"):
            yield signed("odd field", {name: value})
    for code in (b"01", b"03", b"34", b"42", b"74", b"", b"a6", b"000", None):
        yield signed("another respCode", {b"respCode": code})
    for kind in (b"00", b"04", b"31", b"99", b""):
        yield signed("another txnType", {b"txnType": kind})
    for code in (b"840", b"392", b"", None, b"cny"):
        yield signed("another currency", {b"currencyCode": code, b"settleCurrencyCode": code})
    for encoding in (b"GBK", b"gbk", b"utf-16", b"nonsense", b"", None, b"\x00", b"x" * 9_000):
        yield signed("another encoding", {b"encoding": encoding, b"respMsg": "成功".encode("gbk")})
    yield signed("huge", {b"reqReserved": b"x" * (BODY_BYTES_MAX - 8_000)})
    yield signed("recut", {b"reqReserved": b"x&txnAmt=1&queryId=1"})
    yield signed("many fields", {b"f%d" % number: b"" for number in range(150)})


# --- certificates -----------------------------------------------------------------------------------------------------


@lru_cache(8)
def _strangers(genuine_pem: str) -> dict[str, Signer]:
    """Keys and certificates that anybody can make himself, with all names as the genuine certificate has them."""
    own, issuer = generate_private_key(65_537, OWN_KEY_BITS), make_key()
    return {
        "a certificate of the same names": Signer(own, _certificate(genuine_pem, own, own.public_key())),
        "a certificate of another issuer by the same name": Signer(
            own, _certificate(genuine_pem, issuer, own.public_key(), digest=SHA512())
        ),
    }


@lru_cache(8)
def _odd_certificates(genuine_pem: str) -> tuple[tuple[str, bytes], ...]:
    """What costs most to look at, and what is hardly a certificate."""
    issuer = make_key()
    modulus = (1 << (HUGE_KEY_BITS - 1)) | Random(1).getrandbits(HUGE_KEY_BITS - 1) | 1
    huge = RSAPublicNumbers(e=65_537, n=modulus).public_key()
    curve = ec.generate_private_key(ec.SECP384R1())
    pem, body = genuine_pem.encode(), genuine_pem.encode().replace(b"\r\n", b"")
    many = _certificate(genuine_pem, issuer, issuer.public_key(), extensions=60)
    return (
        ("a certificate of a huge key", _certificate(genuine_pem, issuer, huge).encode()),
        ("a certificate of a curve", _certificate(genuine_pem, issuer, curve.public_key()).encode()),
        ("a certificate that a curve signed", _certificate(genuine_pem, curve, issuer.public_key()).encode()),
        ("a certificate of many extensions", many.encode()),
        ("a certificate without end", pem[:-20]),
        ("a certificate on one line", body),
        ("a certificate with LF", pem.replace(b"\r\n", b"\n")),
        ("a certificate with a line end", pem + b"\r\n"),
        ("a certificate with words around", b"subject=x\r\n" + pem + b"\r\nthe end"),
        ("many certificates", b"\r\n".join([pem] * 4)),
        ("too many certificates", b"\r\n".join([pem] * 30)),
        ("no certificate", b"-----BEGIN CERTIFICATE-----\r\n-----END CERTIFICATE-----"),
        ("a long line", b"-----BEGIN CERTIFICATE-----\r\n" + b"A" * 8_000 + b"\r\n-----END CERTIFICATE-----"),
        ("beginnings only", b"-----BEGIN CERTIFICATE-----" * 290),
        ("a key for a certificate", pem.replace(b"CERTIFICATE", b"RSA PUBLIC KEY")),
    )


def _certificate(
    genuine_pem: str,
    issuer: RSAPrivateKey | ec.EllipticCurvePrivateKey,
    key: CertificatePublicKeyTypes,
    *,
    digest: SHA256 | SHA512 | None = None,
    extensions: int = 0,
) -> str:
    genuine = x509.load_pem_x509_certificate(genuine_pem.encode())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(genuine.issuer, genuine.subject, key, genuine.serial_number)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365))
    )
    for number in range(extensions):
        oid = x509.ObjectIdentifier(f"1.3.6.1.4.1.99999.{number + 1}")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, b"\x04\x10" + bytes(16)), critical=False)
    lines = builder.sign(issuer, digest or SHA256()).public_bytes(Encoding.PEM).decode().splitlines()
    return "\r\n".join(lines)


# --- forms ------------------------------------------------------------------------------------------------------------


def _text(fields: Fields) -> bytes:
    return b"&".join(name + b"=" + fields[name] for name in sorted(fields) if fields[name] and name != b"signature")


def _signed(message: Message, fields: Fields, signer: Signer) -> Message:
    whole = {**fields, b"signPubKeyCert": signer.pem.encode()}
    digest = hashlib.sha256(_text(whole)).hexdigest().encode()
    return with_fields(
        message, {**whole, b"signature": b64encode(signer.private_key.sign(digest, PKCS1v15(), SHA256()))}
    )


KIND = Kind(
    channel="unionpay",
    load_keys=_load_keys,
    mutations=(*bytewise.mutations(headers=1), *FORM.mutations()),
    meaning=form_meaning,
    forged=_forged,
    odd=_odd,
)
