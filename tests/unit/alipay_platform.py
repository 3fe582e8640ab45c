"""A platform of a few lines for the unit tests of the Alipay channel: it signs with `cryptography` alone."""

import io
import json
import zipfile
from base64 import b64encode
from collections.abc import Generator
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlsplit

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256

from channels.alipay import Alipay, Credentials
from channels.contract import AttemptKey, PaymentRequest, RefundKey, RefundRequest, Request, Response, Stamp

NOW_S = 1_760_000_000  # 2025-10-09 16:53:20 in Beijing
NOW = "2025-10-09 16:53:20"
APP_ID, SELLER_ID = "2021000122671080", "2088101106499364"
ACCOUNT = f"{APP_ID}/{SELLER_ID}"
BASE_URL = "https://openapi.alipay.com"
OUT_TRADE_NO = "01JD0000000000000000000ORD01"
TRADE_NO = "2025100922001481075000000001"
REFUND_NO = "01JD0000000000000000000REF"
STAMP = Stamp(now_s=NOW_S, nonce="n" * 32)
ATTEMPT = AttemptKey(OUT_TRADE_NO, "qr", NOW_S - 5, NOW_S + 1800)
REQUEST = PaymentRequest(
    attempt=ATTEMPT,
    amount=100,
    currency="CNY",
    subject="测试商品",
    notify_url="https://pay.example.com/callbacks/alipay/x/01",
)
REFUND = RefundKey(REFUND_NO, NOW_S - 5, OUT_TRADE_NO, TRADE_NO)
REFUND_REQUEST = RefundRequest(REFUND, 30, 100, "CNY", "不要了", "https://pay.example.com/callbacks/alipay/refunds/x")
TRADE = {
    "code": "10000",
    "msg": "Success",
    "buyer_logon_id": "ljp***@sandbox.com",
    "buyer_pay_amount": "1.00",
    "out_trade_no": OUT_TRADE_NO,
    "send_pay_date": NOW,
    "total_amount": "1.00",
    "trade_no": TRADE_NO,
    "trade_status": "TRADE_SUCCESS",
}
NOTICE = {
    "notify_time": "2025-10-09 16:53:22",
    "notify_type": "trade_status_sync",
    "notify_id": "2025100900222100002081075000000001",
    "app_id": APP_ID,
    "auth_app_id": APP_ID,
    "charset": "utf-8",
    "version": "1.0",
    "trade_no": TRADE_NO,
    "out_trade_no": OUT_TRADE_NO,
    "trade_status": "TRADE_SUCCESS",
    "total_amount": "1.00",
    "buyer_pay_amount": "0.60",
    "seller_id": SELLER_ID,
    "subject": "测试 商品+A%",
    "gmt_create": "2025-10-09 16:53:10",
    "gmt_payment": NOW,
    "fund_bill_list": '[{"amount":"1.00","fundChannel":"ALIPAYACCOUNT"}]',
}


@cache
def key(name: str) -> RSAPrivateKey:
    """One key a name and session: making one takes a tenth of a second."""
    return generate_private_key(public_exponent=65537, key_size=2048)


def channel(**changes: Any) -> Alipay:
    """The channel in the mode of plain keys."""
    known = {"": key("alipay").public_key()}
    return Alipay(Credentials(APP_ID, SELLER_ID, BASE_URL, key("app"), known, **changes))


def sign(message: bytes, by: str = "alipay") -> str:
    """In base64."""
    return b64encode(key(by).sign(message, PKCS1v15(), SHA256())).decode()


def answer(method: str, node: object, *, by: str = "alipay", **parts: str) -> Response:
    """A signed answer; slashes are escaped as Alipay does. `node` may be the very text."""
    raw = node if isinstance(node, str) else json.dumps(node, ensure_ascii=False, separators=(",", ":"))
    raw = raw if isinstance(node, str) else raw.replace("/", "\\/")
    return unsigned(method, raw, **{"sign": sign(raw.encode(), by), **parts})


def unsigned(method: str, node: object, **parts: str) -> Response:
    """An answer with whatever parts beside its node."""
    raw = node if isinstance(node, str) else json.dumps(node, ensure_ascii=False)
    name = method if method == "error_response" else f"{method.replace('.', '_')}_response"
    rest = "".join(f',"{part}":{json.dumps(value)}' for part, value in parts.items())
    return Response(200, {"content-type": "text/html;charset=utf-8"}, f'{{"{name}":{raw}{rest}}}'.encode())


def failed(method: str, sub_code: str, code: str = "40004", **stated: str) -> Response:
    """A signed no."""
    return answer(method, {"code": code, "msg": "Business Failed", "sub_code": sub_code, "sub_msg": "文字", **stated})


def waiting(**stated: str) -> Response:
    """The answer about a trade that nobody has paid."""
    return answer("alipay.trade.query", {**TRADE, "trade_status": "WAIT_BUYER_PAY", "send_pay_date": "", **stated})


def notice(fields: dict[str, str], *, charset: str = "utf-8", by: str = "alipay", signed_empty: bool = True) -> bytes:
    """The body of a notification."""
    named = {name: value.encode(charset) for name, value in fields.items()}
    chosen = sorted((name, value) for name, value in named.items() if value or signed_empty)
    message = b"&".join(name.encode() + b"=" + value for name, value in chosen)
    return form({**named, "sign": sign(message, by).encode(), "sign_type": b"RSA2"})


def form(fields: dict[str, bytes]) -> bytes:
    """Percent-encoded by the standard library, not by our own code."""
    return "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in fields.items()).encode()


def sent(request: Request) -> dict[str, str]:
    """The parameters of a request, from its query and its body."""
    pairs = parse_qsl(urlsplit(request.target).query, strict_parsing=True, keep_blank_values=True)
    pairs += parse_qsl(request.body.decode(), strict_parsing=True, keep_blank_values=True)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def signed_by_app(params: dict[str, str], by: str = "app") -> bool:
    """Whether the signature is that of the documented string, made by the reference implementation."""
    left = {name: value for name, value in params.items() if name != "sign"}
    message = "&".join(f"{name}={left[name]}" for name in sorted(left))
    return sign(message.encode(), by) == params["sign"]


def run(flow: Generator[Request, Response, Any], *answers: Response | Exception) -> tuple[Any, list[Request]]:
    """Drive a flow with the given answers; its outcome and what it sent. Fails if it sends more or less."""
    requests: list[Request] = []
    left = list(answers)
    try:
        request = next(flow)
        while True:
            requests.append(request)
            reply = left.pop(0)
            request = flow.throw(reply) if isinstance(reply, Exception) else flow.send(reply)
    except StopIteration as stop:
        assert not left, f"answers nobody asked for: {left}"
        return stop.value, requests


def asked(request: Request) -> tuple[str, dict[str, Any]]:
    """Which method with which biz_content a request asks for."""
    params = sent(request)
    return params["method"], json.loads(params["biz_content"])


def zipped(content: bytes, name: str = "20881011064993640156_20251009_业务明细.csv") -> bytes:
    """A bill as Alipay packs it: GBK names without the flag that would say so, which zipfile itself would not write."""
    packed = io.BytesIO()
    names = [name.encode("gbk"), name.replace("明细", "明细(汇总)").encode("gbk")]
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (entry, data) in enumerate(zip(names, (content, b"sums"), strict=True)):
            archive.writestr(str(number) * len(entry), data)
    return packed.getvalue().replace(b"0" * len(names[0]), names[0]).replace(b"1" * len(names[1]), names[1])
