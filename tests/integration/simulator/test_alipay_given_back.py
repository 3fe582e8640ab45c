"""The simulated Alipay's refunds: done at once, counted together, told on the payment's address."""

import json

import pytest

from channels.contract import (
    ChannelPayment,
    ChannelRefund,
    NotFound,
    Paid,
    RefundKey,
    RefundKnown,
    RefundRequest,
    RefundState,
    Refused,
    Unknown,
)
from tests.integration.simulator.alipay_accounts import alipay, channel_of, payer
from tests.integration.simulator.wire import STARTED_S, attempt, inbox, ledger, stamp


def key(number: str, trade: str = "TRADE0001", transaction: str = "") -> RefundKey:
    return RefundKey(number, STARTED_S, trade, transaction)


def asked(number: str, amount: int, **which: str) -> RefundRequest:
    return RefundRequest(key(number, **which), amount, 100, "CNY", "不要了", "http://127.0.0.1:9/none")


async def paid(wire, files, number="TRADE0001", url="http://127.0.0.1:9/none"):
    await wire.pay(number, url, method="qr")
    return await wire.steer("/_sim/pay", payer(files, number))


async def state_of(wire, number="TRADE0001"):
    return json.loads((await wire.run(wire.channel._ask("alipay.trade.query", {"out_trade_no": number}, stamp()))).node)


