"""Apps: who may call us, and where their webhooks go.

A key is 256 random bits, shown once and stored as its SHA-256. A secret of that size needs no slow hash, and looking it
up by its hash leaves nothing to compare in constant time: an index's timing tells nothing to who can't invert SHA-256.
"""

import asyncio
import base64
import hashlib
import re
import secrets
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import asyncpg
import msgspec

from gateway.addresses import fault_of
from gateway.sealing import Sealer

KEY_PREFIX = "hk_"
KEY_LENGTH = len(KEY_PREFIX) + 43  # 32 bytes in base64url without padding
SECRET_PREFIX = "whsec_"  # noqa: S105 - a prefix, not a secret
SECRET_BYTES = 32
HINT_LENGTH = 8

KNOWN_FOR_S = 30.0  # a revoked key works at most this long
UNKNOWN_FOR_S = 2.0  # a key added meanwhile is refused at most this long
ENDPOINT_FOR_S = 5.0
KNOWN_MAX = 10_000
UNKNOWN_MAX = 1_000  # wrong keys are free to invent: they may not fill the memory
LOOKUP_MAX = 500

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")

_ADD_APP = """
INSERT INTO apps (app_id, webhook_url, webhook_secret) VALUES ($1, $2, $3)
ON CONFLICT (app_id) DO NOTHING RETURNING app_id
"""
_ADD_KEY = "INSERT INTO app_keys (key_hash, app_id, hint) VALUES ($1, $2, $3)"
_BY_KEYS = """
SELECT key_hash, app_id, webhook_url FROM app_keys JOIN apps USING (app_id)
 WHERE key_hash = ANY($1::bytea[]) AND revoked_at IS NULL
"""
_ENDPOINT = "SELECT webhook_url, webhook_secret FROM apps WHERE app_id = $1"


class App(msgspec.Struct, frozen=True):
    """A business application that calls us."""

    app_id: str
    webhook_url: str | None


class Endpoint(msgspec.Struct, frozen=True):
    """An app's default webhook address, and the secrets to sign with (several while one is being replaced)."""

    url: str | None
    secrets: tuple[bytes, ...]


class NewApp(msgspec.Struct, frozen=True):
    """What is shown once, when an app is made."""

    app_id: str
    api_key: str
    webhook_secret: str


