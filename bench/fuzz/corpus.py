"""What mutants are made of: genuine notifications, forgeries by whoever holds some other well-formed key, and messages
that the platform did sign but that say something odd.

A `Scene` is one channel's: the platform, an impostor with the same merchants and keys of its own, another merchant at
the real platform, orders that are being paid, and sacrificed orders that odd but genuine messages are sent to.
Everything is signed anew every minute, for WeChat Pay's signatures age.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench.accounts import METHODS
from bench.fuzz.bytewise import Mutation
from bench.fuzz.message import Crafted, Message, Voucher, message_of
from bench.fuzz.parties import Parties
from bench.simulated import Simulated
from channels.contract import Accepted, AttemptKey, Channel, PaymentRequest, Stamp
from channels.simulator.trades import Trade

SACRIFICED = 2  # orders that genuine but odd messages are about
EXPIRES_AFTER_S = 7_200


class Corpus(msgspec.Struct, frozen=True):
    """One minute's messages of one channel."""

    genuine: tuple[Message, ...]
    forged: tuple[Crafted, ...]
    odd: tuple[Crafted, ...]
    meanings: tuple[object, ...]


class Scene(msgspec.Struct, frozen=True):
    """What messages are made with."""

    channel: Channel
    platform: Simulated
    impostor: Simulated
    stranger: Simulated
    trades: tuple[Trade, ...]
    sacrificed: tuple[Trade, ...]
    keys: Any  # the platform's own, as its kind knows them
    impostors_keys: Any

    def strangers(self, trade: Trade) -> Trade:
        """The trade that the other merchant has, paid, under the same number."""
        number = trade.made.out_trade_no
        return next(each for each in self.stranger.trades.all() if each.made.out_trade_no == number)


class Kind(msgspec.Struct, frozen=True):
    """What the fuzz must know of one channel: its mutations with their weights, what a message means, what can be
    crafted for one trade.

    Whatever a forgery takes from a genuine message is taken from the one that is given: a mutation may undo what was
    done to it, and then it says what that one says.
    """

    channel: str
    load_keys: Callable[[Path], Any]
    mutations: tuple[tuple[int, str, Mutation], ...]
    meaning: Callable[[Message], object]
    forged: Callable[[Scene, Trade, Message], Iterator[Crafted]]
    odd: Callable[[Scene, Trade], Iterator[Crafted]]


def told(platform: Simulated, trade: Trade) -> Message:
    """A trade's notification, by this platform."""
    notice = platform.notice(trade)
    return message_of(notice.url, notice.headers, notice.body)


def true_words(scene: Scene) -> tuple[Message, ...]:
    """The genuine notifications, signed now."""
    return tuple(told(scene.platform, trade) for trade in scene.trades)


def make_corpus(kind: Kind, scene: Scene) -> Corpus:
    """Sign everything now."""
    genuine = true_words(scene)
    return Corpus(
        genuine=genuine,
        forged=tuple(
            crafted
            for trade, message in zip(scene.trades, genuine, strict=True)
            for crafted in (*_by_impostor(scene, trade), *kind.forged(scene, trade, message))
        ),
        odd=tuple(
            crafted for trade in scene.sacrificed for crafted in (*_otherwise(scene, trade), *kind.odd(scene, trade))
        ),
        meanings=tuple(kind.meaning(message) for message in genuine),
    )


class Wanted(NamedTuple):
    """An order that is being paid, as its channel was told of it."""

    out_trade_no: str
    amount: int
    notify_url: str


def make_scene(kind: Kind, parties: Parties, wanted: Sequence[Wanted]) -> Scene:
    """The scene of one channel. The first SACRIFICED of the orders are the sacrificed ones."""
    channel = parties.ours.channels[kind.channel]
    ours, impostor, theirs = (
        Simulated(platforms[kind.channel], time.time)
        for platforms in (parties.platforms, parties.impostors, parties.platforms)
    )
    for order in wanted:
        _pay(kind, ours, channel, order)
        _pay(kind, theirs, parties.stranger.channels[kind.channel], order)
    trades = tuple(ours.trades.all())
    return Scene(
        channel=channel,
        platform=ours,
        impostor=impostor,
        stranger=theirs,
        trades=trades[SACRIFICED:],
        sacrificed=trades[:SACRIFICED],
        keys=kind.load_keys(parties.folder),
        impostors_keys=kind.load_keys(parties.impostors_folder),
    )


def _pay(kind: Kind, platform: Simulated, channel: Channel, order: Wanted) -> None:
    """Have it made payable by the channel's own flow, and paid."""
    now_s = int(time.time())
    attempt = AttemptKey(order.out_trade_no, METHODS[kind.channel], now_s, now_s + EXPIRES_AFTER_S)
    request = PaymentRequest(attempt, order.amount, "CNY", f"fuzz {order.out_trade_no}", order.notify_url)
    outcome = platform.converse(channel.pay(request, Stamp(now_s, f"{0:032x}")))
    assert isinstance(outcome, Accepted), outcome
    platform.pay(next(trade for trade in platform.trades.all() if trade.made.out_trade_no == order.out_trade_no))


# --- forgeries that every platform knows ------------------------------------------------------------------------------

OTHER_AMOUNTS = (1, 100, 199_900, 10**12)


def _by_impostor(scene: Scene, trade: Trade) -> Iterator[Crafted]:
    """Well signed, by somebody else: as it was, and with other amounts."""
    yield Crafted("signed by an impostor", told(scene.impostor, trade))
    for amount in OTHER_AMOUNTS:
        stated = scene.platform.stated(trade, amount=amount)
        yield Crafted("signed by an impostor, other amount", told(scene.impostor, stated))


def _otherwise(scene: Scene, trade: Trade) -> Iterator[Crafted]:
    """Signed by the platform: other amounts and currencies, and the same number of another merchant's."""
    for amount in OTHER_AMOUNTS:
        stated = scene.platform.stated(trade, amount=amount)
        yield Crafted("genuine, other amount", told(scene.platform, stated), Voucher.PLATFORM)
    for currency in ("USD", "JPY"):
        stated = scene.platform.stated(trade, currency=currency)
        yield Crafted("genuine, other currency", told(scene.platform, stated), Voucher.PLATFORM)
    theirs = scene.strangers(trade)
    for each in (theirs, *(scene.stranger.stated(theirs, amount=amount) for amount in OTHER_AMOUNTS)):
        yield Crafted("genuine, another merchant's", told(scene.stranger, each), Voucher.PLATFORM_FOR_ANOTHER)
