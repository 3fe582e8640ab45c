"""The ledgers, opened at the right pages: who was paid what for which order, as each side has it."""

from collections import defaultdict
from collections.abc import Iterable
from typing import TypeAlias, TypeVar

import msgspec

from bench.ledgers import ChannelPayment, GatewayPayment, GatewayRefund, Ledgers, ShopOrder

T = TypeVar("T")
K = TypeVar("K")
Transaction: TypeAlias = tuple[str, str, str]  # channel, account, the channel's number

ORDER_ID_CHARS = 26  # an attempt is the order's id and two digits, and that is what the channel sees


class Finding(msgspec.Struct, frozen=True):
    """One order (or transaction) that something is wrong with, and the channel it was to be paid through, if known."""

    subject: str
    why: str
    channel: str = ""


def transaction_of(money: ChannelPayment | GatewayPayment | GatewayRefund) -> Transaction:
    """What names a transaction."""
    return money.channel, money.account, money.transaction


class Books:
    """The ledgers, opened at the right pages."""

    def __init__(self, ledgers: Ledgers) -> None:
        self.ledgers = ledgers
        self.paid = grouped((payment.out_trade_no[:ORDER_ID_CHARS], payment) for payment in ledgers.payments)
        self.transactions = {transaction_of(payment): payment for payment in ledgers.payments}
        self.numbered = {payment.transaction: payment for payment in ledgers.payments}
        self.orders = {order.order_id: order for order in ledgers.gateway_orders}
        self.attempts = {attempt.attempt_id: attempt for attempt in ledgers.gateway_attempts}
        self.recorded = grouped((payment.order_id, payment) for payment in ledgers.gateway_payments)
        self.refunds = grouped((transaction_of(refund), refund) for refund in ledgers.gateway_refunds)
        self.by_number = {order.out_order_no: order for order in ledgers.gateway_orders}
        self.shop = {order.out_order_no: order for order in ledgers.shop_orders}

    def credits(self, order_id: str) -> list[GatewayPayment]:
        """The recorded payments that the order was credited with."""
        return [payment for payment in self.recorded.get(order_id, []) if payment.kind == "credit"]

    def nothing_owed(self, order_id: str) -> bool:
        """Whether all that was ever paid for the order is recorded as money that it must not keep."""
        kinds = {transaction_of(payment): payment.kind for payment in self.recorded.get(order_id, [])}
        return all(kinds.get(transaction_of(payment)) == "excess" for payment in self.paid.get(order_id, []))

    def truth(self, payment: GatewayPayment) -> ChannelPayment | None:
        """What the channel knows of a recorded payment; if nobody took it under that name, under its number alone."""
        return self.transactions.get(transaction_of(payment)) or self.numbered.get(payment.transaction)

    def channel(self, order_id: str) -> str:
        """Where the order was paid, or should have been."""
        payments: list[ChannelPayment | GatewayPayment] = [*self.paid.get(order_id, []), *self.credits(order_id)]
        if payments:
            return payments[0].channel
        order = self.orders.get(order_id)
        customer = self.shop.get(order.out_order_no) if order else None
        return customer.channel if customer else ""

    def channel_of_customer(self, customer: ShopOrder) -> str:
        """The same, as seen from the shop."""
        order = self.by_number.get(customer.out_order_no)
        return self.channel(order.order_id) if order else customer.channel


def grouped(pairs: Iterable[tuple[K, T]]) -> dict[K, list[T]]:
    """The values of each key, in their order."""
    groups: dict[K, list[T]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return dict(groups)
