"""What becomes of a notification later: parked ones are told again, old ones are forgotten, any can be replayed.

A verified notification of an order nobody knows is never acknowledged into nothing: its channel is refused and sends it
again, we tell it again by a ladder of our own, and when that is used up it is a case for people.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from enum import StrEnum

import msgspec
import structlog

from actors.actor import Asked
from actors.checkpoint import Arrival
from actors.errors import OrderNotFound, WriteRejected
from actors.events import Event, Source
from actors.ports import Clock
from channels.contract import Channel, ChannelPayment, ChannelRefund, Notified
from channels.errors import NotificationRejected
from gateway.config import Notifications as Settings
from gateway.effect_runner import payment_reported, refund_reported
from gateway.metrics import Metrics
from gateway.storage.notifications import Kept, Notifications, Parked

LOOK_EVERY_S = 1.0
CLAIM_ROWS = 50
LEASE_S = 30.0  # a telling is a load and a commit: seconds at the worst
FORGET_EVERY_S = 30.0
FORGET_ROWS = 1000  # of one statement, which holds its locks for milliseconds
FORGET_PAGES = 20  # of one look: who is parked does not wait until years are forgotten
FORGET_PAUSE_S = 0.05
DAY_MS = 86_400_000

_REFUND_ID = re.compile(r"[0-9A-Z]{26}[RX][0-9A-Z]{5}\Z")

log = structlog.get_logger(__name__)


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a parked notification says, as it is kept and as a case shows it: one of the two."""

    payment: ChannelPayment | None = None
    refund: ChannelRefund | None = None


_encode = msgspec.json.Encoder().encode
_said = msgspec.json.Decoder(Said).decode


class Verdict(StrEnum):
    """What became of a notification, beside the reasons for which a channel's are rejected."""

    VERIFIED = "verified"
    FOREIGN_REFUND = "foreign_refund"  # believed, but its number is none of ours: somebody refunded at the platform
    MISDIRECTED = "misdirected"  # believed, but it speaks of another attempt than the path
    UNKNOWN_ORDER = "unknown_order"
    CONTRADICTORY = "contradictory"  # believed, but the database refuses it: its transaction paid another order
    TOO_LARGE = "too_large"
    DEFERRED = "deferred"  # not taken now; the channel sends it again
    NOT_INSTALLED = "channel_not_installed"  # only of a replay


class Tell:
    """Tells orders what notifications say. `ask` is the registry's."""

    def __init__(self, ask: Callable[[str, Event, tuple[Arrival, ...]], Asked], clock: Clock) -> None:
        self._ask = ask
        self._clock = clock

    async def payment(
        self, order_id: str, payment: ChannelPayment, notification_id: int, arrivals: tuple[Arrival, ...] = ()
    ) -> Verdict:
        """VERIFIED when the order has it durably, credited now or known before; UNKNOWN_ORDER; CONTRADICTORY.

        Raises:
            ActorError: it was not told; try again later.
        """
        number, evidence = int(payment.out_trade_no[-2:]), f"notification {notification_id}"
        event = payment_reported(self._clock.now_ms(), number, Source.NOTIFICATION, payment, evidence)
        return await self._told(order_id, event, arrivals)

    async def refund(self, refund: ChannelRefund, notification_id: int, arrivals: tuple[Arrival, ...] = ()) -> Verdict:
        """VERIFIED when its order has it durably; UNKNOWN_ORDER; FOREIGN_REFUND, and nobody was told.

        Raises:
            ActorError: it was not told; try again later.
        """
        if not _REFUND_ID.match(refund.refund_no):
            return Verdict.FOREIGN_REFUND
        evidence = f"notification {notification_id}"
        event = refund_reported(self._clock.now_ms(), refund.refund_no, Source.NOTIFICATION, refund, evidence)
        return await self._told(refund.refund_no[:26], event, arrivals)

    async def _told(self, order_id: str, event: Event, arrivals: tuple[Arrival, ...]) -> Verdict:
        try:
            await self._ask(order_id, event, arrivals)
        except OrderNotFound:
            return Verdict.UNKNOWN_ORDER
        except WriteRejected:
            return Verdict.CONTRADICTORY
        return Verdict.VERIFIED


