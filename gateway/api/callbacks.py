"""What channels call: notifications. Believed only when verified, recorded in any case, acknowledged when durable."""

import re
from collections.abc import Mapping

import msgspec
import structlog
from aiohttp import web

from actors.checkpoint import Arrival, record
from actors.errors import ActorError
from actors.events import SyncRequested
from actors.order import Order
from actors.ports import Clock, Journal
from actors.registry import Registry
from channels.contract import Acknowledgement, Channel, ChannelPayment, ChannelRefund, Notified, RejectReason
from channels.errors import NotificationRejected
from gateway import ids
from gateway.api.bodies import read_bytes
from gateway.api.problems import Problem
from gateway.api.routing import Call, Route
from gateway.channel_keys import KeyRefresher
from gateway.effect_runner import InstalledChannel
from gateway.inbox import Inbox, Tell, Verdict
from gateway.metrics import Metrics
from gateway.pacing import TokenBucket
from gateway.probe import probe

_ORDER_ID = re.compile(r"[0-9A-Z]{26}\Z")
_REFUND_ID = re.compile(r"[0-9A-Z]{26}[RX][0-9A-Z]{5}\Z")
_NUMBER = re.compile(r"(?!00)[0-9]{2}\Z")
UNVERIFIED_BYTES_MAX = 4096  # of a body that nobody vouches for; a real notification is half as long
RECORDS_MAX = 500  # unverified notifications written at once ...
RECORDS_PER_S = 20  # ... and in the long run; the others are counted
QUERIES_MAX = 50  # that notifications nobody vouches for may cause at once ...
QUERIES_PER_S = 5  # ... and in the long run, whatever orders they name
QUERY_AGAIN_MS = 3000  # for one order
HEADER_CHARS_MAX = 1024
UNRECORDED_HEADERS = frozenset({"authorization", "cookie"})

log = structlog.get_logger(__name__)

_encode = msgspec.json.Encoder().encode


