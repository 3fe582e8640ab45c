"""The simulated WeChat Pay's daily list: it matches the ledger, unless it is told not to; and our channel reads it."""

import gzip
import hashlib
import json
import time
from urllib.parse import parse_qs, urlsplit

import pytest

from channels.contract import (
    NoStatement,
    RefundKey,
    RefundRequest,
    RowKind,
    StatementFile,
    StatementNotReady,
    StatementRow,
    Unknown,
)
from channels.moments import plain
from channels.simulator.faults import draw
from channels.simulator.platform import Moment, Refusal
from channels.simulator.trades import Trades
from channels.simulator.wechat_bill import download
from channels.simulator.wechat_faults import WechatFaults
from channels.simulator.wechat_requests import Download
from tests.integration.simulator.wechat_accounts import mchid_of, payer, resigned
from tests.integration.simulator.wire import Wire, inbox, ledger, simulator

DAY_S = 86400
LONG_AGO = plain(int(time.time()) - 40 * DAY_S)[:10]


def today() -> str:
    return plain(int(time.time()))[:10]


async def rows(wire: Wire, day: str | None = None) -> list[StatementRow]:
    """What our channel reads of a day."""
    file = await wire.statement(day or today())
    assert isinstance(file, StatementFile), file
    return list(wire.channel.statement_rows(file))


async def sold(wire: Wire, box_url: str, count: int, **how: object) -> None:
    """So many trades, paid."""
    for number in range(count):
        await wire.pay(f"TRADE{number:04d}", box_url, amount=100 + number, **how)
        await wire.steer("/_sim/pay", payer(wire.channel, f"TRADE{number:04d}"))


async def given_back(wire: Wire, url: str, number: str, transaction: str, amount: int, total: int) -> None:
    key = RefundKey(f"R-{number}", int(time.time()), number, transaction)
    await wire.refund(RefundRequest(key, amount, total, "CNY", "", url))


# --- what it says


async def test_the_list_of_a_day_is_the_ledger_of_that_day(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel) as wire:
        await sold(wire, box.url, 3, subject="一件, 带逗号`和反引号\n还有换行")
        await wire.pay("UNPAID01", box.url)
        told = [(await box.next()).payment for _ in range(3)]
        await given_back(wire, box.url, "TRADE0001", told[1].channel_transaction, 30, 101)
        refund = (await box.next()).payment
        payments = [
            StatementRow(
                kind=RowKind.PAYMENT,
                out_trade_no=each.out_trade_no,
                channel_transaction=each.channel_transaction,
                amount=each.amount,
                fee=1,
                at_s=each.success_at_s,
            )
            for each in told
        ]
        listed = await rows(wire)
        assert [row for row in listed if row.kind is RowKind.PAYMENT] == payments
        [back] = [row for row in listed if row.kind is RowKind.REFUND]
        assert (back.refund_no, back.channel_refund, back.amount) == ("R-TRADE0001", refund.channel_refund, 30)
        assert (back.out_trade_no, back.channel_transaction) == ("TRADE0001", told[1].channel_transaction)


@pytest.mark.parametrize(("method", "trade_type"), [("native", "NATIVE"), ("app", "APP")])
async def test_the_file_has_the_platform_s_own_shape(folder, channel, method, trade_type):
    async with inbox(channel) as box, simulator(folder, channel) as wire:
        await sold(wire, box.url, 1, method=method, subject="one, two\nthree")
        content = (await wire.statement(today())).content
    assert content.startswith(b"\xef\xbb\xbf")
    lines = content.decode("utf-8-sig").split("\r\n")
    assert lines[0].startswith("交易时间,公众账号ID,商户号,特约商户号,")
    assert lines[1].startswith(f"`{today()}")
    assert all(f",`{text},`" in lines[1] for text in ("0", trade_type, "1.00", "0.01000", "one\\  two\\nthree"))
    assert lines[2].startswith("总交易单数,")
    assert lines[3] == "`1,`1.00,`0.00,`0.00,`0.01000,`1.00,`0.00"
    assert lines[4:] == [""]


async def test_the_other_kinds_hold_one_side_each(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel) as wire:
        await sold(wire, box.url, 2)
        told = (await box.next()).payment
        await given_back(wire, box.url, "TRADE0000", told.channel_transaction, 30, 100)
        held = {kind: await unpacked(wire, kind) for kind in ("ALL", "SUCCESS", "REFUND")}
    states = {kind: [line.split(",`")[9] for line in text.split("\r\n")[1:-3]] for kind, text in held.items()}
    assert states == {"ALL": ["SUCCESS", "REFUND", "SUCCESS"], "SUCCESS": ["SUCCESS", "SUCCESS"], "REFUND": ["REFUND"]}
    assert "退款申请时间,退款成功时间" in held["REFUND"]
    assert "退款" not in held["SUCCESS"]
    assert "`1,`0.00,`0.30,`0.00,`0.00000,`0.00,`0.30" in held["REFUND"]


