"""WeChat Pay API v3 from the platform's side: what is done with a call, what is stated, what happens by itself.

Pure: requests and the time come in, answers and ledger entries go out. Who may speak and what is asked stands in
`wechat_requests.py`, how it is signed in `wechat_envelope.py`; refunds and the daily list have files of their own.
"""

import hashlib
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qs

import msgspec

from channels import signing
from channels.moments import of_rfc3339, rfc3339
from channels.simulator import wechat_bill, wechat_refunds
from channels.simulator import wechat_envelope as envelope
from channels.simulator.cashier import page_of
from channels.simulator.faults import draw
from channels.simulator.platform import Call, Done, Incoming, Moment, Outgoing, PayOrder, Refusal, Reply
from channels.simulator.trades import (
    AnyEntry,
    Closed,
    Opened,
    Paid,
    Refund,
    RefundSettled,
    RefundState,
    Trade,
    Trades,
    TradeState,
    about,
)
from channels.simulator.wechat_faults import WechatFaults
from channels.simulator.wechat_keys import Merchant, PlatformCertificate, PlatformKeys
from channels.simulator.wechat_requests import (
    H5,
    H5_PAGE,
    METHODS,
    TRADE_TYPES,
    ApplyAbnormalRefund,
    ApplyRefund,
    Certificates,
    Close,
    Download,
    Jsapi,
    OpenPage,
    Prepay,
    Query,
    QueryRefund,
    TradeBill,
    authenticate,
    problem,
    read_call,
    refusal,
)

NAME: Final = "wechatpay"
EXPIRE_AFTER_MIN_S: Final = 60
EXPIRE_AFTER_DEFAULT_S: Final = 7 * 86400
RETRY_AFTER_S: Final = (15, 15, 30, 180, 600, 1200, 1800, 1800, 1800, 3600, 10800, 10800, 10800, 21600, 21600)

TRADE_STATES: Final = {
    TradeState.WAITING: ("NOTPAY", "订单未支付"),
    TradeState.PAID: ("SUCCESS", "支付成功"),
    TradeState.CLOSED: ("CLOSED", "订单已关闭"),
}
REFUNDED: Final = ("REFUND", "订单发生过退款，退款详情请查询退款单")
LIES: Final = {
    "answer_probe": "probe",
    "answer_stale": "stale",
    "answer_wrong_serial": "wrong_serial",
    "answer_tamper": "tamper",
    "answer_unsigned": "unsigned",
}
REQUEST_FAULTS: Final = MappingProxyType(
    {
        "error_before": False,
        "error_after": True,
        "rate_limited": False,
        "accepted": False,
        **dict.fromkeys(LIES, True),
    }
)


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
        """All that begins with /v3/, and the page that an h5_url names."""
        return request.path.startswith("/v3/") or request.path == H5_PAGE

    def receive(self, request: Incoming, moment: Moment) -> Call:
        """Who asks what."""
        if request.path == H5_PAGE:
            return Call("", "openpage", asked=OpenPage(parse_qs(request.query).get("prepay_id", [""])[0]))
        merchant = authenticate(self._keys, request, moment.now_s)
        asked = read_call(merchant, request)
        verb = "prepay" if isinstance(asked, Prepay) else type(asked).__name__.lower()
        number = description = ""
        match asked:
            case Prepay():
                number, description = asked.out_trade_no, asked.description
            case Query() | Close():
                number = asked.out_trade_no
            case ApplyRefund() | QueryRefund() | ApplyAbnormalRefund():
                number = asked.out_refund_no
        return Call(merchant.mchid, verb, number, description, asked, request)

    def execute(self, call: Call, trades: Trades, faults: WechatFaults, moment: Moment) -> Done:
        """Decide a call."""
        asked, seed = call.asked, self._seed
        match asked:
            case Prepay():
                return _prepay(trades, call, asked, moment)
            case Query():
                return _query(trades, call.merchant, asked)
            case Close():
                return self._close(trades, call.merchant, asked, faults, moment)
            case ApplyRefund():
                return wechat_refunds.apply_refund(NAME, trades, call, asked, faults, seed, moment)
            case QueryRefund():
                return wechat_refunds.query_refund(NAME, trades, call.merchant, asked)
            case ApplyAbnormalRefund():
                return wechat_refunds.apply_abnormal_refund(NAME, trades, call.merchant, asked, moment)
            case TradeBill():
                return wechat_bill.link(NAME, trades, call, asked, faults, seed, moment)
            case Download():
                return wechat_bill.download(NAME, trades, call.merchant, asked, faults, seed, moment)
            case Certificates():
                listed = self._keys.certificates if faults.rotation > 0 else self._keys.certificates[:1]
                return Done(200, _certificate_list(listed, self._keys.merchants[call.merchant]))
            case OpenPage():
                return _open_page(trades, asked)
        raise AssertionError(asked)

    def _close(self, trades: Trades, mchid: str, call: Close, faults: WechatFaults, moment: Moment) -> Done:
        trade = trades.find(NAME, mchid, call.out_trade_no)
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
        """The words for a fault, or a lie that nobody may believe."""
        if fault == "rate_limited":
            return problem(429, "FREQUENCY_LIMITED", "频率超限")
        if fault == "accepted":
            return self.answer(call, Done(202), self.no_faults, moment)
        if fault not in LIES:
            return problem(500, "SYSTEM_ERROR", "系统繁忙，请稍后重试")
        status, body = _lie(call, self._keys.merchants.get(call.merchant))
        asked = call.incoming.headers.get("wechatpay-serial", "") if call.incoming else ""
        seal = envelope.answer_seal(self._keys, self.no_faults, asked, moment.roll)
        headers, body = envelope.deliver(seal, body, LIES[fault], moment.now_s, moment.nonce)
        return Reply(status, headers, body)

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
        """What a refund under way comes to."""
        return wechat_refunds.settles(trade, refund, faults, self._seed, moment)

    def notice(self, trade: Trade, topic: str, variant: str, faults: WechatFaults, moment: Moment) -> Outgoing | None:
        """The payment's notification, or that of the refund named by `topic`."""
        made, paid = trade.made, trade.paid
        if paid is None:
            return None
        url, told = made.notify_url, _payment_notice(trade, paid)
        if topic:
            refund = wechat_refunds.notice(trade, topic)
            if refund is None:
                return None
            url, told = refund
        seal = envelope.notification_seal(self._keys, faults, self._seed, f"{trade.subject} {topic}".rstrip())
        body = envelope.sealed(
            self._keys.merchants[made.merchant], told, f"{made.merchant} {made.out_trade_no} {topic}"
        )
        headers, body = envelope.deliver(seal, body, variant, moment.now_s, moment.nonce)
        return Outgoing(url, headers, body)

    def acknowledged(self, status: int, body: bytes) -> bool:
        """The status wins over the body."""
        return 200 <= status < 300


