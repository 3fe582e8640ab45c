"""`./run fuzz` on the real parts, made short: it passes, it leaves nothing behind, and it can fail."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.fuzz.__main__ import main
from bench.fuzz.kinds import KINDS
from bench.fuzz.run import wrong_in
from bench.fuzz.stage import Books, Order, Payment

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 100
COUNT = 1_500


def start(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "bench.fuzz", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "sdk")])}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def leftovers(directory: Path) -> list[str]:
    """What still runs with that directory on its command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if str(directory).encode() in line:
            found.append(line.replace(b"\0", b" ").decode())
    return found


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    fuzz = start("--count", str(COUNT), "--seed", "11", "--json")
    out, err = fuzz.communicate(timeout=LIMIT_S)
    assert fuzz.returncode == 0, err
    directory = ROOT / "var" / "fuzz" / f"11-{fuzz.pid}"
    assert not directory.exists()
    assert leftovers(directory) == []
    told: dict[str, Any] = json.loads(out.splitlines()[-1])
    return told


def test_no_mutant_of_any_channel_is_believed_and_the_genuine_ones_are(report: dict[str, Any]) -> None:
    assert report["passed"]
    assert [each["channel"] for each in report["channels"]] == list(KINDS)
    for each in report["channels"]:
        assert each["findings"] == []
        assert each["mutants"] == COUNT
        assert each["sent"] == COUNT - each["neutral"] == sum(each["statuses"].values())
        assert each["credited"] == each["orders"] > 0
        assert not [status for status in each["statuses"] if int(status) >= 500]


def test_mutants_reach_every_check_of_a_channel(report: dict[str, Any]) -> None:
    for each in report["channels"]:
        assert {"bad_signature", "malformed", "unreadable"} <= each["verdicts"].keys(), each["channel"]
        assert each["verdicts"]["bad_signature"] > COUNT / 3
        assert each["handling"]["max_us"] < 5_000


def test_an_interrupted_run_ends_all_that_it_started() -> None:
    fuzz = start("--count", "1000000", "--seed", "12")
    directory = ROOT / "var" / "fuzz" / f"12-{fuzz.pid}"
    deadline = time.monotonic() + 40
    while not any("gateway" in line for line in leftovers(directory)):
        assert time.monotonic() < deadline
        assert fuzz.poll() is None, fuzz.communicate()
        time.sleep(0.05)
    fuzz.send_signal(signal.SIGINT)
    fuzz.communicate(timeout=40)
    assert fuzz.returncode == 130
    assert leftovers(directory) == []
    assert not directory.exists()


def test_an_unknown_channel_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--channel", "paypal"])
    assert ended.value.code == 2
    assert "paypal" in capsys.readouterr().err


def books(state: str = "paying", *payments: Payment) -> Books:
    orders = [Order("A", state, 100, 0), Order("S", "exception", 200, 0)]
    return Books({order.order_id: order for order in orders}, list(payments))


def complaints(held: Books) -> list[str]:
    return list(wrong_in(held, {"A"}, {"S"}, "ours"))


def test_the_books_are_read_for_what_a_mutant_should_not_have_brought_about() -> None:
    assert complaints(books()) == []
    assert complaints(books("paid"))
    assert complaints(books("exception"))
    assert complaints(books("paying", Payment("A", "ours", "held", 100, "CNY")))


def test_a_sacrificed_order_may_hold_what_was_said_and_be_credited_with_what_was_ordered() -> None:
    assert complaints(books("paying", Payment("S", "theirs", "held", 1, "USD"))) == []
    assert complaints(books("paying", Payment("S", "ours", "credit", 200, "CNY"))) == []
    for account, amount, currency in (("theirs", 200, "CNY"), ("ours", 199, "CNY"), ("ours", 200, "USD")):
        assert complaints(books("paying", Payment("S", account, "credit", amount, currency)))
