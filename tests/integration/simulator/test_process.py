"""The simulator as its users run it: a process that is killed, told what to do, and asked what there is."""

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import aiohttp
import pytest

from channels.contract import Accepted, NotPaid
from channels.simulator.credentials import make_credentials
from channels.simulator.platforms import load_platforms
from gateway.config import load
from gateway.installation import load_channels
from tests.integration.simulator.wire import WITHIN_S, Wire

Start: TypeAlias = Callable[..., Awaitable[tuple[asyncio.subprocess.Process, str]]]


async def run(*arguments: object) -> asyncio.subprocess.Process:
    words = [str(each) for each in arguments]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "channels.simulator", *words, stdout=pipe, stderr=pipe
    )


async def said(*arguments: object) -> tuple[int, str, str]:
    """How a command ended, and what it printed."""
    process = await run(*arguments)
    out, errors = await asyncio.wait_for(process.communicate(), WITHIN_S)
    return process.returncode, out.decode(), errors.decode()


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts simulators as processes; none outlives the test."""
    running: list[asyncio.subprocess.Process] = []

    async def start_one(folder: Path, *options: str) -> tuple[asyncio.subprocess.Process, str]:
        process = await run("serve", "--dir", folder, "--port", 0, "--channels", "wechatpay", *options)
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


async def test_it_makes_keys_and_is_steered_from_another_terminal(folder, channel, start):
    options = ("--pay-rate", "0", "--error-rate", "0.1", "--fault", "drop=0.3", "wechatpay.delay_s=3")
    process, url = await start(folder, *options, "--merchant", "another")
    assert (folder / "merchants" / "another.wechatpay.json").exists()
    _, shown, _ = await said("faults", "--url", url)
    faults = json.loads(shown)["wechatpay"]
    assert [faults[name] for name in ("error_before", "error_after", "drop", "delay_s")] == [0.05, 0.05, 0.3, 3]
    _, shown, _ = await said("faults", "--url", url, "wechatpay", "drop=0", "error_before=0", "error_after=0")
    assert json.loads(shown)["wechatpay"]["drop"] == 0
    async with aiohttp.ClientSession() as session:
        assert isinstance(await Wire(session, url, channel).pay("TRADE0001"), Accepted)
    _, shown, _ = await said("trades", "--url", url)
    assert [trade["state"] for trade in json.loads(shown)] == ["waiting"]
    _, shown, _ = await said("pay", "TRADE0001", "--url", url)
    assert json.loads(shown)["state"] == "paid"
    assert await ended(process, signal.SIGINT) == 0


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("serve", "--fault", "drop=1.5"), "$.drop"),
        (("serve", "--fault", "drop"), "expected NAME=SHARE"),
        (("serve", "--fault", "nonsense=1"), "no fault `nonsense`"),
        (("serve", "--fault", "paypal.drop=1"), "no platform `paypal`"),
        (("credentials", "--merchant", "../x"), "letters, digits, - and _ only"),
    ],
)
async def test_a_wrong_word_is_named(folder, arguments, what):
    code, _, errors = await said(*arguments, "--dir", folder, "--channels", "wechatpay")
    assert code == 1
    assert what in errors


async def test_nobody_at_the_address_is_said_with_what_to_do():
    code, _, errors = await said("trades", "--url", "http://127.0.0.1:9")
    assert code == 1
    assert "./run sim serve" in errors


# --- key material


def test_credentials_are_kept_private_and_made_only_once(keys):
    folder, merchants = keys
    again = make_credentials(folder, ["control", "holdfast"], ["wechatpay"])
    assert {name: files["wechatpay"] for name, files in again.items()} == merchants
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


def test_a_folder_without_keys_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no platform's keys"):
        load_platforms(tmp_path, 1)


async def test_it_writes_a_configuration_with_which_a_gateway_can_pay(tmp_path):
    process = await run("serve", "--dir", tmp_path, "--port", 0, "--merchant", "shop")
    try:
        url = json.loads(await asyncio.wait_for(process.stdout.readline(), WITHIN_S))["url"]
        said_next = await asyncio.wait_for(process.stderr.readline(), WITHIN_S)
        assert said_next.decode() == f"shop: ./run serve --config {tmp_path / 'shop.toml'}\n"
        config = load(tmp_path / "shop.toml", {})
        assert set(config.channels.installed()) == {"wechatpay", "alipay", "unionpay"}
        assert set(load_channels(config.channels, int(time.time()))) == {"wechatpay", "alipay", "unionpay"}
        assert {section.base_url for section in config.channels.installed().values()} == {url}
        assert (tmp_path / "shop.toml").stat().st_mode & 0o777 == 0o600
    finally:
        await ended(process, signal.SIGTERM)
