"""The simulated UnionPay: every way to pay, what a trade is known by, and how messages are written and signed."""

import json
import re
from base64 import b64decode
from urllib.parse import parse_qsl

import pytest

from channels import forms, moments
from channels.contract import (
    Accepted,
    AlreadyPaid,
    ClosedAtChannel,
    CredentialType,
    Debited,
    NotClosable,
    NotFound,
    NotPaid,
    Paid,
    Refused,
)
from channels.simulator.unionpay import UnionpayPlatform
from channels.unionpay import UnionPay
from tests.integration.simulator.unionpay_accounts import AMOUNT, counter
from tests.integration.simulator.wire import AT_ONCE, inbox, ledger


@pytest.fixture
def ours(unionpay_credentials):
    return unionpay_credentials["holdfast"]


# --- every way to pay


@pytest.mark.parametrize("method", ["web", "wap"])
async def test_a_form_makes_a_trade_when_the_browser_submits_it(unionpay_folder, ours, method):
    async with inbox(UnionPay(ours)) as box, counter(unionpay_folder, ours) as at:
        accepted = await at.pay("TRADE0001", box.url, method=method, return_url="https://shop.example/thanks")
        assert await at.query("TRADE0001", method=method) == NotFound()
        status, page = await at.open(accepted)
        assert status == 200
        assert "UnionPay" in page
        assert "thing TRADE0001" in page
        assert await at.query("TRADE0001", method=method) == NotPaid()
        assert (await at.paid("TRADE0001"))["state"] == "paid"
        told = (await box.next()).payment
        assert await at.query("TRADE0001", method=method) == Paid(told)
        assert (told.amount, told.account) == (AMOUNT, at.channel.account)
        status, page = await at.open(accepted)
        assert (status, "Paid." in page, "https://shop.example/thanks" in page) == (200, True, True)


@pytest.mark.parametrize(("method", "kind"), [("qr", CredentialType.QR), ("app", CredentialType.PARAMS)])
async def test_a_code_is_no_trade_before_somebody_pays_it(unionpay_folder, ours, method, kind):
    async with inbox(UnionPay(ours)) as box, counter(unionpay_folder, ours) as at:
        accepted = await at.pay("TRADE0001", box.url, method=method)
        assert accepted.credential.type is kind
        value = accepted.credential.value if method == "qr" else json.loads(accepted.credential.value)["tn"]
        shape = r"https://qr\.95516\.com/00010001/[0-9]{32}" if method == "qr" else r"[0-9]{21}"
        assert re.fullmatch(shape, value)
        assert (await at.trades())["TRADE0001"]["code"] == value
        assert await at.query("TRADE0001") == NotFound()
        await at.paid("TRADE0001")
        assert await at.query("TRADE0001") == Paid((await box.next()).payment)


async def test_a_barcode_is_paid_at_once(unionpay_folder, ours):
    async with inbox(UnionPay(ours)) as box, counter(unionpay_folder, ours) as at:
        assert await at.pay("TRADE0001", box.url, method="barcode") == AlreadyPaid()
        assert await at.query("TRADE0001", method="barcode") == Paid((await box.next()).payment)


@pytest.mark.parametrize("declined", [0.0, 1.0])
async def test_a_barcode_that_the_bank_is_at_is_paid_or_declined_in_the_end(unionpay_folder, ours, declined):
    faults = {"barcode_pending": 1.0, "barcode_declined": declined}
    async with counter(unionpay_folder, ours, faults=faults) as at:
        accepted = await at.pay("TRADE0001", method="barcode")
        assert isinstance(accepted, Accepted)
        for _ in range(2):
            assert await at.query("TRADE0001", method="barcode") == NotPaid()
        known = await at.query("TRADE0001", method="barcode")
        assert known == ClosedAtChannel() if declined else isinstance(known, Paid)


async def test_a_declined_barcode_is_refused(unionpay_folder, ours):
    async with counter(unionpay_folder, ours, faults={"barcode_declined": 1.0}) as at:
        refused = await at.pay("TRADE0001", method="barcode")
        assert isinstance(refused, Refused)
        assert (refused.code, "余额不足" in refused.message) == ("64", True)


async def test_payers_pay_by_themselves_what_they_were_shown(unionpay_folder, ours):
    async with counter(unionpay_folder, ours, payers=AT_ONCE) as at:
        await at.pay("TRADE0001")
        await at.until_paid("TRADE0001")
        accepted = await at.pay("TRADE0002", method="web")
        assert set(await at.trades()) == {"TRADE0001"}
        await at.open(accepted)
        await at.until_paid("TRADE0002")


# --- what a trade is known by


async def test_a_trade_is_known_by_its_number_and_its_time(unionpay_folder, ours):
    async with counter(unionpay_folder, ours) as at:
        await at.sold()
        assert isinstance(await at.query("TRADE0001"), Paid)
        assert await at.query("TRADE0001", started_at_s=at.started_s - 1) == NotFound()
        assert await at.query("TRADE0002") == NotFound()


