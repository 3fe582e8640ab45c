"""The statements about cases."""

from collections.abc import Sequence
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


def page(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    """Open or resolved cases, of one app or of all, the oldest first, behind a given one."""
    app_id, is_open, order_id, version, limit = parameters
    rows = sorted(work.tables.cases.values(), key=_place)
    if order_id is not None:
        last = work.tables.cases.get((encoded(order_id, "text"), version))
        rows = [] if last is None else [row for row in rows if _place(row) > _place(last)]
    rows = [row for row in rows if (row.resolved_at_us is None) is is_open]
    found = [_record(work.tables, row) for row in rows]
    return [record for record in found if app_id is None or record["app_id"] == app_id][:limit]


def one(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    """The case of this order and version."""
    row = work.tables.cases.get((encoded(parameters[0], "text"), parameters[1]))
    return [] if row is None else [_record(work.tables, row)]


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


def _record(tables: Tables, row: CaseRow) -> Record:
    order = tables.orders.get(row.order_id)
    return _case(
        (
            *(row.order_id, row.version, None if order is None else order.app_id, row.reason, row.evidence),
            *(
                (row.opened_at_us + 500) // 1000,
                None if row.resolved_at_us is None else (row.resolved_at_us + 500) // 1000,
            ),
            *(row.resolution, row.resolved_by, row.resolution_note),
        )
    )
