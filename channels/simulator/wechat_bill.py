"""WeChat Pay's daily list of trades, made from the ledger, and what can be wrong with it. Pure.

A payment stands on the day it succeeded, a refund on the day it was accepted. Unlike the real platform, which makes
yesterday's list at ten o'clock, this one also hands out today's as far as it is, unless the fault `bill_calendar` says
that the real calendar holds.
"""

import gzip
import hashlib
from collections.abc import Iterator
from typing import Final

import msgspec

from channels.moments import of_plain, plain
from channels.money import yuan
from channels.simulator.faults import draw
from channels.simulator.platform import Call, Done, Moment, Reply
from channels.simulator.trades import Paid, Refund, RefundState, Trade, Trades
from channels.simulator.wechat_faults import WechatFaults
from channels.simulator.wechat_requests import DOWNLOAD, TRADE_TYPES, Download, TradeBill, refusal

DAYS_MAX: Final = 92
READY_AFTER_S: Final = 34 * 3600  # from the day's first second
LINK_LIFE_S: Final = 300
FEE_PER_MILLE: Final = 6

_BEFORE: Final = (
    "交易时间,公众账号ID,商户号,特约商户号,设备号,微信订单号,商户订单号,用户标识,交易类型,交易状态,付款银行,货币种类,"
)
_BEFORE_AMOUNTS: Final = _BEFORE + "应结订单金额,代金券金额"
_REFUND: Final = "微信退款单号,商户退款单号,退款金额,充值券退款金额,退款类型,退款状态"
_AFTER: Final = "商品名称,商户数据包,手续费,费率,订单金额"
_HEADERS: Final = {
    "ALL": f"{_BEFORE_AMOUNTS},{_REFUND},{_AFTER},申请退款金额,费率备注",
    "SUCCESS": f"{_BEFORE_AMOUNTS},{_AFTER},费率备注",
    "REFUND": f"{_BEFORE_AMOUNTS},退款申请时间,退款成功时间,{_REFUND},{_AFTER},申请退款金额,费率备注",
}
_SUMMARY: Final = "总交易单数,应结订单总金额,退款总金额,充值券退款总金额,手续费总金额,订单总金额,申请退款总金额"
_SUMMARY_OF_PAYMENTS: Final = "总交易单数,应结订单总金额,手续费总金额,订单总金额"
_REFUND_STATES: Final = {
    RefundState.PROCESSING: "PROCESSING",
    RefundState.SUCCEEDED: "SUCCESS",
    RefundState.ABNORMAL: "CHANGE",
    RefundState.FAILED: "FAIL",
}


class _Line(msgspec.Struct, frozen=True):
    """One line: its fields by column, and its amounts again for the summary, in fen."""

    fields: dict[str, str]
    paid: int
    refunded: int
    fee: int


def link(
    channel: str, trades: Trades, call: Call, asked: TradeBill, faults: WechatFaults, seed: int, moment: Moment
) -> Done:
    """Where the list stands as it now is, and its hash.

    Raises:
        Refusal: no list of that day, or not yet.
    """
    _check_day(asked, faults, seed, call, moment)
    at_ms = int(moment.now * 1000)
    content = _content(channel, trades, call.merchant, asked, faults, seed, at_ms)
    if content is None:
        raise refusal(400, "NO_STATEMENT_EXIST", "账单文件不存在")
    digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    if draw(seed, "bill_hash", asked.day, str(call.count)) < faults.bill_hash:
        digest = digest[::-1]
    host = call.incoming.headers.get("host", "127.0.0.1") if call.incoming else ""
    url = f"http://{host}{DOWNLOAD}?token={_token(call.merchant, asked, at_ms, seed)}"
    return Done(200, msgspec.json.encode({"hash_type": "SHA1", "hash_value": digest, "download_url": url}))


