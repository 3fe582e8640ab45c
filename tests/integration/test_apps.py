"""Apps against a real Postgres: made once, known by their key, and nothing usable in the database."""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator

import asyncpg
import pytest
from asyncpg.connection import LoggedQuery

from gateway.sealing import Sealer, SealError
from gateway.storage.apps import KEY_LENGTH, LOOKUP_MAX, UNKNOWN_MAX, App, AppError, Apps, UnknownAppError

URL = "https://shop.example/webhooks?x=1"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lookups() -> list[int]:
    """By how many keys each lookup asked Postgres."""
    return []


@pytest.fixture
async def pool(database_url: str, lookups: list[int]) -> AsyncIterator[asyncpg.Pool]:
    def logged(query: LoggedQuery) -> None:
        if "key_hash = ANY" in query.query:
            lookups.append(len(query.args[0]))

    async def log(connection: asyncpg.Connection) -> None:
        connection.add_query_logger(logged)

    async with asyncpg.create_pool(database_url, min_size=1, max_size=4, init=log) as pool:
        yield pool


@pytest.fixture
def apps(pool: asyncpg.Pool, clock: Clock) -> Apps:
    return Apps(pool, Sealer(bytes(32)), clock)


def wrong_key() -> str:
    return "hk_" + secrets.token_urlsafe(32)


async def test_a_new_app_is_known_by_its_key_and_its_endpoint(apps: Apps) -> None:
    made = await apps.add("shop", URL)
    assert made.app_id == "shop"
    assert len(made.api_key) == KEY_LENGTH
    assert await apps.authenticate(made.api_key) == App("shop", URL)
    endpoint = await apps.webhook("shop")
    assert endpoint.url == URL
    assert "whsec_" + base64.b64encode(endpoint.secrets[0]).decode() == made.webhook_secret
    assert len(endpoint.secrets[0]) == 32


async def test_an_app_needs_no_webhook(apps: Apps) -> None:
    made = await apps.add("shop", None)
    assert await apps.authenticate(made.api_key) == App("shop", None)


async def test_the_database_holds_no_usable_key_or_secret(apps: Apps, pool: asyncpg.Pool) -> None:
    made = await apps.add("shop", URL)
    dump = str(await pool.fetch("SELECT * FROM apps, app_keys"))
    secret = base64.b64decode(made.webhook_secret.removeprefix("whsec_"))
    assert made.api_key not in dump
    assert made.webhook_secret.removeprefix("whsec_") not in dump
    assert secret not in bytes(await pool.fetchval("SELECT webhook_secret FROM apps"))


async def test_a_name_can_be_taken_only_once_also_at_the_same_moment(apps: Apps, pool: asyncpg.Pool) -> None:
    ends = await asyncio.gather(*(apps.add("shop", URL) for _ in range(8)), return_exceptions=True)
    errors = [end for end in ends if isinstance(end, AppError)]
    assert len(errors) == 7
    assert str(errors[0]) == "name: an app named 'shop' exists already"
    assert await pool.fetchval("SELECT count(*) FROM app_keys") == 1


@pytest.mark.parametrize("name", ["", "Shop", "-shop", "a" * 33, "sh op", "shop\n", "店", "a/b"])
async def test_a_malformed_name_is_refused(apps: Apps, name: str) -> None:
    with pytest.raises(AppError, match=r"^name: ") as raised:
        await apps.add(name, URL)
    assert raised.value.field == "name"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "shop.example",
        "ftp://shop.example",
        "https://",
        "https://u:p@shop.example",
        "https://shop.example/#x",
        "https://shop.example/a b",
        "https://shop.example/\r\nX: y",
        "https://shop.example:99999",
        "https://店.example",
        "https://shop.example/" + "x" * 2_048,
        "https://[::1",
        "http://\x00",
    ],
)
async def test_a_malformed_webhook_address_is_refused(apps: Apps, url: str) -> None:
    with pytest.raises(AppError, match=r"^webhook_url: ") as raised:
        await apps.add("shop", url)
    assert raised.value.field == "webhook_url"


async def test_a_wrong_key_is_nobody(apps: Apps) -> None:
    made = await apps.add("shop", URL)
    changed = made.api_key[:-1] + ("A" if made.api_key[-1] != "A" else "B")
    for key in (changed, made.api_key[:-1], made.api_key + "A", made.api_key.upper(), "", "hk_", "钥" * KEY_LENGTH):
        assert await apps.authenticate(key) is None
        assert apps.cached(key) is None


async def test_malformed_keys_never_reach_postgres(apps: Apps, lookups: list[int]) -> None:
    for key in ("", "hk_short", "x" * KEY_LENGTH, "hk_" + "\ud800" * 43, "hk_" + "x" * 10_000):
        assert await apps.authenticate(key) is None
    assert lookups == []


