"""UnionPay: what an account needs, and what is said when it is wrong."""

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12

from channels.contract import (
    Paid,
    Unknown,
)
from channels.errors import KeyMaterialError
from tests.unit.unionpay_platform import (
    MER_ID,
    NOW_S,
    PAID,
    STAMP,
    answer,
    attempt,
    certificate,
    channel,
    credentials,
    key,
    merchant_pem,
    run,
    sign_pem,
)


def refusal(**changes) -> str:
    with pytest.raises(KeyMaterialError) as caught:
        credentials(**changes)
    return str(caught.value)


def test_credentials_tell_which_files_are_in_use_and_until_when():
    files = credentials(paths={"certificate_file": "/keys/merchant.cer"}).files
    assert [(file.where, file.what) for file in files] == [
        ("private_key_file", "the merchant's private key"),
        ("/keys/merchant.cer", "the merchant's certificate"),
        ("root.cer", "a root certificate of UnionPay"),
        ("middle.cer", "a middle certificate of UnionPay"),
    ]
    assert files[1].not_after_s == files[3].not_after_s == 2_082_758_400


def test_credentials_do_not_print_their_key():
    assert repr(credentials()) == f"Credentials(mer_id='{MER_ID}', cert_id='69903319369', private_key=***)"


def test_a_pfx_is_as_good_as_a_pair():

    holder = x509.load_pem_x509_certificate(merchant_pem())
    lock = BestAvailableEncryption(b"000000")
    pfx = pkcs12.serialize_key_and_certificates(None, key("merchant"), holder, None, lock)
    alone = {"private_key_pem": None, "certificate_pem": None, "pfx": pfx}
    assert credentials(**alone, pfx_password="000000").cert_id == "69903319369"
    assert refusal(**alone).startswith("pfx_file: not a PKCS#12 file, or the password is wrong")
    assert refusal(pfx=pfx).startswith("private_key_file, certificate_file: give both of them, or pfx_file alone")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mer_id": "77729005811004"}, "mer_id: must be 15"),
        ({"mer_id": "77729005811004８"}, "mer_id: must be 15"),
        ({"private_key_pem": None}, "private_key_file, certificate_file: give both"),
        ({"private_key_pem": b"rubbish"}, "private_key_file: not an unencrypted private key"),
        ({"certificate_pem": b"rubbish"}, "certificate_file: not a certificate"),
        ({"certificate_pem": sign_pem()}, "certificate_file: the private key does not belong"),
        ({"now_s": NOW_S + 10 * 365 * 86400}, "certificate_file: the certificate expired on 2036-01-01"),
        ({"now_s": NOW_S - 365 * 86400}, "certificate_file: the certificate is not valid before 2026-01-01"),
        ({"root_certificates": {"r.cer": b"rubbish"}}, "r.cer: not a certificate"),
        ({"root_certificates": {}}, "certificates: 1 root at least"),
        ({"middle_certificates": {"m.cer": sign_pem()}}, "m.cer: no root or middle"),
    ],
)
def test_wrong_key_material_is_refused_by_name(changes, message):
    assert refusal(**changes).startswith(message)


def test_an_expired_authority_is_refused_with_its_date():

    old = certificate("middle", ca=True, dies=datetime(2026, 6, 1, tzinfo=UTC))
    assert refusal(middle_certificates={"m.cer": old}) == "m.cer: the certificate expired on 2026-06-01"


def test_a_root_alone_is_enough_if_it_signs_itself():
    known = answer(PAID, pem=certificate("sign", "root", common_name="041@8310000000083040@中国银联股份有限公司@0001"))
    assert isinstance(run(channel(middle_certificates={}).query(attempt(), STAMP), known)[0], Paid)
    assert isinstance(run(channel(middle_certificates={}).query(attempt(), STAMP), answer(PAID))[0], Unknown)
