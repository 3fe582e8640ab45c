"""The promises, each by its name, judged from what observers wrote down and from the tables' last state.

The graph of states stands here a second time, on purpose: a checker that asks the code's own table agrees with it.
Times are seconds of the run. T1 to T4 are how long after the healing (or after its cause, if later) something may take.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Final

from channels.simulator.trades import Paid, RefundOpened, RefundSettled, RefundState
from tests.simulation.determinism import EPOCH_S
from tests.simulation.history import FAIL, HOSTS, OK, SHOP, Told

T1_S: Final = 60.0  # paid at a channel that works, and known here
T1_CLOSED_S: Final = 150.0  # the same, when the attempt was over: the watch's next rung
T2_S: Final = 60.0  # known here, and told to an app that listens
T4_S: Final = 130.0  # an order's expiry, and its end
OVERDUE_S: Final = 60.0

# Where an order may go; into itself always.
STEPS: Final = {
    "created": {"paying", "closed", "exception"},
    "paying": {"closing", "paid", "closed", "exception"},
    "closing": {"paid", "closed", "exception"},
    "paid": set(),
    "closed": {"paid", "exception"},
    "exception": {"paid", "closed"},
}


# --- looked at as it happens ------------------------------------------------------------------------------------------


def durable_payment(tables: Any, paid: Paid) -> Any | None:
    """The row of a platform's transaction, if it is committed."""
    return tables.payments.get((paid.channel, paid.account, paid.transaction))


def answer_fault(tables: Any, told: Told) -> tuple[str, str] | None:
    """What is wrong with a successful answer at the moment it is given: nothing is answered before it is durable."""
    order = told.order
    if order is None or "order_id" not in order:
        return None
    event = tables.events.get((order["order_id"], order["version"]))
    if event is None:
        return "S1", f"{told.verb} {told.out_order_no} was answered with a version that is not durable"
    if shown(event.state) != order["state"]:
        return "S1", f"{told.verb} {told.out_order_no} was answered {order['state']}, durable is {event.state}"
    return None


def webhook_fault(tables: Any, url: str, said: dict[str, Any]) -> tuple[str, str] | None:
    """What is wrong with a webhook before its first byte leaves."""
    order = said["data"]["object"]
    row, event = tables.orders.get(order["order_id"]), tables.events.get((order["order_id"], said["seq"]))
    if row is None or event is None:
        return "S9", f"{said['type']} of {order['out_order_no']} is told and not durable"
    if shown(event.state) != order["state"]:
        return "S9", f"{order['out_order_no']} is told to be {order['state']}, durable is {event.state}"
    if url.split("/")[2] != HOSTS[row.app_id]:
        return "S13", f"{order['out_order_no']} is told to somebody else"
    return None


def shown(state: str) -> str:
    """As apps see it."""
    return "paying" if state == "closing" else state


# --- looked at in the end ---------------------------------------------------------------------------------------------


class Seen:
    """The evidence, sorted for the questions asked of it."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.tables = world.database.tables
        self.healed_s: float = world.healed_s
        self.ended_s: float = world.loop.time()
        self.history = world.history
        self.book = world.platforms.book
        self.successes: list[Paid] = self.book.successes()
        self.creates: dict[tuple[str, str], list[Told]] = defaultdict(list)
        for told in self.history.told:
            if told.verb == "create":
                self.creates[told.app, told.out_order_no].append(told)
        self.events: dict[str, list[Any]] = defaultdict(list)
        for event in self.tables.events.values():
            self.events[event.order_id].append(event)
        for events in self.events.values():
            events.sort(key=lambda event: event.version)


def _seconds(at_ms: int) -> float:
    return at_ms / 1000 - EPOCH_S


def created_is_kept(seen: Seen) -> Iterator[str]:
    """S1: create answered ok, so the order exists in every later read, the same."""
    for (app, number), all_told in seen.creates.items():
        for told in (told for told in all_told if told.outcome == OK):
            assert told.order is not None
            row = seen.tables.orders.get(told.order["order_id"])
            if row is None:
                yield f"{number} was created and is gone"
            elif (row.app_id, row.out_order_no, row.amount, row.currency) != (
                app,
                number,
                told.order["amount"],
                told.order["currency"],
            ):
                yield f"{number} is not what was answered"
    born = {t.out_order_no: t.ended for all_told in seen.creates.values() for t in all_told if t.outcome == OK}
    for told in seen.history.told:
        if told.app == SHOP and told.code == "order_not_found" and told.at > born.get(told.out_order_no, told.at):
            yield f"{told.out_order_no} was created, and {told.verb} did not find it"


def no_means_no(seen: Seen) -> Iterator[str]:
    """S2: create answered with a definite no, so there never is such an order."""
    for (app, number), all_told in seen.creates.items():
        if all(told.outcome == FAIL and not told.doubled for told in all_told):
            if seen.tables.orders.one("orders_natural_key", (app, number)) is not None:
                yield f"{number} was refused ({all_told[-1].code}) and exists"


def one_number_one_order(seen: Seen) -> Iterator[str]:
    """S3: all ok answers for one number name one order; another body changes nothing."""
    for (_, number), all_told in seen.creates.items():
        ok = [told for told in all_told if told.outcome == OK and told.order is not None]
        if len({told.order["order_id"] for told in ok if told.order}) > 1:
            yield f"{number} names several orders"
        for told in ok:
            if told.order and told.asked and told.order["amount"] != told.asked["amount"]:
                yield f"{number} was taken with two bodies"


def credited_once(seen: Seen) -> Iterator[str]:
    """S5: at most one credit an order; its amount is the order's."""
    credits_of: dict[str, list[Any]] = defaultdict(list)
    for payment in seen.tables.payments.values():
        if payment.kind == "credit":
            credits_of[payment.order_id].append(payment)
    for order_id, row in seen.tables.orders.items():
        credited = credits_of.get(order_id, [])
        if len(credited) > 1:
            yield f"{row.out_order_no} has {len(credited)} credits"
        if (row.state == "paid") != bool(credited):
            yield f"{row.out_order_no} is {row.state} with {len(credited)} credits"
        if credited and (credited[0].amount != row.amount or row.paid_amount != row.amount):
            yield f"{row.out_order_no}: {credited[0].amount} was credited for {row.amount}"


