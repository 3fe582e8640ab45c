"""The proof itself, small: real parts, three channels mixed, real kills, three ledgers, nothing lost."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.demo.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
KEYS = ["seed", "orders", "paid_at_channel", "paid_here", "told", "kills"]
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
def test_ctrl_c_drains_and_audits_what_there_is() -> None:
    demo = start_demo("--seconds", "600", "--rate", "20", "--seed", "11")
    assert demo.stderr is not None
    shown = []
    deadline = time.monotonic() + 60
    for line in demo.stderr:  # the first kill proves that it is in full swing
        shown.append(line)
        if "kill -9" in line or time.monotonic() > deadline:
            break
    demo.send_signal(signal.SIGINT)
    result, _ = finish(demo)
    assert "kill -9" in shown[-1], "".join(shown)
    assert 0 < result["orders"] < 600 * 20
    assert (result["lost"], result["double"], result["phantom"], result["mismatch"]) == (0, 0, 0, 0)


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
