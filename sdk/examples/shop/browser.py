"""A simulated customer: opens what the channel gave, submits its form, scans its code, and comes to the cashier's page.

No part of a shop to be copied: there the customer brings browser and telephone. It presses nothing: whether somebody
pays, and when, is the channel simulator's affair.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
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
    """All browsers of all customers: `async with Browser() as browser:`.

    `scan_at` is where a telephone takes the codes that it scans: the simulator's `/cashier`. Empty: it scans none.
    """

    def __init__(self, scan_at: str = "") -> None:
        self._scan_at = scan_at
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
            value: an address, a form's `action`, `charset` and `fields`, or a code's content.
        """
        load = self._loading(kind, value)
        if load is None:
            return True
        for _ in range(TRIES_MAX):
            status = await load()
            if 200 <= status < 300:
                return True
            if 400 <= status < 500 and status != TOO_MANY:
                break
            await asyncio.sleep(RELOAD_AFTER_S)
        log.warning("the page for a %s did not come: %s", kind, status)
        return False

    def _loading(self, kind: str, value: Any) -> Callable[[], Awaitable[int]] | None:
        match kind:
            case "url":  # encoded: an address that was signed goes out as it is
                return partial(self._load, "GET", URL(value, encoded=True))
            case "form":
                return partial(self._submit, value)
            case "qr" if self._scan_at:
                return partial(self._load, "GET", URL(self._scan_at).with_query(code=value))
        return None

    async def _submit(self, form: dict[str, Any]) -> int:
        body = urlencode(form["fields"], encoding=form["charset"]).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return await self._load("POST", URL(form["action"], encoded=True), data=body, headers=headers)

    async def _load(self, method: str, address: URL, **content: Any) -> int:
        """The status of the page it ends at, redirects followed; 0 if that is not the cashier's, to which all lead."""
        assert self._session is not None
        try:
            async with self._session.request(method, address, **content) as answer:
                await answer.read()
                return answer.status if answer.history or answer.status >= 400 else 0
        except (aiohttp.ClientError, TimeoutError):
            return 0
