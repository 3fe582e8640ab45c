"""Every fault of the simulated UnionPay can be seen, and our channel believes nothing that it should not."""

from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from channels.contract import Debited, NotFound, NotPaid, Paid, RefundState, Unknown
from channels.moments import compact
from channels.simulator.unionpay import LIES, REQUEST_FAULTS, VARIANTS
from channels.simulator.unionpay_faults import UnionpayFaults
from channels.unionpay import UnionPay
from tests.integration.simulator.unionpay_accounts import counter
from tests.integration.simulator.wire import AT_ONCE, Inbox, inbox, ledger


@pytest.fixture
def ours(unionpay_credentials):
    return unionpay_credentials["holdfast"]


def signed_with(box_body: bytes) -> str:
    return dict(parse_qsl(box_body.decode()))["signPubKeyCert"]


# --- notifications


@pytest.mark.parametrize("fault", VARIANTS)
async def test_a_wrong_notification_comes_first_and_the_genuine_one_follows(unionpay_folder, ours, fault):
    async with (
        inbox(UnionPay(ours)) as box,
        counter(unionpay_folder, ours, faults={fault: 1.0}, payers=AT_ONCE) as at,
    ):
        for number in range(6):  # a change falls on another field each time
            await at.pay(f"TRADE{number:04d}", box.url)
            wrong, genuine = await box.next(), await box.next()
            assert (wrong.payment, wrong.status, genuine.status) == (None, 400, 200)
            assert wrong.reason in ({"bad_signature", "unreadable"} if fault == "tamper" else {"bad_signature"})
            assert genuine.payment.out_trade_no == f"TRADE{number:04d}"


async def test_a_test_can_send_any_variant_and_sees_the_answer(unionpay_folder, ours):
    async with inbox(UnionPay(ours)) as box, counter(unionpay_folder, ours) as at:
        await at.sold("TRADE0001", box.url)
        await box.next()
        order = {"channel": "unionpay", "merchant": at.channel.account, "out_trade_no": "TRADE0001"}
        for variant in ("", *VARIANTS):
            answer = await at.steer("/_sim/notify", {**order, "variant": variant})
            assert answer["status"] == (400 if variant else 200)
            assert answer["body"] == ("ok" if not variant else "bad_signature")


async def test_a_certificate_changes_in_mid_run(unionpay_folder, ours):
    async with inbox(UnionPay(ours)) as box, counter(unionpay_folder, ours, payers=AT_ONCE) as at:
        certificates = []
        for number, share in enumerate((0.0, 1.0, 0.0)):
            await at.steer("/_faults", {"rotation": share})
            await at.pay(f"TRADE{number:04d}", box.url)
            received = await box.next()
            assert received.payment == (await at.query(f"TRADE{number:04d}")).payment
            certificates.append(signed_with(received.body))
        assert certificates[0] == certificates[2] != certificates[1]


async def test_fields_with_nothing_in_them_change_nothing(unionpay_folder, ours):
    async with (
        inbox(UnionPay(ours)) as box,
        counter(unionpay_folder, ours, faults={"empty_fields": 1.0}, payers=AT_ONCE) as at,
    ):
        await at.pay("TRADE0001", box.url)
        received = await box.next()
        assert b"payType=&" in received.body
        assert await at.query("TRADE0001") == Paid(received.payment)


async def test_a_query_behind_the_address_is_no_part_of_the_notification(unionpay_folder, ours, monkeypatch):
    targets: list[str] = []
    serve = Inbox.serve

    async def seen(self, request):
        targets.append(request.raw_path)
        return await serve(self, request)

    monkeypatch.setattr(Inbox, "serve", seen)
    async with (
        inbox(UnionPay(ours)) as box,
        counter(unionpay_folder, ours, faults={"url_query": 1.0}, payers=AT_ONCE) as at,
    ):
        await at.pay("TRADE0001", box.url)
        assert (await box.next()).payment.out_trade_no == "TRADE0001"
    assert targets == ["/callbacks?from=unionpay&respCode=00"]


