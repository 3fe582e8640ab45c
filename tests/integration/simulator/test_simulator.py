"""The simulated WeChat Pay: our own channel against it over a real socket, its refusals, its ledger."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import aiohttp
import pytest
from msgspec.structs import replace

from channels.contract import Accepted, AlreadyPaid, ClosedAtChannel, NotFound, NotPaid, Paid, Refused, Request, Unknown
from channels.errors import KeyMaterialError
from channels.simulator import wechat
from channels.simulator.credentials import load_platform, make_credentials
from channels.simulator.faults import Faults
from channels.simulator.ledger import Ledger
from channels.wechatpay import WeChatPay
from tests.integration.simulator.wechat_wire import (
    AT_ONCE,
    WITHIN_S,
    Wire,
    channel_of,
    inbox,
    ledger,
    prepay,
    simulator,
    stamp,
)

# --- the life of a trade


async def test_a_trade_is_made_paid_told_and_queried(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel, payers=AT_ONCE) as wire:
        accepted = await wire.pay("TRADE0001", box.url, amount=1234)
        assert isinstance(accepted, Accepted)
        assert accepted.credential.value.startswith("weixin://wxpay/bizpayurl?pr=")
        told = (await box.next()).payment
        asked = await wire.query("TRADE0001")
        assert asked == Paid(told)
        assert (told.amount, told.currency, told.account) == (1234, "CNY", channel.account)
        assert abs(told.success_at_s - time.time()) < WITHIN_S
        assert await wire.close("TRADE0001") == AlreadyPaid()
        assert await wire.pay("TRADE0001", box.url, amount=1234) == AlreadyPaid()


async def test_an_unpaid_trade_is_closed_and_stays_closed(folder, channel):
    async with simulator(folder, channel) as wire:
        await wire.pay("TRADE0001")
        assert await wire.query("TRADE0001") == NotPaid()
        assert await wire.close("TRADE0001") == ClosedAtChannel()
        assert await wire.close("TRADE0001") == ClosedAtChannel()
        assert await wire.query("TRADE0001") == ClosedAtChannel()
        assert isinstance(await wire.pay("TRADE0001"), Refused)
        order = {"mchid": channel.account.split("/")[0], "out_trade_no": "TRADE0001"}
        assert "not payable" in (await wire.steer("/_sim/pay", order))["error"]
    assert [line["kind"] for line in ledger(folder)] == ["prepay", "closed"]


async def test_what_was_never_made_is_not_found(folder, channel):
    async with simulator(folder, channel) as wire:
        assert await wire.query("TRADE0001") == NotFound()
        assert await wire.close("TRADE0001") == NotFound()


async def test_a_prepay_may_be_sent_again_only_with_the_same_parameters(folder, channel):
    async with simulator(folder, channel) as wire:
        first, again = await wire.pay("TRADE0001"), await wire.pay("TRADE0001")
        assert isinstance(again, Accepted)
        assert first.credential.value != again.credential.value
        other = await wire.pay("TRADE0001", amount=101)
        assert isinstance(other, Unknown)
        assert "OUT_TRADE_NO_USED" in other.reason


async def test_nobody_pays_after_time_expire_but_that_does_not_close(folder, channel):
    made = {"kind": "prepay", "out_trade_no": "TRADE0001", "description": "x", "ordinal": 0, "amount": 1}
    made |= {"currency": "CNY", "notify_url": "http://127.0.0.1:9/", "terms": "", "at": 1.0, "expires_at_s": 61}
    made["mchid"], made["appid"] = channel.account.split("/")
    (folder / "ledger.jsonl").write_text(json.dumps(made) + "\n")
    async with simulator(folder, channel) as wire:
        order = {"mchid": made["mchid"], "out_trade_no": "TRADE0001"}
        assert "not payable" in (await wire.steer("/_sim/pay", order))["error"]
        assert await wire.query("TRADE0001") == NotPaid()


async def test_a_time_expire_less_than_a_minute_away_is_raised_to_one(folder, channel):
    async with simulator(folder, channel) as wire:
        request = next(channel.pay(prepay("TRADE0001", "http://127.0.0.1:9/none"), stamp()))
        body = {**json.loads(request.body), "time_expire": "2020-01-01T00:00:00+08:00"}
        assert (await wire.send(resigned(channel, "POST", request.target, body))).status == 200
    [made] = ledger(folder)
    assert made["expires_at_s"] == int(made["at"]) + 60


async def test_two_merchants_have_their_own_numbers_keys_and_trades(folder, channel, control):
    async with inbox(control) as box, simulator(folder, channel) as wire:
        other = Wire(wire._session, wire.url, control)
        await wire.pay("TRADE0001", subject="same")
        await other.pay("TRADE0001", box.url, subject="same", amount=7)
        await wire.steer("/_sim/pay", {"mchid": control.account.split("/")[0], "out_trade_no": "TRADE0001"})
        assert (await box.next()).payment.amount == 7
        assert await wire.query("TRADE0001") == NotPaid()
        assert len(await wire.steer("/_sim/trades")) == 2
        assert len(await wire.steer(f"/_sim/trades?mchid={channel.account.split('/')[0]}")) == 1


async def test_a_trade_is_found_only_under_the_mchid_that_asks(folder, channel, control):
    async with inbox(channel) as box, simulator(folder, channel, payers=AT_ONCE) as wire:
        await wire.pay("TRADE0001", box.url)
        transaction = (await box.next()).payment.channel_transaction
        ours, theirs = (each.account.split("/")[0] for each in (channel, control))
        for asking, mchid, status in ((channel, ours, 200), (channel, theirs, 404), (control, theirs, 404)):
            for path in ("out-trade-no/TRADE0001", f"id/{transaction}"):
                target = f"/v3/pay/transactions/{path}?mchid={mchid}"
                assert (await wire.send(resigned(asking, "GET", target, b""))).status == status


@pytest.mark.parametrize(
    ("stated", "field", "value"),
    [
        ({"amount": 99}, "amount", 99),
        ({"currency": "USD"}, "currency", "USD"),
        ({"stated_mchid": "1900000001"}, "account", "1900000001"),
        ({"stated_appid": "wxother"}, "account", "wxother"),
    ],
)
async def test_a_platform_that_states_something_else_can_be_played(folder, channel, stated, field, value):
    async with inbox(channel) as box, simulator(folder, channel) as wire:
        await wire.pay("TRADE0001", box.url)
        mchid = channel.account.split("/")[0]
        await wire.steer("/_sim/pay", {"mchid": mchid, "out_trade_no": "TRADE0001", **stated})
        told = (await box.next()).payment
        assert str(value) in str(getattr(told, field))
        assert await wire.query("TRADE0001") == Paid(told)


# --- who may speak


def with_authorization(request: Request, change) -> Request:
    return replace(request, headers={**request.headers, "Authorization": change(request.headers["Authorization"])})


def query_at(channel: WeChatPay, age_s: int = 0) -> Request:
    return next(channel.query("TRADE0001", replace(stamp(), now_s=int(time.time()) - age_s)))


FORGERIES = {
    "no authorization": (lambda r: with_authorization(r, lambda _: ""), wechat.BAD_AUTHORIZATION_PAY),
    "another scheme": (
        lambda r: with_authorization(r, lambda a: a.replace("RSA2048", "SM2")),
        "签名信息错误，验签失败",
    ),
    "a pair is missing": (
        lambda r: with_authorization(r, lambda a: a.replace("nonce_str", "n")),
        "签名信息错误，验签失败",
    ),
    "another target": (lambda r: replace(r, target=r.target + "&a=1"), "签名错误"),
    "another body": (lambda r: replace(r, body=b"{}"), "签名错误"),
    "another nonce": (lambda r: with_authorization(r, lambda a: a.replace('nonce_str="', 'nonce_str="x')), "签名错误"),
    "another serial": (lambda r: with_authorization(r, lambda a: a.replace('serial_no="', 'serial_no="A')), "签名错误"),
    "another merchant": (lambda r: with_authorization(r, lambda a: a.replace('mchid="', 'mchid="9')), "签名错误"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_request_that_is_not_signed_as_it_came_gets_the_real_text_and_no_signature(folder, channel, forgery):
    forge, text = FORGERIES[forgery]
    async with simulator(folder, channel) as wire:
        answer = await wire.send(forge(query_at(channel)))
        assert (answer.status, json.loads(answer.body)["code"]) == (401, "SIGN_ERROR")
        assert json.loads(answer.body)["message"] == text
        assert not [name for name in answer.headers if name.startswith("wechatpay-")]


@pytest.mark.parametrize("age_s", [301, -301])
async def test_a_request_five_minutes_off_is_refused_before_its_signature_is_looked_at(folder, channel, age_s):
    async with simulator(folder, channel) as wire:
        answer = await wire.send(replace(query_at(channel, age_s), target="/v3/certificates"))
        assert json.loads(answer.body)["message"] == wechat.BAD_TIMESTAMP


async def test_pairs_may_come_in_any_order_and_the_serial_in_lower_case(folder, channel):
    def shuffled(authorization: str) -> str:
        scheme, _, pairs = authorization.partition(" ")
        serial = authorization.partition('serial_no="')[2].partition('"')[0]
        return f"{scheme} {','.join(reversed(pairs.split(',')))}".replace(serial, serial.lower())

    async with simulator(folder, channel) as wire:
        answer = await wire.send(with_authorization(query_at(channel), shuffled))
        assert (answer.status, json.loads(answer.body)["code"]) == (404, "ORDER_NOT_EXIST")


async def test_certificates_without_authorization_get_their_own_text_and_a_missing_agent_is_named_first(
    folder, channel
):
    async with simulator(folder, channel) as wire:
        headers = {"Accept": "application/json", "User-Agent": "x"}
        answer = await wire.send(Request("GET", "/v3/certificates", headers))
        assert json.loads(answer.body)["message"] == wechat.BAD_AUTHORIZATION
        answer = await wire.send(Request("GET", "/v3/certificates", {**headers, "User-Agent": ""}))
        assert (answer.status, json.loads(answer.body)["message"]) == (400, "Http头缺少Accept或User-Agent")


def resigned(channel: WeChatPay, method: str, target: str, body: object) -> Request:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return channel._signed(method, target, raw, stamp())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"extra": 1}, "PARAM_ERROR"),
        ({"amount": {"total": 1.5}}, "PARAM_ERROR"),
        ({"amount": {"total": True}}, "PARAM_ERROR"),
        ({"amount": {"total": 0}}, "PARAM_ERROR"),
        ({"amount": {"total": 1, "currency": "USD"}}, "PARAM_ERROR"),
        ({"amount": {"total": 1, "more": 1}}, "PARAM_ERROR"),
        ({"description": ""}, "PARAM_ERROR"),
        ({"description": "x" * 128}, "PARAM_ERROR"),
        ({"out_trade_no": "short"}, "PARAM_ERROR"),
        ({"notify_url": "https://e.com/?q=1"}, "PARAM_ERROR"),
        ({"time_expire": "tomorrow"}, "PARAM_ERROR"),
        ({"appid": "wxother"}, "APPID_MCHID_NOT_MATCH"),
        ({"mchid": "1900000001"}, "NO_AUTH"),
    ],
)
async def test_a_prepay_the_platform_does_not_take_makes_nothing(folder, channel, change, code):
    async with simulator(folder, channel) as wire:
        body = {**json.loads(next(channel.pay(prepay("TRADE0001", "http://e.com/n"), stamp())).body), **change}
        answer = await wire.send(resigned(channel, "POST", "/v3/pay/transactions/native", body))
        assert 400 <= answer.status < 500
        assert json.loads(answer.body)["code"] == code
        assert await wire.steer("/_sim/trades") == []


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/v3/nothing", 404),
        ("GET", "/v3/pay/transactions/native", 405),
        ("POST", "/v3/certificates", 405),
        ("GET", "/v3/pay/transactions/out-trade-no/TRADE0001/close", 405),
        ("POST", "/v3/pay/transactions/id/1/close", 404),
    ],
)
async def test_unknown_paths_and_methods_have_an_empty_body(folder, channel, method, target, status):
    async with simulator(folder, channel) as wire:
        answer = await wire.send(resigned(channel, method, target, b""))
        assert (answer.status, answer.body) == (status, b"")


async def test_a_body_that_is_too_large_or_no_json_is_refused(folder, channel):
    async with simulator(folder, channel) as wire:
        for body, status in ((b"x" * 70_000, 413), (b"{", 400), (b"[" * 60_000, 400)):
            answer = await wire.send(resigned(channel, "POST", "/v3/pay/transactions/native", body))
            assert answer.status == status


# --- keys


async def test_answers_are_signed_by_the_public_key_if_asked_for_and_by_a_certificate_otherwise(folder, keys):
    files = keys[1]["holdfast"]
    certificate = load_platform(keys[0]).certificates[0]
    for only, serial, number in ((False, files.public_key_id, "TRADE0001"), (True, certificate.serial, "TRADE0002")):
        channel = channel_of(files, certificates_only=only)
        async with simulator(folder, channel) as wire:
            answer = await wire.send(next(channel.pay(prepay(number, "http://e.com/n"), stamp())))
            assert answer.headers["wechatpay-serial"] == serial
            assert await wire.close(number) == ClosedAtChannel()


async def test_a_rotated_certificate_is_fetched_when_it_first_signs(folder, keys):
    channel = channel_of(keys[1]["holdfast"], certificates_only=True)
    async with simulator(folder, channel, faults=Faults(rotation=1.0)) as wire:
        answer = await wire.send(next(channel.refresh_keys(stamp())))
        assert len(json.loads(answer.body)["data"]) == 2
        assert isinstance(await wire.pay("TRADE0001"), Accepted)


async def test_notifications_mix_both_kinds_of_key_and_a_refresh_makes_the_new_ones_believed(folder, keys):
    channel = channel_of(keys[1]["holdfast"])
    faults = Faults(certificate_share=0.5, rotation=0.5)
    async with inbox(channel) as box, simulator(folder, channel, faults=faults, payers=AT_ONCE) as wire:
        for number in range(24):
            await wire.pay(f"TRADE{number:04d}", box.url)
        serials, paid = set(), set()
        while len(paid) < 24:
            received = await box.next()
            serials.add(received.headers["wechatpay-serial"])
            if received.reason == "unknown_key":
                assert await wire.run(channel.refresh_keys(stamp()))
            elif received.payment:
                paid.add(received.payment.out_trade_no)
        assert len(serials) == 3


def test_credentials_are_kept_private_and_made_only_once(keys):
    folder, merchants = keys
    again = make_credentials(folder, ["control", "holdfast"])
    assert again == merchants
    assert merchants["holdfast"].mchid != merchants["control"].mchid
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    assert set(modes.values()) == {0o600}
    with pytest.raises(ValueError, match="letters, digits"):
        make_credentials(folder, ["../x"])


def test_a_section_names_the_fields_of_the_configuration(keys):
    section = keys[1]["holdfast"].section()
    assert set(section) == {
        "mchid",
        "appid",
        "merchant_serial",
        "private_key_file",
        "api_v3_key_file",
        "public_key_id",
        "public_key_file",
        "platform_certificates",
    }


# --- the ledger


async def test_the_ledger_holds_what_was_paid_before_anybody_is_told(folder, channel):
    async with inbox(channel) as box, simulator(folder, channel, payers=AT_ONCE) as wire:
        await wire.pay("TRADE0001", box.url, subject="咖啡")
        told = (await box.next()).payment
        [paid] = [line for line in ledger(folder) if line["kind"] == "paid"]
        assert paid["transaction_id"] == told.channel_transaction
        assert (paid["amount"], paid["currency"], paid["description"]) == (100, "CNY", "咖啡")
        assert paid["success_at"] == told.success_at_s
        assert paid["mchid"] == channel.account.split("/")[0]


async def test_a_restart_gives_the_same_trades_and_goes_on_telling(folder, channel):
    async with inbox(channel) as box:
        box.failures_left = 1_000_000
        async with simulator(folder, channel) as wire:
            for number in ("TRADE0001", "TRADE0002", "TRADE0003"):
                await wire.pay(number, box.url)
            await wire.close("TRADE0002")
            mchid = channel.account.split("/")[0]
            before = await wire.steer("/_sim/pay", {"mchid": mchid, "out_trade_no": "TRADE0001"})
            await box.next()
        box.failures_left = 0
        while not box.empty():
            await box.next()
        async with simulator(folder, channel) as wire:
            told = await box.next()
            assert told.payment.channel_transaction == before["transaction_id"]
            assert await wire.query("TRADE0001") == Paid(told.payment)
            assert await wire.query("TRADE0002") == ClosedAtChannel()
            assert await wire.query("TRADE0003") == NotPaid()
            again = await wire.steer("/_sim/pay", {"mchid": mchid, "out_trade_no": "TRADE0003"})
            assert again["transaction_id"] > before["transaction_id"]


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


# --- as a process

Start: TypeAlias = Callable[..., Awaitable[tuple[asyncio.subprocess.Process, str]]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts simulators as processes; none outlives the test."""
    running: list[asyncio.subprocess.Process] = []

    async def start_one(folder: Path, *options: str) -> tuple[asyncio.subprocess.Process, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "channels.simulator", "--dir", str(folder), *options, stdout=asyncio.subprocess.PIPE
        )
        running.append(process)
        line = await asyncio.wait_for(process.stdout.readline(), WITHIN_S)
        return process, json.loads(line)["url"]

    yield start_one
    for process in running:
        if process.returncode is None:
            await ended(process, signal.SIGKILL)


