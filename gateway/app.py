"""The composition root: builds every part, and knows the order to start and to stop them in."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import asyncpg
import structlog
from aiohttp import web

from actors.deadlines import Schedule
from actors.order import Order, OrderState
from actors.registry import Registry
from channels import wechatpay
from gateway import probe
from gateway.api.auth import Authenticator
from gateway.api.callbacks import CallbacksApi
from gateway.api.edge import Edge
from gateway.api.health import HealthApi
from gateway.api.orders import OrdersApi
from gateway.api.orders import Settings as OrderSettings
from gateway.api.routing import Router
from gateway.channel_keys import KeyRefresher
from gateway.clock import DatabaseClock
from gateway.config import Checks, Config, Env, WechatPay
from gateway.dedup import Dedup
from gateway.effect_runner import EffectRunner, InstalledChannel
from gateway.embedded import Postgres, Valkey
from gateway.metrics import Metrics
from gateway.sealing import Sealer, load_master_key
from gateway.storage.apps import Apps
from gateway.storage.endpoints import Endpoints
from gateway.storage.group_commit import Bounds, GroupCommit
from gateway.storage.journal import Journal
from gateway.storage.migrate import check_durability, migrate, seed_statistics
from gateway.storage.outbox import Outbox
from gateway.storage.rows import Settings as RowSettings
from gateway.storage.sweep import Sweep
from gateway.transport import Transport
from gateway.webhooks.delivery import Delivery

WEBHOOK_LEASE_TIMEOUTS = 2  # how many timeouts a delivery is ours: one to wait for its turn, one for the try
ADJUST_CLOCK_EVERY_S = 60.0
LOCK_TIMEOUT = "500ms"  # a flush that meets a row somebody else holds then goes on without it
CONNECT_TIMEOUT_S = 5.0
QUEUE_MAX = 10_000  # conversations that may wait for a channel

log = structlog.get_logger(__name__)


class Databases:
    """Where Postgres and Redis are: the configured addresses, or embedded servers that are started for them."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stack = AsyncExitStack()
        self.postgres_url: str = ""
        self.redis_url: str | None = None

    async def start(self) -> None:
        """Start what is embedded, and say so."""
        root = self._config.embedded.root
        self.postgres_url = str(self._config.database.url)
        if self.postgres_url == "embedded":
            postgres = Postgres(root)
            self.postgres_url = await postgres.start()
            self._stack.push_async_callback(postgres.stop)
            log.info("embedded_postgres", directory=str(root), use="development, demo and tests")
        redis: str = self._config.redis.url
        if redis == "embedded":
            valkey = Valkey(root)
            redis = await valkey.start()
            self._stack.push_async_callback(valkey.stop)
        self.redis_url = None if redis == "off" else redis

    async def stop(self) -> None:
        """Stop what we started."""
        await self._stack.aclose()


async def prepare_schema(config: Config, postgres_url: str) -> None:
    """Bring the schema up to date, and refuse a database that may forget."""
    connection = await asyncpg.connect(postgres_url)
    try:
        await check_durability(connection, allow_unsafe=config.database.allow_unsafe)
        applied = await migrate(connection)
        await seed_statistics(connection)
        if applied:
            log.info("migrated", applied=applied)
    finally:
        await connection.close()


def connector(config: Config, postgres_url: str) -> Callable[[], Awaitable[asyncpg.Connection]]:
    """Makes the committer's connections: under the gateway's role, with plans that do not depend on statistics."""

    async def connect() -> asyncpg.Connection:
        connection = await asyncpg.connect(
            postgres_url,
            timeout=CONNECT_TIMEOUT_S,
            server_settings={
                "application_name": "holdfast commit",
                "lock_timeout": LOCK_TIMEOUT,
                "plan_cache_mode": "force_generic_plan",
                "enable_seqscan": "off",
                "enable_bitmapscan": "off",  # it would lock rows in the order of the heap, not of their keys
            },
        )
        try:
            await connection.execute(f'SET ROLE "{config.database.role}"', timeout=CONNECT_TIMEOUT_S)
        except BaseException:
            connection.terminate()
            raise
        return connection

    return connect


async def make_pool(config: Config, postgres_url: str) -> asyncpg.Pool:
    """The pool of everything that is not the group commit."""

    async def under_role(connection: asyncpg.Connection) -> None:
        await connection.execute(f'SET ROLE "{config.database.role}"')

    return await asyncpg.create_pool(
        postgres_url,
        min_size=2,
        max_size=config.database.pool_max,
        init=under_role,
        reset=_left_as_found,
        command_timeout=10,
        server_settings={"application_name": "holdfast"},
    )


async def _left_as_found(_connection: asyncpg.Connection) -> None:
    """No query of ours leaves anything in a session, so giving it back costs no round trip."""


