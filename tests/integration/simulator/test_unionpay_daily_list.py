"""The simulated UnionPay's daily file: it matches the ledger, or differs as it was told to."""

import io
import zipfile
import zlib
from base64 import b64decode

import pytest

from channels import moments
from channels.contract import NoStatement, RowKind, StatementFile, StatementNotReady
from channels.simulator.unionpay_bill import SHOP_NAME, ZME_WIDTHS
from channels.simulator.unionpay_statements import settlement_day
from tests.integration.simulator.unionpay_accounts import AMOUNT, counter
from tests.integration.simulator.wire import ledger


@pytest.fixture
def ours(unionpay_credentials):
    return unionpay_credentials["holdfast"]


def today(at) -> str:
    return moments.plain(at.started_s)[:10]


async def rows(at):
    file = await at.statement(today(at))
    assert isinstance(file, StatementFile), file
    return list(at.channel.statement_rows(file))


async def busy(at) -> str:
    """Two payments, a refund of the first in part, a void of the second, one trade that nobody paid."""
    first, second = await at.sold("TRADE0001"), await at.sold("TRADE0002")
    await at.refund(at.back("REFUND0001", first, 30))
    await at.void(at.back("VOID00001", second))
    await at.until_refunded("TRADE0001")
    await at.until_refunded("TRADE0002")
    await at.pay("TRADE0003")
    return first


async def test_the_file_lists_what_the_ledger_holds(unionpay_folder, ours):
    async with counter(unionpay_folder, ours) as at:
        await busy(at)
        found = await rows(at)
    lines = ledger(unionpay_folder)
    paid = {line["transaction"]: line for line in lines if line["kind"] == "paid"}
    returned = {line["channel_refund"]: line for line in lines if line["kind"] == "refund_opened"}
    assert len(found) == len(paid) + len(returned) == 4
    for row in found:
        if row.kind is RowKind.PAYMENT:
            line = paid[row.channel_transaction]
            assert (row.out_trade_no, row.amount, row.fee) == (line["out_trade_no"], line["amount"], 1)
        else:
            line = returned[row.channel_refund]
            assert (row.refund_no, row.out_trade_no, row.amount) == (
                line["refund_no"],
                line["out_trade_no"],
                line["amount"],
            )
            assert paid[row.channel_transaction]["out_trade_no"] == row.out_trade_no


async def test_what_failed_is_not_listed(unionpay_folder, ours):
    async with counter(unionpay_folder, ours, faults={"refund_failed": 1.0}) as at:
        await at.refund(at.back("REFUND0001", await at.sold(), 30))
        await at.until_refunded("TRADE0001")
        assert [row.kind for row in await rows(at)] == [RowKind.PAYMENT]


async def test_the_file_is_packed_and_written_as_the_platform_does(unionpay_folder, ours):
    async with counter(unionpay_folder, ours) as at:
        await busy(at)
        asked = at.unionpay._common("76", "01", "000000")
        day = moments.compact(at.started_s)[:8]
        said = await at.said(
            "/", {**asked, "settleDate": day[4:], "fileType": "00", "txnTime": moments.compact(at.started_s)}
        )
        merchant = at.channel.account
    assert said["fileName"] == f"{merchant}_{day}.zip"
    archive = zipfile.ZipFile(io.BytesIO(zlib.decompress(b64decode(said["fileContent"]))))
    assert archive.namelist() == [f"INN{day[2:]}88ZM_{merchant}", f"INN{day[2:]}88ZME_{merchant}"]
    lines = archive.read(archive.namelist()[0]).split(b"\r\n")[:-1]
    assert {len(line) for line in lines} == {607}
    assert SHOP_NAME.encode("gbk") in lines[0]
    assert len(lines[0].decode("gbk")) < 607  # whoever counted characters would be shifted
    assert len(archive.read(archive.namelist()[1]).rstrip(b"\r\n")) == sum(ZME_WIDTHS) + len(ZME_WIDTHS) - 1
    sale, refund = lines[0].decode("gbk"), next(line for line in lines if b"REFUND0001" in line).decode("gbk")
    assert "D000000000001 C000000000099" in sale
    assert "C000000000000 D000000000030" in refund
    assert refund.rstrip().endswith("TRADE0001")


async def test_a_day_without_trades_has_no_file(unionpay_folder, ours):
    async with counter(unionpay_folder, ours) as at:
        assert await at.statement("2026-01-01") == NoStatement()
        assert await at.statement(today(at)) == StatementNotReady()
        await at.pay("TRADE0001")
        assert await at.statement(today(at)) == StatementNotReady()
        await at.paid("TRADE0001")
        assert len(await rows(at)) == 1


async def test_each_merchant_sees_his_own_trades(unionpay_folder, unionpay_credentials):
    async with counter(unionpay_folder, unionpay_credentials["holdfast"]) as at:
        await at.sold()
        at.become(unionpay_credentials["control"])
        assert await at.statement(today(at)) == StatementNotReady()


@pytest.mark.parametrize("fault", ["bill_not_ready", "bill_calendar"])
async def test_a_file_may_not_be_made_yet(unionpay_folder, ours, fault):
    async with counter(unionpay_folder, ours, faults={fault: 1.0}) as at:
        await at.sold()
        assert await at.statement(today(at)) == StatementNotReady()
        await at.steer("/_faults", {fault: 0.0})
        assert len(await rows(at)) == 1


async def test_a_line_may_be_missing(unionpay_folder, ours):
    async with counter(unionpay_folder, ours, faults={"bill_missing": 1.0}) as at:
        await at.sold()
        assert await at.statement(today(at)) == StatementNotReady()  # a file of nothing is none
        await at.steer("/_faults", {"bill_missing": 0.5})
        for number in range(2, 10):
            await at.sold(f"TRADE{number:04d}")
        assert 0 < len(await rows(at)) < 9


async def test_a_line_may_be_of_a_trade_that_never_was(unionpay_folder, ours):
    async with counter(unionpay_folder, ours, faults={"bill_extra": 1.0}) as at:
        transaction = await at.sold()
        extra, genuine = await rows(at)
        assert extra.out_trade_no.startswith("EXTRA")
        assert genuine.channel_transaction == transaction != extra.channel_transaction


async def test_a_line_may_say_another_amount(unionpay_folder, ours):
    async with counter(unionpay_folder, ours, faults={"bill_amount": 1.0}) as at:
        await at.sold()
        assert [row.amount for row in await rows(at)] == [AMOUNT + 1]


def test_only_the_real_calendar_has_a_cut_off():
    for text, plain, real in (
        ("20261121225959", "1121", "1121"),
        ("20261121230000", "1121", "1122"),
        ("20261231233000", "1231", "0101"),
    ):
        at_s = moments.of_compact(text)
        assert (settlement_day(at_s, cut_off=False), settlement_day(at_s, cut_off=True)) == (plain, real)
