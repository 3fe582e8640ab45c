"""Customers come at a steady rate, whether the gateway is there or not."""

import asyncio
import time

import msgspec

from examples.shop import bookkeeping
from examples.shop.checkout import Checkout
from examples.shop.purchases import purchase

IN_FLIGHT_MAX = 512  # beyond it customers queue: a gateway that is away must not fill this process's memory


class Customers(msgspec.Struct, frozen=True):
    """Who comes: order n of this seed at `start_at + n / rate`, as many as fit into `seconds`."""

    rate: float
    seconds: float
    seed: int
    prefix: str
    start_at: float

    @property
    def count(self) -> int:
        """How many there will be."""
        return int(self.rate * self.seconds)


async def serve_customers(customers: Customers, checkout: Checkout, ask_after_s: float, closed: asyncio.Event) -> None:
    """Check all of them out; returns when the last one is through, or, once `closed`, those who are in the shop."""
    places = asyncio.Semaphore(IN_FLIGHT_MAX)

    async def serve(number: int) -> None:
        wanted = purchase(customers.seed, customers.prefix, number)
        now = time.time()
        try:
            await checkout.ledger.do(lambda ledger: bookkeeping.remember(ledger, wanted, now, now + ask_after_s))
            await checkout.check_out(wanted)
        finally:
            places.release()

    async with asyncio.TaskGroup() as group:
        for number in range(customers.count):
            await _until(customers.start_at + number / customers.rate, closed)
            await places.acquire()
            if closed.is_set():
                places.release()
                break
            group.create_task(serve(number))


async def _until(moment: float, closed: asyncio.Event) -> None:
    wait_s = moment - time.time()
    if wait_s > 0:
        try:
            await asyncio.wait_for(closed.wait(), wait_s)
        except TimeoutError:
            return
