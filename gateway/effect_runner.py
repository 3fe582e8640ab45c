"""Carries out what orders ask for: where an actor's effect becomes a channel's flow, and its outcome an event.

An effect runs as a task after its intent is durable; what came of it is told to the order as an event. An effect lost
with the process is asked for again by the sweep. Two queries for one attempt at the same time are one.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import assert_never

import msgspec
import structlog

from actors.actor import Asked
from actors.effects import Close, Effect, Query, QueryRefund, Submit, SubmitRefund
from actors.errors import OrderNotFound, Stopped, WriteRejected
from actors.events import (
    Credential,
    CredentialType,
    Event,
    OutcomeUnknown,
    PaymentReported,
    RefundNotFound,
    RefundOutcomeUnknown,
    RefundRefused,
    RefundReported,
    RefundWord,
    ReportedAlreadyPaid,
    ReportedClosed,
    ReportedDebited,
    ReportedNotClosable,
    ReportedNotFound,
    ReportedNotPaid,
    Source,
    SubmitAccepted,
    SubmitRefused,
    Verb,
)
from actors.order import Attempt, Order, Refund, attempt_id
from actors.ports import Clock
from channels.contract import (
    Accepted,
    AlreadyPaid,
    AttemptKey,
    Channel,
    ChannelPayment,
    ChannelRefund,
    ClosedAtChannel,
    CloseOutcome,
    Debited,
    NotClosable,
    NotFound,
    NotPaid,
    Paid,
    PaymentRequest,
    PayOutcome,
    QueryOutcome,
    RefundKey,
    RefundKnown,
    RefundOutcome,
    RefundQueryOutcome,
    RefundRequest,
    Refused,
    Unknown,
)
from gateway.probe import probe
from gateway.transport import Transport

TELL_AGAIN_FIRST_S = 0.05
TELL_AGAIN_MAX_S = 2.0
RUNNING_MAX = 2000  # effects at once; the sweep claims no more than that
REFUND_REASON = "refund"  # what a payer reads at the platform when nobody said why
EXPIRY_MARGIN_S = 5  # the channel's order ends a little before ours, so that its "closed" is the later word

log = structlog.get_logger(__name__)


class InstalledChannel(msgspec.Struct, frozen=True):
    """A channel with its account, and the connections it is reached through."""

    channel: Channel
    transport: Transport


class EffectRunner:
    """Runs effects. `tell` is the registry's `ask`; `public_url` is where channels reach us."""

    def __init__(self, channels: Mapping[str, InstalledChannel], clock: Clock, public_url: str) -> None:
        self._channels = channels
        self._clock = clock
        self._public_url = public_url
        self._tell: Callable[[str, Event], Asked] | None = None
        self._when_ended: Callable[[str, str, bool], None] = lambda _channel, _order_id, _known: None
        self._tasks: set[asyncio.Task[None]] = set()
        self._queries: set[tuple[str, int | str]] = set()
        self._room = asyncio.Event()
        self._room.set()

    def connect(self, tell: Callable[[str, Event], Asked]) -> None:
        """Close the circle: who hears what came of an effect."""
        self._tell = tell

    def when_ended(self, ended: Callable[[str, str, bool], None]) -> None:
        """Have `ended` hear of every outcome: its channel, its order, and whether it is known."""
        self._when_ended = ended

    def __call__(self, order: Order, effects: Sequence[Effect]) -> None:
        """Start effects; returns at once."""
        for effect in effects:
            key = _query_key(order, effect)
            if key is not None:
                if key in self._queries:
                    continue
                self._queries.add(key)
            task = asyncio.create_task(self._carry_out(order, effect))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        if len(self._tasks) >= RUNNING_MAX:
            self._room.clear()

    async def room(self) -> None:
        """Wait until effects of more orders can be taken."""
        await self._room.wait()

    async def stop(self, timeout_s: float) -> None:
        """Let what is running end, for a while; what is cut off is found by the sweep of whoever comes next."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if len(self._tasks) < RUNNING_MAX // 2:
            self._room.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("effect_failed", exc_info=task.exception())

    async def _carry_out(self, order: Order, effect: Effect) -> None:
        await asyncio.sleep(0)  # some answers come without a call: whoever waits for one is to listen first
        try:
            event = await self._outcome(order, effect)
        finally:
            self._queries.discard(_query_key(order, effect) or ("", 0))
        if event is not None:
            probe("after_channel")
            known = not isinstance(event, OutcomeUnknown | RefundOutcomeUnknown)
            self._when_ended(_channel_of(order, effect), order.order_id, known)
            await self._report(order.order_id, event)

    async def _outcome(self, order: Order, effect: Effect) -> Event | None:
        if isinstance(effect, SubmitRefund | QueryRefund):
            refund = order.refund(effect.refund_id)
            return None if refund is None else await self._ask_about_refund(order, refund, effect)
        attempt = order.attempt(effect.number)
        return None if attempt is None else await self._ask_channel(order, attempt, effect)

    async def _ask_channel(self, order: Order, attempt: Attempt, effect: Submit | Query | Close) -> Event:
        installed = self._installed(attempt)
        if installed is None:
            return OutcomeUnknown(self._clock.now_ms(), attempt.number, _VERBS[type(effect)], _NOT_INSTALLED)
        key, channel, transport = _key(order, attempt), installed.channel, installed.transport
        probe("before_channel")
        match effect:
            case Submit():
                request = self._payment_request(order, attempt, key)
                paid = await transport.run(lambda stamp: channel.pay(request, stamp), op="pay", retries=1)
                return self._submitted(attempt.number, paid)
            case Query(contested=contested):
                found = await transport.run(lambda stamp: channel.query(key, stamp), op="query", retries=1)
                return self._queried(attempt.number, found, contested)
            case Close():
                ended = await transport.run(lambda stamp: channel.close(key, stamp), op="close", retries=1)
                return self._closed(attempt.number, ended)
            case _:
                assert_never(effect)

    def _installed(self, party: Attempt | Refund) -> InstalledChannel | None:
        installed = self._channels.get(party.channel)
        return None if installed is None or installed.channel.account != party.account else installed

    async def _ask_about_refund(self, order: Order, refund: Refund, effect: SubmitRefund | QueryRefund) -> Event:
        installed, refund_id = self._installed(refund), refund.refund_id
        if installed is None:
            return RefundOutcomeUnknown(self._clock.now_ms(), refund_id, _NOT_INSTALLED)
        key, channel, transport = _refund_key(order, refund), installed.channel, installed.transport
        probe("before_channel")
        outcome: RefundOutcome | RefundQueryOutcome
        if isinstance(effect, SubmitRefund):
            request = self._refund_request(order, refund, key)
            outcome = await transport.run(lambda stamp: channel.refund(request, stamp), op="refund", retries=1)
        else:
            outcome = await transport.run(lambda stamp: channel.query_refund(key, stamp), op="query_refund", retries=1)
        return self._refunded(refund_id, outcome)

    def _refund_request(self, order: Order, refund: Refund, key: RefundKey) -> RefundRequest:
        payment = next(payment for payment in order.payments if refund.gives_back(payment))
        return RefundRequest(
            refund=key,
            amount=refund.amount,
            total=payment.amount,
            currency=payment.currency,  # of held money it may be another than the order's
            reason=refund.reason or REFUND_REASON,
            notify_url=f"{self._public_url}/callbacks/{refund.channel}/refunds/{refund.refund_id}",
        )

    def _refunded(self, refund_id: str, outcome: RefundOutcome | RefundQueryOutcome) -> Event:
        at_ms = self._clock.now_ms()
        match outcome:
            case RefundKnown(refund):
                return refund_reported(at_ms, refund_id, Source.QUERY, refund)
            case Refused(code, message):
                return RefundRefused(at_ms, refund_id, _storable(code), _storable(message))
            case NotFound():
                return RefundNotFound(at_ms, refund_id)
            case Unknown(reason):
                return RefundOutcomeUnknown(at_ms, refund_id, reason)
            case _:
                assert_never(outcome)

    def _payment_request(self, order: Order, attempt: Attempt, key: AttemptKey) -> PaymentRequest:
        return PaymentRequest(
            attempt=key,
            amount=order.content.amount,
            currency=order.content.currency,
            subject=order.content.subject,
            notify_url=f"{self._public_url}/callbacks/{attempt.channel}/{order.order_id}/{attempt.number:02d}",
            return_url=order.content.return_url or "",
            params={} if attempt.params_json is None else json.loads(attempt.params_json),
        )

    def _submitted(self, number: int, outcome: PayOutcome) -> Event:
        at_ms = self._clock.now_ms()
        match outcome:
            case Accepted(credential):
                kind = CredentialType(credential.type)
                return SubmitAccepted(at_ms, number, Credential(kind, credential.value, credential.expires_at_s * 1000))
            case Refused(code, message):
                return SubmitRefused(at_ms, number, _storable(code), _storable(message))
            case AlreadyPaid():
                return ReportedAlreadyPaid(at_ms, number)
            case Unknown(reason):
                return OutcomeUnknown(at_ms, number, Verb.SUBMIT, reason)
            case _:
                assert_never(outcome)

    def _queried(self, number: int, outcome: QueryOutcome, contested: bool) -> Event:
        at_ms = self._clock.now_ms()
        match outcome:
            case Paid(payment):
                return payment_reported(at_ms, number, Source.QUERY, payment)
            case NotPaid():
                return ReportedNotPaid(at_ms, number, contested)
            case NotFound():
                return ReportedNotFound(at_ms, number)
            case Debited(reason):
                return ReportedDebited(at_ms, number, _storable(reason))
            case ClosedAtChannel():
                return ReportedClosed(at_ms, number)
            case Unknown(reason):
                return OutcomeUnknown(at_ms, number, Verb.QUERY, reason)
            case _:
                assert_never(outcome)

    def _closed(self, number: int, outcome: CloseOutcome) -> Event:
        at_ms = self._clock.now_ms()
        match outcome:
            case ClosedAtChannel():
                return ReportedClosed(at_ms, number)
            case AlreadyPaid():
                return ReportedAlreadyPaid(at_ms, number)
            case NotFound():
                return ReportedNotFound(at_ms, number)
            case NotClosable():
                return ReportedNotClosable(at_ms, number)
            case Unknown(reason):
                return OutcomeUnknown(at_ms, number, Verb.CLOSE, reason)
            case _:
                assert_never(outcome)

    async def _report(self, order_id: str, event: Event) -> None:
        """Tell the order, again and again while the database is away: what a channel said is not thrown away."""
        assert self._tell is not None, "connected at start"
        wait_s = TELL_AGAIN_FIRST_S
        while True:
            try:
                await self._tell(order_id, event)
            except (OrderNotFound, Stopped):
                return
            except WriteRejected as error:  # it would be refused for ever; the ladder asks the channel again
                log.error("report_refused", order_id=order_id, error=str(error)[:300])
                return
            except Exception as error:  # overloaded, unavailable, or the database would not even be read
                log.warning("report_delayed", order_id=order_id, error=f"{type(error).__name__}: {error}"[:300])
            else:
                return
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, TELL_AGAIN_MAX_S)


def _key(order: Order, attempt: Attempt) -> AttemptKey:
    """What names the attempt at its channel: the same in every verb, whenever it is asked."""
    return AttemptKey(
        out_trade_no=attempt_id(order.order_id, attempt.number),
        method=attempt.method,
        started_at_s=attempt.started_at_ms // 1000,
        expires_at_s=order.expires_at_ms // 1000 - EXPIRY_MARGIN_S,
    )


def _refund_key(order: Order, refund: Refund) -> RefundKey:
    """What names the refund at its channel: the same whenever it is sent or asked after."""
    return RefundKey(
        refund_no=refund.refund_id,
        started_at_s=refund.started_at_ms // 1000,
        out_trade_no=attempt_id(order.order_id, refund.number),
        channel_transaction=refund.transaction,
    )


def _query_key(order: Order, effect: Effect) -> tuple[str, int | str] | None:
    """What two questions have in common that are one; None for what is no question."""
    match effect:
        case Query(number):
            return order.order_id, number
        case QueryRefund(refund_id):
            return order.order_id, refund_id
        case _:
            return None


def _channel_of(order: Order, effect: Effect) -> str:
    """The channel that an effect is about; empty if it is about nothing that the order has."""
    if isinstance(effect, SubmitRefund | QueryRefund):
        refund = order.refund(effect.refund_id)
        return "" if refund is None else refund.channel
    attempt = order.attempt(effect.number)
    return "" if attempt is None else attempt.channel


def _storable(text: str) -> str:
    """A channel's own words without U+0000, which PostgreSQL takes in no text."""
    return text.replace("\0", "\ufffd")