def all_money_has_a_place(seen: Seen) -> Iterator[str]:
    """S6: every successful transaction is the credit, or excess that goes back, or held with an open case."""
    cased = {case.order_id for case in seen.tables.cases.values()}
    for paid in seen.successes:
        payment = durable_payment(seen.tables, paid)
        if payment is None:
            yield f"{paid.out_trade_no} {paid.transaction} has no place"
        elif payment.kind != "credit" and payment.order_id not in cased:
            yield f"{paid.out_trade_no} is {payment.kind}, and nobody is told to look"


def money_is_conserved(seen: Seen) -> Iterator[str]:
    """S7: what channels took less what they gave back is what we say it is."""
    theirs: Counter[tuple[str, str]] = Counter()
    ours: Counter[tuple[str, str]] = Counter()
    for paid in seen.successes:
        theirs[paid.channel, paid.currency] += paid.amount
    for payment in seen.tables.payments.values():
        ours[payment.channel, payment.currency] += payment.amount
    if theirs != ours:
        yield f"channels took {dict(theirs)}, we know of {dict(ours)}"


def never_more_back_than_paid(seen: Seen) -> Iterator[str]:
    """S8: refunds never exceed what was paid, at no point; a refund's number moves money once."""
    paid: Counter[str] = Counter()
    back: Counter[str] = Counter()
    for entry in seen.book.entries:
        if isinstance(entry, Paid):
            paid[entry.out_trade_no] += entry.amount
        elif isinstance(entry, RefundOpened):
            back[entry.out_trade_no] += entry.amount
            if back[entry.out_trade_no] > paid[entry.out_trade_no]:
                yield f"{entry.out_trade_no}: more goes back than was paid"
    moved = Counter(
        entry.refund_no
        for entry in seen.book.entries
        if isinstance(entry, RefundSettled) and entry.state is RefundState.SUCCEEDED
    )
    for number, times in moved.items():
        if times > 1:
            yield f"refund {number} moved money {times} times"


def versions_follow(seen: Seen) -> Iterator[str]:
    """S10: versions grow by one, states move along the graph, and what is final stays."""
    for order_id, row in seen.tables.orders.items():
        events = seen.events[order_id]
        if [event.version for event in events] != list(range(1, row.version + 1)):
            yield f"{row.out_order_no} at version {row.version} has events {[event.version for event in events]}"
            continue
        if events[0].state != "created" or events[-1].state != row.state:
            yield f"{row.out_order_no} is {row.state}, its events end in {events[-1].state}"
        for before, after in zip(events, events[1:], strict=False):
            if after.state != before.state and after.state not in STEPS[before.state]:
                yield f"{row.out_order_no} went from {before.state} to {after.state} by {after.type}"


def paid_is_seen_for_ever(seen: Seen) -> Iterator[str]:
    """S11: who saw paid never sees anything else later, on any gateway."""
    first: dict[str, float] = {}
    for told in seen.history.told:
        if told.outcome == OK and told.state == "paid" and told.app == SHOP:
            first[told.out_order_no] = min(told.ended, first.get(told.out_order_no, told.ended))
    for told in seen.history.told:
        if told.outcome == OK and told.order and told.at > first.get(told.out_order_no, told.at):
            if told.state != "paid":
                yield f"{told.out_order_no} was seen paid, then {told.state} by {told.verb} on {told.gateway}"


