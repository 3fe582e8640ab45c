"""WeChat Pay API v3 from the platform's side: who may speak, what is asked, what is done and stated.

Pure: requests and the time come in, answers and ledger entries go out. Error texts are those of the real service.
How answers and notifications are signed stands in `wechat_envelope.py`.
"""

import hashlib
import re
from types import MappingProxyType
from typing import Annotated, TypeAlias, TypeVar
from urllib.parse import unquote

import msgspec

from channels import signing
from channels.moments import of_rfc3339, rfc3339
from channels.simulator import wechat_envelope as envelope
from channels.simulator.faults import draw
from channels.simulator.platform import (
    Call,
    Done,
    Incoming,
    Moment,
    Outgoing,
    PayOrder,
    Refusal,
    Reply,
)
from channels.simulator.trades import (
    AnyEntry,
    Closed,
    Opened,
    Paid,
    Refund,
    RefundSettled,
    Trade,
    Trades,
    TradeState,
    about,
)
from channels.simulator.wechat_faults import WechatFaults
from channels.simulator.wechat_keys import Merchant, PlatformCertificate, PlatformKeys

SCHEME = envelope.SCHEME
CLOCK_SKEW_S = envelope.CLOCK_SKEW_S
EXPIRE_AFTER_MIN_S = 60
EXPIRE_AFTER_DEFAULT_S = 7 * 86400

NATIVE = "/v3/pay/transactions/native"
CERTIFICATES = "/v3/certificates"
_TRADE = re.compile(r"/v3/pay/transactions/(out-trade-no|id)/([^/?]+)(/close)?")

BAD_AUTHORIZATION = "Http头Authorization值格式错误，请参考《微信支付商户REST API签名规则》"
BAD_AUTHORIZATION_PAY = "签名信息错误，验签失败"
BAD_SIGNATURE = "签名错误"
BAD_TIMESTAMP = "Http头Authorization中的timestamp与发起请求的时间不得超过5分钟"


NAME = "wechatpay"
TRADE_STATES = {TradeState.WAITING: "NOTPAY", TradeState.PAID: "SUCCESS", TradeState.CLOSED: "CLOSED"}
REQUEST_FAULTS = MappingProxyType(
    {"error_before": False, "error_after": True, "rate_limited": False, "accepted": False}
)
RETRY_AFTER_S = (15, 15, 30, 180, 600, 1200, 1800, 1800, 1800, 3600, 10800, 10800, 10800, 21600, 21600)


def refusal(
    status: int, code: str = "", message: str = "", field: str = "", entries: tuple[AnyEntry, ...] = ()
) -> Refusal:
    """A 4xx or 5xx: never signed. 404 and 405 of unknown paths have no body."""
    return Refusal(_error(status, code, message, field), entries)


def _error(status: int, code: str = "", message: str = "", field: str = "") -> Reply:
    detail = {"detail": {"field": field, "issue": message, "location": "body"}} if field else {}
    body = msgspec.json.encode({"code": code, "message": message, **detail}) if code else b""
    return Reply(status, {"Content-Type": "application/json"}, body)


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
Asked: TypeAlias = Prepay | Query | Close | Certificates


# --- who may speak ---------------------------------------------------------------------------------------------------


def authenticate(keys: PlatformKeys, request: Incoming, now_s: int) -> Merchant:
    """Who signed this request.

    Raises:
        Refusal: with the real service's text.
    """
    if not (request.headers.get("user-agent") and request.headers.get("accept")):
        raise refusal(400, "INVALID_REQUEST", "Http头缺少Accept或User-Agent")
    scheme, _, pairs = request.headers.get("authorization", "").partition(" ")
    parts = dict(re.findall(r'(\w+)="([^"]*)"(?:,|$)', pairs))
    if scheme != SCHEME or parts.keys() != {"mchid", "nonce_str", "timestamp", "serial_no", "signature"}:
        pay = request.target.startswith("/v3/pay/transactions/")
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


