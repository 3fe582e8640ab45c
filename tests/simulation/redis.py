"""Redis as the gateway's dedup sees it: one script and a ping. It may be down, slow, flushed, or lie."""

import asyncio
import random
from typing import Any

import msgspec
from redis.exceptions import ConnectionError as RedisConnectionError


class RedisFaults(msgspec.Struct):
    """Shares of commands."""

    down: bool = False
    lies: float = 0.0
    rubbish: float = 0.0
    flushed: float = 0.0
    slow: float = 0.0


class SimulatedRedis:
    """The one server that all gateways share."""

    def __init__(self, chance: random.Random, faults: RedisFaults) -> None:
        self._chance = chance
        self.faults = faults
        self._held: dict[bytes, tuple[float, bytes]] = {}
        self.lied = 0

    def client(self, _url: str) -> "Client":
        """A connection pool of one gateway."""
        return Client(self)

    async def answer(self) -> None:
        """Wait for it, or hear that it is down."""
        slow = self._chance.random() < self.faults.slow
        await asyncio.sleep(0.2 if slow else 0.001)
        if self.faults.down:
            raise RedisConnectionError("simulated: down")

    def set_all(self, keys: tuple[bytes, ...], window_ms: int, values: tuple[bytes, ...]) -> list[Any]:
        """As the script answers: place and value of every key that held something else."""
        now, faults, chance = asyncio.get_running_loop().time(), self.faults, self._chance
        if chance.random() < faults.flushed:
            self._held.clear()
        found: list[Any] = []
        for place, (key, value) in enumerate(zip(keys, values, strict=True), start=1):
            until, held = self._held.get(key, (0.0, b""))
            roll = chance.random()
            if roll < faults.lies:
                self.lied += 1
                found += [place, b"holdfast:1:never-submitted"]
            elif roll < faults.lies + faults.rubbish:
                found += [place, chance.choice((b"", b"\xff\xfe", b"holdfast:9:x", 0))]
            elif until > now and held != value:
                found += [place, held]
            if until <= now:
                self._held[key] = (now + window_ms / 1000, value)
        return found


class Client:
    """What redis-py's client is used for."""

    def __init__(self, server: SimulatedRedis) -> None:
        self._server = server
        self.connection_pool = self

    async def eval(self, _script: str, count: int, *rest: Any) -> list[Any]:
        """Run the only script there is."""
        await self._server.answer()
        return self._server.set_all(rest[:count], int(rest[count]), rest[count + 1 :])

    async def ping(self) -> bool:
        """Whether it is there."""
        await self._server.answer()
        return True

    async def disconnect(self) -> None:
        """Connections cost nothing here."""
