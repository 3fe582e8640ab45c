"""The flush's one statement over tables in memory: what commit.sql does, section by section.

`SECTIONS` says what becomes of the rows of each section that inserts; those that update stand in `UPDATES`; births and
moves, which decide who wins, are functions. A new section is a line in a table, beside its row in tables.py.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

import msgspec
from asyncpg import exceptions

from gateway.storage.statement import DERIVED, columns, sections, statement
from tests.simulation.locks import Lock
from tests.simulation.tables import (
    AttemptRow,
    CaseRow,
    EventRow,
    NotificationRow,
    OrderRow,
    PaymentRow,
    RefundRow,
    SubmissionRow,
    Table,
    Tables,
    WebhookRow,
)
from tests.simulation.wire import Record, encoder, records
from tests.simulation.work import Seen, Statement, Work

Row: TypeAlias = tuple[Any, ...]

_CTE = re.compile(r"^(?:WITH )?(\w+) AS \($", re.MULTILINE)
_TYPED = re.compile(r"\{(\w+):(\w+)\}")
_applied = records("order_id")


# --- births ---------------------------------------------------------------------------------------------------------


def _claimed(work: Work, births: Sequence[Row], seen: Seen) -> set[tuple[str, bytes]]:
    """The fingerprints that are won: new, expired, or under the same number once more."""
    submissions = work.tables.submissions
    claimed: set[tuple[str, bytes]] = set()
    wanted = (row for row in births if row[12] is not None and _is_new(work.tables, row, seen))
    for row in sorted(wanted, key=lambda row: (row[1], row[12])):
        app_id, out_order_no, fingerprint, window_ms = row[1], row[2], row[12], row[17]
        key = (app_id, fingerprint)
        until_us = work.clock_us() + window_ms * 1000
        submission = SubmissionRow(app_id, fingerprint, out_order_no, until_us)
        submissions.check(submission)
        known = submissions.get(key)
        if known is None:
            submissions.add(submission)
        elif key in claimed:
            raise _twice()
        elif known.expires_at_us <= work.clock_us() or known.out_order_no == out_order_no:
            submissions.update(key, out_order_no=out_order_no, expires_at_us=until_us)
        else:
            continue
        claimed.add(key)
    return claimed


def _is_new(tables: Tables, row: Row, seen: Seen) -> bool:
    """Whether no order has this number, as far as the statement's snapshot shows."""
    if seen is not None:
        return ("orders_natural_key", row[1:3]) in seen
    return tables.orders.one("orders_natural_key", row[1:3]) is None


def _born(work: Work, births: Sequence[Row], seen: Seen) -> dict[str, None]:
    orders = work.tables.orders
    claimed = _claimed(work, births, seen)
    born: dict[str, None] = {}
    for row in births:
        if row[12] is not None and (row[1], row[12]) not in claimed:
            continue
        order = OrderRow(*row[:15], _us(row[15]))
        orders.check(order)
        if orders.one("orders_natural_key", row[1:3]) is None:
            orders.add(order)
            born[row[0]] = None
    return born


def _born_events(work: Work, births: Sequence[Row], applied: dict[str, None]) -> None:
    for row in births:
        if row[0] in applied:
            work.tables.events.insert(EventRow(row[0], 1, row[13], "OrderCreated", "created", row[16]))


# --- moves ----------------------------------------------------------------------------------------------------------


def _moved(work: Work, moves: Sequence[Row], seen: Seen) -> dict[str, None]:
    orders = work.tables.orders
    moved: dict[str, None] = {}
    for row in moves:
        order_id, version = row[0], row[1]
        if (
            order_id in moved
            or not _is_next(work.tables, row)
            or (seen is not None and ("orders", order_id) not in seen)
        ):
            continue
        orders.update(
            order_id,
            state=row[2],
            reason=row[3],
            version=version,
            paid_amount=row[4],
            refunded_amount=row[5],
            late=row[6],
            paid_at_ms=row[7],
            closed_at_ms=row[8],
            step=row[9],
            next_check_at_us=_us(row[10]),
        )
        moved[order_id] = None
    return moved


