"""The key material of a simulated WeChat Pay: the platform's own keys and one account a merchant, as files.

Each merchant's JSON file names the same fields as the `[channels.wechatpay]` section of a configuration. The keys are
for loopback only; the files are readable by their owner alone.
"""

import json
import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from channels import signing

PLATFORM_FILE = "platform.json"
MERCHANTS_DIR = "merchants"
CERTIFICATE_LIFE = timedelta(days=5 * 365)


class MerchantFiles(msgspec.Struct, frozen=True):
    """Where a merchant's side of the credentials stands; paths are absolute."""

    name: str
    mchid: str
    appid: str
    merchant_serial: str
    private_key_file: str
    certificate_file: str
    api_v3_key_file: str
    public_key_id: str
    public_key_file: str
    platform_certificates: list[str]

    def section(self) -> dict[str, object]:
        """The fields of `[channels.wechatpay]`, without `base_url`."""
        return {name: getattr(self, name) for name in SECTION_FIELDS}


SECTION_FIELDS = tuple(n for n in MerchantFiles.__struct_fields__ if n not in ("name", "certificate_file"))


class PlatformCertificate(msgspec.Struct, frozen=True):
    """A platform certificate as the platform holds it: with its private key, and the PEM it hands out."""

    serial: str
    private_key: RSAPrivateKey
    pem: bytes
    not_before_s: int
    not_after_s: int


class Merchant(msgspec.Struct, frozen=True):
    """A merchant account as the platform holds it: no private key."""

    name: str
    mchid: str
    appid: str
    serial: str
    public_key: RSAPublicKey
    seal_key: AESGCM


class PlatformCredentials(msgspec.Struct, frozen=True):
    """All that the platform signs, verifies and seals with. The second certificate is used while rotating."""

    public_key_id: str
    private_key: RSAPrivateKey
    certificates: tuple[PlatformCertificate, PlatformCertificate]
    merchants: dict[str, Merchant]


def make_credentials(folder: Path, merchants: list[str]) -> dict[str, MerchantFiles]:
    """Make what is missing for these merchants and return where it stands. What exists is kept.

    Args:
        folder: made if it does not exist.
        merchants: names of letters, digits, `-` and `_`.
    """
    folder = folder.resolve()
    (folder / MERCHANTS_DIR).mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (folder / PLATFORM_FILE).exists():
        _make_platform(folder)
    for name in merchants:
        if not name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"merchant {name!r}: letters, digits, - and _ only")
        if not (folder / MERCHANTS_DIR / f"{name}.json").exists():
            _make_merchant(folder, name)
    return {name: _merchant_files(folder, name) for name in merchants}


def load_platform(folder: Path) -> PlatformCredentials:
    """Read the platform's side of every merchant in the folder.

    Raises:
        FileNotFoundError: the folder holds no credentials.
    """
    folder = folder.resolve()
    public_key_id = json.loads((folder / PLATFORM_FILE).read_bytes())["public_key_id"]
    names = sorted(path.stem for path in (folder / MERCHANTS_DIR).glob("*.json"))
    merchants = [_load_merchant(_merchant_files(folder, name)) for name in names]
    return PlatformCredentials(
        public_key_id=public_key_id,
        private_key=_load_key(folder / "wechatpay-public.key.pem"),
        certificates=(_load_certificate(folder, 1), _load_certificate(folder, 2)),
        merchants={merchant.mchid: merchant for merchant in merchants},
    )


def _make_platform(folder: Path) -> None:
    for number in (1, 2):
        key = generate_private_key(public_exponent=65537, key_size=2048)
        _write(folder / f"platform-{number}.key.pem", _private_pem(key))
        _write(folder / f"platform-{number}.cert.pem", _self_signed(key, "Tenpay.com sign (simulated)"))
    key = generate_private_key(public_exponent=65537, key_size=2048)
    _write(folder / "wechatpay-public.key.pem", _private_pem(key))
    spki = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _write(folder / "wechatpay-public.pub.pem", spki)
    public_key_id = f"PUB_KEY_ID_01{secrets.randbelow(10**32):032d}"
    _write(folder / PLATFORM_FILE, json.dumps({"public_key_id": public_key_id}).encode())


def _make_merchant(folder: Path, name: str) -> None:
    home = folder / MERCHANTS_DIR
    key = generate_private_key(public_exponent=65537, key_size=2048)
    certificate_pem = _self_signed(key, name)
    _write(home / f"{name}.key.pem", _private_pem(key))
    _write(home / f"{name}.cert.pem", certificate_pem)
    _write(home / f"{name}.api_v3_key", secrets.token_hex(16).encode())
    files = MerchantFiles(
        name=name,
        mchid=f"19{secrets.randbelow(10**8):08d}",
        appid=f"wx{secrets.token_hex(8)}",
        merchant_serial=signing.load_certificate(certificate_pem, name).serial,
        private_key_file=str(home / f"{name}.key.pem"),
        certificate_file=str(home / f"{name}.cert.pem"),
        api_v3_key_file=str(home / f"{name}.api_v3_key"),
        public_key_id=json.loads((folder / PLATFORM_FILE).read_bytes())["public_key_id"],
        public_key_file=str(folder / "wechatpay-public.pub.pem"),
        platform_certificates=[str(folder / "platform-1.cert.pem")],
    )
    _write(home / f"{name}.json", msgspec.json.format(msgspec.json.encode(files)))  # last: a half-made one is remade


def _merchant_files(folder: Path, name: str) -> MerchantFiles:
    return msgspec.json.decode((folder / MERCHANTS_DIR / f"{name}.json").read_bytes(), type=MerchantFiles)


def _load_merchant(files: MerchantFiles) -> Merchant:
    certificate = signing.load_certificate(Path(files.certificate_file).read_bytes(), files.certificate_file)
    return Merchant(
        name=files.name,
        mchid=files.mchid,
        appid=files.appid,
        serial=files.merchant_serial,
        public_key=certificate.public_key,
        seal_key=AESGCM(Path(files.api_v3_key_file).read_bytes()),
    )


def _load_certificate(folder: Path, number: int) -> PlatformCertificate:
    pem = (folder / f"platform-{number}.cert.pem").read_bytes()
    certificate = signing.load_certificate(pem, f"platform-{number}.cert.pem")
    key = _load_key(folder / f"platform-{number}.key.pem")
    return PlatformCertificate(certificate.serial, key, pem, certificate.not_before_s, certificate.not_after_s)


def _load_key(path: Path) -> RSAPrivateKey:
    return signing.load_private_key(path.read_bytes(), path.name)


def _self_signed(key: RSAPrivateKey, common_name: str) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number((1 << 158) | secrets.randbits(158))  # always 40 hex digits, as the real ones
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + CERTIFICATE_LIFE)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def _private_pem(key: RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
