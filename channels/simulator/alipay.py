"""Alipay's OpenAPI from the platform's side: what is done with a call, what is stated, what happens by itself.

Pure: requests and the time come in, answers and ledger entries go out. Who may speak and what is asked stands in
`alipay_requests.py`, how it is signed in `alipay_envelope.py`; trades, refunds and the daily list have their own files.
"""

import hashlib
from types import MappingProxyType
from typing import Final

from channels.moments import plain
from channels.money import yuan
from channels.simulator import alipay_bill, alipay_refunds, alipay_trades
from channels.simulator import alipay_envelope as envelope
from channels.simulator.alipay_faults import AlipayFaults
from channels.simulator.alipay_keys import PlatformKeys
from channels.simulator.alipay_refunds import Luck
from channels.simulator.alipay_requests import (
    DOWNLOAD,
    GATEWAY,
    PAGES,
    VERBS,
    Asked,
    Biz,
    Failed,
    authenticate,
    parameters,
    read,
)
from channels.simulator.alipay_trades import NAME, SUCCESS
from channels.simulator.faults import draw
from channels.simulator.platform import Call, Done, Incoming, Moment, Outgoing, PayOrder, Refusal, Reply
from channels.simulator.trades import AnyEntry, Paid, Refund, RefundSettled, Trade, Trades

RETRY_AFTER_S: Final = (240, 600, 600, 3600, 7200, 21600, 54000)
LIES: Final = {"answer_tamper": "tamper", "answer_unsigned": "unsigned", "answer_wrong_key": "wrong_key"}
REQUEST_FAULTS: Final = MappingProxyType(
    {
        "error_before": False,
        "error_after": True,
        "rate_limited": False,
        "unsigned_error": True,
        "bad_gateway": True,
        "answer_other": True,
        **dict.fromkeys(LIES, True),
    }
)
ACKNOWLEDGED: Final = b"success"


