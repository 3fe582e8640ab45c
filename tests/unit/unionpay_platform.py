"""A UnionPay of a few lines for the unit tests of its channel: authorities of its own, signing with `cryptography`."""

import hashlib
from base64 import b64encode
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlencode

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from channels.contract import AttemptKey, PaymentRequest, RefundKey, RefundRequest, Request, Response, Stamp
from channels.errors import NoAnswer
from channels.unionpay import Credentials, UnionPay, load_credentials

NOW_S = 1_795_225_200  # 2026-11-21 09:40:00 in Beijing
TXN_TIME = "20261121094000"
PAY_TIMEOUT = "20261121101000"
EXPIRES_S = NOW_S + 1800
MER_ID = "777290058110048"
ORDER_ID = "01JD0000000000000000000ORD01"
QUERY_ID = "212611211000000000001"
# Every respCode of UnionPay's error table, and some that are none.
DOCUMENTED = (
    *("00", "A6", "01", "02", "03", "04", "05", "06", "10", "11", "12", "13", "14", "30", "31", "32", "33", "34", "35"),
    *("36", "37", "38", "39", "40", "41", "42", "43", "44", "45", "46", "60", "61", "62", "63", "64", "65", "66", "67"),
    *("68", "69", "70", "71", "73", "74", "75", "76", "77", "78", "79", "80", "81", "82", "83", "85", "86", "87", "88"),
    *("89", "90", "91", "98", "99"),
)
INVENTED = ("", "0", "000", "ZZ", "07", "72", "84", "A7", "00 ", "３４")
OWNER = "041@8310000000083040@中国银联股份有限公司@00016495"
NOTIFY_URL = "https://pay.example.com/callbacks/unionpay/x/01"
STAMP = Stamp(now_s=NOW_S + 2, nonce="n" * 32)


@cache
def key(name: str) -> RSAPrivateKey:
    """One key a name and session: making one takes a tenth of a second."""
    return generate_private_key(public_exponent=65537, key_size=2048)


def certificate(
    subject: str,
    issuer: str = "root",
    *,
    common_name: str = "",
    ca: bool | None = None,
    path_length: int | None = None,
    usage: str = "",
    born: datetime = datetime(2026, 1, 1, tzinfo=UTC),
    dies: datetime = datetime(2036, 1, 1, tzinfo=UTC),
    issued_by: str = "",
    extension: x509.UnrecognizedExtension | None = None,
) -> bytes:
    """A certificate of the key `subject` as PEM, signed with the key `issued_by` in the name of `issuer`."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(common_name or f"TEST {subject}"))
        .issuer_name(_name(f"TEST {issuer}"))
        .public_key(key(subject).public_key())
        .serial_number(0x1046900149)
        .not_valid_before(born)
        .not_valid_after(dies)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
    if usage:
        names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        names = (*names, "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
        builder = builder.add_extension(x509.KeyUsage(**{each: each == usage for each in names}), critical=True)
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key(issued_by or issuer), SHA256()).public_bytes(Encoding.PEM)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


@cache
def root_pem() -> bytes:
    return certificate("root", ca=True)


@cache
def middle_pem() -> bytes:
    return certificate("middle", ca=True, usage="key_cert_sign")


@cache
def sign_pem(common_name: str = OWNER, subject: str = "sign") -> bytes:
    """UnionPay's own certificate."""
    return certificate(subject, "middle", common_name=common_name, usage="digital_signature")


@cache
def merchant_pem() -> bytes:
    return certificate("merchant", "middle")


def private_pem(name: str) -> bytes:
    return key(name).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def credentials(**changes: Any) -> Credentials:
    return load_credentials(
        **{
            "mer_id": MER_ID,
            "base_url": "https://gateway.test.95516.com",
            "file_url": "https://filedownload.test.95516.com/",
            "private_key_pem": private_pem("merchant"),
            "certificate_pem": merchant_pem(),
            "root_certificates": {"root.cer": root_pem()},
            "middle_certificates": {"middle.cer": middle_pem()},
            "now_s": NOW_S,
            **changes,
        }
    )


@cache
def _usual() -> Credentials:
    return credentials()  # loading a private key takes thirty milliseconds


def channel(**changes: Any) -> UnionPay:
    """A channel that has seen no message yet."""
    return UnionPay(credentials(**changes) if changes else _usual())


def signed_by_merchant(fields: Mapping[str, str]) -> str:
    """The signature of a request, made without the channel's own code."""
    text = hashlib.sha256("&".join(f"{name}={fields[name]}" for name in sorted(fields)).encode()).hexdigest()
    return b64encode(key("merchant").sign(text.encode(), PKCS1v15(), SHA256())).decode()


def attempt(method: str = "qr", **changes: Any) -> AttemptKey:
    return AttemptKey(
        **{
            "out_trade_no": ORDER_ID,
            "method": method,
            "started_at_s": NOW_S,
            "expires_at_s": EXPIRES_S,
            **changes,
        }
    )


