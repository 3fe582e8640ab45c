"""Certificates of a private authority: PKCS#12 files, and chains checked by hand. Knows no channel.

The verifier of `cryptography` is made for the web: it wants host names and refuses SHA-1, with which a payment
platform's authority may still sign. What is checked here instead: every issuer by name and signature, that it may issue
certificates at all and how deep, and the dates of the whole chain, which bound what comes out of it.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs12
from cryptography.x509.oid import NameOID

from channels import signing
from channels.errors import KeyMaterialError

PEM_BYTES_MAX: Final = 8192  # a real one has 1,700
AUTHORITIES_MAX: Final = 16  # in one installation: a root, and a middle or two while they rotate
DEPTH_MAX: Final = 8  # of certificates that one root may stand above; real chains have two

HASHES: Final = (hashes.SHA1, hashes.SHA256, hashes.SHA384, hashes.SHA512)
UNDERSTOOD: Final = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage)  # what may be marked critical

# What `cryptography` raises over certificates that strangers made. A warning is one where warnings are errors.
_UNREADABLE = (
    *(ValueError, TypeError, UnsupportedAlgorithm, Warning),
    *(x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)


class Authority(msgspec.Struct, frozen=True):
    """A certificate that may issue others, led back to a root. `depth` is how many authorities may stand below it."""

    subject: x509.Name
    public_key: RSAPublicKey
    depth: int
    not_before_s: int
    not_after_s: int


class Holder(msgspec.Struct, frozen=True):
    """A certificate that an authority vouches for. Its dates are those that the whole chain has in common."""

    common_name: str
    certificate: signing.Certificate


class Doubt(msgspec.Struct, frozen=True):
    """Why a certificate is not trusted."""

    reason: str


def load_pkcs12(content: bytes, password: bytes, where: str) -> tuple[RSAPrivateKey, bytes]:
    """Read a `.pfx` or `.p12` file: the private key, and its certificate as PEM.

    Raises:
        KeyMaterialError: not such a file, the wrong password, or no RSA key with a certificate in it.
    """
    try:
        key, certificate, _ = pkcs12.load_key_and_certificates(content, password or None)
    except _UNREADABLE as error:
        raise KeyMaterialError(f"{where}: not a PKCS#12 file, or the password is wrong") from error
    if key is None or certificate is None:
        raise KeyMaterialError(f"{where}: holds no private key with its certificate")
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return signing.load_private_key(pem, where), certificate.public_bytes(Encoding.PEM)


def require_pair(key: RSAPrivateKey, certificate: signing.Certificate, where: str) -> None:
    """Refuse a private key that is not the certificate's.

    Raises:
        KeyMaterialError: they do not belong together.
    """
    if key.public_key().public_numbers() != certificate.public_key.public_numbers():
        raise KeyMaterialError(f"{where}: the private key does not belong to the certificate")


def load_authorities(roots: Mapping[str, bytes], middles: Mapping[str, bytes]) -> tuple[Authority, ...]:
    """Whom we trust, from PEM files by name: roots, and certificates that lead to one of them in any number of steps.

    Raises:
        KeyMaterialError: naming the file that is no such certificate, or that no root given leads to.
    """
    trusted = [_root(_authority_file(pem, where), where) for where, pem in roots.items()]
    waiting = {where: _authority_file(pem, where) for where, pem in middles.items()}
    if not trusted or len(trusted) + len(waiting) > AUTHORITIES_MAX:
        raise KeyMaterialError(f"certificates: 1 root at least and {AUTHORITIES_MAX} in all at most")
    while waiting:
        found = {where: _vouched(certificate, trusted, where) for where, certificate in waiting.items()}
        led = {where: authority for where, authority in found.items() if authority is not None}
        if not led:
            raise KeyMaterialError(f"{min(waiting)}: no root or middle certificate given has issued it")
        trusted += led.values()
        waiting = {where: certificate for where, certificate in waiting.items() if where not in led}
    return tuple(trusted)


def validate(pem: bytes, authorities: tuple[Authority, ...]) -> Holder | Doubt:
    """Whether one of the authorities has issued this certificate, which came from the network. Dates: see `Holder`."""
    if len(pem) > PEM_BYTES_MAX:
        return Doubt(f"a certificate of {len(pem)} bytes")
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        issuer = _issuer(certificate, authorities)
        if issuer is None:
            return Doubt("issued by none of the authorities we trust")
        if not _may(certificate, "digital_signature"):
            return Doubt("not made for signing messages")
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        read = signing.load_certificate(pem, "certificate")
    except (*_UNREADABLE, KeyMaterialError) as error:
        return Doubt(f"not a certificate we can read: {error}"[:200])
    if len(names) != 1:
        return Doubt(f"{len(names)} common names")
    bounded = msgspec.structs.replace(
        read,
        not_before_s=max(read.not_before_s, issuer.not_before_s),
        not_after_s=min(read.not_after_s, issuer.not_after_s),
    )
    return Holder(str(names[0].value), bounded)


def _authority_file(pem: bytes, where: str) -> x509.Certificate:
    signing.load_certificate(pem, where)  # says what is wrong with its form and its key
    return x509.load_pem_x509_certificate(pem)


def _root(certificate: x509.Certificate, where: str) -> Authority:
    return _authority(certificate, DEPTH_MAX, where)


def _vouched(certificate: x509.Certificate, trusted: list[Authority], where: str) -> Authority | None:
    issuer = _issuer(certificate, tuple(above for above in trusted if above.depth > 0))
    if issuer is None:
        return None
    own = _authority(certificate, issuer.depth - 1, where)
    return msgspec.structs.replace(
        own,
        not_before_s=max(own.not_before_s, issuer.not_before_s),
        not_after_s=min(own.not_after_s, issuer.not_after_s),
    )


def _authority(certificate: x509.Certificate, depth: int, where: str) -> Authority:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        may = constraints.ca and _may(certificate, "key_cert_sign")
    except (x509.ExtensionNotFound, *_UNREADABLE):
        may = False
    if not may:
        raise KeyMaterialError(f"{where}: not an authority's certificate: it may not issue others")
    limit = constraints.path_length
    read = signing.load_certificate(certificate.public_bytes(Encoding.PEM), where)
    return Authority(
        subject=certificate.subject,
        public_key=read.public_key,
        depth=depth if limit is None else min(depth, limit),
        not_before_s=read.not_before_s,
        not_after_s=read.not_after_s,
    )


def _issuer(certificate: x509.Certificate, authorities: tuple[Authority, ...]) -> Authority | None:
    algorithm = certificate.signature_hash_algorithm
    if not isinstance(algorithm, HASHES):
        return None
    for authority in authorities:
        if certificate.issuer != authority.subject:
            continue
        try:
            authority.public_key.verify(certificate.signature, certificate.tbs_certificate_bytes, PKCS1v15(), algorithm)
        except InvalidSignature:
            continue  # an authority's name may stand on two keys, while it renews them
        return authority
    return None


def _may(certificate: x509.Certificate, usage: str) -> bool:
    """Whether the certificate's own words allow this use of its key; one that says nothing of it allows all."""
    extensions = list(certificate.extensions)
    if any(each.critical and not isinstance(each.value, UNDERSTOOD) for each in extensions):
        return False
    usages = [each.value for each in extensions if isinstance(each.value, x509.KeyUsage)]
    return all(getattr(each, usage) for each in usages)
