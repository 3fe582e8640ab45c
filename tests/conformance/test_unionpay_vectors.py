"""Messages that others made: of UnionPay's real test gateway, and of a port of UnionPay's SDK with its own authorities.

The genuine messages are signed with a certificate of 2020 to 2025, so they are read with their own clock. The
authorities above it are not among the vectors: in their place this one certificate is vouched for, and no other.
"""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from msgspec.structs import replace

from channels import certificates, moments, signing, unionpay_bill, unionpay_wire
from channels.certificates import Doubt, Holder
from channels.contract import (
    Accepted,
    AttemptKey,
    ChannelPayment,
    ChannelRefund,
    NotFound,
    Paid,
    PaymentRequest,
    RefundKey,
    RefundKnown,
    RefundRequest,
    RefundState,
    RejectReason,
    Response,
    RowKind,
    Stamp,
    StatementFile,
    StatementRow,
    Unknown,
)
from channels.errors import NotificationRejected
from channels.simulator import unionpay_requests as requests
from channels.simulator.platform import Incoming
from channels.simulator.unionpay_keys import Merchant, PlatformKeys, Signer
from channels.simulator.unionpay_requests import Download, No, Query, Return, Sale
from channels.unionpay import Credentials, UnionPay

VECTORS = Path(__file__).parent / "vectors"
REAL = json.loads((VECTORS / "unionpay_real_testenv.json").read_bytes())
PEER = json.loads((VECTORS / "unionpay_peer_playniuniu_py.json").read_bytes())
OWN_KEY = generate_private_key(public_exponent=65537, key_size=2048)
REAL_MER_ID = "777290058167151"


def at(text: str) -> int:
    moment_s = moments.of_compact(text)
    assert moment_s is not None
    return moment_s


PEER_CLOCK_S = at("20261123000000")
ANSWERS = {answer["txnType"]: answer for answer in REAL["responses"]}
NOTICE = REAL["notifications"][0]


def credentials(mer_id: str, authorities: tuple[certificates.Authority, ...]) -> Credentials:
    return Credentials(mer_id, OWN_KEY, "69903319369", authorities, "https://g.example", "https://f.example")


def outcome(flow, *answers: Response):
    left = list(answers)
    try:
        next(flow)
        while True:
            flow.send(left.pop(0))
    except StopIteration as stop:
        return stop.value


def rejection(channel: UnionPay, body: bytes, now_s: int) -> RejectReason:
    with pytest.raises(NotificationRejected) as caught:
        channel.notification({}, body, now_s)
    return caught.value.reason


# --- what is signed, and by whom


