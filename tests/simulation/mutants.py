"""Bugs planted in our own code, one at a time: the proof that the simulation would find them.

Each is a patch that holds while a run lasts. A mutant that no seed finds means that the simulation is too weak: it is
the simulation that is to be made stronger then, not the list shorter.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Final
from unittest import mock

import msgspec

from actors import crediting, deadlines, lifecycle, refunding
from actors.actor import Actor, Letter
from actors.checkpoint import Write
from actors.events import Event, ReportedClosed
from actors.order import AttemptState, Decision, Order, OrderState, PaymentKind, replaced
from actors.ports import Verdict
from actors.registry import Registry
from channels import signing
from channels.contract import AlreadyPaid, Refused, Unknown
from gateway import effect_runner, inbox
from gateway.api import callers_orders
from gateway.api import orders as orders_api
from gateway.api.problems import Problem
from gateway.effect_runner import EffectRunner
from gateway.storage import group_commit, lane, outbox, rows, sweep
from gateway.storage.group_commit import GroupCommit
from gateway.storage.journal import Journal
from gateway.storage.lane import Lane
from gateway.storage.sqlstates import Meaning
from gateway.webhooks import delivery
from gateway.webhooks.schedule import Dead, Delivered

Plant = Callable[[], AbstractContextManager[Any]]


class Mutant(msgspec.Struct, frozen=True):
    """A bug: its name, what it breaks, and how it is planted."""

    name: str
    breaks: str
    plant: Plant


MUTANTS: Final[dict[str, Mutant]] = {}


def mutant(function: Callable[[], Any]) -> Callable[[], Any]:
    """Enter a bug in the list; its docstring is what it breaks."""
    plant = function
    MUTANTS[function.__name__] = Mutant(function.__name__, (function.__doc__ or "").strip(), plant)
    return function


replace = msgspec.structs.replace
patched = mock.patch.object


# --- answered, acknowledged or done before it is durable --------------------------------------------------------------


@mutant
def acknowledged_before_commit() -> Any:
    """A notification is acknowledged while its payment is on its way to the database."""

    async def told(self: inbox.Tell, order_id: str, event: Event, arrivals: Any) -> inbox.Verdict:
        self._ask(order_id, event, arrivals).add_done_callback(lambda done: done.cancelled() or done.exception())
        return inbox.Verdict.VERIFIED

    return patched(inbox.Tell, "_told", told)


@mutant
def created_before_commit() -> Any:
    """A create is answered while the order is on its way to the database."""
    real = Journal.commit

    def commit(self: Journal, write: Write) -> "asyncio.Future[Verdict]":
        done = real(self, write)
        if write.order is None or write.order.version > 1:
            return done
        done.add_done_callback(lambda each: each.cancelled() or each.exception())
        early: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        early.set_result(Verdict.APPLIED)
        return early

    return patched(Journal, "commit", commit)


@mutant
def told_before_commit() -> Any:
    """A webhook is given to delivery when it is queued, not when it is committed."""
    real = GroupCommit.submit

    def submit(self: GroupCommit, write: Write, *, urgent: bool = True) -> "asyncio.Future[Verdict]":
        done = real(self, write, urgent=urgent)
        if self._backlog and self._backlog[-1].webhook is not None:
            self._owe([self._backlog[-1].webhook])
        return done

    return patched(GroupCommit, "submit", submit)


@mutant
def effects_before_commit() -> Any:
    """A channel is called while the intent is on its way to the database."""
    real = Registry._decide

    def decide(self: Registry, actor: Actor, letter: Letter) -> None:
        early: list[Decision] = []
        transition = lifecycle.transition

        def watched(order: Order, event: Event, schedule: Any) -> Decision:
            decision = transition(order, event, schedule)
            if decision.effects and decision.order is not order:
                early.append(decision)
            return decision

        with mock.patch("actors.registry.transition", watched):
            real(self, actor, letter)
        for decision in early:
            self._run_effects(decision.order, decision.effects)

    return patched(Registry, "_decide", decide)


@mutant
def webhooks_beside_the_commit() -> Any:
    """The outbox row is not written with the change: whoever dies owes nothing any more."""
    real = rows.add_rows

    def add_rows(into: Any, write: Write, op_id: int, webhook: Any, settings: Any) -> None:
        real(into, write, op_id, None, settings)

    return patched(lane, "add_rows", add_rows)


# --- unknown taken for an answer --------------------------------------------------------------------------------------


@mutant
def unknown_is_failed() -> Any:
    """An error whose meaning nobody knows counts as certainly not written."""
    real = group_commit.meaning

    def meaning(error: BaseException) -> Meaning:
        said = real(error)
        return Meaning.NOT_NOW if said is Meaning.UNKNOWN else said

    return patched(group_commit, "meaning", meaning)


@mutant
def given_up_in_doubt() -> Any:
    """A write that may have been made is given up like one that certainly was not."""
    real = GroupCommit._give_up_on

    def give_up_on(self: GroupCommit, waiting: Any, error: Exception) -> bool:
        for pending in waiting:
            pending.in_doubt = False
        return real(self, waiting, error)

    return patched(GroupCommit, "_give_up_on", give_up_on)


@mutant
def unknown_is_written() -> Any:
    """An error whose meaning nobody knows counts as written."""
    real = Lane.send

    async def send(self: Lane, batch: Sequence[Any]) -> set[str]:
        try:
            return await real(self, batch)
        except Exception as error:
            if group_commit.meaning(error) is not Meaning.UNKNOWN:
                raise
            self.disconnect()
            return {pending.order_id for pending in batch if pending.order_id}

    return patched(Lane, "send", send)


@mutant
def every_miss_is_mine() -> Any:
    """A write that lost the compare-and-set is taken for an earlier one of its own."""

    async def own(self: Lane, missed: Sequence[Any]) -> set[str]:
        return {pending.order_id for pending in missed if pending.order_id}

    return patched(Lane, "own", own)


@mutant
def no_compare_and_set() -> Any:
    """A move is written whatever version it was decided on."""
    from tests.simulation import flush

    def moved(work: Any, moves: Any, _seen: Any) -> dict[str, None]:
        tables, applied = work.tables, {}
        for row in moves:
            before = tables.orders.get(row[0])
            if before is None:
                continue
            version = before.version + 1
            flush_moved(work, [(row[0], version, *row[2:])], None)
            applied[row[0]] = None
        return applied

    flush_moved = flush._moved
    return patched(flush, "_moved", moved)


@mutant
def silence_of_a_close_is_closed() -> Any:
    """A close that nobody answered counts as done."""
    real = EffectRunner._closed

    def closed(self: EffectRunner, number: int, outcome: Any) -> Event:
        if isinstance(outcome, Unknown):
            return ReportedClosed(self._clock.now_ms(), number)
        return real(self, number, outcome)

    return patched(EffectRunner, "_closed", closed)


@mutant
def paid_counts_as_closed() -> Any:
    """A close that is refused, because it is paid, counts as done."""
    real = EffectRunner._closed

    def closed(self: EffectRunner, number: int, outcome: Any) -> Event:
        if isinstance(outcome, AlreadyPaid):
            return ReportedClosed(self._clock.now_ms(), number)
        return real(self, number, outcome)

    return patched(EffectRunner, "_closed", closed)


@mutant
def silence_of_a_query_is_not_found() -> Any:
    """A query that nobody answered counts as: there is nothing."""
    real = EffectRunner._queried

    def queried(self: EffectRunner, number: int, outcome: Any, contested: bool) -> Event:
        if isinstance(outcome, Unknown):
            return ReportedClosed(self._clock.now_ms(), number)
        return real(self, number, outcome, contested)

    return patched(EffectRunner, "_queried", queried)


@mutant
def not_found_is_final() -> Any:
    """An attempt that its channel does not know yet counts as one that it never will."""
    return patched(deadlines, "gone_after", lambda _schedule, _attempt: 0)


@mutant
def silence_of_a_refund_is_failed() -> Any:
    """A refund that nobody answered counts as refused: its money may be given away again."""
    real = EffectRunner._refunded

    def refunded(self: EffectRunner, refund_id: str, outcome: Any) -> Event:
        return real(self, refund_id, Refused("silence", "no answer") if isinstance(outcome, Unknown) else outcome)

    return patched(EffectRunner, "_refunded", refunded)


# --- money ------------------------------------------------------------------------------------------------------------


@mutant
def state_before_transaction() -> Any:
    """A payment is compared by the order's state first: the second notification of one is money too much."""
    return patched(Order, "knows", lambda _self, _channel, _account, _transaction: False)


