"""The order that a request is about: found if it is the caller's, told an event, waited for."""

import asyncio
import re
from collections.abc import Mapping

from aiohttp import web

from actors.actor import Answer
from actors.errors import OrderNotFound
from actors.events import Event
from actors.order import Order, Reply
from actors.registry import Registry
from gateway.api.auth import Authenticator
from gateway.api.problems import Problem
from gateway.api.routing import Call
from gateway.storage.journal import Journal

_ORDER_ID = re.compile(r"[0-9A-Z]{26}\Z")


class CallersOrders:
    """Orders by the path of a request. `single_process`: nobody else moves them, so memory may answer."""

    def __init__(
        self, authenticator: Authenticator, registry: Registry, journal: Journal, *, single_process: bool
    ) -> None:
        self._authenticator = authenticator
        self._registry = registry
        self._journal = journal
        self._single_process = single_process

    async def of(self, request: Call) -> Order:
        """The order of the path, if it is the caller's; another app's order does not exist for it.

        Raises:
            Problem: 401, 404.
        """
        app = await self._authenticator.app_of(request)
        order_id = request.match_info["order_id"]
        if not _ORDER_ID.match(order_id):
            raise Problem("order_not_found", param="order_id")
        order = self._remembered(order_id) or await self._journal.load(order_id)
        if order is None or order.content.app_id != app.app_id:
            raise Problem("order_not_found", param="order_id")
        return order

    async def loaded(self, order_id: str) -> Order | None:
        """An order that was found to be the caller's by another way."""
        return await self._journal.load(order_id)

    async def tell(self, order: Order, event: Event) -> Answer:
        """Tell the order, at least at the version that was just read."""
        try:
            return await self._registry.ask(order.order_id, event, seen=order.version)
        except OrderNotFound:
            raise Problem("order_not_found", param="order_id") from None

    async def later(self, order: Order, deadline: float) -> Order | None:
        """The order when there is news of it: it moved on, or its channel gave an answer that changed nothing.

        None if there is none before the deadline (the loop's time).
        """
        news = self._registry.changed(order.order_id)  # first: what happens while we look must not be missed
        stopping = news.done()  # then there will be none, and asking again and again would never let the loop turn
        latest = await self.latest(order)
        if latest.version > order.version:
            news.cancel()
            return latest
        if stopping:
            return None
        try:
            async with asyncio.timeout_at(deadline):
                await news
        except TimeoutError:
            return None
        return await self.latest(order)

    async def latest(self, order: Order) -> Order:
        """The order as this process last saw it durable."""
        return self._registry.peek(order.order_id) or await self._journal.load(order.order_id) or order

    def _remembered(self, order_id: str) -> Order | None:
        """The actor's order, where it can not be older than what another process has answered.

        No state makes it so: a paid order moves on with money too much and with refunds.
        """
        return self._registry.peek(order_id) if self._single_process else None


_REFUSALS: Mapping[Reply, str] = {reply: str(reply) for reply in Reply if reply not in (Reply.DONE, Reply.WAIT)}


def refuse(answer: Answer, detail: str = "") -> None:
    """Raise what a refusal is to the caller; anything else is none."""
    code = _REFUSALS.get(answer.reply)
    if code is not None:
        raise Problem(code, detail, order_id=answer.order.order_id)


def json_response(body: bytes, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(status=status, body=body, content_type="application/json")
