"""How many whole payments a second: create, pay, notification, paid, on one gateway, with the channel stubbed
beside the load.
"""

from statistics import median

import msgspec

from bench.channel_stub import channel_config, make_merchant
from bench.children import child
from bench.payments import PaymentJob, PaymentRound
from bench.scenarios.gateway_under_test import Cost, serving_gateway
from bench.scenarios.setting import BenchError, Findings, Row, Setting

ROUNDS = 4  # the first warms up: it counts in the CPU time a payment, not in the rates
SLACK_S = 90.0  # for signing, delivering and the webhooks, all bounded by themselves


def measure(setting: Setting) -> Findings:
    """Rounds of lives; the median of their rates.

    Raises:
        BenchError: not every payment was told to the app.
    """
    with child("payments", "bench.payments", str(setting.directory), directory=setting.directory) as player:
        host, port = player.address()
        channel = channel_config(make_merchant(setting.directory), f"http://{host}:{port}")
        webhook_url = f"http://{host}:{port}/webhooks"
        with serving_gateway(setting.directory, channel=channel, webhook_url=webhook_url) as gateway:
            job = PaymentJob(
                host=gateway.host,
                port=gateway.port,
                api_key=gateway.api_key,
                connections=setting.connections,
                seconds=setting.seconds,
                rounds=ROUNDS,
            )
            before = gateway.cost()
            answer = player.finish(msgspec.json.encode(job), ROUNDS * setting.seconds + SLACK_S)
            cost = gateway.cost()
    return _findings(msgspec.json.decode(answer, type=list[PaymentRound]), before, cost)


def _findings(rounds: list[PaymentRound], before: Cost, after: Cost) -> Findings:
    if any(each.told < each.payments for each in rounds):
        raise BenchError(f"fewer webhooks than payments: {[(each.payments, each.told) for each in rounds]}")
    payments = sum(each.payments for each in rounds)
    warm = rounds[1:]
    rate = round(median(each.payments_per_s for each in warm), 1)
    told = median(each.payments / (each.payable_s + each.delivery_s + each.told_s) for each in warm)
    delivery = median(each.delivery_s / each.payments for each in warm)
    signing_us = sum(each.signing_s for each in rounds) / payments * 1e6
    return Findings(
        figures={"payments_per_s": rate},
        rows=(
            Row("whole payments", f"{rate:,.0f} payments/s", str(after.since(before, payments))),
            Row("... until the app was told", f"{told:,.0f} payments/s", f"{payments:,} webhooks received"),
            Row("notifications alone", f"{1 / delivery:,.0f} a second", f"p99 {rounds[-1].delivery.p99_ms:.1f} ms"),
            Row("left out", f"{signing_us:.0f} µs a payment", "the stub signs notifications while the clock stands"),
        ),
    )
