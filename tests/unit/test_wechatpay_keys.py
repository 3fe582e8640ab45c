"""A merchant account at WeChat Pay: what is loaded at start, and which file is to blame if it can not be."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from channels.contract import Paid
from channels.errors import KeyMaterialError
from channels.signing import DatedFile
from channels.wechatpay import WeChatPay, load_credentials
from tests.unit.wechatpay_platform import (
    API_V3_KEY,
    APPID,
    ATTEMPT,
    MCHID,
    NOT_AFTER,
    NOW_S,
    PUBLIC_KEY_ID,
    STAMP,
    TRADE,
    answer,
    certificate,
    key,
    run,
)

PEM = key("merchant").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PUBLIC_PEM = key("public").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
FILES = {
    "mchid": MCHID,
    "appid": APPID,
    "merchant_serial": "ABCDEF",
    "private_key_pem": PEM,
    "api_v3_key": API_V3_KEY,
    "public_key_id": PUBLIC_KEY_ID,
    "public_key_pem": PUBLIC_PEM,
    "platform_certificates_pem": {"platform.pem": certificate("certificate")},
    "now_s": NOW_S,
}


def test_credentials_from_files_verify_by_both_kinds_of_key():
    credentials = load_credentials(**FILES)
    assert credentials.verification_keys.keys() == {PUBLIC_KEY_ID, "BEEF"}
    outcome, _ = run(WeChatPay(credentials).query(ATTEMPT, STAMP), answer(TRADE, serial="BEEF", by="certificate"))
    assert type(outcome) is Paid


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"api_v3_key": b"short"}, "api_v3_key: must be 32 bytes, has 5"),
        ({"private_key_pem": b""}, "private_key_file: not an unencrypted private key"),
        ({"public_key_pem": b""}, "public_key_file: not a public key"),
        ({"public_key_pem": None}, "public_key_id: it and the public key file go together"),
        ({"public_key_id": None, "public_key_pem": None, "platform_certificates_pem": {}}, "public_key_id: give"),
        ({"now_s": int(NOT_AFTER.timestamp()) + 1}, r"platform\.pem: the certificate expired on 2031-05-06"),
    ],
)
def test_bad_credentials_are_refused_naming_the_field(change, message):
    with pytest.raises(KeyMaterialError, match=f"^{message}"):
        load_credentials(**{**FILES, **change})


def test_credentials_do_not_show_their_secrets():
    assert API_V3_KEY.decode() not in repr(load_credentials(**FILES))


# --- files and their dates

EXPIRED = certificate("certificate", NOT_AFTER - timedelta(3600))
START_S, END_S = int((NOT_AFTER - timedelta(3650)).timestamp()), int(NOT_AFTER.timestamp())
PATHS = {f"{name}_file": f"/etc/pay/{name}.pem" for name in ("private_key", "public_key", "merchant_certificate")}
OWN = {"merchant_serial": "00abcdef", "merchant_certificate_pem": certificate("merchant", serial=0xABCDEF)}


def test_every_file_is_listed_with_its_dates():
    assert load_credentials(**{**FILES, **OWN, "paths": PATHS}).files == (
        DatedFile("/etc/pay/private_key.pem", "the merchant's private key"),
        DatedFile("api_v3_key_file", "the APIv3 key"),
        DatedFile("/etc/pay/merchant_certificate.pem", "the merchant's certificate", START_S, END_S),
        DatedFile("platform.pem", "a platform certificate", START_S, END_S),
        DatedFile("/etc/pay/public_key.pem", "WeChat Pay's public key"),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"private_key_pem": PUBLIC_PEM}, "/etc/pay/private_key.pem: not an unencrypted private key"),
        ({"public_key_pem": PEM}, "/etc/pay/public_key.pem: not a public key"),
        ({"platform_certificates_pem": {"/etc/pay/p.pem": EXPIRED}}, "/etc/pay/p.pem: the certificate expired on 2021"),
        ({"now_s": START_S - 1}, "/etc/pay/merchant_certificate.pem: the certificate is not valid before 2021-05-08"),
        ({"merchant_certificate_pem": b"x"}, "/etc/pay/merchant_certificate.pem: not a certificate"),
        (
            {"merchant_serial": "ABC"},
            "/etc/pay/merchant_certificate.pem: its serial is ABCDEF, merchant_serial says ABC",
        ),
        (
            {"merchant_certificate_pem": certificate("public", serial=0xABCDEF)},
            "/etc/pay/merchant_certificate.pem: is not the certificate of the private key",
        ),
    ],
)
def test_a_bad_file_is_named_by_its_path(change, message):
    with pytest.raises(KeyMaterialError, match=f"^{message}"):
        load_credentials(**{**FILES, **OWN, "paths": PATHS, **change})
