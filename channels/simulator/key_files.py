"""What the platforms' key files have in common: writing them so that their owner alone reads them, making keys."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import randbits

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from channels import signing

MERCHANTS_DIR = "merchants"
CERTIFICATE_LIFE = timedelta(days=5 * 365)


def make_key() -> RSAPrivateKey:
    """A fresh RSA key of 2048 bits."""
    return generate_private_key(public_exponent=65537, key_size=2048)


def private_pem(key: RSAPrivateKey) -> bytes:
    """PKCS#8, unencrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: RSAPrivateKey) -> bytes:
    """SubjectPublicKeyInfo of its public half."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def self_signed(key: RSAPrivateKey, common_name: str) -> bytes:
    """A certificate of its own, good for five years, with 40 hex digits of serial as the real ones."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number((1 << 158) | randbits(158))
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + CERTIFICATE_LIFE)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def load_key(path: Path) -> RSAPrivateKey:
    """A private key from its file."""
    return signing.load_private_key(path.read_bytes(), path.name)


def write(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
