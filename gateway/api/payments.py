"""What apps call to have an order paid: pay, and the QR code of it as a picture."""

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO

import msgspec
from aiohttp import web

from actors.events import CredentialType, PayRequested
from actors.lifecycle import usable
from actors.order import Attempt, AttemptState, Order, Reply
from actors.ports import Clock
from gateway.api.bodies import Pay, Reader, read
from gateway.api.callers_orders import CallersOrders, json_response, refuse
from gateway.api.channels import chosen
from gateway.api.problems import Problem
from gateway.api.routing import Call, Route
from gateway.effect_runner import InstalledChannel
from gateway.representation import pay_json, rfc3339

PAY_ROUNDS_MAX = 6  # close, submit, query, submit again, ...: then the caller is told to wait
INVALID_REQUEST = "invalid_request"  # what channels' flows call a request that can not be sent at all
QR_CODES_MAX = 512  # drawn ones kept: who shows one asks for it again

_read_pay = Reader(Pay)
_encode = msgspec.json.Encoder(order="deterministic").encode  # whatever order a caller wrote names in


class PaymentsApi:
    """The handlers, with the parts they need. `pay_wait_s` is how long a caller waits for channels."""

    def __init__(
        self, orders: CallersOrders, clock: Clock, channels: Mapping[str, InstalledChannel], pay_wait_s: float
    ) -> None:
        self._orders = orders
        self._clock = clock
        self._channels = channels
        self._pay_wait_s = pay_wait_s

    def routes(self) -> list[Route]:
        """Where the handlers stand."""
        return [
            Route("POST", "/v1/orders/{order_id}/pay", self.pay),
            Route("GET", "/v1/orders/{order_id}/qr.svg", self.qr),
        ]

    # --- pay ------------------------------------------------------------------------------------------------------

    async def pay(self, request: Call) -> web.Response:
        """200 and the credential; 202 while the channel's answer is not known; 409 if another payment is in the way."""
        order = await self._orders.of(request)
        wish = self._wish(await read(request, _read_pay))
        deadline = asyncio.get_running_loop().time() + self._pay_wait_s
        tried: frozenset[int] = frozenset()
        for _ in range(PAY_ROUNDS_MAX):
            wish = msgspec.structs.replace(wish, at_ms=self._clock.now_ms(), tried_to_close=tried)
            answer = await self._orders.tell(order, wish)
            live = answer.order.live_attempt
            if answer.reply is Reply.DONE:
                return json_response(pay_json(answer.order, live))
            refuse(answer, _in_the_way(live) if answer.reply is Reply.PAYMENT_IN_PROGRESS else "")
            assert live is not None, "whoever waits for a payment has an attempt"
            if live.state is AttemptState.CLOSING:
                tried |= {live.number}
            settled = await self._settled(answer.order, live, wish, deadline)
            if settled is not None:
                return settled
        return await self._not_settled(order, wish)

    def _wish(self, body: Pay) -> PayRequested:
        channel = chosen(self._channels, body)
        params_json = _encode(body.params).decode() if body.params else None
        return PayRequested(
            at_ms=self._clock.now_ms(),
            channel=body.channel,
            account=channel.account,
            method=body.method,
            params_json=params_json,
            renewable=channel.methods[body.method].renewable,
        )

    async def _settled(
        self, order: Order, attempt: Attempt, wish: PayRequested, deadline: float
    ) -> web.Response | None:
        """Wait until the attempt moves; the answer if that ends the request, None if the order is to be told again."""
        while (latest := await self._orders.later(order, deadline)) is not None:
            now = latest.attempt(attempt.number) or attempt
            if now.state is not AttemptState.SUBMITTING:
                return _answer(latest, now, self._clock.now_ms()) if now.fulfils(wish) else None
            order = latest
        return await self._not_settled(order, wish)

    async def _not_settled(self, order: Order, wish: PayRequested) -> web.Response:
        """What is true when the caller has waited long enough."""
        latest = await self._orders.latest(order)
        live = latest.live_attempt
        if live is not None and (live.state is AttemptState.CLOSING or not live.fulfils(wish)):
            raise Problem("payment_in_progress", _in_the_way(live), order_id=order.order_id)
        settled = None if live is None else _answer(latest, live, self._clock.now_ms())
        return settled or json_response(pay_json(latest, live), 202)

    # --- show -----------------------------------------------------------------------------------------------------

    async def qr(self, request: Call) -> web.Response:
        """The QR code the payer is to scan now, as SVG."""
        order = await self._orders.of(request)
        content = _qr_content(order, self._clock.now_ms())
        try:
            svg = await asyncio.to_thread(_svg, content)
        except ValueError:  # segno's word for a content that no QR code can hold
            raise Problem("qr_unavailable", "it is too long for a QR code", order_id=order.order_id) from None
        return web.Response(body=svg, content_type="image/svg+xml", headers={"Cache-Control": "no-store"})


def _answer(order: Order, attempt: Attempt, at_ms: int) -> web.Response | None:
    """What the channel said to the very payment that was asked for; None if that is not the end of it."""
    if attempt.state is AttemptState.FAILED:
        code, said = attempt.failure_code, attempt.failure_message or ""
        field = said.partition(": ")[0] if code == INVALID_REQUEST else None  # a flow's refusal begins with it
        raise Problem("payment_refused", f"{code}: {said}", param=field, order_id=order.order_id)
    # A bar code may be paid at once; what is to be shown must still be good.
    done = attempt.state is AttemptState.SUCCEEDED
    shown = attempt.state is AttemptState.PENDING and usable(attempt.credential, at_ms)
    return json_response(pay_json(order, attempt)) if done or shown else None


def _in_the_way(live: Attempt | None) -> str:
    if live is None:
        return ""
    name = f"{live.channel} {live.method}"
    if live.state is AttemptState.CLOSING:
        return f"{name} is being closed, and its channel has not confirmed that yet"
    if live.credential is None:
        return f"{name} was started, and its channel has not answered yet"
    return f"{name} can not be closed now; it ends when {rfc3339(live.credential.expires_at_ms)} is some minutes past"


def _qr_content(order: Order, at_ms: int) -> str:
    live = order.live_attempt
    if live is None:
        raise Problem("qr_unavailable", f"no payment is open: the order is {order.state}", order_id=order.order_id)
    credential = live.credential
    if live.state is not AttemptState.PENDING or credential is None:
        raise Problem("qr_unavailable", f"the payment is {live.state}", order_id=order.order_id)
    if credential.type is not CredentialType.QR:
        detail = f"{live.channel} {live.method} is paid by {credential.type}"
        raise Problem("qr_unavailable", detail, order_id=order.order_id)
    if at_ms >= credential.expires_at_ms:
        raise Problem("qr_unavailable", "it has expired: pay again", order_id=order.order_id)
    return credential.value


@lru_cache(maxsize=QR_CODES_MAX)
def _svg(content: str) -> bytes:
    """Black on white with the quiet zone that scanners want, whatever page it is put on. Milliseconds: off the loop."""
    import segno  # noqa: PLC0415 - costs start-up 23 ms, and many installations never draw

    drawn = BytesIO()
    segno.make(content, error="m", micro=False).save(drawn, kind="svg", scale=8, border=4, light="white", xmldecl=False)
    return drawn.getvalue()
