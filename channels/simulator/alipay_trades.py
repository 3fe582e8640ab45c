"""Trades at Alipay: how they come to be, what ends them, how they are stated. Pure.

A code is not a trade: there is one only when a payer has scanned it, and a number is free until then. A page that a
browser submits makes one at once.
"""

import hashlib
from typing import Final

import msgspec

from channels.moments import plain
from channels.money import yuan
from channels.simulator.alipay_faults import AlipayFaults
from channels.simulator.alipay_keys import Merchant
from channels.simulator.alipay_requests import Asked, Biz, business, checked_amount, expires_at_s
from channels.simulator.cashier import page_of
from channels.simulator.faults import draw
from channels.simulator.platform import Call, Done, Moment, PayOrder, Reply
from channels.simulator.trades import AnyEntry, Closed, Entered, Opened, Paid, Trade, Trades, TradeState, about

NAME: Final = "alipay"
SUCCESS: Final[dict[str, object]] = {"code": "10000", "msg": "Success"}
WAITING: Final = "WAIT_BUYER_PAY"
NO_TRADE: Final = ("TRADE_NOT_EXIST", "交易不存在")
ZERO: Final = {"buyer_pay_amount": "0.00", "invoice_amount": "0.00", "point_amount": "0.00", "receipt_amount": "0.00"}


# --- creating --------------------------------------------------------------------------------------------------------


def precreate(
    trades: Trades, call: Call, asked: Asked, faults: AlipayFaults, seed: int, moment: Moment
) -> tuple[dict[str, object], Done]:
    """A code. While nobody has scanned one, another of the same number is given, with whatever is asked now.

    Raises:
        Failed: nothing was made.
    """
    made = _opened(trades, call, asked, moment, offered=True)
    trade = trades.find(NAME, call.merchant, asked.biz.out_trade_no)
    if trade is not None and trade.state is not TradeState.OFFERED:
        _check_repetition(trade, made, moment)
    if trade is not None and draw(seed, "create_once", trade.subject) < faults.create_once:
        raise business("APPLY_PC_MERCHANT_CODE_ERROR", "请求申请PC商家码错误", {"out_trade_no": made.out_trade_no})
    same = trade is not None and trade.made.terms == made.terms
    token = hashlib.sha256(f"{made.merchant} {made.out_trade_no} {moment.nonce}".encode()).hexdigest()
    code = f"https://qr.alipay.com/bav{token[:15]}"
    if same:
        assert trade is not None
        trade.codes += 1
    stated = {**SUCCESS, "out_trade_no": made.out_trade_no, "qr_code": code}
    return stated, Done(entries=() if same else (made,), shown=made.out_trade_no, code=code)


def submit(trades: Trades, call: Call, asked: Asked, moment: Moment) -> Done:
    """A payer's browser or app has come with a signed request: there is a trade, and here is the cashier.

    Raises:
        Failed: it can not be paid so.
    """
    made = _opened(trades, call, asked, moment, offered=False)
    trade = trades.find(NAME, call.merchant, asked.biz.out_trade_no)
    if trade is not None:
        _check_repetition(trade, made, moment)
    entries: tuple[AnyEntry, ...] = (made,) if trade is None else ()
    if trade is not None and trade.state is TradeState.OFFERED:
        entries = (Entered(at=moment.now, **about(trade)),)
    location = page_of(NAME, made.merchant, made.out_trade_no)
    return Done(entries=entries, shown=made.out_trade_no, reply=Reply(302, {"Location": location}))


def _opened(trades: Trades, call: Call, asked: Asked, moment: Moment, *, offered: bool) -> Opened:
    biz = asked.biz
    amount = checked_amount(biz, call.verb)
    return Opened(
        at=moment.now,
        channel=NAME,
        merchant=call.merchant,
        out_trade_no=biz.out_trade_no,
        method="qr" if call.verb == "precreate" else call.verb,
        description=biz.subject,
        ordinal=trades.next_ordinal(NAME, call.merchant, biz.subject),
        amount=amount,
        currency="CNY",
        notify_url=asked.notify_url,
        expires_at_s=expires_at_s(biz, call.verb, moment.now_s),
        terms=_terms(biz),
        return_url=asked.return_url,
        offered=offered,
        details={
            "body": biz.body,
            "passback_params": biz.passback_params,
            "certified": "Y" if asked.certified else "",
        },
    )


def _terms(biz: Biz) -> str:
    return hashlib.sha256(msgspec.json.encode(biz)).hexdigest()


def _check_repetition(trade: Trade, made: Opened, moment: Moment) -> None:
    known = {"out_trade_no": made.out_trade_no}
    if trade.state is TradeState.PAID:
        raise business("TRADE_HAS_SUCCESS", "交易已被支付", known)
    if status_of(trade, moment.now) == "TRADE_CLOSED":
        raise business("TRADE_HAS_CLOSE", "交易已经关闭", known)
    if (trade.made.amount, trade.made.description) != (made.amount, made.description):
        raise business("CONTEXT_INCONSISTENT", "交易信息被篡改", known)


# --- finding and ending ----------------------------------------------------------------------------------------------


