"""`./run conformance` itself, without the peers: its drivers end with it, its checks count, its pins are pins."""

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.conformance.peers import driver as driver_module
from tests.conformance.peers import environments
from tests.conformance.peers.__main__ import Tally, ready
from tests.conformance.peers.cast import CAST, DRIVERS, PLAYS
from tests.conformance.peers.driver import Driver, Raised, Silent
from tests.conformance.peers.play import Check, Play, acknowledges, same
from tests.conformance.peers.stage import Mailbox

PEERS = Path(environments.HERE)
SAYS = """
import os, sys, time
from dialogue import account, obey
def refuse(): raise ValueError("no such trade")
def end(): print("the last word"); os._exit(3)
obey(account=lambda: account, pid=os.getpid, double=lambda number: 2 * number, refuse=refuse, end=end,
     hang=lambda: time.sleep(600), babble=lambda: os.write(1, b"not JSON\\n"), tz=lambda: time.strftime("%z"))
"""


@asynccontextmanager
async def driven(tmp_path: Path) -> AsyncIterator[Driver]:
    script = tmp_path / "drive.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(DRIVERS)!r})\n{SAYS}")
    async with Driver([sys.executable, "-E", "-s", str(script)], {"mchid": "1900000001"}, tmp_path / "log") as driver:
        yield driver


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_driver_knows_its_account_and_does_what_it_is_told_in_beijings_time(tmp_path: Path) -> None:
    async with driven(tmp_path) as driver:
        assert await driver.do("account") == {"mchid": "1900000001"}
        assert await driver.do("double", number=21) == 42
        assert await driver.do("tz") == "+0800"
        assert "double" in await driver.do("verbs")


async def test_what_a_client_throws_is_raised_and_the_driver_goes_on(tmp_path: Path) -> None:
    async with driven(tmp_path) as driver:
        with pytest.raises(Raised, match="ValueError: no such trade"):
            await driver.do("refuse")
        assert await driver.do("double", number=1) == 2


