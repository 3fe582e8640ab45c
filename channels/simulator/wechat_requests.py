"""What WeChat Pay is asked, and by whom: signed requests become typed calls, or refusals in the real one's words.

Pure. A field that the platform does not know is refused, as the real one does; what does not matter here is allowed.
"""

import re
from typing import Annotated, Final, TypeAlias, TypeVar
from urllib.parse import parse_qs, unquote

import msgspec

from channels import signing
from channels.simulator.platform import Incoming, Refusal, Reply
from channels.simulator.trades import AnyEntry
from channels.simulator.wechat_envelope import CLOCK_SKEW_S, SCHEME
from channels.simulator.wechat_keys import Merchant, PlatformKeys

PREPAYS: Final = "/v3/pay/transactions/"
CERTIFICATES: Final = "/v3/certificates"
REFUNDS: Final = "/v3/refund/domestic/refunds"
TRADE_BILL: Final = "/v3/bill/tradebill"
DOWNLOAD: Final = "/v3/billdownload/file"
H5_PAGE: Final = "/cgi-bin/mmpayweb-bin/checkmweb"
_TRADE = re.compile(r"/v3/pay/transactions/(out-trade-no|id)/([^/?]+)(/close)?")
_REFUND = re.compile(rf"{REFUNDS}/([^/?]+)(/apply-abnormal-refund)?")

BAD_AUTHORIZATION: Final = "Http头Authorization值格式错误，请参考《微信支付商户REST API签名规则》"
BAD_AUTHORIZATION_PAY: Final = "签名信息错误，验签失败"
BAD_SIGNATURE: Final = "签名错误"
BAD_TIMESTAMP: Final = "Http头Authorization中的timestamp与发起请求的时间不得超过5分钟"
NO_AGENT: Final = "Http头缺少Accept或User-Agent"


def refusal(
    status: int, code: str = "", message: str = "", field: str = "", entries: tuple[AnyEntry, ...] = ()
) -> Refusal:
    """A 4xx or 5xx: never signed. 404 and 405 of unknown paths have no body."""
    return Refusal(problem(status, code, message, field), entries)


def problem(status: int, code: str = "", message: str = "", field: str = "") -> Reply:
    """An error's answer."""
    detail = {"detail": {"field": field, "issue": message, "location": "body"}} if field else {}
    body = msgspec.json.encode({"code": code, "message": message, **detail}) if code else b""
    return Reply(status, {"Content-Type": "application/json"}, body)


# --- who may speak ---------------------------------------------------------------------------------------------------


def authenticate(keys: PlatformKeys, request: Incoming, now_s: int) -> Merchant:
    """Who signed this request.

    Raises:
        Refusal: with the real service's text.
    """
    if not (request.headers.get("user-agent") and request.headers.get("accept")):
        raise refusal(400, "INVALID_REQUEST", NO_AGENT)
    scheme, _, pairs = request.headers.get("authorization", "").partition(" ")
    parts = dict(re.findall(r'(\w+)="([^"]*)"(?:,|$)', pairs))
    if scheme != SCHEME or parts.keys() != {"mchid", "nonce_str", "timestamp", "serial_no", "signature"}:
        pay = request.target.startswith(PREPAYS)
        raise refusal(401, "SIGN_ERROR", BAD_AUTHORIZATION_PAY if pay else BAD_AUTHORIZATION)
    timestamp = parts["timestamp"]
    if not re.fullmatch(r"[0-9]{1,12}", timestamp) or abs(now_s - int(timestamp)) >= CLOCK_SKEW_S:
        raise refusal(401, "SIGN_ERROR", BAD_TIMESTAMP)
    merchant = keys.merchants.get(parts["mchid"])
    message = f"{request.method}\n{request.target}\n{timestamp}\n{parts['nonce_str']}\n".encode("utf-8", "replace")
    if (
        merchant is None
        or merchant.serial.upper() != parts["serial_no"].upper()
        or not signing.verify(merchant.public_key, message + request.body + b"\n", parts["signature"])
    ):
        raise refusal(401, "SIGN_ERROR", BAD_SIGNATURE)
    return merchant


# --- what is asked ---------------------------------------------------------------------------------------------------

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
_Number = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_\-|*]{6,32}\Z")]
_Address = Annotated[str, msgspec.Meta(pattern=r"^https?://[^?]+\Z", max_length=255)]
_Fen = Annotated[int, msgspec.Meta(ge=1, le=10**10)]


class _Money(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    total: _Fen
    currency: str = "CNY"


class _Payer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    openid: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_\-]{1,128}\Z")]