@mutant
def any_amount_will_do() -> Any:
    """Amount, currency and account of a payment are not compared."""
    return patched(crediting, "_difference", lambda _order, _event: None)


@mutant
def excess_is_kept() -> Any:
    """Money beyond the credit is recorded, and nothing gives it back."""

    def give_back(order: Order, event: Any, _cause: Any, _schedule: Any) -> Decision:
        payment = crediting._payment(event, PaymentKind.EXCESS)
        return Decision(order.advanced(payments=(*order.payments, payment)))

    return patched(crediting, "_give_back", give_back)


@mutant
def excess_is_given_back_twice() -> Any:
    """The refund of an excess has another number every time that it is sent."""
    real = effect_runner._refund_key

    def key(order: Order, refund: Any) -> Any:
        named = real(order, refund)
        tail = f"{refund.submits:02d}" if refund.submits > 1 else named.refund_no[-2:]
        return replace(named, refund_no=named.refund_no[:-2] + tail)

    return patched(effect_runner, "_refund_key", key)


@mutant
def the_credit_is_given_back() -> Any:
    """A payment that is reported once more is taken for a second one, and the only one goes back."""

    def reported(order: Order, event: Any, schedule: Any) -> Decision:
        credit = order.credit
        known = credit is not None and credit.transaction == event.transaction
        if credit is None or not known or order.refunds:
            return real(order, event, schedule)
        refund = refunding.give_back(order, credit, crediting.RefundCause.EXCESS, event.at_ms, schedule)
        assert refund is not None, "it is the first"
        after = refunding.with_refund(order.advanced(), refund)
        return Decision(after, effects=(crediting.SubmitRefund(refund.refund_id),))

    real = crediting.payment_reported
    return _decided_by(lifecycle.PaymentReported, reported)


