"""PostgreSQL as the gateway meets it, in memory: the server's side, with its locks, its silences and its late commits.

A statement is one transaction. It travels, waits for the rows that others hold, is carried out, may be held up before
it commits, and its reply travels back; each leg can be slow or lost. Nobody sees what is not committed. What was sent
does not depend on the client any more: a statement whose connection has ended is mostly committed all the same.

Not modelled: deadlocks (statements lock in the order of their keys), `smallint` overflows, roles, a commit that is lost
after it was acknowledged. A JSON text that is none is refused also where Postgres would not get to look at it.
"""

import asyncio
import contextvars
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from asyncpg import PostgresError, exceptions

from gateway.databases import CONNECT_TIMEOUT_S, LOCK_TIMEOUT
from tests.simulation.locks import Lock, Locks
from tests.simulation.sessions import Connection, Pool, Transaction
from tests.simulation.tables import Change, Tables
from tests.simulation.wire import Record
from tests.simulation.work import Seen, Statement, Work

LOCK_TIMEOUT_S = float(LOCK_TIMEOUT.removesuffix("ms")) / 1000
POOL_SIZE = 8  # config: database.pool_max
COMMAND_TIMEOUT_S = 10.0  # databases.make_pool
SENT_AND_DONE = 0.7  # how often the server carries out what it was sent, although the client is gone


class Faults(msgspec.Struct):
    """What goes wrong from now on. Rates are 0..1 for each statement, at most one of them strikes; times in seconds.

    `slow_s` is the longest delay: of the way there, of the commit while rows are held, or of the way back.
    `latency_s` is the longest way there without any fault.
    """

    request_lost: float = 0.0
    reply_lost: float = 0.0
    slow: float = 0.0
    slow_s: float = 0.0
    connect_refused: float = 0.0
    read_only: bool = False
    down: bool = False
    latency_s: float = 0.0


class Fate(msgspec.Struct, frozen=True):
    """What is in store for one statement. `ends`: what is lost takes the connection with it; else there is silence."""

    request_s: float = 0.0
    hold_s: float = 0.0
    reply_s: float = 0.0
    request_lost: bool = False
    reply_lost: bool = False
    ends: bool = False


NOTHING = Fate()


class Commit(msgspec.Struct, frozen=True, gc=False):
    """One version of an order became durable at `at_s`, on the database's clock."""

    at_s: float
    order_id: str
    version: int
    op_id: int


class Sent(msgspec.Struct, eq=False):
    """A statement on its way. `changes` are those it has made and not yet committed."""

    session: Connection
    statement: Statement
    parameters: Sequence[Any]
    reply: "asyncio.Future[Sequence[Record]]"
    start: int
    changes: list[Change] | None = None
    task: "asyncio.Task[None] | None" = None


