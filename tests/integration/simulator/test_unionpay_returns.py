"""The simulated UnionPay gives back: refunds and voids, what may be given back, and what is told of it."""

from urllib.parse import parse_qsl

import pytest
from msgspec.structs import replace

from channels import moments
from channels.contract import NotFound, Paid, RefundKnown, RefundState, Unknown
from channels.unionpay import UnionPay
from tests.integration.simulator.unionpay_accounts import AMOUNT, counter
from tests.integration.simulator.wire import inbox


@pytest.fixture
def ours(unionpay_credentials):
    return unionpay_credentials["holdfast"]


@pytest.mark.parametrize(("verb", "kind", "amount"), [("refund", "04", 30), ("void", "31", AMOUNT)])
async def test_what_is_given_back_is_taken_first_and_done_later(unionpay_folder, ours, verb, kind, amount):
    async with inbox(UnionPay(ours)) as box, counter(unionpay_folder, ours, refund_after_s=0.2) as at:
        transaction = await at.sold()
        request = at.back("RETURN0001", transaction, amount, box.url)
        taken = await getattr(at, verb)(request)
        assert taken.refund.state is RefundState.PROCESSING
        assert (await at.query_refund(request.refund)).refund.state is RefundState.PROCESSING
        received = await box.next()
        done = received.payment
        assert (done.state, done.amount, done.refund_no) == (RefundState.SUCCEEDED, amount, "RETURN0001")
        assert await at.query_refund(request.refund) == RefundKnown(done)
        fields = dict(parse_qsl(received.body.decode()))
        assert (fields["txnType"], fields["origQryId"]) == (kind, transaction)
        assert isinstance(await at.query("TRADE0001"), Paid)  # what is given back changes nothing about the payment


async def test_parts_are_given_back_until_nothing_is_left(unionpay_folder, ours):
    async with counter(unionpay_folder, ours) as at:
        transaction = await at.sold()
        for number, amount in enumerate((30, 30, 40)):
            assert isinstance(await at.refund(at.back(f"REFUND{number:04d}", transaction, amount)), RefundKnown)
        refused = await at.refund(at.back("REFUND0009", transaction, 1))
        assert (refused.code, "已被成功退货" in refused.message) == ("45", True)


async def test_no_more_is_given_back_than_is_left(unionpay_folder, ours):
    async with counter(unionpay_folder, ours) as at:
        transaction = await at.sold()
        await at.refund(at.back("REFUND0001", transaction, 60))
        assert (await at.refund(at.back("REFUND0002", transaction, 41))).code == "36"
        assert (await at.void(at.back("VOID00001", transaction))).code == "36"


async def test_what_failed_can_be_given_back_again(unionpay_folder, ours):
    async with counter(unionpay_folder, ours, faults={"refund_failed": 1.0}) as at:
        transaction = await at.sold()
        await at.refund(at.back("REFUND0001", transaction))
        assert (await at.until_refunded("TRADE0001"))["state"] == "failed"
        await at.steer("/_faults", {"refund_failed": 0.0})
        assert isinstance(await at.refund(at.back("REFUND0002", transaction)), RefundKnown)


@pytest.mark.parametrize("original", ["212611211000000000001", "0" * 21])
async def test_what_was_not_paid_is_not_given_back(unionpay_folder, ours, original):
    async with counter(unionpay_folder, ours) as at:
        await at.pay("TRADE0001")
        assert (await at.refund(at.back("REFUND0001", original))).code == "35"


async def test_nobody_gives_back_what_another_merchant_was_paid(unionpay_folder, unionpay_credentials):
    async with counter(unionpay_folder, unionpay_credentials["holdfast"]) as at:
        transaction = await at.sold()
        at.become(unionpay_credentials["control"])
        assert (await at.refund(at.back("REFUND0001", transaction))).code == "35"


async def test_a_number_is_taken_once_for_refunds_and_payments_together(unionpay_folder, ours):
    async with counter(unionpay_folder, ours) as at:
        transaction = await at.sold()
        first = await at.refund(at.back("REFUND0001", transaction, 30))
        assert isinstance(await at.refund(at.back("REFUND0001", transaction, 30)), Unknown)  # 12 decides nothing
        assert isinstance(await at.refund(at.back("TRADE0001", transaction, 30)), Unknown)
        assert (await at.query_refund(at.back("REFUND0001", transaction).refund)).refund.amount == first.refund.amount
        assert isinstance(await at.pay("REFUND0001"), Unknown)  # what lies under that number is no sale


async def test_a_refund_is_known_by_its_number_and_its_time(unionpay_folder, ours):
    async with counter(unionpay_folder, ours) as at:
        request = at.back("REFUND0001", await at.sold(), 30)
        await at.refund(request)
        assert isinstance(await at.query_refund(request.refund), RefundKnown)
        other_time = replace(request.refund, started_at_s=at.started_s - 1)
        assert await at.query_refund(other_time) == NotFound()
        assert await at.query_refund(replace(request.refund, refund_no="REFUND0002")) == NotFound()


async def test_a_refund_of_another_time_is_refused(unionpay_folder, ours):
    async with counter(unionpay_folder, ours) as at:
        transaction = await at.sold()
        asked = at.unionpay._return(at.back("REFUND0001", transaction, 30), "04")
        old = {**asked, "txnTime": moments.compact(at.started_s - 1000)}
        assert (await at.said("/gateway/api/backTransReq.do", old))["respCode"] == "10"


async def test_a_payment_that_came_too_late_is_given_back_by_the_platform_alone(unionpay_folder, ours):
    async with counter(unionpay_folder, ours, life_s=1) as at:
        await at.open(await at.pay("TRADE0001", method="web"))
        await at.until_over("TRADE0001")
        transaction = (await at.paid("TRADE0001", late=True))["transaction"]
        assert (await at.refund(at.back("REFUND0001", transaction))).code == "35"
