"""WeChat Pay API v3 from the platform's side: who may speak, what is asked, what is done and stated.

Pure: requests and the time come in, answers and ledger entries go out. Error texts are those of the real service.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Annotated, TypeAlias, TypeVar
from urllib.parse import unquote

import msgspec

from channels import signing
from channels.simulator.credentials import Merchant, PlatformCertificate, PlatformCredentials
from channels.simulator.trades import AnyEntry, Closed, Paid, Prepaid, Trade, Trades, TradeState

SCHEME = "WECHATPAY2-SHA256-RSA2048"
CHINA = timezone(timedelta(hours=8))
CLOCK_SKEW_S = 300
EXPIRE_AFTER_MIN_S = 60
EXPIRE_AFTER_DEFAULT_S = 7 * 86400

NATIVE = "/v3/pay/transactions/native"
CERTIFICATES = "/v3/certificates"
_TRADE = re.compile(r"/v3/pay/transactions/(out-trade-no|id)/([^/?]+)(/close)?")

BAD_AUTHORIZATION = "Http头Authorization值格式错误，请参考《微信支付商户REST API签名规则》"
BAD_AUTHORIZATION_PAY = "签名信息错误，验签失败"
BAD_SIGNATURE = "签名错误"
BAD_TIMESTAMP = "Http头Authorization中的timestamp与发起请求的时间不得超过5分钟"


class Refusal(Exception):
    """A 4xx or 5xx: never signed. 404 and 405 of unknown paths have no body."""

    def __init__(self, status: int, code: str = "", message: str = "", field: str = "") -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        detail = {"detail": {"field": field, "issue": message, "location": "body"}} if field else {}
        self.body = msgspec.json.encode({"code": code, "message": message, **detail}) if code else b""


class Incoming(msgspec.Struct, frozen=True):
    """A request as it came over the wire: raw target, raw body, lower-case header names."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class _Money(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    total: Annotated[int, msgspec.Meta(ge=1, le=10**10)]
    currency: str = "CNY"


class Prepay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST native. Fields the platform does not know are refused; those that do not matter here are only allowed."""

    appid: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    mchid: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    description: Annotated[str, msgspec.Meta(min_length=1, max_length=127)]
    out_trade_no: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_\-|*]{6,32}\Z")]
    notify_url: Annotated[str, msgspec.Meta(pattern=r"^https?://[^?]+\Z", max_length=255)]
    amount: _Money
    time_expire: str | None = None
    attach: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    goods_tag: Annotated[str, msgspec.Meta(max_length=32)] | None = None
    support_fapiao: bool | None = None
    detail: msgspec.Raw = msgspec.Raw()
    scene_info: msgspec.Raw = msgspec.Raw()
    settle_info: msgspec.Raw = msgspec.Raw()


class Query(msgspec.Struct, frozen=True):
    """GET a trade by our number or the transaction's."""

    mchid: str
    out_trade_no: str = ""
    transaction_id: str = ""


class Close(msgspec.Struct, frozen=True):
    """POST close."""

    out_trade_no: str


class Certificates(msgspec.Struct, frozen=True):
    """GET the platform certificates."""


class _CloseBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mchid: str


_T = TypeVar("_T", bound=msgspec.Struct)
Call: TypeAlias = Prepay | Query | Close | Certificates


class Done(msgspec.Struct, frozen=True):
    """An executed call: a 2xx to be signed, and what it changed."""

    status: int
    body: bytes
    entry: AnyEntry | None = None


# --- who may speak ---------------------------------------------------------------------------------------------------


def authenticate(credentials: PlatformCredentials, request: Incoming, now_s: int) -> Merchant:
    """Who signed this request.

    Raises:
        Refusal: with the real service's text.
    """
    if not (request.headers.get("user-agent") and request.headers.get("accept")):
        raise Refusal(400, "INVALID_REQUEST", "Http头缺少Accept或User-Agent")
    scheme, _, pairs = request.headers.get("authorization", "").partition(" ")
    parts = dict(re.findall(r'(\w+)="([^"]*)"(?:,|$)', pairs))
    if scheme != SCHEME or parts.keys() != {"mchid", "nonce_str", "timestamp", "serial_no", "signature"}:
        pay = request.target.startswith("/v3/pay/transactions/")
        raise Refusal(401, "SIGN_ERROR", BAD_AUTHORIZATION_PAY if pay else BAD_AUTHORIZATION)
    timestamp = parts["timestamp"]
    if not re.fullmatch(r"[0-9]{1,12}", timestamp) or abs(now_s - int(timestamp)) >= CLOCK_SKEW_S:
        raise Refusal(401, "SIGN_ERROR", BAD_TIMESTAMP)
    merchant = credentials.merchants.get(parts["mchid"])
    message = f"{request.method}\n{request.target}\n{timestamp}\n{parts['nonce_str']}\n".encode("utf-8", "replace")
    if (
        merchant is None
        or merchant.serial.upper() != parts["serial_no"].upper()
        or not signing.verify(merchant.public_key, message + request.body + b"\n", parts["signature"])
    ):
        raise Refusal(401, "SIGN_ERROR", BAD_SIGNATURE)
    return merchant


