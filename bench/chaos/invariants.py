"""What must hold whatever happened: each invariant a function of what was seen and of the tables, by its name. Pure.

S is safety: it holds at every moment. L is liveness: it holds once everything was healed and the time that it takes
has passed. What the three ledgers say of each other (lost, doubled, invented, changed) is the auditor's.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import MappingProxyType

import msgspec

from bench.chaos.history import History
from bench.chaos.tables import AttemptRow, InboxRow, OrderRow, Tables
from bench.ledgers import ChannelPayment

LIVE = frozenset({"submitting", "pending", "unknown", "closing"})
OPEN = frozenset({"created", "paying", "closing"})
# The states as apps see them, and where each may lead. Written down here a second time, on purpose.
NEXT = MappingProxyType(
    {
        "created": {"paying", "closed", "exception"},
        "paying": {"closing", "paid", "closed", "exception"},
        "closing": {"paid", "closed", "exception"},
        "closed": {"paid", "exception"},
        "exception": {"paid", "closed"},
        "paid": set[str](),
    }
)
RANK = MappingProxyType({"created": 0, "paying": 1, "closing": 1, "exception": 2, "closed": 2, "paid": 3})
# How long after its expiry an order may still be open, by the channel of its live attempt. WeChat Pay confirms a close;
# of a code that nobody opened Alipay knows nothing until its own expiry, a minute at least; UnionPay has no close, and
# what waits for a payer there ends ten minutes after its payTimeout.
MARGIN_S = MappingProxyType({"": 10.0, "wechatpay": 15.0, "alipay": 90.0, "unionpay": 690.0})
CHECKED_WITHIN_S = 120.0  # the longest rung of any ladder of an open order, with room
SHOWN_MAX = 20


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """All that is judged."""

    tables: Tables
    history: History
    channel: list[ChannelPayment] = []
    inbox: list[InboxRow] = []
    redirects_followed: int = 0
    trespasses: list[str] = []
    leaks: list[str] = []
    tail_failures: list[str] = []


class Violation(msgspec.Struct, frozen=True):
    """What does not hold, of what, and how."""

    invariant: str
    subject: str
    why: str


class Invariant(msgspec.Struct, frozen=True):
    """Its name, what it says, and the check: subjects and reasons where it does not hold."""

    name: str
    says: str
    check: Callable[[Seen], Iterator[tuple[str, str]]]


def violations(seen: Seen) -> list[Violation]:
    """Everything that does not hold."""
    return [Violation(each.name, *found) for each in INVARIANTS for found in each.check(seen)]


# --- promises -------------------------------------------------------------------------------------------------------


def _promised_exists(seen: Seen) -> Iterator[tuple[str, str]]:
    rows = {order.order_id: order for order in seen.tables.orders}
    for made in seen.history.made:
        order = rows.get(made.order_id)
        if order is None:
            yield made.out_order_no, f"answered with {made.order_id}, which does not exist"
        elif (order.out_order_no, order.amount, order.currency) != (made.out_order_no, made.amount, made.currency):
            yield made.out_order_no, f"answered with {made}, stored {order}"


def _refused_does_not_exist(seen: Seen) -> Iterator[tuple[str, str]]:
    history = seen.history
    never = history.refused - history.unsure - {made.out_order_no for made in history.made}
    for order in seen.tables.orders:
        if order.out_order_no in never:
            yield order.out_order_no, f"every create of it was refused, and {order.order_id} exists"


def _one_number_one_order(seen: Seen) -> Iterator[tuple[str, str]]:
    ids: dict[str, set[str]] = defaultdict(set)
    for made in seen.history.made:
        ids[made.out_order_no].add(made.order_id)
    for number, found in ids.items():
        if len(found) > 1:
            yield number, f"answered with {', '.join(sorted(found))}"


def _answers_are_whole(seen: Seen) -> Iterator[tuple[str, str]]:
    for answer in seen.history.broken:
        yield answer.partition(":")[0], answer


# --- money ----------------------------------------------------------------------------------------------------------


def _acknowledged_is_durable(seen: Seen) -> Iterator[tuple[str, str]]:
    recorded = {(payment.channel, payment.account, payment.transaction) for payment in seen.tables.payments}
    for paid in seen.channel:
        if paid.acknowledged and (paid.channel, paid.account, paid.transaction) not in recorded:
            yield paid.out_trade_no, f"{paid.channel} was told that we have {paid.transaction}, and it is not recorded"


def _one_credit_of_the_amount(seen: Seen) -> Iterator[tuple[str, str]]:
    orders = {order.order_id: order for order in seen.tables.orders}
    credited = [payment for payment in seen.tables.payments if payment.kind == "credit"]
    for order_id, count in Counter(credit.order_id for credit in credited).items():
        if count > 1:
            yield order_id, f"credited {count} times"
    for credit in credited:
        order = orders.get(credit.order_id)
        if order is None or (credit.amount, credit.currency) != (order.amount, order.currency):
            yield credit.order_id, f"credited {credit.amount} {credit.currency} to {order}"


def _every_payment_has_one_end(seen: Seen) -> Iterator[tuple[str, str]]:
    kinds: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for payment in seen.tables.payments:
        kinds[payment.channel, payment.account, payment.transaction].append(payment.kind)
    for paid in seen.channel:
        found = kinds.get((paid.channel, paid.account, paid.transaction), [])
        if len(found) != 1:
            yield paid.out_trade_no, f"{paid.transaction} of {paid.channel} is recorded as {found or 'nothing'}"
    cased = {case.order_id for case in seen.tables.cases}
    for payment in seen.tables.payments:
        if payment.kind != "credit" and payment.order_id not in cased:
            yield payment.order_id, f"{payment.kind} of {payment.amount} and no case that says so"


def _sums_agree(seen: Seen) -> Iterator[tuple[str, str]]:
    there: Counter[tuple[str, str, str]] = Counter()
    here: Counter[tuple[str, str, str]] = Counter()
    for paid in seen.channel:
        there[paid.channel, paid.account, paid.currency] += paid.amount
    for payment in seen.tables.payments:
        here[payment.channel, payment.account, payment.currency] += payment.amount
    for key in there.keys() | here.keys():
        if there[key] != here[key]:
            yield " ".join(key), f"took {there[key]}, recorded {here[key]}"


def _refunded_within_paid(seen: Seen) -> Iterator[tuple[str, str]]:
    for order in seen.tables.orders:
        if not 0 <= order.refunded_amount <= order.paid_amount:
            yield order.order_id, f"refunded {order.refunded_amount} of {order.paid_amount}"


# --- the life of an order -------------------------------------------------------------------------------------------


def _told_is_durable(seen: Seen) -> Iterator[tuple[str, str]]:
    owed = {row.event_id: (row.type, row.seq) for row in seen.tables.outbox}
    states = {(event.order_id, event.version): event.state for event in seen.tables.events}
    told = [(each.event_id, each.type, each.seq) for each in seen.inbox]
    told += [(each.event_id, each.type, each.seq) for each in seen.history.told]
    for event_id, kind, seq in told:
        if owed.get(event_id) != (kind, seq):
            yield event_id, f"an app was told {kind} at version {seq}, and the outbox has {owed.get(event_id)}"
    for row in seen.tables.outbox:
        state = states.get((row.order_id, row.seq))
        if state is None or (row.type == "order.paid" and state != "paid"):
            yield row.event_id, f"{row.type} of version {row.seq}, which is {state or 'not there'}"


def _versions_without_gaps(seen: Seen) -> Iterator[tuple[str, str]]:
    versions: dict[str, list[int]] = defaultdict(list)
    for event in seen.tables.events:
        versions[event.order_id].append(event.version)
    for order in seen.tables.orders:
        found = sorted(versions.pop(order.order_id, []))
        if found != list(range(1, order.version + 1)):
            yield order.order_id, f"is at version {order.version}, its events at {found}"
    for order_id in versions:
        yield order_id, "has events and does not exist"


def _states_move_as_allowed(seen: Seen) -> Iterator[tuple[str, str]]:
    states: dict[str, list[str]] = defaultdict(list)
    for event in sorted(seen.tables.events, key=lambda event: (event.order_id, event.version)):
        states[event.order_id].append(event.state)
    for order_id, path in states.items():
        for before, after in pairwise(path):
            if before != after and after not in NEXT.get(before, set()):
                yield order_id, f"went from {before} to {after}"
    for order in seen.tables.orders:
        if states[order.order_id][-1:] != [order.state]:
            yield order.order_id, f"is {order.state}, its last event says {states[order.order_id][-1:]}"


def _reads_never_go_back(seen: Seen) -> Iterator[tuple[str, str]]:
    last: dict[str, tuple[int, str]] = {}
    for read in seen.history.reads:
        version, state = last.get(read.order_id, (0, "created"))
        if read.version < version or (state == "paid" and read.state != "paid"):
            yield read.order_id, f"{read.gateway} showed {read.state} {read.version} after {state} {version}"
        last[read.order_id] = read.version, read.state


def _one_live_attempt(seen: Seen) -> Iterator[tuple[str, str]]:
    attempts: dict[str, list[AttemptRow]] = defaultdict(list)
    for attempt in seen.tables.attempts:
        attempts[attempt.order_id].append(attempt)
    for order in seen.tables.orders:
        mine = sorted(attempts.pop(order.order_id, []), key=lambda attempt: attempt.number)
        live = [attempt.attempt_id for attempt in mine if attempt.state in LIVE]
        if len(live) > 1 or (order.state in ("created", "closed") and live):
            yield order.order_id, f"is {order.state} with live attempts {live}"
        if [attempt.number for attempt in mine] != list(range(1, len(mine) + 1)):
            yield order.order_id, f"has attempts {[attempt.number for attempt in mine]}"
        if order.state == "paid" and not any(attempt.state == "succeeded" for attempt in mine):
            yield order.order_id, f"is paid and no attempt succeeded: {[attempt.state for attempt in mine]}"
    for order_id in attempts:
        yield order_id, "has attempts and does not exist"


# --- others ---------------------------------------------------------------------------------------------------------


def _apps_stay_apart(seen: Seen) -> Iterator[tuple[str, str]]:
    for trespass in seen.trespasses:
        yield trespass.partition(":")[0], trespass
    apps = {order.order_id: order.app_id for order in seen.tables.orders}
    for row in seen.tables.outbox:
        if apps.get(row.order_id) != row.app_id:
            yield row.event_id, f"owed to {row.app_id}, the order is {apps.get(row.order_id)}'s"


def _nothing_leaks(seen: Seen) -> Iterator[tuple[str, str]]:
    for leak in seen.leaks:
        yield leak, "a secret stands in this log"


def _redirects_are_not_followed(seen: Seen) -> Iterator[tuple[str, str]]:
    if seen.redirects_followed:
        yield "webhooks", f"{seen.redirects_followed} redirects were followed"


def _every_webhook_is_delivered(seen: Seen) -> Iterator[tuple[str, str]]:
    for row in seen.tables.outbox:
        if row.state != "delivered":
            yield row.event_id, f"{row.type} is {row.state} after {row.tries} tries"


def _open_orders_end(seen: Seen) -> Iterator[tuple[str, str]]:
    live = {attempt.order_id: attempt.channel for attempt in seen.tables.attempts if attempt.state in LIVE}
    for order in seen.tables.orders:
        margin_s = MARGIN_S[live.get(order.order_id, "")]
        if order.state in OPEN and -order.expires_in_s > margin_s:
            yield order.order_id, f"{order.state}, {-order.expires_in_s:.0f} s after its expiry (allowed: {margin_s:g})"


def _open_orders_are_looked_at(seen: Seen) -> Iterator[tuple[str, str]]:
    for order in seen.tables.orders:
        if order.state in OPEN and not _comes_up(order):
            yield order.order_id, f"{order.state}, next looked at in {order.next_check_in_s} s"


def _comes_up(order: OrderRow) -> bool:
    return order.next_check_in_s is not None and order.next_check_in_s <= CHECKED_WITHIN_S


def _tail_is_ok(seen: Seen) -> Iterator[tuple[str, str]]:
    for failure in seen.tail_failures:
        yield "tail", failure


INVARIANTS = (
    Invariant("S1", "what was answered with an order exists, with the same content", _promised_exists),
    Invariant("S2", "what was definitely refused does not exist", _refused_does_not_exist),
    Invariant("S3", "one number names one order, whoever asks", _one_number_one_order),
    Invariant("S3 answers", "no answer breaks a promise or is an error of the gateway's own", _answers_are_whole),
    Invariant("S4", "what was acknowledged to a channel is recorded", _acknowledged_is_durable),
    Invariant("S5", "an order is credited at most once, with its amount", _one_credit_of_the_amount),
    Invariant("S6", "every payment has exactly one end; what is no credit has a case", _every_payment_has_one_end),
    Invariant("S7", "by channel, account and currency the sums agree", _sums_agree),
    Invariant("S8", "never more is refunded than was paid", _refunded_within_paid),
    Invariant("S9", "what an app was told is in the outbox, and its version among the events", _told_is_durable),
    Invariant("S10", "versions have no gap and no fork", _versions_without_gaps),
    Invariant("S10 states", "states move only as allowed, and paid stays paid", _states_move_as_allowed),
    Invariant("S10 attempts", "one attempt is live; none of what is closed; one succeeded of paid", _one_live_attempt),
    Invariant("S11", "no reader sees an order go back, whichever gateway answers", _reads_never_go_back),
    Invariant("S13", "an app sees and is told nothing of another's orders", _apps_stay_apart),
    Invariant("S14", "no secret stands in a log", _nothing_leaks),
    Invariant("S14 redirects", "a webhook goes where it was sent", _redirects_are_not_followed),
    Invariant("L2", "every webhook is delivered", _every_webhook_is_delivered),
    Invariant("L4", "no order is open past its expiry and the channel's margin", _open_orders_end),
    Invariant("L4 timers", "every open order comes up again soon", _open_orders_are_looked_at),
    Invariant("L5", "after the last healing every request succeeds", _tail_is_ok),
)
