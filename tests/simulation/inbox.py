"""The statements of the inbox: what is parked until its order turns up, and what is forgotten by age."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tests.simulation.locks import Lock
from tests.simulation.tables import CaseRow, NotificationRow, ParkedRow, Tables
from tests.simulation.wire import ROW, Record, encoded, records
from tests.simulation.work import Seen, Work

UNVERIFIED = frozenset(
    ("malformed", "bad_signature", "signature_probe", "unknown_key", "stale", "unreadable", "too_large")
)

_claimed = records("notification_id", "order_id", "said", "tries")


def park(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    """Have a notification told again later, once for the same money."""
    parked = work.tables.parked
    notification_id, order_id, *money, said, in_s = parameters
    order_id, *money, said = (encoded(each, "text") for each in (order_id, *money, said))
    if notification_id in parked or parked.one("parked_once", tuple(money)) is not None:
        return []
    now_us = work.clock_us()
    parked.insert(ParkedRow(notification_id, order_id, *money, said, now_us + _us(in_s), now_us))
    return [ROW]


def park_locks(_tables: Tables, parameters: Sequence[Any]) -> list[Lock]:
    """What `park` waits for."""
    return [("parked", parameters[0]), ("parked_once", tuple(parameters[2:5]))]


def locks(tables: Tables, parameters: Sequence[Any]) -> list[Lock]:
    """What a statement about one that is parked waits for."""
    return [("parked", parameters[0])] if parameters[0] in tables.parked else []


def claim(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    """Take those that are due."""
    limit, lease_s = parameters
    parked = work.tables.parked
    due = [
        row
        for row in parked.values()
        if row.next_try_at_us is not None
        and row.next_try_at_us <= work.started_us
        and not work.held(("parked", row.notification_id))
    ]
    due.sort(key=lambda row: row.next_try_at_us)
    for row in due[:limit]:
        parked.update(row.notification_id, next_try_at_us=work.clock_us() + _us(lease_s))
    return [_claimed((row.notification_id, row.order_id, row.said, row.tries)) for row in due[:limit]]


def postpone(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    """It was told in vain once more."""
    notification_id, tries, in_s = parameters
    row = work.tables.parked.get(notification_id)
    if row is None or row.tries >= tries or row.next_try_at_us is None:
        return []
    work.tables.parked.update(notification_id, tries=tries, next_try_at_us=work.clock_us() + _us(in_s))
    return [ROW]


def unpark(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    """Its order knows it; if that was the last that made a case of version 0, the case is settled."""
    parked, cases = work.tables.parked, work.tables.cases
    row = parked.get(parameters[0])
    if row is None:
        return []
    parked.delete(row.notification_id)
    case = cases.get((row.order_id, 0))
    if case is None or case.resolved_at_us is not None:
        return []
    if any(other.order_id == row.order_id for other in parked.values()):
        return []
    cases.update((row.order_id, 0), resolved_at_us=work.clock_us(), resolution="told", resolved_by="holdfast")
    return [ROW]


def orphan(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    """Give one up: its order's case of version 0 holds all that is said of it."""
    parked, cases = work.tables.parked, work.tables.cases
    row = parked.get(parameters[0])
    if row is None or row.next_try_at_us is None:
        return []
    parked.update(row.notification_id, tries=row.tries + 1, next_try_at_us=None)
    said = {"notification_id": row.notification_id, "said": msgspec.json.decode(row.said)}
    known = cases.get((row.order_id, 0))
    if known is None:
        cases.insert(CaseRow(row.order_id, 0, None, "orphan_notification", _evidence([said]), work.clock_us()))
    else:
        before = msgspec.json.decode(known.evidence)["notifications"]
        cases.update((row.order_id, 0), evidence=_evidence([*before, said]), resolved_at_us=None)
    return [ROW]


def orphan_locks(tables: Tables, parameters: Sequence[Any]) -> list[Lock]:
    """What `orphan` waits for."""
    row = tables.parked.get(parameters[0])
    return [] if row is None else [("parked", row.notification_id), ("cases", (row.order_id, 0))]


def forget(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    """Delete old notifications, but for those that are parked."""
    parked = work.tables.parked

    def waits(row: NotificationRow) -> bool:
        known = parked.get(row.notification_id)
        return known is not None and known.next_try_at_us is not None

    return _forgotten(work, parameters, lambda row: not waits(row))


def forget_unverified(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    """Delete old notifications that nobody vouches for."""
    return _forgotten(work, parameters, lambda row: row.verdict in UNVERIFIED)


def forget_orphans(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    """Delete what is remembered of old ones that were given up."""
    parked, (before, limit) = work.tables.parked, parameters
    old = sorted(row.notification_id for row in parked.values() if row.next_try_at_us is None)
    for notification_id in (gone := [number for number in old if number < before][:limit]):
        parked.delete(notification_id)
    return [ROW] * len(gone)


def _forgotten(work: Work, parameters: Sequence[Any], may_go: Callable[[NotificationRow], bool]) -> list[Record]:
    before, limit = parameters
    notifications = work.tables.notifications
    old = sorted(number for number, row in notifications.items() if number < before and may_go(row))[:limit]
    for number in old:
        notifications.delete(number)
    return [ROW] * len(old)


def _evidence(notifications: list[Any]) -> str:
    return msgspec.json.encode({"notifications": notifications}).decode()


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)
