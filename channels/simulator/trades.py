"""What exists at the platform: trades, changed only by ledger entries, so that the ledger read again gives the same.

Pure. A change is an entry: decide it, `apply` it, and tell nobody before the ledger has it on disk.
"""

from enum import StrEnum
from typing import TypeAlias

import msgspec

TRADES_MAX = 1_000_000  # about 1 KB each: above it the platform answers 429


class Entry(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """One line of the ledger. `at` is unix seconds."""

    at: float
    mchid: str
    out_trade_no: str


class Prepaid(Entry, frozen=True, kw_only=True, tag="prepay"):
    """A trade came to be. `terms` is a digest of the request, which a repetition must match."""

    appid: str
    description: str
    ordinal: int
    amount: int
    currency: str
    notify_url: str
    expires_at_s: int
    terms: str


class Paid(Entry, frozen=True, kw_only=True, tag="paid"):
    """Somebody paid. `stated_*` is the account the platform names, which only a test makes differ from the trade's."""

    transaction_id: str
    amount: int
    currency: str
    description: str
    success_at: int
    stated_mchid: str
    stated_appid: str


class Closed(Entry, frozen=True, kw_only=True, tag="closed"):
    """The merchant closed it; it can not be paid any more."""


class Notified(Entry, frozen=True, kw_only=True, tag="notified"):
    """The merchant acknowledged the notification."""


class NotificationDropped(Entry, frozen=True, kw_only=True, tag="notification_dropped"):
    """The notification will never arrive."""


AnyEntry: TypeAlias = Prepaid | Paid | Closed | Notified | NotificationDropped


class TradeState(StrEnum):
    """`trade_state` of the wire, as far as Native payments reach it."""

    NOTPAY = "NOTPAY"
    SUCCESS = "SUCCESS"
    CLOSED = "CLOSED"


class Trade(msgspec.Struct):
    """One trade as it now is."""

    made: Prepaid
    state: TradeState = TradeState.NOTPAY
    paid: Paid | None = None
    codes: int = 1
    notified: bool = False
    dropped: bool = False

    @property
    def subject(self) -> str:
        """What faults and payers are drawn by."""
        return f"{self.made.description}#{self.made.ordinal}"

    def payable(self, now_s: float) -> bool:
        """Whether a payer can pay now: `time_expire` ends that, but does not close the trade."""
        return self.state is TradeState.NOTPAY and now_s < self.made.expires_at_s


class Trades:
    """All trades of all merchants."""

    def __init__(self) -> None:
        self._trades: dict[tuple[str, str], Trade] = {}
        self._ordinals: dict[tuple[str, str], int] = {}
        self._transactions: dict[str, Trade] = {}

    def find(self, mchid: str, out_trade_no: str) -> Trade | None:
        """The trade of this number; each merchant has its own numbers."""
        return self._trades.get((mchid, out_trade_no))

    def find_transaction(self, transaction_id: str) -> Trade | None:
        """The trade that was paid under this number."""
        return self._transactions.get(transaction_id)

    def all(self, mchid: str | None = None) -> list[Trade]:
        """Every trade, of one merchant if named, oldest first."""
        return [trade for trade in self._trades.values() if mchid in (None, trade.made.mchid)]

    def full(self) -> bool:
        """Whether no more trades are taken."""
        return len(self._trades) >= TRADES_MAX

    def next_ordinal(self, mchid: str, description: str) -> int:
        """How many trades of this description the merchant has."""
        return self._ordinals.get((mchid, description), 0)

    def next_transaction_id(self, day: str) -> str:
        """28 digits, never twice: the count survives a restart with the ledger."""
        return f"4200{day}{len(self._transactions) + 1:016d}"

    def apply(self, entry: AnyEntry) -> Trade:
        """Make the entry true."""
        key = (entry.mchid, entry.out_trade_no)
        match entry:
            case Prepaid():
                self._trades[key] = Trade(made=entry)
                self._ordinals[(entry.mchid, entry.description)] = entry.ordinal + 1
            case Paid():
                self._trades[key].state = TradeState.SUCCESS
                self._trades[key].paid = entry
                self._transactions[entry.transaction_id] = self._trades[key]
            case Closed():
                self._trades[key].state = TradeState.CLOSED
            case Notified():
                self._trades[key].notified = True
            case NotificationDropped():
                self._trades[key].dropped = True
        return self._trades[key]
