"""The promises, each by its name, judged from what observers wrote down and from the tables' last state.

The graph of states stands here a second time, on purpose: a checker that asks the code's own table agrees with it.
Times are seconds of the run. T1 to T4 are how long after the healing (or after its cause, if later) something may take.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Final

from channels.simulator.trades import AnyEntry, Opened, RefundOpened
from tests.simulation import money
from tests.simulation.determinism import EPOCH_S
from tests.simulation.evidence import Seen, durable_payment, nobody_made, seconds
from tests.simulation.history import HOSTS, OK, SHOP, Told

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
BY_PEOPLE: Final = {"closing"}


# --- looked at as it happens ------------------------------------------------------------------------------------------


def answer_fault(tables: Any, told: Told) -> tuple[str, str] | None:
    """What is wrong with a successful answer at the moment it is given: nothing is answered before it is durable."""
    order = told.order
    if told.refund is not None and told.refund["refund_id"] not in tables.refunds:
        return "S1", f"refund {told.refund['refund_id']} was answered and is not durable"
    if told.duplicate_of and told.duplicate_of not in tables.orders:
        return "S3", f"{told.out_order_no} was refused as a duplicate of an order that does not exist"
    if told.code == "internal_error":
        return "S1", f"{told.verb} {told.out_order_no} was answered 500"
    if order is None:
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


def intent_fault(tables: Any, entry: AnyEntry) -> tuple[str, str] | None:
    """What is wrong with what a platform was just made to do: no effect without its intent being durable."""
    match entry:
        case Opened() if entry.out_trade_no not in tables.attempts:
            return "S2", f"{entry.out_trade_no} was made payable, and no attempt is durable"
        case RefundOpened() if entry.refund_no not in tables.refunds and not entry.refund_no.startswith("AUTO"):
            return "S8", f"{entry.refund_no} was asked for, and no refund is durable"
    return None


def shown(state: str) -> str:
    """As apps see it."""
    return "paying" if state == "closing" else state


# --- looked at in the end ---------------------------------------------------------------------------------------------


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
    """S2: create answered with a definite no, so that request has made no order, then or later."""
    for (app, number), all_told in seen.creates.items():
        if seen.tables.orders.one("orders_natural_key", (app, number)) is not None and nobody_made(all_told):
            yield f"{number} exists, and all it heard was {[(told.status, told.code) for told in all_told]}"


def one_number_one_order(seen: Seen) -> Iterator[str]:
    """S3: all ok answers for one number name one order; another body changes nothing."""
    for (_, number), all_told in seen.creates.items():
        ok = [told for told in all_told if told.outcome == OK and told.order is not None]
        if len({told.order["order_id"] for told in ok if told.order}) > 1:
            yield f"{number} names several orders"
        for told in ok:
            if told.order and told.asked and told.order["amount"] != told.asked["amount"]:
                yield f"{number} was taken with two bodies"


def versions_follow(seen: Seen) -> Iterator[str]:
    """S10: versions grow by one, states move along the graph, and what is final stays."""
    for order_id, row in seen.tables.orders.items():
        events = seen.events[order_id]
        if [event.version for event in events] != list(range(1, row.version + 1)):
            yield f"{row.out_order_no} at version {row.version} has events {[event.version for event in events]}"
            continue
        if events[0].state != "created" or events[-1].state != row.state:
            yield f"{row.out_order_no} is {row.state}, its events end in {events[-1].state}"
        for before, after in pairwise(events):
            allowed = STEPS[before.state] | (BY_PEOPLE if after.type == "CaseResolved" else set())
            if after.state != before.state and after.state not in allowed:
                yield f"{row.out_order_no} went from {before.state} to {after.state} by {after.type}"


def closed_is_the_channels_word(seen: Seen) -> Iterator[str]:
    """S10: an order that was closed could not be paid any more: whoever pays it has to be let by the channel."""
    forced = seen.world.platforms.forced
    closed = {
        event.order_id: seconds(event.at_ms)
        for events in seen.events.values()
        for event in events
        if event.state == "closed"
    }
    for paid in seen.successes:
        order_id = paid.out_trade_no[:26]
        payment = durable_payment(seen.tables, paid)
        held = payment is not None and payment.kind == "held"  # then people decided
        if order_id in closed and paid.out_trade_no not in forced and not held:
            yield f"{paid.out_trade_no} was paid at {paid.at - EPOCH_S:.1f} s, closed at {closed[order_id]:.1f} s"


def submitted_once(seen: Seen) -> Iterator[str]:
    """S3: the same content from the same buyer within the window is one order."""
    window_s = seen.world.window_s
    for row in seen.tables.orders.values():
        twin = seen.tables.orders.one("orders_natural_key", (row.app_id, row.out_order_no + "b"))
        if twin is None:
            continue
        born_s = max(seen.born_s[row.order_id], seen.born_s[twin.order_id])
        began_s = seconds(min(row.created_at_ms, twin.created_at_ms))  # the first one's commit may have been held up
        if born_s - began_s < window_s:
            yield f"{row.out_order_no} was submitted twice under two numbers, and both exist"


def paid_is_seen_for_ever(seen: Seen) -> Iterator[str]:
    """S11: who saw paid never sees anything else later, on any gateway."""
    first: dict[str, float] = {}
    for told in seen.history.told:
        if told.outcome == OK and told.order and told.state == "paid":
            order_id = told.order["order_id"]
            first[order_id] = min(told.ended, first.get(order_id, told.ended))
    for told in seen.history.told:
        if told.outcome != OK or not told.order or told.state == "paid":
            continue
        if told.at > first.get(told.order["order_id"], told.at):
            yield f"{told.order['out_order_no']} was seen paid, then {told.state} by {told.verb} on {told.gateway}"


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
        late_s = seconds(payment.learned_at_ms) - since_s
        if paid.out_trade_no in seen.world.platforms.forced:
            continue  # against its channel's own word: found by the watch, which begins when the order ends
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
        since_s = max(seconds(entered.at_ms), seen.healed_s)
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
        since_s = max(seconds(row.expires_at_ms), seen.healed_s)
        if row.state not in ("paid", "closed", "exception") and seen.ended_s - since_s > T4_S:
            yield f"{row.out_order_no} is {row.state}, {seen.ended_s - since_s:.0f} s after its expiry"
        if row.next_check_at_us is not None:
            overdue_s = seen.ended_s - (row.next_check_at_us / 1_000_000 - EPOCH_S)
            if overdue_s > OVERDUE_S:
                yield f"{row.out_order_no} was due {overdue_s:.0f} s ago"


CHECKS: Final[dict[str, tuple[Callable[[Seen], Iterator[str]], ...]]] = {
    "S1": (created_is_kept,),
    "S2": (no_means_no,),
    "S3": (one_number_one_order, submitted_once),
    "S5": (money.credited_once,),
    "S6": (money.all_money_has_a_place, money.a_credit_stays),
    "S7": (money.money_is_conserved,),
    "S8": (money.never_more_back_than_paid, money.a_refund_is_what_was_asked),
    "S10": (versions_follow, closed_is_the_channels_word),
    "S11": (paid_is_seen_for_ever,),
    "S12": (nothing_is_invented,),
    "S13": (strangers_see_nothing,),
    "L1": (paid_becomes_known,),
    "L2": (known_becomes_told,),
    "L3": (money.excess_goes_back,),
    "L4": (everything_ends,),
}


def check(seen: Seen) -> None:
    """Judge a run; what is broken goes into its history. S4, S9 and L5 were judged as they happened."""
    for name, checks in CHECKS.items():
        for each in checks:
            for detail in each(seen):
                seen.history.violated(name, detail)