class AlipayPlatform:
    """The platform with all its merchants."""

    name = NAME
    no_faults = AlipayFaults()
    request_faults = REQUEST_FAULTS
    variants = ("tamper", "wrong_app", "wrong_seller", "wrong_amount", "waiting")
    retry_after_s = RETRY_AFTER_S
    answer_within_s = 5.0

    def __init__(self, keys: PlatformKeys, seed: int) -> None:
        self._keys = keys
        self._seed = seed

    def claims(self, request: Incoming) -> bool:
        """The one address of all methods, and that of the lists."""
        return request.path in (GATEWAY, DOWNLOAD)

    def receive(self, request: Incoming, moment: Moment) -> Call:
        """Who asks what."""
        if request.path == DOWNLOAD:
            return Call("", "download", incoming=request)
        method = ""
        try:
            params = parameters(request)
            method = params.get("method", "")
            merchant = authenticate(self._keys, params)
            asked = read(params)
        except Failed as failed:
            raise self._refusal(failed, _unread(method), VERBS.get(method, "")) from None
        number = asked.biz.out_trade_no
        return Call(merchant.app_id, VERBS[asked.method], number, asked.biz.subject, asked, request)

    def execute(self, call: Call, trades: Trades, faults: AlipayFaults, moment: Moment) -> Done:
        """Decide a call."""
        if call.verb == "download":
            assert call.incoming is not None
            merchants = self._keys.merchants
            file = alipay_bill.download(call.incoming, merchants, trades, faults, self._seed, moment)
            return Done(reply=file)
        asked: Asked = call.asked
        try:
            if call.verb in PAGES:
                return alipay_trades.submit(trades, call, asked, moment)
            stated, done = self._executed(call, asked, trades, faults, moment)
        except Failed as failed:
            raise self._refusal(failed, asked, call.verb) from None
        odd = draw(self._seed, "odd_values", asked.biz.out_trade_no, call.verb) < faults.odd_values
        node = envelope.node_of({**stated, "note": envelope.ODD} if odd else stated)
        return Done(done.status, node.encode(), done.entries, done.shown, done.code)

    def _executed(
        self, call: Call, asked: Asked, trades: Trades, faults: AlipayFaults, moment: Moment
    ) -> tuple[dict[str, object], Done]:
        biz, seed = asked.biz, self._seed
        luck = Luck(faults, seed, call.count)
        if call.verb == "precreate":
            return alipay_trades.precreate(trades, call, asked, faults, seed, moment)
        if call.verb == "bill":
            merchant = self._keys.merchants[call.merchant]
            return alipay_bill.link(trades, merchant, call, biz, faults, seed, moment), Done()
        if call.verb == "cancel":
            return alipay_refunds.cancel(_known(trades, call.merchant, asked), biz, moment)
        trade = alipay_trades.find(trades, call.merchant, biz)
        match call.verb:
            case "query":
                return alipay_trades.queried(trade, faults, seed, moment.now), Done()
            case "close":
                race = trade.payable(moment.now) and draw(seed, "close_race", trade.subject) < faults.close_race
                entries = self.pays(trade, trades, moment, None) if race else ()
                return alipay_trades.close(trade, entries, moment)
            case "refund":
                return alipay_refunds.refund(trade, biz, luck, moment)
        return alipay_refunds.query_refund(trade, biz, luck), Done()

    def answer(self, call: Call, done: Done, faults: AlipayFaults, moment: Moment) -> Reply:
        """Sign it, in the mode that the request was signed in."""
        return envelope.answer(self._keys, call.asked, done.body.decode())

    def broken(self, fault: str, call: Call, moment: Moment) -> Reply:
        """The words for a fault, or a lie that nobody may believe."""
        asked: Asked | None = call.asked
        if fault == "bad_gateway":
            return Reply(502, {"Content-Type": "text/html"}, b"<html><body><h1>502 Bad Gateway</h1></body></html>")
        if asked is None or call.verb in PAGES:
            return envelope.page("系统繁忙，请稍后再试", status=500)
        if fault in LIES or fault == "answer_other":
            node = envelope.node_of(_lie(call, asked) if fault in LIES else _other(asked, moment))
            return envelope.answer(self._keys, asked, node, variant=LIES.get(fault, ""))
        failed = _BROKEN.get(fault, _BROKEN["error_before"])
        variant = "unsigned" if fault == "unsigned_error" else ""
        return envelope.answer(self._keys, asked, envelope.node_of(failed.node), variant=variant)

    def _refusal(self, failed: Failed, asked: Asked | None, verb: str) -> Refusal:
        if verb in PAGES:
            return Refusal(envelope.page(f"{failed.node['sub_code']} {failed.node['sub_msg']}"), failed.entries)
        node, variant = envelope.node_of(failed.node), "" if failed.signed else "unsigned"
        return Refusal(envelope.answer(self._keys, asked, node, variant=variant), failed.entries)

    # --- what happens by itself

    def pays(self, trade: Trade, trades: Trades, moment: Moment, order: PayOrder | None) -> tuple[AnyEntry, ...]:
        """The payer scans and pays with his own app."""
        return alipay_trades.pays(trade, self._keys.merchants[trade.made.merchant], moment, order)

    def settles(self, trade: Trade, refund: Refund, faults: AlipayFaults, moment: Moment) -> RefundSettled | None:
        """Nothing is ever under way: a refund is done when it is answered."""
        return None

    def notice(self, trade: Trade, topic: str, variant: str, faults: AlipayFaults, moment: Moment) -> Outgoing | None:
        """The payment's notification, or what is told of the refund named by `topic` on the same address."""
        paid = trade.paid
        if paid is None or not trade.made.notify_url:
            return None
        fields = self._notified(trade, paid, faults, moment)
        if topic:
            refunded = alipay_refunds.told(trade, topic)
            closed = refunded is not None and "gmt_close" in refunded
            if refunded is None or (closed and not self._draws(trade, "closed_notice", faults)):
                return None
            fields |= {**refunded, "trade_status": "TRADE_CLOSED" if closed else "TRADE_SUCCESS"}
            fields["notify_id"] = _notify_id(trade, topic)
        fields = self._varied(fields, trade, variant, faults)
        charset = "gbk" if self._draws(trade, "gbk", faults) else "utf-8"
        fields["charset"] = charset
        headers, body = envelope.notification(
            self._keys.certified_key if trade.made.details.get("certified") else self._keys.private_key,
            fields,
            charset,
            sign_empties=self._draws(trade, "empties_signed", faults),
            tamper=moment.nonce if variant == "tamper" else "",
        )
        if variant == "wrong_amount":
            body = body.replace(f"total_amount={yuan(paid.amount)}".encode(), b"total_amount=0.07")
        return Outgoing(trade.made.notify_url, headers, body)

    def acknowledged(self, status: int, body: bytes) -> bool:
        """These seven bytes, and nothing else."""
        return status == 200 and body == ACKNOWLEDGED

    def _draws(self, trade: Trade, fault: str, faults: AlipayFaults) -> bool:
        share: float = getattr(faults, fault)
        return draw(self._seed, fault, trade.subject) < share

    def _notified(self, trade: Trade, paid: Paid, faults: AlipayFaults, moment: Moment) -> dict[str, str]:
        made, amount = trade.made, yuan(paid.amount)
        finished = alipay_trades.is_finished(trade, faults, self._seed)
        fields = {
            "notify_time": plain(moment.now_s),
            "notify_type": "trade_status_sync",
            "notify_id": _notify_id(trade, ""),
            "app_id": paid.details["app_id"],
            "auth_app_id": paid.details["app_id"],
            "version": "1.0",
            "trade_no": paid.transaction,
            "out_trade_no": made.out_trade_no,
            "trade_status": "TRADE_FINISHED" if finished else "TRADE_SUCCESS",
            "total_amount": amount,
            "receipt_amount": amount,
            "invoice_amount": amount,
            "buyer_pay_amount": amount,
            "point_amount": "0.00",
            "buyer_id": alipay_trades.buyer_of(trade),
            "buyer_logon_id": "ljp***@sandbox.com",
            "seller_id": paid.details["seller_id"],
            "seller_email": "shop+1@example.com",
            "subject": made.description,
            "gmt_create": plain(int(made.at)),
            "gmt_payment": plain(paid.success_at),
            "fund_bill_list": f'[{{"amount":"{amount}","fundChannel":"ALIPAYACCOUNT"}}]',
        }
        for name in ("body", "passback_params"):
            if made.details.get(name):
                fields[name] = made.details[name]
        if paid.currency != made.currency:
            fields["trans_currency"] = paid.currency
        return fields

    def _varied(self, fields: dict[str, str], trade: Trade, variant: str, faults: AlipayFaults) -> dict[str, str]:
        """What is odd about this trade's notifications, and what is wrong with this one."""
        if self._draws(trade, "odd_values", faults):
            fields["body"] = envelope.ODD
        if self._draws(trade, "empties_signed", faults) or self._draws(trade, "empties_unsigned", faults):
            fields |= {"voucher_detail_list": "", "out_biz_no": fields.get("out_biz_no", ""), "open_id": ""}
        if variant in ("wrong_app", "wrong_seller"):
            stranger = _digits(f"stranger {trade.subject}", 12)
            fields |= {"trade_no": f"20990101{_digits(f'trade {trade.subject}', 20)}"}
            fields |= {"app_id": f"2021{stranger}"} if variant == "wrong_app" else {"seller_id": f"2088{stranger}"}
        if variant == "waiting":
            fields["trade_status"] = alipay_trades.WAITING
            fields["notify_id"] = _notify_id(trade, "waiting")
            for name in ("gmt_payment", "fund_bill_list"):
                del fields[name]
        return fields


