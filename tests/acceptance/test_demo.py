"""The proof itself, small: real parts, three channels mixed, real kills, three ledgers, nothing lost."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from bench.demo.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
KEYS = ["seed", "orders", "paid_at_channel", "paid_here", "told", "kills", "excess", "given_back"]
KEYS += ["lost", "double", "phantom", "mismatch", "control_lost", "channels"]
CHANNELS = ["wechatpay", "alipay", "unionpay"]


def start_demo(*options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "bench.demo", "--json", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "sdk")])}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.fixture(scope="module")
def whole_demo() -> Iterator["subprocess.Popen[str]"]:
    """A demo that is left to run to its end. It takes its time, and the tests before its own use that time."""
    with start_demo("--seconds", "6", "--rate", "40", "--seed", "7") as demo:
        yield demo
        abort(demo)


def abort(demo: "subprocess.Popen[str]") -> None:
    """The second signal aborts; at the end it is all the same."""
    for _ in range(2):
        if demo.poll() is None:
            demo.terminate()
    demo.communicate(timeout=20)


def finish(demo: "subprocess.Popen[str]") -> tuple[dict[str, Any], str]:
    """The result and what was shown; ends the demo if it takes too long."""
    try:
        said, shown = demo.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        abort(demo)
        raise
    assert demo.returncode == 0, shown
    return json.loads(said.splitlines()[-1]), shown


@pytest.mark.usefixtures("whole_demo")
def test_ctrl_c_drains_and_audits_what_there_is_and_a_held_stage_takes_a_person_s_payments() -> None:
    demo = start_demo("--seconds", "600", "--rate", "20", "--seed", "11", "--hold")
    read_until(demo, "kill -9")  # it is in full swing
    demo.send_signal(signal.SIGINT)
    held = read_until(demo, "Bearer")
    pages = re.findall(r"http://\S+/cashier/\S+", held)
    assert pages, held
    for page in pages:
        urlopen(page, data=b"").close()  # noqa: S310 - the button of the demo's own cashier
    for page in pages:
        until_paid(held, order_id=page.rpartition("/")[2][:26])
    demo.send_signal(signal.SIGINT)
    result, shown = finish(demo)
    assert 0 < result["orders"] < 600 * 20
    assert (result["lost"], result["double"], result["phantom"], result["mismatch"]) == (0, 0, 0, 0)
    shutil.rmtree(shown.rpartition("logs are in ")[2].strip())  # whoever holds it wants to look at it afterwards


def read_until(demo: "subprocess.Popen[str]", words: str) -> str:
    """What it shows up to the line with these words."""
    assert demo.stderr is not None
    shown = []
    deadline = time.monotonic() + 100
    for line in demo.stderr:
        shown.append(line)
        if words in line or time.monotonic() > deadline:
            break
    assert words in "".join(shown[-1:]), "".join(shown)
    return "".join(shown)


def until_paid(held: str, order_id: str) -> None:
    """Ask the gateway that a held stage names, with the key it shows."""
    found = re.search(r"gateway\s+(http://\S+)\s+Authorization: (Bearer \S+)", held)
    assert found, held
    asked = Request(f"{found[1]}/v1/orders/{order_id}", headers={"Authorization": found[2]})  # noqa: S310
    deadline = time.monotonic() + 20
    while True:
        with urlopen(asked) as answer:  # noqa: S310
            order = json.loads(answer.read())
        if order["state"] == "paid":
            return
        assert time.monotonic() < deadline, order
        time.sleep(0.1)


def test_nothing_is_lost_under_faults_and_kills_while_the_control_arm_loses(
    whole_demo: "subprocess.Popen[str]",
) -> None:
    result, shown = finish(whole_demo)
    assert list(result) == KEYS
    assert (result["lost"], result["double"], result["phantom"], result["mismatch"]) == (0, 0, 0, 0)
    assert result["seed"] == 7
    assert result["kills"] >= 2
    assert result["orders"] == 240
    assert result["paid_at_channel"] == result["paid_here"] == result["told"] > 200
    assert result["control_lost"] > 30
    assert list(result["channels"]) == CHANNELS
    for name in ("paid_at_channel", "paid_here", "told", "lost", "control_lost"):
        assert sum(channel[name] for channel in result["channels"].values()) == result[name]
    for channel in result["channels"].values():
        assert channel["paid_at_channel"] > 40
        assert channel["dropped"] > 5
        assert channel["found_by_query"] >= channel["dropped"]
    assert "PASS" in shown
    assert "20x faster" in shown
    assert not list((ROOT / "var" / "demo").glob(f"7-{whole_demo.pid}"))  # it tidies up after a success


@pytest.mark.parametrize("wrong", [("--rate", "0"), ("--seconds", "x"), ("--sed", "1"), ("--seed", "-1")])
def test_a_mistake_in_the_options_is_a_usage_error(
    wrong: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["demo", *wrong])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err
