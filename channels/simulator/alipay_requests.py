"""What Alipay is asked, and by whom: signed parameters become typed calls, or refusals in the real one's words. Pure.

Parameters may stand in the query, in the body, or in both, as the SDKs of different hands send them; what is signed are
the decoded values. The gateway looks at the app before it looks at the signature (seen with a made-up app_id).
"""

import re
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from channels import forms, signing
from channels.moments import of_plain
from channels.money import fen_of_yuan
from channels.simulator.alipay_keys import Merchant, PlatformKeys
from channels.simulator.platform import Incoming
from channels.simulator.trades import AnyEntry

GATEWAY: Final = "/gateway.do"
DOWNLOAD: Final = "/downloadBillFile.resource"

VERBS: Final = {
    "alipay.trade.precreate": "precreate",
    "alipay.trade.page.pay": "page",
    "alipay.trade.wap.pay": "wap",
    "alipay.trade.app.pay": "app",
    "alipay.trade.query": "query",
    "alipay.trade.close": "close",
    "alipay.trade.cancel": "cancel",
    "alipay.trade.refund": "refund",
    "alipay.trade.fastpay.refund.query": "refundquery",
    "alipay.data.dataservice.bill.downloadurl.query": "bill",
}
PAGES: Final = frozenset({"page", "wap", "app"})  # a browser, or Alipay's own app, sends these
PRODUCTS: Final = {
    "precreate": ("QR_CODE_OFFLINE", "FACE_TO_FACE_PAYMENT", ""),
    "page": ("FAST_INSTANT_TRADE_PAY",),
    "wap": ("QUICK_WAP_WAY",),
    "app": ("QUICK_MSECURITY_PAY", ""),
}
QR_LIFE_S: Final = 2 * 3600
TRADE_LIFE_S: Final = 3 * 3600  # of face-to-face trades, if nothing is said
AMOUNT_MAX: Final = 10_000_000_000
_UNITS: Final = {"m": 60, "h": 3600, "d": 86400}
_EXPRESS = re.compile(r"([1-9][0-9]{0,5})([mhd])", re.ASCII)
_NUMBER = re.compile(r"[0-9A-Za-z_]{1,64}", re.ASCII)
_ADDRESS = re.compile(r"https?://[!-~]{1,250}", re.ASCII)


class Failed(Exception):
    """A no: `code` is the gateway's own, or 40004 and the business's `sub_code`. `stated` are more of its fields.
    Gateway refusals are not signed."""

    def __init__(
        self,
        code: str,
        sub_code: str,
        sub_msg: str,
        stated: Mapping[str, str] = {},
        entries: tuple[AnyEntry, ...] = (),
    ) -> None:
        super().__init__(f"{code} {sub_code}")
        self.code = code
        self.entries = entries
        self.node: dict[str, object] = {"code": code, "msg": MESSAGES[code], "sub_code": sub_code, "sub_msg": sub_msg}
        self.node |= stated

    @property
    def signed(self) -> bool:
        """Whether Alipay signs this answer."""
        return self.code not in ("40001", "40002", "40003", "40006")


MESSAGES: Final = {
    "20000": "Service Currently Unavailable",
    "40001": "Missing Required Arguments",
    "40002": "Invalid Arguments",
    "40003": "Insufficient Conditions",
    "40004": "Business Failed",
    "40005": "Call Limited",
    "40006": "Insufficient Permissions",
}


def business(name: str, text: str, stated: Mapping[str, str] = {}, entries: tuple[AnyEntry, ...] = ()) -> Failed:
    """The business's no."""
    return Failed("40004", f"ACQ.{name}", text, stated, entries)


class Biz(msgspec.Struct, frozen=True):
    """biz_content: the fields of all the methods here. What does not matter is allowed, as the real one does."""

    out_trade_no: str = ""
    trade_no: str = ""
    total_amount: msgspec.Raw = msgspec.Raw(b'""')
    subject: str = ""
    body: str = ""
    product_code: str = ""
    time_expire: str = ""
    timeout_express: str = ""
    passback_params: str = ""
    refund_amount: msgspec.Raw = msgspec.Raw(b'""')
    out_request_no: str = ""
    refund_reason: str = ""
    query_options: Annotated[list[str], msgspec.Meta(max_length=20)] = []
    bill_type: str = ""
    bill_date: str = ""


class Asked(msgspec.Struct, frozen=True):
    """One call of a method. `certified`: signed in the mode with certificates, and answered so."""

    method: str
    charset: str
    biz: Biz
    notify_url: str
    return_url: str
    certified: bool


def parameters(request: Incoming) -> dict[str, str]:
    """All parameters, wherever they stand, decoded once in the charset that they name themselves.

    Raises:
        Failed: they can not be read.
    """
    try:
        raw = forms.read(request.query.encode("ascii", "replace")).fields
        body = forms.read(request.body).fields if request.method == "POST" else {}
        charset = {**raw, **body}.get("charset", "utf-8").lower()
        if charset not in ("utf-8", "gbk"):
            raise Failed("40002", "isv.invalid-charset", "字符集错误，目前支持GBK和UTF-8")
        return {forms.text(name, charset): forms.text(value, charset) for name, value in {**raw, **body}.items()}
    except forms.FormError:
        raise Failed("40002", "isv.invalid-encoding", "错误的编码格式") from None