def read_call(merchant: Merchant, request: Incoming) -> Asked:
    """The call a request makes.

    Raises:
        Refusal: no such path or method, or a body the platform does not take.
    """
    path, query = request.path, request.query
    trade = _TRADE.fullmatch(path)
    if path == NATIVE:
        return _read_prepay(merchant, _for_method(request, "POST"))
    if path == CERTIFICATES:
        _for_method(request, "GET")
        return Certificates()
    if trade is None or (trade[1] == "id" and trade[3]):
        raise refusal(404)
    if trade[3]:
        return _read_close(merchant, _for_method(request, "POST"), unquote(trade[2]))
    _for_method(request, "GET")
    mchid = dict(pair.partition("=")[::2] for pair in query.split("&")).get("mchid", "")
    if not mchid:
        raise refusal(400, "PARAM_ERROR", "缺少参数mchid", "mchid")
    number = unquote(trade[2])
    if trade[1] == "id":
        return Query(mchid=mchid, transaction_id=number)
    return Query(mchid=mchid, out_trade_no=number)


def _for_method(request: Incoming, method: str) -> Incoming:
    if request.method != method:
        raise refusal(405)
    return request


def _read_prepay(merchant: Merchant, request: Incoming) -> Prepay:
    prepay = _decode(request.body, Prepay)
    if prepay.mchid != merchant.mchid:
        raise refusal(403, "NO_AUTH", "商户号与签名不符")
    if prepay.appid != merchant.appid:
        raise refusal(400, "APPID_MCHID_NOT_MATCH", "商户号该产品权限未开通或appid与mchid不匹配")
    if prepay.amount.currency != "CNY":
        raise refusal(400, "PARAM_ERROR", "输入源“/body/amount/currency”映射到值字段“货币类型”规则校验失败", "currency")
    return prepay


def _read_close(merchant: Merchant, request: Incoming, out_trade_no: str) -> Close:
    if _decode(request.body, _CloseBody).mchid != merchant.mchid:
        raise refusal(403, "NO_AUTH", "商户号与签名不符")
    return Close(out_trade_no=out_trade_no)


