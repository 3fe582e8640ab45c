"""Many orders' writes, one durable statement: whatever is waiting goes out when the flush before it has returned.

An error while committing means that nobody knows: the same batch is sent again on a new connection, and nobody is
answered, until there is a verdict. A write that missed looks for its own `op_id` among the events, in a statement of
its own: found there, it had won before. A row that PostgreSQL refuses is found by halving, and its neighbours go
through.
"""

import asyncio
import itertools
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import msgspec
import structlog

from actors.checkpoint import Write
from actors.errors import Overloaded, Stopped, Unavailable, WriteRejected
from actors.ports import Verdict
from gateway.metrics import Metrics
from gateway.probe import probe
from gateway.storage.outbox import OutboxRow
from gateway.storage.rows import Row, Settings, add_rows, arrays, owed_webhook
from gateway.storage.sqlstates import Meaning, NotConnected, meaning
from gateway.storage.statement import statement

RETRY_FIRST_S = 0.02
RETRY_MAX_S = 1.0

log = structlog.get_logger(__name__)

_OWN = """
SELECT m.order_id
FROM unnest($1::text[], $2::int[], $3::bigint[]) AS m (order_id, version, op_id)
WHERE EXISTS (SELECT FROM events e WHERE e.order_id = m.order_id AND e.version = m.version AND e.op_id = m.op_id)
"""


class Bounds(msgspec.Struct, frozen=True):
    """The group commit's limits. `answer_s`: how long a write that was certainly not made may wait for better times."""

    batch_rows_max: int = 256
    backlog_rows_max: int = 8192
    statement_timeout_s: float = 5.0
    answer_s: float = 2.0


class _Pending(msgspec.Struct, eq=False):
    write: Write
    op_id: int
    since: float
    done: "asyncio.Future[Verdict]"
    webhook: OutboxRow | None


