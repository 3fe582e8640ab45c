"""The tables in memory, with what the migrations promise of them: keys, unique indexes, CHECKs, NOT NULL.

Rows are immutable. What a statement changes is written at once and kept in a log, so that it can be taken back: when it
is refused, or while it is not committed yet. Columns are named with their units: what came in milliseconds is kept in
milliseconds, what Postgres' own clock made in microseconds, as Postgres keeps it.
"""

import re
from collections.abc import Callable, Hashable
from functools import cache
from operator import attrgetter
from typing import Any, TypeAlias

import msgspec
from asyncpg import exceptions

Key: TypeAlias = Hashable
Change: TypeAlias = tuple["Table", Key, Any, Any]  # table, key, the row before, the row after


class OrderRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `orders`."""

    order_id: str
    app_id: str
    out_order_no: str
    amount: int
    currency: str
    subject: str
    buyer: str | None
    items: str | None
    metadata: str | None
    webhook_url: str | None
    return_url: str | None
    late_payment: str
    fingerprint: bytes | None
    created_at_ms: int
    expires_at_ms: int
    next_check_at_us: int | None
    state: str = "created"
    reason: str | None = None
    version: int = 1
    paid_amount: int = 0
    refunded_amount: int = 0
    late: bool = False
    paid_at_ms: int | None = None
    closed_at_ms: int | None = None
    step: int = 0


class AttemptRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `attempts`."""

    attempt_id: str
    order_id: str
    number: int
    channel: str
    account: str
    method: str
    params: str | None
    state: str
    credential: str | None
    failure_code: str | None
    failure_message: str | None
    submits: int
    started_at_ms: int
    submitted_at_ms: int


class PaymentRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `payments`."""

    channel: str
    account: str
    channel_transaction: str
    order_id: str
    attempt_id: str
    kind: str
    amount: int
    currency: str
    success_at_ms: int
    learned_at_ms: int
    learned_by: str


class RefundRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `refunds`."""

    refund_id: str
    app_id: str
    order_id: str
    out_refund_no: str | None
    cause: str
    attempt_id: str
    channel: str
    account: str
    channel_transaction: str
    amount: int
    reason: str
    state: str
    channel_refund: str | None
    failure_code: str | None
    failure_message: str | None
    submits: int
    step: int
    started_at_ms: int
    submitted_at_ms: int
    succeeded_at_ms: int | None
    next_check_at_us: int | None


class EventRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `events`."""

    order_id: str
    version: int
    at_ms: int
    type: str
    state: str
    op_id: int
    evidence: str | None = None


class CaseRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `cases`."""

    order_id: str
    version: int
    app_id: str | None
    reason: str
    evidence: str | None
    opened_at_us: int
    resolved_at_us: int | None = None
    resolution: str | None = None
    resolved_by: str | None = None
    resolution_note: str | None = None
    resolved_version: int | None = None


class WebhookRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `outbox`."""

    event_id: str
    app_id: str
    order_id: str
    seq: int
    type: str
    url: str
    body: bytes
    next_try_at_us: int
    created_at_ms: int
    state: str = "owed"
    tries: int = 0
    last_status: int | None = None
    last_error: str | None = None
    delivered_at_us: int | None = None


class NotificationRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `notifications`."""

    notification_id: int
    channel: str
    order_id: str
    attempt: str
    verdict: str
    headers: str
    body: bytes
    received_at_ms: int


class ParkedRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `parked`."""

    notification_id: int
    order_id: str
    channel: str
    account: str
    channel_transaction: str
    said: str
    next_try_at_us: int | None
    parked_at_us: int
    tries: int = 0


class SubmissionRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `submissions`."""

    app_id: str
    fingerprint: bytes
    out_order_no: str
    expires_at_us: int


class AppRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `apps`."""

    app_id: str
    webhook_url: str | None
    webhook_secret: bytes
    created_at_us: int


class KeyRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `app_keys`."""

    key_hash: bytes
    app_id: str
    hint: str
    created_at_us: int
    revoked_at_us: int | None = None


class Shape(msgspec.Struct, frozen=True):
    """What a table promises. A unique index's key is None where the index is partial and leaves the row out.

    `grown` are the CHECKs that an update can break: those of columns that never change are looked at once, at birth.
    """

    name: str
    row: type[Any]
    primary: str
    key: Callable[[Any], Key]
    checks: dict[str, Callable[[Any], bool]] = {}
    grown: dict[str, Callable[[Any], bool]] = {}
    uniques: dict[str, Callable[[Any], Key | None]] = {}
    groups: dict[str, Callable[[Any], Key | None]] = {}


def _is(pattern: str, column: str) -> Callable[[Any], bool]:
    matches, value = re.compile(pattern).search, attrgetter(column)
    return lambda row: matches(value(row)) is not None


def _among(column: str, *words: str) -> Callable[[Any], bool]:
    allowed, value = frozenset(words), attrgetter(column)
    return lambda row: value(row) in allowed


LIVE = frozenset(("submitting", "pending", "unknown", "closing"))
_of_order = attrgetter("order_id")

