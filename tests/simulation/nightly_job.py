"""A program of the shop's that gives a cent back for many orders at once, and has a bug: one number for all of them."""

import asyncio
import random
from typing import Final

from tests.simulation.history import INFO, SHOP, History
from tests.simulation.shop import Client
from tests.simulation.stories import SHARED

ORDERS_MAX: Final = 6


class NightlyJob:
    """Of all these refunds one is made, and the others are refused without harm to their neighbours."""

    def __init__(self, client: Client, history: History, chance: random.Random, at_s: float) -> None:
        self._client = client
        self._history = history
        self._chance = chance
        self._at_s = at_s

    async def work(self) -> None:
        """Once."""
        await asyncio.sleep(self._at_s)
        paid = {each.order["order_id"]: each.order for each in self._history.received if each.type == "order.paid"}
        gateway = self._chance.choice(("east", "west"))
        orders = list(paid.values())[:ORDERS_MAX]
        await asyncio.gather(*(self._refund(order["order_id"], order["out_order_no"], gateway) for order in orders))

    async def _refund(self, order_id: str, number: str, gateway: str) -> None:
        body = {"out_refund_no": SHARED, "amount": 1}
        for _ in range(3):
            told = await self._client.ask(
                "refund", number, "POST", f"/v1/orders/{order_id}/refunds", body, app=SHOP, gateway=gateway
            )
            if told.outcome != INFO:
                return
