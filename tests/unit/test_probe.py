"""Crash points: free when unarmed, deadly at exactly the pass they were armed for."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gateway import probe

PASS_THRICE = """
import os
from gateway import probe
probe.arm(os.environ, production=False)
for number in range(1, 4):
    print(number, flush=True)
    probe.probe("after_commit")
    probe.probe("before_reply")
"""


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    probe.arm({}, production=False)


def run(crash_at: str) -> tuple[int, list[str]]:
    environ = {"HOLDFAST_CRASH_AT": crash_at, "PYTHONPATH": "."}
    done = subprocess.run([sys.executable, "-c", PASS_THRICE], env=environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize(
    ("crash_at", "printed"),
    [
        ("after_commit", ["1"]),
        ("after_commit:3", ["1", "2", "3"]),
        ("before_commit,before_reply:2", ["1", "2"]),
    ],
)
def test_an_armed_probe_kills_the_process_at_its_nth_pass(crash_at: str, printed: list[str]) -> None:
    assert run(crash_at) == (-signal.SIGKILL, printed)


def test_a_probe_that_is_not_reached_often_enough_does_nothing() -> None:
    assert run("after_commit:4") == (0, ["1", "2", "3"])


def test_unarmed_probes_do_nothing() -> None:
    probe.arm({}, production=True)
    probe.probe("after_commit")


def test_production_refuses_crash_points() -> None:
    with pytest.raises(probe.ProbeError, match='refused when env = "prod"'):
        probe.arm({"HOLDFAST_CRASH_AT": "after_commit"}, production=True)


@pytest.mark.parametrize("spec", ["nowhere", "after_commit:0", "after_commit:-1", "after_commit:x", "after_commit,,"])
def test_a_mistake_in_the_variable_is_named(spec: str) -> None:
    with pytest.raises(probe.ProbeError, match="HOLDFAST_CRASH_AT: "):
        probe.arm({"HOLDFAST_CRASH_AT": spec}, production=False)


def test_when_armed_a_name_missing_from_the_table_is_an_error() -> None:
    probe.arm({"HOLDFAST_CRASH_AT": "after_commit:9"}, production=False)
    with pytest.raises(probe.ProbeError, match="'nowhere' is not in the table"):
        probe.probe("nowhere")
