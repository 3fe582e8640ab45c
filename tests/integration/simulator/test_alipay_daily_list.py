"""The simulated Alipay's daily list: it matches the ledger, and is wrong where it is told to be."""

import io
import zipfile

import pytest

from channels.contract import (
    NoStatement,
    RefundKey,
    RefundRequest,
    Request,
    RowKind,
    StatementFile,
    StatementNotReady,
    StatementRow,
    Unknown,
)
from channels.moments import plain
from tests.integration.simulator.alipay_accounts import alipay, channel_of, payer
from tests.integration.simulator.wire import STARTED_S, ledger, stamp

TODAY = plain(stamp().now_s)[:10]


async def sold(wire, files) -> None:
    """Two payments, one of them partly given back, one trade that nobody paid."""
    for number, amount in (("TRADE0001", 1234), ("TRADE0002", 500), ("TRADE0003", 700)):
        await wire.pay(number, method="qr", amount=amount, subject=f"咖啡,{number}")
    for number in ("TRADE0001", "TRADE0002"):
        await wire.steer("/_sim/pay", payer(files, number))
    refund = RefundKey("RF000001", STARTED_S, "TRADE0001", "")
    await wire.refund(RefundRequest(refund, 234, 1234, "CNY", "不要, 谢谢", "http://127.0.0.1:9/none"))


async def listed(wire) -> list[StatementRow]:
    file = await wire.statement(TODAY)
    assert isinstance(file, StatementFile), file
    return list(wire.channel.statement_rows(file))


async def test_the_list_says_what_the_ledger_says(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire:
        await sold(wire, alipay_files)
        rows = await listed(wire)
    paid = [line for line in ledger(alipay_folder) if line["kind"] == "paid"]
    given_back = [line for line in ledger(alipay_folder) if line["kind"] == "refund_opened"]
    assert [
        (row.out_trade_no, row.channel_transaction, row.amount, row.at_s) for row in rows if row.refund_no is None
    ] == [(line["out_trade_no"], line["transaction"], line["amount"], line["success_at"]) for line in paid]
    assert [(row.kind, row.refund_no, row.amount, row.at_s) for row in rows if row.refund_no] == [
        (RowKind.REFUND, line["refund_no"], line["amount"], int(line["at"])) for line in given_back
    ]
    assert [row.fee for row in rows if row.kind is RowKind.PAYMENT] == [7, 3]


async def test_another_merchants_list_is_empty_and_his_link_leads_nowhere(alipay_folder, alipay_files, alipay_keys):
    async with alipay(alipay_folder, alipay_files) as wire:
        await sold(wire, alipay_files)
        ours = await link(wire)
        wire.channel = channel_of(alipay_keys[1]["control"], wire.url)
        assert await wire.statement(TODAY) == StatementNotReady()  # NO_BILL_DATA of a day that is not over
        assert isinstance(await wire.statement("2020-01-01"), NoStatement)
        theirs = ours.replace(alipay_files.seller_id, alipay_keys[1]["control"].seller_id)
        page = await wire.send(Request("GET", theirs.removeprefix(wire.url), {}))
        assert "下载链接无效" in page.body.decode("gbk")


async def link(wire) -> str:
    """Where the list stands."""
    flow = wire.channel.statement(TODAY, stamp())
    request = flow.send(await wire.send(next(flow)))
    flow.close()
    return request.origin + request.target


async def test_the_zip_is_as_the_real_one(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire:
        await sold(wire, alipay_files)
        packed = await wire.send(Request("GET", (await link(wire)).removeprefix(wire.url), {}))
    with zipfile.ZipFile(io.BytesIO(packed.body)) as archive:
        assert archive.testzip() is None
        assert all(entry.flag_bits & 0x800 == 0 for entry in archive.infolist())
        names = {entry.filename.encode("cp437").decode("gbk"): entry for entry in archive.infolist()}
        stem = f"{alipay_files.seller_id}0156_{TODAY.replace('-', '')}"
        assert list(names) == [f"{stem}_业务明细.csv", f"{stem}_业务明细(汇总).csv"]
        lines = archive.read(names[f"{stem}_业务明细.csv"]).decode("gbk").splitlines()
        sums = archive.read(names[f"{stem}_业务明细(汇总).csv"]).decode("gbk").splitlines()
    assert lines[0] == "#支付宝业务明细查询"
    assert lines[4].count(",") == 24
    assert lines[5].endswith("\t")
    assert "#交易合计：2笔，商家实收共17.34元，商家优惠共0.00元" in lines
    assert sums[-1].replace("\t", "").startswith("合计,,2,1,15.00")


async def test_a_link_lives_for_thirty_seconds(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files, faults={"bill_link": 1.0}) as wire:
        await sold(wire, alipay_files)
        assert isinstance(await wire.statement(TODAY), Unknown)  # a page that says so, and no zip
        await wire.steer("/_faults", {"bill_link": 0.0})
        assert isinstance(await wire.statement(TODAY), StatementFile)


async def test_a_list_may_not_be_ready(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files, faults={"bill_not_ready": 1.0}) as wire:
        await sold(wire, alipay_files)
        assert await wire.statement(TODAY) == StatementNotReady()
        await wire.steer("/_faults", {"bill_not_ready": 0.0, "bill_calendar": 1.0})
        assert await wire.statement(TODAY) == StatementNotReady()
        tomorrow = plain(stamp().now_s + 86400)[:10]
        assert await wire.statement(tomorrow) == StatementNotReady()


@pytest.mark.parametrize("fault", ["bill_missing", "bill_extra", "bill_amount"])
async def test_differences_are_there_on_demand(alipay_folder, alipay_files, fault):
    async with alipay(alipay_folder, alipay_files) as wire:
        await sold(wire, alipay_files)
        genuine = await listed(wire)
        await wire.steer("/_faults", {fault: 1.0})
        rows = await listed(wire) if fault != "bill_missing" else list(await after_all(wire))
    if fault == "bill_missing":
        assert rows == []
    elif fault == "bill_extra":
        extra = [row for row in rows if row not in genuine]
        assert [row for row in rows if row in genuine] == genuine
        assert [(row.kind, row.amount) for row in extra] == [(row.kind, row.amount) for row in genuine]
        assert all(row.out_trade_no.startswith("EXTRA") for row in extra)
    else:
        assert [row.amount - 1 for row in rows] == [row.amount for row in genuine]
        assert [row.out_trade_no for row in rows] == [row.out_trade_no for row in genuine]


async def after_all(wire):
    return wire.channel.statement_rows(await wire.statement(TODAY))


async def test_other_kinds_of_lists_are_not_made(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire:
        biz = {"bill_type": "signcustomer", "bill_date": TODAY}
        answer = await wire.run(wire.channel._ask("alipay.data.dataservice.bill.downloadurl.query", biz, stamp()))
        assert (answer.code, answer.name) == ("40004", "TYPE_NOT_SUPPORTED")