class Inbox:
    """Parks, tells again, and forgets: what a gateway does with its notifications while it runs."""

    def __init__(self, kept: Notifications, tell: Tell, clock: Clock, settings: Settings, metrics: Metrics) -> None:
        self._kept = kept
        self._tell = tell
        self._clock = clock
        self._settings = settings
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look for what is due and what is old."""
        self._task = asyncio.create_task(self._run(), name="inbox")

    async def stop(self) -> None:
        """Stop. What was claimed and not settled is claimed again after the lease."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def park(self, notification_id: int, order_id: str, notified: Notified) -> None:
        """Keep it in motion until its order turns up, or people look at it. Durable when this returns."""
        if isinstance(notified, ChannelRefund):
            said, number = Said(refund=notified), notified.refund_no
        else:
            said, number = Said(payment=notified), notified.channel_transaction
        money, text = (notified.channel, notified.account, number), _encode(said).decode()
        await self._kept.park(notification_id, order_id, money, text, self._settings.parked_s[0])
        self._metrics.parked["parked"].inc()

    async def tell_parked(self) -> int:
        """Tell a page of those that are due; how many there were."""
        due = await self._kept.claim(CLAIM_ROWS, LEASE_S)
        for parked in due:
            try:
                await self._tell_again(parked)
            except Exception as error:  # not told: it is due again when the lease has run out
                why = f"{type(error).__name__}: {error}"[:300]
                log.warning("parked_notification_delayed", order_id=parked.order_id, error=why)
        return len(due)

    async def forget(self) -> int:
        """Delete what is older than it is to be kept, up to a number of pages; how many there were."""
        now_ms, settings = self._clock.now_ms(), self._settings
        before_ms = now_ms - int(settings.keep_days * DAY_MS)
        forgotten = await self._forget_before(before_ms, unverified=False)
        forgotten += await self._forget_before(now_ms - int(settings.keep_unverified_days * DAY_MS), unverified=True)
        await self._kept.forget_orphans(before_ms, FORGET_ROWS)
        return forgotten

    async def _forget_before(self, before_ms: int, *, unverified: bool) -> int:
        forgotten = 0
        for _ in range(FORGET_PAGES):
            page = await self._kept.forget(before_ms, FORGET_ROWS, unverified=unverified)
            forgotten += page
            if page < FORGET_ROWS:
                break
            await asyncio.sleep(FORGET_PAUSE_S)
        return forgotten

    async def _tell_again(self, parked: Parked) -> None:
        verdict = await self._repeat(parked)
        told = parked.tries + 1
        if verdict is Verdict.VERIFIED:
            await self._kept.unpark(parked.notification_id)
            self._metrics.parked["credited"].inc()
            log.info("parked_notification_told", order_id=parked.order_id, notification_id=parked.notification_id)
        elif told < len(self._settings.parked_s):
            await self._kept.postpone(parked, self._settings.parked_s[told])
        else:
            await self._kept.orphan(parked.notification_id)
            self._metrics.parked["orphaned"].inc()
            log.error("orphan_notification", order_id=parked.order_id, notification_id=parked.notification_id)

    async def _repeat(self, parked: Parked) -> Verdict:
        said = _said(parked.said)
        if said.refund is not None:
            return await self._tell.refund(said.refund, parked.notification_id)
        assert said.payment is not None, "one of the two is parked"
        return await self._tell.payment(parked.order_id, said.payment, parked.notification_id)

    async def _run(self) -> None:
        forgotten_at = -FORGET_EVERY_S
        while True:
            try:
                while await self.tell_parked() == CLAIM_ROWS:
                    pass
                now = asyncio.get_running_loop().time()
                if now - forgotten_at >= FORGET_EVERY_S and await self.forget() < FORGET_ROWS:
                    forgotten_at = now
            except Exception as error:  # the database is away: what is due is still due when it is back
                log.warning("inbox_failed", error=f"{type(error).__name__}: {error}"[:300])
            await asyncio.sleep(LOOK_EVERY_S)


class Replayed(msgspec.Struct, frozen=True):
    """What a replay of one notification led to: a Verdict, or why its channel does not believe it."""

    notification_id: int
    channel: str
    order_id: str
    attempt: str
    before: str
    now: str


class Replay:
    """Reads kept notifications once more, as of when they came in, and tells their orders again. Harmless to repeat."""

    def __init__(self, kept: Notifications, tell: Tell, channels: Mapping[str, Channel]) -> None:
        self._kept = kept
        self._tell = tell
        self._channels = channels

    async def replay(self, kept: Kept) -> Replayed:
        """Verify and tell one.

        Raises:
            ActorError: it was not told; try again later.
        """
        now = await self._outcome(kept)
        return Replayed(kept.notification_id, kept.channel, kept.order_id, kept.attempt, kept.verdict, now)

    async def _outcome(self, kept: Kept) -> str:
        channel = self._channels.get(kept.channel)
        if channel is None:
            return Verdict.NOT_INSTALLED
        try:
            notified = channel.notification(kept.headers, kept.body, kept.received_at_ms // 1000)
        except NotificationRejected as rejected:
            return rejected.reason
        if isinstance(notified, ChannelRefund):
            verdict = await self._tell.refund(notified, kept.notification_id)
        elif notified.out_trade_no == kept.order_id + kept.attempt:
            verdict = await self._tell.payment(kept.order_id, notified, kept.notification_id)
        else:
            verdict = Verdict.MISDIRECTED
        if verdict is Verdict.VERIFIED:
            await self._kept.unpark(kept.notification_id)
        return verdict
