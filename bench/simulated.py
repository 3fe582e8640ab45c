"""A simulated platform inside this process: a flow's requests are answered by calling it, and nothing is sent.

It shares nothing with a simulator that runs beside it but the keys, so that somebody can pay here while that one says
truthfully that nobody did.
"""

import itertools
from collections.abc import Callable
from typing import TypeVar

import msgspec

from channels.contract import Flow, Request, Response
from channels.simulator.faults import Faults
from channels.simulator.platform import Incoming, Moment, Outgoing, PayOrder, Platform, Refusal, Reply
from channels.simulator.trades import AnyEntry, Paid, Trade, Trades, TradeState

T = TypeVar("T")

TRANSPORT_HEADERS = {"user-agent": "Holdfast", "accept": "*/*"}  # what the gateway's transport adds to a request


class Simulated:
    """One platform with a ledger in memory; `now` is its clock."""

    def __init__(self, platform: Platform, now: Callable[[], float]) -> None:
        self.platform = platform
        self.trades = Trades()
        self._now = now
        self._count = itertools.count()

    def answer(self, request: Request) -> Response:
        """What the platform answers, signed; what it changes, is changed."""
        platform, moment = self.platform, self.moment()
        headers = {**TRANSPORT_HEADERS, **{name.lower(): value for name, value in request.headers.items()}}
        try:
            call = platform.receive(Incoming(request.method, request.target, headers, request.body), moment)
            done = platform.execute(call, self.trades, platform.no_faults, moment)
            self.apply(done.entries)
            reply = done.reply or platform.answer(call, done, platform.no_faults, moment)
        except Refusal as refusal:
            self.apply(refusal.entries)
            reply = refusal.reply
        return _response(reply)

    def converse(self, flow: Flow[T]) -> T:
        """Run a flow to its outcome."""
        try:
            request = next(flow)
            while True:
                request = flow.send(self.answer(request))
        except StopIteration as end:
            outcome: T = end.value
            return outcome

    def apply(self, entries: tuple[AnyEntry, ...]) -> None:
        """What happened at the platform."""
        for entry in entries:
            self.trades.apply(entry)

    def pay(self, trade: Trade) -> None:
        """Its payer pays."""
        self.apply(self.platform.pays(trade, self.trades, self.moment(), None))

    def notice(self, trade: Trade, variant: str = "", faults: Faults | None = None) -> Outgoing:
        """The notification of a paid trade, signed now."""
        notice = self.platform.notice(trade, "", variant, faults or self.platform.no_faults, self.moment())
        assert notice is not None, "every platform tells of payments"
        return notice

    def stated(self, trade: Trade, **otherwise: object) -> Trade:
        """The trade as if it had been paid otherwise: `amount`, `currency`, `stated` as in a `PayOrder`. It is not."""
        channel, merchant, number = trade.key
        order = msgspec.convert(
            {"channel": channel, "merchant": merchant, "out_trade_no": number, **otherwise}, PayOrder
        )
        unpaid = Trade(trade.made, TradeState.WAITING, code=trade.code)
        entries = self.platform.pays(unpaid, self.trades, self.moment(), order)
        unpaid.state, unpaid.paid = TradeState.PAID, next(entry for entry in entries if isinstance(entry, Paid))
        return unpaid

    def moment(self) -> Moment:
        """Now, with a nonce that was never used."""
        return Moment(self._now(), f"{next(self._count):032x}", 0.5)


def _response(reply: Reply) -> Response:
    return Response(reply.status, {name.lower(): value for name, value in reply.headers.items()}, reply.body)
