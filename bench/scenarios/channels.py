"""RSA is the physical limit: what signing and verifying cost on one core, and what the channels' adapters add to it."""

import uvloop

from bench.accounts import make_accounts, possible
from bench.adapter_cost import Cost, Costs, openssl_speed
from bench.adapter_cost import measure as measure_costs
from bench.children import child
from bench.loop_lag import Lag, lag_of_prepays
from bench.scenarios.setting import Findings, Row, Setting

MERCHANT = "bench"
OPENSSL_S = 1
PREPAY_OWN_MAX = 0.15  # of a prepay
NOTIFICATION_OWN_MAX = 0.60  # of a verified notification
LAG_MAX_MS = 5.0
RATE = 500.0  # prepays a second
BATCH = 50  # of one group commit


def measure(setting: Setting) -> Findings:
    """RSA, the adapters, and the loop under signatures."""
    folder = setting.directory / "keys"
    channels = make_accounts(folder, [MERCHANT], possible())[MERCHANT].channels
    openssl = openssl_speed(OPENSSL_S)
    costs = measure_costs(channels, folder, setting.seconds / 4)
    with child("prepay-stub", "bench.prepay_stub", str(setting.directory), directory=setting.directory) as stub:
        url = "http://{}:{}".format(*stub.address())
        lags = {
            batch: uvloop.run(
                lag_of_prepays(channels["wechatpay"], url, rate=RATE, batch=batch, seconds=setting.seconds)
            )
            for batch in (1, BATCH)
        }
    return Findings(figures=_figures(openssl, costs, lags), rows=_rows(openssl, costs, lags))


def _figures(openssl: tuple[float, float] | str, costs: Costs, lags: dict[int, Lag]) -> dict[str, float]:
    figures = {
        "sign_per_s": round(1e6 / costs.sign.whole_us, 1),
        "verify_per_s": round(1e6 / costs.verify.whole_us, 1),
    }
    if not isinstance(openssl, str):
        figures |= {"openssl_sign_per_s": openssl[0], "openssl_verify_per_s": openssl[1]}
    for name in costs.prepay:
        for what, cost in (("prepay", costs.prepay[name]), ("notification", costs.notification[name])):
            figures |= {f"{name}_{what}_us": round(cost.whole_us, 1), f"{name}_{what}_own": round(cost.own, 3)}
    return figures | {"loop_lag_p99_ms": lags[BATCH].p99_ms, "loop_lag_max_ms": lags[BATCH].max_ms}


def _rows(openssl: tuple[float, float] | str, costs: Costs, lags: dict[int, Lag]) -> tuple[Row, ...]:
    signs_per_s, verifies_per_s = 1e6 / costs.sign.whole_us, 1e6 / costs.verify.whole_us
    return (
        _openssl_row(openssl),
        Row(
            "RSA-2048 by ours",
            f"{signs_per_s:,.0f} signs/s, {verifies_per_s:,.0f} verifies/s",
            f"RSA alone: {costs.sign.rsa_us:.0f} µs and {costs.verify.rsa_us:.1f} µs of CPU",
        ),
        *(_cost_row(f"{name} prepay", cost, PREPAY_OWN_MAX) for name, cost in costs.prepay.items()),
        *(_cost_row(f"{name} notification", cost, NOTIFICATION_OWN_MAX) for name, cost in costs.notification.items()),
        *(_lag_row(batch, lag) for batch, lag in lags.items()),
    )


def _openssl_row(openssl: tuple[float, float] | str) -> Row:
    if isinstance(openssl, str):
        return Row("RSA-2048 by openssl", "skipped", openssl)
    sign_per_s, verify_per_s = openssl
    return Row("RSA-2048 by openssl", f"{sign_per_s:,.0f} signs/s, {verify_per_s:,.0f} verifies/s", "openssl speed")


def _cost_row(what: str, cost: Cost, most: float) -> Row:
    verdict = f"limit {most:.0%}" if cost.own <= most else f"ABOVE the limit of {most:.0%}"
    return Row(what, f"{cost.whole_us:,.0f} µs of CPU", f"own: {cost.own_us:.0f} µs = {cost.own:.1%} ({verdict})")


def _lag_row(batch: int, lag: Lag) -> Row:
    how = "one by one" if batch == 1 else f"{batch} at once"
    own = f"the loop's own work between two ticks: at most {lag.own_max_ms:.1f} ms"
    verdict = "" if lag.own_max_ms <= LAG_MAX_MS else f", ABOVE {LAG_MAX_MS:.0f} ms"
    return Row(
        f"loop lag, {RATE:.0f} prepays/s {how}", f"p99 {lag.p99_ms:.1f} ms, max {lag.max_ms:.1f} ms", own + verdict
    )
