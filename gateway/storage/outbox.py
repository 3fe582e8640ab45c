"""The outbox: webhooks owed, claimed by the database's clock and marked many at a time.

A claim is a lease: it pushes `next_try_at` ahead, and who dies with a row in hand is followed by the next claim. A mark
is idempotent (it states the number of tries, it does not add one), so after an error whose outcome is unknown it is
simply written again. A delivered row stays delivered, whatever a process that woke up late says about it.
"""

import asyncio
from collections.abc import Collection
from typing import Any

import asyncpg
import msgspec
import structlog

MARKS_MAX = 500  # of one statement
ERROR_LENGTH_MAX = 300
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 2.0

# now() and not clock_timestamp(): the index can be used only with a time that stands still during the statement.
# An endpoint is one app's host; the expression must agree with gateway/addresses.py.
_CLAIM = """
WITH due AS (
    SELECT event_id FROM outbox
     WHERE state = 'owed' AND next_try_at <= now()
       AND (cardinality($3::text[]) = 0 OR app_id || ' ' || split_part(url, '/', 3) <> ALL ($3::text[]))
     ORDER BY next_try_at
     LIMIT $1
       FOR UPDATE SKIP LOCKED
)
UPDATE outbox
   SET next_try_at = clock_timestamp() + $2::float8 * interval '1 second'
  FROM due
 WHERE outbox.event_id = due.event_id
RETURNING outbox.event_id, app_id, order_id, seq, type, url, body, tries,
          (extract(epoch FROM created_at) * 1000)::bigint AS created_at_ms
"""

_MARK = """
UPDATE outbox
   SET state = mark.state, tries = mark.tries, last_status = mark.status, last_error = mark.error,
       next_try_at = clock_timestamp() + mark.next_try_in_s * interval '1 second',
       delivered_at = CASE mark.state WHEN 'delivered' THEN clock_timestamp() END
  FROM unnest($1::text[], $2::text[], $3::int[], $4::float8[], $5::int[], $6::text[])
       AS mark (event_id, state, tries, next_try_in_s, status, error)
 WHERE outbox.event_id = mark.event_id
   AND outbox.state <> 'delivered'
   AND (mark.state = 'delivered' OR outbox.state = 'owed' AND outbox.tries < mark.tries)
"""


class OutboxRow(msgspec.Struct, frozen=True, gc=False):
    """One webhook owed. `tries` is how many were made already; `body` goes out byte for byte."""

    event_id: str
    app_id: str
    order_id: str
    seq: int
    type: str
    url: str
    body: bytes
    tries: int
    created_at_ms: int


class _Mark(msgspec.Struct, frozen=True):
    event_id: str
    state: str
    tries: int
    next_try_in_s: float
    status: int | None
    error: str | None
    done: asyncio.Future[None]


class Outbox:
    """Claims and marks rows of the table `outbox`."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._marks: list[_Mark] = []
        self._marking: asyncio.Task[None] | None = None

    async def claim(self, limit: int, lease_s: float, paused: Collection[str] = ()) -> list[OutboxRow]:
        """Take up to `limit` due rows for `lease_s`; none of the endpoints in `paused` ("app_id host")."""
        rows = await self._pool.fetch(_CLAIM, limit, lease_s, list(paused))
        return [OutboxRow(*row) for row in rows]

    def delivered(self, row: OutboxRow, status: int) -> asyncio.Future[None]:
        """The app took it. The future is done when that is durable; so are those of the other marks."""
        return self._mark(row, "delivered", 0.0, status, None)

    def failed(self, row: OutboxRow, next_try_in_s: float, status: int | None, error: str) -> asyncio.Future[None]:
        """This try failed; the next one is due in `next_try_in_s`."""
        return self._mark(row, "owed", next_try_in_s, status, error)

    def dead(self, row: OutboxRow, status: int | None, error: str) -> asyncio.Future[None]:
        """No further try will be made."""
        return self._mark(row, "dead", 0.0, status, error)

    async def stop(self) -> None:
        """Give up the marks that are not written yet: their rows are claimed and delivered again."""
        if self._marking is not None:
            self._marking.cancel()
            await asyncio.gather(self._marking, return_exceptions=True)

    def _mark(
        self, row: OutboxRow, state: str, next_try_in_s: float, status: int | None, error: str | None
    ) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        text = None if error is None else storable(error)
        self._marks.append(_Mark(row.event_id, state, row.tries + 1, next_try_in_s, status, text, done))
        if self._marking is None:
            self._marking = asyncio.create_task(self._write_all(), name="outbox: mark")
        return done

    async def _write_all(self) -> None:
        """Write until nothing waits; what arrives while one statement runs goes into the next."""
        page: list[_Mark] = []
        try:
            while self._marks:
                page, self._marks = self._marks[:MARKS_MAX], self._marks[MARKS_MAX:]
                await self._write(page)
                for mark in page:
                    if not mark.done.done():
                        mark.done.set_result(None)
        finally:
            self._marking = None
            for mark in page + self._marks:  # only when stopped
                mark.done.cancel()
            self._marks = []

    async def _write(self, page: list[_Mark]) -> None:
        # Sorted, so that two processes that mark the same rows wait for each other instead of deadlocking.
        page = sorted(page, key=lambda mark: mark.event_id)
        columns: list[list[Any]] = [
            [mark.event_id for mark in page],
            [mark.state for mark in page],
            [mark.tries for mark in page],
            [mark.next_try_in_s for mark in page],
            [mark.status for mark in page],
            [mark.error for mark in page],
        ]
        wait_s = RETRY_FIRST_S
        while True:
            try:
                await self._pool.execute(_MARK, *columns)
                return
            except Exception as error:
                structlog.get_logger().warning("outbox_mark_retried", rows=len(page), error=error)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, RETRY_MAX_S)


def storable(text: str) -> str:
    """Text from outside in a form Postgres takes: one NUL or lone surrogate would fail the marks of all others."""
    return text.encode(errors="replace").decode().replace("\0", "")[:ERROR_LENGTH_MAX]
