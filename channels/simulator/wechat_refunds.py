"""Refunds at WeChat Pay: what may be given back, what becomes of it, and how it is stated. Pure."""

import hashlib
from typing import Final

import msgspec

from channels.moments import rfc3339
from channels.simulator.faults import draw
from channels.simulator.platform import Call, Done, Moment
from channels.simulator.trades import Paid, Refund, RefundOpened, RefundSettled, RefundState, Trade, Trades, about
from channels.simulator.wechat_envelope import Notice
from channels.simulator.wechat_faults import WechatFaults
from channels.simulator.wechat_requests import ApplyAbnormalRefund, ApplyRefund, QueryRefund, refusal

DAYS_MAX: Final = 365
REFUNDS_MAX: Final = 50  # of one trade
BETWEEN_S: Final = 60

STATES: Final = {
    RefundState.PROCESSING: "PROCESSING",
    RefundState.SUCCEEDED: "SUCCESS",
    RefundState.FAILED: "CLOSED",
    RefundState.ABNORMAL: "ABNORMAL",
}
_SUMMARIES: Final = {"SUCCESS": "退款成功", "CLOSED": "退款关闭", "ABNORMAL": "退款异常"}
_RECEIVED_BY = "支付用户零钱"


def apply_refund(
    channel: str, trades: Trades, call: Call, asked: ApplyRefund, faults: WechatFaults, seed: int, moment: Moment
) -> Done:
    """Take a refund on, or say how far the one of this number is.

    Raises:
        Refusal: nothing was taken on.
    """
    known = trades.find_refund(channel, call.merchant, asked.out_refund_no)
    if known is not None:
        if known[1].made.terms != _terms(asked):
            raise refusal(400, "INVALID_REQUEST", "订单金额或退款金额与之前请求不一致，请核实后再试")
        return Done(200, _answer(*known))
    trade, paid = _paid(channel, trades, call.merchant, asked)
    _check_amount(trade, paid, asked, moment.now)
    _check_luck(trade, faults, seed, call.count, moment.now)
    day = rfc3339(moment.now_s)[:10].replace("-", "")
    made = RefundOpened(
        at=moment.now,
        **about(trade),
        refund_no=asked.out_refund_no,
        channel_refund=f"503{day}{trades.transactions() + 1:018d}",
        amount=asked.amount.refund,
        terms=_terms(asked),
        notify_url=asked.notify_url,
        details={"reason": asked.reason},
    )
    return Done(200, _answer(trade, Refund(made)), (made,))


def query_refund(channel: str, trades: Trades, merchant: str, asked: QueryRefund) -> Done:
    """How far a refund is.

    Raises:
        Refusal: there is none of this number.
    """
    known = trades.find_refund(channel, merchant, asked.out_refund_no)
    if known is None:
        raise refusal(404, "RESOURCE_NOT_EXISTS", "退款单不存在")
    return Done(200, _answer(*known))


def apply_abnormal_refund(
    channel: str, trades: Trades, merchant: str, asked: ApplyAbnormalRefund, moment: Moment
) -> Done:
    """Somebody at the merchant found a bank card that takes the money.

    Raises:
        Refusal: no such refund, or it is not abnormal.
    """
    known = trades.find_refund(channel, merchant, asked.out_refund_no)
    if known is None or known[1].made.channel_refund != asked.refund_id:
        raise refusal(404, "RESOURCE_NOT_EXISTS", "退款单不存在")
    trade, refund = known
    if refund.state is not RefundState.ABNORMAL:
        raise refusal(400, "INVALID_REQUEST", "退款单状态不允许发起异常退款")
    settled = _settled(trade, refund, RefundState.SUCCEEDED, moment)
    return Done(200, _answer(trade, Refund(refund.made)), (settled,))


def settles(trade: Trade, refund: Refund, faults: WechatFaults, seed: int, moment: Moment) -> RefundSettled:
    """What a refund under way comes to."""
    subject = f"{trade.subject} refund {list(trade.refunds).index(refund.made.refund_no)}"
    if draw(seed, "refund_closed", subject) < faults.refund_closed:
        return _settled(trade, refund, RefundState.FAILED, moment)
    if draw(seed, "refund_abnormal", subject) < faults.refund_abnormal:
        return _settled(trade, refund, RefundState.ABNORMAL, moment)
    return _settled(trade, refund, RefundState.SUCCEEDED, moment)


