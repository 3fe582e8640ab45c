"""Many orders' writes, one durable statement: whatever is waiting goes out when the flush before it has returned.

An error while committing means that nobody knows: the same batch is sent again on a new connection, and nobody is
answered, until there is a verdict. A write that missed looks for its own `op_id` among the events, in a statement of
its own: found there, it had won before. A row that PostgreSQL refuses is found by halving, and its neighbours go
through. A batch that meets a row somebody else holds steps aside to a connection of its own, and the rest goes on.
"""

import asyncio
import itertools
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import asyncpg
import msgspec
import structlog

from actors.checkpoint import Write
from actors.errors import Overloaded, Stopped, Unavailable, WriteRejected
from actors.ports import Verdict
from gateway.metrics import Metrics
from gateway.storage.lane import Lane, Pending
from gateway.storage.outbox import OutboxRow
from gateway.storage.rows import Settings, owed_webhook
from gateway.storage.sqlstates import Meaning, meaning

RETRY_FIRST_S = 0.02
RETRY_MAX_S = 1.0
HELD_PAUSE_S = 0.1  # between two looks at rows that somebody else holds
ASIDE_MAX = 8  # batches that wait aside, each with a connection; then all writes wait

log = structlog.get_logger(__name__)


class Bounds(msgspec.Struct, frozen=True):
    """The group commit's limits. `answer_s`: how long a write that was certainly not made may wait for better times."""

    batch_rows_max: int = 256
    backlog_rows_max: int = 8192
    statement_timeout_s: float = 5.0
    answer_s: float = 2.0


