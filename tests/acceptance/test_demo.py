"""The proof itself, small: real parts, real kills, three ledgers, nothing lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEYS = ["seed", "orders", "paid_at_channel", "paid_here", "told", "kills"]
KEYS += ["lost", "double", "phantom", "mismatch", "control_lost"]


def start_demo(*options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "bench.demo", "--json", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "sdk")])}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(demo: "subprocess.Popen[str]") -> tuple[dict[str, int], str]:
    """The result and what was shown; ends the demo if it takes too long."""
    try:
        said, shown = demo.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        demo.terminate()
        demo.terminate()
        demo.communicate(timeout=20)
        raise
    assert demo.returncode == 0, shown
    return json.loads(said.splitlines()[-1]), shown


def test_nothing_is_lost_under_faults_and_kills_while_the_control_arm_loses() -> None:
    demo = start_demo("--seconds", "6", "--rate", "40", "--seed", "7")
    result, shown = finish(demo)
    assert list(result) == KEYS
    assert (result["lost"], result["double"], result["phantom"], result["mismatch"]) == (0, 0, 0, 0)
    assert result["seed"] == 7
    assert result["kills"] >= 2
    assert result["orders"] == 240
    assert result["paid_at_channel"] == result["paid_here"] == result["told"] > 200
    assert result["control_lost"] > 30
    assert "PASS" in shown
    assert "20x faster" in shown
    assert not list((ROOT / "var" / "demo").glob(f"7-{demo.pid}"))  # it tidies up after a success


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


@pytest.mark.parametrize("wrong", [("--rate", "0"), ("--seconds", "x"), ("--sed", "1"), ("--seed", "-1")])
def test_a_mistake_in_the_options_is_a_usage_error(wrong: tuple[str, ...]) -> None:
    demo = start_demo(*wrong)
    _, complaint = demo.communicate(timeout=30)
    assert demo.returncode == 2
    assert "usage" in complaint