class AppError(ValueError):
    """An app can't be made; `field` is what is wrong with it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class UnknownAppError(LookupError):
    """No app of this id exists."""


class Apps:
    """Makes apps, knows them by their key, and knows their endpoints."""

    def __init__(self, pool: asyncpg.Pool, sealer: Sealer, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._sealer = sealer
        self._known: _Remembered[str, App] = _Remembered(KNOWN_MAX, KNOWN_FOR_S, monotonic)
        self._unknown: _Remembered[bytes, bool] = _Remembered(UNKNOWN_MAX, UNKNOWN_FOR_S, monotonic)
        self._endpoints: _Remembered[str, Endpoint] = _Remembered(KNOWN_MAX, ENDPOINT_FOR_S, monotonic)
        self._endpoints_read: dict[str, asyncio.Task[Endpoint]] = {}
        self._asked: dict[bytes, asyncio.Future[App | None]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def add(self, name: str, webhook_url: str | None) -> NewApp:
        """Make an app with a first key.

        Raises:
            AppError: the name or the URL is malformed, or the name is taken.
        """
        _check(name, webhook_url)
        api_key = KEY_PREFIX + secrets.token_urlsafe(32)
        secret = secrets.token_bytes(SECRET_BYTES)
        async with self._pool.acquire() as connection, connection.transaction():
            sealed = self._sealer.seal(secret, _context(name))
            if await connection.fetchval(_ADD_APP, name, webhook_url, sealed) is None:
                raise AppError("name", f"an app named {name!r} exists already")
            await connection.execute(_ADD_KEY, _hash(api_key), name, api_key[:HINT_LENGTH])
        self._unknown.forget(_hash(api_key))
        return NewApp(name, api_key, SECRET_PREFIX + base64.b64encode(secret).decode())

    def cached(self, api_key: str) -> App | None:
        """The app of a key that was seen lately, without waiting. None says nothing: call `authenticate`."""
        return self._known.get(api_key)

    async def authenticate(self, api_key: str) -> App | None:
        """The app of this key, or None if there is none. All lookups that wait at the same time share one query."""
        if app := self._known.get(api_key):
            return app
        if not _is_key_shaped(api_key):
            return None
        key_hash = _hash(api_key)
        if self._unknown.get(key_hash):
            return None
        app = await asyncio.shield(self._ask(key_hash))
        if app is not None:
            self._known.put(api_key, app)
        return app

    async def webhook(self, app_id: str) -> Endpoint:
        """An app's default address and its signing secrets.

        Raises:
            UnknownAppError: there is no such app.
            SealError: the secret does not open with our master key.
        """
        if endpoint := self._endpoints.get(app_id):
            return endpoint
        # Not one query for each of the webhooks that are sent at this moment.
        if (reading := self._endpoints_read.get(app_id)) is None:
            reading = self._endpoints_read[app_id] = asyncio.create_task(self._read_endpoint(app_id))
            reading.add_done_callback(lambda _: self._endpoints_read.pop(app_id))
        return await asyncio.shield(reading)

    async def _read_endpoint(self, app_id: str) -> Endpoint:
        row = await self._pool.fetchrow(_ENDPOINT, app_id)
        if row is None:
            raise UnknownAppError(f"there is no app {app_id!r}")
        endpoint = Endpoint(row["webhook_url"], (self._sealer.open(row["webhook_secret"], _context(app_id)),))
        self._endpoints.put(app_id, endpoint)
        return endpoint

    def _ask(self, key_hash: bytes) -> asyncio.Future[App | None]:
        asked = self._asked.get(key_hash)
        if asked is None:
            asked = self._asked[key_hash] = asyncio.get_running_loop().create_future()
            if self._asking is None:
                self._asking = asyncio.create_task(self._answer_all(), name="apps: look keys up")
        return asked

    async def _answer_all(self) -> None:
        """One query at a time for all that wait: a flood of wrong keys never holds more than one connection."""
        try:
            while self._asked:
                page = dict(list(self._asked.items())[:LOOKUP_MAX])
                await self._answer(page)
        finally:
            self._asking = None

    async def _answer(self, page: dict[bytes, asyncio.Future[App | None]]) -> None:
        try:
            rows = await self._pool.fetch(_BY_KEYS, list(page))
        except Exception as error:
            for asked in self._open(page).values():
                asked.set_exception(error)
            return
        apps = {row["key_hash"]: App(row["app_id"], row["webhook_url"]) for row in rows}
        for key_hash in page.keys() - apps.keys():
            self._unknown.put(key_hash, True)
        for key_hash, asked in self._open(page).items():
            asked.set_result(apps.get(key_hash))

    def _open(self, page: dict[bytes, asyncio.Future[App | None]]) -> dict[bytes, asyncio.Future[App | None]]:
        """Those of the page that still wait; whoever asks from now on asks anew."""
        for key_hash in page:
            del self._asked[key_hash]
        return {key_hash: asked for key_hash, asked in page.items() if not asked.done()}


Key = TypeVar("Key")
Value = TypeVar("Value")


class _Remembered(Generic[Key, Value]):
    """A dict whose entries live a while and whose size is bounded: the oldest entry makes room."""

    def __init__(self, entries_max: int, lives_s: float, monotonic: Callable[[], float]) -> None:
        self._entries_max = entries_max
        self._lives_s = lives_s
        self._monotonic = monotonic
        self._entries: dict[Key, tuple[float, Value]] = {}

    def get(self, key: Key) -> Value | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._monotonic() >= entry[0]:
            del self._entries[key]
            return None
        return entry[1]

    def put(self, key: Key, value: Value) -> None:
        self.forget(key)
        if len(self._entries) >= self._entries_max:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = (self._monotonic() + self._lives_s, value)

    def forget(self, key: Key) -> None:
        self._entries.pop(key, None)

    def __len__(self) -> int:
        return len(self._entries)


def _check(name: str, webhook_url: str | None) -> None:
    if not _NAME.fullmatch(name):
        raise AppError("name", "must be 1-32 of a-z 0-9 _ -, beginning with a letter or digit")
    if webhook_url is not None and (fault := fault_of(webhook_url)):
        raise AppError("webhook_url", fault)


def _is_key_shaped(api_key: str) -> bool:
    return len(api_key) == KEY_LENGTH and api_key.startswith(KEY_PREFIX) and api_key.isascii()


def _hash(api_key: str) -> bytes:
    return hashlib.sha256(api_key.encode()).digest()


def _context(app_id: str) -> str:
    return f"webhook secret of app {app_id}"