async def test_a_dropped_notification_never_arrives_and_a_duplicate_comes_again(unionpay_folder, ours):
    async with (
        inbox(UnionPay(ours)) as box,
        counter(unionpay_folder, ours, faults={"drop": 1.0}, payers=AT_ONCE) as at,
    ):
        await at.pay("TRADE0001", box.url)
        await at.until_paid("TRADE0001")
        await at.steer("/_faults", {"drop": 0.0, "duplicate": 1.0})
        await at.pay("TRADE0002", box.url)
        told = [(await box.next()).payment.out_trade_no for _ in range(2)]
        assert told == ["TRADE0002", "TRADE0002"]
    assert [line["out_trade_no"] for line in ledger(unionpay_folder) if line["kind"] == "notification_dropped"] == [
        "TRADE0001"
    ]


# --- requests


@pytest.mark.parametrize("fault", LIES)
async def test_a_lie_under_a_wrong_signature_is_believed_by_no_verb(unionpay_folder, ours, fault):
    async with counter(unionpay_folder, ours, faults={fault: 1.0}) as at:
        for number in ("TRADE0001", "TRADE0002", "TRADE0003"):
            refund = at.back(f"REFUND{number}", "212611211000000000001")
            outcomes = [await at.pay(number), await at.query(number), await at.close(number), await at.refund(refund)]
            outcomes += [await at.void(refund), await at.query_refund(refund.refund), await at.statement("2026-01-01")]
            assert [type(each) for each in outcomes] == [Unknown] * 7
            assert "not believed" in outcomes[1].reason
        await at.steer("/_faults", {fault: 0.0})
        await at.paid("TRADE0001")  # it was executed all the same
        assert isinstance(await at.query("TRADE0001"), Paid)


async def test_an_error_before_leaves_nothing_and_an_error_after_leaves_the_trade(unionpay_folder, ours):
    async with counter(unionpay_folder, ours, faults={"error_before": 1.0}) as at:
        assert isinstance(await at.pay("TRADE0001", method="barcode"), Unknown)
        await at.steer("/_faults", {"error_before": 0.0})
        assert await at.query("TRADE0001") == NotFound()
        await at.steer("/_faults", {"error_after": 1.0})
        assert isinstance(await at.pay("TRADE0001", method="barcode"), Unknown)
        await at.steer("/_faults", {"error_after": 0.0})
        assert isinstance(await at.query("TRADE0001"), Paid)
        assert isinstance(await at.pay("TRADE0001", method="barcode"), Unknown)  # 12: the first send was taken


async def test_a_code_whose_answer_was_lost_is_refused_and_paid_by_nobody(unionpay_folder, ours):
    async with counter(unionpay_folder, ours, faults={"error_after": 1.0}, payers=AT_ONCE) as at:
        assert isinstance(await at.pay("TRADE0001"), Unknown)
        await at.steer("/_faults", {"error_after": 0.0})
        assert (await at.pay("TRADE0001")).code == "12"
        assert await at.query("TRADE0001") == NotFound()


async def test_too_many_questions_are_answered_with_37_and_not_looked_at(unionpay_folder, ours):
    async with counter(unionpay_folder, ours, faults={"rate_limited": 1.0}) as at:
        outcomes = [await at.pay("TRADE0001"), await at.query("TRADE0001"), await at.close("TRADE0001")]
        assert [type(each) for each in outcomes] == [Unknown] * 3
        assert "37 (too many queries, or too fast)" in outcomes[1].reason
        await at.steer("/_faults", {"rate_limited": 0.0})
        assert await at.query("TRADE0001") == NotFound()


async def test_a_browser_that_meets_a_fault_sees_that_it_broke_and_tries_again(unionpay_folder, ours):
    for number, fault in enumerate(REQUEST_FAULTS):
        async with counter(unionpay_folder, ours, faults={fault: 1.0}, payers=AT_ONCE) as at:
            form = await at.pay(f"TRADE{number:04d}", method="web")
            assert (await at.open(form))[0] == 500
            await at.steer("/_faults", {fault: 0.0})
            assert (await at.open(form))[0] == 200
            await at.until_paid(f"TRADE{number:04d}")


