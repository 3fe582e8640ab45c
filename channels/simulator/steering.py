"""`/_faults` and `/_sim/...`: what goes wrong, who pays, and what there is, for tests and people at the terminal."""

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec
from aiohttp import web

from channels.simulator.payers import Payers
from channels.simulator.platform import Incoming, PayOrder
from channels.simulator.trades import RefundState, Trade

if TYPE_CHECKING:
    from channels.simulator.server import Simulator

Handler = Callable[[Incoming], Awaitable[web.Response]]


class NotifyOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /_sim/notify: deliver a notification once more, now. `topic` is a refund's number, empty for the payment."""

    channel: str
    merchant: str
    out_trade_no: str
    topic: str = ""
    variant: str = ""


class RefundOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /_sim/refund: what a refund comes to, now, also after it had come to something else."""

    channel: str
    merchant: str
    out_trade_no: str
    refund_no: str
    state: RefundState


class Steering:
    """The handlers."""

    def __init__(self, simulator: "Simulator") -> None:
        self._simulator = simulator
        self._handlers: dict[tuple[str, str], Handler] = {
            ("GET", "/_faults"): self._show_faults,
            ("POST", "/_faults"): self._set_faults,
            ("POST", "/_sim/payers"): self._set_payers,
            ("GET", "/_sim/trades"): self._show_trades,
            ("POST", "/_sim/pay"): self._pay_now,
            ("POST", "/_sim/notify"): self._notify_now,
            ("POST", "/_sim/refund"): self._refund_now,
        }

    def handler(self, incoming: Incoming) -> Handler | None:
        """Who answers this request, if it is for us."""
        return self._handlers.get((incoming.method, incoming.path))

    async def _show_faults(self, _incoming: Incoming) -> web.Response:
        return json_response({name: msgspec.to_builtins(each) for name, each in self._simulator.faults.items()})

    async def _set_faults(self, incoming: Incoming) -> web.Response:
        """Change the faults that are named: see `Simulator.change_faults`."""
        self._simulator.change_faults(msgspec.json.decode(incoming.body, type=dict[str, Any]))
        return await self._show_faults(incoming)

    async def _set_payers(self, incoming: Incoming) -> web.Response:
        """Change the payers of codes shown from now on."""
        changed = {
            **msgspec.to_builtins(self._simulator.payers),
            **msgspec.json.decode(incoming.body, type=dict[str, float]),
        }
        self._simulator.payers = msgspec.convert(changed, Payers)
        return json_response(changed)

    async def _show_trades(self, incoming: Incoming) -> web.Response:
        await self._simulator.ledger.durable()
        asked = {name: values[0] for name, values in parse_qs(incoming.query).items()}
        trades = self._simulator.trades.all(asked.get("channel"), asked.get("merchant"))
        return json_response([shown(trade) for trade in trades])

    async def _pay_now(self, incoming: Incoming) -> web.Response:
        order = msgspec.json.decode(incoming.body, type=PayOrder)
        trade = self._simulator.trades.find(order.channel, order.merchant, order.out_trade_no)
        if trade is None:
            return json_response({"error": "no such trade"}, status=404)
        if not (trade.payable(time.time()) or order.late):
            return json_response({"error": f"not payable: {trade.state}"}, status=409)
        await self._simulator.pay(trade, order)
        return json_response(shown(trade))

    async def _notify_now(self, incoming: Incoming) -> web.Response:
        order = msgspec.json.decode(incoming.body, type=NotifyOrder)
        trade = self._simulator.trades.find(order.channel, order.merchant, order.out_trade_no)
        if trade is None:
            return json_response({"error": "no such trade"}, status=404)
        if trade.paid is None:
            return json_response({"error": f"not paid: {trade.state}"}, status=409)
        status, body = await self._simulator.delivery.send_once(trade, order.topic, order.variant)
        return json_response({"status": status, "body": body.decode("utf-8", "replace")})

    async def _refund_now(self, incoming: Incoming) -> web.Response:
        order = msgspec.json.decode(incoming.body, type=RefundOrder)
        trade = self._simulator.trades.find(order.channel, order.merchant, order.out_trade_no)
        if trade is None or order.refund_no not in trade.refunds:
            return json_response({"error": "no such refund"}, status=404)
        await self._simulator.settle(trade, order.refund_no, order.state)
        return json_response(shown(trade))


def json_response(value: object, status: int = 200) -> web.Response:
    """A value as JSON."""
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")


def shown(trade: Trade) -> dict[str, object]:
    """A trade as the steering shows it."""
    made, paid = trade.made, trade.paid
    return {
        "channel": made.channel,
        "merchant": made.merchant,
        "out_trade_no": made.out_trade_no,
        "method": made.method,
        "description": made.description,
        "amount": made.amount,
        "state": trade.state,
        "codes": trade.codes,
        "code": trade.code,
        "transaction": paid.transaction if paid else None,
        "success_at": paid.success_at if paid else None,
        "notified": "" in trade.notified,
        "dropped": "" in trade.dropped,
        "refunds": {number: {"state": r.state, "amount": r.made.amount} for number, r in trade.refunds.items()},
    }