SHAPES = (
    Shape(
        "orders",
        OrderRow,
        "orders_pkey",
        attrgetter("order_id"),
        checks={
            "orders_order_id_check": _is(r"^[0-9A-Z]{26}$", "order_id"),
            "orders_amount_check": lambda row: row.amount > 0,
            "orders_currency_check": _is(r"^[A-Z]{3}$", "currency"),
            "orders_late_payment": _among("late_payment", "accept", "refund", "hold"),
        },
        grown={
            "orders_state_check": _among("state", "created", "paying", "closing", "paid", "closed", "exception"),
            "orders_version_check": lambda row: row.version > 0,
            "orders_refunded_amount_check": lambda row: row.refunded_amount >= 0,
            "orders_refunds_within_paid": lambda row: row.refunded_amount <= row.paid_amount,
            "orders_paid_has_money": lambda row: (row.state == "paid") == (row.paid_amount > 0),
            "orders_exception_has_reason": lambda row: row.state != "exception" or row.reason is not None,
        },
        uniques={"orders_natural_key": attrgetter("app_id", "out_order_no")},
    ),
    Shape(
        "attempts",
        AttemptRow,
        "attempts_pkey",
        attrgetter("attempt_id"),
        checks={
            "attempts_attempt_id_check": _is(r"^[0-9A-Z]{28}$", "attempt_id"),
            "attempts_number_check": lambda row: 1 <= row.number <= 99,
        },
        grown={"attempts_state_check": _among("state", *LIVE, "succeeded", "failed", "closed")},
        uniques={"attempts_one_live": lambda row: row.order_id if row.state in LIVE else None},
        groups={"of_order": _of_order},
    ),
    Shape(
        "payments",
        PaymentRow,
        "payments_once",
        attrgetter("channel", "account", "channel_transaction"),
        checks={
            "payments_amount_check": lambda row: row.amount > 0,
            "payments_learned_by_check": _among("learned_by", "notification", "query"),
        },
        grown={"payments_kind_check": _among("kind", "credit", "excess", "held")},
        uniques={"payments_one_credit": lambda row: row.order_id if row.kind == "credit" else None},
        groups={"of_order": _of_order},
    ),
    Shape(
        "refunds",
        RefundRow,
        "refunds_pkey",
        attrgetter("refund_id"),
        checks={
            "refunds_refund_id_check": _is(r"^[0-9A-Z]{32}$", "refund_id"),
            "refunds_cause_check": _among("cause", "app", "excess", "late", "people"),
            "refunds_amount_check": lambda row: row.amount > 0,
            "refunds_cause": lambda row: (row.cause == "app") == (row.out_refund_no is not None),
        },
        grown={
            "refunds_state_check": _among(
                "state", "submitting", "unknown", "processing", "succeeded", "failed", "abnormal", "reversed"
            ),
        },
        uniques={
            "refunds_natural_key": lambda row: None if row.out_refund_no is None else (row.app_id, row.out_refund_no)
        },
        groups={"of_order": _of_order},
    ),
    Shape(
        "events",
        EventRow,
        "events_one_a_version",
        attrgetter("order_id", "version"),
        groups={"of_order": _of_order},
    ),
    Shape(
        "cases",
        CaseRow,
        "cases_pkey",
        attrgetter("order_id", "version"),
        groups={"open_of_order": lambda row: row.order_id if row.resolved_at_us is None else None},
    ),
    Shape(
        "outbox",
        WebhookRow,
        "outbox_pkey",
        attrgetter("event_id"),
        grown={"outbox_state_check": _among("state", "owed", "delivered", "dead")},
        groups={"owed": lambda row: True if row.state == "owed" else None},
    ),
    Shape("notifications", NotificationRow, "notifications_pkey", attrgetter("notification_id")),
    Shape(
        "parked",
        ParkedRow,
        "parked_pkey",
        attrgetter("notification_id"),
        uniques={"parked_once": attrgetter("channel", "account", "channel_transaction")},
    ),
    Shape(
        "submissions",
        SubmissionRow,
        "submissions_pkey",
        attrgetter("app_id", "fingerprint"),
        checks={"submissions_fingerprint_check": lambda row: len(row.fingerprint) == 16},
    ),
    Shape(
        "apps",
        AppRow,
        "apps_pkey",
        attrgetter("app_id"),
        checks={"apps_app_id_check": _is(r"^[a-z0-9][a-z0-9_-]{0,31}$", "app_id")},
    ),
    Shape(
        "app_keys",
        KeyRow,
        "app_keys_pkey",
        attrgetter("key_hash"),
        checks={"app_keys_key_hash_check": lambda row: len(row.key_hash) == 32},
    ),
)


