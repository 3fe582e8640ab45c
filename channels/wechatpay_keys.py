"""A merchant account at WeChat Pay: its numbers and keys, loaded once and checked when the process starts."""

from collections.abc import Mapping

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from channels import signing
from channels.errors import KeyMaterialError

_FILES = ("private_key_file", "api_v3_key_file", "public_key_file", "merchant_certificate_file")


class Credentials(msgspec.Struct, frozen=True):
    """One merchant account. `verification_keys` maps what `Wechatpay-Serial` may name to the key it names."""

    mchid: str
    appid: str
    merchant_serial: str
    private_key: RSAPrivateKey
    api_v3_key: bytes
    verification_keys: Mapping[str, RSAPublicKey]
    public_key_id: str | None = None
    files: tuple[signing.DatedFile, ...] = ()

    def __repr__(self) -> str:
        return f"Credentials(mchid={self.mchid!r}, appid={self.appid!r}, private_key=***, api_v3_key=***)"


def load_credentials(
    *,
    mchid: str,
    appid: str,
    merchant_serial: str,
    private_key_pem: bytes,
    api_v3_key: bytes,
    public_key_id: str | None = None,
    public_key_pem: bytes | None = None,
    platform_certificates_pem: Mapping[str, bytes] | None = None,
    merchant_certificate_pem: bytes | None = None,
    paths: Mapping[str, str] | None = None,
    now_s: int,
) -> Credentials:
    """Build credentials from file contents.

    Args:
        platform_certificates_pem: a file's name (for messages) to its bytes.
        merchant_certificate_pem: nothing is signed with it, but it shows whether the serial and the private key belong
            together, and until when the platform takes them.
        paths: where the files stand that the other arguments came from, by their name in the configuration
            (`private_key_file`, `api_v3_key_file`, ...): for messages.

    Raises:
        KeyMaterialError: naming the field or file and what is wrong with it.
    """
    named = {name: name for name in _FILES} | dict(paths or {})
    if len(api_v3_key) != 32:
        raise KeyMaterialError(f"api_v3_key: must be 32 bytes, has {len(api_v3_key)}")
    if (public_key_id is None) != (public_key_pem is None):
        raise KeyMaterialError("public_key_id: it and the public key file go together, one is missing")
    private_key = signing.load_private_key(private_key_pem, named["private_key_file"])
    files = [
        signing.DatedFile(named["private_key_file"], "the merchant's private key"),
        signing.DatedFile(named["api_v3_key_file"], "the APIv3 key"),
    ]
    if merchant_certificate_pem is not None:
        where = named["merchant_certificate_file"]
        certificate = _dated(merchant_certificate_pem, where, "the merchant's certificate", now_s, files)
        _require_pair(certificate, private_key, merchant_serial, where)
    keys: dict[str, RSAPublicKey] = {}
    for name, pem in (platform_certificates_pem or {}).items():
        certificate = _dated(pem, name, "a platform certificate", now_s, files)
        keys[certificate.serial] = certificate.public_key
    if public_key_id is not None and public_key_pem is not None:
        keys[public_key_id] = signing.load_public_key(public_key_pem, named["public_key_file"])
        files.append(signing.DatedFile(named["public_key_file"], "WeChat Pay's public key"))
    if not keys:
        raise KeyMaterialError("public_key_id: give the WeChat Pay public key, platform certificates, or both")
    return Credentials(
        mchid=mchid,
        appid=appid,
        merchant_serial=merchant_serial,
        private_key=private_key,
        api_v3_key=api_v3_key,
        verification_keys=keys,
        public_key_id=public_key_id,
        files=tuple(files),
    )


def _dated(pem: bytes, where: str, what: str, now_s: int, files: list[signing.DatedFile]) -> signing.Certificate:
    """A valid certificate, noted among the files."""
    certificate = signing.load_certificate(pem, where)
    signing.require_valid(certificate, now_s, where)
    files.append(signing.DatedFile(where, what, certificate.not_before_s, certificate.not_after_s))
    return certificate


def _require_pair(certificate: signing.Certificate, key: RSAPrivateKey, serial: str, where: str) -> None:
    if certificate.serial != serial.upper().lstrip("0"):
        raise KeyMaterialError(f"{where}: its serial is {certificate.serial}, merchant_serial says {serial}")
    if certificate.public_key.public_numbers() != key.public_key().public_numbers():
        raise KeyMaterialError(f"{where}: is not the certificate of the private key")
