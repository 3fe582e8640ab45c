"""One run: everything there is, set up from a seed, driven through chaos, healed, waited for, and judged."""

import asyncio
import base64
import random
from collections.abc import Mapping
from typing import Any, Final
from unittest import mock

import msgspec
from yarl import URL

import gateway.dedup
from channels.simulator.platform import Outgoing
from channels.simulator.trades import AnyEntry, Trade
from gateway.metrics import Metrics
from gateway.sealing import Sealer
from gateway.storage.apps import Apps
from tests.simulation import determinism, keys, logs, sometimes
from tests.simulation.chaos import Nemesis, Swarm, draw_swarm
from tests.simulation.checker import check, intent_fault, webhook_fault
from tests.simulation.clerk import Clerk
from tests.simulation.database import Database, Faults
from tests.simulation.evidence import Seen, durable_payment
from tests.simulation.fleet import MASTER_KEY, Answer, Fleet, Surroundings, configuration
from tests.simulation.forger import Forger
from tests.simulation.history import HOSTS, OK, SHOP, STRANGER, History
from tests.simulation.loop import SimulatedLoop, run
from tests.simulation.network import Network, Silence
from tests.simulation.nightly_job import NightlyJob
from tests.simulation.platforms import Platforms
from tests.simulation.redis import RedisFaults, SimulatedRedis
from tests.simulation.shop import Account, Client, Receiver
from tests.simulation.stories import Story, draw_plans

SETTLE_S: Final = 240.0  # after the healing or the last expiry, whichever is later
LOOK_EVERY_S: Final = 5.0
JOB_SHARE: Final = 0.3  # of runs in which the shop's job has its bug
CLERK_SHARE: Final = 0.5  # of runs in which people settle cases
PROBES: Final = 3  # requests to each gateway at the end


class Result(msgspec.Struct):
    """What a run came to."""

    seed: int
    violations: list[str]
    digest: int
    steps: int
    simulated_s: float
    kills: int
    counts: dict[str, int]
    cpu_s: float = 0.0