class _H5Info(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    type: Annotated[str, msgspec.Meta(pattern=r"^(Wap|iOS|Android)\Z")]
    app_name: Annotated[str, msgspec.Meta(max_length=64)] = ""
    app_url: Annotated[str, msgspec.Meta(max_length=128)] = ""
    bundle_id: Annotated[str, msgspec.Meta(max_length=128)] = ""
    package_name: Annotated[str, msgspec.Meta(max_length=128)] = ""


class _Scene(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    payer_client_ip: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Fa-f.:]{2,45}\Z")]
    device_id: Annotated[str, msgspec.Meta(max_length=32)] = ""
    store_info: msgspec.Raw = msgspec.Raw()


class _H5Scene(_Scene, frozen=True, forbid_unknown_fields=True, kw_only=True):
    h5_info: _H5Info


class Prepay(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every prepay says."""

    appid: _Id
    mchid: _Id
    description: Annotated[str, msgspec.Meta(min_length=1, max_length=127)]
    out_trade_no: _Number
    notify_url: _Address
    amount: _Money
    time_expire: str | None = None
    attach: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    goods_tag: Annotated[str, msgspec.Meta(max_length=32)] | None = None
    support_fapiao: bool | None = None
    detail: msgspec.Raw = msgspec.Raw()
    settle_info: msgspec.Raw = msgspec.Raw()


class Native(Prepay, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST native: a QR code."""

    scene_info: _Scene | None = None


class Jsapi(Prepay, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST jsapi: a page inside WeChat, or a mini program."""

    payer: _Payer
    scene_info: _Scene | None = None


class App(Prepay, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST app: an application on the payer's phone."""

    scene_info: _Scene | None = None


class H5(Prepay, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST h5: a browser on the payer's phone."""

    scene_info: _H5Scene


METHODS: Final[dict[str, type[Prepay]]] = {"native": Native, "jsapi": Jsapi, "app": App, "h5": H5}
TRADE_TYPES: Final = {
    "native": "NATIVE",
    "jsapi": "JSAPI",
    "app": "APP",
    "h5": "MWEB",
}  # as trades and lists state them


class Query(msgspec.Struct, frozen=True):
    """GET a trade by the merchant's number or the transaction's."""

    mchid: str
    out_trade_no: str = ""
    transaction_id: str = ""


class Close(msgspec.Struct, frozen=True):
    """POST close."""

    out_trade_no: str


class _RefundMoney(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    refund: _Fen
    total: _Fen
    currency: str
    source: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="from")


class ApplyRefund(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST a refund of a trade, named by either number; the transaction's wins."""

    out_refund_no: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_\-|*@]{1,64}\Z")]
    amount: _RefundMoney
    transaction_id: str = ""
    out_trade_no: str = ""
    reason: str = ""
    notify_url: Annotated[str, msgspec.Meta(pattern=r"^(https?://[^?]+)?\Z", max_length=256)] = ""
    funds_account: str | None = None
    goods_detail: msgspec.Raw = msgspec.Raw()


class QueryRefund(msgspec.Struct, frozen=True):
    """GET a refund by the merchant's number."""

    out_refund_no: str


class ApplyAbnormalRefund(msgspec.Struct, frozen=True):
    """POST that an abnormal refund shall reach the payer by another way."""

    refund_id: str
    out_refund_no: str


class TradeBill(msgspec.Struct, frozen=True):
    """GET where the list of a day stands."""

    day: str
    kind: str
    packed: bool


class Download(msgspec.Struct, frozen=True):
    """GET that list."""

    token: str


class Certificates(msgspec.Struct, frozen=True):
    """GET the platform certificates."""


class OpenPage(msgspec.Struct, frozen=True):
    """A browser opens an h5_url. Nobody signs that."""

    prepay_id: str


class _CloseBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mchid: str


class _AbnormalBody(msgspec.Struct, frozen=True):
    out_refund_no: str
    type: Annotated[str, msgspec.Meta(pattern=r"^(USER_BANK_CARD|MERCHANT_BANK_CARD)\Z")]


_T = TypeVar("_T", bound=msgspec.Struct)
Asked: TypeAlias = (
    Prepay
    | Query
    | Close
    | ApplyRefund
    | QueryRefund
    | ApplyAbnormalRefund
    | TradeBill
    | Download
    | Certificates
    | OpenPage
)


def read_call(merchant: Merchant, request: Incoming) -> Asked:
    """The call a request makes.

    Raises:
        Refusal: no such path or method, or a body the platform does not take.
    """
    path = request.path
    method = path.removeprefix(PREPAYS) if path.startswith(PREPAYS) else ""
    if method in METHODS:
        return _read_prepay(merchant, _for_method(request, "POST"), METHODS[method])
    if path == REFUNDS:
        return _read_refund(_for_method(request, "POST"))
    if path == TRADE_BILL:
        return _read_bill(_for_method(request, "GET"))
    if path == DOWNLOAD:
        return Download(token=_query(_for_method(request, "GET"), "token"))
    if path == CERTIFICATES:
        _for_method(request, "GET")
        return Certificates()
    if (trade := _TRADE.fullmatch(path)) is not None:
        return _read_about_trade(merchant, request, trade)
    if (refund := _REFUND.fullmatch(path)) is not None:
        return _read_about_refund(request, refund)
    raise refusal(404)


def _read_prepay(merchant: Merchant, request: Incoming, shape: type[Prepay]) -> Prepay:
    prepay = _decode(request.body, shape)
    if prepay.mchid != merchant.mchid:
        raise refusal(403, "NO_AUTH", "商户号与签名不符")
    if prepay.appid != merchant.appid:
        raise refusal(400, "APPID_MCHID_NOT_MATCH", "appid和mch_id不匹配")
    if prepay.amount.currency != "CNY":
        raise refusal(400, "PARAM_ERROR", "输入源“/body/amount/currency”映射到值字段“货币类型”规则校验失败", "currency")
    return prepay


def _read_about_trade(merchant: Merchant, request: Incoming, trade: re.Match[str]) -> Query | Close:
    kind, number, close = trade[1], unquote(trade[2]), trade[3]
    if close:
        if kind == "id":
            raise refusal(404)
        if _decode(_for_method(request, "POST").body, _CloseBody).mchid != merchant.mchid:
            raise refusal(403, "NO_AUTH", "商户号与签名不符")
        return Close(out_trade_no=number)
    mchid = _query(_for_method(request, "GET"), "mchid")
    if not mchid:
        raise refusal(400, "PARAM_ERROR", "缺少参数mchid", "mchid")
    if kind == "id":
        return Query(mchid=mchid, transaction_id=number)
    return Query(mchid=mchid, out_trade_no=number)


def _read_refund(request: Incoming) -> ApplyRefund:
    asked = _decode(request.body, ApplyRefund)
    if not (asked.transaction_id or asked.out_trade_no):
        raise refusal(400, "PARAM_ERROR", "微信订单号和商户订单号不能同时为空", "transaction_id")
    if len(asked.reason.encode()) > 80:
        raise refusal(400, "PARAM_ERROR", "输入源“/body/reason”映射到值字段“退款原因”字符串规则校验失败", "reason")
    if asked.amount.currency != "CNY":
        raise refusal(400, "PARAM_ERROR", "输入源“/body/amount/currency”映射到值字段“退款币种”规则校验失败", "currency")
    return asked


def _read_about_refund(request: Incoming, refund: re.Match[str]) -> QueryRefund | ApplyAbnormalRefund:
    number = unquote(refund[1])
    if refund[2]:
        body = _decode(_for_method(request, "POST").body, _AbnormalBody)
        return ApplyAbnormalRefund(refund_id=number, out_refund_no=body.out_refund_no)
    _for_method(request, "GET")
    return QueryRefund(out_refund_no=number)


def _read_bill(request: Incoming) -> TradeBill:
    kind, packing = _query(request, "bill_type") or "ALL", _query(request, "tar_type")
    if kind not in ("ALL", "SUCCESS", "REFUND"):
        raise refusal(400, "PARAM_ERROR", "输入源“/query/bill_type”映射到值字段“账单类型”枚举值不合法", "bill_type")
    if packing not in ("", "GZIP"):
        raise refusal(400, "PARAM_ERROR", "输入源“/query/tar_type”映射到值字段“压缩类型”枚举值不合法", "tar_type")
    return TradeBill(day=_query(request, "bill_date"), kind=kind, packed=packing == "GZIP")


def _for_method(request: Incoming, method: str) -> Incoming:
    if request.method != method:
        raise refusal(405)
    return request


def _query(request: Incoming, name: str) -> str:
    return parse_qs(request.query).get(name, [""])[0]


def _decode(body: bytes, shape: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        text = str(error)
        field = text.rpartition("$.")[2].rstrip("`") if "$." in text else ""
        if "unknown field" in text:
            raise refusal(400, "PARAM_ERROR", "参数中含有非法的额外参数", field) from error
        if "required field `payer`" in text:
            raise refusal(400, "PARAM_ERROR", "JSAPI支付必须传openid", "payer") from error
        raise refusal(400, "PARAM_ERROR", f"参数错误: {text}", field) from error