async def unpacked(wire: Wire, kind: str) -> str:
    """The list as text, asked for without packing."""
    target = f"/v3/bill/tradebill?bill_date={today()}&bill_type={kind}"
    link = json.loads((await wire.send(resigned(wire.channel, "GET", target))).body)
    answer = await wire.send(resigned(wire.channel, "GET", link["download_url"].removeprefix(wire.url)))
    assert hashlib.sha1(answer.body, usedforsecurity=False).hexdigest() == link["hash_value"]
    return answer.body.decode("utf-8-sig")


async def test_a_refund_stands_in_the_list_in_the_state_it_had(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel, refund_after_s=3600) as wire:
        await sold(wire, box.url, 1)
        told = (await box.next()).payment
        await given_back(wire, box.url, "TRADE0000", told.channel_transaction, 30, 100)
        assert ",`ORIGINAL,`PROCESSING,`" in await unpacked(wire, "ALL")
    for fault, state, moved in (("refund_closed", "FAIL", 0), ("refund_abnormal", "CHANGE", 1)):
        lines = [line for line in ledger(folder) if line["kind"] != "refund_settled"]
        (folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        async with inbox(channel) as box, simulator(folder, channel, faults={fault: 1.0}) as wire:
            while f",`ORIGINAL,`{state},`" not in await unpacked(wire, "ALL"):
                pass
            assert len([row for row in await rows(wire) if row.kind is RowKind.REFUND]) == moved


async def test_every_merchant_has_a_list_of_its_own(folder, channel, control):
    async with inbox(channel) as box, simulator(folder, channel) as wire:
        await sold(wire, box.url, 2)
        theirs = Wire(wire._session, wire.url, control)
        await theirs.pay("TRADE0000", box.url, amount=7)
        await wire.steer("/_sim/pay", payer(control, "TRADE0000"))
        assert [row.amount for row in await rows(wire)] == [100, 101]
        assert [row.amount for row in await rows(theirs)] == [7]
        link = await wire.send(resigned(channel, "GET", f"/v3/bill/tradebill?bill_date={today()}"))
        stolen = json.loads(link.body)["download_url"].removeprefix(wire.url)
        answer = await wire.send(resigned(control, "GET", stolen))
        assert (answer.status, json.loads(answer.body)["code"]) == (403, "NO_AUTH")


async def test_a_trade_stands_on_the_day_it_was_paid(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel) as wire:
        await sold(wire, box.url, 2)
    lines = ledger(folder)
    lines[[line["kind"] for line in lines].index("paid")]["success_at"] -= 40 * DAY_S
    (folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    async with simulator(folder, channel) as wire:
        assert [row.out_trade_no for row in await rows(wire, LONG_AGO)] == ["TRADE0000"]
        assert [row.out_trade_no for row in await rows(wire)] == ["TRADE0001"]


# --- the link


async def test_a_link_leads_to_the_list_as_it_was_when_it_was_handed_out(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel) as wire:
        await sold(wire, box.url, 1)
        target = f"/v3/bill/tradebill?bill_date={today()}&tar_type=GZIP"
        link = json.loads((await wire.send(resigned(channel, "GET", target))).body)
        await wire.pay("TRADE0009", box.url)
        await wire.steer("/_sim/pay", payer(channel, "TRADE0009"))
        answer = await wire.send(resigned(channel, "GET", link["download_url"].removeprefix(wire.url)))
        content = gzip.decompress(answer.body)
        assert hashlib.sha1(content, usedforsecurity=False).hexdigest() == link["hash_value"]
        assert not [name for name in answer.headers if name.startswith("wechatpay-")]
        assert len(await rows(wire)) == 2


async def test_a_link_that_is_changed_or_not_signed_leads_nowhere(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel) as wire:
        await sold(wire, box.url, 1)
        link = await wire.send(resigned(channel, "GET", f"/v3/bill/tradebill?bill_date={today()}"))
        target = json.loads(link.body)["download_url"].removeprefix(wire.url)
        request = resigned(channel, "GET", target)
        assert (await wire.send(request)).status == 200
        bare = type(request)("GET", target, {**request.headers, "Authorization": ""})
        assert (await wire.send(bare)).status == 401
        for wrong, status in ((target[:-1] + "x", 403), (target[:40], 400), ("/v3/billdownload/file", 400)):
            assert (await wire.send(resigned(channel, "GET", wrong))).status == status


async def test_a_link_expires(folder, channel):
    """Told to the pure file that five minutes have passed: nothing here waits that long."""
    async with inbox(channel) as box, simulator(folder, channel) as wire:
        await sold(wire, box.url, 1)
        link = await wire.send(resigned(channel, "GET", f"/v3/bill/tradebill?bill_date={today()}"))
    token = parse_qs(urlsplit(json.loads(link.body)["download_url"]).query)["token"][0]
    asked = (mchid_of(channel), Download(token), WechatFaults(), 1)
    assert download("wechatpay", Trades(), *asked, Moment(time.time() + 290, "n", 0.0)).reply.status == 200
    with pytest.raises(Refusal) as expired:
        download("wechatpay", Trades(), *asked, Moment(time.time() + 301, "n", 0.0))
    assert expired.value.reply.status == 400


# --- there is none


async def test_a_day_without_trades_has_no_list_for_good_once_it_is_over(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel) as wire:
        assert await wire.statement(LONG_AGO) == NoStatement()
        assert await wire.statement(today()) == StatementNotReady()
        await sold(wire, box.url, 1)
        assert len(await rows(wire)) == 1


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("bill_type=ALL", "PARAM_ERROR"),
        ("bill_date=20261121", "PARAM_ERROR"),
        ("bill_date=2026-13-01", "PARAM_ERROR"),
        (f"bill_date={LONG_AGO}&bill_type=NONE", "PARAM_ERROR"),
        (f"bill_date={LONG_AGO}&tar_type=ZIP", "PARAM_ERROR"),
        (f"bill_date={LONG_AGO}", "NO_STATEMENT_EXIST"),
        (f"bill_date={plain(int(time.time()) + 2 * DAY_S)[:10]}", "INVALID_REQUEST"),
        (f"bill_date={plain(int(time.time()) - 94 * DAY_S)[:10]}", "INVALID_REQUEST"),
    ],
)
async def test_only_days_of_the_last_three_months_are_taken(folder, channel, query, code):
    async with simulator(folder, channel) as wire:
        answer = await wire.send(resigned(channel, "GET", f"/v3/bill/tradebill?{query}"))
        assert (answer.status, json.loads(answer.body)["code"]) == (400, code)


