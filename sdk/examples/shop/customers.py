"""Simulated customers: they come at a steady rate, whether the gateway is there or not, and buy what a seed decides.

No part of a shop to be copied: a real one has a website here.
"""

import asyncio
import random
import time

import msgspec

from examples.shop import bookkeeping
from examples.shop.checkout import Checkout
from examples.shop.purchases import Purchase, Way

BUYER_SHARE = 0.05
IN_FLIGHT_MAX = 512  # beyond it customers queue: a gateway that is away must not fill this process's memory
WEIGHT_MAX = 1_000_000
LOOKED_AT_S = 0.5  # how long somebody looks at a page before they want to pay another way


class Mix(msgspec.Struct, frozen=True):
    """The ways customers pay, and how many choose each."""

    weights: dict[Way, int]

    def draw(self, rng: random.Random) -> Way:
        """One customer's way."""
        return rng.choices(list(self.weights), list(self.weights.values()))[0]


def parse_mix(text: str) -> Mix:
    """`wechatpay.native:3,alipay.qr`: three in four pay with WeChat Pay. A weight left out is 1.

    Raises:
        ValueError: naming what is wrong.
    """
    weights: dict[Way, int] = {}
    for word in text.split(","):
        name, colon, weight = word.strip().partition(":")
        channel, _, method = name.partition(".")
        if not (channel and method) or (colon and not weight.isdecimal()):
            raise ValueError(f"{word!r}: expected CHANNEL.METHOD or CHANNEL.METHOD:WEIGHT")
        way = Way(channel, method)
        if way in weights:
            raise ValueError(f"{way} is there twice")
        weights[way] = int(weight or 1)
        if not 1 <= weights[way] <= WEIGHT_MAX:
            raise ValueError(f"{word!r}: the weight must be 1 to {WEIGHT_MAX}")
    return Mix(weights)


class Customers(msgspec.Struct, frozen=True):
    """Who comes: order n of this seed at `start_at + n / rate`, as many as fit into `seconds`."""

    rate: float
    seconds: float
    seed: int
    prefix: str
    start_at: float
    mix: Mix
    fickle: float = 0.0  # the share of those who look at one way to pay, and then want another

    @property
    def count(self) -> int:
        """How many there will be."""
        return int(self.rate * self.seconds)

    def purchase(self, number: int) -> Purchase:
        """What the `number`-th wants: the same for the same seed anywhere, with a subject that no other has."""
        rng = random.Random(f"{self.seed}:{self.prefix}:{number}")
        name = f"{self.prefix}-{number:06d}"
        return Purchase(
            out_order_no=name,
            subject=name,
            amount=rng.randint(1, 100_000),
            buyer=f"buyer-{name}" if rng.random() < BUYER_SHARE else None,
            pays_with=self.mix.draw(rng),
        )

    def second_thought(self, number: int) -> Way | None:
        """The other way in which the `number`-th wants to pay after all; mostly none."""
        rng = random.Random(f"{self.seed}:{self.prefix}:{number}:second thought")
        others = {way: weight for way, weight in self.mix.weights.items() if way != self.purchase(number).pays_with}
        return Mix(others).draw(rng) if others and rng.random() < self.fickle else None


async def serve_customers(customers: Customers, checkout: Checkout, ask_after_s: float, closed: asyncio.Event) -> None:
    """Check all of them out; returns when the last one is through, or, once `closed`, those who are in the shop."""
    places = asyncio.Semaphore(IN_FLIGHT_MAX)

    async def serve(wanted: Purchase, second_thought: Way | None) -> None:
        now = time.time()
        try:
            await checkout.ledger.do(lambda ledger: bookkeeping.remember(ledger, wanted, now, now + ask_after_s))
            order = await checkout.check_out(wanted)
            if order is not None and second_thought is not None:
                await asyncio.sleep(LOOKED_AT_S)
                await checkout.change(order, second_thought)
        finally:
            places.release()

    async with asyncio.TaskGroup() as group:
        for number in range(customers.count):
            await _until(customers.start_at + number / customers.rate, closed)
            await places.acquire()
            if closed.is_set():
                places.release()
                break
            group.create_task(serve(customers.purchase(number), customers.second_thought(number)))


async def _until(moment: float, closed: asyncio.Event) -> None:
    wait_s = moment - time.time()
    if wait_s > 0:
        try:
            await asyncio.wait_for(closed.wait(), wait_s)
        except TimeoutError:
            return