# --- trades ----------------------------------------------------------------------------------------------------------


def _prepay(trades: Trades, call: Call, asked: Prepay, moment: Moment) -> Done:
    terms = hashlib.sha256(msgspec.json.encode([type(asked).__name__, asked])).hexdigest()
    trade = trades.find(NAME, asked.mchid, asked.out_trade_no)
    if trade is None:
        if trades.full():
            raise refusal(429, "RATELIMIT_EXCEEDED", "接口限频")
        made = _opened(trades, asked, terms, moment.now)
        return _shown(made, 1, call, (made,))
    if trade.made.terms != terms:
        raise refusal(403, "OUT_TRADE_NO_USED", "请求重入时，参数与首次请求时不一致")
    if trade.state is TradeState.PAID:
        raise refusal(400, "ORDER_PAID", "该订单已支付")
    if trade.state is TradeState.CLOSED:
        raise refusal(400, "ORDER_CLOSED", "该订单已关闭")
    trade.codes += 1
    return _shown(trade.made, trade.codes, call)


def _opened(trades: Trades, asked: Prepay, terms: str, now: float) -> Opened:
    method = next(name for name, shape in METHODS.items() if isinstance(asked, shape))
    payer = asked.payer.openid if isinstance(asked, Jsapi) else _openid(asked.mchid, asked.out_trade_no)
    return Opened(
        at=now,
        channel=NAME,
        merchant=asked.mchid,
        out_trade_no=asked.out_trade_no,
        method=method,
        description=asked.description,
        ordinal=trades.next_ordinal(NAME, asked.mchid, asked.description),
        amount=asked.amount.total,
        currency=asked.amount.currency,
        notify_url=asked.notify_url,
        expires_at_s=_expires_at_s(asked.time_expire, now),
        terms=terms,
        details={
            "appid": asked.appid,
            "openid": payer,
            "attach": asked.attach or "",
        },
    )


def _openid(mchid: str, out_trade_no: str) -> str:
    """Whoever pays, as the merchant's appid knows them."""
    return f"o{hashlib.sha256(f'{mchid} {out_trade_no}'.encode()).hexdigest()[:27]}"


def _expires_at_s(time_expire: str | None, now: float) -> int:
    if time_expire is None:
        return int(now) + EXPIRE_AFTER_DEFAULT_S
    expires_at_s = of_rfc3339(time_expire)
    if expires_at_s is None:
        raise refusal(400, "PARAM_ERROR", "time_expire格式错误", "time_expire")
    return max(expires_at_s, int(now) + EXPIRE_AFTER_MIN_S)


