"""Messages that others made: Alipay's real sandbox, and every exchange of two independent clients."""

import base64
import json
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from channels import alipay_wire, signing
from channels.alipay import Alipay, Cancelled, Credentials
from channels.alipay_keys import root_serial_number, serial_number
from channels.contract import (
    Accepted,
    AttemptKey,
    ChannelPayment,
    ClosedAtChannel,
    NotFound,
    Paid,
    PaymentRequest,
    RefundKey,
    RefundKnown,
    RefundRequest,
    RejectReason,
    Response,
    Stamp,
    Unknown,
)
from channels.errors import NotificationRejected
from channels.simulator import alipay_requests
from channels.simulator.alipay_keys import Merchant, PlatformKeys
from channels.simulator.platform import Incoming

VECTORS = Path(__file__).parent / "vectors"
REAL = json.loads((VECTORS / "alipay_real_sandbox.json").read_bytes())
PEERS = {
    "official": json.loads((VECTORS / "alipay_peer_official_python.json").read_bytes()),
    "python-alipay-sdk": json.loads((VECTORS / "alipay_peer_python_alipay_sdk.json").read_bytes()),
}
CERTIFICATES = json.loads((VECTORS / "alipay_certificates.json").read_bytes())
OWN_KEY = generate_private_key(public_exponent=65537, key_size=2048)
CLOCK_S = 1795333334  # 2026-11-22 15:42:14 in Beijing, when the peers spoke
STAMP = Stamp(CLOCK_S, "n" * 32)


def channel(app_id: str, seller_id: str, pem: str) -> Alipay:
    key = signing.load_public_key(pem.encode(), "vector")
    return Alipay(Credentials(app_id, seller_id, "https://openapi.alipay.com", OWN_KEY, {"": key}))


def mutations(body: bytes, step: int = 7):
    """The body with a character changed here and there."""
    for place in range(0, len(body), step):
        changed = bytearray(body)
        changed[place] = ord("7") if body[place] != ord("7") else ord("3")
        yield bytes(changed)


# --- Alipay's sandbox


def sandbox() -> Alipay:
    notice = REAL["notifications"][0]["params"]
    return channel(notice["app_id"], notice["seller_id"], REAL["alipay_public_key_pem"])


@pytest.mark.parametrize("notice", REAL["notifications"])
def test_a_real_notification_is_a_payment_whenever_it_is_read(notice):
    for now_s in (1703147205, CLOCK_S):
        assert sandbox().notification({}, notice["form_urlencoded"].encode(), now_s) == ChannelPayment(
            channel="alipay",
            account=sandbox().account,
            out_trade_no="1703147160",
            channel_transaction="2023122122001499160501589436",
            amount=1,
            currency="CNY",
            success_at_s=1703147203,  # 2023-12-21 16:26:43
        )


@pytest.mark.parametrize("notice", REAL["notifications"])
def test_a_real_notification_that_was_changed_anywhere_is_refused(notice):
    body = notice["form_urlencoded"].encode()
    genuine = sandbox().notification({}, body, CLOCK_S)
    refused = 0
    for changed in mutations(body, step=1):
        try:
            assert sandbox().notification({}, changed, CLOCK_S) == genuine
        except NotificationRejected:
            refused += 1
    assert refused > 0.99 * len(body)


@pytest.mark.parametrize("vector", REAL["return_urls"])
def test_a_real_return_address_verifies_and_a_changed_one_does_not(vector):
    query = urlsplit(vector["url"]).query.encode()
    assert sandbox().returned(query)
    assert not sandbox().returned(query.replace(b"total_amount=0.01", b"total_amount=9.01"))
    with pytest.raises(NotificationRejected, match=RejectReason.OTHER_EVENT):
        sandbox().notification({}, query, CLOCK_S)


@pytest.mark.parametrize("vector", REAL["responses"])
def test_a_real_answer_is_believed_and_a_changed_one_is_not(vector):
    keys = {"": signing.load_public_key(REAL["alipay_public_key_pem"].encode(), "vector")}
    body, method = vector["raw_body"].encode(), "alipay.fund.trans.uni.transfer"
    answer = alipay_wire.believed(Response(200, {}, body), method, keys)
    assert isinstance(answer, alipay_wire.Answer)
    assert answer.node == vector["signed_node"].encode()
    begin = body.index(answer.node)
    for changed in mutations(answer.node):
        whole = body[:begin] + changed + body[begin + len(changed) :]
        assert isinstance(alipay_wire.believed(Response(200, {}, whole), method, keys), Unknown)