# --- payments


@pytest.mark.parametrize(
    ("fault", "said", "kind"), [("pending", ("03", "04", "05"), NotPaid), ("moved", ("42", "74", "75"), Debited)]
)
async def test_a_payment_may_be_unsettled_for_two_queries(unionpay_folder, ours, fault, said, kind):
    async with counter(unionpay_folder, ours, faults={fault: 1.0}) as at:
        seen = set()
        for number in range(8):
            await at.sold(f"TRADE{number:04d}")
            asked = at.question(orderId=f"TRADE{number:04d}", txnTime=compact(at.started_s))
            answer = await at.said("/gateway/api/queryTrans.do", asked)
            seen.add(answer["origRespCode"])
            assert ("queryId" in answer) == (fault == "moved")
            assert isinstance(await at.query(f"TRADE{number:04d}"), kind)
            assert isinstance(await at.query(f"TRADE{number:04d}"), Paid)
        assert seen == set(said)


async def test_a_success_may_have_a_defect(unionpay_folder, ours):
    async with (
        inbox(UnionPay(ours)) as box,
        counter(unionpay_folder, ours, faults={"defect": 1.0}, payers=AT_ONCE) as at,
    ):
        await at.pay("TRADE0001", box.url)
        received = await box.next()
        assert b"respCode=A6" in received.body
        assert await at.query("TRADE0001") == Paid(received.payment)


async def test_what_a_test_has_the_platform_state_is_stated(unionpay_folder, ours):
    async with inbox(UnionPay(ours)) as box, counter(unionpay_folder, ours) as at:
        await at.pay("TRADE0001", box.url)
        await at.paid("TRADE0001", amount=1, currency="USD", stated={"merId": "777290058110048"})
        told = (await box.next()).payment
        assert (told.amount, told.currency, told.account) == (1, "XXX", "777290058110048")
        assert isinstance(await at.query("TRADE0001"), Unknown)  # it is not about us


# --- refunds


@pytest.mark.parametrize("verb", ["refund", "void"])
async def test_a_refund_taken_may_be_answered_as_under_way_and_fail_in_the_end(unionpay_folder, ours, verb):
    async with (
        inbox(UnionPay(ours)) as box,
        counter(unionpay_folder, ours, faults={"refund_pending": 1.0, "refund_failed": 1.0}) as at,
    ):
        request = at.back("REFUND0001", await at.sold(), notify_url=box.url)
        unknown = await getattr(at, verb)(request)
        assert isinstance(unknown, Unknown)
        assert unknown.reason[:11] in ("respCode 03", "respCode 04", "respCode 05")
        failed = (await box.next()).payment
        assert failed.state is RefundState.FAILED
        assert (await at.query_refund(request.refund)).refund.state is RefundState.FAILED
        assert isinstance(await at.query("TRADE0001"), Paid)


async def test_a_void_after_the_cut_off_is_refused_and_a_refund_is_not(unionpay_folder, ours):
    async with counter(unionpay_folder, ours, faults={"void_late": 1.0}) as at:
        transaction = await at.sold()
        refused = await at.void(at.back("VOID00001", transaction))
        assert refused.code == "35"
        assert (await at.refund(at.back("REFUND0001", transaction))).refund.state is RefundState.PROCESSING


def test_every_fault_is_looked_at_here_or_in_the_other_files():
    """A fault without a test is one that nobody has seen."""
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_unionpay_*.py"))
    named = {name for name in UnionpayFaults.__struct_fields__ if f'"{name}"' in text}
    named |= {*VARIANTS, *LIES, "close_race", "close_overtaken", "slow", "slow_s", "timeout", "delay_s", "out_of_order"}
    assert set(UnionpayFaults.__struct_fields__) == named