def as_bytes(fields: dict[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in fields.items()}


def signed_messages() -> dict[str, tuple[dict[str, str], str, str]]:
    """Every signed message of the vectors: its fields, the certificate of whoever signed it, the recorded digest."""
    messages = {}
    for number, request in enumerate(REAL["requests"]):
        messages[f"real request {number}"] = (request["fields"], REAL["merchant_cert_pem"], request["sha256_hex"])
    for message in (*REAL["responses"], *REAL["notifications"]):
        name = f"real {'answer' if 'raw_body_utf8' in message else 'notification'} {message['fields']['txnType']}"
        messages[name] = (message["fields"], message["fields"]["signPubKeyCert"], message["sha256_hex"])
    for number, check in enumerate(PEER["checks"]):
        messages[f"peer request {number}"] = (check["params"], PEER["keys"]["up_mch_cert.pem"], check["sha256_hex"])
    form = PEER["results"]["front_form"]
    messages["peer form"] = (form, PEER["keys"]["up_mch_cert.pem"], "")
    notification = PEER["notification"]
    fields = notification["fields"]
    messages["peer notification"] = (fields, fields["signPubKeyCert"], notification["sha256_hex"])
    return messages


@pytest.mark.parametrize("name", signed_messages())
def test_a_recorded_signature_is_the_one_over_what_we_would_sign(name):
    """PKCS#1 v1.5 gives one signature a key and text: what verifies is what we would have made with that key."""
    fields, pem, sha256_hex = signed_messages()[name]
    text = unionpay_wire.signed_text(as_bytes(fields))
    assert text.decode() == (sha256_hex or text.decode())
    certificate = signing.load_certificate(pem.encode(), name)
    assert signing.verify(certificate.public_key, text, fields["signature"])
    for field in fields:
        changed = as_bytes({**fields, field: fields[field] + "0"})
        if field != "signature":
            assert not signing.verify(certificate.public_key, unionpay_wire.signed_text(changed), fields["signature"])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl on this machine")
def test_our_signature_is_openssls_byte_for_byte(tmp_path):
    attempt = AttemptKey("ORD20261121000001", "web", at("20261121100000"), at("20261121101500"))
    request = PaymentRequest(attempt, 100, "CNY", "x", PEER["results"]["front_form"]["backUrl"])
    made = outcome(UnionPay(credentials(PEER["merId"], ())).pay(request, Stamp(at("20261121100001"), "n" * 32)))
    fields = json.loads(made.credential.value)["fields"]
    signature = fields.pop("signature")
    key_file = tmp_path / "key.pem"
    key_file.write_bytes(OWN_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    joined = "&".join(f"{name}={fields[name]}" for name in sorted(fields)).encode()
    digest = ["openssl", "dgst", "-sha256"]
    inner = subprocess.run([*digest, "-r"], input=joined, check=True, capture_output=True).stdout[:64]
    made_by_openssl = subprocess.run([*digest, "-sign", key_file], input=inner, check=True, capture_output=True).stdout
    assert base64.b64encode(made_by_openssl).decode() == signature


def test_our_form_says_what_the_peers_form_says():
    """Beside the signature, which is another key's, and frontUrl and the order of fields, which are free."""
    theirs = dict(PEER["results"]["front_form"])
    attempt = AttemptKey(theirs["orderId"], "web", at(theirs["txnTime"]), at(theirs["payTimeout"]))
    request = PaymentRequest(attempt, 100, "CNY", "", theirs["backUrl"], theirs["frontUrl"])
    made = outcome(UnionPay(credentials(PEER["merId"], ())).pay(request, Stamp(at(theirs["txnTime"]), "n" * 32)))
    ours = json.loads(made.credential.value)["fields"]
    assert {**ours, "signature": ""} == {**theirs, "signature": ""}


# --- UnionPay's real test gateway


@pytest.fixture
def real(monkeypatch) -> UnionPay:
    """A channel for which this one certificate is vouched for, in place of its absent authorities."""
    genuine = NOTICE["fields"]["signPubKeyCert"].encode()
    name = "041@8310000000083040@中国银联股份有限公司@00016495"

    def vouched(pem: bytes, _authorities: object) -> Holder | Doubt:
        return Holder(name, signing.load_certificate(pem, "vector")) if pem == genuine else Doubt("another one")

    assert f"CN={name}" in REAL["sign_cert_info"]
    monkeypatch.setattr(certificates, "validate", vouched)
    return UnionPay(credentials(REAL_MER_ID, ()))


def real_answer(txn_type: str) -> Response:
    return Response(200, {}, ANSWERS[txn_type]["raw_body_utf8"].encode())


def test_the_real_answer_to_a_query_is_the_payment(real):
    started_s = at("20240105145046")
    attempt = AttemptKey("pay20240105145046", "web", started_s, started_s + 1800)
    for body in (ANSWERS["01"]["raw_body_utf8"], ANSWERS["01"]["raw_body_utf8"] + "\n"):
        found = outcome(real.query(attempt, Stamp(started_s + 60, "n" * 32)), Response(200, {}, body.encode()))
        payment = ChannelPayment(
            channel="unionpay",
            account=REAL_MER_ID,
            out_trade_no="pay20240105145046",
            channel_transaction="442401051450467846498",
            amount=1,
            currency="CNY",
            success_at_s=started_s,
        )
        assert found == Paid(payment)


def test_the_real_answer_is_not_believed_after_its_certificate_ended(real):
    started_s = at("20240105145046")
    attempt = AttemptKey("pay20240105145046", "web", started_s, started_s + 1800)
    late = outcome(real.query(attempt, Stamp(at("20250801000000"), "n" * 32)), real_answer("01"))
    assert isinstance(late, Unknown)
    assert "out of date" in late.reason


@pytest.mark.parametrize(
    "part", [(b"\r\n", b"\n"), (b"respCode=00", b"respCode=34"), (b"+", b" "), (b"txnAmt=1&", b"")]
)
def test_the_real_answer_with_anything_changed_is_not_believed(real, part):
    started_s = at("20240105145046")
    attempt = AttemptKey("pay20240105145046", "web", started_s, started_s + 1800)
    changed = ANSWERS["01"]["raw_body_utf8"].encode().replace(*part)
    found = outcome(real.query(attempt, Stamp(started_s, "n" * 32)), Response(200, {}, changed))
    assert isinstance(found, Unknown)


@pytest.mark.parametrize(
    ("verb", "txn_type", "number", "txn_time", "original", "made"),
    [
        ("void", "31", "cancelpay20240105164725", "20240105164725", "652401051647252574008", "652401051647252421528"),
        ("refund", "04", "refundpay20240105165842", "20240105165842", "052401051658427862748", "052401051658427863998"),
    ],
)
def test_the_real_answers_to_a_void_and_a_refund_say_that_they_were_taken(
    real, verb, txn_type, number, txn_time, original, made
):
    key = RefundKey(number, at(txn_time), "pay20240105145046", original)
    request = RefundRequest(key, 1, 1, "CNY", "r", "https://yansongda.cn/unipay/notify")
    known = outcome(getattr(real, verb)(request, Stamp(at(txn_time), "n" * 32)), real_answer(txn_type))
    assert known == RefundKnown(
        ChannelRefund("unionpay", REAL_MER_ID, number, RefundState.PROCESSING, channel_refund=made, amount=1)
    )


def test_the_real_notification_is_the_payment(real):
    now_s = at("20220908132300")
    assert real.notification({}, NOTICE["form_urlencoded"].encode(), now_s) == ChannelPayment(
        channel="unionpay",
        account=REAL_MER_ID,
        out_trade_no="yansongda20220908132206",
        channel_transaction="782209081322060674028",
        amount=1,
        currency="CNY",
        success_at_s=at("20220908132206"),
    )
    assert rejection(real, NOTICE["form_urlencoded"].encode(), at("20250801000000")) is RejectReason.BAD_SIGNATURE
    normalised = NOTICE["form_urlencoded"].replace("%0D%0A", "%0A").encode()
    assert rejection(real, normalised, now_s) is RejectReason.BAD_SIGNATURE


def test_without_its_authorities_the_real_notification_is_not_believed():
    channel = UnionPay(credentials(REAL_MER_ID, peer_authorities()))
    assert rejection(channel, NOTICE["form_urlencoded"].encode(), at("20220908132300")) is RejectReason.BAD_SIGNATURE


# --- the peer


def peer_authorities() -> tuple[certificates.Authority, ...]:
    roots = {"root": PEER["keys"]["up_root_cert.pem"].encode()}
    return certificates.load_authorities(roots, {"middle": PEER["keys"]["up_middle_cert.pem"].encode()})


def peer() -> UnionPay:
    return UnionPay(credentials(PEER["merId"], peer_authorities()))


def peer_answer(number: int) -> Response:
    exchange = PEER["exchanges"][number]
    return Response(exchange["response_status"], {}, base64.b64decode(exchange["response_body_b64"]))


STARTED_S = at("20261121100000")
STAMP = Stamp(PEER_CLOCK_S, "n" * 32)
ATTEMPT = AttemptKey("ORD20261121000001", "web", STARTED_S, PEER_CLOCK_S + 600)
PAYMENT = ChannelPayment(
    channel="unionpay",
    account=PEER["merId"],
    out_trade_no="ORD20261121000001",
    channel_transaction="212611211000000000001",
    amount=100,
    currency="CNY",
    success_at_s=STARTED_S,
)


def test_the_peers_answers_mean_what_they_say():
    assert outcome(peer().query(ATTEMPT, STAMP), peer_answer(0)) == Paid(PAYMENT)
    unknown = replace(ATTEMPT, out_trade_no="NOTEXIST0001")
    assert outcome(peer().query(unknown, STAMP), peer_answer(1)) == NotFound()
    for number, verb, refund_no, amount in (
        (2, "refund", "RF20261121000001", 30),
        (3, "void", "UD20261121000001", 100),
    ):
        key = RefundKey(refund_no, at("20261121110000"), "ORD20261121000001", "212611211000000000001")
        request = RefundRequest(key, amount, 100, "CNY", "r", "https://pay.example.com/notify/unionpay")
        # Its certificate was made a day after the times in its messages: one clock can not suit both, so both are met.
        fresh = replace(request, refund=replace(key, started_at_s=PEER_CLOCK_S))
        assert isinstance(outcome(getattr(peer(), verb)(fresh, STAMP), peer_answer(number)), Unknown)
        early = Stamp(key.started_at_s, "n" * 32)
        assert "out of date" in outcome(getattr(peer(), verb)(request, early), peer_answer(number)).reason


def test_the_peers_qr_code_is_shown(monkeypatch):
    monkeypatch.setattr("channels.unionpay.TXN_TIME_WINDOW_S", 10 * 86400)  # for the same reason
    attempt = AttemptKey("QR20261121000001", "qr", STARTED_S, PEER_CLOCK_S + 600)
    request = PaymentRequest(attempt, 100, "CNY", "x", "https://pay.example.com/notify/unionpay")
    made = outcome(peer().pay(request, STAMP), peer_answer(4))
    assert isinstance(made, Accepted)
    assert made.credential.value == "https://qr.95516.com/00010000/62211234567890123456789012345678"
    for number, verb, amount in ((2, "refund", 30), (3, "void", 100)):
        check = PEER["checks"][number]["params"]
        key = RefundKey(check["orderId"], at(check["txnTime"]), "ORD20261121000001", check["origQryId"])
        wanted = RefundRequest(key, amount, 100, "CNY", "r", check["backUrl"])
        known = outcome(getattr(peer(), verb)(wanted, STAMP), peer_answer(number))
        assert (known.refund.state, known.refund.channel_refund) == (RefundState.PROCESSING, "212611211100000000002")
        assert known.refund.amount == amount


def test_the_peers_file_is_read():
    file = outcome(peer().statement("2026-11-21", Stamp(at("20261122100000"), "n" * 32)), peer_answer(5))
    assert isinstance(file, Unknown)  # before its certificate began
    fields = dict(
        part.split("=", 1) for part in base64.b64decode(PEER["exchanges"][5]["response_body_b64"]).decode().split("&")
    )
    rows = list(peer().statement_rows(StatementFile("2026-11-21", unionpay_bill.unpack(fields["fileContent"]))))
    assert rows == [
        StatementRow(
            kind=RowKind.PAYMENT,
            out_trade_no="ORD20261121000001",
            channel_transaction="212611211000000000001",
            amount=100,
            at_s=STARTED_S,
        )
    ]


def test_the_peers_notification_is_the_payment():
    body = PEER["notification"]["form_urlencoded"].encode()
    assert peer().notification({}, body, PEER_CLOCK_S) == PAYMENT
    assert dict(parse_qsl(body.decode())) == PEER["notification"]["fields"]


def test_the_forged_notification_is_refused():
    """Signed correctly, with a certificate that its maker has signed for himself in UnionPay's name."""
    forged = PEER["forged_notification_must_be_rejected"]
    certificate = signing.load_certificate(forged["signPubKeyCert"].encode(), "forged")
    assert signing.verify(certificate.public_key, unionpay_wire.signed_text(as_bytes(forged)), forged["signature"])
    assert rejection(peer(), urlencode(forged).encode(), PEER_CLOCK_S) is RejectReason.BAD_SIGNATURE


def test_the_peers_notification_with_anything_changed_is_refused():
    fields = PEER["notification"]["fields"]
    for name, value in fields.items():
        for changed in ({**fields, name: value + "0"}, {**fields, name: ""}, {**fields, f"{name}2": value}):
            assert rejection(peer(), urlencode(changed).encode(), PEER_CLOCK_S) is RejectReason.BAD_SIGNATURE


# --- the simulator


def platform() -> PlatformKeys:
    """A simulated UnionPay whose merchants are those of the vectors."""
    peer_key = signing.load_certificate(PEER["keys"]["up_mch_cert.pem"].encode(), "vector").public_key
    real_key = signing.load_certificate(REAL["merchant_cert_pem"].encode(), "vector").public_key
    merchants = {PEER["merId"]: Merchant(PEER["merId"], PEER["certId"], peer_key)}
    merchants[REAL_MER_ID] = Merchant(REAL_MER_ID, REAL["merchant_certId_decimal"], real_key)
    signer = Signer(OWN_KEY, "")
    return PlatformKeys(signers=(signer, signer), impostors={}, merchants=merchants)


def recorded_requests() -> dict[str, tuple[bytes, str, type, str]]:
    """Each request's body, the path it went to, what it asks, and about which number."""
    kinds = {"00": Query, "04": Return, "31": Return, "76": Download}
    found = {}
    for number, exchange in enumerate(PEER["exchanges"]):
        fields = PEER["checks"][number]["params"]
        path = "/" if fields["txnType"] == "76" else exchange["request_line"].split(" ")[1]
        asked = (kinds.get(fields["txnType"], Sale), fields.get("orderId", ""))
        found[f"peer {number}"] = (
            base64.b64decode(exchange["request_raw_b64"]).partition(b"\r\n\r\n")[2],
            path,
            *asked,
        )
    for number, request in enumerate(REAL["requests"]):
        fields = request["fields"]
        path = {"01": requests.FRONT, "00": requests.QUERY}.get(fields["txnType"], requests.BACK)
        asked = (kinds.get(fields["txnType"], Sale), fields["orderId"])
        found[f"real {number}"] = (request["form_body"].encode(), path, *asked)
    return found


@pytest.mark.parametrize("name", recorded_requests())
def test_the_simulator_believes_the_recorded_requests_byte_for_byte(name):
    body, path, kind, number = recorded_requests()[name]
    said = requests.read_said(Incoming("POST", path, {}, body))
    assert requests.authenticate(platform(), said).merchant_id == said["merId"]
    asked = requests.read_asked(path, said)
    assert isinstance(asked, kind)
    assert getattr(asked, "number", "") == number
    forged = requests.read_said(Incoming("POST", path, {}, body + b"&added=x"))
    with pytest.raises(No, match="11"):
        requests.authenticate(platform(), forged)