def _moved_events(work: Work, moves: Sequence[Row], applied: dict[str, None]) -> None:
    for row in moves:
        if row[0] in applied:
            work.tables.events.insert(EventRow(row[0], row[1], row[11], row[12], row[2], row[13], row[14]))


def _is_next(tables: Tables, row: Row) -> bool:
    """The compare of the compare-and-set."""
    order = tables.orders.get(row[0])
    return order is not None and order.version == row[1] - 1


# --- what hangs on an order -----------------------------------------------------------------------------------------


def _accepted(work: Work, rows: Sequence[Row], applied: dict[str, None]) -> None:
    payments = work.tables.payments
    for row in rows:
        known = payments.get(row[:3])
        if row[3] in applied and known is not None and known.kind == "held":
            payments.update(row[:3], kind="credit")


def _settled(work: Work, rows: Sequence[Row], applied: dict[str, None]) -> None:
    cases = work.tables.cases
    for order_id, reasons, version, resolution, by, note, resolved_version, at_ms in rows:
        for case in cases.group("open_of_order", order_id) if order_id in applied else ():
            if case.reason in reasons.split(" ") and version in (None, case.version):
                cases.update(
                    (order_id, case.version),
                    resolved_at_us=at_ms * 1000,
                    resolution=resolution,
                    resolved_by=by,
                    resolution_note=note,
                    resolved_version=resolved_version,
                )


UPDATES: dict[str, Callable[[Work, Sequence[Row], dict[str, None]], None]] = {
    "accepted": _accepted,
    "settled": _settled,
}


class Section(msgspec.Struct, frozen=True):
    """A section that inserts: into which table, and what a row of it becomes (None: nothing).

    `conflict` names the columns that are updated where the key is taken; () leaves what is there; None is an error.
    `of_applied`: only for orders that were born or moved. `contended`: how many leading columns are a key that a
    statement about another order could take.
    """

    table: str
    make: Callable[[Work, Row], Any | None]
    conflict: tuple[str, ...] | None = None
    of_applied: bool = True
    contended: int = 0


def _webhook(work: Work, row: Row) -> WebhookRow | None:
    event_id, app_id, order_id, seq, kind, url, body, lease_ms, created_at_ms = row
    if url == "":
        app = work.tables.apps.get(app_id)
        url = None if app is None else app.webhook_url
    if url is None:
        return None
    return WebhookRow(
        event_id, app_id, order_id, seq, kind, url, body, work.clock_us() + lease_ms * 1000, created_at_ms
    )


SECTIONS: dict[str, Section] = {
    "attempts": Section(
        "attempts",
        lambda _, row: AttemptRow(*row),
        conflict=("state", "credential", "failure_code", "failure_message", "submits", "submitted_at_ms"),
    ),
    "payments": Section("payments", lambda _, row: PaymentRow(*row), contended=3),
    "refunds": Section(
        "refunds",
        lambda _, row: RefundRow(*row[:-1], _us(row[-1])),
        conflict=(
            *("state", "channel_refund", "failure_code", "failure_message", "submits", "step", "submitted_at_ms"),
            *("succeeded_at_ms", "next_check_at_us"),
        ),
        contended=1,  # the sweep claims refunds, not their orders
    ),
    "cases": Section("cases", lambda _, row: CaseRow(*row[:-1], row[-1] * 1000)),
    "outbox": Section("outbox", _webhook),
    "arrivals": Section(
        "notifications", lambda _, row: NotificationRow(*row), conflict=(), of_applied=False, contended=1
    ),
}


def _fill(work: Work, section: Section, name: str, rows: Sequence[Row], applied: dict[str, None]) -> None:
    table: Table = getattr(work.tables, section.table)
    order_id_at = columns(name).index("order_id")
    written: set[Any] = set()
    for row in rows:
        if section.of_applied and row[order_id_at] not in applied:
            continue
        made = section.make(work, row)
        if made is None:
            continue
        table.check(made)
        key = table.shape.key(made)
        if section.conflict is None or key not in table:
            table.add(made)
        elif section.conflict:
            if key in written:
                raise _twice()
            table.update(key, **{column: getattr(made, column) for column in section.conflict})
        written.add(key)


