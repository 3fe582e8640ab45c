"""What goes wrong in a run: a swarm of faults whose rates are drawn from the seed, and the hand that does them.

Every fault is off in most seeds; some seeds have one fault alone, some none. What is random per request is a rate that
the network, the database and the platforms draw by; what happens to a process or a whole peer is done here, in time.
Then everything heals: a rate that is left over after the healing would excuse what is late.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from gateway.config.sections import Limits, Sweep
from tests.simulation.fleet import Fleet
from tests.simulation.history import HOSTS, SHOP, History
from tests.simulation.network import Network, Rates
from tests.simulation.platforms import PLATFORMS, Platforms
from tests.simulation.redis import RedisFaults
from tests.simulation.shop import Receiver

KINDS: Final = (
    *("kill", "cut", "pause", "stop"),
    *("lost", "late", "doubled"),
    *("sessions", "statements lost", "slow database", "read only", "database down"),
    *("redis",),
    *("channel down", "channel faults", "notices", "notices dropped", "close race"),
    *("endpoint down", "endpoint slow"),
    *("refund faults", "forged", "tiny bounds"),
)
ACTIVE_SHARE: Final = 0.4
ALONE_SHARE: Final = 0.2
NONE_SHARE: Final = 0.03
SELDOM: Final = {"orders_claimed": 6, "before_webhook": 4, "webhook_sent": 3, "webhook_marked": 3, "before_ack": 4}
CRASH_SILENT: Final = 0.8  # of the replies in the moment before the database is away
CHANNEL_REQUEST_FAULTS: Final = ("error_before", "error_after", "timeout", "rate_limited", "slow")
LIES: Final = {
    "wechatpay": ("answer_tamper", "answer_unsigned", "answer_probe", "accepted"),
    "alipay": ("answer_tamper", "answer_unsigned", "answer_wrong_key", "answer_other", "bad_gateway"),
    "unionpay": ("answer_tamper", "answer_unsigned", "answer_forged", "pending", "moved"),
}


class Swarm(msgspec.Struct, frozen=True):
    """The faults of a seed, with the rates that are drawn for them."""

    kinds: frozenset[str]
    channels: tuple[str, ...]
    orders: int
    begin_within_s: float
    chaos_s: float
    network: Rates
    database: dict[str, float]
    redis: dict[str, float]
    platforms: dict[str, Any]
    cut_share: float
    limits: Limits
    sweep: Sweep


def draw_swarm(seed: int) -> Swarm:
    """What this seed is about."""
    chance = random.Random(f"swarm {seed}")
    roll = chance.random()
    kinds = frozenset(kind for kind in KINDS if chance.random() < ACTIVE_SHARE)
    if roll < ALONE_SHARE:
        kinds = frozenset((chance.choice(KINDS),))
    elif roll < ALONE_SHARE + NONE_SHARE:
        kinds = frozenset()
    channels = tuple(chance.sample(sorted(LIES), chance.choice((1, 2, 3))))
    begin_within_s = chance.choice((5.0, 20.0, 40.0))
    tiny = "tiny bounds" in kinds
    return Swarm(
        kinds=kinds,
        channels=channels,
        orders=chance.choice((6, 8, 10, 12)),
        begin_within_s=begin_within_s,
        chaos_s=begin_within_s + chance.choice((15.0, 40.0, 70.0)),
        network=_draw_network(chance, kinds),
        database=_draw_database(chance, kinds),
        redis=_draw_redis(chance, kinds),
        platforms=_draw_platforms(chance, kinds),
        cut_share=chance.choice((0.01, 0.04, 0.1)) if "cut" in kinds else 0.0,
        limits=Limits(
            actors_max=chance.choice((2, 5)) if tiny else 1000,
            batch_rows_max=chance.choice((1, 2)) if tiny else 256,
            backlog_rows_max=chance.choice((4, 40)) if tiny else 8192,
        ),
        sweep=Sweep(
            every_s=chance.choice((3.0, 6.0)),
            grace_s=chance.choice((0.0, 2.0)),
            page_rows=1 if tiny else 200,
            lease_s=chance.choice((3.0, 10.0)),
        ),
    )


def _draw_network(chance: random.Random, kinds: frozenset[str]) -> Rates:
    rate = lambda: chance.choice((0.01, 0.05, 0.2))  # noqa: E731
    rates = Rates(latency_s=chance.choice((0.001, 0.01, 0.1)))
    if "lost" in kinds:
        rates.lost_there, rates.lost_back, rates.refused = rate(), rate(), rate()
    if "late" in kinds:
        rates.late = rate()
    if "doubled" in kinds:
        rates.doubled = rate()
    return rates


def _draw_database(chance: random.Random, kinds: frozenset[str]) -> dict[str, float]:
    rates: dict[str, float] = {"latency_s": chance.choice((0.0, 0.003, 0.03, 0.2))}
    if "statements lost" in kinds:
        rates["request_lost"] = chance.choice((0.0, 0.01, 0.05))
        rates["reply_lost"] = chance.choice((0.01, 0.05, 0.15))
    if "slow database" in kinds:
        rates["slow"] = chance.choice((0.02, 0.1, 0.3))
        rates["slow_s"] = chance.choice((0.5, 2.0, 8.0))
    if "sessions" in kinds:
        rates["connect_refused"] = chance.choice((0.0, 0.2))
    return rates


def _draw_redis(chance: random.Random, kinds: frozenset[str]) -> dict[str, float]:
    if "redis" not in kinds:
        return {}
    share = lambda: chance.choice((0.0, 0.1, 0.5))  # noqa: E731
    return {"lies": share(), "rubbish": share(), "flushed": share(), "slow": share()}


def _draw_platforms(chance: random.Random, kinds: frozenset[str]) -> dict[str, Any]:
    share = lambda: chance.choice((0.0, 0.05, 0.3))  # noqa: E731
    faults: dict[str, Any] = {}
    if "channel faults" in kinds:
        faults |= {name: share() for name in CHANNEL_REQUEST_FAULTS} | {"slow_s": 8.0}
        for channel, lies in LIES.items():
            faults[channel] = {name: share() / 2 for name in lies}
    if "notices" in kinds:
        faults |= {"duplicate": share(), "out_of_order": share()}
        faults |= {"tamper": share(), "delay_s": chance.choice((0.0, 5.0, 30.0))}
    if "notices dropped" in kinds:
        faults["drop"] = chance.choice((0.3, 0.7, 1.0))
    if "refund faults" in kinds:
        faults["wechatpay"] = faults.get("wechatpay", {}) | {"refund_closed": share(), "refund_abnormal": share()}
        faults["alipay"] = faults.get("alipay", {}) | {"refund_unseen": share(), "no_fund_change": share()}
        faults["unionpay"] = faults.get("unionpay", {}) | {"refund_pending": share(), "refund_failed": share()}
    if "close race" in kinds:
        faults["close_race"] = chance.choice((0.1, 0.5))
    return faults


class Nemesis:
    """Does what is not a rate, until it is told to heal."""

    def __init__(
        self,
        swarm: Swarm,
        chance: random.Random,
        fleet: Fleet,
        network: Network,
        database: Any,
        redis: RedisFaults,
        platforms: Platforms,
        receiver: Receiver,
        history: History,
    ) -> None:
        self._swarm = swarm
        self._chance = chance
        self._fleet = fleet
        self._network = network
        self._database = database
        self._redis = redis
        self._platforms = platforms
        self._receiver = receiver
        self._history = history
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Set the rates and begin."""
        for name, rate in self._swarm.database.items():
            setattr(self._database.faults, name, rate)
        for name, share in self._swarm.redis.items():
            setattr(self._redis, name, share)
        self._fleet.cut_off = lambda probe: self._chance.random() < self._swarm.cut_share * SELDOM.get(probe, 1)
        doings: dict[str, tuple[Callable[[], Awaitable[None]], float]] = {
            "kill": (self._kill, 6.0),
            "pause": (self._pause, 12.0),
            "stop": (self._stop, 8.0),
            "sessions": (self._kill_sessions, 5.0),
            "read only": (self._read_only, 8.0),
            "database down": (self._database_down, 10.0),
            "redis": (self._redis_down, 15.0),
            "channel down": (self._channel_down, 8.0),
            "endpoint down": (self._endpoint_down, 10.0),
            "endpoint slow": (self._endpoint_slow, 15.0),
        }
        for kind, (do, every_s) in doings.items():
            if kind in self._swarm.kinds:
                self._tasks.append(asyncio.ensure_future(self._again_and_again(do, every_s)))

    async def heal(self) -> None:
        """Everything works from now on; processes that are down come up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._fleet.cut_off = lambda _probe: False
        self._fleet.wake()
        self._network.rates = Rates()
        self._network.down.clear()
        self._network.silent.clear()
        self._receiver.slow = self._receiver.broken = False
        for faults in (self._database.faults, self._redis):
            for field in msgspec.structs.fields(type(faults)):
                setattr(faults, field.name, field.default)
        off: dict[str, Any] = dict.fromkeys(CHANNEL_REQUEST_FAULTS, 0.0)
        self._platforms.change_faults(off | {channel: dict.fromkeys(lies, 0.0) for channel, lies in LIES.items()})

    async def _again_and_again(self, do: Callable[[], Awaitable[None]], every_s: float) -> None:
        while True:
            await asyncio.sleep(self._chance.uniform(0.2, 2 * every_s))
            await do()

    def _slot(self) -> str:
        return self._chance.choice(tuple(self._fleet.slots))

    async def _kill(self) -> None:
        self._fleet.kill(self._slot(), self._chance.choice((0.1, 2.0, 15.0)))

    async def _pause(self) -> None:
        self._history.count("pause")
        await asyncio.shield(self._fleet.pause(self._slot(), self._chance.choice((0.5, 4.0, 20.0))))

    async def _stop(self) -> None:
        if self._chance.random() < 0.5:
            self._tasks.append(asyncio.ensure_future(self._replies_are_lost()))
        await asyncio.shield(self._fleet.stop(self._slot(), self._chance.choice((0.1, 2.0))))

    async def _kill_sessions(self) -> None:
        self._history.count("sessions killed")
        self._database.kill_sessions()

    async def _read_only(self) -> None:
        await self._replies_are_lost()
        await self._for_a_while(self._database.faults, "read_only", (1.0, 5.0))

    async def _database_down(self) -> None:
        await self._replies_are_lost()
        self._database.kill_sessions()
        await self._for_a_while(self._database.faults, "down", (0.5, 3.0, 10.0))

    async def _replies_are_lost(self) -> None:
        """A crash is not heard of at once: what was committed just before it was never answered."""
        faults = self._database.faults
        usual, faults.reply_lost = faults.reply_lost, CRASH_SILENT
        try:
            await asyncio.sleep(self._chance.choice((0.05, 0.5, 2.0)))
        finally:
            faults.reply_lost = usual

    async def _redis_down(self) -> None:
        await self._for_a_while(self._redis, "down", (1.0, 10.0))

    async def _endpoint_slow(self) -> None:
        await self._for_a_while(self._receiver, "slow", (5.0, 20.0))

    async def _endpoint_down(self) -> None:
        if self._chance.random() < 0.5:
            await self._for_a_while(self._receiver, "broken", (5.0, 30.0))
        else:
            await self._away(self._network.down, HOSTS[SHOP], (5.0, 30.0))

    async def _channel_down(self) -> None:
        kind = self._chance.choice((self._network.down, self._network.silent))
        await self._away(kind, f"{PLATFORMS}:{self._chance.choice(self._swarm.channels)}", (3.0, 20.0))

    async def _for_a_while(self, where: Any, name: str, lasts_s: tuple[float, ...]) -> None:
        self._history.count(f"{name} for a while")
        setattr(where, name, True)
        try:
            await asyncio.sleep(self._chance.choice(lasts_s))
        finally:
            setattr(where, name, False)

    async def _away(self, kind: set[str], name: str, lasts_s: tuple[float, ...]) -> None:
        self._history.count("peer away")
        kind.add(name)
        try:
            await asyncio.sleep(self._chance.choice(lasts_s))
        finally:
            kind.discard(name)