def authenticate(keys: PlatformKeys, params: dict[str, str]) -> Merchant:
    """Whose app signed this.

    Raises:
        Failed: as the gateway says it.
    """
    for name, missing in _NEEDED.items():
        if not params.get(name):
            raise Failed("40001", f"isv.missing-{missing[0]}", missing[1])
    merchant = keys.merchants.get(params["app_id"])
    if merchant is None:
        raise Failed("40002", "isv.invalid-app-id", f"无效的AppID参数{_HELP}")
    if params["method"] not in VERBS:
        raise Failed("40002", "isv.invalid-method", f"不存在的方法名{_HELP}")
    if params["sign_type"] != "RSA2":
        raise Failed("40002", "isv.invalid-signature-type", f"无效的签名类型{_HELP}")
    if of_plain(params["timestamp"]) is None or len(params["timestamp"]) != 19:
        raise Failed("40002", "isv.invalid-timestamp", f"非法的时间戳参数{_HELP}")
    if params["version"] != "1.0" or params.get("format", "JSON").upper() != "JSON":
        raise Failed("40002", "isv.invalid-parameter", f"版本或格式参数错误{_HELP}")
    left = {name: value for name, value in params.items() if name != "sign" and value}
    message = "&".join(f"{name}={left[name]}" for name in sorted(left)).encode(params.get("charset", "utf-8").lower())
    if not signing.verify(merchant.public_key, message, params["sign"]):
        raise Failed("40002", "isv.invalid-signature", f"无效签名{_HELP}")
    named = (params.get("app_cert_sn"), params.get("alipay_root_cert_sn"))
    if any(named) and named != (merchant.app_cert_sn, keys.root_sn):
        raise Failed("40002", "isv.invalid-app-cert-sn", f"应用公钥证书SN或支付宝根证书SN错误{_HELP}")
    return merchant


_NEEDED: Final = {
    "app_id": ("app-id", "缺少AppID参数"),
    "method": ("method", "缺少方法名参数"),
    "sign_type": ("signature-type", "缺少签名类型参数"),
    "sign": ("signature", "缺少签名参数"),
    "timestamp": ("timestamp", "缺少时间戳参数"),
    "version": ("version", "缺少版本参数"),
}
_HELP: Final = "，解决方案：https://open.alipay.com/api/errCheck?traceId=0000000000000000000000000000&source=openapi"


def read(params: dict[str, str]) -> Asked:
    """What is asked.

    Raises:
        Failed: biz_content is no JSON of the right types, or an address is none.
    """
    try:
        biz = msgspec.json.decode(params.get("biz_content", "{}"), type=Biz)
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        raise Failed("40002", "isv.invalid-parameter", f"参数无效：biz_content{_HELP}") from None
    for name in ("notify_url", "return_url"):
        if params.get(name) and not _ADDRESS.fullmatch(params[name]):
            raise Failed("40002", "isv.invalid-parameter", f"参数无效：{name}{_HELP}")
    return Asked(
        method=params["method"],
        charset=params.get("charset", "utf-8").lower(),
        biz=biz,
        notify_url=params.get("notify_url", ""),
        return_url=params.get("return_url", ""),
        certified=bool(params.get("app_cert_sn")),
    )


def fen(raw: msgspec.Raw) -> int | None:
    """An amount, as a text or as a number: both are sent."""
    return fen_of_yuan(bytes(raw).decode("utf-8", "replace").strip('"'))


def checked_amount(biz: Biz, verb: str) -> int:
    """What a trade costs, if all of the request may be so.

    Raises:
        Failed: with the business's words.
    """
    amount = fen(biz.total_amount)
    if amount is None or not _NUMBER.fullmatch(biz.out_trade_no):
        raise business("INVALID_PARAMETER", "参数有误：total_amount或out_trade_no")
    if not 1 <= amount <= AMOUNT_MAX:
        raise business("TOTAL_FEE_EXCEED", "订单总金额不在允许范围内", {"out_trade_no": biz.out_trade_no})
    if not 1 <= len(biz.subject) <= 256 or (verb == "precreate" and set(biz.subject) & set("/=&")):
        raise business("INVALID_PARAMETER", "参数有误：subject", {"out_trade_no": biz.out_trade_no})
    if biz.product_code not in PRODUCTS[verb]:
        raise business("ACCESS_FORBIDDEN", "无权限使用接口", {"out_trade_no": biz.out_trade_no})
    return amount


def expires_at_s(biz: Biz, verb: str, now_s: int) -> int:
    """Until when it can be paid; a code no longer than two hours.

    Raises:
        Failed: sooner than in a minute, later than in 15 days, or no time.
    """
    if biz.time_expire:
        at_s = of_plain(biz.time_expire) or 0
    elif biz.timeout_express and biz.timeout_express != "1c":
        found = _EXPRESS.fullmatch(biz.timeout_express)
        at_s = now_s + int(found[1]) * _UNITS[found[2]] if found else 0
    else:
        at_s = now_s + TRADE_LIFE_S
    if not now_s + 60 <= at_s <= now_s + 15 * 86400:
        raise business(
            "INVALID_PARAMETER", "参数有误：time_expire或timeout_express", {"out_trade_no": biz.out_trade_no}
        )
    return min(at_s, now_s + QR_LIFE_S) if verb == "precreate" else at_s
