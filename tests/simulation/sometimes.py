"""Rare paths that a batch must really have reached: a simulation that never gets there proves nothing about them.

The gateways' own parts are listened to here, to count, never to judge. A name of `EXPECTED` that a whole batch leaves
at zero makes the batch void.
"""

import contextlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

from actors.events import Due, RefundsDue
from actors.registry import Registry
from gateway.inbox import Inbox
from gateway.probe import PROBES
from gateway.storage.group_commit import GroupCommit, meaning
from gateway.storage.lane import Lane
from gateway.storage.sqlstates import Meaning
from gateway.transport import Transport
from tests.simulation.determinism import EPOCH_S
from tests.simulation.evidence import Seen
from tests.simulation.history import SHOP, History
from tests.simulation.loop import PROCESS
from tests.simulation.mutants import patched

LONG_OUTAGE_S: Final = 30.0
CODES: Final = {"overloaded": "shed", "duplicate_submission": "duplicate refused", "refund_conflict": "refund conflict"}

EXPECTED: Final = (
    *("unknown outcome", "unknown was mine", "unknown was lost", "in doubt at a stop"),
    *("cas lost", "batch halved", "batch stepped aside", "503 answered", "shed"),
    *("lease taken over", "swept", "did not start", "stopped", "stop cut off", "pause"),
    *("notification acknowledged", "notification again", "notification before the code", "notification deferred"),
    *("paid while closing", "paid after closed", "double payer", "paid twice or late, given back", "held for people"),
    *(
        "refund asked",
        "refund succeeded",
        "refund failed",
        "refund sent again",
        "refund conflict",
        "case opened",
        "case settled",
    ),
    *("told after a long outage", "webhook again", "stranger turned away", "forged", "redis lied", "duplicate refused"),
    *("lost on the wire", "doubled on the wire", "channel paused", "sessions killed", "read_only for a while"),
    *("late payment after the end", "attempt after attempt"),
    *(f"killed at {name}" for name in PROBES),
)


@contextlib.contextmanager
def listening(history: History) -> Iterator[None]:
    """Count while this block runs."""
    with contextlib.ExitStack() as patches:
        for patch in (*_of_the_committer(history), *_of_the_rest(history)):
            patches.enter_context(patch)
        yield


def _of_the_committer(history: History) -> Iterator[Any]:
    send, failed, halve, aside = Lane.send, GroupCommit._failed, GroupCommit._halve, GroupCommit._step_aside

    async def counted_send(self: Lane, batch: Any) -> set[str]:
        doubtful = [pending.order_id for pending in batch if pending.in_doubt and pending.order_id]
        won = await send(self, batch)
        for order_id in doubtful:
            history.count("unknown was mine" if order_id in won else "unknown was lost")
        return won

    async def counted_failed(self: GroupCommit, lane: Lane, batch: Any, error: Exception) -> Any:
        if self._stopping and meaning(error) is Meaning.UNKNOWN:
            history.count("in doubt at a stop")
        return await failed(self, lane, batch, error)

    async def counted_halve(self: GroupCommit, lane: Lane, batch: Any) -> Any:
        history.count("batch halved")
        return await halve(self, lane, batch)

    def counted_aside(self: GroupCommit, batch: Any) -> None:
        history.count("batch stepped aside")
        aside(self, batch)

    yield patched(Lane, "send", counted_send)
    yield patched(GroupCommit, "_failed", counted_failed)
    yield patched(GroupCommit, "_halve", counted_halve)
    yield patched(GroupCommit, "_step_aside", counted_aside)


def _of_the_rest(history: History) -> Iterator[Any]:
    ask, park, paused = Registry.ask, Inbox.park, Transport._paused
    claims: dict[tuple[str, int], str] = {}

    def counted_ask(self: Registry, order_id: str, event: Any, *rest: Any, **named: Any) -> Any:
        if isinstance(event, Due | RefundsDue) and event.claimed_version is not None:
            key, process = (order_id, event.claimed_version), PROCESS.get()
            if claims.setdefault(key, process) != process:
                history.count("lease taken over")
            claims[key] = process
        return ask(self, order_id, event, *rest, **named)

    async def counted_park(self: Inbox, *arguments: Any) -> None:
        history.count("parked")
        await park(self, *arguments)

    def counted_paused(self: Transport, is_paused: bool) -> None:
        if is_paused:
            history.count("channel paused")
        paused(self, is_paused)

    yield patched(Registry, "ask", counted_ask)
    yield patched(Inbox, "park", counted_park)
    yield patched(Transport, "_paused", counted_paused)


def count_in_the_end(seen: Seen) -> None:
    """What the tables and histories show to have happened."""
    for events in seen.events.values():
        _count_events(seen, events)
    for name in (*_moneys(seen), *_refunds(seen), *_cases(seen), *_told(seen)):
        seen.history.count(name)


def _count_events(seen: Seen, events: list[Any]) -> None:
    accepted = False
    for before, event in pairwise(events):
        accepted = accepted or event.type == "SubmitAccepted"
        if event.type == "PaymentReported":
            if before.state in ("closing", "closed"):
                seen.history.count("paid while closing" if before.state == "closing" else "paid after closed")
            if not accepted:
                seen.history.count("notification before the code")


def _moneys(seen: Seen) -> Iterator[str]:
    for payment in seen.tables.payments.values():
        if payment.kind == "held":
            yield "held for people"
        elif payment.kind == "excess":
            yield "double payer" if seen.tables.orders[payment.order_id].state == "paid" else "late money"
    for attempt in seen.tables.attempts.values():
        if attempt.number > 1:
            yield "attempt after attempt"


def _refunds(seen: Seen) -> Iterator[str]:
    for refund in seen.tables.refunds.values():
        yield "refund asked" if refund.cause == "app" else "paid twice or late, given back"
        yield f"refund {refund.state}"
        if refund.submits > 1:
            yield "refund sent again"


def _cases(seen: Seen) -> Iterator[str]:
    for case in seen.tables.cases.values():
        yield "case opened"
        if case.resolved_at_us is not None:
            yield "case settled"


def _told(seen: Seen) -> Iterator[str]:
    for received in seen.history.received:
        webhook = seen.tables.outbox.get(received.event_id)
        if webhook is not None and received.at - (webhook.created_at_ms / 1000 - EPOCH_S) > LONG_OUTAGE_S:
            yield "told after a long outage"
    for told in seen.history.told:
        if told.code in CODES:
            yield CODES[told.code]
        if told.app != SHOP and told.status == 404:
            yield "stranger turned away"
