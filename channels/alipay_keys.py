"""A merchant account at Alipay: its numbers, its key and whom it believes, loaded once and checked at start.

An app there signs in one of two modes. With plain keys it knows Alipay's public key; with certificates every request
names ours and the roots we trust, and every answer names Alipay's. Which mode it is, is a choice made at the platform.
"""

import hashlib
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from channels import certificates, signing
from channels.alipay_wire import QR_PRODUCTS
from channels.errors import KeyMaterialError
from channels.signing import DatedFile

_FILES: Final = ("private_key_file", "public_key_file", "app_certificate_file", "root_certificates_file")
_RSA_SIGNED: Final = "1.2.840.113549.1.1."  # how the OIDs of signatures by RSA begin
_RSA_DER: Final = bytes.fromhex("2a864886f70d0101")  # the same in a certificate
_PEM_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_BASE64 = re.compile(rb"[0-9A-Za-z+/=\s]+")
_ORIGIN = re.compile(r"https?://[0-9A-Za-z.:\-\[\]]+")


class Credentials(msgspec.Struct, frozen=True):
    """One merchant account and where Alipay stands for it. `verification_keys` maps what `alipay_cert_sn` may name to
    the key it names; a plain public key has the name ""."""

    app_id: str
    seller_id: str
    base_url: str
    private_key: RSAPrivateKey
    verification_keys: Mapping[str, RSAPublicKey]
    app_cert_sn: str = ""
    root_cert_sn: str = ""
    qr_product: str = QR_PRODUCTS[0]
    files: tuple[DatedFile, ...] = ()

    def __repr__(self) -> str:
        return f"Credentials(app_id={self.app_id!r}, seller_id={self.seller_id!r}, private_key=***)"


def load_credentials(
    *,
    app_id: str,
    seller_id: str,
    private_key_pem: bytes,
    now_s: int,
    base_url: str = "https://openapi.alipay.com",
    public_key_pem: bytes | None = None,
    app_certificate_pem: bytes | None = None,
    alipay_certificates_pem: Mapping[str, bytes] | None = None,
    root_certificates_pem: bytes | None = None,
    qr_product: str = QR_PRODUCTS[0],
    paths: Mapping[str, str] | None = None,
) -> Credentials:
    """Build credentials from file contents. Keys may also be the bare base64 that Alipay's key tool writes.

    Args:
        seller_id: our account there (its PID): 16 digits that begin with 2088.
        base_url: scheme, host and port of the gateway; what a payer's browser opens names it.
        public_key_pem: Alipay's public key, of the plain mode.
        app_certificate_pem: our app's certificate, of the mode with certificates.
        alipay_certificates_pem: Alipay's, a file's name (for messages) to its bytes: several while it renews them.
        root_certificates_pem: the file of roots that it gives out with them.
        qr_product: what the contract for QR codes is about, one of QR_PRODUCTS.
        paths: where the files stand that the other arguments came from, by their name in the configuration
            (`private_key_file`, `public_key_file`, `app_certificate_file`, `root_certificates_file`): for messages.

    Raises:
        KeyMaterialError: naming the field or file and what is wrong with it.
    """
    named = {name: name for name in _FILES} | dict(paths or {})
    _check_numbers(app_id, seller_id, base_url, qr_product)
    files = [DatedFile(named["private_key_file"], "the app's private key")]
    private_key = _private_key(private_key_pem, named["private_key_file"])
    with_certificates = (app_certificate_pem, root_certificates_pem, alipay_certificates_pem or None)
    own, root_sn, keys = "", "", dict[str, RSAPublicKey]()
    if public_key_pem is not None and not any(with_certificates):
        keys[""] = _public_key(public_key_pem, private_key, named["public_key_file"])
        files.append(DatedFile(named["public_key_file"], "Alipay's public key"))
    elif public_key_pem is None and app_certificate_pem and root_certificates_pem and alipay_certificates_pem:
        where = named["app_certificate_file"]
        certificate = _dated(app_certificate_pem, where, "the app's certificate", now_s, files)
        certificates.require_pair(private_key, certificate, where)
        own, root_sn = serial_number(app_certificate_pem), _roots(root_certificates_pem, named, files)
        for name, pem in alipay_certificates_pem.items():
            keys[serial_number(pem)] = _dated(pem, name, "a certificate of Alipay", now_s, files).public_key
    else:
        raise KeyMaterialError(
            "public_key_file: give Alipay's public key, or all of app_certificate_file, alipay_certificates and"
            " root_certificates_file: an app signs in one of the two modes"
        )
    return Credentials(
        app_id=app_id,
        seller_id=seller_id,
        base_url=base_url.rstrip("/"),
        private_key=private_key,
        verification_keys=keys,
        app_cert_sn=own,
        root_cert_sn=root_sn,
        qr_product=qr_product,
        files=tuple(files),
    )


