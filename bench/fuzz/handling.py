"""Hands mutants to the channel itself, in this process: what it makes of them, and what that costs in CPU time.

Over HTTP on a machine that is shared, a clock measures the neighbours; a thread's CPU time does not. What still took
too long is handed over again: only what is slow every time is slow.
"""

import gc
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from bench.fuzz.message import BODY_BYTES_MAX, Message, Mutant, Voucher
from channels.contract import Channel, ChannelPayment, Notified, RejectReason
from channels.errors import NotificationRejected

Made: TypeAlias = Notified | RejectReason | Exception

SLOW_NS = 5_000_000
AGAIN = 3  # times that something slow is tried again
COLLECT_EVERY = 20_000
BELIEVED = "believed"
TOO_LARGE = "too large"


class Finding(msgspec.Struct, frozen=True):
    """A mutant that should not have been. `what` says what is wrong, `wire` is the whole request."""

    channel: str
    seed: int
    number: int
    mutation: str
    what: str
    wire: bytes


class Complaint(NamedTuple):
    """What is wrong with how a mutant was taken; `belief`: right, if it only says what a genuine message says."""

    what: str
    belief: bool = False


class Slowest(msgspec.Struct, frozen=True):
    """The mutant that took longest."""

    ns: int = 0
    number: int = -1
    mutation: str = ""


class Handling:
    """What one channel made of its mutants so far."""

    def __init__(self, channel: Channel, clock: Callable[[], int] = time.thread_time_ns) -> None:
        self.verdicts: Counter[str] = Counter()
        self.taken_ns = array("I")
        self.slowest = Slowest()
        self._channel = channel
        self._clock = clock
        self._true: set[Notified] = set()

    def trust(self, genuine: Sequence[Message]) -> None:
        """These are the genuine ones; what they say may be believed, but not at another address.

        Raises:
            NotificationRejected: not even these are believed.
        """
        now_s = int(time.time())
        self._true = {self._channel.notification(each.headers_seen(), each.body, now_s) for each in genuine}

    def complaint(self, mutant: Mutant) -> Complaint | None:
        """Hand it over; what is wrong with how the channel took it, if anything is."""
        if len(mutant.message.body) > BODY_BYTES_MAX:
            self.verdicts[TOO_LARGE] += 1  # the gateway does not hand that to a channel
            return None
        headers, body, now_s = mutant.message.headers_seen(), mutant.message.body, int(time.time())
        began_ns = self._clock()
        made = _handled(self._channel, headers, body, now_s)
        taken_ns = self._clock() - began_ns
        if taken_ns > SLOW_NS:
            taken_ns = min(taken_ns, *(self._again(headers, body, now_s) for _ in range(AGAIN)))
        self._note(mutant, made, taken_ns)
        if taken_ns > SLOW_NS:
            return Complaint(f"took {taken_ns / 1e6:.1f} ms of CPU time")
        return self._wrong(mutant, made)

    def _again(self, headers: dict[str, str], body: bytes, now_s: int) -> int:
        began_ns = self._clock()
        _handled(self._channel, headers, body, now_s)
        return self._clock() - began_ns

    def _note(self, mutant: Mutant, made: Made, taken_ns: int) -> None:
        self.taken_ns.append(min(taken_ns, 2**32 - 1))
        if taken_ns > self.slowest.ns:
            self.slowest = Slowest(taken_ns, mutant.number, mutant.mutation)
        self.verdicts[str(made) if isinstance(made, RejectReason) else BELIEVED] += 1
        if len(self.taken_ns) % COLLECT_EVERY == 0:
            gc.collect()  # here, and not in the middle of a message that would be charged for it

    def _wrong(self, mutant: Mutant, made: Made) -> Complaint | None:
        if isinstance(made, Exception):
            return Complaint(f"raised {type(made).__name__}: {made}")
        match mutant.voucher:
            case Voucher.PLATFORM:
                return None
            case Voucher.PLATFORM_FOR_ANOTHER:
                ours = isinstance(made, ChannelPayment) and made.account == self._channel.account
                return Complaint(f"another merchant's money is taken for ours: {made}") if ours else None
        if made is RejectReason.OTHER_EVENT:
            return Complaint("believed, though about nothing", belief=True)  # it is said only of what was verified
        if isinstance(made, RejectReason):
            return None
        elsewhere = isinstance(made, ChannelPayment) and mutant.message.path.partition(b"?")[0] != _place(made)
        return None if elsewhere and made in self._true else Complaint(f"believed: {made}", belief=True)


def _handled(channel: Channel, headers: dict[str, str], body: bytes, now_s: int) -> Made:
    try:
        return channel.notification(headers, body, now_s)
    except NotificationRejected as rejected:
        return rejected.reason
    except Exception as error:  # a mistake: the gateway would answer 500
        return error.with_traceback(None)


def _place(payment: ChannelPayment) -> bytes:
    """The path at which notifications of a payment arrive."""
    number = payment.out_trade_no
    return f"/callbacks/{payment.channel}/{number[:-2]}/{number[-2:]}".encode("utf-8", "replace")