async def test_a_part_is_given_back_at_once_and_the_trade_stays_paid(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire:
        trade = await paid(wire, alipay_files)
        outcome = await wire.refund(asked("RF000001", 30, transaction=trade["transaction"]))
        assert isinstance(outcome, RefundKnown)
        assert (outcome.refund.state, outcome.refund.out_trade_no) == (RefundState.SUCCEEDED, "TRADE0001")
        found = await wire.query_refund(key("RF000001"))
        assert (found.refund.amount, found.refund.success_at_s) == (30, outcome.refund.success_at_s)
        assert (await state_of(wire))["trade_status"] == "TRADE_SUCCESS"
        assert await wire.query_refund(key("RF000002")) == NotFound()
        assert await wire.query_refund(key("RF000001", "TRADE0009")) == NotFound()


async def test_all_of_it_given_back_closes_the_trade_which_was_paid_all_the_same(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire:
        await paid(wire, alipay_files)
        fees = []
        for number, amount in (("RF000001", 30), ("RF000002", 70)):
            biz = {"out_trade_no": "TRADE0001", "out_request_no": number, "refund_amount": f"0.{amount}"}
            answer = await wire.run(wire.channel._ask("alipay.trade.refund", biz, stamp()))
            fees.append(json.loads(answer.node)["refund_fee"])
        assert fees == ["0.30", "1.00"]  # the sum of all, each time
        said = await state_of(wire)
        assert (said["trade_status"], "send_pay_date" in said) == ("TRADE_CLOSED", True)
        assert isinstance(await wire.query("TRADE0001"), Paid)
        refused = await wire.refund(asked("RF000003", 1))
        assert (type(refused), refused.code) == (Refused, "TRADE_HAS_CLOSE")
    assert [line["kind"] for line in ledger(alipay_folder) if line["kind"] != "notified"][3:] == [
        *("refund_opened", "refund_settled", "refund_opened", "closed", "refund_settled")
    ]


async def test_the_same_refund_again_moves_nothing_and_is_known(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire:
        await paid(wire, alipay_files)
        await wire.refund(asked("RF000001", 30))
        again = await wire.refund(asked("RF000001", 30))  # fund_change N, and asked after
        assert (again.refund.state, again.refund.amount) == (RefundState.SUCCEEDED, 30)
        other = await wire.refund(asked("RF000001", 40))  # DISCORDANT_REPEAT_REQUEST, and asked after
        assert (other.refund.state, other.refund.amount) == (RefundState.SUCCEEDED, 30)
        (trade,) = await wire.steer("/_sim/trades")
        assert trade["refunds"] == {"RF000001": {"state": "succeeded", "amount": 30}}


REFUSED = {
    "more than was paid": (asked("RF000001", 100, trade="TRADE0001"), 80, "REFUND_AMT_NOT_EQUAL_TOTAL"),
    "of what nobody paid": (asked("RF000001", 30, trade="TRADE0002"), 0, "TRADE_NOT_EXIST"),
    "of what does not exist": (asked("RF000001", 30, trade="TRADE0009"), 0, "TRADE_NOT_EXIST"),
}


@pytest.mark.parametrize("refused", REFUSED)
async def test_what_can_not_be_given_back_is_refused(alipay_folder, alipay_files, refused):
    request, before, code = REFUSED[refused]
    async with alipay(alipay_folder, alipay_files) as wire:
        await paid(wire, alipay_files)
        await wire.pay("TRADE0002", method="qr")
        if before:
            await wire.refund(asked("RF000000", before))
        outcome = await wire.refund(request)
        assert (type(outcome), outcome.code) == (Refused, code)


async def test_what_is_finished_is_paid_and_can_not_be_given_back(alipay_folder, alipay_files):
    async with (
        inbox(channel_of(alipay_files)) as box,
        alipay(alipay_folder, alipay_files, faults={"finished": 1.0}) as wire,
    ):
        await paid(wire, alipay_files, url=box.url)
        assert b"TRADE_FINISHED" in (await box.next()).body
        assert isinstance(await wire.query("TRADE0001"), Paid)
        assert (await wire.refund(asked("RF000001", 30))).code == "TRADE_HAS_FINISHED"


async def test_a_balance_too_low_refuses_a_refund_this_time(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files, faults={"not_enough": 1.0}) as wire:
        await paid(wire, alipay_files)
        assert (await wire.refund(asked("RF000001", 30))).code == "SELLER_BALANCE_NOT_ENOUGH"
        await wire.steer("/_faults", {"not_enough": 0.0})
        assert isinstance(await wire.refund(asked("RF000001", 30)), RefundKnown)


async def test_a_refund_said_to_have_moved_nothing_was_done(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files, faults={"no_fund_change": 1.0}) as wire:
        await paid(wire, alipay_files)
        assert isinstance(await wire.refund(asked("RF000001", 30)), RefundKnown)
        await wire.steer("/_faults", {"refund_unseen": 1.0})
        assert isinstance(await wire.refund(asked("RF000002", 30)), Unknown)
        assert await wire.query_refund(key("RF000002")) == NotFound()
        await wire.steer("/_faults", {"refund_unseen": 0.0})
        assert isinstance(await wire.query_refund(key("RF000002")), RefundKnown)


async def test_an_answer_that_is_lost_leaves_the_refund_and_it_is_found(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire:
        await paid(wire, alipay_files)
        await wire.steer("/_faults", {"error_after": 1.0})
        assert isinstance(await wire.refund(asked("RF000001", 100)), Unknown)
        await wire.steer("/_faults", {"error_after": 0.0})
        assert isinstance(await wire.refund(asked("RF000001", 100)), RefundKnown)  # the trade is closed by it
        await wire.steer("/_faults", {"error_before": 1.0})
        assert isinstance(await wire.query_refund(key("RF000001")), Unknown)


async def test_a_refund_on_its_way_to_a_bank_card_says_so(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files, faults={"bank_card": 1.0}) as wire:
        await paid(wire, alipay_files)
        await wire.refund(asked("RF000001", 30))
        assert (await wire.query_refund(key("RF000001"))).refund.detail == "on its way to a bank card: P"


async def test_a_part_given_back_is_told_on_the_payments_address_and_is_no_payment(alipay_folder, alipay_files):
    async with inbox(channel_of(alipay_files)) as box, alipay(alipay_folder, alipay_files) as wire:
        await paid(wire, alipay_files, url=box.url)
        payment = (await box.next()).payment
        assert isinstance(payment, ChannelPayment)
        await wire.refund(asked("RF000001", 30))
        told = await box.next()
        assert isinstance(told.payment, ChannelRefund)
        assert (told.payment.refund_no, told.payment.detail) == ("RF000001", "refunded in all: 0.30")
        assert b"trade_status=TRADE_SUCCESS" in told.body
        await wire.refund(asked("RF000002", 20))
        assert (await box.next()).payment.detail == "refunded in all: 0.50"


async def test_all_given_back_is_told_only_if_the_app_wants_to_hear_of_closed_trades(alipay_folder, alipay_files):
    async with inbox(channel_of(alipay_files)) as box, alipay(alipay_folder, alipay_files) as wire:
        for number, share in (("TRADE0001", 0.0), ("TRADE0002", 1.0)):
            await wire.steer("/_faults", {"closed_notice": share})
            await paid(wire, alipay_files, number, box.url)
            await box.next()
            await wire.refund(asked(f"RF{number}", 100, trade=number))
        told = await box.next()
        assert (told.payment.refund_no, told.payment.out_trade_no) == ("RFTRADE0002", "TRADE0002")
        assert b"trade_status=TRADE_CLOSED" in told.body
        assert b"gmt_close=" in told.body
        assert box.empty()


async def test_refunds_survive_a_restart(alipay_folder, alipay_files):
    async with alipay(alipay_folder, alipay_files) as wire:
        await paid(wire, alipay_files)
        await wire.refund(asked("RF000001", 100))
    async with alipay(alipay_folder, alipay_files) as wire:
        assert isinstance(await wire.query_refund(key("RF000001")), RefundKnown)
        assert (await state_of(wire))["trade_status"] == "TRADE_CLOSED"
        assert isinstance(await wire.run(wire.channel.query(attempt("TRADE0001"), stamp())), Paid)