def notice(trade: Trade, refund_no: str) -> tuple[str, Notice] | None:
    """Where a refund's notification goes, and what it says; None while there is nothing to say, or nobody to say it
    to."""
    refund = trade.refunds.get(refund_no)
    if refund is None or refund.settled is None or not refund.made.notify_url:
        return None
    status = STATES[refund.state]
    plaintext = msgspec.json.encode(_notified(trade, refund))
    at_s = int(refund.settled.at)
    return refund.made.notify_url, Notice(f"REFUND.{status}", _SUMMARIES[status], "refund", plaintext, at_s)


# --- may it be given back --------------------------------------------------------------------------------------------


def _paid(channel: str, trades: Trades, merchant: str, asked: ApplyRefund) -> tuple[Trade, Paid]:
    """The trade that was paid."""
    by_transaction = trades.find_transaction(channel, asked.transaction_id) if asked.transaction_id else None
    trade = by_transaction if asked.transaction_id else trades.find(channel, merchant, asked.out_trade_no)
    if trade is None or trade.made.merchant != merchant or trade.paid is None:
        raise refusal(404, "RESOURCE_NOT_EXISTS", "订单不存在")
    return trade, trade.paid


def _check_amount(trade: Trade, paid: Paid, asked: ApplyRefund, now: float) -> None:
    if asked.amount.total != paid.amount:
        raise refusal(400, "INVALID_REQUEST", "订单金额不一致")
    if asked.amount.refund > paid.amount - trade.refunded:
        raise refusal(400, "INVALID_REQUEST", "退款金额大于订单剩余可退金额")
    if len(trade.refunds) >= REFUNDS_MAX:
        raise refusal(400, "INVALID_REQUEST", "部分退款次数超过50次")
    if now - paid.success_at > DAYS_MAX * 86400:
        raise refusal(400, "INVALID_REQUEST", "订单已超过可退款的最大期限（一年）")


def _check_luck(trade: Trade, faults: WechatFaults, seed: int, count: int, now: float) -> None:
    subject = f"{trade.subject} refund {len(trade.refunds)}"
    if draw(seed, "not_enough", subject, str(count)) < faults.not_enough:
        raise refusal(403, "NOT_ENOUGH", "基本账户余额不足，请充值后重新发起")
    newest = max((each.made.at for each in trade.refunds.values()), default=0.0)
    if now - newest < BETWEEN_S and draw(seed, "refund_minute", subject) < faults.refund_minute:
        raise refusal(429, "FREQUENCY_LIMITED", "该笔订单退款请求过于频繁，请稍后再试")


def _settled(trade: Trade, refund: Refund, state: RefundState, moment: Moment) -> RefundSettled:
    success_at = moment.now_s if state is RefundState.SUCCEEDED else 0
    return RefundSettled(
        at=moment.now, **about(trade), refund_no=refund.made.refund_no, state=state, success_at=success_at
    )


def _terms(asked: ApplyRefund) -> str:
    return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()


# --- how it is stated ------------------------------------------------------------------------------------------------


def _answer(trade: Trade, refund: Refund) -> bytes:
    """As the answers to a refund and its query state it: no mchid, `status`."""
    made, paid = refund.made, trade.paid
    assert paid is not None, "only what was paid is refunded"
    amount = {"total": paid.amount, "refund": made.amount, "payer_total": paid.amount, "payer_refund": made.amount}
    amount |= {"settlement_refund": made.amount, "settlement_total": paid.amount, "discount_refund": 0, "refund_fee": 0}
    return msgspec.json.encode(
        {
            **_common(trade, refund),
            "channel": "ORIGINAL",
            "create_time": rfc3339(int(made.at)),
            "status": STATES[refund.state],
            "funds_account": "AVAILABLE",
            "amount": {**amount, "currency": paid.currency, "from": []},
            "promotion_detail": [],
        }
    )


def _notified(trade: Trade, refund: Refund) -> dict[str, object]:
    """As its notification states it: an mchid, `refund_status`, no currency."""
    made, paid = refund.made, trade.paid
    assert paid is not None, "only what was paid is refunded"
    amount = {"total": paid.amount, "refund": made.amount, "payer_total": paid.amount, "payer_refund": made.amount}
    return {
        "mchid": trade.made.merchant,
        **_common(trade, refund),
        "refund_status": STATES[refund.state],
        "amount": amount,
    }


def _common(trade: Trade, refund: Refund) -> dict[str, object]:
    assert trade.paid is not None, "only what was paid is refunded"
    stated: dict[str, object] = {
        "refund_id": refund.made.channel_refund,
        "out_refund_no": refund.made.refund_no,
        "transaction_id": trade.paid.transaction,
        "out_trade_no": trade.made.out_trade_no,
        "user_received_account": _RECEIVED_BY,
    }
    if refund.settled is not None and refund.settled.success_at:
        stated["success_time"] = rfc3339(refund.settled.success_at)
    return stated