def serial_number(pem: bytes) -> str:
    """How Alipay names a certificate: MD5 over its issuer's name, the last part first, and its serial in decimal.

    Its SDKs; the values of its public root certificates prove the spelling.
    """
    certificate = x509.load_pem_x509_certificate(pem)
    named = f"{certificate.issuer.rfc4514_string()}{certificate.serial_number}"
    return hashlib.md5(named.encode(), usedforsecurity=False).hexdigest()


def root_serial_number(pem: bytes) -> str:
    """How Alipay names a file of roots: those that RSA signed, in their order."""
    return "_".join(serial_number(block) for block in _rsa_signed(pem))


def _rsa_signed(pem: bytes) -> Iterator[bytes]:
    """Of Alipay's real file of roots, two of four. Another of them breaks the letter of the standard and can not be
    read at all: what does not so much as mention RSA is passed over."""
    for block in _PEM_BLOCK.findall(pem):
        try:
            oid = x509.load_pem_x509_certificate(block).signature_algorithm_oid.dotted_string
        except ValueError:
            if _RSA_DER in b64decode(b"".join(block.splitlines()[1:-1])):
                raise
            continue
        if oid.startswith(_RSA_SIGNED):
            yield block


def _check_numbers(app_id: str, seller_id: str, base_url: str, qr_product: str) -> None:
    if not re.fullmatch(r"[0-9A-Za-z]{1,32}", app_id):
        raise KeyMaterialError("app_id: must be up to 32 digits or letters")
    if not re.fullmatch(r"2088[0-9]{12}", seller_id):
        raise KeyMaterialError(
            "seller_id: must be 16 digits that begin with 2088 (the PID, without the 0156 behind it)"
        )
    if not _ORIGIN.fullmatch(base_url.rstrip("/")):
        raise KeyMaterialError("base_url: must be scheme, host and port, without a path")
    if qr_product not in QR_PRODUCTS:
        raise KeyMaterialError(f"qr_product: must be one of {', '.join(QR_PRODUCTS)}")


def _private_key(content: bytes, where: str) -> RSAPrivateKey:
    """In PEM form, or bare: PKCS#8 as Alipay's tool writes it for Java, PKCS#1 as it does for the others."""
    if not _is_bare(content):
        return signing.load_private_key(content, where)
    try:
        return signing.load_private_key(_armoured(content, b"PRIVATE KEY"), where)
    except KeyMaterialError:
        return signing.load_private_key(_armoured(content, b"RSA PRIVATE KEY"), where)


def _public_key(content: bytes, own: RSAPrivateKey, where: str) -> RSAPublicKey:
    key = signing.load_public_key(_armoured(content, b"PUBLIC KEY") if _is_bare(content) else content, where)
    if key.public_numbers() == own.public_key().public_numbers():
        raise KeyMaterialError(
            f"{where}: is the app's own public key; what is needed is the one that Alipay shows beside it"
        )
    return key


def _is_bare(content: bytes) -> bool:
    return _BASE64.fullmatch(content) is not None


def _armoured(content: bytes, label: bytes) -> bytes:
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (label, b"".join(content.split()), label)


def _roots(pem: bytes, named: Mapping[str, str], files: list[DatedFile]) -> str:
    """The name of the file of roots. Nothing is verified with them, so their dates are noted and not judged."""
    where = named["root_certificates_file"]
    try:
        blocks = list(_rsa_signed(pem))
        read = [x509.load_pem_x509_certificate(block) for block in blocks]
    except ValueError as error:
        raise KeyMaterialError(f"{where}: holds something that is not a certificate in PEM form") from error
    if not read:
        raise KeyMaterialError(f"{where}: holds no root certificate that RSA signed")
    begins_s = max(int(each.not_valid_before_utc.timestamp()) for each in read)
    ends_s = min(int(each.not_valid_after_utc.timestamp()) for each in read)
    files.append(DatedFile(where, "Alipay's root certificates", begins_s, ends_s))
    return root_serial_number(pem)


def _dated(pem: bytes, where: str, what: str, now_s: int, files: list[DatedFile]) -> signing.Certificate:
    """A valid certificate, noted among the files."""
    certificate = signing.load_certificate(pem, where)
    signing.require_valid(certificate, now_s, where)
    files.append(DatedFile(where, what, certificate.not_before_s, certificate.not_after_s))
    return certificate