_NOT_INSTALLED = "its channel with its account is not installed here"
_VERBS: dict[type[Effect], Verb] = {Submit: Verb.SUBMIT, Query: Verb.QUERY, Close: Verb.CLOSE}


def payment_reported(
    at_ms: int, number: int, source: Source, payment: ChannelPayment, evidence: str = ""
) -> PaymentReported:
    """A channel's word on a payment, as the event an order is told."""
    return PaymentReported(
        at_ms=at_ms,
        number=number,
        source=source,
        channel=payment.channel,
        account=payment.account,
        transaction=payment.channel_transaction,
        amount=payment.amount,
        currency=payment.currency,
        success_at_ms=payment.success_at_s * 1000,
        evidence=evidence,
    )


def refund_reported(
    at_ms: int, refund_id: str, source: Source, refund: ChannelRefund, evidence: str = ""
) -> RefundReported:
    """A channel's word on a refund, as the event an order is told."""
    return RefundReported(
        at_ms=at_ms,
        refund_id=refund_id,
        source=source,
        channel=refund.channel,
        account=refund.account,
        word=RefundWord(refund.state),
        amount=refund.amount,
        channel_refund=refund.channel_refund,
        success_at_ms=None if refund.success_at_s is None else refund.success_at_s * 1000,
        detail=_storable(refund.detail),
        evidence=evidence,
    )
