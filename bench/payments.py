"""Whole lives of orders: create, pay, notification, paid. This process is the app, the payer and the channel in
one.

It goes in rounds of two clocked parts. First orders are created and made payable (the gateway prepays each here,
with a real RSA signature of its own); then, with the clock stopped, a notification is signed for each; then all are
delivered, and the gateway verifies, decrypts, commits and acknowledges every one. A payment is counted when its
acknowledgement is back. The webhooks that tell the app arrive here too, all the while; a round ends when the last
one did.

`python -m bench.payments DIRECTORY` serves the channel at once and waits for a `PaymentJob` on stdin.
"""

import asyncio
import gc
import sys
from pathlib import Path
from time import perf_counter

import msgspec
import uvloop

from bench.channel_stub import ChannelStub
from bench.generator import Load
from bench.latency import Latency
from bench.scripts import Requests, create_and_pay, deliver
from bench.serving import Exchange, announce

TOLD_WITHIN_S = 15.0
DELIVERY_LIMIT_S = 60.0


class PaymentJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the gateway serves, and how long one round creates orders."""

    host: str
    port: int
    api_key: str
    connections: int
    seconds: float
    rounds: int


class PaymentRound(msgspec.Struct, frozen=True):
    """One round. `told` webhooks had arrived `told_s` after the last acknowledgement."""

    payments: int
    payable_s: float
    signing_s: float
    delivery_s: float
    told: int
    told_s: float
    delivery: Latency

    @property
    def payments_per_s(self) -> float:
        """Over the time that the clock ran."""
        return self.payments / (self.payable_s + self.delivery_s)


async def play(job: PaymentJob, stub: ChannelStub) -> list[PaymentRound]:
    """All rounds."""
    return [await _round(job, stub, f"p{number}") for number in range(job.rounds)]


async def _round(job: PaymentJob, stub: ChannelStub, run: str) -> PaymentRound:
    stub.webhooks = 0
    payable: list[bytes] = []
    requests, numbers = Requests(job.api_key, run), iter(range(sys.maxsize))
    scripts = [create_and_pay(requests, numbers, payable) for _ in range(job.connections)]
    opened = await Load(seconds=job.seconds).run(job.host, job.port, scripts)
    since = perf_counter()
    notifications = iter(await asyncio.to_thread(stub.notifications, payable))
    signing_s = perf_counter() - since
    scripts = [deliver(notifications) for _ in range(job.connections)]
    delivered = await Load(seconds=DELIVERY_LIMIT_S).run(job.host, job.port, scripts)
    since = perf_counter()
    await stub.told(len(payable), TOLD_WITHIN_S)
    return PaymentRound(
        payments=delivered.requests,
        payable_s=opened.seconds,
        signing_s=round(signing_s, 3),
        delivery_s=delivered.seconds,
        told=stub.webhooks,
        told_s=round(perf_counter() - since, 3),
        delivery=delivered.latency,
    )


async def serve_and_play(directory: Path) -> list[PaymentRound]:
    """Serve the channel; play once the job is there."""
    stub = ChannelStub(directory)
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: Exchange(stub.answer), "127.0.0.1", 0) as server:
        announce(server)
        job = msgspec.json.decode(await asyncio.to_thread(sys.stdin.buffer.read), type=PaymentJob)
        return await play(job, stub)


def main() -> None:
    """Play, and write the rounds as JSON."""
    gc.freeze()
    rounds = uvloop.run(serve_and_play(Path(sys.argv[1])))
    sys.stdout.write(msgspec.json.encode(rounds).decode() + "\n")


if __name__ == "__main__":
    main()
