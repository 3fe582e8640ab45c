"""The gateway's calls as typed coroutines.

Every call may be repeated: a create under the same `out_order_no` is the same order, a pay finds the live attempt, a
refund under the same `out_refund_no` is the same refund.
So each is retried until its deadline, and what is unknown then is raised as unknown.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, cast
from urllib.parse import quote

import aiohttp
import msgspec

from holdfast_client.errors import Problem, ProblemDocument, Unreachable
from holdfast_client.retry import Retry
from holdfast_client.schema import Channel, Order, PayResult, Refund

T = TypeVar("T")

RETRIED_STATUSES = frozenset({429, 500, 502, 503, 504})


class Holdfast:
    """One gateway, on behalf of one app: `async with Holdfast(base_url, api_key) as holdfast:`."""

    def __init__(self, base_url: str, api_key: str, *, retry: Retry | None = None, connections_max: int = 64) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {"authorization": f"Bearer {api_key}", "content-type": "application/json"}
        self._retry = retry or Retry()
        self._connections_max = connections_max
        self._rng = random.Random()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        await self.close_connections()

    async def close_connections(self) -> None:
        """Give the connections back. The client can be used again afterwards."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def create_order(
        self, *, out_order_no: str, amount: int, currency: str, subject: str, **optional: Any
    ) -> Order:
        """Create an order, or find the one this number already names.

        Args:
            out_order_no: your own number; it is what makes a retry safe, so write it down before you call.
            amount: in minor units (fen).
            currency: three letters.
            subject: what the payer reads.
            optional: buyer, items, expires_in_s, webhook_url, return_url, metadata, late_payment (what becomes of a
                payment after the order's end: accept, refund, hold).

        Raises:
            Problem: refused, among others `order_conflict` and `duplicate_submission` (see its `order_id`).
            Unreachable: unknown; call again with the same number.
        """
        wanted = {"out_order_no": out_order_no, "amount": amount, "currency": currency, "subject": subject, **optional}
        return await self._call("POST", "/v1/orders", Order, wanted)

    async def pay(
        self, order_id: str, *, channel: str, method: str, params: Mapping[str, str] | None = None
    ) -> PayResult:
        """Make the order payable. A result without a credential is not a no: pay again in a moment.

        Args:
            order_id: the gateway's.
            channel: one of `channels()`; another than before closes the payment that is open at its channel first.
            method: one of that channel's.
            params: what that method needs to know, such as the payer's openid.

        Raises:
            Problem: refused; `payment_in_progress` if another payment of the order is open and can not be closed now
                (`detail` says which and until when, and it may be tried again).
            Unreachable: unknown; call again.
        """
        wanted = {"channel": channel, "method": method}
        wish = wanted if params is None else {**wanted, "params": dict(params)}
        return await self._call("POST", _of(order_id, "/pay"), PayResult, wish)

    async def qr_svg(self, order_id: str) -> bytes:
        """The QR code that the payer is to scan now, as an SVG picture.

        Raises:
            Problem: `qr_unavailable` if there is none to show.
        """
        return await self._call("GET", _of(order_id, "/qr.svg"), bytes)

    async def channels(self) -> list[Channel]:
        """What this installation can do: its channels, their methods, and what each must be told."""
        return (await self._call("GET", "/v1/channels", _Channels)).channels

    async def get(self, order_id: str) -> Order:
        """The order as the gateway knows it now."""
        return await self._call("GET", _of(order_id), Order)

    async def get_by_number(self, out_order_no: str) -> Order:
        """The order your own number names; `Problem` with status 404 if no create of it ever arrived."""
        return await self._call("GET", f"/v1/orders?out_order_no={quote(out_order_no, safe='')}", Order)

    async def close(self, order_id: str) -> Order:
        """Ask that it can not be paid any more. Only `state` closed is a yes: the channel has the last word."""
        return await self._call("POST", _of(order_id, "/close"), Order)

    async def sync(self, order_id: str) -> Order:
        """The order after the gateway asked the channel now."""
        return await self._call("POST", _of(order_id, "/sync"), Order)

    # --- money back

    async def refund(self, order_id: str, *, out_refund_no: str, amount: int, reason: str = "") -> Refund:
        """Give back a part of a paid order, or all of it; or find the refund this number already names.

        Only `state` says how far it is: most channels take some time, and `unknown` is not a no. A webhook
        `refund.succeeded` or `refund.failed` tells what came of it.

        Args:
            order_id: the gateway's.
            out_refund_no: your own number; it is what makes a retry safe, so write it down before you call.
            amount: in minor units (fen); all refunds that did not fail together never exceed what was paid.
            reason: what the payer reads at the platform.

        Raises:
            Problem: refused, among others `refund_exceeds_paid`, `order_not_paid`, and `refund_refused`: the channel's
                definite no, after which another try takes a number of its own.
            Unreachable: unknown; call again with the same number.
        """
        wanted = {"out_refund_no": out_refund_no, "amount": amount, "reason": reason}
        return await self._call("POST", _of(order_id, "/refunds"), Refund, wanted)

    async def get_refund(self, refund_id: str) -> Refund:
        """The refund as the gateway knows it now."""
        return await self._call("GET", _of_refund(refund_id), Refund)

    async def refund_by_number(self, out_refund_no: str) -> Refund:
        """The refund your own number names; `Problem` with status 404 if it was never taken."""
        return await self._call("GET", f"/v1/refunds?out_refund_no={quote(out_refund_no, safe='')}", Refund)

    async def sync_refund(self, refund_id: str) -> Refund:
        """The refund after the gateway asked the channel now."""
        return await self._call("POST", _of_refund(refund_id, "/sync"), Refund)

    async def _call(self, method: str, path: str, kind: type[T], wanted: dict[str, Any] | None = None) -> T:
        body = None if wanted is None else msgspec.json.encode(wanted)
        deadline = time.monotonic() + self._retry.deadline_s
        tries = 0
        while True:
            tries += 1
            failure, asked_for_s = await self._try(method, path, kind, body, deadline)
            if not isinstance(failure, Problem | _Silence):
                return failure
            pause_s = self._retry.pause_s(tries, self._rng, asked_for_s)
            if time.monotonic() + pause_s >= deadline:
                raise (
                    failure if isinstance(failure, Problem) else Unreachable(f"{method} {path}", tries, failure.reason)
                )
            await asyncio.sleep(pause_s)

    async def _try(
        self, method: str, path: str, kind: type[T], body: bytes | None, deadline: float
    ) -> tuple["T | Problem | _Silence", float]:
        """One try: the answer, or what may pass if tried again; and the pause the gateway asked for."""
        timeout_s = max(0.001, min(self._retry.try_timeout_s, deadline - time.monotonic()))
        try:
            async with self._open_session().request(
                method,
                self._base_url + path,
                data=body,
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return _Silence(str(error) or type(error).__name__), 0.0
        if response.status < 300:
            return _decoded(answer, kind), 0.0
        problem = _problem(response.status, answer)
        if response.status not in RETRIED_STATUSES:
            raise problem
        return problem, _retry_after_s(response.headers.get("retry-after", ""))

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=self._connections_max))
        return self._session


class _Channels(msgspec.Struct, frozen=True):
    channels: list[Channel]


class _Silence(msgspec.Struct, frozen=True):
    """No usable answer to one try."""

    reason: str


def _of(order_id: str, verb: str = "") -> str:
    return f"/v1/orders/{quote(order_id, safe='')}{verb}"


def _of_refund(refund_id: str, verb: str = "") -> str:
    return f"/v1/refunds/{quote(refund_id, safe='')}{verb}"


def _decoded(answer: bytes, kind: type[T]) -> T | _Silence:
    if kind is bytes:
        return cast(T, answer)
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _Silence(f"unreadable answer: {error}")


def _problem(status: int, answer: bytes) -> Problem:
    try:
        return Problem(status, msgspec.json.decode(answer, type=ProblemDocument))
    except (msgspec.DecodeError, UnicodeDecodeError):  # a proxy's own page
        return Problem(status, ProblemDocument(title=answer[:200].decode("utf-8", "replace")))


def _retry_after_s(header: str) -> float:
    with contextlib.suppress(ValueError):
        return min(max(float(header), 0.0), 60.0)
    return 0.0
