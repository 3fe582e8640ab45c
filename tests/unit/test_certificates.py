"""Chains checked by hand, and PKCS#12 files. Who signs what is built with `cryptography`; SHA-1, which it does not sign
with any more, by openssl."""

import shutil
import subprocess
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, pkcs12

from channels import certificates, signing
from channels.certificates import Doubt, Holder, load_authorities, load_pkcs12, require_pair, validate
from channels.errors import KeyMaterialError
from tests.unit.unionpay_platform import (
    OWNER,
    certificate,
    key,
    merchant_pem,
    middle_pem,
    private_pem,
    root_pem,
    sign_pem,
)

AUTHORITIES = load_authorities({"root.cer": root_pem()}, {"middle.cer": middle_pem()})
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl on this machine")


def utc_s(year: int) -> int:
    return int(datetime(year, 1, 1, tzinfo=UTC).timestamp())


def reason(pem: bytes, authorities=AUTHORITIES) -> str:
    doubt = validate(pem, authorities)
    assert isinstance(doubt, Doubt)
    return doubt.reason


def refusal(roots: dict[str, bytes], middles: dict[str, bytes]) -> str:
    with pytest.raises(KeyMaterialError) as caught:
        load_authorities(roots, middles)
    return str(caught.value)


# --- chains


def test_a_certificate_of_the_middle_authority_is_trusted_in_its_owners_name():
    holder = validate(sign_pem(), AUTHORITIES)
    assert isinstance(holder, Holder)
    assert holder.common_name == OWNER
    assert holder.certificate.public_key.public_numbers() == key("sign").public_key().public_numbers()


def test_a_certificate_of_the_root_itself_is_trusted_too():
    assert isinstance(validate(certificate("sign", "root"), AUTHORITIES), Holder)


@pytest.mark.parametrize(
    "text", [sign_pem().replace(b"\n", b"\r\n"), b"words before\n" + sign_pem(), sign_pem().strip()]
)
def test_how_the_pem_is_written_does_not_matter(text):
    assert isinstance(validate(text, AUTHORITIES), Holder)


def test_the_dates_are_those_the_whole_chain_has_in_common():
    short = certificate("middle", ca=True, born=datetime(2027, 1, 1, tzinfo=UTC), dies=datetime(2028, 1, 1, tzinfo=UTC))
    holder = validate(sign_pem(), load_authorities({"root": root_pem()}, {"middle": short}))
    assert isinstance(holder, Holder)
    assert (holder.certificate.not_before_s, holder.certificate.not_after_s) == (utc_s(2027), utc_s(2028))


@pytest.mark.parametrize(
    "forged",
    [
        certificate("stranger", "stranger", common_name=OWNER),  # signed by itself
        certificate("stranger", "middle", common_name=OWNER, issued_by="stranger"),  # in the authority's name
        certificate("stranger", "merchant", common_name=OWNER),  # issued by one who may not issue
        certificate("stranger", "elsewhere", common_name=OWNER, issued_by="middle"),  # in a name that is no authority's
    ],
)
def test_a_certificate_that_no_authority_has_issued_is_not_trusted(forged):
    assert "none of the authorities" in reason(forged)


def test_a_certificate_under_a_certificate_of_ours_that_is_no_authority_is_not_trusted():
    """The merchant's own certificate is genuine; if it counted as an issuer, every merchant could sign for UnionPay."""
    assert "none of the authorities" in reason(certificate("sign", "merchant", common_name=OWNER))
    middles = {"middle.cer": middle_pem(), "merchant.cer": merchant_pem()}
    assert refusal({"root.cer": root_pem()}, middles).startswith("merchant.cer: not an authority's certificate")


def test_a_certificate_not_made_for_signing_messages_is_not_trusted():
    assert "not made for signing" in reason(certificate("sign", "middle", usage="key_encipherment"))


def test_a_condition_nobody_understands_is_not_overlooked():
    strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    assert "not made for signing" in reason(certificate("sign", "middle", extension=strange))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"-----BEGIN CERTIFICATE-----\r\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\r\nAAAA\r\n-----END CERTIFICATE-----",
        sign_pem()[:600] + b"\n-----END CERTIFICATE-----",
        private_pem("sign"),
        b"\xff\x00" * 100,
        b"A" * 10_000,
    ],
)
def test_what_is_no_certificate_is_not_trusted(text):
    assert reason(text)


def test_a_certificate_with_any_byte_changed_is_not_trusted_and_does_no_harm():
    der = bytearray(x509.load_pem_x509_certificate(sign_pem()).public_bytes(Encoding.DER))
    for place in range(0, len(der), 3):
        changed = bytearray(der)
        changed[place] ^= 0x81
        pem = b"-----BEGIN CERTIFICATE-----\n" + b64encode(changed) + b"\n-----END CERTIFICATE-----"
        assert isinstance(validate(pem, AUTHORITIES), Doubt), place


def test_an_issued_certificate_without_an_rsa_key_or_with_a_short_one_is_not_trusted(monkeypatch):
    elliptic = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.load_pem_x509_certificate(middle_pem()).subject)
        .public_key(generate_ec_key(SECP256R1()).public_key())
        .serial_number(5)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2036, 1, 1, tzinfo=UTC))
        .sign(key("middle"), SHA256())
    )
    assert "not a certificate of an RSA key" in reason(elliptic.public_bytes(Encoding.PEM))
    monkeypatch.setattr(signing, "KEY_BITS_MIN", 3072)
    assert "2048 bits" in reason(sign_pem())


# --- authorities


def test_middle_certificates_are_led_to_a_root_in_any_order_and_depth():
    lower = certificate("lower", "middle", ca=True)
    authorities = load_authorities({"root": root_pem()}, {"a": lower, "b": middle_pem()})
    assert isinstance(validate(certificate("sign", "lower"), authorities), Holder)


