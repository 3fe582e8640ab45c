"""What the simulator wrote down it never forgets: a ledger on disk before anybody is told, read again at a restart."""

import pytest

from channels.contract import ClosedAtChannel, NotPaid, Paid
from channels.simulator.ledger import Ledger
from tests.integration.simulator.wechat_accounts import mchid_of, payer
from tests.integration.simulator.wire import AT_ONCE, inbox, ledger, simulator


async def test_the_ledger_holds_what_was_paid_before_anybody_is_told(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel, payers=AT_ONCE) as wire:
        await wire.pay("TRADE0001", box.url, subject="咖啡")
        told = (await box.next()).payment
        [paid] = [line for line in ledger(folder) if line["kind"] == "paid"]
        assert paid["transaction"] == told.channel_transaction
        assert (paid["amount"], paid["currency"], paid["description"]) == (100, "CNY", "咖啡")
        assert paid["success_at"] == told.success_at_s
        assert (paid["channel"], paid["merchant"]) == ("wechatpay", mchid_of(channel))


async def test_a_restart_gives_the_same_trades_and_goes_on_telling(folder, channel):
    async with inbox(channel) as box:
        box.failures_left = 1_000_000
        async with simulator(folder, channel) as wire:
            for number in ("TRADE0001", "TRADE0002", "TRADE0003"):
                await wire.pay(number, box.url)
            await wire.close("TRADE0002")
            before = await wire.steer("/_sim/pay", payer(channel, "TRADE0001"))
            await box.next()
        box.failures_left = 0
        while not box.empty():
            await box.next()
        async with simulator(folder, channel) as wire:
            told = await box.next()
            assert told.payment.channel_transaction == before["transaction"]
            assert await wire.query("TRADE0001") == Paid(told.payment)
            assert await wire.query("TRADE0002") == ClosedAtChannel()
            assert await wire.query("TRADE0003") == NotPaid()
            again = await wire.steer("/_sim/pay", payer(channel, "TRADE0003"))
            assert again["transaction"] > before["transaction"]


async def test_a_torn_last_line_is_cut_off(folder, channel):
    async with simulator(folder, channel) as wire:
        await wire.pay("TRADE0001")
    whole = (folder / "ledger.jsonl").read_bytes()
    (folder / "ledger.jsonl").write_bytes(whole + b'{"kind":"paid","at":17')
    async with simulator(folder, channel) as wire:
        assert await wire.query("TRADE0001") == NotPaid()
    assert (folder / "ledger.jsonl").read_bytes() == whole


async def test_a_ledger_belongs_to_one_process(folder, channel):
    async with simulator(folder, channel):
        with pytest.raises(BlockingIOError):
            Ledger(folder / "ledger.jsonl")
