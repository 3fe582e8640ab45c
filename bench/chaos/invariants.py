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
from bench.chaos.tables import AttemptRow, InboxRow, OrderRow, RefundRow, Tables
from bench.ledgers import ChannelPayment, ChannelRefund

LIVE = frozenset({"submitting", "pending", "unknown", "closing"})
OPEN = frozenset({"created", "paying", "closing"})
GIVEN_UP = frozenset({"failed", "reversed"})  # refunds that no longer count
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
# of a code that nobody opened Alipay knows nothing until its own expiry, two minutes at least; UnionPay has no close,
# and what waits for a payer there ends ten minutes after its payTimeout.
MARGIN_S = MappingProxyType({"": 10.0, "wechatpay": 20.0, "alipay": 160.0, "unionpay": 690.0})
TOLD_WITHIN_S = 10.0  # once the endpoint is healthy: a lease that somebody died with has run out by then
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
    refunds = {refund.refund_id: refund for refund in seen.tables.refunds}
    for wish in seen.history.refunds:
        refund = refunds.get(wish.refund_id)
        if refund is None:
            yield wish.out_refund_no, f"answered with {wish.refund_id}, which does not exist"
        elif (refund.out_refund_no, refund.order_id, refund.amount) != (wish.out_refund_no, wish.order_id, wish.amount):
            yield wish.out_refund_no, f"answered with {wish}, stored {refund}"


def _refused_does_not_exist(seen: Seen) -> Iterator[tuple[str, str]]:
    history = seen.history
    answered = {made.out_order_no for made in history.made} | {made.out_refund_no for made in history.refunds}
    never = history.refused - history.unsure - answered
    for order in seen.tables.orders:
        if order.out_order_no in never:
            yield order.out_order_no, f"every create of it was refused, and {order.order_id} exists"
    for refund in seen.tables.refunds:
        if refund.out_refund_no in never:
            yield refund.out_refund_no, f"every wish for it was refused, and {refund.refund_id} exists"


def _one_number_one_order(seen: Seen) -> Iterator[tuple[str, str]]:
    ids: dict[str, set[str]] = defaultdict(set)
    for made in seen.history.made:
        ids[made.out_order_no].add(made.order_id)
    for wish in seen.history.refunds:
        ids[wish.out_refund_no].add(wish.refund_id)
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
    cased = {case.order_id for case in seen.tables.cases if not case.resolved}
    backs = _given_back(seen, lambda refund: refund.state not in GIVEN_UP)
    for payment in seen.tables.payments:
        back = backs[payment.channel, payment.account, payment.transaction]
        if payment.kind != "credit" and back != payment.amount and payment.order_id not in cased:
            yield payment.order_id, f"{payment.kind} of {payment.amount}, {back} given back, and no case that says so"


def _rules_give_back_only_what_is_too_much(seen: Seen) -> Iterator[tuple[str, str]]:
    kinds = {(p.channel, p.account, p.transaction): p.kind for p in seen.tables.payments}
    policies = {order.order_id: order.late_payment for order in seen.tables.orders}
    for refund in seen.tables.refunds:
        kind = kinds.get((refund.channel, refund.account, refund.transaction))
        if kind is None or (refund.cause == "app") != (kind == "credit"):
            yield refund.refund_id, f"{refund.cause} gives back {kind or 'what was never paid'}"
        if refund.cause == "late" and policies.get(refund.order_id) != "refund":
            yield refund.refund_id, f"was late, and its app wants {policies.get(refund.order_id)}"


def _given_back(seen: Seen, counts: Callable[[RefundRow], bool]) -> Counter[tuple[str, str, str]]:
    """How much of each payment: by channel, account and transaction."""
    backs: Counter[tuple[str, str, str]] = Counter()
    for refund in filter(counts, seen.tables.refunds):
        backs[refund.channel, refund.account, refund.transaction] += refund.amount
    return backs


def _sums_agree(seen: Seen) -> Iterator[tuple[str, str]]:
    there: Counter[tuple[str, str, str]] = Counter()
    here: Counter[tuple[str, str, str]] = Counter()
    backs = _given_back(seen, lambda refund: refund.state == "succeeded")
    for paid in seen.channel:
        there[paid.channel, paid.account, paid.currency] += paid.amount - _went_back(paid)
    for payment in seen.tables.payments:
        back = backs[payment.channel, payment.account, payment.transaction]
        here[payment.channel, payment.account, payment.currency] += payment.amount - back
    for key in there.keys() | here.keys():
        if there[key] != here[key]:
            yield " ".join(key), f"the channel holds {there[key]} for us, here it is {here[key]}"


def _refunded_within_paid(seen: Seen) -> Iterator[tuple[str, str]]:
    backs = _given_back(seen, lambda refund: refund.state not in GIVEN_UP)
    refunded: Counter[str] = Counter()
    for payment in seen.tables.payments:
        back = backs[payment.channel, payment.account, payment.transaction]
        if back > payment.amount:
            yield payment.order_id, f"{back} given back of {payment.amount}"
        refunded[payment.order_id] += back if payment.kind == "credit" else 0
    for order in seen.tables.orders:
        if not 0 <= order.refunded_amount <= order.paid_amount or order.refunded_amount != refunded[order.order_id]:
            said = f"refunded {order.refunded_amount} of {order.paid_amount}"
            yield order.order_id, f"{said}, its refunds say {refunded[order.order_id]}"
    for paid in seen.channel:
        if _went_back(paid) > paid.amount:
            yield paid.out_trade_no, f"{paid.channel} gave back {_went_back(paid)} of {paid.amount}"


