"""Alipay's daily list of trades, made from the ledger, and what can be wrong with it. Pure.

Unlike the real platform, which makes yesterday's list in the morning, this one also hands out today's as far as it is,
unless the fault `bill_calendar` says that the real calendar holds.
"""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

import msgspec

from channels import forms
from channels.moments import of_plain, plain
from channels.money import yuan
from channels.simulator.alipay_envelope import page
from channels.simulator.alipay_faults import AlipayFaults
from channels.simulator.alipay_keys import Merchant
from channels.simulator.alipay_requests import DOWNLOAD, Biz, Failed
from channels.simulator.alipay_trades import NAME, SUCCESS, trade_no
from channels.simulator.faults import draw
from channels.simulator.platform import Call, Incoming, Moment, Reply
from channels.simulator.trades import Paid, Refund, Trade, Trades

READY_AFTER_S: Final = 34 * 3600  # from the day's first second: ten o'clock of the next
LINK_LIFE_S: Final = 30
FEE_PER_MILLE: Final = 6

_COLUMNS: Final = (
    *("支付宝交易号", "商户订单号", "业务类型", "商品名称", "创建时间", "完成时间", "门店编号", "门店名称", "操作员"),
    *("终端号", "对方账户", "订单金额（元）", "商家实收（元）", "支付宝红包（元）", "集分宝（元）", "支付宝优惠（元）"),
    *("商家优惠（元）", "券核销金额（元）", "券名称", "商家红包消费金额（元）", "卡消费金额（元）"),
    *("退款批次号/请求号", "服务费（元）", "分润（元）", "备注"),
)
_SUMS: Final = (
    *(
        "门店编号",
        "门店名称",
        "交易订单总笔数",
        "退款订单总笔数",
        "订单金额（元）",
        "商家实收（元）",
        "支付宝优惠（元）",
    ),
    *("商家优惠（元）", "卡消费金额（元）", "服务费（元）", "分润（元）", "实收净额（元）"),
)
_DASHES: Final = "-" * 41


class _Line(msgspec.Struct, frozen=True):
    """One line: its fields by column, and again what it moved, in fen, below zero for a refund."""

    fields: dict[str, str]
    moved: int


def link(
    trades: Trades, merchant: Merchant, call: Call, biz: Biz, faults: AlipayFaults, seed: int, moment: Moment
) -> dict[str, object]:
    """Where the list stands.

    Raises:
        Failed: no list of that day, or not yet.
    """
    began_at_s = of_plain(f"{biz.bill_date} 00:00:00")
    if biz.bill_type != "trade":
        raise Failed("40004", "TYPE_NOT_SUPPORTED", "账单类型不支持")
    if began_at_s is None or began_at_s > moment.now_s:
        raise Failed("40004", "INVAILID_ARGUMENTS", "入参不合法")
    calendar = draw(seed, "bill_calendar", biz.bill_date) < faults.bill_calendar
    if calendar and moment.now_s < began_at_s + 86400:
        raise Failed("40004", "INVAILID_ARGUMENTS", "入参不合法")
    creating = calendar and moment.now_s < began_at_s + READY_AFTER_S
    if creating or draw(seed, "bill_not_ready", biz.bill_date, str(call.count)) < faults.bill_not_ready:
        raise Failed("40004", "BILL_NOT_EXIST", "账单不存在")
    if not list(_genuine(trades, merchant, biz.bill_date, moment.now)):
        raise Failed("40004", "NO_BILL_DATA", "无账单数据")
    at_s = moment.now_s
    if draw(seed, "bill_link", biz.bill_date, str(call.count)) < faults.bill_link:
        at_s -= LINK_LIFE_S + 1
    return {**SUCCESS, "bill_download_url": _address(merchant, biz.bill_date, at_s, seed, call.incoming)}


def download(
    request: Incoming, merchants: dict[str, Merchant], trades: Trades, faults: AlipayFaults, seed: int, moment: Moment
) -> Reply:
    """The zip that a link leads to, as the list now is."""
    try:
        asked = forms.decode(request.query.encode("ascii", "replace"))
    except forms.FormError:
        asked = {}
    day, at = asked.get("bizDates", ""), asked.get("timestamp", "")
    merchant = next((each for each in merchants.values() if f"{each.seller_id}0156" == asked.get("userId")), None)
    if merchant is None or not at.isdigit() or asked.get("token") != _token(merchant, day, int(at), seed):
        return page("下载链接无效")
    if moment.now_s - int(at) > LINK_LIFE_S:
        return page("下载链接已失效，请重新获取")
    dashed = f"{day[:4]}-{day[4:6]}-{day[6:]}"
    genuine = _genuine(trades, merchant, dashed, moment.now)
    lines = [line for subject, one in genuine for line in _told(one, subject, faults, seed)]
    stem = f"{merchant.seller_id}0156_{day}"
    files = {f"{stem}_业务明细.csv": _detail(merchant, dashed, lines), f"{stem}_业务明细(汇总).csv": _sums(lines)}
    return Reply(200, {"Content-Type": "application/zip"}, _zipped(files))


def _address(merchant: Merchant, dashed: str, at_s: int, seed: int, request: Incoming | None) -> str:
    host = request.headers.get("host", "127.0.0.1") if request else ""
    user, day = f"{merchant.seller_id}0156", dashed.replace("-", "")
    said = f"bizType=trade&userId={user}&fileType=csv.zip&bizDates={day}&downloadFileName={user}_{day}.csv.zip"
    file_id = quote(f"/trade/{user}/{day}.csv.zip", safe="")
    said += f"&fileId={file_id}&timestamp={at_s}&token={_token(merchant, day, at_s, seed)}"
    return f"http://{host}{DOWNLOAD}?{said}"


