"""A merchant account at UnionPay: its number, its key and whom it trusts, loaded once and checked at start."""

import re
from collections.abc import Mapping

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from channels import certificates, signing, unionpay_wire
from channels.certificates import Authority
from channels.errors import KeyMaterialError
from channels.signing import DatedFile

_FILES = ("private_key_file", "certificate_file", "pfx_file")


class Credentials(msgspec.Struct, frozen=True):
    """One merchant account and where UnionPay stands for it. `cert_id` is its certificate's serial in decimal."""

    mer_id: str
    private_key: RSAPrivateKey
    cert_id: str
    authorities: tuple[Authority, ...]
    base_url: str
    file_url: str
    query_path: str = unionpay_wire.QUERY
    accept_test_names: bool = False
    files: tuple[DatedFile, ...] = ()

    def __repr__(self) -> str:
        return f"Credentials(mer_id={self.mer_id!r}, cert_id={self.cert_id!r}, private_key=***)"


def load_credentials(
    *,
    mer_id: str,
    base_url: str,
    file_url: str,
    root_certificates: Mapping[str, bytes],
    middle_certificates: Mapping[str, bytes],
    now_s: int,
    private_key_pem: bytes | None = None,
    certificate_pem: bytes | None = None,
    pfx: bytes | None = None,
    pfx_password: str = "",
    query_path: str = unionpay_wire.QUERY,
    accept_test_names: bool = False,
    paths: Mapping[str, str] | None = None,
) -> Credentials:
    """Build credentials from file contents: either a PEM pair, or the `.pfx` that UnionPay gives its merchants.

    Args:
        base_url: scheme, host and port of the gateway; a form for the payer's browser names it.
        file_url: the same of the file service.
        root_certificates: UnionPay's authorities, a file's name (for messages) to its bytes.
        middle_certificates: those between a root and the certificates that UnionPay signs with.
        accept_test_names: also believe the certificates of UnionPay's test environment.
        paths: where the other files stand, by their name in the configuration (`private_key_file`,
            `certificate_file`, `pfx_file`): for messages.

    Raises:
        KeyMaterialError: naming the field or file and what is wrong with it.
    """
    named = {name: name for name in _FILES} | dict(paths or {})
    if not re.fullmatch(r"[0-9A-Za-z]{15}", mer_id):
        raise KeyMaterialError("mer_id: must be 15 digits or letters")
    files: list[DatedFile] = []
    if pfx is not None and private_key_pem is None and certificate_pem is None:
        where = named["pfx_file"]
        private_key, certificate_pem = certificates.load_pkcs12(pfx, pfx_password.encode(), where)
    elif pfx is None and private_key_pem is not None and certificate_pem is not None:
        where = named["certificate_file"]
        private_key = signing.load_private_key(private_key_pem, named["private_key_file"])
        files.append(DatedFile(named["private_key_file"], "the merchant's private key"))
    else:
        raise KeyMaterialError("private_key_file, certificate_file: give both of them, or pfx_file alone")
    certificate = _dated(certificate_pem, where, "the merchant's certificate", now_s, files)
    certificates.require_pair(private_key, certificate, where)
    for name, pem in root_certificates.items():
        _dated(pem, name, "a root certificate of UnionPay", now_s, files)
    for name, pem in middle_certificates.items():
        _dated(pem, name, "a middle certificate of UnionPay", now_s, files)
    return Credentials(
        mer_id=mer_id,
        private_key=private_key,
        cert_id=str(int(certificate.serial, 16)),
        authorities=certificates.load_authorities(root_certificates, middle_certificates),
        base_url=base_url.rstrip("/"),
        file_url=file_url.rstrip("/"),
        query_path=query_path,
        accept_test_names=accept_test_names,
        files=tuple(files),
    )


def _dated(pem: bytes, where: str, what: str, now_s: int, files: list[DatedFile]) -> signing.Certificate:
    """A valid certificate, noted among the files."""
    certificate = signing.load_certificate(pem, where)
    signing.require_valid(certificate, now_s, where)
    files.append(DatedFile(where, what, certificate.not_before_s, certificate.not_after_s))
    return certificate