def payment(method: str = "qr", **changes: Any) -> PaymentRequest:
    return PaymentRequest(
        **{
            "attempt": attempt(method),
            "amount": 100,
            "currency": "CNY",
            "subject": "测试商品",
            "notify_url": NOTIFY_URL,
            "params": {"qr_no": "6220000000000000001"} if method == "barcode" else {},
            **changes,
        }
    )


REFUND = RefundKey("RF01JD00000000000000000001", NOW_S, ORDER_ID, QUERY_ID)


def refund(**changes: Any) -> RefundRequest:
    return RefundRequest(
        **{
            "refund": REFUND,
            "amount": 30,
            "total": 100,
            "currency": "CNY",
            "reason": "r",
            "notify_url": NOTIFY_URL,
            **changes,
        }
    )


ECHO = {
    "accessType": "0",
    "bizType": "000000",
    "encoding": "UTF-8",
    "merId": MER_ID,
    "orderId": ORDER_ID,
    "signMethod": "01",
    "txnSubType": "01",
    "txnTime": TXN_TIME,
    "txnType": "01",
    "version": "5.1.0",
}
PAID = {
    **ECHO,
    "respCode": "00",
    "respMsg": "成功[0000000]",
    "origRespCode": "00",
    "origRespMsg": "成功[0000000]",
    "queryId": QUERY_ID,
    "txnAmt": "100",
    "currencyCode": "156",
    "settleAmt": "100",
    "settleCurrencyCode": "156",
    "settleDate": "1121",
    "traceNo": "000001",
    "traceTime": "1121094107",
}
NOTICE = {name: value for name, value in PAID.items() if not name.startswith("orig")} | {"exchangeRate": ""}
REFUNDED = {
    **PAID,
    "orderId": REFUND.refund_no,
    "txnType": "04",
    "txnSubType": "00",
    "txnAmt": "30",
    "settleAmt": "30",
    "origQryId": QUERY_ID,
    "queryId": "212611211000000000002",
}


def signed(fields: Mapping[str, str], *, by: str = "sign", pem: bytes | None = None, charset: str = "utf-8") -> dict:
    """The fields with certificate and signature, which stand last. Its line ends are CRLF, the last one is missing."""
    lines = (sign_pem() if pem is None else pem).decode().strip().splitlines()
    full = {**fields, "signPubKeyCert": "\r\n".join(lines)}
    joined = "&".join(f"{name}={full[name]}" for name in sorted(full) if full[name]).encode(charset)
    text = hashlib.sha256(joined).hexdigest().encode()
    return {**full, "signature": b64encode(key(by).sign(text, PKCS1v15(), SHA256())).decode()}


def raw(fields: Mapping[str, str]) -> bytes:
    """Fields as an answer writes them: not encoded at all."""
    return "&".join(f"{name}={value}" for name, value in fields.items()).encode()


def answer(fields: Mapping[str, str], **how: Any) -> Response:
    """A signed answer."""
    return Response(200, {"content-type": "text/html;charset=UTF-8"}, raw(signed(fields, **how)))


def code(resp_code: str, **fields: str) -> Response:
    """A signed answer of nothing but its code."""
    return answer({**ECHO, "respCode": resp_code, "respMsg": f"说明[{resp_code}00000]", **fields})


def refund_code(resp_code: str, **fields: str) -> Response:
    """The same about the refund."""
    return code(resp_code, orderId=REFUND.refund_no, txnType="04", txnSubType="00", **fields)


NOT_FOUND = code("34", txnType="00")
REFUND_NOT_FOUND = refund_code("34")


def notice(fields: Mapping[str, str] = NOTICE, charset: str = "utf-8", **how: Any) -> bytes:
    """The body of a notification: form-encoded."""
    return urlencode(signed(fields, charset=charset, **how), encoding=charset).encode()


def sent_fields(request: Request) -> dict[str, str]:
    """What a request says."""
    return dict(parse_qsl(request.body.decode(), strict_parsing=True))


def later(seconds: float) -> Stamp:
    """A stamp so long after the attempt began."""
    return Stamp(now_s=NOW_S + int(seconds), nonce="m" * 32)


def run(flow: Generator[Request, Response, Any], *answers: Response | Exception) -> tuple[Any, list[Request]]:
    """Drive a flow with the given answers; its outcome and what it sent. Fails if it sends more or less."""
    sent: list[Request] = []
    left = list(answers)
    try:
        request = next(flow)
        while True:
            sent.append(request)
            reply = left.pop(0)
            request = flow.throw(reply) if isinstance(reply, Exception) else flow.send(reply)
    except StopIteration as stop:
        assert not left, f"answers nobody asked for: {left}"
        return stop.value, sent


# What says nothing.
SILENCES = [
    NoAnswer("timeout", sent=True),
    NoAnswer("connection refused", sent=False),
    Response(500, {}, raw(signed(PAID))),
    Response(404, {}, b""),
    Response(302, {}, raw(signed(PAID))),
    Response(200, {}, b""),
    Response(200, {}, b"<html>busy</html>"),
    Response(200, {}, b"\xff\xfe&==&&="),
    Response(200, {}, b"respCode=00&origRespCode=00"),
]
