"""Chaos itself, short: two gateways while everything fails, three ledgers, every invariant, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.chaos.timeline import timeline

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[2]
KEYS = ["seed", "orders", "faults", "lost", "double", "violations", "recovery_s"]


def start_chaos(*options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "bench.chaos", "--json", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "sdk")])}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def left_behind(pid: int) -> list[str]:
    """Directories of that run, and processes that still work in them."""
    folders = [path.name for path in (ROOT / "var" / "chaos").glob(f"*-{pid}")]
    words = f"-{pid}/".encode()
    processes = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            read = command.read_bytes()
        except OSError:
            continue
        if b"/var/chaos/" in read and words in read:
            processes.append(command.parent.name)
    return folders + processes


def test_a_short_chaos_loses_nothing_doubles_nothing_and_violates_nothing() -> None:
    with start_chaos("--seconds", "15", "--rate", "12", "--seed", "5") as chaos:
        said, shown = chaos.communicate(timeout=240)
    assert chaos.returncode == 0, shown
    result: dict[str, Any] = json.loads(said.splitlines()[-1])
    assert list(result) == KEYS
    assert (result["seed"], result["lost"], result["double"], result["violations"]) == (5, 0, 0, 0), shown
    assert result["orders"] > 100
    assert sum(result["faults"].values()) == len(timeline(5, 15))
    assert result["recovery_s"] < 60
    assert left_behind(chaos.pid) == []


def test_an_interrupted_chaos_stops_all_that_it_started() -> None:
    with start_chaos("--seconds", "600", "--rate", "5", "--seed", "6") as chaos:
        assert chaos.stderr is not None
        for line in chaos.stderr:
            if "✗" in line:  # it is in full swing
                break
        assert left_behind(chaos.pid) != []
        chaos.send_signal(signal.SIGINT)
        chaos.communicate(timeout=60)
    assert chaos.returncode == 130
    assert left_behind(chaos.pid) == []
