"""Every statement that the gateway sends, by its text, and what it does to the tables in memory.

The texts are the product's own. Each is pinned by a digest: when one changes, the simulation stops and names it, until
somebody has carried the change over to what stands here and the conformance suite agrees that it is the same again.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
from asyncpg import exceptions

from gateway.storage import apps, lane, outbox
from gateway.storage.queries import query
from gateway.storage.statement import sections
from tests.simulation import cases, inbox
from tests.simulation.flush import flush
from tests.simulation.locks import Lock
from tests.simulation.tables import AppRow, AttemptRow, KeyRow, OrderRow, PaymentRow, RefundRow, Tables
from tests.simulation.wire import ROW, Record, encoded, records
from tests.simulation.work import Seen, Statement, Work

CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8"


class UnknownStatement(AssertionError):
    """The simulated database was sent a statement that it does not know, or whose text has changed."""


# --- orders ---------------------------------------------------------------------------------------------------------

_order = records(
    *(
        "order_id",
        "app_id",
        "out_order_no",
        "amount",
        "currency",
        "subject",
        "buyer",
        "items",
        "metadata",
        "webhook_url",
    ),
    *("return_url", "late_payment", "state", "reason", "version", "paid_amount", "refunded_amount", "late", "step"),
    *("created_at_ms", "expires_at_ms", "next_check_at_ms", "paid_at_ms", "closed_at_ms", "attempts", "payments"),
    "refunds",
)
_encode = msgspec.json.Encoder().encode


def _orders_by_id(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    orders = work.tables.orders
    ids = dict.fromkeys(encoded(parameters[0], "text[]"))
    return [_order_record(work.tables, orders[order_id]) for order_id in ids if order_id in orders]


def _order_record(tables: Tables, row: OrderRow) -> Record:
    attempts = sorted(tables.attempts.group("of_order", row.order_id), key=lambda attempt: attempt.number)
    payments = sorted(tables.payments.group("of_order", row.order_id), key=lambda payment: payment.learned_at_ms)
    refunds = sorted(
        tables.refunds.group("of_order", row.order_id), key=lambda refund: (refund.started_at_ms, refund.refund_id)
    )
    return _order(
        (
            *(row.order_id, row.app_id, row.out_order_no, row.amount, row.currency, row.subject, row.buyer, row.items),
            *(row.metadata, row.webhook_url, row.return_url, row.late_payment, row.state, row.reason, row.version),
            *(row.paid_amount, row.refunded_amount, row.late, row.step, row.created_at_ms, row.expires_at_ms),
            *(_ms(row.next_check_at_us), row.paid_at_ms, row.closed_at_ms),
            _json([_attempt_json(attempt) for attempt in attempts]),
            _json([_payment_json(payment) for payment in payments]),
            _json([_refund_json(refund) for refund in refunds]),
        )
    )


def _attempt_json(row: AttemptRow) -> dict[str, Any]:
    return {
        "number": row.number,
        "channel": row.channel,
        "account": row.account,
        "method": row.method,
        "state": row.state,
        "started_at_ms": row.started_at_ms,
        "submitted_at_ms": row.submitted_at_ms,
        "submits": row.submits,
        "params": _raw(row.params),
        "credential": _raw(row.credential),
        "failure_code": row.failure_code,
        "failure_message": row.failure_message,
    }


def _payment_json(row: PaymentRow) -> dict[str, Any]:
    return {
        "number": int(row.attempt_id[-2:]),
        "channel": row.channel,
        "account": row.account,
        "transaction": row.channel_transaction,
        "kind": row.kind,
        "amount": row.amount,
        "currency": row.currency,
        "success_at_ms": row.success_at_ms,
        "learned_at_ms": row.learned_at_ms,
        "learned_by": row.learned_by,
    }


def _refund_json(row: RefundRow) -> dict[str, Any]:
    return {
        "refund_id": row.refund_id,
        "cause": row.cause,
        "number": int(row.attempt_id[-2:]),
        "channel": row.channel,
        "account": row.account,
        "transaction": row.channel_transaction,
        "amount": row.amount,
        "state": row.state,
        "started_at_ms": row.started_at_ms,
        "submitted_at_ms": row.submitted_at_ms,
        "submits": row.submits,
        "step": row.step,
        "next_check_at_ms": _ms(row.next_check_at_us),
        "out_refund_no": row.out_refund_no,
        "reason": row.reason,
        "channel_refund": row.channel_refund,
        "failure_code": row.failure_code,
        "failure_message": row.failure_message,
        "succeeded_at_ms": row.succeeded_at_ms,
    }


_order_id = records("order_id")


def _order_id_of(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    app_id, out_order_no = (encoded(each, "text") for each in parameters)
    row = work.tables.orders.one("orders_natural_key", (app_id, out_order_no))
    return [] if row is None else [_order_id((row.order_id,))]


def _duplicate_of(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    app_id, fingerprint, out_order_no = parameters
    claim = work.tables.submissions.get((app_id, fingerprint))
    if claim is None or claim.out_order_no == encoded(out_order_no, "text") or claim.expires_at_us <= work.clock_us():
        return []
    row = work.tables.orders.one("orders_natural_key", (app_id, claim.out_order_no))
    return [] if row is None or row.fingerprint != fingerprint else [_order_id((row.order_id,))]


_event = records("version", "at_ms", "type", "state", "evidence")


def _timeline(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    events = work.tables.events.group("of_order", encoded(parameters[0], "text"))
    events.sort(key=lambda event: event.version)
    return [_event((event.version, event.at_ms, event.type, event.state, event.evidence)) for event in events]


_claimed_order = records("order_id", "version", "at_ms")


def _claim_due(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    grace_s, limit, lease_s = parameters
    orders, until_us = work.tables.orders, work.started_us - _seconds(grace_s)
    due = [
        row
        for row in orders.values()
        if row.next_check_at_us is not None
        and row.next_check_at_us <= until_us
        and not work.held(("orders", row.order_id))
    ]
    due.sort(key=lambda row: row.next_check_at_us)
    for row in due[:limit]:
        orders.update(row.order_id, next_check_at_us=work.clock_us() + _seconds(lease_s))
    return [_claimed_order((row.order_id, row.version, _ms(work.started_us))) for row in due[:limit]]


_claimed_refunds = records("order_id", "version", "refund_ids", "at_ms")


def _claim_due_refunds(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    grace_s, limit, lease_s = parameters
    refunds, until_us = work.tables.refunds, work.started_us - _seconds(grace_s)
    due = [
        row
        for row in refunds.values()
        if row.next_check_at_us is not None
        and row.next_check_at_us <= until_us
        and not work.held(("refunds", row.refund_id))
    ]
    due.sort(key=lambda row: row.next_check_at_us)
    of_orders: dict[str, list[str]] = {}
    for row in due[:limit]:
        refunds.update(row.refund_id, next_check_at_us=work.clock_us() + _seconds(lease_s))
        of_orders.setdefault(row.order_id, []).append(row.refund_id)
    orders, at_ms = work.tables.orders, _ms(work.started_us)
    found = [(one, ids) for one, ids in of_orders.items() if one in orders]
    return [_claimed_refunds((one, orders[one].version, ids, at_ms)) for one, ids in found]


def _order_of_refund(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    app_id, refund_id = (encoded(each, "text") for each in parameters)
    row = work.tables.refunds.get(refund_id)
    return [] if row is None or row.app_id != app_id else [_order_id((row.order_id,))]


def _order_of_out_refund_no(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    row = work.tables.refunds.one("refunds_natural_key", tuple(encoded(each, "text") for each in parameters))
    return [] if row is None else [_order_id((row.order_id,))]


def _forget_submissions(work: Work, _parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    submissions, before_us = work.tables.submissions, work.started_us - 60_000_000
    old = [
        key for key, row in submissions.items() if row.expires_at_us < before_us and not work.held(("submissions", key))
    ]
    for key in old[:10_000]:
        submissions.delete(key)
    return [ROW] * len(old[:10_000])


# --- the committer's looks ------------------------------------------------------------------------------------------


def _own(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    events = work.tables.events
    kinds = ("text[]", "int[]", "bigint[]")
    wanted = zip(*(encoded(each, kind) for each, kind in zip(parameters, kinds, strict=True)), strict=True)
    found = ((order_id, events.get((order_id, version)), op_id) for order_id, version, op_id in wanted)
    return [_order_id((order_id,)) for order_id, event, op_id in found if event is not None and event.op_id == op_id]


def _free(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    ids = dict.fromkeys(encoded(parameters[0], "text[]"))
    return [_order_id((one,)) for one in ids if one in work.tables.orders and not work.held(("orders", one))]


# --- the outbox -----------------------------------------------------------------------------------------------------

_owed = records("event_id", "app_id", "order_id", "seq", "type", "url", "body", "tries", "created_at_ms")


def _claim_webhooks(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    limit, lease_s, paused = parameters
    webhooks = work.tables.outbox
    due = [
        row
        for row in webhooks.group("owed", True)
        if row.next_try_at_us <= work.started_us
        and not (paused and f"{row.app_id} {_host(row.url)}" in paused)
        and not work.held(("outbox", row.event_id))
    ]
    due.sort(key=lambda row: row.next_try_at_us)
    for row in due[:limit]:
        webhooks.update(row.event_id, next_try_at_us=work.clock_us() + _seconds(lease_s))
    return [
        _owed((r.event_id, r.app_id, r.order_id, r.seq, r.type, r.url, r.body, r.tries, r.created_at_ms))
        for r in due[:limit]
    ]


def _host(url: str) -> str:
    parts = url.split("/", 3)
    return parts[2] if len(parts) > 2 else ""


_MARK_TYPES = ("text[]", "text[]", "int[]", "float8[]", "int[]", "text[]")


def _mark(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    webhooks = work.tables.outbox
    marked: set[str] = set()
    columns = [encoded(each, kind) for each, kind in zip(parameters, _MARK_TYPES, strict=True)]
    for event_id, state, tries, next_try_in_s, status, error in zip(*columns, strict=True):
        row = webhooks.get(event_id)
        if row is None or event_id in marked or row.state == "delivered":
            continue
        if state == "delivered" or (row.state == "owed" and row.tries < tries):
            marked.add(event_id)  # a row is changed once a statement, whatever else the statement says of it
            webhooks.update(
                event_id,
                state=state,
                tries=tries,
                last_status=status,
                last_error=error,
                next_try_at_us=work.clock_us() + _seconds(next_try_in_s),
                delivered_at_us=work.clock_us() if state == "delivered" else None,
            )
    return [ROW] * len(marked)


def _mark_locks(tables: Tables, parameters: Sequence[Any]) -> list[Lock]:
    return [("outbox", event_id) for event_id in dict.fromkeys(parameters[0]) if event_id in tables.outbox]


# --- apps -----------------------------------------------------------------------------------------------------------

_app_id = records("app_id")
_endpoint = records("app_id", "webhook_url")
_secret = records("webhook_url", "webhook_secret")
_key = records("key_hash", "app_id", "webhook_url")


def _add_app(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    app_id, webhook_url = (encoded(each, "text") for each in parameters[:2])
    if app_id in work.tables.apps:
        return []
    work.tables.apps.insert(AppRow(app_id, webhook_url, encoded(parameters[2], "bytea"), work.clock_us()))
    return [_app_id((app_id,))]


def _add_app_locks(_tables: Tables, parameters: Sequence[Any]) -> list[Lock]:
    return [("apps", parameters[0])]


def _add_key(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    key_hash, app_id, hint = parameters
    if app_id not in work.tables.apps:
        raise exceptions.ForeignKeyViolationError('insert on table "app_keys" violates a foreign key constraint')
    work.tables.app_keys.insert(KeyRow(encoded(key_hash, "bytea"), app_id, encoded(hint, "text"), work.clock_us()))
    return [ROW]


def _by_keys(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    keys, known = work.tables.app_keys, work.tables.apps
    found = [keys[key_hash] for key_hash in dict.fromkeys(parameters[0]) if key_hash in keys]
    return [
        _key((row.key_hash, row.app_id, known[row.app_id].webhook_url)) for row in found if row.revoked_at_us is None
    ]


def _read_endpoint(work: Work, parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    row = work.tables.apps.get(parameters[0])
    return [] if row is None else [_secret((row.webhook_url, row.webhook_secret))]


def _endpoints(work: Work, _parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    return [_endpoint((row.app_id, row.webhook_url)) for row in work.tables.apps.values()]


# --- the server -----------------------------------------------------------------------------------------------------

_value = records("value")


def _clock(work: Work, _parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    return [_value((work.clock_us() / 1e6,))]


def _writable(work: Work, _parameters: Sequence[Any], _seen: Seen) -> list[Record]:
    return [_value((not work.read_only,))]


# --- by text --------------------------------------------------------------------------------------------------------


class Pinned(msgspec.Struct, frozen=True):
    """A text of the product, the digest of what it was when its statement was written, and that statement."""

    text: str
    digest: str
    statement: Statement


KNOWN = (
    Pinned(query("orders_by_id"), "d1f94e24221c", Statement("orders_by_id", _orders_by_id)),
    Pinned(query("order_id_of"), "3901a02bcc25", Statement("order_id_of", _order_id_of)),
    Pinned(query("duplicate_of"), "201a3d030d12", Statement("duplicate_of", _duplicate_of)),
    Pinned(query("timeline"), "f60c6eeefad1", Statement("timeline", _timeline)),
    Pinned(query("claim_due"), "5ba88dd30889", Statement("claim_due", _claim_due, writes=True)),
    Pinned(
        query("forget_submissions"), "bb77cdda739a", Statement("forget_submissions", _forget_submissions, writes=True)
    ),
    Pinned(query("claim_due_refunds"), "4612962fae04", Statement("claim_due_refunds", _claim_due_refunds, writes=True)),
    Pinned(query("order_of_refund"), "8ec8ba363158", Statement("order_of_refund", _order_of_refund)),
    Pinned(
        query("order_of_out_refund_no"), "d4a02f85e6a8", Statement("order_of_out_refund_no", _order_of_out_refund_no)
    ),
    Pinned(query("cases_of_all"), "1ff95836f665", Statement("cases_of_all", cases.page_of_all)),
    Pinned(query("cases_open"), "4d1a77e59ace", Statement("cases_open", cases.page_open)),
    Pinned(query("cases_resolved"), "1eb96241191e", Statement("cases_resolved", cases.page_resolved)),
    Pinned(query("case_opened_at"), "9d9d6d4cb5ed", Statement("case_opened_at", cases.opened_at)),
    Pinned(query("case"), "d119f48e17a1", Statement("case", cases.one)),
    Pinned(
        query("close_orphan"),
        "0bc6d1c34a7d",
        Statement("close_orphan", cases.close_orphan, cases.orphan_locks, writes=True),
    ),
    Pinned(query("open_cases"), "f38721bdc0c1", Statement("open_cases", cases.count_open)),
    Pinned(query("park"), "b25b4a124fa8", Statement("park", inbox.park, inbox.park_locks, writes=True)),
    Pinned(query("claim_parked"), "efcdfa7127a1", Statement("claim_parked", inbox.claim, writes=True)),
    Pinned(
        query("postpone_parked"), "a7c4f2276e9d", Statement("postpone_parked", inbox.postpone, inbox.locks, writes=True)
    ),
    Pinned(query("unpark"), "cf5555d0240d", Statement("unpark", inbox.unpark, inbox.locks, writes=True)),
    Pinned(query("orphan"), "6fe287a1f26e", Statement("orphan", inbox.orphan, inbox.orphan_locks, writes=True)),
    Pinned(query("forget_notifications"), "a1ee0b272bb2", Statement("forget_notifications", inbox.forget, writes=True)),
    Pinned(
        query("forget_unverified_notifications"),
        "ac14cafaf7ca",
        Statement("forget_unverified_notifications", inbox.forget_unverified, writes=True),
    ),
    Pinned(query("forget_orphans"), "8ff0087df1f8", Statement("forget_orphans", inbox.forget_orphans, writes=True)),
    Pinned(query("endpoints"), "e6a7af8ecd93", Statement("endpoints", _endpoints)),
    Pinned(query("writable"), "f22d8a7b4b10", Statement("writable", _writable)),
    Pinned(CLOCK, "a3f4a99041c8", Statement("clock", _clock)),
    Pinned(lane._OWN, "913b04ae0480", Statement("own", _own)),
    Pinned(lane._FREE, "d997bff0775e", Statement("free", _free, writes=True)),  # a read-only server refuses its locks
    Pinned(outbox._CLAIM, "f0e94b284edc", Statement("claim_webhooks", _claim_webhooks, writes=True)),
    Pinned(outbox._MARK, "e8ef2ab309dd", Statement("mark_webhooks", _mark, _mark_locks, writes=True)),
    Pinned(apps._ADD_APP, "fe5ad290d328", Statement("add_app", _add_app, _add_app_locks, writes=True)),
    Pinned(apps._ADD_KEY, "f0ec18f718ed", Statement("add_key", _add_key, writes=True)),
    Pinned(apps._BY_KEYS, "f11fbc769664", Statement("by_keys", _by_keys)),
    Pinned(apps._ENDPOINT, "0548cf7a0162", Statement("endpoint", _read_endpoint)),
)

SECTION_DIGESTS = {
    "births": "806cccfe7558",
    "claimed": "f3549ef79169",
    "born": "00a04955d5a8",
    "born_events": "f17947ceb36b",
    "moves": "684adbc3d67a",
    "moved": "919f9793cddc",
    "moved_events": "ccf1f129c4a2",
    "attempts": "f4a5d34f9a50",
    "payments": "5b23cdb3126d",
    "accepted": "7fb9c7b49f4d",
    "refunds": "19447816e7c5",
    "settled": "b404a7df4511",
    "cases": "89a59cab9aac",
    "outbox": "c54512e07860",
    "arrivals": "cb0826211ef0",
}

_KNOWN = {pinned.text: pinned for pinned in KNOWN}


@cache
def statement_of(sql: str) -> Statement:
    """The statement of this text.

    Raises:
        UnknownStatement: there is none, or its text is not what it was.
    """
    if (pinned := _KNOWN.get(sql)) is not None:
        if drift := drift_of(pinned.statement.name, pinned.text, pinned.digest):
            raise UnknownStatement(drift)
        return pinned.statement
    found = flush(sql)
    if found is None:
        raise UnknownStatement(f"tests/simulation knows no statement like this one: {sql.strip()[:300]}")
    if drifts := section_drifts():
        raise UnknownStatement("; ".join(drifts))
    return found


@cache
def section_drifts() -> list[str]:
    """What is to be done about the sections of commit.sql that are not what they were."""
    found = [drift_of(f"section {name}", text, SECTION_DIGESTS.get(name, "none")) for name, text in sections().items()]
    return [drift for drift in found if drift]


def drift_of(name: str, text: str, digest: str) -> str:
    """Empty if the text is the one that was pinned; else what is to be done."""
    now = digest_of(text)
    if now == digest:
        return ""
    return (
        f"{name}: its text has changed. Carry the change over to tests/simulation, see that tests/conformance agrees,"
        f" and pin the digest {now} in place of {digest}"
    )


def digest_of(text: str) -> str:
    """Of what Postgres reads: comments and spacing do not count."""
    bare = " ".join(re.sub(r"--.*", "", text).split())
    return hashlib.sha256(bare.encode()).hexdigest()[:12]


def _raw(json: str | None) -> msgspec.Raw | None:
    return None if json is None else msgspec.Raw(json)


def _json(rows: list[dict[str, Any]]) -> str | None:
    return _encode(rows).decode() if rows else None


def _ms(at_us: int | None) -> int | None:
    return None if at_us is None else (at_us + 500) // 1000


def _seconds(seconds: float) -> int:
    return round(seconds * 1_000_000)
