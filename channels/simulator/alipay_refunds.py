"""Refunds at Alipay: done at once, counted together, told on the payment's own address. Pure."""

from typing import Final

import msgspec

from channels.moments import plain
from channels.money import yuan
from channels.simulator.alipay_faults import AlipayFaults
from channels.simulator.alipay_requests import Biz, business, fen
from channels.simulator.alipay_trades import SUCCESS, cancelled, day_of, is_finished, trade_no
from channels.simulator.faults import draw
from channels.simulator.platform import Done, Moment
from channels.simulator.trades import (
    AnyEntry,
    Closed,
    Paid,
    Refund,
    RefundOpened,
    RefundSettled,
    RefundState,
    Trade,
    TradeState,
    about,
)

DAYS_MAX: Final = 365


class Luck(msgspec.Struct, frozen=True):
    """What decides about a refund beside the rules: the faults, the seed, and how often this was asked."""

    faults: AlipayFaults
    seed: int
    count: int

    def meets(self, fault: str, trade: Trade, number: str) -> bool:
        """Whether this refund of the trade meets the fault this time."""
        share: float = getattr(self.faults, fault)
        return draw(self.seed, fault, f"{trade.subject} {number}", str(self.count)) < share


def refund(trade: Trade, biz: Biz, luck: Luck, moment: Moment) -> tuple[dict[str, object], Done]:
    """Give money back, or say again that it was.

    Raises:
        Failed: nothing was given back.
    """
    paid, amount = _checked(trade, biz, luck, moment)
    number = biz.out_request_no or trade.made.out_trade_no  # without a number of its own it has the trade's
    known = trade.refunds.get(number)
    if known is not None:
        if known.made.amount != amount:
            raise business("DISCORDANT_REPEAT_REQUEST", "请求信息不一致", {"out_trade_no": trade.made.out_trade_no})
        return _stated(trade, trade.refunded, known.made.at, fund_change="N"), Done()
    _check_room(trade, paid, amount, luck, number)
    entries = _given_back(trade, paid, number, amount, moment)
    moved = "N" if luck.meets("no_fund_change", trade, number) else "Y"
    return _stated(trade, trade.refunded + amount, moment.now, fund_change=moved), Done(entries=entries)


def query_refund(trade: Trade, biz: Biz, luck: Luck) -> dict[str, object]:
    """How far a refund is; almost nothing is said of one that is not known."""
    number = biz.out_request_no or trade.made.out_trade_no
    known = trade.refunds.get(number)
    if known is None or trade.paid is None or luck.meets("refund_unseen", trade, number):
        return dict(SUCCESS)
    stated: dict[str, object] = {
        **SUCCESS,
        "out_request_no": number,
        "out_trade_no": trade.made.out_trade_no,
        "refund_amount": yuan(known.made.amount),
        "refund_status": "REFUND_SUCCESS",
        "total_amount": yuan(trade.paid.amount),
        "trade_no": trade_no(trade),
    }
    if "gmt_refund_pay" in biz.query_options:
        stated["gmt_refund_pay"] = plain(int(known.made.at))
    if "deposit_back_info" in biz.query_options and _by_bank(trade, luck):
        stated["deposit_back_info"] = {"has_deposit_back": "true", "dback_status": "P"}
    return stated


def cancel(trade: Trade | None, biz: Biz, moment: Moment) -> tuple[dict[str, object], Done]:
    """End a trade whatever has become of it."""
    if trade is None or trade.state is TradeState.OFFERED:
        return cancelled(None, biz.out_trade_no, ""), Done()
    number = trade.made.out_trade_no
    if trade.paid is None or trade.state is TradeState.CLOSED:
        over = trade.state is TradeState.CLOSED
        return cancelled(trade, number, "close"), Done(entries=() if over else (Closed(at=moment.now, **about(trade)),))
    rest = trade.paid.amount - trade.refunded
    entries = _given_back(trade, trade.paid, f"CANCEL{number}"[:64], rest, moment)
    return cancelled(trade, number, "refund"), Done(entries=entries)


def told(trade: Trade, refund_no: str) -> dict[str, str] | None:
    """What a refund adds to the payment's notification; None if there is no such refund."""
    known = trade.refunds.get(refund_no)
    if known is None:
        return None
    fields = {
        "refund_fee": yuan(_sum_until(trade, known)),
        "gmt_refund": f"{plain(int(known.made.at))}.{int(known.made.at * 1000) % 1000:03d}",
        "out_biz_no": refund_no,
    }
    if trade.state is TradeState.CLOSED and refund_no == list(trade.refunds)[-1]:
        fields["gmt_close"] = plain(int(known.made.at))
    return fields


def _checked(trade: Trade, biz: Biz, luck: Luck, moment: Moment) -> tuple[Paid, int]:
    amount, known = fen(biz.refund_amount), {"out_trade_no": trade.made.out_trade_no}
    if not amount:
        raise business("INVALID_PARAMETER", "参数有误：refund_amount", known)
    if trade.paid is None:
        if trade.state is TradeState.CLOSED:
            raise business("TRADE_HAS_CLOSE", "交易已关闭", known)
        raise business("TRADE_STATUS_ERROR", "交易状态不合法", known)
    if is_finished(trade, luck.faults, luck.seed) or moment.now - trade.paid.success_at > DAYS_MAX * 86400:
        raise business("TRADE_HAS_FINISHED", "交易已完结", known)
    return trade.paid, amount


def _check_room(trade: Trade, paid: Paid, amount: int, luck: Luck, number: str) -> None:
    known = {"out_trade_no": trade.made.out_trade_no, "refund_fee": yuan(trade.refunded)}
    if trade.state is TradeState.CLOSED:
        raise business("TRADE_HAS_CLOSE", "交易已关闭", known)
    if amount > paid.amount - trade.refunded:
        raise business("REFUND_AMT_NOT_EQUAL_TOTAL", "退款金额超限", known)
    if luck.meets("not_enough", trade, number):
        raise business("SELLER_BALANCE_NOT_ENOUGH", "卖家余额不足", known)


def _given_back(trade: Trade, paid: Paid, number: str, amount: int, moment: Moment) -> tuple[AnyEntry, ...]:
    made = RefundOpened(
        at=moment.now,
        **about(trade),
        refund_no=number,
        channel_refund=f"{day_of(moment.now)}R{number}"[:64],
        amount=amount,
        terms="",
        details={},
    )
    settled = RefundSettled(
        at=moment.now, **about(trade), refund_no=number, state=RefundState.SUCCEEDED, success_at=moment.now_s
    )
    whole = trade.refunded + amount == paid.amount
    return (made, *((Closed(at=moment.now, **about(trade)),) if whole else ()), settled)


def _stated(trade: Trade, refunded: int, at: float, *, fund_change: str) -> dict[str, object]:
    return {
        **SUCCESS,
        "buyer_logon_id": "ljp***@sandbox.com",
        "fund_change": fund_change,
        "gmt_refund_pay": plain(int(at)),
        "out_trade_no": trade.made.out_trade_no,
        "refund_fee": yuan(refunded),
        "send_back_fee": "0.00",
        "trade_no": trade_no(trade),
    }


def _sum_until(trade: Trade, last: Refund) -> int:
    return sum(each.made.amount for each in trade.refunds.values() if each.made.at <= last.made.at)


def _by_bank(trade: Trade, luck: Luck) -> bool:
    return draw(luck.seed, "bank_card", trade.subject) < luck.faults.bank_card
