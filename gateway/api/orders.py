"""What apps call: create, get, close, sync, timeline."""

import asyncio
import hashlib

import msgspec
from aiohttp import web

from actors.events import CloseRequested, SyncRequested
from actors.order import Content, LatePolicy, Order, OrderState, Reply, new_order
from actors.ports import Clock, Verdict
from actors.registry import Registry
from gateway import ids
from gateway.api.auth import Authenticator
from gateway.api.bodies import CreateOrder, Reader, check_url, number_asked_for, read, read_nothing
from gateway.api.callers_orders import CallersOrders, json_response, refuse
from gateway.api.problems import Problem
from gateway.api.routing import Call, Route
from gateway.dedup import Dedup
from gateway.representation import order_json, rfc3339
from gateway.storage.apps import App
from gateway.storage.journal import Journal

CREATE_TRIES_MAX = 3  # a submission may run out between the refusal and our looking at it
ASK_AFTER_MS = 3000  # a paying order this old is asked after when somebody reads it, and not more often

_read_create = Reader(CreateOrder)
_encode = msgspec.json.Encoder(order="deterministic").encode  # whatever order a caller wrote names in


class Settings(msgspec.Struct, frozen=True):
    """What the handlers need of the configuration."""

    expires_in_s: float
    pay_wait_s: float


