"""What apps call: create, get, pay, close, sync, timeline."""

import asyncio
import hashlib
import re
from collections.abc import Mapping

import msgspec
from aiohttp import web

from actors.actor import Answer
from actors.errors import OrderNotFound
from actors.events import CloseRequested, Event, PayRequested, SyncRequested
from actors.order import Attempt, AttemptState, Content, LatePolicy, Order, OrderState, Reply, new_order
from actors.ports import Clock, Verdict
from actors.registry import Registry
from gateway import ids
from gateway.api.auth import Authenticator
from gateway.api.bodies import OUT_ORDER_NO, CreateOrder, Pay, Reader, check_url, read, read_nothing
from gateway.api.problems import Problem
from gateway.api.routing import Call, Route
from gateway.dedup import Dedup
from gateway.effect_runner import InstalledChannel
from gateway.representation import order_json, pay_json, rfc3339
from gateway.storage.apps import App
from gateway.storage.journal import Journal

CREATE_TRIES_MAX = 3  # a submission may run out between the refusal and our looking at it
PAY_ROUNDS_MAX = 6  # submit, query, submit again, ...: then the caller is told to wait
ASK_AFTER_MS = 3000  # a paying order this old is asked after when somebody reads it, and not more often

_ORDER_ID = re.compile(r"[0-9A-Z]{26}\Z")
_read_create = Reader(CreateOrder)
_read_pay = Reader(Pay)
_encode = msgspec.json.Encoder(order="deterministic").encode  # whatever order a caller wrote names in


class Settings(msgspec.Struct, frozen=True):
    """What the handlers need of the configuration."""

    expires_in_s: float
    pay_wait_s: float
    single_process: bool


