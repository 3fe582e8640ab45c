"""Keeps the channels' verification keys fresh: twice a day, and at once (but rarely) when an unknown one is named."""

import asyncio
from collections.abc import Mapping

import structlog

from gateway.effect_runner import InstalledChannel

REFRESH_EVERY_S = 12 * 3600.0
REFRESH_AGAIN_S = 60.0  # after a failure, and between two refreshes that strangers can cause

log = structlog.get_logger(__name__)


class KeyRefresher:
    """Runs the channels' `refresh_keys` flows."""

    def __init__(self, channels: Mapping[str, InstalledChannel]) -> None:
        self._channels = channels
        self._last: dict[str, float] = {}
        self._running: dict[str, asyncio.Task[bool]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Refresh now and then."""
        self._task = asyncio.create_task(self._run(), name="channel keys")

    async def stop(self) -> None:
        """Stop refreshing."""
        tasks = {task for task in (self._task, *self._running.values()) if task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def refresh(self, name: str) -> bool:
        """Fetch a channel's keys unless that was just done; whether they were learned. All who ask share one fetch."""
        running = self._running.get(name)
        if running is None:
            now = asyncio.get_running_loop().time()
            if now - self._last.get(name, -REFRESH_AGAIN_S) < REFRESH_AGAIN_S:
                return False
            self._last[name] = now
            running = self._running[name] = asyncio.create_task(self._fetch(self._channels[name]))
            running.add_done_callback(lambda _: self._running.pop(name))
        return await asyncio.shield(running)

    async def _fetch(self, installed: InstalledChannel) -> bool:
        learned = await installed.transport.run(installed.channel.refresh_keys, op="refresh_keys", retries=1)
        log.info("channel_keys", channel=installed.channel.name, learned=learned is True)
        return learned is True

    async def _run(self) -> None:
        while True:
            for name in self._channels:
                await self.refresh(name)
            await asyncio.sleep(REFRESH_EVERY_S)