# --- what is asked ---------------------------------------------------------------------------------------------------


def read_call(merchant: Merchant, request: Incoming) -> Call:
    """The call a request makes.

    Raises:
        Refusal: no such path or method, or a body the platform does not take.
    """
    path, _, query = request.target.partition("?")
    trade = _TRADE.fullmatch(path)
    if path == NATIVE:
        return _read_prepay(merchant, _for_method(request, "POST"))
    if path == CERTIFICATES:
        _for_method(request, "GET")
        return Certificates()
    if trade is None or (trade[1] == "id" and trade[3]):
        raise Refusal(404)
    if trade[3]:
        return _read_close(merchant, _for_method(request, "POST"), unquote(trade[2]))
    _for_method(request, "GET")
    mchid = dict(pair.partition("=")[::2] for pair in query.split("&")).get("mchid", "")
    if not mchid:
        raise Refusal(400, "PARAM_ERROR", "缺少参数mchid", "mchid")
    number = unquote(trade[2])
    if trade[1] == "id":
        return Query(mchid=mchid, transaction_id=number)
    return Query(mchid=mchid, out_trade_no=number)


def _for_method(request: Incoming, method: str) -> Incoming:
    if request.method != method:
        raise Refusal(405)
    return request


def _read_prepay(merchant: Merchant, request: Incoming) -> Prepay:
    prepay = _decode(request.body, Prepay)
    if prepay.mchid != merchant.mchid:
        raise Refusal(403, "NO_AUTH", "商户号与签名不符")
    if prepay.appid != merchant.appid:
        raise Refusal(400, "APPID_MCHID_NOT_MATCH", "商户号该产品权限未开通或appid与mchid不匹配")
    if prepay.amount.currency != "CNY":
        raise Refusal(400, "PARAM_ERROR", "输入源“/body/amount/currency”映射到值字段“货币类型”规则校验失败", "currency")
    return prepay


def _read_close(merchant: Merchant, request: Incoming, out_trade_no: str) -> Close:
    if _decode(request.body, _CloseBody).mchid != merchant.mchid:
        raise Refusal(403, "NO_AUTH", "商户号与签名不符")
    return Close(out_trade_no=out_trade_no)


