"""What does an open, idle order cost in memory? The gateway's resident size at two counts of orders, and the slope
between.
"""

import time

import msgspec

from bench.cost import resident_bytes
from bench.scenarios.gateway_under_test import GatewayUnderTest, serving_gateway
from bench.scenarios.setting import BenchError, Findings, Row, Setting, generate

BEFORE = 10_000
MORE = 50_000
LIMIT_S = 60.0
SETTLE_S = 3.0  # for batches, caches and buffers of the last requests to be let go of


def measure(setting: Setting) -> Findings:
    """Bytes an order."""
    with serving_gateway(setting.directory) as gateway:
        _create(setting, gateway, "before", BEFORE)
        before = resident_bytes(gateway.process.pid)
        _create(setting, gateway, "more", MORE)
        after = resident_bytes(gateway.process.pid)
    each = round((after - before) / MORE, 1)
    remark = f"resident {before / 2**20:,.0f} MiB at {BEFORE:,}, {after / 2**20:,.0f} MiB at {BEFORE + MORE:,}"
    return Findings(
        figures={"bytes_per_order": each}, rows=(Row("memory an open order", f"{each:,.0f} bytes", remark),)
    )


def _create(setting: Setting, gateway: GatewayUnderTest, run: str, orders: int) -> None:
    job = gateway.job("create", run, connections=setting.connections, seconds=LIMIT_S)
    made = generate(msgspec.structs.replace(job, orders=orders), setting.directory)
    if made.requests < orders:
        raise BenchError(f"only {made.requests:,} of {orders:,} orders in {LIMIT_S:.0f} s")
    time.sleep(SETTLE_S)
