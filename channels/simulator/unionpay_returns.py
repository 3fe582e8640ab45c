"""Refunds and voids at UnionPay: what may be given back, and what becomes of it. Pure."""

from typing import Final

from channels.simulator.faults import draw
from channels.simulator.platform import Call, Done, Moment
from channels.simulator.trades import Paid, Refund, RefundOpened, RefundSettled, RefundState, Trade, Trades, about
from channels.simulator.unionpay_faults import UnionpayFaults
from channels.simulator.unionpay_requests import Return
from channels.simulator.unionpay_statements import OK, UNDER_WAY, answered, query_id, settlement_day

VOID: Final = "31"
REFUND_WITHIN_S: Final = 330 * 86400  # eleven months


def give_back(
    channel: str, trades: Trades, call: Call, asked: Return, faults: UnionpayFaults, seed: int, moment: Moment
) -> Done:
    """Take a refund or void on: its answer says that it was taken, not that it is done."""
    trade = trades.find_transaction(channel, asked.original)
    paid = trade.paid if trade is not None else None
    if trade is None or paid is None or trade.made.merchant != call.merchant or paid.details["code"] != OK:
        return answered(asked.said, "35")
    refused = _refused(trade, paid, asked, faults, seed, moment)
    if refused:
        return answered(asked.said, refused)
    made = RefundOpened(
        at=moment.now,
        **about(trade),
        refund_no=asked.number,
        channel_refund=query_id(trades.transactions() + 1, moment.now_s),
        amount=asked.amount,
        terms="",
        notify_url=asked.said["backUrl"],
        details={
            "kind": asked.kind,
            "txnTime": asked.txn_time,
            "bizType": asked.said["bizType"],
            "encoding": asked.said["encoding"],
        },
    )
    subject = f"{trade.subject} refund {len(trade.refunds)}"
    pending = draw(seed, "refund_pending", subject) < faults.refund_pending
    code = UNDER_WAY[int(draw(seed, "refund_code", subject) * 3)] if pending else OK
    more = {"origQryId": asked.original, "queryId": made.channel_refund, "txnAmt": str(asked.amount)}
    return answered(asked.said, code, more, (made,))


def by_itself(trade: Trade, paid: Paid, count: int, moment: Moment) -> RefundOpened:
    """What the platform gives back unasked, under a number of its own; the merchant hears nothing of it."""
    return RefundOpened(
        at=moment.now,
        **about(trade),
        refund_no=f"AUTO{paid.transaction}",
        channel_refund=query_id(count, moment.now_s),
        amount=paid.amount,
        terms="",
        details={"kind": "04", "txnTime": ""},
    )


def settles(trade: Trade, refund: Refund, faults: UnionpayFaults, seed: int, moment: Moment) -> RefundSettled:
    """What a refund under way comes to."""
    subject = f"{trade.subject} refund {list(trade.refunds).index(refund.made.refund_no)}"
    failed = draw(seed, "refund_failed", subject) < faults.refund_failed
    return RefundSettled(
        at=moment.now,
        **about(trade),
        refund_no=refund.made.refund_no,
        state=RefundState.FAILED if failed else RefundState.SUCCEEDED,
        success_at=0 if failed else moment.now_s,
    )


def _refused(trade: Trade, paid: Paid, asked: Return, faults: UnionpayFaults, seed: int, moment: Moment) -> str:
    """The code of the no, if it is one."""
    left = paid.amount - trade.refunded
    if left == 0:
        return "45"
    if asked.kind == VOID:
        today = settlement_day(moment.now_s, cut_off=True) == settlement_day(paid.success_at, cut_off=True)
        if not today or draw(seed, "void_late", trade.subject) < faults.void_late:
            return "35"
        return "" if asked.amount == left == paid.amount else "36"
    if moment.now_s - paid.success_at > REFUND_WITHIN_S:
        return "35"
    return "36" if asked.amount > left else ""