def schedule_of(checks: Checks) -> Schedule:
    """The ladders in milliseconds."""
    return Schedule(
        timeout_ms=_ms(checks.timeout_s),
        queries_ms=tuple(map(_ms, checks.queries_s)),
        slow_queries_ms=tuple(map(_ms, checks.slow_queries_s)),
        closing_ms=tuple(map(_ms, checks.closing_s)),
        watch_ms=tuple(map(_ms, checks.watch_s)),
        exception_ms=tuple(map(_ms, checks.exception_s)),
        not_found_final_ms=_ms(checks.not_found_final_s),
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


class Gateway:
    """One gateway process. `start` returns when it serves; `url` is then its address."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stack = AsyncExitStack()
        self._health: HealthApi | None = None
        self.url = ""

    async def start(self) -> None:
        """Build and start every part; what was started is stopped in the opposite order."""
        config, stop = self._config, self._stack.push_async_callback
        databases = Databases(config)
        await databases.start()
        stop(databases.stop)
        await prepare_schema(config, databases.postgres_url)
        pool = await make_pool(config, databases.postgres_url)
        stop(pool.close)
        clock = DatabaseClock()
        await clock.adjust(pool)
        metrics = Metrics()
        apps = Apps(pool, sealer_of(config))
        endpoints = Endpoints(pool)
        await endpoints.start()
        stop(endpoints.stop)
        channels = await self._install_channels(metrics, clock)
        delivery = await self._start_delivery(pool, apps, metrics)
        group_commit = self._group_commit(databases.postgres_url, endpoints, delivery, metrics)
        await group_commit.start()
        journal = Journal(pool, group_commit)
        runner = EffectRunner(channels, clock, config.server.public_url)
        registry = Registry(
            journal, clock, schedule_of(config.checks), runner, config.limits.actors_max, partial(_count, metrics)
        )
        runner.connect(registry.ask)
        group_commit.when_lost(registry.forget_idle)
        dedup = Dedup(
            databases.redis_url,
            window_ms=int(config.orders.duplicate_window_ms),
            timeout_ms=int(config.redis.timeout_ms),
            metrics=metrics,
        )
        keys = KeyRefresher(channels)
        sweep = Sweep(pool, config.sweep, clock, registry.ask, runner.room, metrics)

        def gauge() -> None:
            metrics.actors.set(len(registry))
            metrics.backlog.set(group_commit.backlog_rows)

        settings = OrderSettings(config.orders.expires_in_s, config.checks.pay_wait_s, config.server.single_process)
        authenticator = Authenticator(apps, endpoints)
        self._health = HealthApi(pool, dedup, metrics, gauge)
        router = Router(
            [
                *OrdersApi(authenticator, registry, journal, dedup, clock, channels, settings).routes(),
                *CallbacksApi(channels, registry, journal, clock, keys, metrics).routes(),
                *self._health.routes(),
            ]
        )
        stop(dedup.stop)
        stop(group_commit.stop)
        stop(partial(_stop_registry, registry))
        stop(partial(runner.stop, config.server.drain_s))
        stop(keys.stop)
        stop(sweep.stop)
        await self._serve(router)
        sweep.start()
        keys.start()
        adjusting = asyncio.create_task(_adjust(clock, pool), name="clock")
        stop(partial(_cancel, adjusting))
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        gc.enable()

    async def stop(self) -> None:
        """Answer not-ready, take no more requests, finish what runs, flush, close."""
        if self._health is not None:
            self._health.draining = True
        await self._stack.aclose()

    async def _install_channels(self, metrics: Metrics, clock: DatabaseClock) -> dict[str, InstalledChannel]:
        installed: dict[str, InstalledChannel] = {}
        if (section := self._config.channels.wechatpay) is not None:
            channel = wechatpay.WeChatPay(_wechatpay_credentials(section, clock.now_ms() // 1000))
            transport = Transport(
                channel.name,
                section.base_url,
                timeout_s=section.timeout_s,
                concurrency=section.concurrency,
                queue_max=QUEUE_MAX,
                metrics=metrics,
                clock=lambda: clock.now_ms() / 1000,
            )
            await transport.start()
            self._stack.push_async_callback(transport.stop)
            installed[channel.name] = InstalledChannel(channel, transport)
        return installed

    async def _start_delivery(self, pool: asyncpg.Pool, apps: Apps, metrics: Metrics) -> Delivery:
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
        )
        await delivery.start()
        self._stack.push_async_callback(delivery.stop, self._config.server.drain_s)
        return delivery

    def _group_commit(
        self, postgres_url: str, endpoints: Endpoints, delivery: Delivery, metrics: Metrics
    ) -> GroupCommit:
        config = self._config
        settings = RowSettings(
            duplicate_window_ms=int(config.orders.duplicate_window_ms),
            webhook_lease_ms=_ms(config.webhooks.timeout_s * WEBHOOK_LEASE_TIMEOUTS),
            webhook_url=endpoints.url,
        )
        bounds = Bounds(config.limits.batch_rows_max, config.limits.backlog_rows_max)
        return GroupCommit(connector(config, postgres_url), settings, bounds, metrics, delivery.owe)

    async def _serve(self, router: Router) -> None:
        server = self._config.server
        edge = Edge(router, body_bytes_max=self._config.limits.body_bytes_max)
        runner = web.ServerRunner(edge, handle_signals=False, shutdown_timeout=server.drain_s)
        await runner.setup()
        site = web.TCPSite(runner, server.host, server.port, backlog=1024)
        await site.start()
        self._stack.push_async_callback(runner.cleanup)
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"


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


def _wechatpay_credentials(section: WechatPay, now_s: int) -> wechatpay.Credentials:
    return wechatpay.load_credentials(
        mchid=section.mchid,
        appid=section.appid,
        merchant_serial=section.merchant_serial,
        private_key_pem=section.private_key.encode(),
        api_v3_key=section.api_v3_key.encode(),
        public_key_id=section.public_key_id or None,
        public_key_pem=section.public_key.encode() or None,
        platform_certificates_pem={str(path): Path(path).read_bytes() for path in section.platform_certificates},
        now_s=now_s,
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


async def _stop_registry(registry: Registry) -> None:
    registry.stop()


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
