"""The key material of a simulated WeChat Pay: the platform's own keys and one account a merchant, as files.

Each merchant's JSON file names the same fields as the `[channels.wechatpay]` section of a configuration. The keys are
for loopback only.
"""

import json
import secrets
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from channels import signing
from channels.simulator.key_files import (
    MERCHANTS_DIR,
    load_key,
    make_key,
    private_pem,
    public_pem,
    self_signed,
    write,
)

PLATFORM_FILE = "wechatpay.json"


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

    @property
    def merchant(self) -> str:
        """The account, as the simulator names it."""
        return self.mchid

    @property
    def account(self) -> str:
        """The account, as our channel names it."""
        return f"{self.mchid}/{self.appid}"

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


class PlatformKeys(msgspec.Struct, frozen=True):
    """All that the platform signs, verifies and seals with. The second certificate is used while rotating."""

    public_key_id: str
    private_key: RSAPrivateKey
    certificates: tuple[PlatformCertificate, PlatformCertificate]
    merchants: dict[str, Merchant]


def make_platform(folder: Path) -> None:
    """Make the platform's keys unless they are there."""
    if (folder / PLATFORM_FILE).exists():
        return
    for number in (1, 2):
        key = make_key()
        write(folder / f"platform-{number}.key.pem", private_pem(key))
        write(folder / f"platform-{number}.cert.pem", self_signed(key, "Tenpay.com sign (simulated)"))
    key = make_key()
    write(folder / "wechatpay-public.key.pem", private_pem(key))
    write(folder / "wechatpay-public.pub.pem", public_pem(key))
    public_key_id = f"PUB_KEY_ID_01{secrets.randbelow(10**32):032d}"
    write(folder / PLATFORM_FILE, json.dumps({"public_key_id": public_key_id}).encode())  # last: else it is remade


def make_merchant(folder: Path, name: str) -> MerchantFiles:
    """The merchant's account; made unless it is there."""
    home = folder / MERCHANTS_DIR
    if not _merchant_file(folder, name).exists():
        key = make_key()
        certificate_pem = self_signed(key, name)
        write(home / f"{name}.key.pem", private_pem(key))
        write(home / f"{name}.cert.pem", certificate_pem)
        write(home / f"{name}.api_v3_key", secrets.token_hex(16).encode())
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
        write(_merchant_file(folder, name), msgspec.json.format(msgspec.json.encode(files)))
    return load_merchant_files(folder, name)


def load_merchant_files(folder: Path, name: str) -> MerchantFiles:
    """Where a merchant's side stands."""
    return msgspec.json.decode(_merchant_file(folder, name).read_bytes(), type=MerchantFiles)


def load(folder: Path) -> PlatformKeys | None:
    """The platform's side of every merchant in the folder; None if it has no keys there."""
    if not (folder / PLATFORM_FILE).exists():
        return None
    ending = ".wechatpay.json"
    names = sorted(path.name.removesuffix(ending) for path in (folder / MERCHANTS_DIR).glob(f"*{ending}"))
    merchants = [_load_merchant(load_merchant_files(folder, name)) for name in names]
    return PlatformKeys(
        public_key_id=json.loads((folder / PLATFORM_FILE).read_bytes())["public_key_id"],
        private_key=load_key(folder / "wechatpay-public.key.pem"),
        certificates=(_load_certificate(folder, 1), _load_certificate(folder, 2)),
        merchants={merchant.mchid: merchant for merchant in merchants},
    )


def _merchant_file(folder: Path, name: str) -> Path:
    return folder / MERCHANTS_DIR / f"{name}.wechatpay.json"


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
    key = load_key(folder / f"platform-{number}.key.pem")
    return PlatformCertificate(certificate.serial, key, pem, certificate.not_before_s, certificate.not_after_s)
