"""How close is a durable create to an echo that keeps nothing? Rounds of both in turn; the ratio is formed inside a
round.
"""

from statistics import median

import msgspec

from bench.children import child
from bench.cost import cpu_s
from bench.generator import Job, Result
from bench.scenarios.gateway_under_test import Cost, GatewayUnderTest, serving_gateway
from bench.scenarios.setting import Findings, Row, Setting, generate

ROUNDS = 3
WARMUP_S = 0.5
FIRST_WARMUP_S = 2.0  # the first requests find cold code and an empty database
OPEN_LOOP_LOAD = 0.5  # of the closed loop's rate: where a sensible operator would run


class Round(msgspec.Struct, frozen=True):
    """An echo and a create, one after the other."""

    echo: Result
    echo_us: float
    create: Result
    cost: Cost

    @property
    def ratio(self) -> float:
        """Creates for an echo."""
        return self.create.rps / self.echo.rps


def measure(setting: Setting) -> Findings:
    """Echo, create, echo, create, ...; then creates at half that rate, for latency."""
    with (
        child("echo", "bench.echo", directory=setting.directory) as echo,
        serving_gateway(setting.directory) as gateway,
    ):
        generate(
            gateway.job("create", "warm", connections=setting.connections, seconds=FIRST_WARMUP_S), setting.directory
        )
        host, port = echo.address()
        echo_job = Job(host=host, port=port, script="echo", connections=setting.connections, seconds=setting.seconds)
        rounds = [_round(setting, gateway, echo_job, echo.pid, number) for number in range(ROUNDS)]
        rate = median(each.create.rps for each in rounds) * OPEN_LOOP_LOAD
        job = gateway.job("create", "open", connections=4 * setting.connections, seconds=setting.seconds)
        paced = generate(msgspec.structs.replace(job, rate=rate, warmup_s=WARMUP_S), setting.directory)
    return _findings(rounds, paced)


def _round(setting: Setting, gateway: GatewayUnderTest, echo_job: Job, echo_pid: int, number: int) -> Round:
    before_s = cpu_s(echo_pid)
    echo = generate(echo_job, setting.directory)
    echo_us = (cpu_s(echo_pid) - before_s) / echo.requests * 1e6
    before = gateway.cost()
    job = gateway.job("create", f"r{number}", connections=setting.connections, seconds=setting.seconds)
    create = generate(job, setting.directory)
    return Round(echo=echo, echo_us=echo_us, create=create, cost=gateway.cost().since(before, create.requests))


def _findings(rounds: list[Round], paced: Result) -> Findings:
    figures = {
        "echo_rps": median(each.echo.rps for each in rounds),
        "create_rps": median(each.create.rps for each in rounds),
        "create_ratio": round(median(each.ratio for each in rounds), 3),
        "p50_ms": median(each.create.latency.p50_ms for each in rounds),
        "p99_ms": median(each.create.latency.p99_ms for each in rounds),
    }
    middle = sorted(rounds, key=lambda each: each.ratio)[len(rounds) // 2]
    spread = " ".join(f"{each.ratio:.2f}" for each in rounds)
    return Findings(
        figures=figures,
        rows=(
            Row("bare aiohttp echo", f"{figures['echo_rps']:,.0f} requests/s", f"CPU µs: server {middle.echo_us:.0f}"),
            Row("durable create", f"{figures['create_rps']:,.0f} orders/s", str(middle.cost)),
            Row("create / echo", f"{figures['create_ratio']:.2f}", f"rounds: {spread}"),
            Row("create latency, closed loop", f"p50 {figures['p50_ms']:.1f} ms", f"p99 {figures['p99_ms']:.1f} ms"),
            Row(
                f"create latency at {paced.rps:,.0f} orders/s",
                f"p50 {paced.latency.p50_ms:.1f} ms",
                f"p99 {paced.latency.p99_ms:.1f} ms (open loop, from when each was due)",
            ),
        ),
    )