def _decode(body: bytes, shape: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        extra = "unknown field" in str(error)
        field = str(error).rpartition("$.")[2].rstrip("`") if "$." in str(error) else ""
        message = "参数中含有非法的额外参数" if extra else f"参数错误: {error}"
        raise refusal(400, "PARAM_ERROR", message, field) from error


# --- what is done ----------------------------------------------------------------------------------------------------


class WechatPlatform:
    """The platform with all its merchants."""

    name = NAME
    no_faults = WechatFaults()
    request_faults = REQUEST_FAULTS
    variants = ("tamper", "probe", "stale", "wrong_serial")
    retry_after_s = RETRY_AFTER_S
    answer_within_s = 5.0

    def __init__(self, keys: PlatformKeys, seed: int) -> None:
        self._keys = keys
        self._seed = seed

    def claims(self, request: Incoming) -> bool:
        """All that begins with /v3/."""
        return request.path.startswith("/v3/")

    def receive(self, request: Incoming, moment: Moment) -> Call:
        """Who asks what."""
        merchant = authenticate(self._keys, request, moment.now_s)
        asked = read_call(merchant, request)
        number = asked.out_trade_no if isinstance(asked, Prepay | Query | Close) else ""
        description = asked.description if isinstance(asked, Prepay) else ""
        return Call(merchant.mchid, type(asked).__name__.lower(), number, description, asked, request)

    def execute(self, call: Call, trades: Trades, faults: WechatFaults, moment: Moment) -> Done:
        """Decide a call."""
        merchant, asked = self._keys.merchants[call.merchant], call.asked
        match asked:
            case Prepay():
                return _prepay(trades, asked, moment.now)
            case Query():
                return _query(trades, merchant, asked)
            case Close():
                return self._close(trades, merchant, asked, faults, moment)
            case Certificates():
                listed = self._keys.certificates if faults.rotation > 0 else self._keys.certificates[:1]
                return Done(200, _certificate_list(listed, merchant))
        raise AssertionError(asked)

    def _close(self, trades: Trades, merchant: Merchant, call: Close, faults: WechatFaults, moment: Moment) -> Done:
        trade = trades.find(NAME, merchant.mchid, call.out_trade_no)
        if trade is None:
            raise refusal(404, "ORDER_NOT_EXIST", "订单不存在")
        if trade.payable(moment.now) and draw(self._seed, "close_race", trade.subject) < faults.close_race:
            raise refusal(400, "ORDER_PAID", "订单已支付", entries=self.pays(trade, trades, moment, None))
        if trade.state is TradeState.PAID:
            raise refusal(400, "ORDER_PAID", "订单已支付")
        if trade.state is TradeState.CLOSED:
            return Done(204)
        return Done(204, entries=(Closed(at=moment.now, **about(trade)),))

    def answer(self, call: Call, done: Done, faults: WechatFaults, moment: Moment) -> Reply:
        """Sign it with the key that the request asked for."""
        asked = call.incoming.headers.get("wechatpay-serial", "") if call.incoming else ""
        seal = envelope.answer_seal(self._keys, faults, asked, moment.roll)
        headers = {"Request-ID": moment.nonce.upper(), **envelope.sign(seal, done.body, moment.now_s, moment.nonce)}
        if done.body:
            headers["Content-Type"] = "application/json; charset=utf-8"
        return Reply(done.status, headers, done.body)

    def broken(self, fault: str, call: Call, moment: Moment) -> Reply:
        """The words for a fault."""
        if fault == "rate_limited":
            return _error(429, "FREQUENCY_LIMITED", "频率超限")
        if fault == "accepted":
            return self.answer(call, Done(202), self.no_faults, moment)
        return _error(500, "SYSTEM_ERROR", "系统繁忙，请稍后重试")

    # --- what happens by itself

    def pays(self, trade: Trade, trades: Trades, moment: Moment, order: PayOrder | None) -> tuple[AnyEntry, ...]:
        """The payer pays with his own app."""
        made, stated = trade.made, order.stated if order else {}
        mchid = stated.get("mchid", made.merchant)
        appid = stated.get("appid", made.details["appid"])
        day = rfc3339(moment.now_s)[:10].replace("-", "")
        paid = Paid(
            at=moment.now,
            **about(trade),
            transaction=f"4200{day}{trades.transactions() + 1:016d}",
            amount=made.amount if order is None or order.amount is None else order.amount,
            currency=made.currency if order is None or order.currency is None else order.currency,
            description=made.description,
            success_at=moment.now_s,
            account=f"{mchid}/{appid}",
            details={"mchid": mchid, "appid": appid},
        )
        return (paid,)

    def settles(self, trade: Trade, refund: Refund, faults: WechatFaults, moment: Moment) -> RefundSettled | None:
        """No refunds are made yet."""
        return None

    def notice(self, trade: Trade, topic: str, variant: str, faults: WechatFaults, moment: Moment) -> Outgoing | None:
        """The payment's notification."""
        if trade.paid is None or topic:
            return None
        merchant = self._keys.merchants[trade.made.merchant]
        seal = envelope.notification_seal(self._keys, faults, self._seed, trade.subject)
        told = envelope.Notice(
            "TRANSACTION.SUCCESS", "支付成功", "transaction", transaction(trade), trade.paid.success_at
        )
        body = envelope.sealed(merchant, told, f"{trade.made.merchant} {trade.made.out_trade_no}")
        headers, body = envelope.deliver(seal, body, variant, moment.now_s, moment.nonce)
        return Outgoing(trade.made.notify_url, headers, body)

    def acknowledged(self, status: int, body: bytes) -> bool:
        """The status wins over the body."""
        return 200 <= status < 300


def _prepay(trades: Trades, call: Prepay, now: float) -> Done:
    terms = hashlib.sha256(msgspec.json.encode(call)).hexdigest()
    trade = trades.find(NAME, call.mchid, call.out_trade_no)
    if trade is None:
        if trades.full():
            raise refusal(429, "RATELIMIT_EXCEEDED", "接口限频")
        made = _new_trade(trades, call, terms, now)
        return _shown(made, 1, (made,))
    if trade.made.terms != terms:
        raise refusal(403, "OUT_TRADE_NO_USED", "请求重入时，参数与首次请求时不一致")
    if trade.state is TradeState.PAID:
        raise refusal(400, "ORDER_PAID", "该订单已支付")
    if trade.state is TradeState.CLOSED:
        raise refusal(400, "ORDER_CLOSED", "该订单已关闭")
    trade.codes += 1
    return _shown(trade.made, trade.codes)


def _new_trade(trades: Trades, call: Prepay, terms: str, now: float) -> Opened:
    return Opened(
        at=now,
        channel=NAME,
        merchant=call.mchid,
        out_trade_no=call.out_trade_no,
        method="native",
        description=call.description,
        ordinal=trades.next_ordinal(NAME, call.mchid, call.description),
        amount=call.amount.total,
        currency=call.amount.currency,
        notify_url=call.notify_url,
        expires_at_s=_expires_at_s(call.time_expire, now),
        terms=terms,
        details={"appid": call.appid},
    )


def _expires_at_s(time_expire: str | None, now: float) -> int:
    if time_expire is None:
        return int(now) + EXPIRE_AFTER_DEFAULT_S
    expires_at_s = of_rfc3339(time_expire)
    if expires_at_s is None:
        raise refusal(400, "PARAM_ERROR", "time_expire格式错误", "time_expire")
    return max(expires_at_s, int(now) + EXPIRE_AFTER_MIN_S)


def _shown(made: Opened, codes: int, entries: tuple[AnyEntry, ...] = ()) -> Done:
    token = hashlib.sha256(f"{made.merchant} {made.out_trade_no} {made.at} {codes}".encode()).hexdigest()[:9]
    code = f"weixin://wxpay/bizpayurl?pr={token}zz"
    return Done(200, msgspec.json.encode({"code_url": code}), entries, shown=made.out_trade_no, code=code)


def _query(trades: Trades, merchant: Merchant, call: Query) -> Done:
    trade = trades.find(NAME, call.mchid, call.out_trade_no) or trades.find_transaction(NAME, call.transaction_id)
    if trade is None or call.mchid != merchant.mchid or trade.made.merchant != merchant.mchid:
        raise refusal(404, "ORDER_NOT_EXIST", "订单不存在")
    return Done(200, transaction(trade))


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


def transaction(trade: Trade) -> bytes:
    """The trade as a query and a notification both state it."""
    made, paid = trade.made, trade.paid
    if paid is None:
        return msgspec.json.encode(
            {
                "appid": made.details["appid"],
                "mchid": made.merchant,
                "out_trade_no": made.out_trade_no,
                "trade_state": TRADE_STATES[trade.state],
                "trade_state_desc": "订单未支付" if trade.state is TradeState.WAITING else "订单已关闭",
                "amount": {"payer_currency": "CNY", "total": made.amount},
                "promotion_detail": [],
            }
        )
    return msgspec.json.encode(_paid_transaction(paid))


def _paid_transaction(paid: Paid) -> dict[str, object]:
    amount = {"total": paid.amount, "payer_total": paid.amount, "currency": paid.currency, "payer_currency": "CNY"}
    return {
        "appid": paid.details["appid"],
        "mchid": paid.details["mchid"],
        "out_trade_no": paid.out_trade_no,
        "transaction_id": paid.transaction,
        "trade_type": "NATIVE",
        "trade_state": TRADE_STATES[TradeState.PAID],
        "trade_state_desc": "支付成功",
        "bank_type": "OTHERS",
        "attach": "",
        "success_time": rfc3339(paid.success_at),
        "payer": {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"},
        "amount": amount,
        "promotion_detail": [],
    }
