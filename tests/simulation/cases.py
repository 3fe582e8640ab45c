"""The statements about cases."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.simulation.locks import Lock
from tests.simulation.tables import CaseRow, Tables
from tests.simulation.wire import Record, encoded, records
from tests.simulation.work import Seen, Work

_case = records(
    *("order_id", "version", "app_id", "reason", "evidence_json", "opened_at_ms", "resolved_at_ms", "resolution"),
    *("resolved_by", "note"),
)
_count = records("reason", "count", "oldest_s")
_order_id = records("order_id")
_opened_at = records("opened_at")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def page_of_all(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    """Open or resolved cases of all apps, the oldest first, behind a place among them."""
    is_open, *place = parameters
    return _page(work, lambda row: (row.resolved_at_us is None) is is_open, place)


def page_open(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    """Open cases of one app, likewise."""
    app_id, *place = parameters
    return _page(work, lambda row: row.resolved_at_us is None and row.app_id == app_id, place)


def page_resolved(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    """Resolved cases of one app, likewise."""
    app_id, *place = parameters
    return _page(work, lambda row: row.resolved_at_us is not None and row.app_id == app_id, place)


def _page(work: Work, wanted: Callable[[CaseRow], bool], place: Sequence[Any]) -> list[Record]:
    opened_at, order_id, version, limit = place
    behind = (round((opened_at - EPOCH) / timedelta(microseconds=1)), encoded(order_id, "text"), version)
    rows = sorted(work.tables.cases.values(), key=_place)
    return [_record(row) for row in rows if wanted(row) and _place(row) > behind][:limit]


def opened_at(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    """When this case was opened."""
    row = work.tables.cases.get((encoded(parameters[0], "text"), parameters[1]))
    return [] if row is None else [_opened_at((EPOCH + timedelta(microseconds=row.opened_at_us),))]


def one(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    """The case of this order and version."""
    row = work.tables.cases.get((encoded(parameters[0], "text"), parameters[1]))
    return [] if row is None else [_record(row)]


def close_orphan(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    """Settle an open case without an order."""
    order_id, by, note = (encoded(each, "text") for each in parameters)
    cases = work.tables.cases
    row = cases.get((order_id, 0))
    if row is None or row.resolved_at_us is not None:
        return []
    cases.update(
        (order_id, 0), resolved_at_us=work.clock_us(), resolution="close", resolved_by=by, resolution_note=note
    )
    return [_order_id((order_id,))]


def orphan_locks(_tables: Tables, parameters: Sequence[Any]) -> list[Lock]:
    """What `close_orphan` waits for."""
    return [("cases", (parameters[0], 0))]


def count_open(work: Work, _parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    """How many are open of each reason, and since when."""
    opened: dict[str, list[int]] = {}
    for row in work.tables.cases.values():
        if row.resolved_at_us is None:
            opened.setdefault(row.reason, []).append(row.opened_at_us)
    now_us = work.clock_us()
    return [_count((reason, len(moments), (now_us - min(moments)) / 1e6)) for reason, moments in opened.items()]


def _place(row: CaseRow) -> tuple[int, str, int]:
    return row.opened_at_us, row.order_id, row.version


def _record(row: CaseRow) -> Record:
    return _case(
        (
            *(row.order_id, row.version, row.app_id, row.reason, row.evidence),
            *(
                (row.opened_at_us + 500) // 1000,
                None if row.resolved_at_us is None else (row.resolved_at_us + 500) // 1000,
            ),
            *(row.resolution, row.resolved_by, row.resolution_note),
        )
    )