def find(trades: Trades, merchant: str, biz: Biz) -> Trade:
    """The trade that is meant; Alipay's own number wins.

    Raises:
        Failed: there is none, or nobody has entered it.
    """
    trade: Trade | None
    if biz.trade_no:
        trade = trades.find_transaction(NAME, biz.trade_no)
        if trade is None:
            known = trades.all(NAME, merchant)
            trade = next((each for each in known if trade_no(each) == biz.trade_no), None)
    else:
        trade = trades.find(NAME, merchant, biz.out_trade_no)
    if trade is None or trade.made.merchant != merchant or trade.state is TradeState.OFFERED:
        raise business(*NO_TRADE, {"out_trade_no": biz.out_trade_no, **ZERO})
    return trade


def close(trade: Trade, entries: tuple[AnyEntry, ...], moment: Moment) -> tuple[dict[str, object], Done]:
    """End an unpaid trade; `entries` is what a payer who was faster did.

    Raises:
        Failed: it was paid, or is over.
    """
    if entries or status_of(trade, moment.now) != WAITING:
        raise business("TRADE_STATUS_ERROR", "交易状态不合法", {"out_trade_no": trade.made.out_trade_no}, entries)
    stated = {**SUCCESS, "out_trade_no": trade.made.out_trade_no, "trade_no": trade_no(trade)}
    return stated, Done(entries=(Closed(at=moment.now, **about(trade)),))


# --- paying ----------------------------------------------------------------------------------------------------------


def pays(trade: Trade, merchant: Merchant, moment: Moment, order: PayOrder | None) -> tuple[AnyEntry, ...]:
    """The payer scans the code, if it is one, and pays; told to state WAIT_BUYER_PAY, only the former."""
    made, stated = trade.made, order.stated if order else {}
    entered: tuple[AnyEntry, ...] = ()
    if trade.state is TradeState.OFFERED:
        entered = (Entered(at=moment.now, **about(trade)),)
    if stated.get("trade_status") == WAITING:
        return entered
    app_id, seller_id = stated.get("app_id", merchant.app_id), stated.get("seller_id", merchant.seller_id)
    paid = Paid(
        at=moment.now,
        **about(trade),
        transaction=trade_no(trade),
        amount=made.amount if order is None or order.amount is None else order.amount,
        currency=made.currency if order is None or order.currency is None else order.currency,
        description=made.description,
        success_at=moment.now_s,
        account=f"{app_id}/{seller_id}",
        details={"app_id": app_id, "seller_id": seller_id},
    )
    return (*entered, paid)


# --- how it is stated ------------------------------------------------------------------------------------------------


def trade_no(trade: Trade) -> str:
    """Alipay's own number of a trade: 28 digits that begin with the day."""
    made = trade.made
    digest = hashlib.sha256(f"{made.merchant} {made.out_trade_no}".encode()).hexdigest()
    return f"{day_of(made.at)}22001{int(digest, 16) % 10**15:015d}"


def buyer_of(trade: Trade) -> str:
    """Who pays, as Alipay knows them."""
    digest = hashlib.sha256(f"buyer {trade.made.merchant} {trade.made.out_trade_no}".encode()).hexdigest()
    return f"2088{int(digest, 16) % 10**12:012d}"


def day_of(at: float) -> str:
    """`20261121`."""
    return plain(int(at))[:10].replace("-", "")


def status_of(trade: Trade, now: float, *, finished: bool = False) -> str:
    """`trade_status`. A trade that nobody paid in time is closed; one that was given back whole, too."""
    if trade.state is TradeState.CLOSED:
        return "TRADE_CLOSED"
    if trade.state is TradeState.PAID:
        return "TRADE_FINISHED" if finished else "TRADE_SUCCESS"
    return WAITING if now < trade.made.expires_at_s else "TRADE_CLOSED"


def is_finished(trade: Trade, faults: AlipayFaults, seed: int) -> bool:
    """Whether what was paid can not be given back any more."""
    return draw(seed, "finished", trade.subject) < faults.finished


def queried(trade: Trade, faults: AlipayFaults, seed: int, now: float) -> dict[str, object]:
    """As a query states a trade."""
    made, paid = trade.made, trade.paid
    stated: dict[str, object] = {
        **SUCCESS,
        "buyer_logon_id": "ljp***@sandbox.com",
        "buyer_pay_amount": yuan(paid.amount) if paid else "0.00",
        "buyer_user_id": buyer_of(trade),
        "invoice_amount": yuan(paid.amount) if paid else "0.00",
        "out_trade_no": made.out_trade_no,
        "point_amount": "0.00",
        "receipt_amount": yuan(paid.amount) if paid else "0.00",
        "total_amount": yuan(paid.amount if paid else made.amount),
        "trade_no": trade_no(trade),
        "trade_status": status_of(trade, now, finished=is_finished(trade, faults, seed)),
    }
    if paid is not None:
        stated["send_pay_date"] = plain(paid.success_at)
        stated["fund_bill_list"] = [{"amount": yuan(paid.amount), "fund_channel": "ALIPAYACCOUNT"}]
        if paid.currency != made.currency:
            stated["trans_currency"] = paid.currency
    return stated


def cancelled(trade: Trade | None, number: str, action: str) -> dict[str, object]:
    """What a cancel did."""
    stated: dict[str, object] = {**SUCCESS, "out_trade_no": number, "retry_flag": "N"}
    return stated if trade is None else {**stated, "trade_no": trade_no(trade), "action": action}