class OrdersApi:
    """The handlers, with the parts they need."""

    def __init__(
        self,
        authenticator: Authenticator,
        registry: Registry,
        journal: Journal,
        dedup: Dedup,
        clock: Clock,
        channels: Mapping[str, InstalledChannel],
        settings: Settings,
    ) -> None:
        self._authenticator = authenticator
        self._registry = registry
        self._journal = journal
        self._dedup = dedup
        self._clock = clock
        self._channels = channels
        self._settings = settings

    def routes(self) -> list[Route]:
        """Where the handlers stand."""
        order = "/v1/orders/{order_id}"
        return [
            Route("POST", "/v1/orders", self.create),
            Route("GET", "/v1/orders", self.find),
            Route("GET", order, self.get),
            Route("POST", f"{order}/pay", self.pay),
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
                return _json(order_json(order), 201)
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
            return _json(order_json(order))
        if fingerprint is not None:
            first = await self._journal.duplicate_of(content.app_id, fingerprint, content.out_order_no)
            if first is not None:
                raise Problem("duplicate_submission", param="out_order_no", order_id=first)
        return None

    # --- read -----------------------------------------------------------------------------------------------------

    async def get(self, request: Call) -> web.Response:
        """The order, as it is durable now."""
        order = await self._order_of(request)
        self._ask_channel_sometimes(order)
        return _json(order_json(order))

    async def find(self, request: Call) -> web.Response:
        """The order an app knows by its own number."""
        app = await self._authenticator.app_of(request)
        out_order_no = _out_order_no(request)
        order = await self._journal.by_out_order_no(app.app_id, out_order_no)
        if order is None:
            raise Problem("order_not_found", param="out_order_no")
        self._ask_channel_sometimes(order)
        return _json(order_json(order))

    async def timeline(self, request: Call) -> web.Response:
        """Every transition of the order with its evidence."""
        order = await self._order_of(request)
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
        return _json(_encode({"order_id": order.order_id, "events": events}))

    def _ask_channel_sometimes(self, order: Order) -> None:
        """Whoever reads a paying order wants to know: let the channel be asked, once for all who read."""
        if order.state not in (OrderState.PAYING, OrderState.CLOSING) or not order.attempts:
            return
        old = self._clock.now_ms() - order.attempts[-1].submitted_at_ms >= ASK_AFTER_MS
        if old and self._registry.may_ask(order.order_id, ASK_AFTER_MS):
            asked = self._registry.ask(order.order_id, SyncRequested(self._clock.now_ms()), seen=order.version)
            asked.add_done_callback(lambda done: done.cancelled() or done.exception())

    # --- pay ------------------------------------------------------------------------------------------------------

    async def pay(self, request: Call) -> web.Response:
        """200 and the credential; 202 if the channel's answer is not known yet."""
        order = await self._order_of(request)
        body = await read(request, _read_pay)
        installed = self._installed(body)
        params_json = None if body.params is None else _encode(body.params).decode()
        deadline = asyncio.get_running_loop().time() + self._settings.pay_wait_s
        for _ in range(PAY_ROUNDS_MAX):
            at_ms = self._clock.now_ms()
            event = PayRequested(at_ms, body.channel, installed.channel.account, body.method, params_json)
            answer = await self._ask(order, event)
            if answer.reply is Reply.DONE:
                return _json(pay_json(answer.order, answer.order.live_attempt))
            _refuse(answer)
            attempt = answer.order.live_attempt
            assert attempt is not None, "whoever waits for a payment has an attempt"
            settled = await self._settled(answer.order, attempt, deadline)
            if settled is not None:
                return settled
        return _json(pay_json(answer.order, answer.order.live_attempt), 202)

    async def _settled(self, order: Order, attempt: Attempt, deadline: float) -> web.Response | None:
        """Wait until the attempt moves; the answer if that ends the request, None if it is to be asked again."""
        while True:
            moved = await self._changed(order.order_id, deadline)
            latest = self._registry.peek(order.order_id) or await self._journal.load(order.order_id) or order
            now = latest.attempt(attempt.number) or attempt
            if now.state is AttemptState.FAILED:
                detail = f"{now.failure_code}: {now.failure_message}"
                raise Problem("payment_refused", detail, order_id=order.order_id)
            if now.state is AttemptState.PENDING and now.credential is not None:
                return _json(pay_json(latest, now))
            if not moved:
                return _json(pay_json(latest, now), 202)
            if now.state is not AttemptState.SUBMITTING:
                return None

    async def _changed(self, order_id: str, deadline: float) -> bool:
        left_s = deadline - asyncio.get_running_loop().time()
        if left_s <= 0:
            return False
        try:
            async with asyncio.timeout(left_s):
                await self._registry.changed(order_id)
        except TimeoutError:
            return False
        return True

    def _installed(self, body: Pay) -> InstalledChannel:
        installed = self._channels.get(body.channel)
        if installed is None:
            choice = ", ".join(sorted(self._channels)) or "none"
            raise Problem("channel_not_installed", f"installed channels: {choice}", param="channel")
        if body.method not in installed.channel.methods:
            choice = ", ".join(sorted(installed.channel.methods))
            raise Problem("method_not_offered", f"{body.channel} offers: {choice}", param="method")
        return installed

    # --- close, sync ----------------------------------------------------------------------------------------------

    async def close(self, request: Call) -> web.Response:
        """200 and the closed order; 202 while the channel has not confirmed."""
        order = await self._order_of(request)
        await read_nothing(request)
        deadline = asyncio.get_running_loop().time() + self._settings.pay_wait_s
        answer = await self._ask(order, CloseRequested(self._clock.now_ms()))
        _refuse(answer)
        latest = answer.order
        while latest.state is OrderState.CLOSING and await self._changed(order.order_id, deadline):
            latest = self._registry.peek(order.order_id) or latest
        if latest.state is OrderState.PAID:
            raise Problem("order_paid", "it was paid before the channel could close it", order_id=order.order_id)
        return _json(order_json(latest), 200 if latest.state is OrderState.CLOSED else 202)

    async def sync(self, request: Call) -> web.Response:
        """Ask the channel now, and give the order as it is then."""
        order = await self._order_of(request)
        await read_nothing(request)
        answer = await self._ask(order, SyncRequested(self._clock.now_ms()))
        if answer.reply is Reply.WAIT:
            await self._changed(order.order_id, asyncio.get_running_loop().time() + self._settings.pay_wait_s)
        return _json(order_json(await self._journal.load(order.order_id) or answer.order))

    # --- pieces ---------------------------------------------------------------------------------------------------

    async def _order_of(self, request: Call) -> Order:
        """The order of the path, if it is the caller's; another app's order does not exist for it."""
        app = await self._authenticator.app_of(request)
        order_id = request.match_info["order_id"]
        if not _ORDER_ID.match(order_id):
            raise Problem("order_not_found", param="order_id")
        order = self._remembered(order_id) or await self._journal.load(order_id)
        if order is None or order.content.app_id != app.app_id:
            raise Problem("order_not_found", param="order_id")
        return order

    def _remembered(self, order_id: str) -> Order | None:
        """The actor's order, where it can not be older than what another process has answered."""
        order = self._registry.peek(order_id)
        final = order is not None and order.state is OrderState.PAID
        return order if final or self._settings.single_process else None

    async def _ask(self, order: Order, event: Event) -> Answer:
        """Tell the order, at least at the version that was just read."""
        try:
            return await self._registry.ask(order.order_id, event, seen=order.version)
        except OrderNotFound:
            raise Problem("order_not_found", param="order_id") from None


def _out_order_no(request: Call) -> str:
    """The number of the query, checked as strictly as when the order was made: no other can exist."""
    given = request.query.getall("out_order_no", [])
    if not any(given):
        raise Problem("parameter_missing", "name the order: ?out_order_no=", param="out_order_no")
    if len(given) > 1:
        raise Problem("parameter_duplicate", "one order at a time", param="out_order_no")
    if not OUT_ORDER_NO.match(given[0]):
        raise Problem("parameter_invalid", f"expected {OUT_ORDER_NO.pattern}", param="out_order_no")
    return given[0]


_REFUSALS: Mapping[Reply, str] = {reply: str(reply) for reply in Reply if reply not in (Reply.DONE, Reply.WAIT)}


def _refuse(answer: Answer) -> None:
    code = _REFUSALS.get(answer.reply)
    if code is not None:
        raise Problem(code, order_id=answer.order.order_id)


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


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")
