"""What exists at the platforms: trades and refunds, changed by ledger entries alone: read again they give the same.

Pure. A change is an entry: decide it, `apply` it, and tell nobody before the ledger has it on disk.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeAlias

import msgspec

TRADES_MAX = 1_000_000  # about 1 KB each: above it no platform takes any more


class Entry(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """One line of the ledger. `at` is unix seconds; `merchant` is the platform's own name of the account (mchid,
    app_id, merId)."""

    at: float
    channel: str
    merchant: str
    out_trade_no: str


class Opened(Entry, frozen=True, kw_only=True, tag="opened"):
    """The merchant made something payable. `terms` is a digest of the request, which a repetition must match; `details`
    is what only its platform understands. `offered`: the platform knows of no trade until a payer enters it."""

    method: str
    description: str
    ordinal: int
    amount: int
    currency: str
    notify_url: str
    expires_at_s: int
    terms: str
    return_url: str = ""
    offered: bool = False
    details: Mapping[str, str] = {}


class Entered(Entry, frozen=True, kw_only=True, tag="entered"):
    """A payer scanned the code or opened the page: from now on there is a trade."""


class Paid(Entry, frozen=True, kw_only=True, tag="paid"):
    """Somebody paid. `account` is the merchant account as our channel will name it; it and the amount are what the
    platform states, which only a test makes differ from the trade's. `details` as in `Opened`."""

    transaction: str
    amount: int
    currency: str
    description: str
    success_at: int
    account: str
    details: Mapping[str, str] = {}


class Closed(Entry, frozen=True, kw_only=True, tag="closed"):
    """It can not be paid any more: the merchant closed it, or all of it was given back."""


class RefundOpened(Entry, frozen=True, kw_only=True, tag="refund_opened"):
    """The merchant asked for money to be given back."""

    refund_no: str
    channel_refund: str
    amount: int
    terms: str
    notify_url: str = ""
    details: Mapping[str, str] = {}


class RefundState(StrEnum):
    """Where a refund is; each platform has its own words for these."""

    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABNORMAL = "abnormal"


class RefundSettled(Entry, frozen=True, kw_only=True, tag="refund_settled"):
    """It came to something."""

    refund_no: str
    state: RefundState
    success_at: int = 0


class Notified(Entry, frozen=True, kw_only=True, tag="notified"):
    """The merchant acknowledged a notification. `topic` is empty for the payment's, else the refund's number."""

    topic: str = ""


class NotificationDropped(Entry, frozen=True, kw_only=True, tag="notification_dropped"):
    """This notification will never arrive."""

    topic: str = ""


AnyEntry: TypeAlias = Opened | Entered | Paid | Closed | RefundOpened | RefundSettled | Notified | NotificationDropped


class TradeState(StrEnum):
    """Where a trade is; each platform has its own words for these. OFFERED: only the payer could make it a trade."""

    OFFERED = "offered"
    WAITING = "waiting"
    PAID = "paid"
    CLOSED = "closed"


class Refund(msgspec.Struct):
    """One refund as it now is."""

    made: RefundOpened
    state: RefundState = RefundState.PROCESSING
    settled: RefundSettled | None = None


