"""A merchant account at Alipay: what is loaded at start, and which file is to blame if it can not be."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from channels.alipay import Alipay, load_credentials
from channels.alipay_keys import root_serial_number, serial_number
from channels.contract import Paid
from channels.errors import KeyMaterialError
from channels.signing import DatedFile
from tests.unit.alipay_platform import ACCOUNT, APP_ID, ATTEMPT, NOW_S, SELLER_ID, STAMP, TRADE, answer, key, run, sent

QUERY = "alipay.trade.query"
PEM = key("app").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PUBLIC_PEM = key("alipay").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
NOT_AFTER = datetime(2031, 5, 6, tzinfo=UTC)
NOT_AFTER_S = int(NOT_AFTER.timestamp())
PLAIN = {
    "app_id": APP_ID,
    "seller_id": SELLER_ID,
    "private_key_pem": PEM,
    "public_key_pem": PUBLIC_PEM,
    "now_s": NOW_S,
}


def certificate(name: str, not_after: datetime = NOT_AFTER, serial: int = 7) -> bytes:
    """A self-signed certificate of one of the keys, valid for ten years before `NOT_AFTER`."""
    parts = [
        x509.NameAttribute(NameOID.COUNTRY_NAME, "CN"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test"),
        x509.NameAttribute(NameOID.COMMON_NAME, name),
    ]
    own, start = x509.Name(parts), NOT_AFTER - timedelta(3650)
    key_ = generate_private_key(SECP256R1()) if name == "curve" else key(name)
    builder = x509.CertificateBuilder(own, own, key_.public_key(), serial, start, not_after)
    return builder.sign(key_, SHA256()).public_bytes(Encoding.PEM)


ROOTS = certificate("curve") + b"\n\n" + certificate("root") + certificate("root", serial=8)
CERTIFIED = {
    **PLAIN,
    "public_key_pem": None,
    "app_certificate_pem": certificate("app"),
    "alipay_certificates_pem": {"old.crt": certificate("alipay"), "new.crt": certificate("renewed")},
    "root_certificates_pem": ROOTS,
}


def bare(pem: bytes, *, one_line: bool = True) -> bytes:
    body = pem.splitlines()[1:-1]
    return b"".join(body) if one_line else b"\n".join(body) + b"\n"


def test_credentials_of_the_plain_mode_name_no_certificates():
    credentials = load_credentials(**PLAIN)
    assert (credentials.app_cert_sn, credentials.root_cert_sn) == ("", "")
    one = Alipay(credentials)
    outcome, requests = run(one.query(ATTEMPT, STAMP), answer(QUERY, TRADE))
    assert type(outcome) is Paid
    assert one.account == ACCOUNT
    assert not {"app_cert_sn", "alipay_root_cert_sn"} & sent(requests[0]).keys()


def test_credentials_with_certificates_name_them_and_believe_each_of_alipays():
    credentials = load_credentials(**CERTIFIED)
    assert credentials.app_cert_sn == serial_number(certificate("app"))
    assert credentials.root_cert_sn == root_serial_number(ROOTS)
    assert credentials.root_cert_sn.count("_") == 1
    for name in ("alipay", "renewed"):
        reply = answer(QUERY, TRADE, by=name, alipay_cert_sn=serial_number(certificate(name)))
        assert type(run(Alipay(credentials).query(ATTEMPT, STAMP), reply)[0]) is Paid


def test_keys_may_be_the_bare_base64_that_alipays_tool_writes():
    traditional = key("app").private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    for private in (bare(PEM), bare(PEM, one_line=False), bare(traditional), traditional, bare(traditional) + b"\r\n"):
        credentials = load_credentials(**{**PLAIN, "private_key_pem": private, "public_key_pem": bare(PUBLIC_PEM)})
        assert credentials.private_key.private_numbers() == key("app").private_numbers()
        assert credentials.verification_keys[""] == key("alipay").public_key()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"app_id": ""}, "app_id: must be up to 32"),
        ({"app_id": "a b"}, "app_id: must be up to 32"),
        ({"seller_id": "20881011064993640156"}, "seller_id: must be 16 digits that begin with 2088"),
        ({"seller_id": "shop@example.com"}, "seller_id: must be"),
        ({"base_url": "https://openapi.alipay.com/gateway.do"}, "base_url: must be scheme, host and port"),
        ({"base_url": "openapi.alipay.com"}, "base_url: must be"),
        ({"base_url": ""}, "base_url: must be"),
        ({"qr_product": "QUICK_WAP_WAY"}, "qr_product: must be one of QR_CODE_OFFLINE, FACE_TO_FACE_PAYMENT"),
        ({"private_key_pem": b""}, "private_key_file: not an unencrypted private key"),
        ({"private_key_pem": b"AAAA"}, "private_key_file: not an unencrypted private key"),
        ({"private_key_pem": b"\xff\xfe"}, "private_key_file: not an unencrypted private key"),
        ({"public_key_pem": b"AAAA"}, "public_key_file: not a public key"),
        ({"public_key_pem": PEM}, "public_key_file: not a public key"),
        (
            {"public_key_pem": key("app").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)},
            "public_key_file: is the app's own public key",
        ),
        ({"public_key_pem": None}, "public_key_file: give Alipay's public key, or all of"),
        ({"app_certificate_pem": certificate("app")}, "public_key_file: give Alipay's public key, or all of"),
    ],
)
def test_what_is_wrong_with_the_plain_mode_is_named(change, message):
    with pytest.raises(KeyMaterialError, match=message):
        load_credentials(**{**PLAIN, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"public_key_pem": PUBLIC_PEM}, "an app signs in one of the two modes"),
        ({"alipay_certificates_pem": {}}, "an app signs in one of the two modes"),
        ({"root_certificates_pem": None}, "an app signs in one of the two modes"),
        ({"app_certificate_pem": b"x"}, "app_certificate_file: not a certificate"),
        ({"app_certificate_pem": certificate("alipay")}, "app_certificate_file: the private key does not belong"),
        ({"alipay_certificates_pem": {"old.crt": b""}}, r"old\.crt: not a certificate"),
        ({"alipay_certificates_pem": {"old.crt": certificate("curve")}}, r"old\.crt: not a certificate of an RSA key"),
        ({"root_certificates_pem": b"x"}, "root_certificates_file: holds no root certificate that RSA signed"),
        ({"root_certificates_pem": certificate("curve")}, "root_certificates_file: holds no root certificate"),
        (
            {"root_certificates_pem": b"\n".join(ROOTS.split(b"\n")[:-6] + ROOTS.split(b"\n")[-5:])},
            "root_certificates_file: holds something",
        ),
        ({"now_s": NOT_AFTER_S + 1}, "app_certificate_file: the certificate expired on 2031-05-06"),
        ({"now_s": NOT_AFTER_S - 3651 * 86400}, "app_certificate_file: the certificate is not valid before 2021-05-08"),
        (
            {"alipay_certificates_pem": {"old.crt": certificate("alipay", datetime(2025, 1, 2, tzinfo=UTC))}},
            r"old\.crt: the certificate expired on 2025-01-02",
        ),
    ],
)
def test_what_is_wrong_with_certificates_is_named_with_the_date(change, message):
    with pytest.raises(KeyMaterialError, match=message):
        load_credentials(**{**CERTIFIED, **change})


def test_a_path_is_named_where_there_is_one():
    paths = {"private_key_file": "/etc/holdfast/app.pem"}
    with pytest.raises(KeyMaterialError, match=r"^/etc/holdfast/app\.pem: "):
        load_credentials(**{**PLAIN, "private_key_pem": b"", "paths": paths})


def test_the_files_in_use_are_listed_with_their_dates():
    paths = {"private_key_file": "app.pem", "public_key_file": "alipay.pem"}
    assert load_credentials(**PLAIN, paths=paths).files == (
        DatedFile("app.pem", "the app's private key"),
        DatedFile("alipay.pem", "Alipay's public key"),
    )
    start_s = NOT_AFTER_S - 3650 * 86400
    assert load_credentials(**CERTIFIED).files == (
        DatedFile("private_key_file", "the app's private key"),
        DatedFile("app_certificate_file", "the app's certificate", start_s, NOT_AFTER_S),
        DatedFile("root_certificates_file", "Alipay's root certificates", start_s, NOT_AFTER_S),
        DatedFile("old.crt", "a certificate of Alipay", start_s, NOT_AFTER_S),
        DatedFile("new.crt", "a certificate of Alipay", start_s, NOT_AFTER_S),
    )


def test_a_slash_behind_the_address_is_not_doubled():
    assert load_credentials(**PLAIN, base_url="http://127.0.0.1:9999/").base_url == "http://127.0.0.1:9999"
