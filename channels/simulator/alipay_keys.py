"""The key material of a simulated Alipay: the platform's own keys and one app a merchant, as files.

Every merchant can sign in both modes. The platform's plain key and the one of its certificate differ, so that nobody
gets away with mixing them up. The keys are for loopback only.
"""

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from channels import signing
from channels.alipay_keys import root_serial_number, serial_number
from channels.simulator.key_files import (
    CERTIFICATE_LIFE,
    MERCHANTS_DIR,
    load_key,
    make_key,
    private_pem,
    public_pem,
    write,
)

ROOT_FILE: Final = "alipay-root.crt"  # written last: without it all is remade
ENDING: Final = ".alipay.json"


class MerchantFiles(msgspec.Struct, frozen=True):
    """Where a merchant's side of the credentials stands; paths are absolute."""

    name: str
    app_id: str
    seller_id: str
    private_key_file: str
    public_key_file: str
    app_certificate_file: str
    alipay_certificate_file: str
    root_certificates_file: str

    @property
    def merchant(self) -> str:
        """The account, as the simulator names it."""
        return self.app_id

    @property
    def account(self) -> str:
        """The account, as our channel names it."""
        return f"{self.app_id}/{self.seller_id}"

    def section(self) -> dict[str, object]:
        """The fields of `[channels.alipay]` in the mode of plain keys, without `base_url`."""
        return self._fields("public_key_file")

    def certified_section(self) -> dict[str, object]:
        """The same in the mode with certificates."""
        return self._fields("app_certificate_file", "alipay_certificate_file", "root_certificates_file")

    def _fields(self, *files: str) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("app_id", "seller_id", "private_key_file", *files)}


class Merchant(msgspec.Struct, frozen=True):
    """A merchant's app as the platform holds it: no private key."""

    name: str
    app_id: str
    seller_id: str
    public_key: RSAPublicKey
    app_cert_sn: str


class PlatformKeys(msgspec.Struct, frozen=True):
    """All that the platform signs and verifies with."""

    private_key: RSAPrivateKey
    certified_key: RSAPrivateKey
    certificate_sn: str
    root_sn: str
    strangers_key: RSAPrivateKey
    merchants: dict[str, Merchant]


def make_platform(folder: Path) -> None:
    """Make the platform's keys unless they are there."""
    if (folder / ROOT_FILE).exists():
        return
    root, plain, certified = make_key(), make_key(), make_key()
    write(folder / "alipay-public.key.pem", private_pem(plain))
    write(folder / "alipay-public.pub.pem", public_pem(plain))
    write(folder / "alipay-certified.key.pem", private_pem(certified))
    write(folder / "alipay-root.key.pem", private_pem(root))
    write(folder / "alipay-certified.crt", _issued(certified.public_key(), "Alipay (simulated)", root))
    write(folder / ROOT_FILE, _issued(root.public_key(), _ROOT_NAME, root))


def make_merchant(folder: Path, name: str) -> MerchantFiles:
    """The merchant's app; made unless it is there."""
    home = folder / MERCHANTS_DIR
    if not _merchant_file(folder, name).exists():
        key = make_key()
        app_id = f"2021{secrets.randbelow(10**12):012d}"
        seller_id = f"2088{secrets.randbelow(10**12):012d}"
        certificate = _issued(key.public_key(), f"{seller_id}-{app_id}", load_key(folder / "alipay-root.key.pem"))
        write(home / f"{name}.alipay.key.pem", private_pem(key))
        write(home / f"{name}.alipay.crt", certificate)
        files = MerchantFiles(
            name=name,
            app_id=app_id,
            seller_id=seller_id,
            private_key_file=str(home / f"{name}.alipay.key.pem"),
            public_key_file=str(folder / "alipay-public.pub.pem"),
            app_certificate_file=str(home / f"{name}.alipay.crt"),
            alipay_certificate_file=str(folder / "alipay-certified.crt"),
            root_certificates_file=str(folder / ROOT_FILE),
        )
        write(_merchant_file(folder, name), msgspec.json.format(msgspec.json.encode(files)))
    return load_merchant_files(folder, name)


def load_merchant_files(folder: Path, name: str) -> MerchantFiles:
    """Where a merchant's side stands."""
    return msgspec.json.decode(_merchant_file(folder, name).read_bytes(), type=MerchantFiles)


def load(folder: Path) -> PlatformKeys | None:
    """The platform's side of every merchant in the folder; None if it has no keys there."""
    if not (folder / ROOT_FILE).exists():
        return None
    names = sorted(path.name.removesuffix(ENDING) for path in (folder / MERCHANTS_DIR).glob(f"*{ENDING}"))
    merchants = [_load_merchant(load_merchant_files(folder, name)) for name in names]
    return PlatformKeys(
        private_key=load_key(folder / "alipay-public.key.pem"),
        certified_key=load_key(folder / "alipay-certified.key.pem"),
        certificate_sn=serial_number((folder / "alipay-certified.crt").read_bytes()),
        root_sn=root_serial_number((folder / ROOT_FILE).read_bytes()),
        strangers_key=load_key(folder / "alipay-root.key.pem"),
        merchants={merchant.app_id: merchant for merchant in merchants},
    )


_ROOT_NAME: Final = "Ant Financial Certification Authority R1 (simulated)"


def _issued(key: RSAPublicKey, common_name: str, root: RSAPrivateKey) -> bytes:
    """A certificate of the simulated authority, with names as Alipay's have."""

    def named(common: str) -> x509.Name:
        parts = {
            NameOID.COUNTRY_NAME: "CN",
            NameOID.ORGANIZATION_NAME: "Ant Financial (simulated)",
            NameOID.ORGANIZATIONAL_UNIT_NAME: "Certification Authority",
            NameOID.COMMON_NAME: common,
        }
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts.items()])

    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(named(_ROOT_NAME), named(common_name), key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + CERTIFICATE_LIFE)
    return builder.sign(root, SHA256()).public_bytes(Encoding.PEM)


def _merchant_file(folder: Path, name: str) -> Path:
    return folder / MERCHANTS_DIR / f"{name}{ENDING}"


def _load_merchant(files: MerchantFiles) -> Merchant:
    pem = Path(files.app_certificate_file).read_bytes()
    certificate = signing.load_certificate(pem, files.app_certificate_file)
    return Merchant(files.name, files.app_id, files.seller_id, certificate.public_key, serial_number(pem))