class CallbacksApi:
    """The handler of all channels' notifications."""

    def __init__(
        self,
        channels: Mapping[str, InstalledChannel],
        registry: Registry,
        journal: Journal,
        clock: Clock,
        keys: KeyRefresher,
        inbox: Inbox,
        tell: Tell,
        metrics: Metrics,
    ) -> None:
        self._channels = channels
        self._registry = registry
        self._journal = journal
        self._clock = clock
        self._keys = keys
        self._inbox = inbox
        self._tell = tell
        self._metrics = metrics
        self._records = TokenBucket(RECORDS_PER_S, RECORDS_MAX)
        self._queries = TokenBucket(QUERIES_PER_S, QUERIES_MAX)

    def routes(self) -> list[Route]:
        """Where the handlers stand; the more exact path first."""
        return [
            Route("POST", "/callbacks/{channel}/refunds/{refund_id}", self.refund_notified),
            Route("POST", "/callbacks/{channel}/{order_id}/{attempt}", self.notified),
        ]

    async def notified(self, request: Call) -> web.Response:
        """Answer a notification about an attempt in the channel's words; of a refund, too, where it comes here."""
        order_id, attempt = request.match_info["order_id"], request.match_info["attempt"]
        if not _ORDER_ID.match(order_id) or not _NUMBER.match(attempt):
            raise Problem("not_found")
        return await self._answered(request, order_id, attempt)

    async def refund_notified(self, request: Call) -> web.Response:
        """Answer a notification about a refund in the channel's words."""
        refund_id = request.match_info["refund_id"]
        if not _REFUND_ID.match(refund_id):
            raise Problem("not_found")
        return await self._answered(request, refund_id[:26], refund_id[26:])

    async def _answered(self, request: Call, order_id: str, suffix: str) -> web.Response:
        """`suffix` is what, behind the order's id, names what the path is about."""
        installed = self._channels.get(request.match_info["channel"])
        if installed is None:
            raise Problem("not_found")
        channel, headers, named = installed.channel, _headers(request), (order_id, suffix)
        try:
            body = await read_bytes(request)
        except web.HTTPRequestEntityTooLarge:
            await self._record_unverified(self._arrival(channel, named, headers, b"", Verdict.TOO_LARGE))
            raise
        try:
            notified = await self._verify(channel, headers, body)
        except NotificationRejected as rejected:
            arrival = self._arrival(channel, named, headers, body, rejected.reason)
            if rejected.reason is RejectReason.OTHER_EVENT:
                return await self._keep(channel, arrival)
            await self._record_unverified(arrival)
            await self._ask_channel_sometimes(arrival)
            return _answer(channel.refuse(rejected.reason))
        if _speaks_of(notified) != order_id + suffix and not _comes_by_payment_path(notified, order_id + suffix):
            await self._record(self._arrival(channel, named, headers, body, Verdict.MISDIRECTED))
            return _answer(channel.refuse(RejectReason.MALFORMED))
        arrival = self._arrival(channel, named, headers, body, Verdict.VERIFIED)
        if isinstance(notified, ChannelRefund):
            return await self._give_back(channel, notified, arrival)
        return await self._credit(channel, notified, arrival)

    async def _verify(self, channel: Channel, headers: Mapping[str, str], body: bytes) -> Notified:
        now_s = self._clock.now_ms() // 1000
        try:
            return channel.notification(headers, body, now_s)
        except NotificationRejected as rejected:
            if rejected.reason is not RejectReason.UNKNOWN_KEY or not await self._keys.refresh(channel.name):
                raise
        return channel.notification(headers, body, now_s)

    async def _keep(self, channel: Channel, arrival: Arrival) -> web.Response:
        """The channel's own word, and nothing we act on: it is kept, and must not be sent for a day."""
        try:
            await self._journal.commit(record(arrival))
        except ActorError:
            return self._deferred(channel)
        self._metrics.notifications[arrival.channel, arrival.verdict].inc()
        return _answer(channel.acknowledge())

    def _deferred(self, channel: Channel) -> web.Response:
        self._metrics.notifications[channel.name, Verdict.DEFERRED].inc()
        return _answer(msgspec.structs.replace(channel.refuse("try again"), status=503))

    async def _record(self, arrival: Arrival) -> None:
        """The channel said it, it moves no order, and that it came is kept."""
        self._metrics.notifications[arrival.channel, arrival.verdict].inc()
        await self._journal.commit(record(arrival))

    async def _record_unverified(self, arrival: Arrival) -> None:
        """Anybody may have sent it: counted always, its beginning kept as long as strangers keep measure."""
        if self._records.take() is not None:
            await self._record(msgspec.structs.replace(arrival, body=arrival.body[:UNVERIFIED_BYTES_MAX]))
        else:
            self._metrics.notifications[arrival.channel, arrival.verdict].inc()

    async def _ask_channel_sometimes(self, arrival: Arrival) -> None:
        """Perhaps it was paid after all: nothing of the notification is believed, but the channel is asked.

        Only for an attempt that we know and that somebody may pay, and only as long as strangers keep measure.
        """
        if self._queries.take() is None:
            return
        try:
            order = await self._journal.load(arrival.order_id)
            if order is None or not _worth_asking(order, arrival):
                return
            if self._registry.may_ask(arrival.order_id, QUERY_AGAIN_MS):
                self._metrics.notification_queries.inc()
                await self._registry.ask(arrival.order_id, SyncRequested(self._clock.now_ms()), seen=order.version)
        except Exception as error:  # it was only a hint: the ladder asks as well
            log.warning("notification_query_failed", order_id=arrival.order_id, error=f"{type(error).__name__}"[:300])

    async def _credit(self, channel: Channel, payment: ChannelPayment, arrival: Arrival) -> web.Response:
        try:
            verdict = await self._tell.payment(arrival.order_id, payment, arrival.notification_id, (arrival,))
            if verdict is not Verdict.VERIFIED:
                return await self._refuse(channel, payment, msgspec.structs.replace(arrival, verdict=verdict))
        except ActorError:
            return self._deferred(channel)
        self._metrics.notifications[channel.name, Verdict.VERIFIED].inc()
        probe("before_ack")
        return _answer(channel.acknowledge())

    async def _give_back(self, channel: Channel, refund: ChannelRefund, arrival: Arrival) -> web.Response:
        try:
            verdict = await self._tell.refund(refund, arrival.notification_id, (arrival,))
            if verdict is Verdict.FOREIGN_REFUND:
                return await self._keep(channel, msgspec.structs.replace(arrival, verdict=verdict))
            if verdict is not Verdict.VERIFIED:
                return await self._refuse(channel, refund, msgspec.structs.replace(arrival, verdict=verdict))
        except ActorError:
            return self._deferred(channel)
        self._metrics.notifications[channel.name, Verdict.VERIFIED].inc()
        probe("before_ack")
        return _answer(channel.acknowledge())

    async def _refuse(self, channel: Channel, notified: Notified, arrival: Arrival) -> web.Response:
        """Money that no order knows: recorded, and the channel goes on telling."""
        await self._record(arrival)
        if arrival.verdict == Verdict.UNKNOWN_ORDER:
            await self._inbox.park(arrival.notification_id, arrival.order_id, notified)
            return _answer(msgspec.structs.replace(channel.refuse("unknown order"), status=404))
        return _answer(msgspec.structs.replace(channel.refuse("contradicts what is known"), status=409))

    def _arrival(
        self, channel: Channel, named: tuple[str, str], headers: Mapping[str, str], body: bytes, verdict: str
    ) -> Arrival:
        at_ms = self._clock.now_ms()
        kept = {name: value[:HEADER_CHARS_MAX] for name, value in headers.items() if name not in UNRECORDED_HEADERS}
        return Arrival(
            notification_id=ids.notification_id(at_ms),
            channel=channel.name,
            order_id=named[0],
            attempt=named[1],
            verdict=verdict,
            headers_json=_encode(kept).decode(),
            body=body,
            received_at_ms=at_ms,
        )


def _speaks_of(notified: Notified) -> str:
    """The number of what a notification is about."""
    return notified.refund_no if isinstance(notified, ChannelRefund) else notified.out_trade_no


def _comes_by_payment_path(notified: Notified, number: str) -> bool:
    """A refund that is told where its payment was, as Alipay does. UnionPay's names no payment."""
    return isinstance(notified, ChannelRefund) and notified.out_trade_no in (number, None)


def _worth_asking(order: Order, arrival: Arrival) -> bool:
    """Whether the channel may have news of what the path names: an attempt that is live, or an open refund."""
    refund = order.refund(arrival.order_id + arrival.attempt)
    if refund is not None:
        return refund.open and refund.channel == arrival.channel
    attempt = order.attempt(int(arrival.attempt)) if _NUMBER.match(arrival.attempt) else None
    return attempt is not None and attempt.live and attempt.channel == arrival.channel


def _headers(request: Call) -> dict[str, str]:
    """By lower-case name; all values of one that came twice: none may be picked."""
    names = {name.lower() for name in request.headers}
    return {name: _printable(", ".join(request.headers.getall(name))) for name in names}


def _printable(value: str) -> str:
    """A header without the lone surrogates that stand for bytes which are not UTF-8."""
    return value if value.isascii() else value.encode(errors="backslashreplace").decode()


def _answer(acknowledgement: Acknowledgement) -> web.Response:
    headers = {"Content-Type": acknowledgement.content_type} if acknowledgement.body else None
    return web.Response(status=acknowledgement.status, body=acknowledgement.body, headers=headers)
