"""A folder with the key files of an account at each of the three channels, and the configuration that names them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PublicFormat,
    pkcs12,
)
from cryptography.x509 import load_pem_x509_certificate

from tests.unit.unionpay_platform import certificate, key, private_pem

WECHATPAY = """
[channels.wechatpay]
appid = "wx1"
mchid = "1900000001"
merchant_serial = "1046900149"
private_key_file = "merchant.key"
merchant_certificate_file = "merchant.cer"
api_v3_key_file = "v3.key"
platform_certificates = ["platform.cer"]
"""
ALIPAY = """
[channels.alipay]
app_id = "2021000000000000"
seller_id = "2088000000000000"
private_key_file = "merchant.key"
public_key_file = "alipay.pub"
"""
ALIPAY_CERTIFICATES = """
[channels.alipay]
app_id = "2021000000000000"
seller_id = "2088000000000000"
private_key_file = "merchant.key"
app_certificate_file = "merchant.cer"
alipay_certificate_file = "two.cer"
root_certificates_file = "root.cer"
"""
UNIONPAY = """
[channels.unionpay]
merchant_id = "777290058110048"
pfx_file = "merchant.pfx"
pfx_password = "000000"
root_certificate_file = "root.cer"
middle_certificate_file = "middle.cer"
"""
ALL = WECHATPAY + ALIPAY + UNIONPAY


def fill(folder: Path) -> Path:
    """Write the files, all valid for more than a year; the folder."""
    public = key("alipay").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    files = {
        "merchant.key": private_pem("merchant"),
        "merchant.cer": dated("merchant", 400),
        "v3.key": b"v" * 32,
        "platform.cer": dated("platform", 400),
        "alipay.pub": public,
        "two.cer": dated("alipay", 400) + b"and its next one\n" + dated("alipay 2", 800),
        "root.cer": dated("root", 4000, ca=True),
        "middle.cer": dated("middle", 4000, ca=True, usage="key_cert_sign"),
        "merchant.pfx": pfx("merchant", b"000000"),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
    return folder


def dated(subject: str, days_left: float, *, ca: bool | None = None, usage: str = "") -> bytes:
    """A certificate of the root that was valid for a month, and is for so many days more."""
    now = datetime.now(UTC)
    return certificate(subject, ca=ca, usage=usage, born=now - timedelta(days=30), dies=now + timedelta(days=days_left))


def pfx(subject: str, password: bytes) -> bytes:
    """The key and its certificate as UnionPay gives them out."""
    lock = BestAvailableEncryption(password)
    return pkcs12.serialize_key_and_certificates(
        subject.encode(), key(subject), load_pem_x509_certificate(dated(subject, 400)), None, lock
    )


def date_in(days: float) -> str:
    """The date so many days from now, as messages write it."""
    return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%d")
