"""Does a new, empty database stay fast while it fills? Postgres may keep a plan it made when the tables were empty.

Two windows of creates and closes (an insert, then a compare-and-set update of the same row), one after the first
thousand orders and one after fifty thousand, in one life of one gateway; only creates in between, to get there
sooner.
"""

import msgspec

from bench.generator import Result
from bench.scenarios.gateway_under_test import Cost, GatewayUnderTest, serving_gateway
from bench.scenarios.setting import BenchError, Findings, Row, Setting, generate

BEFORE_FIRST = 1_000
WINDOW = 5_000
BEFORE_LAST = 50_000
REQUESTS_AN_ORDER = {"create": 1, "create_and_close": 2}
LIMIT_S = 40.0


class Window(msgspec.Struct, frozen=True):
    """So many orders created and closed."""

    orders_per_s: float
    cost: Cost


def measure(setting: Setting) -> Findings:
    """Both windows and their ratio."""
    with serving_gateway(setting.directory) as gateway:
        _window(setting, gateway, "start", BEFORE_FIRST)
        first = _window(setting, gateway, "first", WINDOW)
        _make(setting, gateway, "create", "fill", BEFORE_LAST - BEFORE_FIRST - WINDOW)
        last = _window(setting, gateway, "last", WINDOW)
    ratio = round(last.orders_per_s / first.orders_per_s, 3)
    return Findings(
        figures={"golive_ratio": ratio},
        rows=(
            Row(f"create + close after {BEFORE_FIRST:,}", f"{first.orders_per_s:,.0f} orders/s", str(first.cost)),
            Row(f"create + close after {BEFORE_LAST:,}", f"{last.orders_per_s:,.0f} orders/s", str(last.cost)),
            Row("last / first", f"{ratio:.2f}", "a bad cached plan shows as 0.1 or less"),
        ),
    )


def _window(setting: Setting, gateway: GatewayUnderTest, run: str, orders: int) -> Window:
    before = gateway.cost()
    result = _make(setting, gateway, "create_and_close", run, orders)
    return Window(orders_per_s=orders / result.seconds, cost=gateway.cost().since(before, orders))


def _make(setting: Setting, gateway: GatewayUnderTest, script: str, run: str, orders: int) -> Result:
    job = gateway.job(script, run, connections=setting.connections, seconds=LIMIT_S)
    result = generate(msgspec.structs.replace(job, orders=orders), setting.directory)
    if result.requests < orders * REQUESTS_AN_ORDER[script]:
        raise BenchError(
            f"{script}: only {result.requests:,} requests in {LIMIT_S:.0f} s, {orders:,} orders were to be made"
        )
    return result
