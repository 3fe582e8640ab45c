"""Asks by itself about orders nothing was heard of: webhooks are a courtesy, the question is the right."""

import asyncio
import time
from functools import partial

import msgspec

from examples.shop import bookkeeping
from examples.shop.bookkeeping import Quiet
from examples.shop.checkout import Checkout, log
from holdfast_client import HoldfastError, OrderState

ROUND_S = 0.5
AT_ONCE_MAX = 16


class Watcher(msgspec.Struct, frozen=True):
    """Looks for quiet orders twice a second and takes each one step further."""

    checkout: Checkout
    ask_after_s: float

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            take = partial(bookkeeping.take_quiet, now=time.time(), pause_s=self.ask_after_s, limit=AT_ONCE_MAX)
            quiet = await self.checkout.ledger.do(take)
            await asyncio.gather(*(self._ask(order) for order in quiet))
            if len(quiet) < AT_ONCE_MAX:
                await asyncio.sleep(ROUND_S)

    async def _ask(self, quiet: Quiet) -> None:
        try:
            await self._step(quiet)
        except HoldfastError as error:
            log.warning("asking about %s: %s", quiet.out_order_no, error)

    async def _step(self, quiet: Quiet) -> None:
        ledger = self.checkout.ledger
        if quiet.order_id is None:  # our create may or may not have arrived: the same number again settles it
            wanted = await ledger.do(lambda connection: bookkeeping.recall(connection, quiet.out_order_no))
            await self.checkout.check_out(wanted)
            return
        order = await self.checkout.holdfast.get(quiet.order_id)
        await ledger.do(lambda connection: bookkeeping.learn(connection, order, order.version, "answer", time.time()))
        if not quiet.payable and order.state in {OrderState.CREATED, OrderState.PAYING}:
            await self.checkout.pay(order, quiet.pays_with)