def download(
    channel: str, trades: Trades, merchant: str, asked: Download, faults: WechatFaults, seed: int, moment: Moment
) -> Done:
    """The list as it was when its link was handed out; never signed.

    Raises:
        Refusal: the link has expired, or was another merchant's.
    """
    parts = asked.token.split("_")
    if len(parts) != 5 or not parts[3].isdigit():
        raise refusal(400, "INVALID_REQUEST", "无效的token")
    bill, at_ms = TradeBill(day=parts[0], kind=parts[1], packed=parts[2] == "GZIP"), int(parts[3])
    if asked.token != _token(merchant, bill, at_ms, seed):
        raise refusal(403, "NO_AUTH", "商户无权限下载该账单")
    if moment.now * 1000 - at_ms > LINK_LIFE_S * 1000:
        raise refusal(400, "INVALID_REQUEST", "下载链接已失效")
    content = _content(channel, trades, merchant, bill, faults, seed, at_ms) or b""
    body = gzip.compress(content, mtime=0) if bill.packed else content
    return Done(reply=Reply(200, {"Content-Type": "text/plain"}, body))


def _check_day(asked: TradeBill, faults: WechatFaults, seed: int, call: Call, moment: Moment) -> None:
    began_at_s = of_plain(f"{asked.day} 00:00:00")
    if began_at_s is None:
        raise refusal(400, "PARAM_ERROR", "账单日期格式不正确", "bill_date")
    if not began_at_s <= moment.now_s <= began_at_s + DAYS_MAX * 86400:
        raise refusal(400, "INVALID_REQUEST", "账单日期超出范围，仅支持三个月内的账单下载", "bill_date")
    calendar = draw(seed, "bill_calendar", asked.day) < faults.bill_calendar
    if calendar and moment.now_s < began_at_s + 86400:
        raise refusal(400, "INVALID_REQUEST", "不支持下载当日账单", "bill_date")
    creating = calendar and moment.now_s < began_at_s + READY_AFTER_S
    if creating or draw(seed, "bill_not_ready", asked.day, str(call.count)) < faults.bill_not_ready:
        raise refusal(400, "STATEMENT_CREATING", "账单生成中")


def _token(merchant: str, asked: TradeBill, at_ms: int, seed: int) -> str:
    """Says which list as of when; nobody makes one for another merchant's."""
    said = f"{asked.day}_{asked.kind}_{'GZIP' if asked.packed else 'PLAIN'}_{at_ms}"
    return f"{said}_{hashlib.sha256(f'{seed} {merchant} {said}'.encode()).hexdigest()[:24]}"


# --- lines -----------------------------------------------------------------------------------------------------------


def _content(
    channel: str, trades: Trades, merchant: str, asked: TradeBill, faults: WechatFaults, seed: int, at_ms: int
) -> bytes | None:
    """The file, None if the day had no trades."""
    genuine = [
        (subject, line)
        for trade in trades.all(channel, merchant)
        for subject, line in _lines_of(trade, asked, at_ms / 1000)
    ]
    if not genuine:
        return None
    lines = [line for subject, one in genuine for line in _told(one, subject, faults, seed)]
    header = _HEADERS[asked.kind]
    text = [header, *(_row(line.fields, header) for line in lines), *_summary(lines, asked.kind)]
    return b"\xef\xbb\xbf" + "".join(f"{each}\r\n" for each in text).encode()


def _lines_of(trade: Trade, asked: TradeBill, until: float) -> Iterator[tuple[str, _Line]]:
    """What the day's list says of a trade, each line with what its faults are drawn by."""
    paid = trade.paid
    if paid is None or paid.at > until:
        return
    if asked.kind != "REFUND" and _day(paid.success_at) == asked.day:
        yield trade.subject, _payment(trade, paid)
    for number, refund in enumerate(trade.refunds.values()):
        made = refund.made
        if asked.kind != "SUCCESS" and _day(int(made.at)) == asked.day and made.at <= until:
            yield f"{trade.subject} refund {number}", _refund(trade, paid, refund, until)


def _payment(trade: Trade, paid: Paid) -> _Line:
    fee = _fee(paid.amount)
    fields = {
        **_about(trade, paid),
        "交易时间": plain(paid.success_at),
        "交易状态": "SUCCESS",
        "应结订单金额": yuan(paid.amount),
        "微信退款单号": "0",
        "商户退款单号": "0",
        "退款金额": "0.00",
        "手续费": f"{yuan(fee)}000",
        "订单金额": yuan(paid.amount),
        "申请退款金额": "0.00",
    }
    return _Line(fields, paid.amount, 0, fee)


