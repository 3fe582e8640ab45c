"""`./run bench channels` on the real parts, made short: what it prints has the promised shape."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 100


def test_every_channel_is_measured_and_the_loop_is_not_held_up_for_long() -> None:
    command = [sys.executable, "-m", "bench", "channels", "--seconds", "0.5", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    for name in ("wechatpay", "alipay", "unionpay"):
        assert 100 < figures[f"{name}_prepay_us"] < 20_000
        assert 0 < figures[f"{name}_prepay_own"] < 0.3  # the limit is 0.15, on a machine that does nothing else
        assert 0 < figures[f"{name}_notification_own"] < 0.8
        assert figures[f"{name}_notification_us"] < figures[f"{name}_prepay_us"]
    assert figures["sign_per_s"] < figures["verify_per_s"]
    assert 0 < figures["loop_lag_p99_ms"] <= figures["loop_lag_max_ms"]
    assert "50 at once" in done.stderr
