"""What the auditor asks of refunds: what nobody may keep went back, once; and both sides say the same of each. Pure.

An excess is a payment that the gateway recorded beside an order's credit. Whether it went back the channel's ledger
says.
"""

from collections.abc import Iterator

from bench.books import ORDER_ID_CHARS, Books, Finding, transaction_of
from bench.ledgers import ChannelPayment, ChannelRefund, GatewayPayment, GatewayRefund

SUCCEEDED, FAILED = "succeeded", "failed"
MOVED_NOTHING = frozenset({"failed", "reversed"})  # at the gateway
NOT_SENT = frozenset({"submitting", "unknown"})


def excesses(books: Books) -> list[GatewayPayment]:
    """Money that no order may keep, as the gateway recorded it."""
    return [payment for payment in books.ledgers.gateway_payments if payment.kind == "excess"]


def went_back(books: Books, payment: GatewayPayment) -> int:
    """What of a recorded payment has arrived at its payer again."""
    truth = books.truth(payment)
    return 0 if truth is None else _sum(truth, {SUCCEEDED})


def kept_twice(books: Books) -> Iterator[Finding]:
    """Double: an excess that did not go back, and anything that went back more than once."""
    for payment in excesses(books):
        missing = payment.amount - went_back(books, payment)
        if missing > 0:
            why = (
                f"{payment.transaction} at {payment.channel} is too much, {missing} of {payment.amount} not given back"
            )
            yield Finding(payment.order_id, why, payment.channel)
    for truth in books.ledgers.payments:
        given = _sum(truth, {SUCCEEDED, "processing", "abnormal"})
        if given > truth.amount:
            why = f"{truth.transaction} of {truth.amount} at {truth.channel}: {given} given back"
            yield Finding(truth.out_trade_no[:ORDER_ID_CHARS], why, truth.channel)


def refunds_lost(books: Books) -> Iterator[Finding]:
    """Lost: written down at the gateway, and the channel never heard of it."""
    for refund, theirs in _pairs(books):
        if theirs is None and refund.state in NOT_SENT:
            why = f"refund {refund.refund_id} is {refund.state}, unknown to {refund.channel}"
            yield Finding(refund.order_id, why, refund.channel)


def refunds_invented(books: Books) -> Iterator[Finding]:
    """Phantom: given back at the gateway, and not at the channel."""
    for refund, theirs in _pairs(books):
        if refund.state == SUCCEEDED and (theirs is None or theirs.state != SUCCEEDED):
            state = "unknown" if theirs is None else theirs.state
            why = f"refund {refund.refund_id} succeeded at the gateway, {state} at {refund.channel}"
            yield Finding(refund.order_id, why, refund.channel)


def refunds_differ(books: Books) -> Iterator[Finding]:
    """Mismatch: what one side knows of a refund and the other does not, or otherwise; an order's own money given back
    by the rules; and sums that are none."""
    yield from _unrecorded(books)
    for refund, theirs in _pairs(books):
        if theirs is None:
            continue
        if theirs.amount != refund.amount:
            why = f"refund {refund.refund_id}: {refund.channel} {theirs.amount}, gateway {refund.amount}"
            yield Finding(refund.order_id, why, refund.channel)
        elif theirs.state == SUCCEEDED != refund.state or (
            theirs.state == FAILED and refund.state not in MOVED_NOTHING
        ):
            why = f"refund {refund.refund_id}: {theirs.state} at {refund.channel}, {refund.state} at the gateway"
            yield Finding(refund.order_id, why, refund.channel)
    yield from _credits_given_back(books)


def _unrecorded(books: Books) -> Iterator[Finding]:
    """Given back at a channel under a number that is no refund of that payment."""
    for truth in books.ledgers.payments:
        known = {refund.refund_id for refund in books.refunds.get(transaction_of(truth), [])}
        for refund in truth.refunds:
            if refund.number not in known:
                why = f"given back at {truth.channel} as {refund.number}, unknown to the gateway"
                yield Finding(truth.out_trade_no[:ORDER_ID_CHARS], why, truth.channel)


def _credits_given_back(books: Books) -> Iterator[Finding]:
    for order in books.ledgers.gateway_orders:
        given = 0
        for credit in books.credits(order.order_id):
            refunds = books.refunds.get(transaction_of(credit), [])
            given += sum(refund.amount for refund in refunds if refund.state not in MOVED_NOTHING)
            for refund in refunds:
                if refund.cause != "app":
                    why = f"refund {refund.refund_id} ({refund.cause}) gives back what the order was paid with"
                    yield Finding(order.order_id, why, refund.channel)
        if given != order.refunded_amount:
            why = f"refunded {order.refunded_amount}, its refunds add up to {given}"
            yield Finding(order.order_id, why, books.channel(order.order_id))


def _pairs(books: Books) -> Iterator[tuple[GatewayRefund, ChannelRefund | None]]:
    """Each refund of the gateway, and what its channel knows under its number about that payment."""
    for refund in books.ledgers.gateway_refunds:
        truth = books.transactions.get(transaction_of(refund))
        theirs = () if truth is None else truth.refunds
        yield refund, next((each for each in theirs if each.number == refund.refund_id), None)


def _sum(truth: ChannelPayment, states: set[str]) -> int:
    return sum(refund.amount for refund in truth.refunds if refund.state in states)
