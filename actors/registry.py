"""From order id to running actor: wakes, runs, passivates and stops them.

Actors are caches. One that loses the compare-and-set reloads its order and hears the event once more.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice

import msgspec

from actors.actor import INBOX_MAX, Actor, Answer, Asked, Letter
from actors.checkpoint import Arrival, Write, birth, move, record
from actors.deadlines import Schedule
from actors.effects import Submit
from actors.errors import OrderNotFound, Overloaded, Stopped
from actors.events import (
    CaseResolved,
    CloseRequested,
    Due,
    Event,
    OutcomeUnknown,
    PayRequested,
    RefundRequested,
    RefundsDue,
    ReportedAlreadyPaid,
    SubmitAccepted,
    SubmitRefused,
    SyncRequested,
    Verb,
)
from actors.lifecycle import transition
from actors.order import Decision, Order
from actors.ports import Clock, Journal, RunEffects, Verdict
from actors.timers import Timers

LOOK_AGAIN_S = 0.2  # how soon whoever waits for an order that was passivated reads it again
LOST_MAX = 8  # races one event may lose before its teller is sent away to try later

# Not a channel's answer: that one of these changed nothing is no news to those who wait.
_WITHOUT_NEWS = (PayRequested, CloseRequested, SyncRequested, RefundRequested, CaseResolved, Due, RefundsDue)


class Registry:
    """All actors of this process. `moved` hears of every durable change: the order before (None: born) and after."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        schedule: Schedule,
        run_effects: RunEffects,
        actors_max: int,
        moved: Callable[[Order | None, Order], None] = lambda _before, _after: None,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._schedule = schedule
        self._run_effects = run_effects
        self._actors_max = actors_max
        self._moved = moved
        self._actors: dict[str, Actor] = {}
        self._timers = Timers(clock, self._fire)
        self._stopped = False

    def __len__(self) -> int:
        return len(self._actors)

    def ask(self, order_id: str, event: Event, arrivals: tuple[Arrival, ...] = (), seen: int = 0) -> Asked:
        """Tell an order an event; the future is answered when what it led to is durable.

        `seen` is the version of the order that the teller has just read: another process may have moved it since this
        one last looked. The future fails with an `ActorError` if nothing came of it, or with whatever the journal's
        load raised.
        """
        if isinstance(event, Due | RefundsDue) and event.claimed_version is not None:
            seen = event.claimed_version
        letter = Letter(event, asyncio.get_running_loop().create_future(), arrivals, seen)
        actor = self._actors.get(order_id)
        if self._stopped:
            letter.asked.set_exception(Stopped("the process is stopping"))
        elif actor is None and not self._has_room():
            letter.asked.set_exception(Overloaded("too many orders are in motion"))
        elif actor is None:
            actor = self._actors[order_id] = Actor(order_id, None)
            self._enqueue(actor, letter)
            self._load(actor)
        elif actor.busy:
            self._enqueue(actor, letter)
        else:
            self._decide(actor, letter)
        return letter.asked

    async def create(self, order: Order, fingerprint: bytes | None) -> Verdict:
        """Make a new order exist. LOST: another has its natural key, or a submission like it is too recent."""
        verdict = await self._journal.commit(birth(order, fingerprint))
        if verdict is Verdict.APPLIED:
            self._moved(None, order)
            if self._has_room():
                self._actors[order.order_id] = Actor(order.order_id, order)
                self._arm(order)
        return verdict

    def peek(self, order_id: str) -> Order | None:
        """The order as this process last saw it durable; None if it is not in memory or in motion."""
        actor = self._actors.get(order_id)
        return None if actor is None or actor.busy else actor.order

    def changed(self, order_id: str) -> "asyncio.Future[None]":
        """A future that is done at the order's next durable change in this process.

        An order that is not in memory may change without our hearing of it: then it is done after a moment, to look.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        actor = self._actors.get(order_id)
        if self._stopped:
            future.set_result(None)
        elif actor is None:
            loop.call_later(LOOK_AGAIN_S, _wake, future)
        elif actor.watchers is None:
            actor.watchers = [future]
        else:  # those who gave up waiting are not kept until the next change
            actor.watchers = [watcher for watcher in actor.watchers if not watcher.done()]
            actor.watchers.append(future)
        return future

    def may_ask(self, order_id: str, every_ms: int) -> bool:
        """Whether, as far as is remembered, the channel was not asked for a while on behalf of readers."""
        actor, now_ms = self._actors.get(order_id), self._clock.now_ms()
        if actor is None:
            return True
        if now_ms - actor.asked_at_ms < every_ms:
            return False
        actor.asked_at_ms = now_ms
        return True

    def forget_idle(self) -> None:
        """Drop what is cached: the database may have become another one."""
        for actor in [actor for actor in self._actors.values() if actor.idle]:
            del self._actors[actor.order_id]

    def stop(self) -> None:
        """Take no more events; whoever waits in an inbox is told so. Commits under way still answer."""
        self._stopped = True
        self._timers.stop()
        for actor in self._actors.values():
            actor.wake_watchers()
            for letter in actor.inbox or ():
                _fail(letter, Stopped("the process is stopping"))
            actor.inbox = None

    # --- one event ------------------------------------------------------------------------------------------------

    def _enqueue(self, actor: Actor, letter: Letter) -> None:
        if actor.inbox is None:
            actor.inbox = deque()
        if len(actor.inbox) >= INBOX_MAX:
            _fail(letter, Overloaded(f"too many events wait for order {actor.order_id}"))
        else:
            actor.inbox.append(letter)

    def _decide(self, actor: Actor, letter: Letter) -> None:
        """Run one event to its decision; no await between reading the order and handing over the write."""
        before = actor.order
        assert before is not None, "only a loaded actor decides"
        if letter.seen > before.version:
            self._read_again(actor, letter)
            return
        event = letter.event
        if isinstance(event, PayRequested):
            event = msgspec.structs.replace(event, in_flight=actor.submitting)
        decision = transition(before, event, self._schedule)
        if decision.order is before:
            self._unchanged(actor, letter, decision)
        else:
            actor.busy = True
            write = move(before, event, decision, letter.arrivals)
            self._commit(write, lambda done: self._committed(actor, letter, decision, done))

    def _unchanged(self, actor: Actor, letter: Letter, decision: Decision) -> None:
        """Nothing to be made durable but, perhaps, that a notification came in."""
        self._landed(actor, letter)
        answer = Answer(decision.reply, decision.order)
        if decision.effects:
            self._act(actor, decision)
        elif not isinstance(letter.event, _WITHOUT_NEWS):
            actor.wake_watchers()  # the channel answered, and that it changed nothing is news as well
        if letter.arrivals:
            self._commit(record(letter.arrivals[0]), lambda done: _answer_when(letter, answer, done))
        else:
            _answer(letter, answer)

    def _commit(self, write: Write, then: "Callable[[asyncio.Future[Verdict]], None]") -> None:
        self._journal.commit(write).add_done_callback(then)

    def _committed(self, actor: Actor, letter: Letter, decision: Decision, done: "asyncio.Future[Verdict]") -> None:
        error = done.exception()
        if error is not None:
            self._landed(actor, letter)
            _fail(letter, error)
            self._next(actor)
        elif done.result() is Verdict.LOST:
            self._lost(actor, letter)
        else:
            self._applied(actor, letter, decision)
            self._next(actor)

    def _applied(self, actor: Actor, letter: Letter, decision: Decision) -> None:
        before, after = actor.order, decision.order
        actor.order = after
        self._landed(actor, letter)
        if before is None or before.wakes_at_ms != after.wakes_at_ms:
            self._arm(after)
        self._moved(before, after)
        if decision.effects:
            self._act(actor, decision)
        actor.wake_watchers()
        _answer(letter, Answer(decision.reply, after))

    def _lost(self, actor: Actor, letter: Letter) -> None:
        """Somebody else moved the order: read it again, and let the event be heard once more before all others."""
        letter.lost += 1
        if letter.lost > LOST_MAX:
            _fail(letter, Overloaded(f"order {actor.order_id} is moved by others all the time"))
            self._load(actor)
        else:
            self._read_again(actor, letter)

    def _read_again(self, actor: Actor, letter: Letter) -> None:
        letter.seen = 0  # what is read now is the truth, whatever was seen before
        if actor.inbox is None:
            actor.inbox = deque([letter])
        else:
            actor.inbox.appendleft(letter)
        self._load(actor)

    def _next(self, actor: Actor) -> None:
        actor.busy = False
        while actor.inbox and not actor.busy:
            letter = actor.inbox.popleft()
            if not letter.asked.cancelled() or letter.arrivals:
                self._decide(actor, letter)
        if not actor.inbox:
            actor.inbox = None

    def _act(self, actor: Actor, decision: Decision) -> None:
        numbers = frozenset(effect.number for effect in decision.effects if isinstance(effect, Submit))
        actor.submitting |= numbers
        self._run_effects(decision.order, decision.effects)

    def _landed(self, actor: Actor, letter: Letter) -> None:
        """A submission of ours came back: it is in flight no more."""
        event = letter.event
        if isinstance(event, SubmitAccepted | SubmitRefused | ReportedAlreadyPaid) or (
            isinstance(event, OutcomeUnknown) and event.verb is Verb.SUBMIT
        ):
            actor.submitting -= {event.number}

    # --- waking and passivating -----------------------------------------------------------------------------------

    def _load(self, actor: Actor) -> None:
        actor.busy = True
        self._journal.load(actor.order_id).add_done_callback(lambda done: self._loaded(actor, done))

    def _loaded(self, actor: Actor, done: "asyncio.Future[Order | None]") -> None:
        error = done.exception() or (None if done.result() else OrderNotFound(actor.order_id))
        if error is None:
            actor.order = done.result()
            self._next(actor)
            return
        self._actors.pop(actor.order_id, None)
        for letter in actor.inbox or ():
            _fail(letter, error)
        actor.inbox = None
        actor.wake_watchers()

    def _has_room(self) -> bool:
        if len(self._actors) < self._actors_max:
            return True
        oldest = islice(self._actors.values(), max(64, self._actors_max // 16))
        for actor in [actor for actor in oldest if actor.idle]:
            del self._actors[actor.order_id]
        return len(self._actors) < self._actors_max

    def _arm(self, order: Order) -> None:
        wakes_at_ms = order.wakes_at_ms
        if wakes_at_ms is not None and not self._stopped:
            self._timers.arm(order.order_id, wakes_at_ms)

    def _fire(self, order_id: str) -> None:
        actor = self._actors.get(order_id)
        if actor is None:  # a passivated order is left to the sweep
            return
        self.ask(order_id, Due(self._clock.now_ms())).add_done_callback(_retrieve)
        if actor.order is not None and actor.order.refunds:
            self.ask(order_id, RefundsDue(self._clock.now_ms())).add_done_callback(_retrieve)


def _wake(waiting: "asyncio.Future[None]") -> None:
    if not waiting.done():
        waiting.set_result(None)


def _answer(letter: Letter, answer: Answer) -> None:
    if not letter.asked.done():
        letter.asked.set_result(answer)


def _answer_when(letter: Letter, answer: Answer, done: "asyncio.Future[Verdict]") -> None:
    error = done.exception()
    if error is not None:
        _fail(letter, error)
    else:
        _answer(letter, answer)


def _fail(letter: Letter, error: BaseException) -> None:
    if not letter.asked.done():
        letter.asked.set_exception(error)


def _retrieve(done: Asked) -> None:
    """A timer's event that failed is no loss: the row is still due, and the sweep finds it."""
    if not done.cancelled():
        done.exception()
