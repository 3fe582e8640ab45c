"""Refunds walked at random: an app that asks, a second payment, a channel and a network that do as they like, crashes.

People send again what is theirs to send, early or late. Then all is well, and the order must say what the channel did:
the excess went back once, and of no payment more than was paid. Seeded; a failure names its seed.
"""

import heapq
import random
from typing import Any

import msgspec
import pytest

from actors import casework
from actors.effects import Effect, QueryRefund, SubmitRefund
from actors.events import (
    CaseAction,
    CaseResolved,
    Event,
    RefundNotFound,
    RefundOutcomeUnknown,
    RefundRefused,
    RefundReported,
    RefundRequested,
    RefundsDue,
    RefundWord,
    Source,
)
from actors.order import Reason, Refund
from actors.refunding import TOO_LATE
from tests.unit.orders import BORN_MS, PAID, decide, paid_event

SEEDS = 600
BEGIN_MS = BORN_MS + 20_000
CHAOS_MS = (50_000, 400_000, 2_000_000)
ON_THE_WAY_MS = 20_000  # a request, and an answer again
TAKEN_FOR_MS, LOST_AFTER_MS = 300_000, 600_000  # how long a number is taken where it carries a time, as at UnionPay
PEOPLE_LOOK = 0.05  # of moments with an open case; at the latest when nothing else happens any more
STEPS_MAX = 5000


class Channel:
    """Knows refunds by number; refuses, fails and takes its time as often as it is told."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.timed = rng.random() < 0.4
        self.refuses = rng.choice([0, 0, 0.3, 0.8])
        self.fails = rng.choice([0, 0, 0.3, 0.8])
        self.refunds: dict[str, tuple[str, int, RefundWord]] = {}

    def given(self, transaction: str) -> int:
        """What of a payment went back, or is about to."""
        return sum(a for t, a, word in self.refunds.values() if t == transaction and word is not RefundWord.FAILED)

    def submit(self, refund: Refund, at_ms: int) -> RefundWord | str | None:
        """The refund's state, the code of a no, or None: it says nothing."""
        age_ms = at_ms - refund.started_at_ms
        if refund.refund_id in self.refunds:
            return self.query(refund)
        if self.timed and age_ms >= TAKEN_FOR_MS:
            return TOO_LATE if age_ms >= TAKEN_FOR_MS + LOST_AFTER_MS else None
        if self.rng.random() < self.refuses:
            return "NOT_ENOUGH"
        if self.given(refund.transaction) + refund.amount > PAID.paid_amount:
            return "EXCEEDED"
        self.refunds[refund.refund_id] = (refund.transaction, refund.amount, RefundWord.PROCESSING)
        return RefundWord.PROCESSING

    def query(self, refund: Refund) -> RefundWord | None:
        """The refund's state; None if there is no such refund."""
        known = self.refunds.get(refund.refund_id)
        if known is None:
            return None
        word = known[2]
        if word is RefundWord.PROCESSING and self.rng.random() < 0.5:
            word = RefundWord.FAILED if self.rng.random() < self.fails else RefundWord.SUCCEEDED
            self.refunds[refund.refund_id] = (*known[:2], word)
        return word


