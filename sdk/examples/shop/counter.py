"""The shop's own HTTP door: webhooks come in, anyone may ask how it stands."""

import time

import msgspec
from aiohttp import web

from examples.shop import bookkeeping
from examples.shop.checkout import log
from examples.shop.ledger import Ledger
from holdfast_client import WebhookRefused, verify_webhook


class Counter(msgspec.Struct, frozen=True):
    """Three routes over one ledger."""

    ledger: Ledger
    webhook_secret: str

    def application(self) -> web.Application:
        """POST /webhooks, GET /status, and GET /orders/NUMBER, where the cashier sends customers back to."""
        application = web.Application(client_max_size=256 * 1024)
        application.router.add_post("/webhooks", self._webhook)
        application.router.add_get("/status", self._status)
        application.router.add_get("/orders/{number}", self._order)
        return application

    async def _webhook(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            event = verify_webhook(self.webhook_secret, request.headers, body)
        except WebhookRefused as error:
            log.warning("webhook refused: %s: %s", type(error).__name__, error)
            return web.Response(status=400)
        await self.ledger.do(lambda connection: bookkeeping.receive(connection, event, time.time()))
        return web.Response(status=204)  # only now: what is answered is on disk

    async def _status(self, _request: web.Request) -> web.Response:
        return web.json_response(await self.ledger.do(bookkeeping.counts))

    async def _order(self, request: web.Request) -> web.Response:
        """What the shop itself knows: whatever the cashier wrote into the address is not looked at."""
        number = request.match_info["number"]
        found = await self.ledger.do(lambda connection: bookkeeping.look_up(connection, number))
        return web.json_response(found, status=200 if found else 404)
