"""A simulated customer's browser: it opens what the channel gave, submits its form, and comes to the cashier's page.

No part of a shop to be copied: there the customer brings their own. It presses nothing: whether somebody pays, and
when, is the channel simulator's affair. Codes are scanned with a telephone and open nothing here.
"""

import asyncio
import logging
from typing import Any
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from holdfast_client import Credential

TRIES_MAX = 5  # a customer reloads a page that does not come
RELOAD_AFTER_S = 0.3
PATIENCE_S = 10.0
CONNECTIONS_MAX = 64
TOO_MANY = 429

log = logging.getLogger("customer")


class Browser:
    """All browsers of all customers: `async with Browser() as browser:`."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._opening: set[asyncio.Task[bool]] = set()

    async def __aenter__(self) -> "Browser":
        connector, timeout = aiohttp.TCPConnector(limit=CONNECTIONS_MAX), aiohttp.ClientTimeout(total=PATIENCE_S)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def receive(self, credential: Credential) -> None:
        """The shop has answered: the customer goes where it sends them, while the shop serves the next."""
        task = asyncio.create_task(self.open(credential.type, credential.value))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def open(self, kind: str, value: Any) -> bool:
        """Go to the cashier. False: the page never came.

        Args:
            kind: the credential's type.
            value: an address, or a form's `action`, `charset` and `fields`.
        """
        if kind not in ("url", "form"):
            return True
        for _ in range(TRIES_MAX):
            status = await (self._get(value) if kind == "url" else self._submit(value))
            if 200 <= status < 300:
                return True
            if 400 <= status < 500 and status != TOO_MANY:
                break
            await asyncio.sleep(RELOAD_AFTER_S)
        log.warning("the page for a %s did not come: %s", kind, status)
        return False

    async def _get(self, address: str) -> int:
        # encoded: an address that was signed goes out as it is
        return await self._load("GET", URL(address, encoded=True))

    async def _submit(self, form: dict[str, Any]) -> int:
        body = urlencode(form["fields"], encoding=form["charset"]).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return await self._load("POST", URL(form["action"], encoded=True), data=body, headers=headers)

    async def _load(self, method: str, address: URL, **content: Any) -> int:
        """The status of the page it ends at, redirects followed; 0 if there is none."""
        assert self._session is not None
        try:
            async with self._session.request(method, address, **content) as answer:
                await answer.read()
                return answer.status
        except (aiohttp.ClientError, TimeoutError):
            return 0
