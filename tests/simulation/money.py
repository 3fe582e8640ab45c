"""The promises about money: S5 to S8 and L3, judged from the platforms' ledgers against the tables."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

from channels.simulator.trades import Paid, RefundOpened, RefundSettled, RefundState
from tests.simulation.determinism import EPOCH_S
from tests.simulation.evidence import Seen, durable_payment, nobody_made, seconds
from tests.simulation.history import OK, SHOP, Told

T3_S: Final = 120.0  # money that must not be kept, and its way back
BY_ITSELF: Final = "AUTO"  # how the refunds begin that a platform makes unasked


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
    back = _moved_back(seen)
    open_cases = {case.order_id for case in seen.tables.cases.values() if case.resolved_at_us is None}
    for paid in seen.successes:
        payment = durable_payment(seen.tables, paid)
        if payment is None:
            yield f"{paid.out_trade_no} {paid.transaction} has no place"
        elif payment.kind != "credit" and back[paid.out_trade_no] != paid.amount and payment.order_id not in open_cases:
            yield f"{paid.out_trade_no} is {payment.kind}, and {back[paid.out_trade_no]} of {paid.amount} went back"


def a_credit_stays(seen: Seen) -> Iterator[str]:
    """S6: a credit goes back only if its app asked for it, and an order's policy about late money is kept."""
    asked = {row.refund_id for row in seen.tables.refunds.values() if row.cause == "app"}
    credited = {payment.attempt_id for payment in seen.tables.payments.values() if payment.kind == "credit"}
    for entry in seen.book.entries:
        if isinstance(entry, RefundOpened) and entry.out_trade_no in credited and entry.refund_no not in asked:
            yield f"{entry.out_trade_no} is a credit and went back unasked"
    for order_id, row in seen.tables.orders.items():
        states = [event.state for event in seen.events[order_id]]
        if row.late_payment != "accept" and ("closed", "paid") in pairwise(states):
            yield f"{row.out_order_no} wants no late money ({row.late_payment}) and was credited"


def money_is_conserved(seen: Seen) -> Iterator[str]:
    """S7: what channels took less what they gave back is what we say it is."""
    theirs: Counter[tuple[str, str]] = Counter()
    ours: Counter[tuple[str, str]] = Counter()
    for paid in seen.successes:
        theirs[paid.channel, "taken"] += paid.amount
    for payment in seen.tables.payments.values():
        ours[payment.channel, "taken"] += payment.amount
    channel_of = {paid.out_trade_no: paid.channel for paid in seen.successes}
    for number, amount in _moved_back(seen).items():
        if number in channel_of:
            theirs[channel_of[number], "given back"] += amount
    for refund in seen.tables.refunds.values():
        if refund.state == "succeeded":
            ours[refund.channel, "given back"] += refund.amount
    if theirs != ours:
        yield f"channels say {dict(theirs)}, we say {dict(ours)}"


def never_more_back_than_paid(seen: Seen) -> Iterator[str]:
    """S8: refunds never exceed what was paid, at no point; one number of the app's is one movement of money."""
    paid: Counter[str] = Counter()
    back: Counter[str] = Counter()
    failed = {
        entry.refund_no
        for entry in seen.book.entries
        if isinstance(entry, RefundSettled) and entry.state is RefundState.FAILED
    }
    for entry in seen.book.entries:
        if isinstance(entry, Paid):
            paid[entry.out_trade_no] += entry.amount
        elif isinstance(entry, RefundOpened) and entry.refund_no not in failed:
            back[entry.out_trade_no] += entry.amount
            if back[entry.out_trade_no] > paid[entry.out_trade_no]:
                yield f"{entry.out_trade_no}: more goes back than was paid"
    for row in seen.tables.orders.values():
        if row.refunded_amount > row.paid_amount:
            yield f"{row.out_order_no}: {row.refunded_amount} of {row.paid_amount} goes back"


def a_refund_is_what_was_asked(seen: Seen) -> Iterator[str]:
    """S8: what the app heard of a refund is true: a yes moves that amount, a definite no moves nothing."""
    rows = {row.out_refund_no: row for row in seen.tables.refunds.values() if row.out_refund_no}
    asked: dict[str, list[Told]] = defaultdict(list)
    moved = {each.refund_no for each in _succeeded(seen)}
    for told in seen.history.told:
        if told.verb == "refund" and told.app == SHOP and told.asked:
            asked[told.asked["out_refund_no"]].append(told)
    for number, all_told in asked.items():
        row = rows.get(number)
        for told in all_told:
            if told.outcome == OK and told.asked and (row is None or row.amount != told.asked["amount"]):
                yield f"refund {number} was taken, and is not there"
        refused = any(told.code == "refund_refused" for told in all_told)  # by its channel: it was made before
        if refused and row is not None and row.refund_id in moved:
            yield f"refund {number} was refused by its channel, the app was told, and its money moved"
        if row is not None and not refused and nobody_made(all_told):
            yield f"refund {number} exists, and all it heard was {[(told.status, told.code) for told in all_told]}"


def excess_goes_back(seen: Seen) -> Iterator[str]:
    """L3: what must not be kept is on its way back soon, or people are told; every refund comes to an end."""
    settled = {entry.refund_no: entry.at - EPOCH_S for entry in _succeeded(seen)}
    open_cases = {case.order_id for case in seen.tables.cases.values() if case.resolved_at_us is None}
    back = _moved_back(seen)
    for row in seen.tables.refunds.values():
        since_s = max(seconds(row.started_at_ms), seen.healed_s)
        if row.state == "succeeded":
            if row.refund_id not in settled:
                yield f"{row.refund_id} succeeded here alone"
            elif settled[row.refund_id] - since_s > T3_S:
                yield f"{row.refund_id} took {settled[row.refund_id] - since_s:.0f} s"
        elif row.state in ("submitting", "unknown", "processing") and seen.ended_s - since_s > T3_S:
            yield f"{row.refund_id} is {row.state} after {seen.ended_s - since_s:.0f} s"
        elif (
            row.state in ("failed", "abnormal", "reversed")
            and row.cause != "app"
            and not (
                row.order_id in open_cases or back[row.attempt_id] >= row.amount  # by another one, which people sent
            )
        ):
            yield f"{row.refund_id} is {row.state}, and nobody is told to look"


def _moved_back(seen: Seen) -> Counter[str]:
    """What went back of each trade, by the platforms' ledger."""
    opened = {entry.refund_no: entry for entry in seen.book.entries if isinstance(entry, RefundOpened)}
    moved: Counter[str] = Counter()
    for entry in _succeeded(seen):
        if not entry.refund_no.startswith(BY_ITSELF):
            moved[entry.out_trade_no] += opened[entry.refund_no].amount
    return moved


def _succeeded(seen: Seen) -> list[RefundSettled]:
    settled = [entry for entry in seen.book.entries if isinstance(entry, RefundSettled)]
    return [entry for entry in settled if entry.state is RefundState.SUCCEEDED]