class GroupCommit:
    """The committer. `connect` makes a fresh connection; `owe` hears of new webhooks."""

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
        self._backlog: deque[Pending] = deque()
        self._wake = asyncio.Event()
        self._op_ids = itertools.count(secrets.randbits(30) << 32)
        self._lane = self._new_lane()
        self._aside: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._stopping = False

    async def start(self) -> None:
        """Connect and begin to flush."""
        await self._lane.connected()
        self._task = asyncio.create_task(self._run(), name="group commit")

    def when_lost(self, lost: Callable[[], None]) -> None:
        """Have `lost` called when the connection ends: behind the next one may be a database that knows less."""
        self._lane.lost = lost

    async def stop(self) -> None:
        """Flush what is waiting, refuse what comes, disconnect. What is under way always gets its verdict first."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task
        if self._aside:
            await asyncio.wait(self._aside)
        self._lane.disconnect()

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
            self._backlog.append(Pending(write, next(self._op_ids), loop.time(), done, webhook))
            self._wake.set()
        return done

    # --- batches ----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not (self._stopping and not self._backlog):
            await self._wake.wait()
            self._wake.clear()
            while self._backlog:
                batch = self._take()
                self._metrics.commit_rows.observe(len(batch))
                self._watch_backlog()
                held = await self._settle(self._lane, batch)
                if held:
                    self._step_aside(held)
                    await self._room_aside()
                self._unwatch_backlog()

    def _take(self) -> list[Pending]:
        """The next batch: one claim a fingerprint (the statement may touch a submission only once)."""
        batch: list[Pending] = []
        later: list[Pending] = []
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

    async def _settle(self, lane: Lane, batch: list[Pending]) -> list[Pending]:
        """Send a batch until every write in it has its verdict, but for those returned: somebody else holds a row."""
        wait_s = RETRY_FIRST_S
        while True:
            try:
                won = await lane.send(batch)
            except Exception as error:  # whatever it is, it has a meaning
                left = await self._failed(lane, batch, error)
                if left is not None:
                    return left
            else:
                self._answer(batch, won)
                return []
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, RETRY_MAX_S)

    async def _failed(self, lane: Lane, batch: list[Pending], error: Exception) -> list[Pending] | None:
        """Do what an error asks for; what is left to others, or None: the batch is to be sent again."""
        what = meaning(error)
        self._report(what, error, len(batch))
        match what:
            case Meaning.ROW_REFUSED if len(batch) > 1:
                return await self._halve(lane, batch)
            case Meaning.ROW_REFUSED:
                await self._refuse(lane, batch[0], error)
                return []
            case Meaning.ROW_HELD if len(batch) > 1 and lane is not self._lane:
                return await self._halve(lane, batch)
            case Meaning.ROW_HELD:
                return batch
            case Meaning.UNKNOWN:
                lane.disconnect()
                for pending in batch:
                    pending.in_doubt = True
        if lane is self._lane:
            self._give_up_on(self._backlog, error)
        return None if self._give_up_on(batch, error) else []

    async def _halve(self, lane: Lane, batch: list[Pending]) -> list[Pending]:
        middle = len(batch) // 2
        left = await self._settle(lane, batch[:middle])
        return left + await self._settle(lane, batch[middle:])

    async def _refuse(self, lane: Lane, pending: Pending, error: Exception) -> None:
        """PostgreSQL will not have this row; unless what it collides with is an earlier sending of its own."""
        if pending.in_doubt and await self._landed(lane, pending):
            self._answer([pending], {str(pending.order_id)})
        else:
            _fail([pending], WriteRejected(str(error)))

    # --- aside ------------------------------------------------------------------------------------------------------

    def _step_aside(self, batch: list[Pending]) -> None:
        task = asyncio.create_task(self._settle_aside(batch), name="group commit: aside")
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    async def _settle_aside(self, batch: list[Pending]) -> None:
        """Write what is free at once, the rest as it becomes free; what is certainly unwritten is given up in time."""
        lane = self._new_lane()
        while batch:
            held = await self._held(lane, batch)
            free = [pending for pending in batch if pending.order_id not in held]
            batch = [pending for pending in batch if pending.order_id in held]
            if free:
                batch += await self._settle(lane, free)
            if self._give_up_on(batch, Unavailable("the order is locked in the database by somebody else")):
                await asyncio.sleep(HELD_PAUSE_S)
        lane.disconnect()

    async def _held(self, lane: Lane, batch: list[Pending]) -> set[str]:
        """Who must wait. If nobody can say, nobody: sending finds out."""
        try:
            return await lane.held(batch)
        except Exception as error:
            self._report(meaning(error), error, len(batch))
            lane.disconnect()
            return set()

    async def _landed(self, lane: Lane, pending: Pending) -> bool:
        """Whether a write in doubt had been written by an earlier sending."""
        while True:
            try:
                return bool(await lane.own([pending]))
            except Exception as error:
                self._report(meaning(error), error, 1)
                lane.disconnect()
                await asyncio.sleep(RETRY_MAX_S)

    async def _room_aside(self) -> None:
        while len(self._aside) >= ASIDE_MAX:
            await asyncio.wait(self._aside, return_when=asyncio.FIRST_COMPLETED)

    def _new_lane(self) -> Lane:
        return Lane(self._connect, self._settings, self._bounds.statement_timeout_s)

    # --- answers ----------------------------------------------------------------------------------------------------

    def _watch_backlog(self) -> None:
        """A flush that hangs must not keep those behind it waiting: they were certainly not written."""
        loop = asyncio.get_running_loop()
        self._unwatch_backlog()
        self._watch = loop.call_later(self._bounds.answer_s, self._flush_hangs)

    def _unwatch_backlog(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _flush_hangs(self) -> None:
        self._give_up_on(self._backlog, TimeoutError("the database does not answer"))
        self._watch = asyncio.get_running_loop().call_later(self._bounds.answer_s / 4, self._flush_hangs)

    def _give_up_on(self, waiting: deque[Pending] | list[Pending], error: Exception) -> bool:
        """Answer those that were certainly not written and have waited long enough; whether any are left."""
        long_ago = asyncio.get_running_loop().time() - self._bounds.answer_s
        hopeless = [pending for pending in waiting if pending.since <= long_ago and not pending.in_doubt]
        if hopeless:
            _fail(hopeless, Unavailable(str(error)))
            left = [pending for pending in waiting if pending.since > long_ago or pending.in_doubt]
            waiting.clear()
            waiting.extend(left)
        return bool(waiting)

    def _answer(self, batch: list[Pending], won: set[str]) -> None:
        owed: list[OutboxRow] = []
        for pending in batch:
            applied = pending.order_id is None or pending.order_id in won
            if not applied and pending.moves:
                self._metrics.cas_conflicts.inc()
            if applied and pending.webhook is not None and pending.webhook.url:
                owed.append(pending.webhook)
            if not pending.done.done():
                pending.done.set_result(Verdict.APPLIED if applied else Verdict.LOST)
        if owed:  # by the loop: a mistake there must not end the committer; the outbox has the rows
            asyncio.get_running_loop().call_soon(self._owe, owed)

    def _report(self, what: Meaning, error: Exception, rows: int) -> None:
        if what is Meaning.UNKNOWN:
            self._metrics.commit_unknown.inc()
        log.warning("commit_failed", meaning=what, error=f"{type(error).__name__}: {error}"[:300], rows=rows)


def _fail(batch: Sequence[Pending], error: Exception) -> None:
    for pending in batch:
        if not pending.done.done():
            pending.done.set_exception(error)
