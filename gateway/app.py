"""The composition root: builds every part, and knows the order to start and to stop them in."""

import asyncio
import errno
import gc
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import aiohttp
import asyncpg
import structlog
from aiohttp import web

from actors.order import Order, OrderState
from actors.registry import Registry
from gateway import probe
from gateway.api.auth import Authenticator
from gateway.api.callbacks import CallbacksApi
from gateway.api.callers_orders import CallersOrders
from gateway.api.cases import CasesApi
from gateway.api.channels import ChannelsApi
from gateway.api.edge import Edge
from gateway.api.health import HealthApi
from gateway.api.orders import OrdersApi
from gateway.api.orders import Settings as OrderSettings
from gateway.api.payments import PaymentsApi
from gateway.api.refunds import RefundsApi
from gateway.api.routing import Router
from gateway.channel_keys import KeyRefresher
from gateway.checks import schedule_of
from gateway.clock import DatabaseClock
from gateway.config import Channels, Config, Env
from gateway.databases import Databases, connector, make_pool, prepare_schema
from gateway.dedup import Dedup
from gateway.effect_runner import EffectRunner, InstalledChannel
from gateway.inbox import Inbox, Tell
from gateway.installation import install
from gateway.metrics import Metrics
from gateway.sealing import Sealer, load_master_key
from gateway.stepping import Stepper
from gateway.storage.apps import Apps
from gateway.storage.cases import CaseCounter, Cases
from gateway.storage.endpoints import Endpoints
from gateway.storage.group_commit import Bounds, GroupCommit
from gateway.storage.journal import Journal
from gateway.storage.notifications import Notifications
from gateway.storage.outbox import Outbox
from gateway.storage.rows import Settings as RowSettings
from gateway.storage.sweep import Sweep
from gateway.unanswered import Unanswered
from gateway.webhooks.delivery import Delivery, session_of

WEBHOOK_LEASE_TIMEOUTS = 2  # how many timeouts a delivery is ours: one to wait for its turn, one for the try
ADJUST_CLOCK_EVERY_S = 60.0
LOOP_LAG_EVERY_S = 0.5

log = structlog.get_logger(__name__)


class AddressInUse(Exception):
    """Somebody listens where we should."""


class Part(Protocol):
    """Something that is started and stopped."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


P = TypeVar("P", bound=Part)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


class Installer(Protocol):
    """What makes the channels of a configuration: `gateway.installation.install`, or a test's own."""

    def __call__(
        self, channels: Channels, metrics: Metrics, stepper: Stepper, clock: Callable[[], float]
    ) -> dict[str, InstalledChannel]: ...


class Reached(NamedTuple):
    """The databases, ready to be worked on: a pool, how the committer connects, and where Redis is, if anywhere."""

    pool: asyncpg.Pool
    connect: Callable[[], Awaitable[asyncpg.Connection]]
    redis_url: str | None