def _refund(trade: Trade, paid: Paid, refund: Refund, until: float) -> _Line:
    made, settled = refund.made, refund.settled
    state = settled.state if settled is not None and settled.at <= until else RefundState.PROCESSING
    done = settled is not None and settled.at <= until and settled.success_at
    fee = _fee(made.amount)
    fields = {
        **_about(trade, paid),
        "交易时间": plain(int(made.at)),
        "退款申请时间": plain(int(made.at)),
        "退款成功时间": plain(settled.success_at) if settled is not None and done else "",
        "交易状态": "REFUND",
        "应结订单金额": "0.00",
        "微信退款单号": made.channel_refund,
        "商户退款单号": made.refund_no,
        "退款金额": yuan(made.amount),
        "退款类型": "ORIGINAL",
        "退款状态": _REFUND_STATES[state],
        "手续费": f"-{yuan(fee)}000" if fee else "0.00000",
        "订单金额": "0.00",
        "申请退款金额": yuan(made.amount),
    }
    return _Line(fields, 0, made.amount, -fee)


def _about(trade: Trade, paid: Paid) -> dict[str, str]:
    made = trade.made
    return {
        "公众账号ID": made.details["appid"],
        "商户号": made.merchant,
        "特约商户号": "0",
        "微信订单号": paid.transaction,
        "商户订单号": made.out_trade_no,
        "用户标识": made.details["openid"],
        "交易类型": TRADE_TYPES[made.method],
        "付款银行": "OTHERS",
        "货币种类": paid.currency,
        "代金券金额": "0.00",
        "充值券退款金额": "0.00",
        "商品名称": _escaped(made.description),
        "商户数据包": _escaped(made.details.get("attach", "")),
        "费率": "0.60%",
    }


def _told(line: _Line, subject: str, faults: WechatFaults, seed: int) -> Iterator[_Line]:
    """The line as the list has it: it may be missing, say another amount, or be followed by one of a trade that never
    was."""
    if draw(seed, "bill_extra", subject) < faults.bill_extra:
        tail = hashlib.sha256(subject.encode()).hexdigest()[:20]
        yield _Line(
            {
                **line.fields,
                "微信订单号": f"42009{int(tail, 16) % 10**23:023d}",
                "商户订单号": f"EXTRA{tail}",
                "微信退款单号": f"50309{int(tail, 16) % 10**23:023d}" if line.refunded else "0",
                "商户退款单号": f"EXTRA{tail}R" if line.refunded else "0",
            },
            line.paid,
            line.refunded,
            line.fee,
        )
    if draw(seed, "bill_missing", subject) < faults.bill_missing:
        return
    if draw(seed, "bill_amount", subject) < faults.bill_amount:
        paid, refunded = line.paid + bool(line.paid), line.refunded + bool(line.refunded)
        column, amount = ("申请退款金额", refunded) if refunded else ("订单金额", paid)
        yield _Line({**line.fields, column: yuan(amount)}, paid, refunded, line.fee)
        return
    yield line


def _row(fields: dict[str, str], header: str) -> str:
    return ",".join(f"`{fields.get(name, '')}" for name in header.split(","))


def _summary(lines: list[_Line], kind: str) -> tuple[str, str]:
    paid, refunded = yuan(sum(line.paid for line in lines)), yuan(sum(line.refunded for line in lines))
    fee = sum(line.fee for line in lines)
    charged = f"{'-' if fee < 0 else ''}{yuan(abs(fee))}000"
    if kind == "SUCCESS":
        return _SUMMARY_OF_PAYMENTS, f"`{len(lines)},`{paid},`{charged},`{paid}"
    return _SUMMARY, f"`{len(lines)},`{paid},`{refunded},`0.00,`{charged},`{paid},`{refunded}"


def _day(unix_s: int) -> str:
    return plain(unix_s)[:10]


def _fee(fen: int) -> int:
    """Rounded to the fen, as the platform rounds."""
    return (fen * FEE_PER_MILLE + 500) // 1000


def _escaped(text: str) -> str:
    """The merchant's own text, so that it separates neither fields nor lines."""
    return text.replace(",", "\\ ").replace("\r", "").replace("\n", "\\n")