async def test_each_merchant_has_numbers_of_his_own(unionpay_folder, unionpay_credentials):
    async with counter(unionpay_folder, unionpay_credentials["holdfast"]) as at:
        await at.sold()
        at.become(unionpay_credentials["control"])
        assert await at.query("TRADE0001") == NotFound()


async def test_a_number_is_taken_once(unionpay_folder, ours):
    async with counter(unionpay_folder, ours) as at:
        await at.pay("TRADE0001")
        again = await at.pay("TRADE0001")
        assert (again.code, "重复交易" in again.message) == ("12", True)
        await at.paid("TRADE0001")
        assert await at.pay("TRADE0001") == AlreadyPaid()
        other = await at.pay("TRADE0001", amount=7)
        assert other == AlreadyPaid()
        form = await at.pay("TRADE0001", method="web")
        assert "重复交易" in (await at.open(form))[1]


async def test_a_time_that_is_not_now_is_refused(unionpay_folder, ours):
    async with counter(unionpay_folder, ours) as at:
        for seconds in (-1000, 1000):
            old = at.question(txnType="01", txnSubType="07", channelType="08", orderId="TRADE0001", txnAmt="1")
            old |= {"currencyCode": "156", "backUrl": "http://127.0.0.1:9/n"}
            old["txnTime"] = moments.compact(at.started_s + seconds)
            assert (await at.said("/gateway/api/backTransReq.do", old))["respCode"] == "10"
        old["txnTime"] = moments.compact(at.started_s - 800)
        assert (await at.said("/gateway/api/backTransReq.do", old))["respCode"] == "00"


async def test_after_its_payment_time_nobody_pays_and_a_query_is_final(unionpay_folder, ours):
    async with counter(unionpay_folder, ours, life_s=1) as at:
        form = await at.pay("TRADE0001", method="web")
        await at.open(form)
        await at.pay("TRADE0002")
        at.life_s = -100
        await at.until_over("TRADE0001")
        assert "can not be paid any more" in (await at.open(form))[1]
        assert (await at.paid("TRADE0001"))["error"].startswith("not payable")
        for number in ("TRADE0001", "TRADE0002"):
            assert await at.query(number) == ClosedAtChannel()
            assert await at.close(number) == ClosedAtChannel()
        at.life_s = 7200
        assert await at.close("TRADE0001") == NotClosable()
        assert await at.close("TRADE0002") == NotClosable()


async def test_a_bank_page_takes_money_too_late_and_it_goes_back_by_itself(unionpay_folder, ours):
    async with inbox(UnionPay(ours)) as box, counter(unionpay_folder, ours, life_s=1) as at:
        await at.open(await at.pay("TRADE0001", box.url, method="web"))
        await at.until_over("TRADE0001")
        assert (await at.paid("TRADE0001", late=True))["state"] == "paid"
        known = await at.query("TRADE0001")
        assert isinstance(known, Debited)
        assert "origRespCode 42 (debited, but after the payment time) 扣款成功" in known.reason
        assert (await at.until_refunded("TRADE0001")) == {"state": "succeeded", "amount": AMOUNT}
        assert box.empty()  # success would be told; this is none
    auto = [line for line in ledger(unionpay_folder) if line["kind"] == "refund_opened"]
    assert (auto[0]["amount"], auto[0]["refund_no"].startswith("AUTO")) == (AMOUNT, True)


# --- how messages are written


async def test_an_answer_is_written_as_it_is_with_its_certificate_and_signature_last(unionpay_folder, ours):
    async with counter(unionpay_folder, ours) as at:
        await at.sold()
        fields = at.question(orderId="TRADE0001", txnTime=moments.compact(at.started_s))
        said = await at.said("/gateway/api/queryTrans.do", fields)
    names = list(said)
    assert names[-2:] == ["signPubKeyCert", "signature"]
    assert names[:-2] == sorted(names[:-2])
    assert said["signPubKeyCert"].count("\r\n") > 10
    assert said["signPubKeyCert"].endswith("-----END CERTIFICATE-----")
    assert len(b64decode(said["signature"], validate=True)) == 256
    assert (said["respMsg"], said["txnType"], said["txnSubType"]) == ("成功[0000000]", "01", "07")
    assert (len(said["queryId"]), said["traceNo"], said["settleAmt"]) == (21, said["queryId"][14:20], "100")
    assert said["traceTime"] == said["txnTime"][4:]


async def test_a_notification_is_a_form_and_says_what_the_genuine_ones_say(unionpay_folder, ours):
    async with inbox(UnionPay(ours)) as box, counter(unionpay_folder, ours) as at:
        await at.sold("TRADE0001", box.url)
        received = await box.next()
    fields = dict(parse_qsl(received.body.decode()))
    genuine = (
        "accNo accessType bizType currencyCode encoding exchangeRate merId orderId queryId respCode respMsg settleAmt"
    )
    genuine += " settleCurrencyCode settleDate signMethod signPubKeyCert signature traceNo traceTime txnAmt txnSubType"
    assert set(fields) == {*genuine.split(), "txnTime", "txnType", "version", "reqReserved"}
    assert fields["reqReserved"] == "thing TRADE0001"
    assert b"%0D%0A" in received.body
    assert received.status == 200