def _went_back(paid: ChannelPayment) -> int:
    return sum(refund.amount for refund in paid.refunds if refund.state == "succeeded")


def _one_refund_one_movement(seen: Seen) -> Iterator[tuple[str, str]]:
    rows = {refund.refund_id: refund for refund in seen.tables.refunds}
    there: dict[str, list[tuple[str, ChannelRefund]]] = defaultdict(list)
    for paid in seen.channel:
        for moved in paid.refunds:
            there[moved.number].append((paid.channel, moved))
    for number, found in there.items():
        (channel, moved), row = found[0], rows.get(number)
        if len(found) > 1:
            yield number, f"{channel} moved money {len(found)} times"
        if row is None or (row.channel, row.amount) != (channel, moved.amount):
            yield number, f"{channel} gave back {moved.amount}, here it is {row}"
    for row in rows.values():
        states = [moved.state for _, moved in there.get(row.refund_id, [])]
        if row.state == "succeeded" and "succeeded" not in states:
            yield row.refund_id, f"succeeded here, {states or 'unknown'} at {row.channel}"


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
        if row.state == "dead" or (row.state == "owed" and row.age_s > TOLD_WITHIN_S):
            yield row.event_id, f"{row.type} is {row.state} after {row.tries} tries and {row.age_s:.1f} s"


def _every_refund_succeeds(seen: Seen) -> Iterator[tuple[str, str]]:
    for refund in seen.tables.refunds:
        if refund.state != "succeeded":
            yield refund.refund_id, f"{refund.cause}: {refund.state}"


def _silence_ends_with_its_cases(seen: Seen) -> Iterator[tuple[str, str]]:
    tables = seen.tables
    waits = {
        "unknown_outcome": {order.order_id for order in tables.orders if order.state == "exception"},
        "unclosed_attempt": {attempt.order_id for attempt in tables.attempts if attempt.state in LIVE},
        "refund_unknown": {refund.order_id for refund in tables.refunds if refund.state != "succeeded"},
    }
    for case in tables.cases:
        if not case.resolved and case.reason in waits and case.order_id not in waits[case.reason]:
            yield case.order_id, f"the case {case.reason} is open, and there is nothing left to know"


def _open_orders_end(seen: Seen) -> Iterator[tuple[str, str]]:
    """An exception without held money counts as open: it was silence that led there, and the channel speaks again."""
    held = {payment.order_id for payment in seen.tables.payments if payment.kind == "held"}
    live = {attempt.order_id: attempt.channel for attempt in seen.tables.attempts if attempt.state in LIVE}
    for order in seen.tables.orders:
        margin_s = MARGIN_S[live.get(order.order_id, "")]
        is_open = order.state in OPEN or (order.state == "exception" and order.order_id not in held)
        if is_open and -order.expires_in_s > margin_s:
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
    Invariant("S6", "every payment has one end: credit, given back whole, or a case", _every_payment_has_one_end),
    Invariant("S6 rules", "only apps have a credit given back", _rules_give_back_only_what_is_too_much),
    Invariant("S7", "by channel, account and currency the channel holds for us what we believe", _sums_agree),
    Invariant("S8", "never more is refunded than was paid", _refunded_within_paid),
    Invariant("S8 once", "a refund moves money once, and only what was asked for", _one_refund_one_movement),
    Invariant("S9", "what an app was told is in the outbox, and its version among the events", _told_is_durable),
    Invariant("S10", "versions have no gap and no fork", _versions_without_gaps),
    Invariant("S10 states", "states move only as allowed, and paid stays paid", _states_move_as_allowed),
    Invariant("S10 attempts", "one attempt is live; none of what is closed; one succeeded of paid", _one_live_attempt),
    Invariant("S11", "no reader sees an order go back, whichever gateway answers", _reads_never_go_back),
    Invariant("S13", "an app sees and is told nothing of another's orders", _apps_stay_apart),
    Invariant("S14", "no secret stands in a log", _nothing_leaks),
    Invariant("S14 redirects", "a webhook goes where it was sent", _redirects_are_not_followed),
    Invariant("L2", "every webhook is delivered soon, none is given up", _every_webhook_is_delivered),
    Invariant("L3", "every refund succeeds: no channel has refused one here", _every_refund_succeeds),
    Invariant("L3 cases", "the case of a silence ends when the silence does", _silence_ends_with_its_cases),
    Invariant("L4", "no order is open past its expiry and the channel's margin", _open_orders_end),
    Invariant("L4 timers", "every open order comes up again soon", _open_orders_are_looked_at),
    Invariant("L5", "after the last healing every request succeeds", _tail_is_ok),
)