def _token(merchant: Merchant, day: str, at_s: int, seed: int) -> str:
    return hashlib.sha256(f"{seed} bill {merchant.app_id} {day} {at_s}".encode()).hexdigest()[:32]


# --- lines -----------------------------------------------------------------------------------------------------------


def _genuine(trades: Trades, merchant: Merchant, dashed: str, until: float) -> Iterator[tuple[str, _Line]]:
    """What the day's list says of all trades, each line with what its faults are drawn by."""
    for trade in trades.all(NAME, merchant.app_id):
        paid = trade.paid
        if paid is None or paid.at > until:
            continue
        if plain(paid.success_at)[:10] == dashed:
            yield trade.subject, _payment(trade, paid)
        for number, refund in enumerate(trade.refunds.values()):
            if plain(int(refund.made.at))[:10] == dashed and refund.made.at <= until:
                yield f"{trade.subject} refund {number}", _refund(trade, refund)


def _payment(trade: Trade, paid: Paid) -> _Line:
    fee = (paid.amount * FEE_PER_MILLE + 500) // 1000
    return _Line(
        {
            **_about(trade),
            **_amounts(paid.amount),
            "业务类型": "交易",
            "服务费（元）": f"-{yuan(fee)}" if fee else "0.00",
        }
        | {"完成时间": plain(paid.success_at)},
        paid.amount,
    )


def _refund(trade: Trade, refund: Refund) -> _Line:
    made = refund.made
    return _Line(
        {**_about(trade), **_amounts(-made.amount), "业务类型": "退款", "退款批次号/请求号": made.refund_no}
        | {"完成时间": plain(int(made.at)), "备注": "退款"},
        -made.amount,
    )


def _about(trade: Trade) -> dict[str, str]:
    zero = [name for name in _COLUMNS if name.endswith("（元）")]
    return {
        **dict.fromkeys(zero, "0.00"),
        "支付宝交易号": trade_no(trade),
        "商户订单号": trade.made.out_trade_no,
        "商品名称": trade.made.description.replace("\n", " ").replace("\r", " "),
        "创建时间": plain(int(trade.made.at)),
        "对方账户": "*试(138****1234)",
    }


def _amounts(fen: int) -> dict[str, str]:
    text = f"{'-' if fen < 0 else ''}{yuan(abs(fen))}"
    return {"订单金额（元）": text, "商家实收（元）": text}


def _told(line: _Line, subject: str, faults: AlipayFaults, seed: int) -> Iterator[_Line]:
    """The line as the list has it: it may be missing, say another amount, or follow one of a trade that never was."""
    if draw(seed, "bill_extra", subject) < faults.bill_extra:
        tail = hashlib.sha256(subject.encode("utf-8", "replace")).hexdigest()[:20]
        strange = {"支付宝交易号": f"20990101{int(tail, 16) % 10**20:020d}", "商户订单号": f"EXTRA{tail}"}
        if line.moved < 0:
            strange["退款批次号/请求号"] = f"EXTRA{tail}R"
        yield _Line({**line.fields, **strange}, line.moved)
    if draw(seed, "bill_missing", subject) < faults.bill_missing:
        return
    if draw(seed, "bill_amount", subject) < faults.bill_amount:
        moved = line.moved + (1 if line.moved > 0 else -1)
        yield _Line({**line.fields, **_amounts(moved)}, moved)
        return
    yield line


# --- files -----------------------------------------------------------------------------------------------------------


def _detail(merchant: Merchant, dashed: str, lines: list[_Line]) -> bytes:
    paid = [line.moved for line in lines if line.moved > 0]
    returned = [line.moved for line in lines if line.moved < 0]
    year, month, day = dashed.split("-")
    return _text(
        "#支付宝业务明细查询",
        f"#账号：[{merchant.seller_id}0156]",
        f"#起始日期：[{year}年{month}月{day}日 00:00:00]   终止日期：[{year}年{month}月{day}日 24:00:00]",
        f"#{_DASHES}业务明细列表{_DASHES}",
        ",".join(_COLUMNS),
        *(",".join(f"{line.fields.get(name, '')}\t" for name in _COLUMNS) for line in lines),
        f"#{_DASHES}业务明细列表结束{_DASHES}",
        f"#交易合计：{len(paid)}笔，商家实收共{yuan(sum(paid))}元，商家优惠共0.00元",
        f"#退款合计：{len(returned)}笔，商家实收退款共-{yuan(-sum(returned))}元，商家优惠退款共0.00元",
    )


def _sums(lines: list[_Line]) -> bytes:
    paid = [line.moved for line in lines if line.moved > 0]
    net = sum(line.moved for line in lines)
    signed = f"{'-' if net < 0 else ''}{yuan(abs(net))}"
    total = ["合计", "", str(len(paid)), str(len(lines) - len(paid)), signed, signed, *["0.00"] * 5, signed]
    return _text(f"#{_DASHES}业务汇总列表{_DASHES}", ",".join(_SUMS), ",".join(f"{each}\t" for each in total))


def _text(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode("gb18030")


def _zipped(files: dict[str, bytes]) -> bytes:
    """With names in GBK and nothing that says so: zipfile would write UTF-8, so it gets names of the same length."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (name, content) in enumerate(files.items()):
            entry = zipfile.ZipInfo(_stand_in(number, name))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    body = packed.getvalue()
    for number, name in enumerate(files):
        body = body.replace(_stand_in(number, name).encode(), name.encode("gbk"))
    return body


def _stand_in(number: int, name: str) -> str:
    return f"stand-in-{number}-".ljust(len(name.encode("gbk")), "x")