class OrdersApi:
    """The handlers, with the parts they need."""

    def __init__(
        self,
        authenticator: Authenticator,
        registry: Registry,
        journal: Journal,
        orders: CallersOrders,
        dedup: Dedup,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._authenticator = authenticator
        self._registry = registry
        self._journal = journal
        self._orders = orders
        self._dedup = dedup
        self._clock = clock
        self._settings = settings

    def routes(self) -> list[Route]:
        """Where the handlers stand."""
        order = "/v1/orders/{order_id}"
        return [
            Route("POST", "/v1/orders", self.create),
            Route("GET", "/v1/orders", self.find),
            Route("GET", order, self.get),
            Route("POST", f"{order}/close", self.close),
            Route("POST", f"{order}/sync", self.sync),
            Route("GET", f"{order}/timeline", self.timeline),
        ]

    # --- create ---------------------------------------------------------------------------------------------------

    async def create(self, request: Call) -> web.Response:
        """201 and the order; 200 if it was there already; 409 if it is another one or a duplicate submission."""
        app = await self._authenticator.app_of(request)
        body = await read(request, _read_create)
        check_url("webhook_url", body.webhook_url)
        check_url("return_url", body.return_url)
        content = _content(app, body)
        expires_in_ms = int((body.expires_in_s or self._settings.expires_in_s) * 1000)
        wanted_ms = None if body.expires_in_s is None else expires_in_ms
        fingerprint = None if body.buyer is None else _fingerprint(content)
        if fingerprint is not None and await self._dedup.hint(app.app_id, fingerprint, content.out_order_no):
            answer = await self._existing(content, wanted_ms, fingerprint)
            if answer is not None:
                return answer
        for _ in range(CREATE_TRIES_MAX):
            at_ms = self._clock.now_ms()
            order = new_order(ids.order_id(at_ms), content, at_ms, at_ms + expires_in_ms)
            if await self._registry.create(order, fingerprint) is Verdict.APPLIED:
                return json_response(order_json(order), 201)
            answer = await self._existing(content, wanted_ms, fingerprint)
            if answer is not None:
                return answer
        raise Problem("overloaded", "orders like this one come and go; try again")

    async def _existing(
        self, content: Content, wanted_ms: int | None, fingerprint: bytes | None
    ) -> web.Response | None:
        """The answer if this order exists, or one like it was submitted a moment ago. Postgres judges."""
        order = await self._journal.by_out_order_no(content.app_id, content.out_order_no)
        if order is not None:
            _refuse_difference(order, content, wanted_ms)
            return json_response(order_json(order))
        if fingerprint is not None:
            first = await self._journal.duplicate_of(content.app_id, fingerprint, content.out_order_no)
            if first is not None:
                raise Problem("duplicate_submission", param="out_order_no", order_id=first)
        return None

    # --- read -----------------------------------------------------------------------------------------------------

    async def get(self, request: Call) -> web.Response:
        """The order, as it is durable now."""
        order = await self._orders.of(request)
        self._ask_channel_sometimes(order)
        return json_response(order_json(order))

    async def find(self, request: Call) -> web.Response:
        """The order an app knows by its own number."""
        app = await self._authenticator.app_of(request)
        out_order_no = number_asked_for(request, "out_order_no")
        order = await self._journal.by_out_order_no(app.app_id, out_order_no)
        if order is None:
            raise Problem("order_not_found", param="out_order_no")
        self._ask_channel_sometimes(order)
        return json_response(order_json(order))

    async def timeline(self, request: Call) -> web.Response:
        """Every transition of the order with its evidence."""
        order = await self._orders.of(request)
        events = [
            {
                "version": record["version"],
                "at": rfc3339(record["at_ms"]),
                "type": record["type"],
                "state": record["state"],
                "evidence": msgspec.Raw((record["evidence"] or "null").encode()),
            }
            for record in await self._journal.timeline(order.order_id)
        ]
        return json_response(_encode({"order_id": order.order_id, "events": events}))

    def _ask_channel_sometimes(self, order: Order) -> None:
        """Whoever reads a paying order wants to know: let the channel be asked, once for all who read."""
        if order.state not in (OrderState.PAYING, OrderState.CLOSING) or not order.attempts:
            return
        old = self._clock.now_ms() - order.attempts[-1].submitted_at_ms >= ASK_AFTER_MS
        if old and self._registry.may_ask(order.order_id, ASK_AFTER_MS):
            asked = self._registry.ask(order.order_id, SyncRequested(self._clock.now_ms()), seen=order.version)
            asked.add_done_callback(lambda done: done.cancelled() or done.exception())

    # --- close, sync ----------------------------------------------------------------------------------------------

    async def close(self, request: Call) -> web.Response:
        """200 and the closed order; 202 while the channel has not confirmed."""
        order = await self._orders.of(request)
        await read_nothing(request)
        deadline = asyncio.get_running_loop().time() + self._settings.pay_wait_s
        answer = await self._orders.tell(order, CloseRequested(self._clock.now_ms()))
        refuse(answer)
        latest = answer.order
        while latest.state is OrderState.CLOSING and (later := await self._orders.later(latest, deadline)):
            latest = later
        if latest.state is OrderState.PAID:
            raise Problem("order_paid", "it was paid before the channel could close it", order_id=order.order_id)
        return json_response(order_json(latest), 200 if latest.state is OrderState.CLOSED else 202)

    async def sync(self, request: Call) -> web.Response:
        """Ask the channel now, and give the order as it is then."""
        order = await self._orders.of(request)
        await read_nothing(request)
        answer = await self._orders.tell(order, SyncRequested(self._clock.now_ms()))
        if answer.reply is Reply.WAIT:
            await self._orders.later(answer.order, asyncio.get_running_loop().time() + self._settings.pay_wait_s)
        return json_response(order_json(await self._journal.load(order.order_id) or answer.order))


def _content(app: App, body: CreateOrder) -> Content:
    return Content(
        app_id=app.app_id,
        out_order_no=body.out_order_no,
        amount=body.amount,
        currency=body.currency,
        subject=body.subject,
        buyer=body.buyer,
        items_json=None if body.items is None else _encode(body.items).decode(),
        metadata_json=None if body.metadata is None else _encode(body.metadata).decode(),
        webhook_url=body.webhook_url,
        return_url=body.return_url,
        late_payment=LatePolicy(body.late_payment),
    )


def _fingerprint(content: Content) -> bytes:
    """What makes two submissions the same, whatever number they carry."""
    same = (content.amount, content.currency, content.subject, content.buyer, content.items_json)
    return hashlib.blake2b(_encode(same), digest_size=16, key=content.app_id.encode()).digest()


_SHOWN_AS = {"items_json": "items", "metadata_json": "metadata"}


def _refuse_difference(order: Order, content: Content, wanted_ms: int | None) -> None:
    """The same number must mean the same order. A life the app did not name is ours to choose, then and now."""
    for name in Content.__struct_fields__:
        if getattr(order.content, name) != getattr(content, name):
            param = _SHOWN_AS.get(name, name)
            raise Problem("order_conflict", f"`{param}` differs", param=param, order_id=order.order_id)
    if wanted_ms is not None and order.expires_at_ms - order.created_at_ms != wanted_ms:
        raise Problem("order_conflict", "`expires_in_s` differs", param="expires_in_s", order_id=order.order_id)