@pytest.mark.parametrize(("verb", "why"), [("end", "the last word"), ("babble", "JSON"), ("hang", "Timeout")])
async def test_a_driver_that_ends_babbles_or_hangs_is_silent_from_then_on(
    tmp_path: Path, verb: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with driven(tmp_path) as driver:
        pid = await driver.do("pid")
        if verb == "hang":
            monkeypatch.setattr(driver_module, "ANSWER_WITHIN_S", 0.2)
        with pytest.raises(Silent, match=why):
            await driver.do(verb)
        with pytest.raises(Silent):
            await driver.do("double", number=1)
    assert not alive(pid)


async def test_a_driver_ends_with_the_block_also_when_that_is_cancelled(tmp_path: Path) -> None:
    pids: asyncio.Queue[int] = asyncio.Queue()

    async def perform() -> None:
        async with driven(tmp_path) as driver:
            pids.put_nowait(await driver.do("pid"))
            await driver.do("hang")

    playing = asyncio.create_task(perform())
    pid = await asyncio.wait_for(pids.get(), 20)
    assert alive(pid)
    playing.cancel()
    await asyncio.wait({playing}, timeout=20)
    assert not alive(pid)


async def test_a_check_that_fails_says_where_and_what_and_the_play_goes_on(tmp_path: Path) -> None:
    async with driven(tmp_path) as driver:
        play = Play(None, "wechatpay", "", driver)  # type: ignore[arg-type]
        async with play.check("two is two"):
            same(await driver.do("double", number=1), 2)
        async with play.check("two is three"):
            same(await driver.do("double", number=1), 3, "beside it")
        async with play.check("the client throws nothing"):
            await driver.do("refuse")
        with pytest.raises(Silent):
            async with play.check("the driver speaks"):
                await driver.do("end")
    assert [check.ok for check in play.checks] == [True, False, False]
    assert "2 instead of 3, with 'beside it'" in play.checks[1].detail
    assert "no such trade" in play.checks[2].detail


def test_the_last_line_counts_checks_and_names_the_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CI", raising=False)  # there, what can not play has failed
    tally = Tally()
    assert tally.last_line() == "0 passed, 0 failed"
    tally.report(CAST[0], [Check("holds", ok=True), Check("does not", ok=False, detail="2 instead of 3")])
    tally.skip(CAST[-1], "node and npm are not installed")
    assert tally.last_line() == "1 passed, 1 failed, 1 skipped"
    assert "FAIL  does not\n        2 instead of 3" in capsys.readouterr().out


def test_a_peer_without_node_is_skipped_on_a_laptop_and_a_failure_in_ci(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    from_npm = [peer for peer in CAST if peer.driver.endswith(".js")]
    for ci, last_line in (
        ("", f"0 passed, 0 failed, {len(from_npm)} skipped"),
        ("true", f"0 passed, {len(from_npm)} failed"),
    ):
        monkeypatch.setenv("CI", ci)
        tally = Tally()
        assert ready(from_npm, tally) == []
        assert tally.last_line() == last_line
    assert "node and npm are not installed" in capsys.readouterr().out


def test_an_old_node_will_not_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, says in (("node", "v18.20.4"), ("npm", "9.2.0")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {says}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(environments.Unavailable, match=r"node v18\.20\.4 is older than 20\.18"):
        environments.node()


def test_every_peer_has_a_driver_and_a_play() -> None:
    assert {peer.driver for peer in CAST} == {path.name for path in DRIVERS.glob("drive_*")}
    assert {peer.platform for peer in CAST} == PLAYS.keys()


@pytest.mark.parametrize("file", sorted(PEERS.glob("requirements-*.txt")), ids=lambda file: file.stem)
def test_a_python_pin_is_exact_and_hashed_and_names_no_index(file: Path) -> None:
    pins = file.read_text().replace("\\\n", " ").splitlines()
    assert pins
    for pin in pins:
        assert re.match(r"[a-z0-9-]+==[0-9a-z.]+( ;.*?)? +--hash=sha256:[0-9a-f]{64}", pin), pin
    assert "://" not in file.read_text()


def test_every_requirement_file_is_used() -> None:
    used = {name for files in environments.PYTHON.values() for name in files}
    assert used == {path.name for path in PEERS.glob("requirements-*.txt")}


def test_an_npm_pin_is_exact_and_hashed_and_names_no_index() -> None:
    package = json.loads((PEERS / "npm" / "package.json").read_text())
    lock = json.loads((PEERS / "npm" / "package-lock.json").read_text())
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in package["dependencies"].values())
    installed = {name: about for name, about in lock["packages"].items() if name}
    assert all(about["integrity"].startswith("sha512-") for about in installed.values())
    assert not any("resolved" in about for about in installed.values())


def test_only_a_platforms_own_words_acknowledge() -> None:
    assert acknowledges("alipay", 200, "success")
    assert not acknowledges("alipay", 200, "success\n")
    assert not acknowledges("alipay", 200, "fail")
    assert acknowledges("wechatpay", 204, "")
    assert not acknowledges("wechatpay", 400, '{"code":"SUCCESS"}')
    assert acknowledges("unionpay", 302, "")
    assert not acknowledges("unionpay", 400, "ok")


async def test_a_letter_that_came_before_it_was_asked_for_is_kept() -> None:
    started = time.monotonic()
    async with Mailbox() as mailbox:
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{mailbox.url}/alipay/abc", data=b"a=1", headers={"X-It": "is"}) as answer:
                assert await answer.text() == "success"
            async with session.post(f"{mailbox.url}/wechatpay/abc", data=b"{}") as answer:
                assert (answer.status, await answer.text()) == (204, "")
        letter = await mailbox.letter("/alipay/abc")
    assert (letter.body, letter.headers["X-It"]) == ("a=1", "is")
    assert time.monotonic() - started < 10