def _shown(made: Opened, codes: int, call: Call, entries: tuple[AnyEntry, ...] = ()) -> Done:
    """What the payer is given: what was given before is dead from now on."""
    token = hashlib.sha256(f"{made.merchant} {made.out_trade_no} {made.at} {codes}".encode()).hexdigest()
    prepay_id = f"wx{rfc3339(int(made.at))[:19].translate(_DIGITS)}{token[:20]}"
    match made.method:
        case "native":
            code = f"weixin://wxpay/bizpayurl?pr={token[:9]}zz"
            given = {"code_url": code}
        case "h5":  # the real one's host is wx.tenpay.com
            host = call.incoming.headers.get("host", "127.0.0.1") if call.incoming else ""
            code = prepay_id
            package = int(token[:8], 16)
            given = {"h5_url": f"http://{host}{H5_PAGE}?prepay_id={prepay_id}&package={package}"}
        case _:
            code = prepay_id
            given = {"prepay_id": prepay_id}
    return Done(200, msgspec.json.encode(given), entries, shown=made.out_trade_no, code=code)


_DIGITS = str.maketrans("", "", "-:T")


def _open_page(trades: Trades, asked: OpenPage) -> Done:
    trade = trades.find_code(asked.prepay_id)
    if trade is None or trade.made.channel != NAME:
        raise Refusal(
            Reply(404, {"Content-Type": "text/plain; charset=utf-8"}, "支付请求已失效，请重新发起支付".encode())
        )
    return Done(reply=Reply(302, {"Location": page_of(*trade.key)}))


def _query(trades: Trades, mchid: str, asked: Query) -> Done:
    trade = trades.find(NAME, asked.mchid, asked.out_trade_no) or trades.find_transaction(NAME, asked.transaction_id)
    if trade is None or asked.mchid != mchid or trade.made.merchant != mchid:
        raise refusal(404, "ORDER_NOT_EXIST", "订单不存在")
    return Done(200, transaction(trade))


# --- certificates ----------------------------------------------------------------------------------------------------


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
    """As a query states a trade; a refund under way or done shows."""
    made, paid = trade.made, trade.paid
    if paid is not None:
        refunded = any(refund.state is not RefundState.FAILED for refund in trade.refunds.values())
        return msgspec.json.encode(_paid(made, paid, REFUNDED if refunded else TRADE_STATES[TradeState.PAID]))
    state, description = TRADE_STATES[trade.state]
    return msgspec.json.encode(
        {
            "appid": made.details["appid"],
            "mchid": made.merchant,
            "out_trade_no": made.out_trade_no,
            "trade_state": state,
            "trade_state_desc": description,
            "amount": {"payer_currency": "CNY", "total": made.amount},
            "promotion_detail": [],
        }
    )


def _payment_notice(trade: Trade, paid: Paid) -> envelope.Notice:
    """As the notification states it: at every delivery the moment of the payment."""
    stated = _paid(trade.made, paid, TRADE_STATES[TradeState.PAID])
    return envelope.Notice(
        "TRANSACTION.SUCCESS", "支付成功", "transaction", msgspec.json.encode(stated), paid.success_at
    )


def _paid(made: Opened, paid: Paid, state: tuple[str, str]) -> dict[str, object]:
    amount = {"total": paid.amount, "payer_total": paid.amount, "currency": paid.currency, "payer_currency": "CNY"}
    return {
        "appid": paid.details["appid"],
        "mchid": paid.details["mchid"],
        "out_trade_no": paid.out_trade_no,
        "transaction_id": paid.transaction,
        "trade_type": TRADE_TYPES[made.method],
        "trade_state": state[0],
        "trade_state_desc": state[1],
        "bank_type": "OTHERS",
        "attach": made.details.get("attach", ""),
        "success_time": rfc3339(paid.success_at),
        "payer": {"openid": made.details.get("openid", "")},
        "amount": amount,
        "promotion_detail": [],
    }


def _lie(call: Call, merchant: Merchant | None) -> tuple[int, bytes]:
    """What would do harm if it were believed: everything is over and nothing was paid."""
    said: dict[str, object]
    match call.asked:
        case Close():
            return 204, b""
        case Query() if merchant is not None:
            said = {"appid": merchant.appid, "mchid": merchant.mchid, "out_trade_no": call.number}
            said |= {"trade_state": "CLOSED", "trade_state_desc": "订单已关闭", "promotion_detail": []}
        case ApplyRefund() | QueryRefund():
            said = {"out_refund_no": call.number, "out_trade_no": "LIE000", "transaction_id": "1", "refund_id": "1"}
            said |= {"status": "CLOSED", "amount": {"refund": 1, "total": 1, "currency": "CNY"}}
        case H5():
            said = {"h5_url": "https://example.com/lie"}
        case Prepay():
            said = {"code_url": "weixin://wxpay/bizpayurl?pr=lie", "prepay_id": "wxlie"}
        case _:
            said = {"data": [], "hash_type": "SHA1", "hash_value": "", "download_url": "https://example.com/lie"}
    return 200, msgspec.json.encode(said)