@mutant
def late_money_is_always_welcome() -> Any:
    """What an app wants of late payments is not asked."""

    def reported(order: Order, event: Any, schedule: Any) -> Decision:
        welcome = replace(order, content=replace(order.content, late_payment=crediting.LatePolicy.ACCEPT))
        decision = real(welcome, event, schedule)
        return Decision(order) if decision.order is welcome else decision

    real = crediting.payment_reported
    return _decided_by(lifecycle.PaymentReported, reported)


@mutant
def more_back_than_was_paid() -> Any:
    """Refunds that are under way do not count against what may still go back."""

    def refund_requested(order: Order, event: Any, schedule: Any) -> Decision:
        generous = replace(order, refunded_amount=0)
        decision = real(generous, event, schedule)
        return replace(decision, order=order) if decision.order is generous else decision

    real = refunding.refund_requested
    return _decided_by(lifecycle.RefundRequested, refund_requested)


# --- closing ----------------------------------------------------------------------------------------------------------


@mutant
def closed_by_our_clock() -> Any:
    """An order that has expired is closed at once, whatever its channel says."""

    def begin(order: Order, live: Any, at_ms: int, schedule: Any) -> Decision:
        ended = replaced(order.attempts, replace(live, state=AttemptState.CLOSED, credential=None))
        return lifecycle._close_now(replace(order, attempts=ended), at_ms, schedule)

    return patched(lifecycle, "_begin_closing", begin)


@mutant
def no_watch_after_closed() -> Any:
    """Nobody looks at a closed order again."""
    return patched(deadlines, "watch_check", lambda _schedule, _step, _closed_at_ms: None)


@mutant
def the_first_code_stays_open() -> Any:
    """A payer who changes their mind gets a second code, and the first is forgotten instead of closed."""

    def make_room(order: Order, live: Any, event: Any, schedule: Any) -> Decision:
        ended = replaced(order.attempts, replace(live, state=AttemptState.FAILED))
        return lifecycle._start_payment(replace(order, attempts=ended), event, schedule)

    return patched(lifecycle, "_make_room", make_room)


# --- time and leases --------------------------------------------------------------------------------------------------


@mutant
def no_sweep() -> Any:
    """What is due is left to the timers of whoever started it."""

    async def nothing(_self: Any) -> int:
        return 0

    return patched(sweep.Sweep, "sweep", nothing)


@mutant
def no_sweep_of_refunds() -> Any:
    """A refund whose process died is asked after by nobody."""

    async def nothing(_self: Any) -> int:
        return 0

    return patched(sweep.Sweep, "sweep_refunds", nothing)


@mutant
def a_lease_never_ends() -> Any:
    """What a process that died had claimed is never claimed again."""
    real = sweep.Sweep.sweep

    async def swept(self: sweep.Sweep) -> int:
        self._settings = replace(self._settings, lease_s=100_000.0)
        return await real(self)

    return patched(sweep.Sweep, "sweep", swept)


@mutant
def a_webhooks_lease_never_ends() -> Any:
    """What a process that died was about to deliver is never delivered."""
    real = outbox.Outbox.claim

    async def claim(self: outbox.Outbox, limit: int, _lease_s: float, paused: Any = ()) -> Any:
        return await real(self, limit, 100_000.0, paused)

    return patched(outbox.Outbox, "claim", claim)


@mutant
def the_ladder_waits_for_the_expiry() -> Any:
    """A channel that said nothing is asked again when the order expires, not before."""
    return patched(deadlines, "after_query", lambda _schedule, _step, _at_ms, expires_at_ms: expires_at_ms)