class GroupCommit:
    """One committer on one connection of its own. `connect` makes a fresh connection; `owe` hears of new webhooks."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        settings: Settings,
        bounds: Bounds,
        metrics: Metrics,
        owe: Callable[[Sequence[OutboxRow]], None],
    ) -> None:
        self._connect = connect
        self._settings = settings
        self._bounds = bounds
        self._metrics = metrics
        self._owe = owe
        self._backlog: deque[_Pending] = deque()
        self._wake = asyncio.Event()
        self._op_ids = itertools.count(secrets.randbits(30) << 32)
        self._connection: asyncpg.Connection | None = None
        self._prepared: dict[frozenset[str], Any] = {}
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Connect and begin to flush."""
        await self._connected()
        self._task = asyncio.create_task(self._run(), name="group commit")

    async def stop(self) -> None:
        """Flush what is waiting, refuse what comes, disconnect. The flush under way always gets its verdict first."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task
        await self._disconnect()

    @property
    def backlog_rows(self) -> int:
        """How many writes wait for the next flush."""
        return len(self._backlog)

    def submit(self, write: Write, *, urgent: bool = True) -> "asyncio.Future[Verdict]":
        """Queue a write. Writes that are not urgent (new orders) are refused first when the backlog fills up."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Verdict] = loop.create_future()
        bound = self._bounds.backlog_rows_max
        if self._stopping:
            done.set_exception(Stopped("the process is stopping"))
        elif len(self._backlog) >= (bound if urgent else bound * 3 // 4):
            done.set_exception(Overloaded("too many writes are waiting for the database"))
        else:
            webhook = owed_webhook(write, self._settings)
            self._backlog.append(_Pending(write, next(self._op_ids), loop.time(), done, webhook))
            self._wake.set()
        return done

    async def _run(self) -> None:
        while not (self._stopping and not self._backlog):
            await self._wake.wait()
            self._wake.clear()
            while self._backlog:
                batch = self._take()
                self._metrics.commit_rows.observe(len(batch))
                await self._settle(batch, in_doubt=False)

    def _take(self) -> list[_Pending]:
        """The next batch: one claim a fingerprint (the statement may touch a submission only once)."""
        batch: list[_Pending] = []
        later: list[_Pending] = []
        claimed: set[tuple[str, bytes]] = set()
        while self._backlog and len(batch) < self._bounds.batch_rows_max:
            pending = self._backlog.popleft()
            fingerprint, order = pending.write.fingerprint, pending.write.order
            if fingerprint is not None and order is not None:
                key = (order.content.app_id, fingerprint)
                if key in claimed:
                    later.append(pending)
                    continue
                claimed.add(key)
            batch.append(pending)
        self._backlog.extendleft(reversed(later))
        return batch

    async def _settle(self, batch: list[_Pending], *, in_doubt: bool) -> None:
        """Send a batch until every write in it has its verdict."""
        for retry in itertools.count():
            try:
                await self._send(batch)
            except Exception as error:  # whatever it is, it has a meaning
                what = meaning(error)
                self._report(what, error, len(batch))
                if what is Meaning.ROW_REFUSED:
                    await self._bisect(batch, error, in_doubt=in_doubt)
                    return
                if what is Meaning.UNKNOWN:
                    in_doubt = True
                    await self._disconnect()
                self._give_up_on(self._backlog, error)
                if not in_doubt and not self._give_up_on(batch, error):
                    return
                await asyncio.sleep(min(RETRY_FIRST_S * 2**retry, RETRY_MAX_S))
            else:
                return

    def _give_up_on(self, waiting: deque[_Pending] | list[_Pending], error: Exception) -> bool:
        """Answer those that were certainly not written and have waited long enough; whether any are left."""
        long_ago = asyncio.get_running_loop().time() - self._bounds.answer_s
        left = [pending for pending in waiting if pending.since > long_ago]
        _fail([pending for pending in waiting if pending.since <= long_ago], Unavailable(str(error)))
        waiting.clear()
        waiting.extend(left)
        return bool(left)

    def _report(self, what: Meaning, error: Exception, rows: int) -> None:
        if what is Meaning.UNKNOWN:
            self._metrics.commit_unknown.inc()
        log.warning("commit_failed", meaning=what, error=f"{type(error).__name__}: {error}"[:300], rows=rows)

    async def _bisect(self, batch: list[_Pending], error: BaseException, *, in_doubt: bool) -> None:
        if len(batch) == 1:
            _fail(batch, WriteRejected(str(error)))
            return
        middle = len(batch) // 2
        await self._settle(batch[:middle], in_doubt=in_doubt)
        await self._settle(batch[middle:], in_doubt=in_doubt)

    async def _send(self, batch: list[_Pending]) -> None:
        connection = await self._connected()
        probe("before_commit")
        applied = await self._deadline(connection, self._execute(connection, batch))
        missed = [p for p in batch if p.write.order is not None and p.write.order.order_id not in applied]
        if missed:
            applied |= await self._deadline(connection, _own(connection, missed))
        probe("after_commit")
        self._answer(batch, applied)

    async def _execute(self, connection: asyncpg.Connection, batch: list[_Pending]) -> set[str]:
        rows: dict[str, list[Row]] = {}
        for pending in batch:
            add_rows(rows, pending.write, pending.op_id, pending.webhook, self._settings)
        names = frozenset(rows)
        text = statement(names)
        prepared = self._prepared.get(names)
        if prepared is None:
            prepared = self._prepared[names] = await connection.prepare(text.sql)
        parameters = itertools.chain.from_iterable(
            arrays(rows.get(name, ()), len(columns)) for name, columns in text.columns.items()
        )
        return {record[0] for record in await prepared.fetch(*parameters)}

    async def _deadline(self, connection: asyncpg.Connection, work: Awaitable[set[str]]) -> set[str]:
        """Never cancel a commit: past the deadline the connection is torn down, and nobody knows."""
        task = asyncio.ensure_future(work)
        done, _ = await asyncio.wait({task}, timeout=self._bounds.statement_timeout_s)
        if not done:
            connection.terminate()
            await asyncio.wait({task})
            if task.exception() is None and not task.cancelled():
                return task.result()
            raise TimeoutError("the database did not answer in time")
        return task.result()

    def _answer(self, batch: list[_Pending], applied: set[str]) -> None:
        owed: list[OutboxRow] = []
        for pending in batch:
            order = pending.write.order
            won = order is None or order.order_id in applied
            if not won and order is not None and order.version > 1:
                self._metrics.cas_conflicts.inc()
            if won and pending.webhook is not None:
                owed.append(pending.webhook)
            if not pending.done.done():
                pending.done.set_result(Verdict.APPLIED if won else Verdict.LOST)
        if owed:
            self._owe(owed)

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._prepared = {}
            try:
                self._connection = await self._connect()
            except Exception as error:
                raise NotConnected(f"{type(error).__name__}: {error}") from error
        return self._connection

    async def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


async def _own(connection: asyncpg.Connection, missed: Sequence[_Pending]) -> set[str]:
    """Which of the missed writes are in the events under our own op_id. In a new statement: it sees what has landed."""
    keys = [(p.write.order.order_id, p.write.order.version, p.op_id) for p in missed if p.write.order is not None]
    records = await connection.fetch(_OWN, *arrays(keys, 3))
    return {record[0] for record in records}


def _fail(batch: Sequence[_Pending], error: Exception) -> None:
    for pending in batch:
        if not pending.done.done():
            pending.done.set_exception(error)