class Database:
    """The simulated server.

    Args:
        now: unix seconds of the database's clock.
        chance: decides all that is left to chance.
        faults: read anew for every statement.
        spawn_server: runs the server's side of a statement, so that the end of the client's process does not end it.

    To be made outside of the simulated processes: what it does by itself runs in the context it was made in.
    """

    def __init__(
        self,
        now: Callable[[], float],
        chance: random.Random,
        faults: Faults,
        spawn_server: Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"],
    ) -> None:
        self.tables = Tables()
        self.commits: list[Commit] = []
        self.faults = faults
        self._now = now
        self._chance = chance
        self._spawn_server = spawn_server
        self._context = contextvars.copy_context()
        self._locks = Locks()
        self._sessions: dict[Connection, None] = {}
        self._under_way: dict[Sent, None] = {}  # what takes longer than a turn of the loop
        self._start = 0  # how often the server was started

    # --- for clients ------------------------------------------------------------------------------------------------

    async def connect(self) -> Connection:
        """A session as the committer's `connect` makes it."""
        return await self.open(LOCK_TIMEOUT_S, None)

    def pool(self, size: int = POOL_SIZE) -> Pool:
        """A pool as `databases.make_pool` makes it."""
        return Pool(self, size, COMMAND_TIMEOUT_S)

    async def open(self, lock_timeout_s: float | None, command_timeout_s: float | None) -> Connection:
        """A new session.

        Raises:
            ConnectionRefusedError, CannotConnectNowError, TimeoutError: there is none.
        """
        faults, chance = self.faults, self._chance
        wait_s = chance.uniform(0, faults.slow_s) if faults.slow and chance.random() < faults.slow else 0.0
        await asyncio.sleep(min(wait_s, CONNECT_TIMEOUT_S))
        if wait_s >= CONNECT_TIMEOUT_S:
            raise TimeoutError
        if faults.down:
            raise ConnectionRefusedError("the simulated database is down")
        if faults.connect_refused and chance.random() < faults.connect_refused:
            if chance.random() < 0.5:
                raise exceptions.CannotConnectNowError("the database system is starting up")
            raise ConnectionRefusedError("the simulated database takes no connections")
        session = Connection(self, lock_timeout_s, command_timeout_s)
        self._sessions[session] = None
        return session

    # --- for the world ----------------------------------------------------------------------------------------------

    def kill_sessions(self) -> None:
        """Restart at once: every session ends, and what was about to be committed is committed or not."""
        self._start += 1
        for sent in list(self._under_way):
            if sent.changes is not None and self._chance.random() < 0.5:
                self.tables.redo(sent.changes)
                self._commit(sent.changes)
            if sent.task is not None:
                sent.task.cancel()
        self._under_way.clear()
        self._locks = Locks()
        for session in list(self._sessions):
            session.terminate()

    @contextmanager
    def held(self, *locks: Lock) -> Iterator[None]:
        """While the block runs, somebody else's session holds these rows, e.g. ("orders", order_id)."""
        holder, mine = object(), self._locks
        mine.take(holder, locks)
        try:
            yield
        finally:
            mine.release(holder)

    # --- for sessions -----------------------------------------------------------------------------------------------

    def send(
        self, session: Connection, statement: Statement, parameters: Sequence[Any]
    ) -> "asyncio.Future[Sequence[Record]]":
        """Send a statement on its way; the future is its reply."""
        loop = asyncio.get_running_loop()
        sent = Sent(session, statement, parameters, loop.create_future(), self._start)
        fate = self._fate()
        if fate is not NOTHING:
            self._take_time(sent, fate)
        elif self.faults.latency_s:
            delay_s = self._chance.uniform(0, self.faults.latency_s)
            loop.call_later(delay_s, self._arrive, sent, context=self._context)
        else:
            loop.call_soon(self._arrive, sent, context=self._context)
        return sent.reply

    def closed(self, session: Connection) -> None:
        """A session has ended; so has its transaction."""
        self._sessions.pop(session, None)
        if session.transaction_open is not None:
            self._locks.release(session.transaction_open)
            session.transaction_open = None

    def finish(self, transaction: Transaction, *, commit: bool) -> None:
        """End a transaction that had several statements."""
        if commit:
            self.tables.redo(transaction.changes)
            self._commit(transaction.changes)
        self._locks.release(transaction)

    # --- a statement's way ------------------------------------------------------------------------------------------

    def _fate(self) -> Fate:
        faults = self.faults
        threshold = faults.request_lost + faults.reply_lost + faults.slow
        if not threshold:
            return NOTHING
        chance = self._chance
        roll = chance.random()
        if roll >= threshold:
            return NOTHING
        if roll < faults.request_lost:
            return Fate(request_lost=True, ends=chance.random() < 0.5)
        if roll < faults.request_lost + faults.reply_lost:
            return Fate(reply_lost=True, ends=chance.random() < 0.5)
        leg = chance.choice(("request_s", "hold_s", "reply_s"))
        return Fate(**{leg: chance.uniform(0, faults.slow_s)})

    def _take_time(self, sent: Sent, fate: Fate) -> None:
        """Carry a statement out in a task of the server's."""
        self._under_way[sent] = None
        if sent.session.command_timeout_s is not None:
            asyncio.get_running_loop().call_later(
                sent.session.command_timeout_s, sent.session.time_out, sent.reply, context=self._context
            )
        sent.task = self._spawn_server(self._carry_out(sent, fate))

    def _arrive(self, sent: Sent) -> None:
        """The way of nearly all statements: nobody is waited for, nothing is lost."""
        if not self._accepts(sent):
            return
        if sent.session.transaction_open is not None or (self._locks and self._must_wait(sent)):
            self._take_time(sent, NOTHING)
            return
        try:
            rows, changes = self._execute(sent, sent, self._clock_us(), None)
        except PostgresError as error:
            _answer(sent, error)
        else:
            self._commit(changes)
            _answer(sent, rows)

    async def _carry_out(self, sent: Sent, fate: Fate) -> None:
        """The long way: travel, wait for locks, work, commit, travel."""
        if fate.request_s:
            await asyncio.sleep(fate.request_s)
        answer = None
        if not fate.request_lost and self._accepts(sent):
            answer = await self._done(sent, fate)
        if fate.reply_s:
            await asyncio.sleep(fate.reply_s)
        self._under_way.pop(sent, None)
        if answer is not None and not fate.reply_lost:
            _answer(sent, answer)
        elif fate.ends:
            sent.session.terminate()

    async def _done(self, sent: Sent, fate: Fate) -> "Sequence[Record] | PostgresError | None":
        """What the server has to say: rows, an error, or None: the statement was taken back."""
        transaction, locks = sent.session.transaction_open, self._locks
        holder = transaction or sent
        try:
            started_us = self._clock_us()
            wanted = sent.statement.locks(self.tables, sent.parameters)
            for lock in wanted:
                await locks.acquire(holder, lock, sent.session.lock_timeout_s)
            if transaction is not None:
                return self._execute_within(transaction, sent, started_us)
            rows, changes = self._execute(sent, sent, started_us, frozenset(wanted))
            if fate.hold_s and not await self._held_up(sent, changes, fate.hold_s):
                return None
            self._commit(changes)
        except PostgresError as error:
            return error
        finally:
            if transaction is None:
                locks.release(sent)
        return rows

    async def _held_up(self, sent: Sent, changes: list[Change], hold_s: float) -> bool:
        """Keep what was changed from everybody for a while; whether it is to be committed then."""
        self.tables.undo(changes)
        self._locks.take(sent, _touched(changes))
        sent.changes = changes
        await asyncio.sleep(hold_s)
        sent.changes = None
        if not self._accepts(sent):
            return False
        self.tables.redo(changes)
        return True

    def _accepts(self, sent: Sent) -> bool:
        """Whether the server gets to see a statement that has arrived."""
        if sent.start != self._start or not self._goes_on(sent):
            return False
        if self.faults.down:
            sent.session.terminate()
            return False
        return True

    def _goes_on(self, sent: Sent) -> bool:
        """A client that is gone stops its statement only now and then."""
        return not sent.session.is_closed() or self._chance.random() < SENT_AND_DONE

    def _must_wait(self, sent: Sent) -> bool:
        try:
            wanted = sent.statement.locks(self.tables, sent.parameters)
        except PostgresError:
            return False  # it will be refused
        return any(self._locks.held(lock, sent) for lock in wanted)

    # --- work -------------------------------------------------------------------------------------------------------

    def _execute(
        self, sent: Sent, holder: object, started_us: int, seen: Seen
    ) -> tuple[Sequence[Record], list[Change]]:
        """Carry a statement out on the tables. Refused, it leaves nothing behind."""
        faults, tables, locks = self.faults, self.tables, self._locks
        if faults.read_only and sent.statement.writes:
            raise exceptions.ReadOnlySQLTransactionError("cannot write in a read-only transaction")
        work = Work(tables, started_us, self._clock_us, lambda lock: locks.held(lock, holder), faults.read_only)
        try:
            rows = sent.statement.run(work, sent.parameters, seen)
        except BaseException:
            tables.undo(tables.taken())
            raise
        return rows, tables.taken()

    def _execute_within(self, transaction: Transaction, sent: Sent, started_us: int) -> Sequence[Record]:
        """Carry a statement out where its transaction's changes can be seen; nobody else sees them, or its own."""
        tables = self.tables
        tables.redo(transaction.changes)
        try:
            rows, changes = self._execute(sent, transaction, started_us, None)
            tables.undo(changes)
        finally:
            tables.undo(transaction.changes)
        self._locks.take(transaction, _touched(changes))
        transaction.changes += changes
        return rows

    def _commit(self, changes: list[Change]) -> None:
        """What was changed is durable from now on."""
        events = self.tables.events
        for table, _, before, after in changes:
            if table is events and before is None:
                self.commits.append(Commit(self._now(), after.order_id, after.version, after.op_id))

    def _clock_us(self) -> int:
        return round(self._now() * 1_000_000)


def _touched(changes: list[Change]) -> dict[Lock, None]:
    return {(table.name, key): None for table, key, _, _ in changes}


def _answer(sent: Sent, answer: "Sequence[Record] | PostgresError") -> None:
    if sent.reply.done():
        return
    if isinstance(answer, PostgresError):
        sent.reply.set_exception(answer)
    else:
        sent.reply.set_result(answer)