class Walk:
    """One order, told whatever happens in the order of time."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.channel = Channel(self.rng)
        self.loses = self.rng.choice([0, 0.2, 0.5])
        self.order = PAID
        self.at_ms = BEGIN_MS
        self.down_until_ms = 0
        self.cases: list[Reason] = []
        self._queue: list[tuple[int, int, Any]] = []
        self._pushed = 0

    def push(self, within_ms: int, what: Any) -> None:
        """An event or a request of ours, or how long the process is away, at some moment from now on."""
        self._pushed += 1
        heapq.heappush(self._queue, (self.at_ms + self.rng.randint(0, within_ms), self._pushed, what))

    def run(self) -> None:
        for number in range(self.rng.randint(1, 4)):
            self.push(100_000, RefundRequested(BEGIN_MS, f"B{number}", self.rng.choice([10, 40, 60, 100])))
        if self.rng.random() < 0.6:
            self.push(100_000, paid_event(BEGIN_MS, transaction="T2"))
        for _ in range(self.rng.choice([0, 2])):
            self.push(300_000, self.rng.randint(1000, 700_000))
        heals_ms = BEGIN_MS + self.rng.choice(CHAOS_MS)
        for _ in range(STEPS_MAX):
            moment_ms = self._next_ms()
            if moment_ms is None and not self.cases:
                return
            if moment_ms is None:
                self.at_ms = max(self.at_ms, heals_ms)
            if moment_ms is None or (self.cases and self.rng.random() < PEOPLE_LOOK):
                self._people_look_at(self.cases.pop())
            else:
                self.at_ms = moment_ms
                if self.at_ms >= heals_ms:
                    self.loses = self.channel.refuses = self.channel.fails = 0
                self._step()
        raise AssertionError("it never came to an end")

    def _next_ms(self) -> int | None:
        due_ms = [refund.next_check_at_ms for refund in self.order.refunds if refund.next_check_at_ms is not None]
        moments_ms = [self._queue[0][0]] if self._queue else []
        moments_ms += [max(min(due_ms), self.down_until_ms, self.at_ms + 1)] if due_ms else []
        return min(moments_ms, default=None)

    def _step(self) -> None:
        if not self._queue or self._queue[0][0] > self.at_ms:
            self._tell(RefundsDue(self.at_ms))
            return
        what = heapq.heappop(self._queue)[2]
        match what:
            case int():
                self.down_until_ms = self.at_ms + what
            case (SubmitRefund() | QueryRefund() as effect, Refund() as refund):
                self._ask_channel(effect, refund)
            case _ if self.at_ms >= self.down_until_ms or isinstance(what, RefundRequested):
                self._tell(msgspec.structs.replace(what, at_ms=self.at_ms))

    def _tell(self, event: Event) -> None:
        decision = decide(self.order, event)
        self.order = decision.order
        self.cases += [decision.case] if decision.case else []
        for effect in decision.effects:
            self._begin(effect)
        for payment in self.order.payments:
            assert self.order.refunding(payment) <= payment.amount

    def _begin(self, effect: Effect) -> None:
        if isinstance(effect, SubmitRefund | QueryRefund):
            self.push(ON_THE_WAY_MS, (effect, self.order.refund(effect.refund_id)))

    def _ask_channel(self, effect: SubmitRefund | QueryRefund, refund: Refund) -> None:
        silence = RefundOutcomeUnknown(self.at_ms, refund.refund_id, "lost")
        if self.rng.random() < self.loses:
            self.push(ON_THE_WAY_MS, silence)  # it never arrived
            return
        asked = isinstance(effect, QueryRefund)
        said = self.channel.query(refund) if asked else self.channel.submit(refund, self.at_ms)
        if self.rng.random() < self.loses or (said is None and not asked):
            self.push(ON_THE_WAY_MS, silence)  # nor did its answer
        elif said is None:
            self.push(ON_THE_WAY_MS, RefundNotFound(self.at_ms, refund.refund_id))
        elif isinstance(said, RefundWord):
            word = RefundReported(self.at_ms, refund.refund_id, Source.QUERY, refund.channel, refund.account, said)
            self.push(ON_THE_WAY_MS, word)
        else:
            self.push(ON_THE_WAY_MS, RefundRefused(self.at_ms, refund.refund_id, said, "no"))

    def _people_look_at(self, case: Reason) -> None:
        if CaseAction.RETRY in casework.possible(self.order, case):
            self._tell(CaseResolved(self.at_ms, self.order.version, case, CaseAction.RETRY, "ann", "as it should be"))

    def check(self) -> None:
        """What the order says is what the channel did."""
        known = self.channel.refunds
        for refund in self.order.refunds:
            assert refund.state == (known[refund.refund_id][2] if refund.refund_id in known else "failed"), refund
        assert known.keys() <= {refund.refund_id for refund in self.order.refunds}
        for payment in self.order.payments:
            given = self.channel.given(payment.transaction)
            assert given == payment.amount if payment.kind == "excess" else given == self.order.refunded_amount


@pytest.mark.parametrize("first", range(0, SEEDS, 100))
def test_whatever_happens_on_the_way_both_sides_say_the_same_in_the_end(first: int) -> None:
    for seed in range(first, first + 100):
        walk = Walk(seed)
        try:
            walk.run()
            walk.check()
        except AssertionError as failure:
            failure.add_note(f"seed {seed}")
            raise