async def test_the_real_calendar_can_be_made_to_hold(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel, faults={"bill_calendar": 1.0}) as wire:
        await sold(wire, box.url, 1)
        assert isinstance(await wire.statement(today()), Unknown)
        assert await wire.statement(LONG_AGO) == NoStatement()


# --- what can be wrong with it


async def test_a_list_under_way_is_ready_later(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel, faults={"bill_not_ready": 0.5}) as wire:
        await sold(wire, box.url, 1)
        outcomes = [await wire.statement(today()) for _ in range(12)]
        assert {type(each) for each in outcomes} == {StatementFile, StatementNotReady}


async def test_a_file_that_is_not_what_was_announced_is_not_believed(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel, faults={"bill_hash": 0.5}) as wire:
        await sold(wire, box.url, 1)
        outcomes = [await wire.statement(today()) for _ in range(12)]
        assert {type(each) for each in outcomes} == {StatementFile, Unknown}
        assert {each.reason for each in outcomes if isinstance(each, Unknown)} == {
            "the file does not have the hash that was signed"
        }


async def test_lines_can_be_missing_extra_or_wrong_each_as_drawn(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel) as wire:
        await sold(wire, box.url, 20)
        genuine = await rows(wire)
        numbers = [row.out_trade_no for row in genuine]

        def drawn(fault: str) -> list[str]:
            return [number for number in numbers if draw(1, fault, f"thing {number}#0") < 0.3]

        await wire.steer("/_faults", {"bill_missing": 0.3})
        assert [n for n in numbers if n not in {row.out_trade_no for row in await rows(wire)}] == drawn("bill_missing")
        await wire.steer("/_faults", {"bill_missing": 0.0, "bill_amount": 0.3})
        wrong = [row.out_trade_no for row, true in zip(await rows(wire), genuine, strict=True) if row != true]
        assert wrong == drawn("bill_amount")
        await wire.steer("/_faults", {"bill_amount": 0.0, "bill_extra": 0.3})
        extra = [row for row in await rows(wire) if row.out_trade_no not in numbers]
        assert len(extra) == len(drawn("bill_extra")) > 0
        assert len({row.channel_transaction for row in extra}) == len(extra)


async def test_a_refund_s_line_can_be_wrong_too(folder, channel):
    async with (
        inbox(channel) as box,
        simulator(folder, channel, faults={"bill_amount": 1.0, "bill_extra": 1.0}) as wire,
    ):
        await sold(wire, box.url, 1)
        told = (await box.next()).payment
        await given_back(wire, box.url, "TRADE0000", told.channel_transaction, 30, 100)
        refunds = [row for row in await rows(wire) if row.kind is RowKind.REFUND]
        assert [(row.amount, row.refund_no == "R-TRADE0000") for row in refunds] == [(30, False), (31, True)]
