"""Redis in front of duplicate submissions: a hint, never a verdict.

`hint` answers with the number of another recent submission of the same content, or None: new, our own retry, or nobody
knows. Postgres judges in every case, so Redis may be slow, dead, flushed or full of rubbish and no answer changes.
All hints of one loop turn go in one command (a fifth of the cost). After a failure Redis is left alone, and a task of
ours, not a customer's request, finds out when it is back.
"""

import asyncio
import contextlib
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.metrics import Metrics

PAGE_MAX = 512
WAITING_MAX = 4_096  # hints; more answer None at once
TRY_AGAIN_S = 0.5
CANCEL_AGAIN_S = 0.1
VALUE_PREFIX = b"holdfast:1:"  # a value without it is not ours
VALUE_LENGTH_MAX = 512
PAGE_EVERY_S = 0.004  # a command costs us 200 us however many hints it carries: under load they gather

# One command a page: redis-py costs 40 us a command, 2 us an argument. Answers place and value of every key that held
# something else: an empty text for a key that holds no text, 0 for one that Redis refused to write.
_SET_ALL = """
local found = {}
for i = 1, #KEYS do
  local held = redis.pcall('SET', KEYS[i], ARGV[i + 1], 'NX', 'GET', 'PX', ARGV[1])
  if type(held) == 'table' then
    held = string.find(held.err, 'WRONGTYPE', 1, true) and '' or 0
  end
  if held then
    found[#found + 1] = i
    found[#found + 1] = held
  end
end
return found
"""


class _Hint(msgspec.Struct, frozen=True):
    key: bytes
    value: bytes
    answer: asyncio.Future[str | None]


