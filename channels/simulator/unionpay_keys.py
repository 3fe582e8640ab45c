"""The key material of a simulated UnionPay: authorities of its own, what it signs with, one account a merchant.

Each merchant's JSON file names the same fields as the `[channels.unionpay]` section of a configuration. The keys are
for loopback only.
"""

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from channels import signing
from channels.simulator.key_files import CERTIFICATE_LIFE, MERCHANTS_DIR, load_key, make_key, private_pem, write

ROOT_FILE = "unionpay-root.cer"
MIDDLE_FILE = "unionpay-middle.cer"
PLATFORM_FILE = "unionpay.json"

ROOT, MIDDLE = "SIMULATED CFCA CS CA", "SIMULATED CFCA OCA1"
OWN_NAME = "041@8310000000083040@中国银联股份有限公司@00016495"
OTHER_NAME = "041@8310000000000001@某某支付有限公司@00000001"
# What it signs with now and from the next change on; and what nobody may believe, all of one impostor's key.
SIGNERS = ("sign", "sign-new")
IMPOSTORS = ("forged", "wrong_name", "expired")


class MerchantFiles(msgspec.Struct, frozen=True):
    """Where a merchant's side of the credentials stands; paths are absolute."""

    name: str
    merchant_id: str
    private_key_file: str
    certificate_file: str
    root_certificate_file: str
    middle_certificate_file: str

    @property
    def merchant(self) -> str:
        """The account, as the simulator names it."""
        return self.merchant_id

    @property
    def account(self) -> str:
        """The account, as our channel names it."""
        return self.merchant_id

    def section(self) -> dict[str, object]:
        """The fields of `[channels.unionpay]`, without addresses."""
        return {name: getattr(self, name) for name in self.__struct_fields__ if name != "name"}


class Signer(msgspec.Struct, frozen=True):
    """A key with the certificate that goes along with what it signs: CRLF between its lines, nothing after the last."""

    private_key: RSAPrivateKey
    pem: str


class Merchant(msgspec.Struct, frozen=True):
    """A merchant account as the platform holds it: no private key. `cert_id` is its certificate's serial, decimal."""

    merchant_id: str
    cert_id: str
    public_key: RSAPublicKey


class PlatformKeys(msgspec.Struct, frozen=True):
    """All that the platform signs and verifies with."""

    signers: tuple[Signer, Signer]
    impostors: dict[str, Signer]
    merchants: dict[str, Merchant]


def make_platform(folder: Path) -> None:
    """Make the platform's keys unless they are there."""
    if (folder / PLATFORM_FILE).exists():
        return
    root, middle, impostor = make_key(), make_key(), make_key()
    write(folder / "unionpay-root.key.pem", private_pem(root))
    write(folder / "unionpay-middle.key.pem", private_pem(middle))
    write(folder / ROOT_FILE, _certificate(root, ROOT, root, ROOT, authority=True))
    write(folder / MIDDLE_FILE, _certificate(middle, MIDDLE, root, ROOT, authority=True))
    for name in SIGNERS:
        key = make_key()
        write(folder / f"unionpay-{name}.key.pem", private_pem(key))
        write(folder / f"unionpay-{name}.cer", _certificate(key, OWN_NAME, middle, MIDDLE))
    for name, pem in {
        "forged": _certificate(impostor, OWN_NAME, impostor, MIDDLE),
        "wrong_name": _certificate(impostor, OTHER_NAME, middle, MIDDLE),
        "expired": _certificate(impostor, OWN_NAME, middle, MIDDLE, ended_before=timedelta(days=1)),
    }.items():
        write(folder / f"unionpay-{name}.cer", pem)
    write(folder / "unionpay-impostor.key.pem", private_pem(impostor))
    write(folder / PLATFORM_FILE, b"{}")  # last: else it is remade


def make_merchant(folder: Path, name: str) -> MerchantFiles:
    """The merchant's account; made unless it is there."""
    home = folder / MERCHANTS_DIR
    if not _merchant_file(folder, name).exists():
        key, merchant_id = make_key(), f"7772900{secrets.randbelow(10**8):08d}"
        middle = load_key(folder / "unionpay-middle.key.pem")
        write(home / f"{name}.unionpay.key.pem", private_pem(key))
        write(
            home / f"{name}.unionpay.cer",
            _certificate(key, f"041@{merchant_id}@{name}@00000001"[:64], middle, MIDDLE),
        )
        files = MerchantFiles(
            name=name,
            merchant_id=merchant_id,
            private_key_file=str(home / f"{name}.unionpay.key.pem"),
            certificate_file=str(home / f"{name}.unionpay.cer"),
            root_certificate_file=str(folder / ROOT_FILE),
            middle_certificate_file=str(folder / MIDDLE_FILE),
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
    ending = ".unionpay.json"
    names = sorted(path.name.removesuffix(ending) for path in (folder / MERCHANTS_DIR).glob(f"*{ending}"))
    merchants = [_load_merchant(load_merchant_files(folder, name)) for name in names]
    now, new, impostor = (load_key(folder / f"unionpay-{name}.key.pem") for name in (*SIGNERS, "impostor"))
    return PlatformKeys(
        signers=(Signer(now, _sent(folder, SIGNERS[0])), Signer(new, _sent(folder, SIGNERS[1]))),
        impostors={name: Signer(impostor, _sent(folder, name)) for name in IMPOSTORS},
        merchants={merchant.merchant_id: merchant for merchant in merchants},
    )


def _merchant_file(folder: Path, name: str) -> Path:
    return folder / MERCHANTS_DIR / f"{name}.unionpay.json"


def _load_merchant(files: MerchantFiles) -> Merchant:
    certificate = signing.load_certificate(Path(files.certificate_file).read_bytes(), files.certificate_file)
    return Merchant(files.merchant_id, str(int(certificate.serial, 16)), certificate.public_key)


def _sent(folder: Path, name: str) -> str:
    """A certificate as it goes along with a message."""
    return "\r\n".join((folder / f"unionpay-{name}.cer").read_text().splitlines())


def _certificate(
    key: RSAPrivateKey,
    name: str,
    issuer_key: RSAPrivateKey,
    issuer: str,
    *,
    authority: bool = False,
    ended_before: timedelta | None = None,
) -> bytes:
    """A certificate as the platform's authorities make them: serials of ten hex digits."""
    ends = datetime.now(UTC) + (CERTIFICATE_LIFE if ended_before is None else -ended_before)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number((1 << 36) | secrets.randbits(36))
        .not_valid_before(min(datetime.now(UTC), ends) - timedelta(days=365))
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    return builder.sign(issuer_key, SHA256()).public_bytes(Encoding.PEM)