@mutant
def what_a_query_finds_is_not_believed() -> Any:
    """Only notifications are believed: what a query finds paid is left for them to say."""
    real = EffectRunner._queried

    def queried(self: EffectRunner, number: int, outcome: Any, contested: bool) -> Event:
        if isinstance(outcome, effect_runner.Paid):
            return lifecycle.OutcomeUnknown(self._clock.now_ms(), number, lifecycle.Verb.QUERY, "left to others")
        return real(self, number, outcome, contested)

    return patched(EffectRunner, "_queried", queried)


# --- telling the app --------------------------------------------------------------------------------------------------


@mutant
def any_answer_is_delivered() -> Any:
    """A webhook counts as taken whatever the app answered."""
    real = delivery.verdict_of

    def verdict_of(status: int | None, *arguments: Any, **named: Any) -> Any:
        return Delivered() if status is not None else real(status, *arguments, **named)

    return patched(delivery, "verdict_of", verdict_of)


@mutant
def one_try_is_enough() -> Any:
    """A webhook that failed is not sent again."""
    real = delivery.verdict_of

    def verdict_of(*arguments: Any, **named: Any) -> Any:
        verdict = real(*arguments, **named)
        return verdict if isinstance(verdict, Delivered) else Dead("tried")

    return patched(delivery, "verdict_of", verdict_of)


# --- who may do what --------------------------------------------------------------------------------------------------


@mutant
def every_signature_is_good() -> Any:
    """Signatures are not checked."""
    return patched(signing, "verify", lambda _key, _message, _signature: True)


@mutant
def the_path_is_believed() -> Any:
    """A genuine notification counts for whatever order its path names."""
    from gateway.api import callbacks

    real = inbox.Tell.payment

    async def payment(self: inbox.Tell, order_id: str, said: Any, notification_id: int, arrivals: Any = ()) -> Any:
        number = order_id + arrivals[0].attempt if arrivals else said.out_trade_no
        return await real(self, order_id, replace(said, out_trade_no=number), notification_id, arrivals)

    patches = ExitStack()
    patches.enter_context(patched(callbacks, "_comes_by_payment_path", lambda _notified, _number: True))
    patches.enter_context(patched(inbox.Tell, "payment", payment))
    return patches


@mutant
def orders_are_everybodys() -> Any:
    """Whoever knows an order's id may see and move it."""

    async def of(self: callers_orders.CallersOrders, request: Any) -> Order:
        await self._authenticator.app_of(request)
        order = await self._journal.load(request.match_info["order_id"])
        if order is None:
            raise Problem("order_not_found", param="order_id")
        return order

    return patched(callers_orders.CallersOrders, "of", of)


# --- caches and hints -------------------------------------------------------------------------------------------------


@mutant
def redis_decides() -> Any:
    """A hint of Redis is taken for the verdict."""
    real = orders_api.OrdersApi._existing

    async def existing(self: Any, content: Any, wanted_ms: Any, fingerprint: Any) -> Any:
        answer = await real(self, content, wanted_ms, fingerprint)
        if answer is None and fingerprint is not None:
            raise Problem("duplicate_submission", param="out_order_no", order_id="0" * 26)
        return answer

    return patched(orders_api.OrdersApi, "_existing", existing)


@mutant
def duplicates_are_not_remembered() -> Any:
    """Submissions of the same content are told apart by their number alone."""
    real = Registry.create

    async def create(self: Registry, order: Order, _fingerprint: Any) -> Verdict:
        return await real(self, order, None)

    return patched(Registry, "create", create)


@mutant
def memory_answers() -> Any:
    """A reader gets what this process remembers, whatever another one has answered meanwhile."""

    def remembered(self: callers_orders.CallersOrders, order_id: str) -> Order | None:
        return self._registry.peek(order_id)

    return patched(callers_orders.CallersOrders, "_remembered", remembered)


@mutant
def a_retry_is_another_order() -> Any:
    """The same number with another body replaces nothing and is answered all the same."""
    return patched(orders_api, "_refuse_difference", lambda _order, _content, _wanted_ms: None)


@mutant
def paid_can_be_closed() -> Any:
    """A paid order can be closed by its app."""

    def close(order: Order, event: Any, schedule: Any) -> Decision:
        return Decision(order.advanced(state=OrderState.CLOSED, paid_amount=0, closed_at_ms=event.at_ms))

    rule = lifecycle._rule(close, OrderState.CLOSED)
    return mock.patch.dict(lifecycle.TRANSITIONS[lifecycle.CloseRequested], {OrderState.PAID: rule})


def _decided_by(event: Any, decide: Any) -> Any:
    """Have another rule decide this event, in all states that the real one decides."""
    table = lifecycle.TRANSITIONS[event]
    real = next(rule.decide for rule in table.values())
    rules = {state: replace(rule, decide=decide) for state, rule in table.items() if rule.decide is real}
    return mock.patch.dict(table, rules)