async def test_a_known_key_needs_no_waiting_and_no_query(apps: Apps, clock: Clock, lookups: list[int]) -> None:
    made = await apps.add("shop", URL)
    assert apps.cached(made.api_key) is None
    await apps.authenticate(made.api_key)
    lookups.clear()
    clock.now_s += 29.9
    assert apps.cached(made.api_key) == App("shop", URL)
    assert await apps.authenticate(made.api_key) == App("shop", URL)
    assert lookups == []


async def test_a_revoked_key_stops_working_within_half_a_minute(apps: Apps, pool: asyncpg.Pool, clock: Clock) -> None:
    made = await apps.add("shop", URL)
    await apps.authenticate(made.api_key)
    await pool.execute("UPDATE app_keys SET revoked_at = now()")
    clock.now_s += 30
    assert apps.cached(made.api_key) is None
    assert await apps.authenticate(made.api_key) is None


async def test_a_wrong_key_is_remembered_for_two_seconds(apps: Apps, clock: Clock, lookups: list[int]) -> None:
    key = wrong_key()
    for _ in range(3):
        assert await apps.authenticate(key) is None
    assert lookups == [1]
    clock.now_s += 2
    await apps.authenticate(key)
    assert lookups == [1, 1]


async def test_lookups_at_the_same_time_share_their_lookups(apps: Apps, lookups: list[int]) -> None:
    made = await apps.add("shop", URL)
    keys = [made.api_key] * 500 + [wrong_key() for _ in range(1_000)]
    answers = await asyncio.gather(*map(apps.authenticate, keys))
    assert answers == [App("shop", URL)] * 500 + [None] * 1_000
    assert len(lookups) <= 4
    assert max(lookups) <= LOOKUP_MAX
    assert sum(lookups) == 1_001


async def test_wrong_keys_can_not_fill_the_memory_or_push_out_right_ones(apps: Apps) -> None:
    made = await apps.add("shop", URL)
    await apps.authenticate(made.api_key)
    await asyncio.gather(*(apps.authenticate(wrong_key()) for _ in range(3 * UNKNOWN_MAX)))
    assert len(apps._unknown) == UNKNOWN_MAX
    assert apps.cached(made.api_key) == App("shop", URL)


async def test_an_error_of_postgres_is_an_error_and_not_a_wrong_key(apps: Apps, pool: asyncpg.Pool) -> None:
    made = await apps.add("shop", URL)
    await pool.execute("ALTER TABLE app_keys RENAME TO gone")
    ends = await asyncio.gather(*(apps.authenticate(made.api_key) for _ in range(3)), return_exceptions=True)
    assert [type(end) for end in ends] == [asyncpg.UndefinedTableError] * 3
    await pool.execute("ALTER TABLE gone RENAME TO app_keys")
    assert await apps.authenticate(made.api_key) == App("shop", URL)


async def test_a_caller_that_hangs_up_takes_no_other_down(apps: Apps) -> None:
    made = await apps.add("shop", URL)
    hung_up = asyncio.create_task(apps.authenticate(made.api_key))
    stays = asyncio.create_task(apps.authenticate(made.api_key))
    await asyncio.sleep(0)
    hung_up.cancel()
    assert await stays == App("shop", URL)


async def test_an_endpoint_is_read_again_after_five_seconds(apps: Apps, pool: asyncpg.Pool, clock: Clock) -> None:
    await apps.add("shop", URL)
    await asyncio.gather(*(apps.webhook("shop") for _ in range(20)))
    await pool.execute("UPDATE apps SET webhook_url = 'https://new.example/'")
    clock.now_s += 4.9
    assert (await apps.webhook("shop")).url == URL
    clock.now_s += 0.2
    assert (await apps.webhook("shop")).url == "https://new.example/"


async def test_an_unknown_app_and_a_secret_of_another_master_key_are_named(apps: Apps, pool: asyncpg.Pool) -> None:
    with pytest.raises(UnknownAppError, match="there is no app 'nobody'"):
        await apps.webhook("nobody")
    await apps.add("shop", URL)
    with pytest.raises(SealError, match="webhook secret of app shop: does not open with this master key"):
        await Apps(pool, Sealer(b"\1" * 32)).webhook("shop")


async def test_a_sealed_secret_does_not_open_for_another_app(apps: Apps, pool: asyncpg.Pool) -> None:
    await apps.add("shop", URL)
    await apps.add("thief", URL)
    await pool.execute("UPDATE apps SET webhook_secret = (SELECT webhook_secret FROM apps WHERE app_id = 'shop')")
    with pytest.raises(SealError):
        await apps.webhook("thief")