_BROKEN: Final = {
    "error_before": Failed("20000", "isp.unknow-error", "系统繁忙"),
    "error_after": Failed("20000", "aop.ACQ.SYSTEM_ERROR", "系统异常"),
    "unsigned_error": Failed("20000", "aop.unknow-error", "系统繁忙"),
    "rate_limited": Failed("40005", "isv.app-call-limited", "应用调用次数超限"),
}


def _unread(method: str) -> Asked | None:
    """A question of which nothing but the method is known, so that the answer bears its name."""
    return Asked(method, "utf-8", Biz(), "", "", certified=False) if method in VERBS else None


def _known(trades: Trades, merchant: str, asked: Asked) -> Trade | None:
    try:
        return alipay_trades.find(trades, merchant, asked.biz)
    except Failed:
        return None


def _notify_id(trade: Trade, topic: str) -> str:
    """The same at every delivery of one notification."""
    made = trade.made
    return f"{alipay_trades.day_of(made.at)}00222{_digits(f'{made.merchant} {made.out_trade_no} {topic}', 21)}"


def _digits(of: str, count: int) -> str:
    return f"{int(hashlib.sha256(of.encode('utf-8', 'replace')).hexdigest(), 16) % 10**count:0{count}d}"


def _lie(call: Call, asked: Asked) -> dict[str, object]:
    """What would do harm if it were believed: everything is over and nothing was paid."""
    number = asked.biz.out_trade_no
    match call.verb:
        case "precreate":
            return {**SUCCESS, "out_trade_no": number, "qr_code": "https://qr.alipay.com/lie"}
        case "query":
            return {**SUCCESS, "out_trade_no": number, "trade_no": "1", "trade_status": "TRADE_CLOSED"}
        case "refund" | "refundquery":
            return {
                "code": "40004",
                "msg": "Business Failed",
                "sub_code": "ACQ.TRADE_HAS_CLOSE",
                "sub_msg": "交易已关闭",
            }
        case "bill":
            return {**SUCCESS, "bill_download_url": "https://example.com/lie"}
    return {**SUCCESS, "out_trade_no": number, "trade_no": "1", "action": "close", "retry_flag": "N"}


def _other(asked: Asked, moment: Moment) -> dict[str, object]:
    """What is true of some other trade: that it was paid, refunded, closed."""
    return {
        **SUCCESS,
        "out_trade_no": f"{asked.biz.out_trade_no}X"[-64:],
        "out_request_no": f"{asked.biz.out_request_no}X"[-64:],
        "trade_no": "2099010122001000000000000000",
        "trade_status": "TRADE_SUCCESS",
        "total_amount": "0.07",
        "send_pay_date": plain(moment.now_s),
        "fund_change": "Y",
        "refund_status": "REFUND_SUCCESS",
        "refund_amount": "0.07",
        "qr_code": "https://qr.alipay.com/another",
        "action": "close",
        "bill_download_url": "https://example.com/another",
    }