# --- the statement --------------------------------------------------------------------------------------------------


class Flush(msgspec.Struct, frozen=True):
    """The statement for a batch that has rows for these sections."""

    parts: tuple[tuple[str, int, tuple[Callable[[Any], Any], ...]], ...]  # section, its first parameter, its encoders

    def rows(self, parameters: Sequence[Any]) -> dict[str, list[Row]]:
        """The rows of each section, as they arrive."""
        return {
            name: [
                tuple([encode(value) for encode, value in zip(encoders, row, strict=True)])
                for row in zip(*parameters[first : first + len(encoders)], strict=True)
            ]
            for name, first, encoders in self.parts
        }

    def locks(self, tables: Tables, parameters: Sequence[Any]) -> list[Lock]:
        """What it waits for, in order: the fingerprints and numbers it wants, the orders it moves, other keys."""
        rows = self.rows(parameters)
        births = [row for row in rows.get("births", ()) if _is_new(tables, row, None)]
        claims = sorted((row[1], row[12]) for row in births if row[12] is not None)
        moves = [row[0] for row in rows.get("moves", ()) if _is_next(tables, row)]
        candidates = {*(row[0] for row in births), *moves}
        return [
            *(("submissions", key) for key in claims),
            *(("orders_natural_key", row[1:3]) for row in births),
            *(("orders", order_id) for order_id in sorted(moves)),
            *(lock for name in rows for lock in _keys(name, rows[name], candidates)),
        ]

    def run(self, work: Work, parameters: Sequence[Any], seen: Seen) -> list[Record]:
        """Carry it out; the ids of the orders that were born or moved."""
        rows = self.rows(parameters)
        applied = _born(work, rows["births"], seen) if "births" in rows else {}
        if "moves" in rows:
            applied |= _moved(work, rows["moves"], seen)
        for name, update in UPDATES.items():  # first: they see nothing that this very statement inserts
            update(work, rows.get(name, ()), applied)
        for name in reversed(rows):  # Postgres runs what is left over of a statement last first
            if name in SECTIONS:
                _fill(work, SECTIONS[name], name, rows[name], applied)
        _moved_events(work, rows.get("moves", ()), applied)
        _born_events(work, rows.get("births", ()), applied)
        return [_applied((order_id,)) for order_id in applied]


def _keys(name: str, rows: Sequence[Row], candidates: set[str]) -> list[Lock]:
    """The keys that a section inserts and that statements about other orders could insert as well."""
    section = SECTIONS.get(name)
    if section is None or not section.contended:
        return []
    width, at = section.contended, columns(name).index("order_id")
    wanted = (row for row in rows if not section.of_applied or row[at] in candidates)
    return [(section.table, row[:width] if width > 1 else row[0]) for row in wanted]


@cache
def flush(sql: str) -> Statement | None:
    """The flush that has exactly this text, if any has."""
    names = frozenset(name for name in _CTE.findall(sql) if name in sections() and columns(name))
    if not names or statement(names).sql != sql:
        return None
    parts: list[tuple[str, int, tuple[Callable[[Any], Any], ...]]] = []
    first = 0
    for name, of_section in statement(names).columns.items():
        kinds = dict(_TYPED.findall(sections()[name])) | dict.fromkeys(_cast_to_json(name), "json")
        parts.append((name, first, tuple(encoder(kinds[column]) for column in of_section)))
        first += len(of_section)
    made = Flush(tuple(parts))
    return Statement("flush", made.run, made.locks, writes=True)


def _cast_to_json(name: str) -> set[str]:
    """The columns of a section that become JSON, there or (births, moves) in what lives on it."""
    text = "".join(sections()[each] for each in DERIVED.get(name, (name,)))
    return set(re.findall(r"\b\w\.(\w+)::json\b", text))


def _us(at_ms: int | None) -> int | None:
    return None if at_ms is None else at_ms * 1000


def _twice() -> exceptions.CardinalityViolationError:
    return exceptions.CardinalityViolationError("ON CONFLICT DO UPDATE command cannot affect row a second time")