class Dedup:
    """Hints at duplicate submissions.

    Args:
        url: redis://, rediss:// or unix://; None runs without: every hint is None.
        window_ms: how long a submission is remembered.
        timeout_ms: what a request may lose by asking, connecting included.
    """

    def __init__(self, url: str | None, *, window_ms: int, timeout_ms: int, metrics: Metrics) -> None:
        self._window_ms = window_ms
        self._timeout_s = timeout_ms / 1000
        self._metrics = metrics
        self._redis = None if url is None else _client(url)
        self._waiting: list[_Hint] = []
        self._page_due_s = 0.0
        self._asking: asyncio.Task[None] | None = None
        self._recovering: asyncio.Task[None] | None = None

    async def hint(self, app_id: str, fingerprint: bytes, out_order_no: str) -> str | None:
        """The number under which the same content was submitted lately, if it is another one. Never raises."""
        if self._redis is None:
            return None
        if self._recovering is not None or len(self._waiting) >= WAITING_MAX:
            self._metrics.dedup["unavailable"].inc()
            return None
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        key = f"holdfast:submission:{app_id}:{fingerprint.hex()}".encode(errors="replace")
        self._waiting.append(_Hint(key, VALUE_PREFIX + out_order_no.encode(errors="replace"), answer))
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_all(), name="dedup: ask")
        return await answer

    async def ping(self) -> bool:
        """Whether Redis answers in time. True without Redis: there is nothing that could be down."""
        return self._redis is None or await self._answers(self._redis)

    async def stop(self) -> None:
        """Answer None to all that wait and close the connection."""
        await _end(self._recovering)
        await _end(self._asking)
        self._answer_nobody_knows(self._waiting)
        self._waiting = []
        if self._redis is not None:
            await _hang_up(self._redis)

    async def _ask_all(self) -> None:
        """One command after the other, until nothing waits; at rest a hint leaves at the end of its turn."""
        page: list[_Hint] = []
        try:
            while self._waiting:
                await asyncio.sleep(self._page_due_s - asyncio.get_running_loop().time())
                self._page_due_s = asyncio.get_running_loop().time() + PAGE_EVERY_S
                page, self._waiting = self._waiting[:PAGE_MAX], self._waiting[PAGE_MAX:]
                await self._ask(page)
        finally:
            self._asking = None
            self._answer_nobody_knows(page)

    async def _ask(self, page: list[_Hint]) -> None:
        assert self._redis is not None
        # Not asyncio.timeout: redis-py can swallow a cancellation, and no request may wait until it does not.
        overdue = asyncio.get_running_loop().call_later(self._timeout_s, self._leave_alone, page, TimeoutError())
        try:
            keys, values = [hint.key for hint in page], [hint.value for hint in page]
            others: Any = await self._redis.eval(_SET_ALL, len(keys), *keys, self._window_ms, *values)
            found: list[Any] = [None] * len(page)
            for place, value in zip(others[::2], others[1::2], strict=True):
                found[place - 1] = value
        except Exception as error:  # whatever a client makes of rubbish on the wire: nobody knows
            self._leave_alone(page, error)
            return
        finally:
            overdue.cancel()
        for hint, value in zip(page, found, strict=True):
            if not hint.answer.done():
                hint.answer.set_result(self._read(hint, value))

    def _read(self, hint: _Hint, value: Any) -> str | None:
        if value is None:
            self._metrics.dedup["new"].inc()
            return None
        if value == hint.value:
            self._metrics.dedup["hit"].inc()
            return None
        number = _number_in(value)
        result = "hit" if number is not None else "rubbish" if _is_rubbish(value) else "unavailable"
        self._metrics.dedup[result].inc()
        return number

    def _answer_nobody_knows(self, hints: list[_Hint]) -> None:
        for hint in hints:
            if not hint.answer.done():
                self._metrics.dedup["unavailable"].inc()
                hint.answer.set_result(None)

    def _leave_alone(self, page: list[_Hint], error: Exception) -> None:
        self._answer_nobody_knows(page + self._waiting)
        self._waiting = []
        if self._recovering is None:
            structlog.get_logger().warning("redis_unavailable", error=error)
            self._recovering = asyncio.create_task(self._recover(), name="dedup: recover")

    async def _recover(self) -> None:
        assert self._redis is not None
        try:
            await _end(self._asking)
            # What the old connection still sends belongs to questions nobody asks any more.
            await _hang_up(self._redis)
            while not await self._answers(self._redis):
                await _hang_up(self._redis)
                await asyncio.sleep(TRY_AGAIN_S)
            structlog.get_logger().warning("redis_is_back")
        finally:
            self._recovering = None

    async def _answers(self, redis: Redis) -> bool:
        ping = asyncio.ensure_future(redis.ping())
        await asyncio.wait({ping}, timeout=self._timeout_s)
        await _end(ping)
        return not ping.cancelled() and ping.exception() is None and ping.result() is True


def _client(url: str) -> Redis:
    # Retries would only spend the time that nobody has; the breaker is ours. So is the deadline: redis-py would arm one
    # for every reply, a third of a hint's cost.
    return Redis.from_url(
        url, max_connections=8, retry=Retry(NoBackoff(), 0), socket_connect_timeout=1.0, socket_timeout=None
    )


async def _hang_up(redis: Redis) -> None:
    with contextlib.suppress(RedisError, OSError, TimeoutError):
        await redis.connection_pool.disconnect()


async def _end(task: asyncio.Future[Any] | None) -> None:
    """Cancel until it is over: redis-py can swallow a cancellation."""
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_AGAIN_S)


def _number_in(value: Any) -> str | None:
    """The number a value of ours carries; None for anything else."""
    if not isinstance(value, bytes) or not value.startswith(VALUE_PREFIX) or len(value) > VALUE_LENGTH_MAX:
        return None
    try:
        return value[len(VALUE_PREFIX) :].decode() or None
    except UnicodeDecodeError:
        return None


def _is_rubbish(value: Any) -> bool:
    """Whether a key holds what is not ours, as against a Redis that refuses (read only, out of memory)."""
    return bool(value != 0)
