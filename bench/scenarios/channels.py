"""RSA is the physical limit: what signing and verifying cost on one core, and what the channels' adapters add to it."""

import uvloop

from bench.accounts import make_accounts, possible
from bench.adapter_cost import Costs, openssl_speed
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
    figures = {"sign_per_s": round(1e6 / costs.sign_us, 1), "verify_per_s": round(1e6 / costs.verify_us, 1)}
    if not isinstance(openssl, str):
        figures |= {"openssl_sign_per_s": openssl[0], "openssl_verify_per_s": openssl[1]}
    for name in costs.prepay_us:
        figures |= {
            f"{name}_prepay_us": round(costs.prepay_us[name], 1),
            f"{name}_prepay_own": round(costs.own_prepay(name)[1], 3),
            f"{name}_notification_us": round(costs.notification_us[name], 1),
            f"{name}_notification_own": round(costs.own_notification(name)[1], 3),
        }
    return figures | {"loop_lag_p99_ms": lags[BATCH].p99_ms, "loop_lag_max_ms": lags[BATCH].max_ms}


def _rows(openssl: tuple[float, float] | str, costs: Costs, lags: dict[int, Lag]) -> tuple[Row, ...]:
    return (
        _openssl_row(openssl),
        Row(
            "RSA-2048 by ours",
            f"{1e6 / costs.sign_us:,.0f} signs/s, {1e6 / costs.verify_us:,.0f} verifies/s",
            f"bare: {costs.rsa_sign_us:.0f} µs and {costs.rsa_verify_us:.1f} µs of CPU",
        ),
        *(
            _share_row(f"{name} prepay", us, costs.own_prepay(name), PREPAY_OWN_MAX)
            for name, us in costs.prepay_us.items()
        ),
        *(
            _share_row(f"{name} notification", us, costs.own_notification(name), NOTIFICATION_OWN_MAX)
            for name, us in costs.notification_us.items()
        ),
        *(_lag_row(batch, lag) for batch, lag in lags.items()),
    )


def _openssl_row(openssl: tuple[float, float] | str) -> Row:
    if isinstance(openssl, str):
        return Row("RSA-2048 by openssl", "skipped", openssl)
    sign_per_s, verify_per_s = openssl
    return Row("RSA-2048 by openssl", f"{sign_per_s:,.0f} signs/s, {verify_per_s:,.0f} verifies/s", "openssl speed")


def _share_row(what: str, us: float, own: tuple[float, float], most: float) -> Row:
    own_us, share = own
    verdict = f"limit {most:.0%}" if share <= most else f"ABOVE the limit of {most:.0%}"
    return Row(what, f"{us:,.0f} µs of CPU", f"own: {own_us:.0f} µs = {share:.0%} ({verdict})")


def _lag_row(batch: int, lag: Lag) -> Row:
    how = "one by one" if batch == 1 else f"{batch} at once"
    own = f"the loop's own work between two ticks: at most {lag.own_max_ms:.1f} ms"
    verdict = "" if lag.own_max_ms <= LAG_MAX_MS else f", ABOVE {LAG_MAX_MS:.0f} ms"
    return Row(
        f"loop lag, {RATE:.0f} prepays/s {how}", f"p99 {lag.p99_ms:.1f} ms, max {lag.max_ms:.1f} ms", own + verdict
    )
