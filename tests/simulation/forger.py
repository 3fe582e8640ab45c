"""Somebody who wants goods for nothing: forged notifications, and genuine ones sent to where they do not belong."""

import asyncio
import random
from typing import Any

import msgspec

from channels.simulator import server
from channels.simulator.platform import Platform
from channels.simulator.trades import Paid, Trade, Trades, TradeState
from tests.simulation.platforms import Platforms


class Forger:
    """Knows every number and every format, but no key. `post` sends as the platforms do."""

    def __init__(self, platforms: Platforms, impostors: dict[str, Platform], chance: random.Random, post: Any) -> None:
        self._platforms = platforms
        self._impostors = impostors
        self._chance = chance
        self._post = post

    async def forge(self) -> None:
        """Now and then, for as long as it is let."""
        while True:
            await asyncio.sleep(self._chance.uniform(1.0, 15.0))
            trades = self._platforms.trades.all()
            if trades:
                await self._attack(self._chance.choice(trades))

    async def _attack(self, trade: Trade) -> None:
        others = [each for each in self._platforms.trades.all(trade.made.channel) if each.paid and each is not trade]
        if others and self._chance.random() < 0.5:
            await self._misdirect(self._chance.choice(others), trade)
            return
        impostor = self._impostors[trade.made.channel]
        invented = Trade(trade.made, TradeState.WAITING)
        paid = next(e for e in impostor.pays(invented, Trades(), server.moment(), None) if isinstance(e, Paid))
        invented.state, invented.paid = TradeState.PAID, paid
        message = impostor.notice(invented, "", "", impostor.no_faults, server.moment())
        if message is not None:
            await self._post(message, invented, "", "forged", 5.0)

    async def _misdirect(self, paid: Trade, victim: Trade) -> None:
        """The platform's own word about one order, at another's address."""
        platform = self._platforms._platforms[paid.made.channel]
        message = platform.notice(paid, "", "", platform.no_faults, server.moment())
        if message is not None:
            elsewhere = msgspec.structs.replace(message, url=victim.made.notify_url)
            await self._post(elsewhere, paid, "", "forged", 5.0)
