"""From a purchase to a code the customer can scan; safe to start again at any point, with the same number."""

import logging
import sqlite3
import time

import msgspec

from examples.shop import bookkeeping
from examples.shop.ledger import Ledger
from examples.shop.purchases import Purchase
from holdfast_client import Holdfast, HoldfastError, Order

log = logging.getLogger("shop")


class Checkout(msgspec.Struct, frozen=True):
    """Creates orders at the gateway and makes them payable through one channel."""

    holdfast: Holdfast
    ledger: Ledger
    channel: str
    method: str

    async def check_out(self, wanted: Purchase) -> None:
        """Create and pay. What is unknown or refused stays in the ledger, and the watcher comes back to it."""
        try:
            await self.pay(await self._create(wanted))
        except HoldfastError as error:
            log.warning("%s: %s", wanted.out_order_no, error)

    async def pay(self, order: Order) -> None:
        """Ask for the code. No code yet means that the channel's answer is still unknown."""
        result = await self.holdfast.pay(order.order_id, channel=self.channel, method=self.method)
        credential = result.payment.credential if result.payment else None

        def write_down(connection: sqlite3.Connection) -> None:
            if credential is not None:
                bookkeeping.show(connection, order.out_order_no, credential.value)
            bookkeeping.learn(connection, result.order, result.order.version, "answer", time.time())

        await self.ledger.do(write_down)

    async def _create(self, wanted: Purchase) -> Order:
        optional = {} if wanted.buyer is None else {"buyer": wanted.buyer}
        return await self.holdfast.create_order(
            out_order_no=wanted.out_order_no,
            amount=wanted.amount,
            currency=wanted.currency,
            subject=wanted.subject,
            **optional,
        )
