"""The payment platforms of a run: the real simulators behind the simulated network, with a ledger in memory."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from channels.contract import Request, Response
from channels.errors import NoAnswer
from channels.simulator import server
from channels.simulator.delivery import Delivery
from channels.simulator.payers import Payers
from channels.simulator.platform import Incoming, PayOrder, Refusal, Reply
from channels.simulator.trades import AnyEntry, Paid, Trade
from gateway.transport import Transport
from tests.simulation.network import Network, Silence

PLATFORMS: Final = "platforms"  # the process they run in; it never dies, but can be out of reach


class MemoryLedger:
    """What really happened at the platforms, in order. It is never lost, so it is durable at once."""

    def __init__(self) -> None:
        self.entries: list[AnyEntry] = []

    def read(self) -> Iterator[AnyEntry]:
        """Nothing was before."""
        return iter(())

    def append(self, entry: AnyEntry) -> None:
        """Write down."""
        self.entries.append(entry)

    async def durable(self) -> None:
        """It is."""

    async def close(self) -> None:
        """Nothing to let go of."""

    def successes(self) -> list[Paid]:
        """Payments that are payments to the merchant; a bank's debit after the end of a trade is none."""
        paid = [entry for entry in self.entries if isinstance(entry, Paid)]
        return [entry for entry in paid if entry.details.get("code", "00") == "00"]


class Platforms(server.Simulator):
    """All platforms. Payers are told by the customers of the shop, not drawn."""

    def __init__(self, seed: int, platforms: Mapping[str, Any], faults: Mapping[str, Any], post: Any) -> None:
        self.book = MemoryLedger()
        self.forced: set[str] = set()  # numbers that were paid although they could not be any more
        self.watch: Any = None  # is shown every entry as it is made
        settings = server.Settings(Path(), seed=seed, payers=Payers(rate=0.0), refund_after_s=2.0)
        super().__init__(settings, platforms, self.book)  # type: ignore[arg-type]
        self.change_faults(faults)
        self.delivery = Notifications(self._platforms, self.faults, seed, 1.0, self._record)
        self.delivery.post = post

    async def reply(self, incoming: Incoming) -> Reply:
        """The answer to a request, a refusal too."""
        try:
            return await self.answer(incoming)
        except Refusal as refusal:
            return refusal.reply

    def _record(self, entry: AnyEntry) -> Trade:
        if self.watch is not None:
            self.watch(entry)
        return super()._record(entry)

    def find(self, code: str) -> Trade | None:
        """The trade that a code pays; None once a newer code was handed out."""
        return self.trades.find_code(code)

    def find_number(self, channel: str, number: str) -> Trade | None:
        """The trade of this number."""
        return next((trade for trade in self.trades.all(channel) if trade.made.out_trade_no == number), None)

    async def pay_as_told(self, trade: Trade, *, late: bool = False, amount: int | None = None) -> None:
        """A payer pays; `late`, even what was closed; `amount`, so that the platform states another than was asked."""
        channel, merchant, number = trade.key
        if trade.paid is not None:  # and was, perhaps, given back
            return
        if not trade.payable(time.time()):
            self.forced.add(number)
        await self.pay(trade, PayOrder(channel, merchant, number, amount=amount, late=late))


class Notifications(Delivery):
    """Their notifications, sent over the simulated network: `post` takes what goes out and whether it is genuine."""

    post: Any = None

    async def send_once(self, trade: Trade, topic: str = "", variant: str = "") -> tuple[int, bytes]:
        """One delivery, watched."""
        platform = self._platforms[trade.made.channel]
        moment = server.moment()
        message = platform.notice(trade, topic, variant, self._faults[trade.made.channel], moment)
        if message is None:
            return 0, b""
        status, body = await self.post(message, trade, topic, variant, platform.answer_within_s)
        return int(status), bytes(body)


class SimulatedTransport(Transport):
    """The gateway's real transport, whose requests go to the simulated platforms."""

    network: Network
    platforms: Platforms
    _running = False

    async def start(self) -> None:
        """Nothing to open."""
        self._running = True

    async def stop(self) -> None:
        """From now on nothing is sent."""
        self._running = False

    async def _exchange(self, request: Request) -> Response:
        if not self._running:
            raise NoAnswer("the transport is stopped", sent=False)
        incoming = Incoming(request.method, request.target, _lower(request.headers), request.body)
        try:
            reply = await self.network.call(
                f"{PLATFORMS}:{self._channel}", lambda: self.platforms.reply(incoming), timeout_s=self._timeout_s
            )
        except Silence as silence:
            raise NoAnswer(str(silence), sent=silence.sent) from None
        return Response(reply.status, _lower(reply.headers), reply.body)


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {"host": "platforms.test", **{name.lower(): value for name, value in headers.items()}}
