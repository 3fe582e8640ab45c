"""Any life of one order, step by step: apps, payers, people, losses and crashes over a model of the channels' ledgers.

What a channel says follows from its ledger, unless a step says that it contradicts itself. The invariants are those of
every proof here, judged on what was written and on what the channels hold:

* S5: one credit over all time, of the order's amount unless people took another one.
* S6: what was told is recorded once, as it was told: the credit, or money that goes back in full, or money in a case.
* S8: no refund number moves money twice, and never more of a payment goes back than was paid.
* S10: versions count up by one, states move only as drawn here, `paid` stays.
* Nothing open is forgotten: it has a next check, or an open case.

When an example ends everything heals, and time alone has to bring the order to its end.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.effects import Effect, Submit, SubmitRefund
from actors.events import (
    CaseAction,
    CaseResolved,
    CloseRequested,
    Credential,
    Due,
    Event,
    RefundRequested,
    RefundsDue,
    RefundWord,
    ReportedAlreadyPaid,
    ReportedClosed,
    ReportedDebited,
    ReportedNotFound,
    ReportedNotPaid,
    Source,
    SyncRequested,
)
from actors.order import (
    GIVEN_UP,
    AttemptState,
    Decision,
    LatePolicy,
    Order,
    OrderState,
    PaymentKind,
    Reason,
    RefundCause,
    RefundState,
    Settlement,
)
from tests.unit.model_channels import ACCOUNTS, Ledger, silence
from tests.unit.orders import BORN_MS, EXPIRES_MS, SCHEDULE, decide, fresh, pay

pytestmark = pytest.mark.timeout(600)  # a life that fails is told as short as possible, which takes its time

ANSWERS_WITHIN_MS = 10_000  # whoever asked gives up then
ARRIVES_WITHIN_MS = SCHEDULE.not_found_final_ms  # a request that was sent does so by then, or never
ENDS_WITHIN_STEPS = 1500
AMOUNT = 100

CREATED, PAYING, CLOSING = OrderState.CREATED, OrderState.PAYING, OrderState.CLOSING
PAID, CLOSED, EXCEPTION = OrderState.PAID, OrderState.CLOSED, OrderState.EXCEPTION
# Where a state may lead. Written down here a second time, on purpose.
LEADS_TO = {
    CREATED: {PAYING, CLOSED},
    PAYING: {CLOSING, PAID, CLOSED, EXCEPTION},
    CLOSING: {PAID, CLOSED, EXCEPTION},
    CLOSED: {PAID, EXCEPTION},
    EXCEPTION: {PAID, CLOSED, CLOSING},
    PAID: set(),
}
CONTRADICTIONS: dict[str, Callable[[int, int], Event]] = {
    "closed": ReportedClosed,
    "not found": ReportedNotFound,
    "not paid": ReportedNotPaid,
    "already paid": ReportedAlreadyPaid,
    "debited": lambda at_ms, number: ReportedDebited(at_ms, number, "42"),
}
OPENINGS = (0, 1, 2, 2, 3, 4, 5, 6, 7, 8)
WRONG = [(99, "CNY", ""), (101, "CNY", ""), (AMOUNT, "USD", ""), (AMOUNT, "CNY", "x")]

replace = msgspec.structs.replace
picks = st.integers(0, 10**6)
words = st.sampled_from([RefundWord.SUCCEEDED, RefundWord.SUCCEEDED, RefundWord.PROCESSING, RefundWord.ABNORMAL])


class Request(msgspec.Struct, eq=False):
    """Something on its way to a channel, or its answer on the way back. `heard`: a process waits for it."""

    effect: Effect
    order: Order
    sent_ms: int
    heard: bool = True
    answer: Event | None = None


class Life(RuleBasedStateMachine):
    """One order, the process that serves it, the channels, and everybody who wants something of it."""

    @initialize(
        policy=st.sampled_from(LatePolicy),
        channel=st.sampled_from(sorted(ACCOUNTS)),
        opening=st.sampled_from(OPENINGS),
        may_lie=st.booleans(),
    )
    def create(self, policy: LatePolicy, channel: str, opening: int, may_lie: bool) -> None:
        """The order, and so many steps of an undisturbed life: what is rare begins where the usual ends."""
        self.may_lie = may_lie
        self.order = fresh(late_payment=policy)
        self.now_ms = BORN_MS
        self.ledger = Ledger()
        self.under_way: list[Request] = []
        self.held: dict[int, list[Credential]] = {}
        self.told: dict[str, tuple[int, str]] = {}
        self.credits: set[str] = set()
        self.cases: dict[int, Reason] = {}
        self.left_at_that: set[str] = set()
        self.accepted = self.lied = self.lied_of_refunds = self.closed_by_people = False
        steps = (
            lambda: self.tell(self._wish(channel, here=True, tried=False)),
            self._answer_all,
            lambda: self.somebody_pays(0, told=False),
            lambda: self.notification(0, times=1),
            lambda: self.refund("A", 60),
            self._answer_all,
            lambda: self.somebody_pays_once_more(0),
            lambda: self.notification(1, times=1),
        )
        for step in steps[:opening]:
            self._pass_time(100)
            step()

    # --- the gateway

    def tell(self, event: Event) -> Decision:
        before, decision = self.order, decide(self.order, event)
        order = self.order = decision.order
        assert order is before or order.version == before.version + 1, "S10"
        assert order.state is before.state or order.state in LEADS_TO[before.state], "S10"
        assert order is not before or (decision.announce is None and decision.case is None)
        for old, new in zip(before.attempts, order.attempts, strict=False):
            assert old.live or new.state in (old.state, AttemptState.SUCCEEDED), "S10: what has ended stays ended"
        if not (self.lied or isinstance(event, CaseResolved)):
            self._look_at_what_ended(before, order)
        if decision.settles is not None:
            self._settle(decision.settles)
        if decision.case is not None:
            self.cases[order.version] = decision.case
        self.credits |= {p.transaction for p in order.payments if p.kind is PaymentKind.CREDIT}
        for attempt in order.attempts:
            if attempt.credential is not None and attempt.credential not in self.held.setdefault(attempt.number, []):
                self.held[attempt.number].append(attempt.credential)
        self.under_way += [Request(effect, order, self.now_ms) for effect in decision.effects]
        return decision

    def _look_at_what_ended(self, before: Order, order: Order) -> None:
        """An attempt ends by its channel's word: closed there, or unknown there and nothing of it can be opened."""
        for attempt in order.attempts:
            if attempt.state is AttemptState.CLOSED and before.attempts[attempt.number - 1].state is not attempt.state:
                trade = self.ledger.trades.get(attempt.number)
                assert trade is None or trade.closed or not trade.known
                assert attempt.number not in self.payable
        if order.state is CLOSED and before.state is not CLOSED:
            watched = any(attempt.state is AttemptState.CLOSED for attempt in order.attempts)
            assert order.next_check_at_ms is not None or not watched

    def _settle(self, settles: Settlement) -> None:
        for version, reason in list(self.cases.items()):
            if settles.version in (None, version) and reason in settles.reasons:
                del self.cases[version]

    def _arrive(self, request: Request, *, refuses: bool = False, word: RefundWord = RefundWord.SUCCEEDED) -> None:
        if self.now_ms - request.sent_ms < ARRIVES_WITHIN_MS:
            request.answer = self.ledger.answer(request.order, request.effect, self.now_ms, refuses=refuses, word=word)
        if request.answer is None or not request.heard:
            self.under_way.remove(request)

    def _hear(self, request: Request) -> None:
        self.under_way.remove(request)
        assert request.answer is not None
        self._tell_now(request.answer)

    def _tell_now(self, event: Event) -> None:
        if hasattr(event, "transaction"):
            self.told.setdefault(event.transaction, (event.amount, event.currency))
        self.tell(replace(event, at_ms=self.now_ms))

    def _pass_time(self, ms: int) -> None:
        """Who waited too long for an answer has given up."""
        self.now_ms += ms
        for request in list(self.under_way):
            if request.heard and self.now_ms - request.sent_ms > ANSWERS_WITHIN_MS:
                request.heard = False
                if request.answer is not None:
                    self.under_way.remove(request)
                self.tell(silence(request.effect, self.now_ms))

    @property
    def in_flight(self) -> frozenset[int]:
        asked = (request.effect for request in self.under_way if request.heard)
        return frozenset(effect.number for effect in asked if isinstance(effect, Submit))

    @property
    def requests(self) -> list[Request]:
        return [request for request in self.under_way if request.answer is None]

    @property
    def on_their_way(self) -> list[Effect]:
        """What may still be carried out."""
        since_ms = self.now_ms - ARRIVES_WITHIN_MS
        return [request.effect for request in self.requests if request.sent_ms > since_ms]

    @property
    def answers(self) -> list[Request]:
        return [request for request in self.under_way if request.answer is not None]

    # --- the app

    @precondition(lambda self: self.order.state in (CREATED, PAYING) or self.now_ms % 2)
    @rule(channel=st.sampled_from(sorted(ACCOUNTS)), here=st.booleans(), tried=st.booleans())
    def pay(self, channel: str, here: bool, tried: bool) -> None:
        """`here`: at the process that has sent what is under way."""
        self.tell(self._wish(channel, here=here, tried=tried))

    @precondition(lambda self: self.order.live_attempt is not None)
    @rule(pick=picks)
    def switch(self, pick: int) -> None:
        """Another way to pay, twice: the second time as whoever waited for the close of the first."""
        live = self.order.live_attempt
        assert live is not None
        channel = sorted(set(ACCOUNTS) - {live.channel})[pick % 2]
        for tried in (False, True):
            self.tell(self._wish(channel, here=True, tried=tried))
            self._answer_all()

    def _answer_all(self) -> None:
        for request in [request for request in self.requests if request.heard]:
            self._arrive(request)
        for request in self.answers:
            self._hear(request)

    def _wish(self, channel: str, *, here: bool, tried: bool) -> Event:
        numbers = frozenset(attempt.number for attempt in self.order.attempts) if tried else frozenset()
        return pay(
            self.now_ms,
            self.in_flight if here else frozenset(),
            channel=channel,
            account=ACCOUNTS[channel],
            tried_to_close=numbers,
            renewable=channel == "wechatpay",
        )

    @precondition(lambda self: self.order.attempts)
    @rule()
    def query(self) -> None:
        self.tell(SyncRequested(self.now_ms))

    @precondition(lambda self: self.order.state in (CREATED, PAYING))
    @rule(pick=picks)
    def close(self, pick: int) -> None:
        """One in four who think of it do it."""
        if pick % 4 == 1:
            self.tell(CloseRequested(self.now_ms))

    @precondition(lambda self: self.order.state is PAID)
    @rule(name=st.sampled_from("ABC"), amount=st.sampled_from([1, 40, 60, 100]))
    def refund(self, name: str, amount: int) -> None:
        """The same number again, the same with another amount, and more than there is are among them."""
        self.tell(RefundRequested(self.now_ms, name, amount))

    # --- payers, and what they bring about

    @precondition(lambda self: self.payable)
    @rule(pick=picks, told=st.booleans())
    def somebody_pays(self, pick: int, told: bool) -> None:
        attempt = self._payable(pick)
        transaction = self.ledger.somebody_pays(attempt, self.now_ms, AMOUNT, "CNY", attempt.account)
        if told:
            self._notify(transaction)

    @precondition(lambda self: self.payable)
    @rule(pick=picks, what=st.sampled_from(WRONG))
    def somebody_pays_wrongly(self, pick: int, what: tuple[int, str, str]) -> None:
        attempt = self._payable(pick)
        amount, currency, account = what
        self._notify(self.ledger.somebody_pays(attempt, self.now_ms, amount, currency, account or attempt.account))

    @precondition(lambda self: any(trade.transactions for trade in self.ledger.trades.values()))
    @rule(pick=picks)
    def somebody_pays_once_more(self, pick: int) -> None:
        """With a second code of the same attempt."""
        paid = [number for number, trade in self.ledger.trades.items() if trade.transactions]
        attempt = self.order.attempts[paid[pick % len(paid)] - 1]
        self.ledger.somebody_pays(attempt, self.now_ms, AMOUNT, "CNY", attempt.account)

    @property
    def payable(self) -> list[int]:
        return self.ledger.payable(self.order, self.held, self.now_ms)

    def _payable(self, pick: int) -> Any:
        return self.order.attempts[self.payable[pick % len(self.payable)] - 1]

    # --- the channels

    @precondition(lambda self: self.ledger.payments)
    @rule(pick=picks, times=st.integers(1, 2))
    def notification(self, pick: int, times: int) -> None:
        """Of any payment ever made: late, again, or twice in a row."""
        for _ in range(times):
            self._notify(sorted(self.ledger.payments)[pick % len(self.ledger.payments)])

    def _notify(self, transaction: str) -> None:
        self._tell_now(self.ledger.paid_told(transaction, self.now_ms, Source.NOTIFICATION))

    @precondition(lambda self: self.ledger.payments)
    @rule(pick=picks, amount=st.sampled_from([1, 99]))
    def notification_of_another_amount(self, pick: int, amount: int) -> None:
        """It says something else of a payment than it did, or will."""
        transaction = sorted(self.ledger.payments)[pick % len(self.ledger.payments)]
        self._tell_now(replace(self.ledger.paid_told(transaction, self.now_ms, Source.NOTIFICATION), amount=amount))

    @precondition(lambda self: self.order.attempts and self.may_lie)
    @rule(pick=picks, what=st.sampled_from(sorted(CONTRADICTIONS)))
    def contradiction(self, pick: int, what: str) -> None:
        """It says of an attempt what its ledger does not."""
        number = self.order.attempts[pick % len(self.order.attempts)].number
        self.lied = True
        self.tell(CONTRADICTIONS[what](self.now_ms, number))

    @precondition(lambda self: self.ledger.refunds)
    @rule(pick=picks, word=st.sampled_from(RefundWord), told=st.booleans())
    def refund_moves(self, pick: int, word: RefundWord, told: bool) -> None:
        """A refund comes to its end, gets stuck, or is taken back; what had failed and yet moves is a contradiction."""
        refund_id = sorted(self.ledger.refunds)[pick % len(self.ledger.refunds)]
        back = self.ledger.refunds[refund_id]
        self.lied_of_refunds |= back.word is RefundWord.FAILED and word is not RefundWord.FAILED
        back.word = word
        refund = self.order.refund(refund_id)
        if told and refund is not None:
            self.tell(self.ledger.refund_told(refund, self.now_ms))

    # --- the network

    @precondition(lambda self: self.requests)
    @rule(pick=picks, refuses=st.booleans(), word=words, answered=st.booleans())
    def request_arrives(self, pick: int, refuses: bool, word: RefundWord, answered: bool) -> None:
        """And is answered at once, or the answer is still on its way."""
        request = self.requests[pick % len(self.requests)]
        self._arrive(request, refuses=refuses, word=word)
        if answered and request in self.answers:
            self._hear(request)

    @precondition(lambda self: self.answers)
    @rule(pick=picks)
    def answer_comes(self, pick: int) -> None:
        self._hear(self.answers[pick % len(self.answers)])

    @precondition(lambda self: self.under_way)
    @rule(pick=picks)
    def lost(self, pick: int) -> None:
        """A request or an answer; whoever waited hears nothing."""
        request = self.under_way.pop(pick % len(self.under_way))
        if request.heard:
            self.tell(silence(request.effect, self.now_ms))

    @precondition(lambda self: self.under_way)
    @rule(sent=st.booleans())
    def crash(self, sent: bool) -> None:
        """Nobody hears of what is under way; what had not been sent never is. The order is what was durable."""
        self.under_way = self.requests if sent else []
        for request in self.under_way:
            request.heard = False

    # --- time

    @rule(ms=st.sampled_from([1, 200, 2000, 15_000, 300_000]))
    def time_passes(self, ms: int) -> None:
        self._pass_time(ms)

    @precondition(lambda self: self.order.wakes_at_ms is not None)
    @rule()
    def timer(self) -> None:
        """The next thing that is due, by timer."""
        self._pass_time(max(0, (self.order.wakes_at_ms or 0) - self.now_ms))
        self.tell(Due(self.now_ms))
        self.tell(RefundsDue(self.now_ms))

    @precondition(lambda self: self.order.wakes_at_ms is not None)
    @rule(behind=st.integers(0, 1))
    def sweep(self, behind: int) -> None:
        """A claim, of the version there is or of the one before; it has pushed the moment ahead."""
        self._pass_time(max(0, (self.order.wakes_at_ms or 0) - self.now_ms))
        refunds = tuple(r.refund_id for r in self.order.refunds if r.open and (r.next_check_at_ms or 0) <= self.now_ms)
        if self.order.next_check_at_ms is not None and self.order.next_check_at_ms <= self.now_ms:
            self.tell(Due(self.now_ms, self.order.version - behind))
        self.tell(RefundsDue(self.now_ms, refunds, self.order.version - behind))

    @precondition(lambda self: self.now_ms < EXPIRES_MS)
    @rule(pick=picks)
    def expire(self, pick: int) -> None:
        if pick % 4 == 1:
            self._pass_time(EXPIRES_MS - self.now_ms)
            self.tell(Due(self.now_ms))

    # --- people

    @precondition(lambda self: self.cases)
    @rule(pick=picks, action=st.sampled_from(CaseAction))
    def people_decide(self, pick: int, action: CaseAction) -> None:
        version = sorted(self.cases)[pick % len(self.cases)]
        before = self.order
        self.tell(CaseResolved(self.now_ms, version, self.cases[version], action, "ann", "looked at it"))
        if self.order is before:
            return
        if action is CaseAction.CLOSE:
            self.left_at_that |= {payment.transaction for payment in self.order.payments}
            self.closed_by_people = True
        self.accepted |= action is CaseAction.ACCEPT

    # --- what must hold

    @invariant()
    def s5_one_credit(self) -> None:
        assert len(self.credits) <= 1
        credit = self.order.credit
        assert credit is None or self.accepted or (credit.amount, credit.currency) == (AMOUNT, "CNY")
        assert self.order.state is not PAID or credit is not None

    @invariant()
    def s6_each_payment_has_one_end(self) -> None:
        recorded = {(p.transaction, p.account): p for p in self.order.payments}
        assert len(recorded) == len(self.order.payments)
        assert {payment.transaction for payment in self.order.payments} == set(self.told), "what was told is there"
        for payment in self.order.payments:
            assert (payment.amount, payment.currency) == self.told[payment.transaction]
            backs = [refund for refund in self.order.refunds if refund.gives_back(payment)]
            match payment.kind:
                case PaymentKind.CREDIT:
                    assert {refund.cause for refund in backs} <= {RefundCause.APP}
                case PaymentKind.EXCESS:
                    assert {refund.amount for refund in backs} == {payment.amount}, "in full"
                case PaymentKind.HELD:
                    seen = backs or self.cases or payment.transaction in self.left_at_that
                    assert seen, "held money that nobody looks at"

    @invariant()
    def s8_never_more_than_was_paid(self) -> None:
        for payment in self.order.payments:
            assert self.order.refunding(payment) <= payment.amount
            if payment.amount == self.ledger.payments[payment.transaction].amount and not self.lied_of_refunds:
                assert self.ledger.moved(payment) <= payment.amount, "at the channel"

    @invariant()
    def nothing_open_is_forgotten(self) -> None:
        order, live = self.order, self.order.live_attempt
        comes_up = order.next_check_at_ms is not None
        assert comes_up or order.state not in (CREATED, PAYING, CLOSING)
        assert comes_up or live is None or self.cases or self.closed_by_people
        for refund in order.refunds:
            if refund.open:
                assert refund.next_check_at_ms is not None
            if refund.state is RefundState.FAILED and refund.refund_id not in self.ledger.refunds:
                assert SubmitRefund(refund.refund_id) not in self.on_their_way, "failed here, and may yet move there"
            if refund.state in GIVEN_UP and refund.cause is not RefundCause.APP:
                others = (other for other in order.refunds if other.transaction == refund.transaction)
                again = any(other.state not in GIVEN_UP for other in others)
                assert again or self.cases or refund.transaction in self.left_at_that, "owed, and nobody is told"

    @invariant()
    def who_can_still_pay_is_waited_for(self) -> None:
        """What a payer can pay at a channel is live here, or the order has its end by the channel's own word."""
        if self.lied or self.closed_by_people:
            return
        for number in self.payable:
            assert self.order.attempts[number - 1].live, "ended here, and payable there"

    # --- and in the end

    def teardown(self) -> None:
        """No more losses: what is under way arrives, and the order's own checks do the rest. Then everybody is told."""
        if not hasattr(self, "order"):
            return
        for back in self.ledger.refunds.values():
            if back.word in (RefundWord.PROCESSING, RefundWord.ABNORMAL):
                back.word = RefundWord.SUCCEEDED
        self._come_to_rest()
        if not (self.lied or self.closed_by_people):
            alone = {t.transactions[0] for t in self.ledger.trades.values() if len(t.transactions) == 1}
            assert alone <= set(self.told), "found by asking"
        for transaction in self.ledger.payments:
            self._notify(transaction)
        for refund in self.order.refunds:
            if refund.refund_id in self.ledger.refunds:
                self.tell(self.ledger.refund_told(refund, self.now_ms))
        self._come_to_rest()
        self._look_at_the_end()

    def _come_to_rest(self) -> None:
        for _ in range(ENDS_WITHIN_STEPS):
            for request in self.requests:
                self._arrive(request)
            for request in self.answers:
                self._hear(request)
            if self.under_way:
                continue
            if self.order.wakes_at_ms is None:
                return
            self.timer()
        raise AssertionError("it never came to rest")

    def _look_at_the_end(self) -> None:
        order = self.order
        self.s5_one_credit()
        self.s6_each_payment_has_one_end()
        self.s8_never_more_than_was_paid()
        self.nothing_open_is_forgotten()
        assert not any(refund.open for refund in order.refunds)
        assert order.state in (PAID, CLOSED, EXCEPTION)
        assert order.state is not EXCEPTION or self.cases
        right = [t for t, paid in self.told.items() if paid == (AMOUNT, "CNY")]
        ours = [p for p in order.payments if p.transaction in right and p.kind is not PaymentKind.HELD]
        assert order.state is PAID or not ours or order.content.late_payment is LatePolicy.REFUND
        for payment in order.payments:
            if payment.kind is PaymentKind.EXCESS and not self.cases and not self.lied_of_refunds:
                assert self.ledger.moved(payment) == payment.amount or payment.transaction in self.left_at_that


Life.TestCase.settings = settings(
    max_examples=300,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TestLife = Life.TestCase