async def test_what_is_asked_in_gbk_is_answered_and_told_in_gbk(unionpay_folder, ours):
    async with inbox(UnionPay(ours)) as box, counter(unionpay_folder, ours) as at:
        fields = at.question(txnType="01", txnSubType="07", channelType="08", orderId="TRADE0001", txnAmt="1")
        fields |= {"currencyCode": "156", "backUrl": box.url, "encoding": "GBK"}
        fields["txnTime"] = moments.compact(at.started_s)
        async with at._session.post(
            at.url + "/gateway/api/backTransReq.do",
            data=forms.encode(at.unionpay._signed(fields), "gbk"),
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        ) as answer:
            assert "成功[0000000]" in (await answer.read()).decode("gbk")
        await at.paid("TRADE0001")
        received = await box.next()
        assert b"respMsg=%B3%C9%B9%A6%5B0000000%5D" in received.body
        assert received.payment.amount == 1


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"signMethod": "11"}, "10"),
        ({"version": "5.0.0"}, "10"),
        ({"merId": "777290058110048"}, "31"),
        ({"orderId": ""}, "13"),
        ({"orderId": "too-odd-1"}, "10"),
        ({"txnTime": "20261399000000"}, "10"),
        ({"accessType": "1"}, "10"),
        ({"txnType": "02"}, "43"),
        ({}, "34"),
    ],
)
async def test_a_question_that_is_none_is_answered_with_its_code_and_signed(unionpay_folder, ours, changed, code):
    async with counter(unionpay_folder, ours) as at:
        said = await at.said("/gateway/api/queryTrans.do", at.question(**changed))
        assert (said["respCode"], "signature" in said) == (code, True)


async def test_only_the_registered_certificate_may_ask(unionpay_folder, unionpay_credentials):
    ours, theirs = unionpay_credentials["holdfast"], unionpay_credentials["control"]
    async with counter(unionpay_folder, ours) as at:
        for sign in (ours, theirs):
            fields = UnionPay(sign)._signed(at.question())
            for changed in ({"certId": "1"}, {"orderId": "NOTHING01"}, {"signature": "AAAA"}, {"signature": ""}):
                said = await at.said("/gateway/api/queryTrans.do", {**fields, **changed}, sign=False)
                assert said["respCode"] == "11"
        assert (await at.said("/gateway/api/queryTrans.do", fields, sign=False))["respCode"] == "11"


@pytest.mark.parametrize("body", [b"", b"a=1&a=2", b"\xff\xfe", b"encoding=latin-1&a=%E9", b"encoding=UTF-8&a=%E9"])
async def test_what_is_no_form_is_no_request(unionpay_folder, ours, body):
    async with (
        counter(unionpay_folder, ours) as at,
        at._session.post(at.url + "/gateway/api/queryTrans.do", data=body) as answer,
    ):
        assert (answer.status, await answer.text()) == (400, "Invalid request.")


async def test_a_browser_is_shown_a_page_and_no_message(unionpay_folder, ours):
    async with counter(unionpay_folder, ours) as at:
        form = await at.pay("TRADE0001", method="web")
        for changed, text in (({"signature": "AAAA"}, "验证签名失败"), ({"txnAmt": "0.01"}, "验证签名失败")):
            status, page = await at.open(form, **changed)
            assert (status, text in page, "respCode" in page) == (400, True, False)
        assert (await at.open(form))[0] == 200
        assert (await at.open(form))[0] == 200  # the payer reloads
        assert len(await at.trades()) == 1


async def test_a_notification_is_sent_five_times_in_all(unionpay_folder, ours):
    async with inbox(UnionPay(ours)) as box, counter(unionpay_folder, ours) as at:
        box.failures_left = 100
        await at.sold("TRADE0001", box.url)
        assert [(await box.next()).status for _ in range(5)] == [503] * 5
        assert (await at.trades())["TRADE0001"]["notified"] is False
    assert UnionpayPlatform.retry_after_s == (60, 120, 240, 300)


async def test_what_happened_is_still_so_after_a_restart(unionpay_folder, ours):
    async with counter(unionpay_folder, ours) as at:
        transaction = await at.sold()
        await at.refund(at.back("REFUND0001", transaction, 30))
        started_s = at.started_s
    async with counter(unionpay_folder, ours) as at:
        at.started_s = started_s
        known = await at.query("TRADE0001")
        assert known.payment.channel_transaction == transaction
        assert (await at.query_refund(at.back("REFUND0001", transaction).refund)).refund.amount == 30
        assert (await at.sold("TRADE0002")) != transaction
