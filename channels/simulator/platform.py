"""What a simulated platform is: one pure file behind this protocol. `server.py` does the I/O for all of them.

A request comes in as it was on the wire (`Incoming`). `receive` says who speaks and what is asked (`Call`), `execute`
decides it into ledger entries and an answer (`Done`), `answer` signs that as the platform does. Payers, refunds that
settle later and notifications come from the platform, too: `pays`, `settles`, `notice`. The time, the counts and the
dice are told; nothing is drawn twice.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from channels.simulator.faults import Faults
from channels.simulator.trades import AnyEntry, Refund, RefundSettled, Trade, Trades


class Incoming(msgspec.Struct, frozen=True):
    """A request as it came over the wire: raw target (origin or absolute form), raw body, lower-case header names."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The path, without query and without what an absolute form puts before it."""
        return self.local.partition("?")[0]

    @property
    def query(self) -> str:
        """What stands behind the `?`, as it came."""
        return self.local.partition("?")[2]

    @property
    def local(self) -> str:
        """Path and query."""
        scheme, found, rest = self.target.partition("://")
        if not found or "/" in scheme or "?" in scheme:
            return self.target
        return "/" + rest.partition("/")[2]


class Reply(msgspec.Struct, frozen=True):
    """An answer, exactly as it goes out."""

    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""


class Refusal(Exception):
    """The platform's no, in its own words. `entries` is what came to be all the same (a payer who was faster)."""

    def __init__(self, reply: Reply, entries: tuple[AnyEntry, ...] = ()) -> None:
        super().__init__(f"{reply.status} {reply.body[:200]!r}")
        self.reply = reply
        self.entries = entries


class Call(msgspec.Struct, frozen=True):
    """Who asks what. `number` and `description` say which trade it is about, for the faults; `asked` is the platform's
    own typed request; `count` says how often this verb was called about this trade, this time included."""

    merchant: str
    verb: str
    number: str = ""
    description: str = ""
    asked: Any = None
    incoming: Incoming | None = None
    count: int = 1


class Done(msgspec.Struct, frozen=True):
    """An executed call: what it changed, and the answer to be signed. `shown` names the trade that somebody can pay
    from now on and `code` what they pay it with. A `reply` goes out as it is: a page, a file."""

    status: int = 200
    body: bytes = b""
    entries: tuple[AnyEntry, ...] = ()
    shown: str = ""
    code: str = ""
    reply: Reply | None = None


class PayOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /_sim/pay: pay now. The rest is what the platform will state instead of the truth, for tests; `stated` are
    its own fields. `late`: also what was closed or has expired, as if it had been under way before."""

    channel: str
    merchant: str
    out_trade_no: str
    amount: int | None = None
    currency: str | None = None
    stated: Mapping[str, str] = {}
    late: bool = False


class Outgoing(msgspec.Struct, frozen=True):
    """A notification, exactly as it goes out."""

    url: str
    headers: Mapping[str, str]
    body: bytes


class Moment(msgspec.Struct, frozen=True):
    """What a pure file may not find out by itself: the time, something never repeated, and a roll in [0, 1)."""

    now: float
    nonce: str
    roll: float

    @property
    def now_s(self) -> int:
        """Whole unix seconds."""
        return int(self.now)


class Platform(Protocol):
    """One simulated platform with all its merchants. Made once, from its keys and the seed."""

    @property
    def name(self) -> str:
        """As our API names the channel."""

    @property
    def no_faults(self) -> Faults:
        """This platform's faults, all off."""

    @property
    def request_faults(self) -> Mapping[str, bool]:
        """Which of its faults happen to requests, in the order they are drawn; whether the request is executed all the
        same. `timeout` (executed, never answered) is the server's."""

    @property
    def variants(self) -> tuple[str, ...]:
        """Which of its faults are wrong notifications that come before the genuine one."""

    @property
    def retry_after_s(self) -> tuple[float, ...]:
        """Waits between deliveries of a notification nobody acknowledged."""

    @property
    def answer_within_s(self) -> float:
        """How long it waits for an acknowledgement."""

    def claims(self, request: Incoming) -> bool:
        """Whether this request is for this platform."""

    def receive(self, request: Incoming, moment: Moment) -> Call:
        """Who asks what.

        Raises:
            Refusal: nobody we know, or not a request.
        """

    def execute(self, call: Call, trades: Trades, faults: Any, moment: Moment) -> Done:
        """Decide a call; the caller applies the entries and has them on disk before it answers.

        Raises:
            Refusal: with the platform's words.
        """

    def answer(self, call: Call, done: Done, faults: Any, moment: Moment) -> Reply:
        """The signed answer."""

    def broken(self, fault: str, call: Call, moment: Moment) -> Reply:
        """What a request that met this fault is answered."""

    def pays(self, trade: Trade, trades: Trades, moment: Moment, order: PayOrder | None) -> tuple[AnyEntry, ...]:
        """Somebody pays the trade: what is written down."""

    def settles(self, trade: Trade, refund: Refund, faults: Any, moment: Moment) -> RefundSettled | None:
        """What a refund under way comes to; None leaves it as it is."""

    def notice(self, trade: Trade, topic: str, variant: str, faults: Any, moment: Moment) -> Outgoing | None:
        """One delivery of a notification, genuine (`variant` empty) or wrong in the named way. None: this platform
        does not tell this."""

    def acknowledged(self, status: int, body: bytes) -> bool:
        """Whether that answer means 'we have it'."""
