"""Where orders are durable: writes go to the group commit; reads are joined, one query for all that wake together."""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import msgspec

from actors.checkpoint import Write
from actors.events import Credential
from actors.order import (
    Attempt,
    AttemptState,
    Content,
    LatePolicy,
    Order,
    OrderState,
    Payment,
    PaymentKind,
    Reason,
    Refund,
)
from actors.ports import Verdict
from gateway.storage.group_commit import GroupCommit
from gateway.storage.queries import query

LOAD_MAX = 500  # orders in one query


class Journal:
    """The core's `Journal` over PostgreSQL, and the reads that answer requests."""

    def __init__(self, pool: asyncpg.Pool, group_commit: GroupCommit) -> None:
        self._pool = pool
        self._group_commit = group_commit
        self._wanted: dict[str, list[asyncio.Future[Order | None]]] = {}
        self._loading: set[asyncio.Task[None]] = set()

    def commit(self, write: Write) -> "asyncio.Future[Verdict]":
        """Make a write durable. New orders are the first to be refused when too much is waiting."""
        return self._group_commit.submit(write, urgent=write.order is None or write.order.version > 1)

    def load(self, order_id: str) -> "asyncio.Future[Order | None]":
        """The order as it is stored now."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Order | None] = loop.create_future()
        if not self._wanted:
            loop.call_soon(self._start_loading)
        self._wanted.setdefault(order_id, []).append(future)
        return future

    async def by_out_order_no(self, app_id: str, out_order_no: str) -> Order | None:
        """The order an app knows under its own number."""
        order_id = await self._pool.fetchval(query("order_id_of"), app_id, out_order_no)
        return None if order_id is None else await self.load(order_id)

    async def order_of_refund(self, app_id: str, refund_id: str) -> Order | None:
        """The order that one of the app's refunds belongs to."""
        order_id = await self._pool.fetchval(query("order_of_refund"), app_id, refund_id)
        return None if order_id is None else await self.load(order_id)

    async def order_of_out_refund_no(self, app_id: str, out_refund_no: str) -> Order | None:
        """The order that the app's refund of this number belongs to."""
        order_id = await self._pool.fetchval(query("order_of_out_refund_no"), app_id, out_refund_no)
        return None if order_id is None else await self.load(order_id)

    async def duplicate_of(self, app_id: str, fingerprint: bytes, out_order_no: str) -> str | None:
        """The id of another order with this fingerprint that is recent enough to make this one a duplicate."""
        order_id: str | None = await self._pool.fetchval(query("duplicate_of"), app_id, fingerprint, out_order_no)
        return order_id

    async def timeline(self, order_id: str) -> Sequence[asyncpg.Record]:
        """Every transition of an order, with its evidence, oldest first."""
        records: Sequence[asyncpg.Record] = await self._pool.fetch(query("timeline"), order_id)
        return records

    def _start_loading(self) -> None:
        wanted, self._wanted = self._wanted, {}
        ids = list(wanted)
        for first in range(0, len(ids), LOAD_MAX):
            page = {order_id: wanted[order_id] for order_id in ids[first : first + LOAD_MAX]}
            task = asyncio.create_task(self._load_page(page))
            self._loading.add(task)
            task.add_done_callback(self._loading.discard)

    async def _load_page(self, page: dict[str, list["asyncio.Future[Order | None]"]]) -> None:
        try:
            records = await self._pool.fetch(query("orders_by_id"), list(page))
            found = {record["order_id"]: order_of(record) for record in records}
        except Exception as error:  # the wakers hear of it, each of them
            for future in _waiting(page):
                future.set_exception(error)
            return
        for order_id, futures in page.items():
            for future in futures:
                if not future.done():
                    future.set_result(found.get(order_id))


def _waiting(page: dict[str, list["asyncio.Future[Order | None]"]]) -> list["asyncio.Future[Order | None]"]:
    return [future for futures in page.values() for future in futures if not future.done()]


class _AttemptRow(msgspec.Struct):
    number: int
    channel: str
    account: str
    method: str
    state: AttemptState
    started_at_ms: int
    submitted_at_ms: int
    submits: int
    params: msgspec.Raw  # a union of Raw and None takes nothing but null
    credential: Credential | None
    failure_code: str | None
    failure_message: str | None


class _PaymentRow(msgspec.Struct):
    number: int
    channel: str
    account: str
    transaction: str
    kind: PaymentKind
    amount: int
    currency: str
    success_at_ms: int
    learned_at_ms: int
    learned_by: str


_attempt_rows = msgspec.json.Decoder(list[_AttemptRow]).decode
_refund_rows = msgspec.json.Decoder(tuple[Refund, ...]).decode  # the query names their fields as they are
_payment_rows = msgspec.json.Decoder(list[_PaymentRow]).decode


def order_of(record: Any) -> Order:
    """An order from its row, with its attempts, payments and refunds as the queries aggregate them."""
    return Order(
        order_id=record["order_id"],
        content=_content_of(record),
        state=OrderState(record["state"]),
        version=record["version"],
        created_at_ms=record["created_at_ms"],
        expires_at_ms=record["expires_at_ms"],
        next_check_at_ms=record["next_check_at_ms"],
        step=record["step"],
        attempts=tuple(_attempt_of(row) for row in _attempt_rows(record["attempts"] or "[]")),
        payments=tuple(_payment_of(row) for row in _payment_rows(record["payments"] or "[]")),
        refunds=_refund_rows(record["refunds"] or "[]"),
        paid_amount=record["paid_amount"],
        refunded_amount=record["refunded_amount"],
        late=record["late"],
        reason=None if record["reason"] is None else Reason(record["reason"]),
        paid_at_ms=record["paid_at_ms"],
        closed_at_ms=record["closed_at_ms"],
    )


def _content_of(record: Any) -> Content:
    return Content(
        app_id=record["app_id"],
        out_order_no=record["out_order_no"],
        amount=record["amount"],
        currency=record["currency"],
        subject=record["subject"],
        buyer=record["buyer"],
        items_json=record["items"],
        metadata_json=record["metadata"],
        webhook_url=record["webhook_url"],
        return_url=record["return_url"],
        late_payment=LatePolicy(record["late_payment"]),
    )


def _attempt_of(row: _AttemptRow) -> Attempt:
    return Attempt(
        number=row.number,
        channel=row.channel,
        account=row.account,
        method=row.method,
        state=row.state,
        started_at_ms=row.started_at_ms,
        submitted_at_ms=row.submitted_at_ms,
        submits=row.submits,
        params_json=None if bytes(row.params) == b"null" else bytes(row.params).decode(),
        credential=row.credential,
        failure_code=row.failure_code,
        failure_message=row.failure_message,
    )


def _payment_of(row: _PaymentRow) -> Payment:
    return Payment(**msgspec.structs.asdict(row))
