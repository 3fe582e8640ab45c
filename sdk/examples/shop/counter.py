"""The shop's own HTTP door: webhooks come in, anyone may ask how it stands."""

import time

import msgspec
from aiohttp import web

from examples.shop import bookkeeping
from examples.shop.checkout import log
from examples.shop.ledger import Ledger
from holdfast_client import WebhookRefused, verify_webhook


class Counter(msgspec.Struct, frozen=True):
    """Two routes over one ledger."""

    ledger: Ledger
    webhook_secret: str

    def application(self) -> web.Application:
        """POST /webhooks and GET /status."""
        application = web.Application(client_max_size=256 * 1024)
        application.router.add_post("/webhooks", self._webhook)
        application.router.add_get("/status", self._status)
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