async def ended(process: asyncio.subprocess.Process, number: signal.Signals) -> int:
    process.send_signal(number)
    await asyncio.wait_for(process.communicate(), WITHIN_S)
    return process.returncode


async def test_killed_and_started_again_the_process_has_lost_nothing_it_told(folder, channel, start):
    async with aiohttp.ClientSession() as session:
        process, url = await start(folder, "--pay-rate", "0")
        wire = Wire(session, url, channel)
        accepted = await asyncio.gather(*(wire.pay(f"TRADE{number:04d}") for number in range(50)))
        assert all(isinstance(each, Accepted) for each in accepted)
        assert await ended(process, signal.SIGKILL) == -signal.SIGKILL
        process, url = await start(folder, "--pay-rate", "0")
        wire = Wire(session, url, channel)
        for number in range(50):
            assert await wire.query(f"TRADE{number:04d}") == NotPaid()
        assert await ended(process, signal.SIGTERM) == 0


async def test_the_command_line_makes_keys_sets_faults_and_names_a_wrong_value(tmp_path, channel, start):
    process, url = await start(
        tmp_path / "new", "--merchant", "a", "b", "--error-rate", "0.1", "--drop", "0.3", "--delay-s", "3"
    )
    async with aiohttp.ClientSession() as session:
        faults = await Wire(session, url, channel).steer("/_faults")
    assert (faults["error_before"], faults["error_after"], faults["drop"], faults["delay_s"]) == (0.05, 0.05, 0.3, 3)
    assert await ended(process, signal.SIGINT) == 0
    wrong = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "channels.simulator", "--dir", str(tmp_path / "new"), "--drop", "1.5",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, message = await asyncio.wait_for(wrong.communicate(), WITHIN_S)
    assert wrong.returncode == 1
    assert "$.drop" in message.decode()
    assert os.listdir(tmp_path / "new" / "merchants")


def test_a_folder_without_keys_is_named(tmp_path):
    with pytest.raises((FileNotFoundError, KeyMaterialError), match=r"platform\.json"):
        load_platform(tmp_path)