class Table(dict[Key, Any]):
    """A table: its committed rows by their key. To be changed by statements only; anybody may read."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.name = shape.name
        self._log: list[Change] = []
        self._uniques: dict[str, dict[Key, Key]] = {name: {} for name in shape.uniques}
        self._groups: dict[str, dict[Key, dict[Key, Any]]] = {name: {} for name in shape.groups}
        self._unique_keys = [(self._uniques[name], key_of) for name, key_of in shape.uniques.items()]
        self._group_keys = [(self._groups[name], key_of) for name, key_of in shape.groups.items()]
        self._required = _required(shape.row)
        self._at_birth = shape.checks | shape.grown

    def one(self, unique: str, key: Key) -> Any | None:
        """The row that a unique index has under this key."""
        found = self._uniques[unique].get(key)
        return None if found is None else self[found]

    def group(self, name: str, key: Key) -> list[Any]:
        """The rows that share this key, the oldest first."""
        return list(self._groups[name].get(key, _NONE).values())

    def insert(self, row: Any) -> None:
        """Insert a row.

        Raises:
            NotNullViolationError, CheckViolationError, UniqueViolationError: as Postgres would.
        """
        self.check(row)
        self.add(row)

    def check(self, row: Any) -> None:
        """NOT NULL and CHECKs, which Postgres looks at before it knows of any conflict."""
        self._check(row, self._at_birth)

    def add(self, row: Any) -> None:
        """Insert a row that was checked."""
        key = self.shape.key(row)
        if key in self:
            raise _unique_violation(self.name, self.shape.primary)
        self._change(key, None, row)

    def update(self, key: Key, **columns: Any) -> None:  # type: ignore[override]
        """Change columns of a row, not its key. Raises as `insert` does."""
        row = self[key]
        changed = msgspec.structs.replace(row, **columns)
        self._check(changed, self.shape.grown)
        self._change(key, row, changed)

    def delete(self, key: Key) -> None:
        """Delete a row."""
        self._change(key, self[key], None)

    def _check(self, row: Any, checks: dict[str, Callable[[Any], bool]]) -> None:
        if None in self._required(row):
            raise exceptions.NotNullViolationError(f'null value in a column of relation "{self.name}"')
        for name, holds in checks.items():
            if not holds(row):
                error = exceptions.CheckViolationError(
                    f'new row for relation "{self.name}" violates check constraint "{name}"'
                )
                error.constraint_name = name
                raise error

    def _change(self, key: Key, before: Any, after: Any) -> None:
        for name, key_of in self.shape.uniques.items():
            wanted = None if after is None else key_of(after)
            if wanted is not None and self._uniques[name].get(wanted, key) != key:
                raise _unique_violation(self.name, name)
        self.put(key, before, after)
        self._log.append((self, key, before, after))

    def put(self, key: Key, before: Any, after: Any) -> None:
        """Have `after` where `before` is, in the table and in its indexes. Asks nothing."""
        for index, key_of in self._unique_keys:
            old = None if before is None else key_of(before)
            new = None if after is None else key_of(after)
            if old != new:
                if old is not None:
                    del index[old]
                if new is not None:
                    index[new] = key
        for groups, key_of in self._group_keys:
            old = None if before is None else key_of(before)
            new = None if after is None else key_of(after)
            if old is not None and old != new:
                del groups[old][key]
            if new is not None:
                groups.setdefault(new, {})[key] = after
        if after is None:
            del self[key]
        else:
            self[key] = after

    def taking_notes_in(self, log: list[Change]) -> None:
        """Write what changes into this log from now on."""
        self._log = log


_NONE: dict[Key, Any] = {}


class Tables:
    """All tables. `orders` to `app_keys` are for everybody to read."""

    orders: Table
    attempts: Table
    payments: Table
    refunds: Table
    events: Table
    cases: Table
    outbox: Table
    notifications: Table
    parked: Table
    submissions: Table
    apps: Table
    app_keys: Table

    def __init__(self) -> None:
        self.all = [Table(shape) for shape in SHAPES]
        self._log: list[Change] = []
        for table in self.all:
            setattr(self, table.name, table)
            table.taking_notes_in(self._log)

    def taken(self) -> list[Change]:
        """What was written since the last call."""
        changes = self._log[:]
        self._log.clear()
        return changes

    @staticmethod
    def undo(changes: list[Change]) -> None:
        """Take changes back, the last one first."""
        for table, key, before, after in reversed(changes):
            table.put(key, after, before)

    @staticmethod
    def redo(changes: list[Change]) -> None:
        """Make changes again that were taken back."""
        for table, key, before, after in changes:
            table.put(key, before, after)


def constraints() -> set[str]:
    """The names of all keys, unique indexes and CHECKs that are held here."""
    return {name for shape in SHAPES for name in (shape.primary, *shape.uniques, *shape.checks, *shape.grown)}


@cache
def _required(row: type[Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Reads the columns of a row that may not be null."""
    fields = msgspec.structs.fields(row)
    names = [field.name for field in fields if not isinstance(None, getattr(field.type, "__args__", ()) or field.type)]
    return attrgetter(*names)


def _unique_violation(table: str, name: str) -> exceptions.UniqueViolationError:
    error = exceptions.UniqueViolationError(f'duplicate key value violates unique constraint "{name}"')
    error.table_name, error.constraint_name = table, name
    return error
