"""Where each app wants its webhooks: a copy in memory, because a commit can not wait for a lookup."""

import asyncio

import asyncpg
import structlog

from gateway.storage.queries import query

READ_EVERY_S = 5.0  # a changed address is used for new webhooks after at most this long

log = structlog.get_logger(__name__)


class Endpoints:
    """App id -> webhook URL, refreshed in the background."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._urls: dict[str, str | None] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read all apps, and again every few seconds."""
        await self._read()
        self._task = asyncio.create_task(self._run(), name="endpoints")

    async def stop(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def learn(self, app_id: str, url: str | None) -> None:
        """An app was just seen, perhaps younger than the last reading."""
        self._urls[app_id] = url

    def url(self, app_id: str) -> str | None:
        """The app's address; None if it has none."""
        return self._urls.get(app_id)

    async def _read(self) -> None:
        records = await self._pool.fetch(query("endpoints"))
        self._urls.update((record["app_id"], record["webhook_url"]) for record in records)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(READ_EVERY_S)
            try:
                await self._read()
            except Exception as error:  # the copy stays as it is
                log.warning("endpoints_not_read", error=f"{type(error).__name__}: {error}"[:300])