def nothing_is_invented(seen: Seen) -> Iterator[str]:
    """S12: every payment we know is one that its channel states, with its amount, currency and account."""
    stated = {(p.channel, p.account, p.transaction): p for p in seen.successes}
    for key, payment in seen.tables.payments.items():
        paid = stated.get(key)
        if paid is None:
            yield f"{payment.attempt_id}: no channel knows {payment.channel_transaction}"
        elif (paid.amount, paid.currency, paid.out_trade_no) != (payment.amount, payment.currency, payment.attempt_id):
            yield f"{payment.attempt_id} is not what its channel states"


def strangers_see_nothing(seen: Seen) -> Iterator[str]:
    """S13: another app's order does not exist for anybody else."""
    for told in seen.history.told:
        if told.app != SHOP and (told.outcome == OK or told.status in (409, 422)):
            yield f"{told.app} could {told.verb} {told.out_order_no}: {told.status}"
    for received in seen.history.received:
        if received.app != SHOP:
            yield f"{received.app} was told of {received.order['out_order_no']}"


def paid_becomes_known(seen: Seen) -> Iterator[str]:
    """L1: paid at the channel, so known here soon, even if every notification was lost."""
    for paid in seen.successes:
        payment = durable_payment(seen.tables, paid)
        paid_s = paid.at - EPOCH_S
        since_s = max(paid_s, seen.healed_s)
        if payment is None:
            yield f"{paid.out_trade_no} was paid at {paid_s:.0f} s and is not known at {seen.ended_s:.0f} s"
            continue
        row = seen.tables.orders[payment.order_id]
        over = row.late or row.reason == "late_payment" or payment.kind != "credit"
        late_s = _seconds(payment.learned_at_ms) - since_s
        if late_s > (T1_CLOSED_S if over else T1_S):
            yield f"{paid.out_trade_no} became known {late_s:.0f} s after it could"


def known_becomes_told(seen: Seen) -> Iterator[str]:
    """L2: paid here, so the app hears of it soon once it listens; nothing is given up."""
    told: dict[tuple[str, str], float] = {}
    for received in seen.history.received:
        key = (received.order["order_id"], received.type)
        told[key] = min(received.at, told.get(key, received.at))
    for order_id, row in seen.tables.orders.items():
        if row.app_id != SHOP or row.state not in ("paid", "closed"):
            continue
        entered = next(event for event in seen.events[order_id] if event.state == row.state)
        heard_s = told.get((order_id, f"order.{row.state}"))
        since_s = max(_seconds(entered.at_ms), seen.healed_s)
        if heard_s is None:
            yield f"{row.out_order_no} is {row.state} since {since_s:.0f} s, and its app does not know"
        elif heard_s - since_s > T2_S:
            yield f"{row.out_order_no} is {row.state}, and its app heard of it {heard_s - since_s:.0f} s later"
    for webhook in seen.tables.outbox.values():
        if webhook.state == "dead":
            yield f"{webhook.event_id} was given up"


def everything_ends(seen: Seen) -> Iterator[str]:
    """L4: no order stays open long after its expiry; what is due is looked at."""
    for row in seen.tables.orders.values():
        since_s = max(_seconds(row.expires_at_ms), seen.healed_s)
        if row.state not in ("paid", "closed", "exception") and seen.ended_s - since_s > T4_S:
            yield f"{row.out_order_no} is {row.state}, {seen.ended_s - since_s:.0f} s after its expiry"
        if row.next_check_at_us is not None:
            overdue_s = seen.ended_s - (row.next_check_at_us / 1_000_000 - EPOCH_S)
            if overdue_s > OVERDUE_S:
                yield f"{row.out_order_no} was due {overdue_s:.0f} s ago"


CHECKS: Final[dict[str, tuple[Callable[[Seen], Iterator[str]], ...]]] = {
    "S1": (created_is_kept,),
    "S2": (no_means_no,),
    "S3": (one_number_one_order,),
    "S5": (credited_once,),
    "S6": (all_money_has_a_place,),
    "S7": (money_is_conserved,),
    "S8": (never_more_back_than_paid,),
    "S10": (versions_follow,),
    "S11": (paid_is_seen_for_ever,),
    "S12": (nothing_is_invented,),
    "S13": (strangers_see_nothing,),
    "L1": (paid_becomes_known,),
    "L2": (known_becomes_told,),
    "L4": (everything_ends,),
}


def check(world: Any) -> None:
    """Judge a run; what is broken goes into its history. S4, S9 and L5 were judged as they happened."""
    seen = Seen(world)
    for name, checks in CHECKS.items():
        for each in checks:
            for detail in each(seen):
                world.history.violated(name, detail)
