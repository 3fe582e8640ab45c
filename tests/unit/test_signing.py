"""Keys, signatures and seals."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from channels import signing
from channels.errors import KeyMaterialError
from tests.unit.wechatpay_platform import NAME, NOT_AFTER, key


def pem(private_key, encryption=None) -> bytes:
    return private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def public_pem(private_key) -> bytes:
    return private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def certificate_pem(serial: int = 0x0A0B, private_key: RSAPrivateKey | None = None) -> bytes:
    private_key, start = private_key or key("a"), NOT_AFTER - timedelta(9)
    builder = x509.CertificateBuilder(NAME, NAME, private_key.public_key(), serial, start, NOT_AFTER)
    return builder.sign(private_key, SHA256()).public_bytes(Encoding.PEM)


def test_a_signature_verifies_with_its_key_and_message_only():
    private = signing.load_private_key(pem(key("a")), "f")
    public = signing.load_public_key(public_pem(key("a")), "f")
    signature = signing.sign(private, b"message")
    assert signing.verify(public, b"message", signature)
    assert not signing.verify(public, b"messagf", signature)
    assert not signing.verify(key("b").public_key(), b"message", signature)


@pytest.mark.parametrize("damage", ["", "=", "AAAA", "not base64!", "Ä", "A" * 343, "A" * 100_000])
def test_a_signature_that_is_no_base64_or_of_no_length_is_refused_without_an_error(damage):
    assert not signing.verify(key("a").public_key(), b"message", damage)


def test_there_is_one_text_for_each_signature():
    """The last letter before the padding carries four bits that decoders ignore; they must not be free to choose."""
    signature = signing.sign(key("a"), b"message")
    other = signature[:-3] + chr(ord(signature[-3]) + 1) + "=="
    assert not signing.verify(key("a").public_key(), b"message", other)
    assert not signing.verify(key("a").public_key(), b"message", signature + "\n")


@pytest.mark.parametrize("bits", [1024, 4104])
def test_key_sizes_outside_2048_to_4096_bits_are_refused_by_name(bits):
    small = generate_private_key(public_exponent=65537, key_size=bits)
    with pytest.raises(KeyMaterialError, match=rf"^private_key_file: the key has {bits} bits"):
        signing.load_private_key(pem(small), "private_key_file")
    with pytest.raises(KeyMaterialError, match=rf"^public_key_file: the key has {bits} bits"):
        signing.load_public_key(public_pem(small), "public_key_file")
    with pytest.raises(KeyMaterialError, match=rf"^platform\.pem: the key has {bits} bits"):
        signing.load_certificate(certificate_pem(private_key=small), "platform.pem")


@pytest.mark.parametrize("load", [signing.load_private_key, signing.load_public_key, signing.load_certificate])
@pytest.mark.parametrize("content", [b"", b"rubbish", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"])
def test_a_file_that_holds_something_else_is_named(load, content):
    with pytest.raises(KeyMaterialError, match=r"^keys/x\.pem: not "):
        load(content, "keys/x.pem")


def test_encrypted_and_elliptic_keys_are_refused():
    with pytest.raises(KeyMaterialError, match="not an unencrypted private key"):
        signing.load_private_key(pem(key("a"), BestAvailableEncryption(b"secret")), "f")
    curve = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(KeyMaterialError, match="not an RSA key"):
        signing.load_private_key(pem(curve), "f")
    with pytest.raises(KeyMaterialError, match="not an RSA key"):
        signing.load_public_key(public_pem(curve), "f")


def test_a_certificate_shows_its_serial_as_channels_write_it():
    assert signing.load_certificate(certificate_pem(0x0A0B), "f").serial == "A0B"


def test_a_certificate_outside_its_dates_is_refused_with_the_date():
    certificate = signing.load_certificate(certificate_pem(), "f")
    signing.require_valid(certificate, certificate.not_after_s, "f")
    with pytest.raises(KeyMaterialError, match=r"^f: the certificate expired on 2031-05-06"):
        signing.require_valid(certificate, certificate.not_after_s + 1, "f")
    with pytest.raises(KeyMaterialError, match=r"^f: the certificate is not valid before 2031-04-27"):
        signing.require_valid(certificate, certificate.not_before_s - 1, "f")


def test_a_seal_opens_only_with_everything_right():
    sealer, other = AESGCM(b"k" * 32), AESGCM(b"K" * 32)
    ciphertext = signing.seal(sealer, b"n" * 12, b"data", "文".encode())
    assert signing.open_seal(sealer, b"n" * 12, b"data", ciphertext) == "文".encode()
    assert signing.open_seal(other, b"n" * 12, b"data", ciphertext) is None
    assert signing.open_seal(sealer, b"m" * 12, b"data", ciphertext) is None
    assert signing.open_seal(sealer, b"n" * 12, b"", ciphertext) is None


@pytest.mark.parametrize("ciphertext", ["", "AAAA", "not base64!", "Ä"])
@pytest.mark.parametrize("nonce", [b"", b"n" * 12, b"n" * 4096])
def test_a_seal_that_is_none_stays_shut_without_an_error(nonce, ciphertext):
    assert signing.open_seal(AESGCM(b"k" * 32), nonce, b"data", ciphertext) is None