def test_alipays_certificates_are_named_as_requests_to_it_name_them():
    assert serial_number(CERTIFICATES["app_certificate_pem"].encode()) == CERTIFICATES["app_cert_sn"]
    assert root_serial_number(CERTIFICATES["root_certificates_pem"].encode()) == CERTIFICATES["alipay_root_cert_sn"]


# --- the independent clients' exchanges, their channel's answers


def peer(name: str) -> Alipay:
    return channel(PEERS[name]["app_id"], "2088101106499364", PEERS[name]["keys"]["ali_platform_pub.pem"])


def exchange(name: str, method: str, number: str = "") -> Response:
    for vector in PEERS[name]["exchanges"]:
        asked = params_of(vector)
        if asked["method"] == method and number in asked["biz_content"]:
            headers = {header.lower(): value for header, value in vector["response_headers"]}
            return Response(vector["response_status"], headers, base64.b64decode(vector["response_body_b64"]))
    raise AssertionError(f"{name} recorded no {method} {number}")


def params_of(vector: dict) -> dict[str, str]:
    target, body = vector["request_line"].split(" ")[1], vector["request_body"]
    return dict(parse_qsl(urlsplit(target).query, keep_blank_values=True) + parse_qsl(body, keep_blank_values=True))


def outcome(flow, *answers: Response):
    left = list(answers)
    try:
        next(flow)
        while True:
            flow.send(left.pop(0))
    except StopIteration as stop:
        return stop.value


ATTEMPT = AttemptKey("ORD20261121000001", "qr", CLOCK_S, CLOCK_S + 1800)
REQUEST = PaymentRequest(ATTEMPT, 100, "CNY", "x", "https://e.com/n")
REFUND = RefundKey("RF20261121000001", CLOCK_S, ATTEMPT.out_trade_no, "2026112122001481075000000001")


@pytest.mark.parametrize("name", PEERS)
def test_recorded_answers_mean_what_they_say(name):
    one = peer(name)
    made = outcome(one.pay(REQUEST, STAMP), exchange(name, "alipay.trade.precreate"))
    assert isinstance(made, Accepted)
    assert made.credential.value == "https://qr.alipay.com/bavh4wjlxf12tper3a"
    paid = outcome(one.query(ATTEMPT, STAMP), exchange(name, "alipay.trade.query", ATTEMPT.out_trade_no))
    assert isinstance(paid, Paid)
    assert (paid.payment.amount, paid.payment.account) == (100, one.account)
    gone = AttemptKey("NOTEXIST1", "qr", CLOCK_S, CLOCK_S + 1800)
    assert outcome(one.query(gone, STAMP), exchange(name, "alipay.trade.query", "NOTEXIST1")) == NotFound()
    broken = outcome(one.query(ATTEMPT, STAMP), exchange(name, "alipay.trade.query", "SYSERR1"))
    assert isinstance(broken, Unknown)
    assert outcome(one.close(ATTEMPT, STAMP), exchange(name, "alipay.trade.close")) == ClosedAtChannel()
    cancelled = outcome(one.cancel(ATTEMPT, STAMP), exchange(name, "alipay.trade.cancel"))
    assert cancelled == Cancelled(refunded=False)
    refund = RefundRequest(REFUND, 30, 100, "CNY", "x", "https://e.com/n")
    sent = outcome(one.refund(refund, STAMP), exchange(name, "alipay.trade.refund"))
    found = outcome(one.query_refund(REFUND, STAMP), exchange(name, "alipay.trade.fastpay.refund.query"))
    assert isinstance(sent, RefundKnown)
    assert isinstance(found, RefundKnown)
    assert found.refund.amount == 30


@pytest.mark.parametrize("name", PEERS)
def test_the_recorded_bill_address_is_alipays(name):
    flow = peer(name).statement("2026-11-21", STAMP)
    next(flow)
    request = flow.send(exchange(name, "alipay.data.dataservice.bill.downloadurl.query"))
    assert (request.method, request.origin) == ("GET", "http://dwbillcenter.alipay.com")
    assert request.target.startswith("/downloadBillFile.resource?bizType=trade&userId=20881011064993640156&")