class Trade(msgspec.Struct):
    """One trade as it now is. `codes` counts how often a way to pay it was handed out, `code` is the newest one."""

    made: Opened
    state: TradeState
    paid: Paid | None = None
    codes: int = 1
    code: str = ""
    refunds: dict[str, Refund] = {}
    notified: set[str] = set()
    dropped: set[str] = set()

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it: channel, merchant, number."""
        return self.made.channel, self.made.merchant, self.made.out_trade_no

    @property
    def subject(self) -> str:
        """What faults and payers are drawn by."""
        return f"{self.made.description}#{self.made.ordinal}"

    @property
    def refunded(self) -> int:
        """What was given back or is on its way, in minor units."""
        return sum(r.made.amount for r in self.refunds.values() if r.state is not RefundState.FAILED)

    def payable(self, now_s: float) -> bool:
        """Whether a payer can pay now: the expiry ends that, but does not close the trade."""
        return self.state in (TradeState.OFFERED, TradeState.WAITING) and now_s < self.made.expires_at_s


def about(trade: Trade) -> dict[str, str]:
    """The fields by which a ledger entry names its trade."""
    channel, merchant, out_trade_no = trade.key
    return {"channel": channel, "merchant": merchant, "out_trade_no": out_trade_no}


class Trades:
    """All trades of all merchants at all platforms."""

    def __init__(self) -> None:
        self._trades: dict[tuple[str, str, str], Trade] = {}
        self._ordinals: dict[tuple[str, str, str], int] = {}
        self._transactions: dict[tuple[str, str], Trade] = {}
        self._refunds: dict[tuple[str, str, str], Trade] = {}
        self._codes: dict[str, Trade] = {}

    def find(self, channel: str, merchant: str, out_trade_no: str) -> Trade | None:
        """The trade of this number; each merchant has its own numbers."""
        return self._trades.get((channel, merchant, out_trade_no))

    def find_transaction(self, channel: str, transaction: str) -> Trade | None:
        """The trade that was paid under this number of the platform's."""
        return self._transactions.get((channel, transaction))

    def find_refund(self, channel: str, merchant: str, refund_no: str) -> tuple[Trade, Refund] | None:
        """The refund of this number, and its trade."""
        trade = self._refunds.get((channel, merchant, refund_no))
        return None if trade is None else (trade, trade.refunds[refund_no])

    def find_code(self, code: str) -> Trade | None:
        """The trade that this code or address pays, as long as the simulator runs."""
        return self._codes.get(code)

    def show(self, trade: Trade, code: str) -> None:
        """Hand out a code: what was handed out before no longer leads to it."""
        self._codes.pop(trade.code, None)
        trade.code = code
        self._codes[code] = trade

    def all(self, channel: str | None = None, merchant: str | None = None) -> list[Trade]:
        """Every trade, of one platform or one merchant if named, oldest first."""
        return [
            trade
            for trade in self._trades.values()
            if channel in (None, trade.made.channel) and merchant in (None, trade.made.merchant)
        ]

    def full(self) -> bool:
        """Whether no more trades are taken."""
        return len(self._trades) >= TRADES_MAX

    def next_ordinal(self, channel: str, merchant: str, description: str) -> int:
        """How many trades of this description the merchant has."""
        return self._ordinals.get((channel, merchant, description), 0)

    def transactions(self) -> int:
        """How many payments and refunds there ever were: a number made of it is never made twice, restarts included."""
        return len(self._transactions) + len(self._refunds)

    def apply(self, entry: AnyEntry) -> Trade:
        """Make the entry true."""
        if isinstance(entry, Opened):
            return self._open(entry)
        trade = self._trades[entry.channel, entry.merchant, entry.out_trade_no]
        match entry:
            case Entered():
                trade.state = TradeState.WAITING
            case Paid():
                trade.state, trade.paid = TradeState.PAID, entry
                self._transactions[entry.channel, entry.transaction] = trade
            case Closed():
                trade.state = TradeState.CLOSED
            case RefundOpened():
                trade.refunds[entry.refund_no] = Refund(entry)
                self._refunds[entry.channel, entry.merchant, entry.refund_no] = trade
            case RefundSettled():
                refund = trade.refunds[entry.refund_no]
                refund.state, refund.settled = entry.state, entry
            case Notified():
                trade.notified.add(entry.topic)
            case NotificationDropped():
                trade.dropped.add(entry.topic)
        return trade

    def _open(self, made: Opened) -> Trade:
        state = TradeState.OFFERED if made.offered else TradeState.WAITING
        trade = self._trades[made.channel, made.merchant, made.out_trade_no] = Trade(made, state)
        self._ordinals[made.channel, made.merchant, made.description] = made.ordinal + 1
        return trade