class Gateway:
    """One gateway process. `start` returns when it serves; `url` is then its address.

    What it touches of the world it reaches through `_reach_databases`, `_webhook_session`, the installer's transports
    and `_serve`; the simulation puts others in their place, and everything between them is the same.
    """

    def __init__(self, config: Config, installer: Installer = install) -> None:
        self._config = config
        self._installer = installer
        self._stack = AsyncExitStack()
        self._health: HealthApi | None = None
        self.url = ""

    async def start(self) -> None:
        """Build and start every part; what was started is stopped in the opposite order."""
        config = self._config
        pool, connect, redis_url = await self._reach_databases()
        clock = DatabaseClock()
        await clock.adjust(pool)
        metrics = Metrics()
        apps = Apps(pool, sealer_of(config))
        endpoints = await self._started(Endpoints(pool))
        channels = await self._install_channels(metrics, clock)
        delivery = await self._start_delivery(pool, apps, metrics, clock)
        dedup = _dedup(config, redis_url, metrics)
        self._stack.push_async_callback(dedup.stop)
        group_commit = await self._started(_group_commit(config, connect, endpoints, delivery, metrics))
        journal = Journal(pool, group_commit)
        runner = EffectRunner(channels, clock, config.server.public_url)
        registry = Registry(
            journal,
            clock,
            schedule_of(config.checks, config.channels),
            runner,
            config.limits.actors_max,
            partial(_count, metrics),
        )
        runner.connect(registry.ask)
        group_commit.when_lost(registry.forget_idle)
        self._stack.callback(registry.stop)
        self._stack.push_async_callback(runner.stop, config.server.drain_s)
        keys = KeyRefresher(channels)
        tell = Tell(registry.ask, clock)
        inbox = Inbox(Notifications(pool), tell, clock, config.notifications, metrics)
        self._stack.push_async_callback(inbox.stop)
        sweep = Sweep(pool, config.sweep, registry.ask, runner.room, metrics)
        unanswered = Unanswered(channels, registry.ask, clock, runner)
        self._stack.push_async_callback(keys.stop)
        self._stack.push_async_callback(unanswered.stop)
        self._stack.push_async_callback(sweep.stop)
        self._health = HealthApi(pool, dedup, metrics, partial(_gauge, metrics, registry, group_commit))
        settings = OrderSettings(config.orders.expires_in_s, config.checks.pay_wait_s)
        authenticator = Authenticator(apps, endpoints)
        orders = CallersOrders(authenticator, registry, journal, single_process=config.server.single_process)
        routes = [
            *OrdersApi(authenticator, registry, journal, orders, dedup, clock, settings).routes(),
            *PaymentsApi(orders, clock, channels, config.checks.pay_wait_s).routes(),
            *RefundsApi(authenticator, orders, journal, clock, config.checks.pay_wait_s).routes(),
            *CasesApi(authenticator, orders, Cases(pool), clock).routes(),
            *ChannelsApi(authenticator, channels).routes(),
            *CallbacksApi(channels, registry, journal, clock, keys, inbox, tell, metrics).routes(),
            *self._health.routes(),
        ]
        await self._serve(Router(routes))
        sweep.start()
        inbox.start()
        keys.start()
        unanswered.start()
        self._keep(_adjust(clock, pool), "clock")
        self._keep(_watch_loop(metrics), "loop lag")
        self._keep(CaseCounter(pool, metrics).run(), "cases")

    async def stop(self) -> None:
        """Answer not-ready, take no more requests, finish what runs, flush, close."""
        if self._health is not None:
            self._health.draining = True
        await self._stack.aclose()

    async def _reach_databases(self) -> Reached:
        config = self._config
        databases = await self._started(Databases(config))
        await prepare_schema(config, databases.postgres_url)
        pool = await make_pool(config, databases.postgres_url)
        self._stack.push_async_callback(pool.close)
        return Reached(pool, connector(config, databases.postgres_url), databases.redis_url)

    def _webhook_session(self) -> aiohttp.ClientSession:
        return session_of(self._config.webhooks.timeout_s)

    async def _started(self, part: P) -> P:
        """Start a part, and have it stopped in its turn."""
        await part.start()
        self._stack.push_async_callback(part.stop)
        return part

    def _keep(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run something until the gateway stops."""
        task = asyncio.create_task(work, name=name)
        self._stack.push_async_callback(_cancel, task)

    async def _install_channels(self, metrics: Metrics, clock: DatabaseClock) -> dict[str, InstalledChannel]:
        stepper = Stepper()
        self._stack.callback(stepper.stop)
        installed = self._installer(self._config.channels, metrics, stepper, lambda: clock.now_ms() / 1000)
        for each in installed.values():
            await self._started(each.transport)
        return installed

    async def _start_delivery(self, pool: asyncpg.Pool, apps: Apps, metrics: Metrics, clock: DatabaseClock) -> Delivery:
        webhooks = self._config.webhooks
        outbox = Outbox(pool)
        delivery = Delivery(
            outbox,
            apps,
            metrics,
            schedule_s=webhooks.schedule_s,
            timeout_s=webhooks.timeout_s,
            jitter=webhooks.jitter,
            per_endpoint=webhooks.per_endpoint,
            lease_s=webhooks.timeout_s * WEBHOOK_LEASE_TIMEOUTS,
            clock=lambda: clock.now_ms() / 1000,
            open_session=self._webhook_session,
        )
        await delivery.start()
        self._stack.push_async_callback(delivery.stop, self._config.server.drain_s)
        return delivery

    async def _serve(self, router: Router) -> None:
        server = self._config.server
        edge = Edge(router, body_bytes_max=self._config.limits.body_bytes_max)
        runner = web.ServerRunner(edge, handle_signals=False, shutdown_timeout=server.drain_s)
        await runner.setup()
        site = web.TCPSite(runner, server.host, server.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise AddressInUse(
                f"server.port: {server.host}:{server.port} is in use; is another gateway running?"
            ) from None
        self._stack.push_async_callback(runner.cleanup)
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        _settle_memory()


def _group_commit(
    config: Config,
    connect: Callable[[], Awaitable[asyncpg.Connection]],
    endpoints: Endpoints,
    delivery: Delivery,
    metrics: Metrics,
) -> GroupCommit:
    settings = RowSettings(
        duplicate_window_ms=int(config.orders.duplicate_window_ms),
        webhook_lease_ms=_ms(config.webhooks.timeout_s * WEBHOOK_LEASE_TIMEOUTS),
        webhook_url=endpoints.url,
    )
    bounds = Bounds(config.limits.batch_rows_max, config.limits.backlog_rows_max)
    return GroupCommit(connect, settings, bounds, metrics, delivery.owe)


def _dedup(config: Config, redis_url: str | None, metrics: Metrics) -> Dedup:
    return Dedup(
        redis_url,
        window_ms=int(config.orders.duplicate_window_ms),
        timeout_ms=int(config.redis.timeout_ms),
        metrics=metrics,
    )


def sealer_of(config: Config) -> Sealer:
    """What seals secrets in the database; development makes its own key."""
    return Sealer(
        load_master_key(
            production=config.env is Env.PROD,
            master_key=config.security.master_key,
            master_key_file="",
            root=config.embedded.root,
        )
    )


def _count(metrics: Metrics, before: Order | None, after: Order) -> None:
    """The orders' figures: a state that was entered, and how we learned that it was paid."""
    if before is None:
        metrics.orders_created.inc()
    elif before.state is not after.state:
        if after.state is OrderState.PAID:
            metrics.orders_paid.inc()
            payment = after.payments[-1]
            metrics.learned[payment.learned_by].inc()
            metrics.known_after_s.observe(max(0, payment.learned_at_ms - payment.success_at_ms) / 1000)
        elif after.state is OrderState.CLOSED:
            metrics.orders_closed.inc()
        elif after.state is OrderState.EXCEPTION:
            metrics.orders_exception.inc()


def _gauge(metrics: Metrics, registry: Registry, group_commit: GroupCommit) -> None:
    metrics.actors.set(len(registry))
    metrics.backlog.set(group_commit.backlog_rows)


def _settle_memory() -> None:
    """What start-up made stays for ever: the collector need not look at it again, nor so often at the rest."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    gc.enable()


async def _watch_loop(metrics: Metrics) -> None:
    """How late the loop wakes a timer: what every request waits beside its own work."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LOOP_LAG_EVERY_S
        await asyncio.sleep(LOOP_LAG_EVERY_S)
        metrics.loop_lag_s.set(max(0.0, loop.time() - due))


async def _adjust(clock: DatabaseClock, pool: asyncpg.Pool) -> None:
    while True:
        await asyncio.sleep(ADJUST_CLOCK_EVERY_S)
        try:
            await clock.adjust(pool)
        except Exception as error:  # the old offset is good enough until the database is back
            log.warning("clock_not_adjusted", error=f"{type(error).__name__}: {error}"[:300])


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


def arm_probes(config: Config, environ: dict[str, str]) -> None:
    """Arm the crash points that a test asked for."""
    probe.arm(environ, production=config.env is Env.PROD)