def _decode(body: bytes, shape: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        extra = "unknown field" in str(error)
        field = str(error).rpartition("$.")[2].rstrip("`") if "$." in str(error) else ""
        message = "参数中含有非法的额外参数" if extra else f"参数错误: {error}"
        raise Refusal(400, "PARAM_ERROR", message, field) from error


# --- what is done ----------------------------------------------------------------------------------------------------


def execute(
    credentials: PlatformCredentials, trades: Trades, merchant: Merchant, call: Call, now: float, *, rotated: bool
) -> Done:
    """Decide a call; the caller applies the entry and puts it on disk before it answers.

    Raises:
        Refusal: nothing changed.
    """
    match call:
        case Prepay():
            return _prepay(trades, call, now)
        case Query():
            return _query(trades, merchant, call)
        case Close():
            return _close(trades, merchant, call, now)
        case Certificates():
            listed = credentials.certificates if rotated else credentials.certificates[:1]
            return Done(200, _certificate_list(listed, merchant))


def _prepay(trades: Trades, call: Prepay, now: float) -> Done:
    terms = hashlib.sha256(msgspec.json.encode(call)).hexdigest()
    trade = trades.find(call.mchid, call.out_trade_no)
    if trade is None:
        if trades.full():
            raise Refusal(429, "RATELIMIT_EXCEEDED", "接口限频")
        made = _new_trade(trades, call, terms, now)
        return Done(200, _code_url(made, 1), made)
    if trade.made.terms != terms:
        raise Refusal(403, "OUT_TRADE_NO_USED", "请求重入时，参数与首次请求时不一致")
    if trade.state is TradeState.SUCCESS:
        raise Refusal(400, "ORDER_PAID", "该订单已支付")
    if trade.state is TradeState.CLOSED:
        raise Refusal(400, "ORDER_CLOSED", "该订单已关闭")
    trade.codes += 1
    return Done(200, _code_url(trade.made, trade.codes))


def _new_trade(trades: Trades, call: Prepay, terms: str, now: float) -> Prepaid:
    return Prepaid(
        at=now,
        mchid=call.mchid,
        out_trade_no=call.out_trade_no,
        appid=call.appid,
        description=call.description,
        ordinal=trades.next_ordinal(call.mchid, call.description),
        amount=call.amount.total,
        currency=call.amount.currency,
        notify_url=call.notify_url,
        expires_at_s=_expires_at_s(call.time_expire, now),
        terms=terms,
    )


def _expires_at_s(time_expire: str | None, now: float) -> int:
    if time_expire is None:
        return int(now) + EXPIRE_AFTER_DEFAULT_S
    try:
        expires_at_s = int(datetime.strptime(time_expire, "%Y-%m-%dT%H:%M:%S%z").timestamp())
    except (ValueError, OverflowError) as error:
        raise Refusal(400, "PARAM_ERROR", "time_expire格式错误", "time_expire") from error
    return max(expires_at_s, int(now) + EXPIRE_AFTER_MIN_S)


def _code_url(made: Prepaid, codes: int) -> bytes:
    token = hashlib.sha256(f"{made.mchid} {made.out_trade_no} {made.at} {codes}".encode()).hexdigest()[:9]
    return msgspec.json.encode({"code_url": f"weixin://wxpay/bizpayurl?pr={token}zz"})


def _query(trades: Trades, merchant: Merchant, call: Query) -> Done:
    trade = trades.find(call.mchid, call.out_trade_no) or trades.find_transaction(call.transaction_id)
    if trade is None or call.mchid != merchant.mchid or trade.made.mchid != merchant.mchid:
        raise Refusal(404, "ORDER_NOT_EXIST", "订单不存在")
    return Done(200, transaction(trade))


def _close(trades: Trades, merchant: Merchant, call: Close, now: float) -> Done:
    trade = trades.find(merchant.mchid, call.out_trade_no)
    if trade is None:
        raise Refusal(404, "ORDER_NOT_EXIST", "订单不存在")
    if trade.state is TradeState.SUCCESS:
        raise Refusal(400, "ORDER_PAID", "订单已支付")
    if trade.state is TradeState.CLOSED:
        return Done(204, b"")
    return Done(204, b"", Closed(at=now, mchid=merchant.mchid, out_trade_no=call.out_trade_no))


def _certificate_list(certificates: tuple[PlatformCertificate, ...], merchant: Merchant) -> bytes:
    return msgspec.json.encode({"data": [_sealed_certificate(each, merchant) for each in certificates]})


def _sealed_certificate(certificate: PlatformCertificate, merchant: Merchant) -> dict[str, object]:
    nonce = hashlib.sha256(certificate.pem).hexdigest()[:12]  # one nonce a certificate: same key, same plaintext
    return {
        "serial_no": certificate.serial,
        "effective_time": rfc3339(certificate.not_before_s),
        "expire_time": rfc3339(certificate.not_after_s),
        "encrypt_certificate": {
            "algorithm": "AEAD_AES_256_GCM",
            "nonce": nonce,
            "associated_data": "certificate",
            "ciphertext": signing.seal(merchant.seal_key, nonce.encode(), b"certificate", certificate.pem),
        },
    }


# --- what is stated --------------------------------------------------------------------------------------------------


def rfc3339(at_s: int) -> str:
    """A time as the platform writes it."""
    return datetime.fromtimestamp(at_s, CHINA).isoformat()


def transaction(trade: Trade) -> bytes:
    """The trade as a query and a notification both state it."""
    made, paid = trade.made, trade.paid
    if paid is None:
        return msgspec.json.encode(
            {
                "appid": made.appid,
                "mchid": made.mchid,
                "out_trade_no": made.out_trade_no,
                "trade_state": trade.state,
                "trade_state_desc": "订单未支付" if trade.state is TradeState.NOTPAY else "订单已关闭",
                "amount": {"payer_currency": "CNY", "total": made.amount},
                "promotion_detail": [],
            }
        )
    return msgspec.json.encode(_paid_transaction(paid))


def _paid_transaction(paid: Paid) -> dict[str, object]:
    amount = {"total": paid.amount, "payer_total": paid.amount, "currency": paid.currency, "payer_currency": "CNY"}
    return {
        "appid": paid.stated_appid,
        "mchid": paid.stated_mchid,
        "out_trade_no": paid.out_trade_no,
        "transaction_id": paid.transaction_id,
        "trade_type": "NATIVE",
        "trade_state": TradeState.SUCCESS,
        "trade_state_desc": "支付成功",
        "bank_type": "OTHERS",
        "attach": "",
        "success_time": rfc3339(paid.success_at),
        "payer": {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"},
        "amount": amount,
        "promotion_detail": [],
    }
