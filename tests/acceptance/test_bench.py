"""`./run bench` on the real parts, made short: what it prints has the promised shape, and it leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 100


def _bench(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _leftovers(pid: int) -> list[str]:
    """What still runs with a directory of that bench on its command line."""
    marks = [f"{name}-{pid}".encode() for name in ("create", "payment")]
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if any(mark in line for mark in marks):
            found.append(line.replace(b"\0", b" ").decode())
    return found


def test_the_json_line_has_the_promised_figures_and_nothing_stays_behind() -> None:
    bench = _bench("create", "payment", "--seconds", "0.2", "--connections", "8", "--json")
    out, err = bench.communicate(timeout=LIMIT_S)
    assert bench.returncode == 0, err
    figures = json.loads(out.strip().splitlines()[-1])
    assert set(figures) == {"echo_rps", "create_rps", "create_ratio", "payments_per_s", "p50_ms", "p99_ms"}
    assert all(value > 0 for value in figures.values())
    assert figures["p50_ms"] <= figures["p99_ms"]
    assert "durable create" in err
    assert _leftovers(bench.pid) == []
    assert not list((ROOT / "var" / "bench").glob(f"*-{bench.pid}"))


def test_an_interrupted_bench_ends_its_gateway_and_its_databases() -> None:
    benches = {sign: _bench("create", "--seconds", "30") for sign in (signal.SIGINT, signal.SIGTERM)}
    for sign, bench in benches.items():
        _until_its_gateway_serves(bench)
        assert _leftovers(bench.pid) != []
        os.kill(bench.pid, sign)
    for sign, bench in benches.items():
        bench.communicate(timeout=40)
        assert (sign, bench.returncode) == (sign, 130)
        assert _leftovers(bench.pid) == []
        assert not _directory(bench).exists()


def _directory(bench: subprocess.Popen[str]) -> Path:
    return ROOT / "var" / "bench" / f"create-{bench.pid}"


def _until_its_gateway_serves(bench: subprocess.Popen[str]) -> None:
    serving = _directory(bench) / "gateway.out"
    deadline = time.monotonic() + 30
    while not (serving.exists() and b"serving" in serving.read_bytes()):
        assert time.monotonic() < deadline
        assert bench.poll() is None, bench.communicate()
        time.sleep(0.02)


def test_an_unknown_scenario_is_a_usage_error_that_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["nonsense"])
    assert ended.value.code == 2
    complaint = capsys.readouterr().err
    assert "nonsense" in complaint
    assert "golive" in complaint