class World:
    """All parts of a run."""

    def __init__(self, seed: int, loop: SimulatedLoop) -> None:
        self.seed = seed
        self.loop = loop
        self.swarm: Swarm = draw_swarm(seed)
        self.history = History()
        self.database = Database(
            self._wall, self._chance("database"), Faults(), lambda work: loop.spawn("postgres", work)
        )
        self.network = Network(loop, self._chance("network"), self.swarm.network)
        self.redis = SimulatedRedis(self._chance("redis"), RedisFaults())
        self.platforms = Platforms(seed, keys.make_platforms(seed), self.swarm.platforms, self._post)
        self.platforms.watch = self._happened
        self.accounts: dict[str, Account] = {}
        self.window_s = 5.0  # within which the same content is a duplicate
        self.acknowledged: set[tuple[str, str, str]] = set()
        self.healed_s = 0.0

    def _chance(self, of: str) -> random.Random:
        return random.Random(f"{of} {self.seed}")

    def _wall(self) -> float:
        """The database's clock."""
        return determinism.EPOCH_S + self.loop.time()

    async def live(self) -> None:
        """The whole run."""
        await self._make_apps()
        history, chance = self.history, self._chance("world")
        self.receiver = Receiver(history, self.database, self.accounts, self._chance("receiver"))
        self.receiver.watch = self._about_to_tell
        around = Surroundings(self.loop, self.database, self.network, self.platforms, history, self.receiver)
        self.fleet = Fleet(configuration(self.swarm.limits, self.swarm.sweep), around)
        self.client = Client(self.fleet, history, self._chance("client"), self.accounts, self.database.tables)
        redis = mock.patch.object(gateway.dedup, "_client", self.redis.client)
        with redis, self.fleet.armed(), sometimes.listening(history):
            self.fleet.start()
            stories = [self.loop.spawn("shop", story.live()) for story in self._stories()]
            nemesis = self._nemesis()
            nemesis.start()
            others = [*self._forge(), *self._clerk(), *self._job()]
            await asyncio.sleep(self.swarm.chaos_s)
            await nemesis.heal()
            self.healed_s = self.loop.time()
            await self._settle(stories)
            for other in others:
                other.cancel()
            await self._probe(chance)
        for story in stories:
            if story.done():
                story.result()

    def _stories(self) -> list[Story]:
        plans = draw_plans(self._chance("plans"), self.swarm.orders, self.swarm.channels, self.swarm.begin_within_s)
        return [
            Story(plan, self.client, self.platforms, self.history, self.database.tables, self._chance(plan.number))
            for plan in plans
        ]

    def _nemesis(self) -> Nemesis:
        return Nemesis(
            self.swarm,
            self._chance("nemesis"),
            self.fleet,
            self.network,
            self.database,
            self.redis.faults,
            self.platforms,
            self.receiver,
            self.history,
        )

    def _clerk(self) -> "list[asyncio.Task[Any]]":
        chance = self._chance("clerk")
        if chance.random() < CLERK_SHARE:
            return [self.loop.spawn("shop", Clerk(self.client, chance).work())]
        return []

    def _job(self) -> "list[asyncio.Task[Any]]":
        chance = self._chance("job")
        if chance.random() >= JOB_SHARE:
            return []
        job = NightlyJob(self.client, self.history, chance, self.swarm.chaos_s * chance.uniform(0.5, 1.2))
        return [self.loop.spawn("shop", job.work())]

    def _forge(self) -> "list[asyncio.Task[Any]]":
        if "forged" not in self.swarm.kinds:
            return []
        impostors = keys.make_platforms(self.seed, "impostor")
        forger = Forger(self.platforms, impostors, self._chance("forger"), self._post)
        return [self.loop.spawn("forger", forger.forge())]

    async def _make_apps(self) -> None:
        apps = Apps(self.database.pool(), Sealer(base64.b64decode(MASTER_KEY)))
        for name in (SHOP, STRANGER):
            made = await apps.add(name, f"https://{HOSTS[name]}/hooks")
            self.accounts[name] = Account(made.app_id, made.api_key, made.webhook_secret)

    # --- the end ------------------------------------------------------------------------------------------------------

    async def _settle(self, stories: list[Any]) -> None:
        """Wait until nothing is left to be done, or for as long as anything may take."""
        expiries = [row.expires_at_ms / 1000 - determinism.EPOCH_S for row in self.database.tables.orders.values()]
        until_s = max([self.healed_s, *expiries]) + SETTLE_S
        while self.loop.time() < until_s:
            await asyncio.sleep(LOOK_EVERY_S)
            if self.fleet.all_serve() and all(story.done() for story in stories) and self._nothing_is_left():
                return

    def _nothing_is_left(self) -> bool:
        tables = self.database.tables
        if any(row.state == "owed" for row in tables.outbox.values()):
            return False
        for row in tables.orders.values():
            ended = row.state == "exception" or (row.state in ("paid", "closed") and row.next_check_at_us is None)
            if not ended:
                return False
        if any(row.state in ("submitting", "unknown", "processing") for row in tables.refunds.values()):
            return False
        return all(durable_payment(tables, paid) for paid in self.platforms.book.successes())

    async def _probe(self, chance: random.Random) -> None:
        """L5: the last requests on every gateway are answered."""
        orders = list(self.database.tables.orders.values())
        for name in self.fleet.slots:
            for _ in range(PROBES):
                if orders:
                    row = chance.choice(orders)
                    told = await self.client.ask(
                        "probe", row.out_order_no, "GET", f"/v1/orders/{row.order_id}", gateway=name
                    )
                    if told.outcome != OK:
                        self.history.violated("L5", f"{name} answers {told.status} {told.code} after the healing")

    # --- what is watched as it happens ----------------------------------------------------------------------------

    async def _post(
        self, message: Outgoing, trade: Trade, topic: str, variant: str, within_s: float
    ) -> tuple[int, bytes]:
        """A notification on its way to whatever gateway takes it."""
        names = self.fleet.serving() or list(self.fleet.slots)
        name = self.network._chance.choice(names)
        target = URL(message.url).raw_path_qs

        def seen(answer: Answer) -> None:
            self._saw_answer(answer, trade, topic, variant)

        try:
            answer = await self.fleet.serve(
                name, "POST", target, message.headers, message.body, timeout_s=within_s, seen=seen
            )
        except Silence:
            return 0, b""
        return answer.status, answer.body

    def _saw_answer(self, answer: Answer, trade: Trade, topic: str, variant: str) -> None:
        """S4 and S12, at the instant of the acknowledgement."""
        platform = self.platforms._platforms[trade.made.channel]
        if variant == "forged":
            self.history.count("forged")
        if not platform.acknowledged(answer.status, answer.body):
            if answer.status == 503:
                self.history.count("notification deferred")
            if not variant and answer.status < 500 and trade.paid is not None and not topic:
                self.history.violated("S4", f"the genuine notification of {trade.key} was refused: {answer.status}")
            return
        if variant == "forged":
            self.history.violated("S12", f"a forged notification of {trade.key} was acknowledged")
        elif not topic and not variant and trade.paid is not None:
            again = trade.key in self.acknowledged
            self.acknowledged.add(trade.key)
            self.history.count("notification again" if again else "notification acknowledged")
            if not durable_payment(self.database.tables, trade.paid):
                self.history.violated("S4", f"{trade.key} was acknowledged and is not durable")

    def _happened(self, entry: AnyEntry) -> None:
        """S8 and D4: what a platform is made to do was written down before."""
        fault = intent_fault(self.database.tables, entry)
        if fault:
            self.history.violated(*fault)

    def _about_to_tell(self, url: str, _headers: Mapping[str, str], body: bytes) -> None:
        """S9 and S13, before the first byte leaves."""
        fault = webhook_fault(self.database.tables, url, msgspec.json.decode(body))
        if fault:
            self.history.violated(*fault)


def simulate(seed: int) -> Result:
    """Live through a seed, and judge it."""
    loop = SimulatedLoop(seed)
    with determinism.active(loop, seed), logs.captured(loop):
        world = World(seed, loop)
        try:
            run(world.live(), loop)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            world.history.violated("run", f"{type(error).__name__}: {error}")
        for finding in loop.findings:
            world.history.violated("unhandled", finding)
        seen = Seen(world)
        check(seen)
        sometimes.count_in_the_end(seen)
    violations = world.history.violations
    counts = dict(world.history.counts)
    for metrics in world.fleet.metrics if hasattr(world, "fleet") else ():
        _count(counts, metrics)
    counts["lost on the wire"] = world.network.lost
    counts["doubled on the wire"] = world.network.doubled
    counts["redis lied"] = world.redis.lied
    kills = world.fleet.kills if hasattr(world, "fleet") else 0
    return Result(seed, violations, loop.digest & (1 << 64) - 1, loop.steps, loop.time(), kills, counts)


def _count(counts: dict[str, int], metrics: Metrics) -> None:
    """What the gateways counted: only to know that rare paths were reached, never to judge."""
    for name, counter in (("unknown outcome", metrics.commit_unknown), ("cas lost", metrics.cas_conflicts)):
        counts[name] = counts.get(name, 0) + int(counter._value.get())
    counts["swept"] = counts.get("swept", 0) + int(metrics.swept._value.get())