def test_an_authority_may_have_two_keys_under_one_name():
    renewed = certificate("middle2", common_name="TEST middle", ca=True)
    authorities = load_authorities({"root": root_pem()}, {"new": renewed, "old": middle_pem()})
    assert isinstance(validate(sign_pem(), authorities), Holder)
    assert isinstance(validate(certificate("sign", "middle", issued_by="middle2"), authorities), Holder)


def test_a_limit_on_depth_is_kept():
    shallow = certificate("middle", ca=True, path_length=0)
    authorities = load_authorities({"root": root_pem()}, {"middle": shallow})
    assert isinstance(validate(sign_pem(), authorities), Holder)
    lower = certificate("lower", "middle", ca=True)
    assert refusal({"root": root_pem()}, {"middle": shallow, "lower": lower}).startswith("lower: no root")


def test_authorities_that_lead_nowhere_or_are_none_are_refused_by_name():
    assert refusal({}, {"middle.cer": middle_pem()}).startswith("certificates: 1 root at least")
    foreign = certificate("foreign", ca=True, issued_by="stranger")
    assert refusal({"root.cer": root_pem()}, {"foreign.cer": foreign}).startswith("foreign.cer: no root or middle")
    assert refusal({"root.cer": sign_pem()}, {}) == (
        "root.cer: not an authority's certificate: it may not issue others"
    )
    assert refusal({"root.cer": b"rubbish"}, {}) == "root.cer: not a certificate in PEM form"
    many = {str(number): root_pem() for number in range(certificates.AUTHORITIES_MAX + 1)}
    assert "16 in all at most" in refusal(many, {})


def test_an_authority_that_may_not_sign_certificates_is_refused():
    assert "may not issue" in refusal({"root": certificate("root", ca=True, usage="digital_signature")}, {})
    assert "may not issue" in refusal({"root": certificate("root", ca=False)}, {})


@needs_openssl
def test_chains_signed_with_sha1_are_followed_and_with_md5_are_not(tmp_path: Path):
    """UnionPay's test authorities sign with SHA-1."""
    assert isinstance(validate(_by_openssl(tmp_path, "sha1"), AUTHORITIES), Holder)
    assert "none of the authorities" in reason(_by_openssl(tmp_path, "md5"))


def _by_openssl(folder: Path, digest: str) -> bytes:
    for name, content in {
        "sign.pem": private_pem("sign"),
        "middle.pem": private_pem("middle"),
        "middle.cer": middle_pem(),
    }.items():
        (folder / name).write_bytes(content)
    request = ["openssl", "req", "-new", "-key", "sign.pem", "-subj", "/CN=a@b@c", "-out", "sign.csr"]
    issue = ["openssl", "x509", "-req", "-in", "sign.csr", "-CA", "middle.cer", "-CAkey", "middle.pem", f"-{digest}"]
    issue += ["-set_serial", "7", "-days", "30"]
    subprocess.run(request, cwd=folder, check=True, capture_output=True)
    return subprocess.run(issue, cwd=folder, check=True, capture_output=True).stdout


# --- PKCS#12


def _pfx(password: bytes) -> bytes:
    holder = x509.load_pem_x509_certificate(merchant_pem())
    lock = BestAvailableEncryption(password) if password else NoEncryption()
    return pkcs12.serialize_key_and_certificates(b"merchant", key("merchant"), holder, None, lock)


@pytest.mark.parametrize("password", [b"000000", b""])
def test_a_pfx_gives_its_key_and_its_certificate(password):
    private_key, pem = load_pkcs12(_pfx(password), password, "merchant.pfx")
    assert private_key.private_numbers() == key("merchant").private_numbers()
    assert pem == merchant_pem()


@needs_openssl
def test_a_pfx_of_the_old_kind_is_read(tmp_path: Path):
    """40-bit RC2, which is how UnionPay's own look."""
    (tmp_path / "key.pem").write_bytes(private_pem("merchant"))
    (tmp_path / "merchant.cer").write_bytes(merchant_pem())
    command = ["openssl", "pkcs12", "-export", "-legacy", "-inkey", "key.pem", "-in", "merchant.cer"]
    made = subprocess.run([*command, "-passout", "pass:000000"], cwd=tmp_path, check=False, capture_output=True)
    if made.returncode:
        pytest.skip("this openssl has no legacy algorithms")
    assert load_pkcs12(made.stdout, b"000000", "merchant.pfx")[1] == merchant_pem()


@pytest.mark.parametrize(("content", "password"), [(_pfx(b"000000"), b"111111"), (b"rubbish", b""), (b"", b"")])
def test_a_pfx_that_can_not_be_opened_is_refused_by_name(content, password):
    with pytest.raises(KeyMaterialError, match=r"^merchant\.pfx: not a PKCS#12 file, or the password is wrong$"):
        load_pkcs12(content, password, "merchant.pfx")


def test_a_pfx_without_a_key_is_refused_by_name():
    holder = x509.load_pem_x509_certificate(merchant_pem())
    empty = pkcs12.serialize_key_and_certificates(None, None, None, [holder], BestAvailableEncryption(b"1"))
    with pytest.raises(KeyMaterialError, match=r"^a\.pfx: holds no private key"):
        load_pkcs12(empty, b"1", "a.pfx")


def test_a_key_and_a_certificate_that_do_not_belong_together_are_refused():
    holder = signing.load_certificate(merchant_pem(), "c")
    require_pair(key("merchant"), holder, "c")
    with pytest.raises(KeyMaterialError, match=r"^c: the private key does not belong"):
        require_pair(key("sign"), holder, "c")