@pytest.mark.parametrize("name", PEERS)
def test_a_recorded_value_with_braces_and_a_sign_in_it_is_read_where_plain_counting_fails(name):
    odd = {"official": "ODD1", "python-alipay-sdk": "ODD20261121000001"}[name]
    attempt = AttemptKey(odd, "qr", CLOCK_S, CLOCK_S + 1800)
    reply = exchange(name, "alipay.trade.query", odd)
    assert b'\\"sign\\":\\"' in reply.body
    assert isinstance(outcome(peer(name).query(attempt, STAMP), reply), Paid)
    tampered = Response(200, {}, reply.body.replace(b'"total_amount":"1.00"', b'"total_amount":"2.00"'))
    assert tampered.body != reply.body
    assert isinstance(outcome(peer(name).query(attempt, STAMP), tampered), Unknown)


def test_an_answer_of_one_platform_is_not_believed_from_another():
    reply = exchange("official", "alipay.trade.query", ATTEMPT.out_trade_no)
    assert isinstance(outcome(sandbox().query(ATTEMPT, STAMP), reply), Unknown)


# --- the independent client's notifications


@pytest.mark.parametrize("vector", ["notification", "notification_with_empty_values"])
def test_a_peers_notification_is_read_and_a_changed_one_refused(vector):
    fields = PEERS["python-alipay-sdk"][vector]["params"]
    one = peer("python-alipay-sdk")
    payment = one.notification({}, urlencode(fields).encode(), CLOCK_S)
    assert isinstance(payment, ChannelPayment)
    assert (payment.account, payment.amount, payment.out_trade_no) == (one.account, 100, "ORD20261121000001")
    for name in fields:
        if name == "sign_type" or not fields[name]:
            continue
        forged = urlencode({**fields, name: fields[name] + "0"}).encode()
        with pytest.raises(NotificationRejected):
            one.notification({}, forged, CLOCK_S)


# --- the independent clients' requests


@pytest.mark.parametrize("name", PEERS)
def test_we_string_together_what_they_signed(name):
    """Their recorded parameters, through our own signing: the same string, so the same signature under their key."""
    peer_key = signing.load_public_key(PEERS[name]["keys"]["ali_app_pub.pem"].encode(), "vector")
    for check in PEERS[name]["checks"]:
        params = check["params"]
        ours = alipay_wire.signing_string({key: value for key, value in params.items() if key != "sign"})
        assert ours == check["sign_string"].encode()
        assert signing.verify(peer_key, ours, params["sign"])


def platform(name: str) -> PlatformKeys:
    app_id = PEERS[name]["app_id"]
    public = signing.load_public_key(PEERS[name]["keys"]["ali_app_pub.pem"].encode(), "vector")
    merchant = Merchant("peer", app_id, "2088101106499364", public, "")
    return PlatformKeys(OWN_KEY, OWN_KEY, "", "", OWN_KEY, {app_id: merchant})


def incoming(vector: dict) -> Incoming:
    method, target, _ = vector["request_line"].split(" ")
    raw = base64.b64decode(vector["request_raw_b64"])
    headers = {name.lower(): value for name, value in vector["request_headers"]}
    return Incoming(method, target, headers, raw.partition(b"\r\n\r\n")[2])


RECORDED = [
    (name, vector)
    for name, peer_ in PEERS.items()
    for vector in [*peer_["exchanges"], *peer_.get("exchanges_unpatched_port80", [])]
]


@pytest.mark.parametrize(("name", "vector"), RECORDED, ids=lambda each: each if isinstance(each, str) else "")
def test_the_simulator_believes_the_recorded_requests_byte_for_byte(name, vector):
    request = incoming(vector)
    params = alipay_requests.parameters(request)
    assert alipay_requests.authenticate(platform(name), params).app_id == PEERS[name]["app_id"]
    assert alipay_requests.read(params).biz == alipay_requests.read(params_of(vector)).biz
    for forged in ({"biz_content": "{}"}, {"timestamp": "2026-11-22 15:42:00"}, {"notify_url": "https://evil.org/"}):
        with pytest.raises(alipay_requests.Failed, match=r"isv\.invalid-signature"):
            alipay_requests.authenticate(platform(name), {**params, **forged})


def test_a_request_with_an_absolute_target_is_among_them():
    targets = [vector["request_line"].split(" ")[1] for _, vector in RECORDED]
    assert any(target.startswith("http://") for target in targets)
    assert {vector["request_line"].split(" ")[0] for _, vector in RECORDED} == {"GET", "POST"}
