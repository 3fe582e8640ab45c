"""Keys and what is done with them: RSA signatures (PKCS#1 v1.5, SHA-256), AES-GCM seals, PEM files. Knows no channel.

Keys are loaded once, at start. A broken signature or seal is a value (`False`, `None`), because it is expected from the
network; a broken key is a `KeyMaterialError` that names the file or field, because it is expected from people.
"""

import binascii
from base64 import b64decode, b64encode
from datetime import UTC, datetime

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from channels.errors import KeyMaterialError

_PADDING, _DIGEST = PKCS1v15(), SHA256()

KEY_BITS_MIN = 2048  # below it RSA is broken in practice
KEY_BITS_MAX = 4096  # above it one signature costs milliseconds: a key that large is a mistake or an attack


class Certificate(msgspec.Struct, frozen=True):
    """What is used of an X.509 certificate. `serial` is upper-case hex without leading zeros, as channels name it."""

    serial: str
    not_before_s: int
    not_after_s: int
    public_key: RSAPublicKey


class DatedFile(msgspec.Struct, frozen=True):
    """A key file in use and, of a certificate, when it is valid: what an operator wants to know before it is not."""

    where: str
    what: str
    not_before_s: int | None = None
    not_after_s: int | None = None


def load_private_key(pem: bytes, where: str) -> RSAPrivateKey:
    """Read an unencrypted RSA private key (PKCS#8 or PKCS#1).

    Raises:
        KeyMaterialError: not such a key, or of a refused size; `where` names the file or field.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:  # TypeError: the key is encrypted
        raise KeyMaterialError(f"{where}: not an unencrypted private key in PEM form") from error
    if not isinstance(key, RSAPrivateKey):
        raise KeyMaterialError(f"{where}: not an RSA key")
    _check_size(key.key_size, where)
    return key


def load_public_key(pem: bytes, where: str) -> RSAPublicKey:
    """Read an RSA public key (SubjectPublicKeyInfo).

    Raises:
        KeyMaterialError: not such a key, or of a refused size; `where` names the file or field.
    """
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        raise KeyMaterialError(f"{where}: not a public key in PEM form") from error
    if not isinstance(key, RSAPublicKey):
        raise KeyMaterialError(f"{where}: not an RSA key")
    _check_size(key.key_size, where)
    return key


def load_certificate(pem: bytes, where: str) -> Certificate:
    """Read a certificate with an RSA key. Its dates are not judged here: see `require_valid`.

    Raises:
        KeyMaterialError: not such a certificate, or its key has a refused size.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        key = certificate.public_key()
    except ValueError as error:
        raise KeyMaterialError(f"{where}: not a certificate in PEM form") from error
    if not isinstance(key, RSAPublicKey):
        raise KeyMaterialError(f"{where}: not a certificate of an RSA key")
    _check_size(key.key_size, where)
    return Certificate(
        serial=format(certificate.serial_number, "X"),
        not_before_s=int(certificate.not_valid_before_utc.timestamp()),
        not_after_s=int(certificate.not_valid_after_utc.timestamp()),
        public_key=key,
    )


def require_valid(certificate: Certificate, now_s: int, where: str) -> None:
    """Refuse a certificate outside its dates.

    Raises:
        KeyMaterialError: with the date that makes it unusable.
    """
    if now_s > certificate.not_after_s:
        raise KeyMaterialError(f"{where}: the certificate expired on {_date(certificate.not_after_s)}")
    if now_s < certificate.not_before_s:
        raise KeyMaterialError(f"{where}: the certificate is not valid before {_date(certificate.not_before_s)}")


def sign(key: RSAPrivateKey, message: bytes) -> str:
    """The signature in base64."""
    return b64encode(key.sign(message, _PADDING, _DIGEST)).decode("ascii")


def verify(key: RSAPublicKey, message: bytes, signature: str) -> bool:
    """Whether `signature` (base64, canonical: one text a signature) is that of `message`."""
    try:
        raw = binascii.a2b_base64(signature)
        if binascii.b2a_base64(raw, newline=False) != signature.encode("ascii"):
            return False
        key.verify(raw, message, _PADDING, _DIGEST)
    except (InvalidSignature, binascii.Error, ValueError):  # ValueError: not ASCII
        return False
    return True


def seal(key: AESGCM, nonce: bytes, associated_data: bytes, plaintext: bytes) -> str:
    """Encrypt and authenticate; base64 of the ciphertext with its 16-byte tag. A nonce must never be used twice."""
    return b64encode(key.encrypt(nonce, plaintext, associated_data)).decode("ascii")


def open_seal(key: AESGCM, nonce: bytes, associated_data: bytes, ciphertext: str) -> bytes | None:
    """The plaintext of what `seal` made; None when the key, the nonce or a single bit differs."""
    try:
        return key.decrypt(nonce, b64decode(ciphertext, validate=True), associated_data)
    except (InvalidTag, binascii.Error, ValueError):  # ValueError: nonce of an impossible length, not ASCII
        return None


def _check_size(bits: int, where: str) -> None:
    if not KEY_BITS_MIN <= bits <= KEY_BITS_MAX:
        raise KeyMaterialError(f"{where}: the key has {bits} bits, allowed are {KEY_BITS_MIN} to {KEY_BITS_MAX}")


def _date(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d")
