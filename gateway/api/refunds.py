"""What apps call to give money back: a refund of a paid order, and how far one is."""

import asyncio

from aiohttp import web

from actors.actor import Answer
from actors.errors import WriteRejected
from actors.events import RefundRequested, SyncRequested
from actors.order import Order, Refund, RefundState, Reply
from actors.ports import Clock
from gateway.api.auth import Authenticator
from gateway.api.bodies import OUT_ORDER_NO, CreateRefund, Reader, number_asked_for, read, read_nothing
from gateway.api.callers_orders import CallersOrders, json_response, refuse
from gateway.api.problems import Problem
from gateway.api.routing import Call, Route
from gateway.representation import refund_json
from gateway.storage.journal import Journal

UNDECIDED = (RefundState.SUBMITTING, RefundState.UNKNOWN)

_read_refund = Reader(CreateRefund)


class RefundsApi:
    """The handlers, with the parts they need. `wait_s` is how long a caller waits for channels."""

    def __init__(
        self, authenticator: Authenticator, orders: CallersOrders, journal: Journal, clock: Clock, wait_s: float
    ) -> None:
        self._authenticator = authenticator
        self._orders = orders
        self._journal = journal
        self._clock = clock
        self._wait_s = wait_s

    def routes(self) -> list[Route]:
        """Where the handlers stand."""
        return [
            Route("POST", "/v1/orders/{order_id}/refunds", self.create),
            Route("GET", "/v1/refunds", self.find),
            Route("GET", "/v1/refunds/{refund_id}", self.get),
            Route("POST", "/v1/refunds/{refund_id}/sync", self.sync),
        ]

    async def create(self, request: Call) -> web.Response:
        """201 and the refund; 200 if it was there already; 202 while the channel's answer is not known."""
        order = await self._orders.of(request)
        body = await read(request, _read_refund)
        before = _numbered(order, body.out_refund_no)
        asked = RefundRequested(self._clock.now_ms(), body.out_refund_no, body.amount, body.reason)
        try:
            answer = await self._orders.tell(order, asked)
        except WriteRejected:
            other = await self._journal.order_of_out_refund_no(order.content.app_id, body.out_refund_no)
            if other is None or other.order_id == order.order_id:
                raise
            detail = "a refund of another order has this number"
            raise Problem("refund_conflict", detail, param="out_refund_no", order_id=other.order_id) from None
        refuse(answer, _why_not(answer, body))
        latest, refund = await self._decided(answer.order, body.out_refund_no)
        if refund.state is RefundState.FAILED:
            said = f"{refund.failure_code}: {refund.failure_message}"
            raise Problem("refund_refused", said, order_id=order.order_id)
        status = 202 if refund.state in UNDECIDED else 201 if before is None else 200
        return json_response(refund_json(latest, refund), status)

    async def get(self, request: Call) -> web.Response:
        """The refund, as it is durable now."""
        order, refund = await self._of(request)
        return json_response(refund_json(order, refund))

    async def find(self, request: Call) -> web.Response:
        """The refund that an app knows by its own number."""
        app = await self._authenticator.app_of(request)
        number = number_asked_for(request, "out_refund_no")
        order = await self._journal.order_of_out_refund_no(app.app_id, number)
        refund = None if order is None else _numbered(order, number)
        if order is None or refund is None:
            raise Problem("refund_not_found", param="out_refund_no")
        return json_response(refund_json(order, refund))

    async def sync(self, request: Call) -> web.Response:
        """Ask the channel now, and give the refund as it is then."""
        order, refund = await self._of(request)
        await read_nothing(request)
        if refund.open:
            await self._orders.tell(order, SyncRequested(self._clock.now_ms()))
            await self._orders.later(order, asyncio.get_running_loop().time() + self._wait_s)
            order = await self._orders.latest(order)
        return json_response(refund_json(order, order.refund(refund.refund_id) or refund))

    async def _of(self, request: Call) -> tuple[Order, Refund]:
        app = await self._authenticator.app_of(request)
        refund_id = request.match_info["refund_id"]
        known = OUT_ORDER_NO.match(refund_id)
        order = await self._journal.order_of_refund(app.app_id, refund_id) if known else None
        refund = None if order is None else order.refund(refund_id)
        if order is None or refund is None:
            raise Problem("refund_not_found", param="refund_id")
        return order, refund

    async def _decided(self, order: Order, out_refund_no: str) -> tuple[Order, Refund]:
        """The refund when its channel has said something, or when the caller has waited long enough."""
        deadline = asyncio.get_running_loop().time() + self._wait_s
        while True:
            refund = _numbered(order, out_refund_no)
            assert refund is not None, "it is durable"
            if refund.state is not RefundState.SUBMITTING:
                return order, refund
            latest = await self._orders.later(order, deadline)
            if latest is None:
                return order, refund
            order = latest


def _numbered(order: Order, out_refund_no: str) -> Refund | None:
    return next((refund for refund in order.refunds if refund.out_refund_no == out_refund_no), None)


def _why_not(answer: Answer, asked: CreateRefund) -> str:
    order = answer.order
    known = _numbered(order, asked.out_refund_no)
    if answer.reply is Reply.REFUND_CONFLICT and known is not None:
        return f"{asked.out_refund_no} is a refund of {known.amount} for the reason {known.reason!r}"
    if answer.reply is Reply.REFUND_EXCEEDS_PAID:
        left = order.paid_amount - order.refunded_amount
        return f"{asked.amount} was asked for, {left} of {order.paid_amount} can be given back still"
    return ""
