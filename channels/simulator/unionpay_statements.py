"""How UnionPay states things: codes and their texts, a trade's numbers and days, the fields of each message. Pure."""

from collections.abc import Mapping
from typing import Final

import msgspec

from channels.moments import compact
from channels.simulator.platform import Done
from channels.simulator.trades import AnyEntry, Opened, Paid, Refund, RefundState, Trade
from channels.simulator.unionpay_requests import Said

OK: Final = "00"
UNDER_WAY: Final = ("03", "04", "05")
MOVED: Final = ("42", "74", "75")
CURRENCIES: Final = {"CNY": "156", "USD": "840", "HKD": "344"}
CUT_OFF_S: Final = 3600  # before midnight the next settlement day begins

# The platform's own words; the seven digits behind them say where in it the answer was made.
_TEXTS: Final = {
    "00": "成功[0000000]",
    "A6": "有缺陷的成功[0000000]",
    "02": "系统未开放或暂时关闭，请稍后再试[6131002]",
    "03": "交易通讯超时，请发起查询交易[6131003]",
    "04": "交易状态未明，请查询对账结果[6131004]",
    "05": "交易已受理，请稍后查询交易结果[6131005]",
    "10": "报文格式错误[6100010]",
    "11": "验证签名失败[6100011]",
    "12": "重复交易[6132012]",
    "13": "报文交易要素缺失[6100013]",
    "30": "交易未通过，请尝试使用其他银联卡支付或联系95516[6130030]",
    "31": "商户状态不正确[6130031]",
    "34": "查无此交易[2600000]",
    "35": "原交易不存在或状态不正确[6135035]",
    "36": "与原交易信息不符[6135036]",
    "37": "已超过最大查询次数或操作过于频繁[2600037]",
    "42": "扣款成功但交易超过规定支付时间[6154042]",
    "43": "不允许此业务，详情请咨询95516[6130043]",
    "45": "原交易已被成功退货或已被成功撤销[6135045]",
    "60": "交易失败，详情请咨询您的发卡行[6154060]",
    "64": "卡上的余额不足[6154064]",
    "69": "交易超时未支付[6154069]",
    "74": "扣款成功，销账结果未知[6154074]",
    "75": "扣款成功，销账失败[6154075]",
    "98": "文件不存在[6198098]",
}
_ECHOED: Final = (
    *("accessType", "bizType", "encoding", "merId", "orderId", "signMethod", "txnSubType", "txnTime", "txnType"),
    "version",
)


def text_of(code: str) -> str:
    """What the platform says with a code."""
    return _TEXTS[code]


def answer_fields(said: Said, code: str, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """An answer's fields: what was asked, the code, and what else there is to say."""
    echo = {name: said[name] for name in _ECHOED if said[name]}
    return {**echo, "respCode": code, "respMsg": text_of(code), **(more or {})}


def answered(
    said: Said,
    code: str,
    more: Mapping[str, str] | None = None,
    entries: tuple[AnyEntry, ...] = (),
    *,
    shown: str = "",
    code_shown: str = "",
) -> Done:
    """An executed call whose answer is still to be signed: its fields, as JSON."""
    body = msgspec.json.encode(answer_fields(said, code, more))
    return Done(200, body, entries, shown=shown, code=code_shown)


# --- numbers and days ------------------------------------------------------------------------------------------------


def query_id(count: int, at_s: int) -> str:
    """The platform's number of a trade, which holds its time and, in the end, its traceNo."""
    return f"{count // 10**6 % 100:02d}{compact(at_s)[2:]}{count % 10**6:06d}{count % 9}"


def trace_no(number: str) -> str:
    """The traceNo of a trade of that queryId."""
    return number[14:20]


def settlement_day(at_s: int, *, cut_off: bool) -> str:
    """`MMDD`. Without the cut-off it is simply the calendar's day, so that a run at night sees its own trades."""
    return compact(at_s + (CUT_OFF_S if cut_off else 0))[4:8]


# --- what was paid, what was given back ------------------------------------------------------------------------------


def unpaid(made: Opened) -> dict[str, str]:
    """What a query says of a trade that nobody has paid yet."""
    return {**_sale(made), "txnAmt": str(made.amount), "settleAmt": "0"}


def paid_facts(made: Opened, paid: Paid, *, cut_off: bool) -> dict[str, str]:
    """What a query and a notification say of a payment. traceTime is the order's own time, as in genuine messages."""
    facts = {
        **_sale(made),
        "merId": paid.details["merId"],
        "accNo": "6226********0048",
        "currencyCode": CURRENCIES.get(paid.currency, "000"),
        "queryId": paid.transaction,
        "reqReserved": made.details["reqReserved"],
        "settleAmt": str(paid.amount),
        "settleCurrencyCode": CURRENCIES.get(paid.currency, "000"),
        "settleDate": settlement_day(paid.success_at, cut_off=cut_off),
        "traceNo": trace_no(paid.transaction),
        "traceTime": made.details["txnTime"][4:],
        "txnAmt": str(paid.amount),
    }
    return {name: value for name, value in facts.items() if value}


def _sale(made: Opened) -> dict[str, str]:
    return {
        "txnType": "01",
        "txnSubType": made.details["txnSubType"],
        "orderId": made.out_trade_no,
        "txnTime": made.details["txnTime"],
    }


def refund_facts(trade: Trade, refund: Refund, *, cut_off: bool) -> dict[str, str]:
    """What a query and a notification say of a refund or void."""
    made, paid = refund.made, trade.paid
    assert paid is not None, "only what was paid is given back"
    return {
        "txnType": made.details["kind"],
        "txnSubType": "00",
        "orderId": made.refund_no,
        "txnTime": made.details["txnTime"],
        "currencyCode": CURRENCIES.get(paid.currency, "000"),
        "origQryId": paid.transaction,
        "queryId": made.channel_refund,
        "settleAmt": str(made.amount),
        "settleCurrencyCode": CURRENCIES.get(paid.currency, "000"),
        "settleDate": settlement_day(int(made.at), cut_off=cut_off),
        "traceNo": trace_no(made.channel_refund),
        "traceTime": made.details["txnTime"][4:],
        "txnAmt": str(made.amount),
    }


REFUND_CODES: Final = {
    RefundState.PROCESSING: "05",
    RefundState.SUCCEEDED: OK,
    RefundState.FAILED: "60",
    RefundState.ABNORMAL: "04",
}


def notification(details: Mapping[str, str], facts: Mapping[str, str], code: str, merchant: str) -> dict[str, str]:
    """A notification's fields, without certificate and signature."""
    common = {
        "accessType": "0",
        "bizType": details["bizType"],
        "encoding": details["encoding"],
        "merId": merchant,
        "signMethod": "01",
        "version": "5.1.0",
        "exchangeRate": "0",
    }
    return {**common, **facts, "respCode": code, "respMsg": text_of(code)}
