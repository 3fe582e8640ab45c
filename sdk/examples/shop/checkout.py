"""From a purchase to what the customer pays with; safe to start again at any point, with the same number."""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import msgspec

from examples.shop import bookkeeping
from examples.shop.ledger import Ledger
from examples.shop.purchases import Purchase, Way
from holdfast_client import Credential, Holdfast, HoldfastError, Order, Problem

PAY_TRIES_MAX = 3
PAY_AGAIN_AFTER_S = 1.0  # a customer is waiting
PAYMENT_REFUSED = "payment_refused"

log = logging.getLogger("shop")


class Checkout(msgspec.Struct, frozen=True):
    """Creates orders at the gateway and makes them payable.

    `hand_over` gives the customer what they pay with: a code to show, an address to be sent to, a form to submit.
    `return_to` is where the cashier sends them afterwards, without the order's number; that they come back proves
    nothing.
    """

    holdfast: Holdfast
    ledger: Ledger
    hand_over: Callable[[Credential], None]
    return_to: str = ""

    async def check_out(self, wanted: Purchase) -> Order | None:
        """Create and pay. What is unknown or refused stays in the ledger, and the watcher comes back to it.

        Returns:
            The order, if the gateway answered.
        """
        order = None
        try:
            order = await self._create(wanted)
            await self._serve(order, wanted.pays_with)
        except HoldfastError as error:
            log.warning("%s: %s", wanted.out_order_no, error)
        return order

    async def change(self, order: Order, way: Way) -> None:
        """The customer wants to pay another way after all. If that can not be now, they pay as they were going to."""
        try:
            await self._serve(order, way)
        except HoldfastError as error:
            log.warning("%s: not by %s: %s", order.out_order_no, way, error)

    async def pay(self, order: Order, way: Way) -> bool:
        """Ask for the credential, and hand it over. False: what the channel answered is still unknown."""
        how = {"channel": way.channel, "method": way.method}
        result = await self.holdfast.pay(order.order_id, **how, params=way.params or None)
        credential = result.payment.credential if result.payment else None

        def write_down(connection: sqlite3.Connection) -> None:
            if credential is not None:
                bookkeeping.show(connection, order.out_order_no, credential, way)
            bookkeeping.learn(connection, result.order, result.order.version, "answer", time.time())

        await self.ledger.do(write_down)
        if credential is not None:
            self.hand_over(credential)
        return credential is not None or result.payment is None

    async def _serve(self, order: Order, way: Way) -> None:
        for tries in range(1, PAY_TRIES_MAX + 1):
            if await self._served(order, way) or tries == PAY_TRIES_MAX:
                return
            await asyncio.sleep(PAY_AGAIN_AFTER_S)

    async def _served(self, order: Order, way: Way) -> bool:
        try:
            return await self.pay(order, way)
        except Problem as refused:
            if refused.code != PAYMENT_REFUSED:
                raise
            log.warning("%s: %s", order.out_order_no, refused)
            return False  # nobody can pay with what was refused, and to pay again is a new attempt

    async def _create(self, wanted: Purchase) -> Order:
        optional: dict[str, Any] = {} if wanted.buyer is None else {"buyer": wanted.buyer}
        if self.return_to:
            optional["return_url"] = f"{self.return_to}/{wanted.out_order_no}"
        return await self.holdfast.create_order(
            out_order_no=wanted.out_order_no,
            amount=wanted.amount,
            currency=wanted.currency,
            subject=wanted.subject,
            **optional,
        )
