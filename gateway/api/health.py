"""Whether this process lives, whether it can take orders, and its figures."""

import asyncio
from collections.abc import Callable

import asyncpg
import msgspec
from aiohttp import web

from gateway.api.routing import Call, Route
from gateway.dedup import Dedup
from gateway.metrics import Metrics
from gateway.storage.queries import query

DATABASE_WAIT_S = 2.0

_encode = msgspec.json.Encoder().encode


class HealthApi:
    """livez, readyz, metrics. `gauge` brings the gauges up to date before they are shown."""

    def __init__(self, pool: asyncpg.Pool, dedup: Dedup, metrics: Metrics, gauge: Callable[[], None]) -> None:
        self._pool = pool
        self._dedup = dedup
        self._metrics = metrics
        self._gauge = gauge
        self.draining = False

    def routes(self) -> list[Route]:
        """Where the handlers stand."""
        return [
            *(Route(method, "/livez", self.livez) for method in ("GET", "HEAD")),
            *(Route(method, "/readyz", self.readyz) for method in ("GET", "HEAD")),
            Route("GET", "/metrics", self.metrics),
        ]

    async def livez(self, _request: Call) -> web.Response:
        """The loop turns."""
        return web.json_response({"status": "alive"})

    async def readyz(self, _request: Call) -> web.Response:
        """503 while draining or while Postgres can not be written; without Redis we are degraded, and ready."""
        database, redis = await asyncio.gather(self._writable(), self._dedup.ping())
        ready = database and not self.draining
        status = "draining" if self.draining else "unready" if not database else "ready" if redis else "degraded"
        parts = {"database": "writable" if database else "unavailable", "redis": "up" if redis else "down"}
        body = _encode({"status": status, **parts, "durability": "local"})
        return web.Response(status=200 if ready else 503, body=body, content_type="application/json")

    async def metrics(self, _request: Call) -> web.Response:
        """Prometheus' text format."""
        self._gauge()
        return web.Response(body=self._metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _writable(self) -> bool:
        try:
            async with asyncio.timeout(DATABASE_WAIT_S):
                return bool(await self._pool.fetchval(query("writable")))
        except Exception:  # whatever the reason, it can't be written now
            return False
