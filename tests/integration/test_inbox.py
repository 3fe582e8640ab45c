"""The inbox: what nobody knows is parked and told again, what can not be verified has the channel asked, what is old is
forgotten, and anything can be replayed."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import asyncpg
import pytest

from actors.checkpoint import Arrival
from channels.contract import RejectReason
from gateway import ids, inbox
from gateway.api import callbacks
from gateway.clock import DatabaseClock
from gateway.config import Notifications as Settings
from gateway.inbox import Inbox, Tell, Verdict
from gateway.metrics import Metrics
from gateway.storage.apps import NewApp
from gateway.storage.cases import Cases
from gateway.storage.migrate import MIGRATIONS
from gateway.storage.notifications import Notifications
from gateway.storage.queries import query
from tests.integration.gateway_parts import NOBODY, ROOT, Answer, Api, Platform, add_app, started, until, write_config

Message: TypeAlias = tuple[bytes, Mapping[str, str]]
SOON: dict[str, Any] = {"parked_s": [0.1, 0.1, 0.1]}
LATER: dict[str, Any] = {"parked_s": [3600]}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "LOOK_EVERY_S", 0.05)


@pytest.fixture
async def app(database_url: str) -> NewApp:
    return await add_app(database_url, "shop")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


class House:
    """Starts gateways over one database."""

    def __init__(
        self, folder: Path, database_url: str, platform: Platform, session: aiohttp.ClientSession, app: NewApp
    ) -> None:
        self.config = folder / "gateway.toml"
        self._database_url = database_url
        self._platform = platform
        self._session = session
        self._app = app

    @asynccontextmanager
    async def open(self, **sections: Mapping[str, Any]) -> AsyncIterator[Api]:
        async with started(write_config(self.config, self._database_url, self._platform, **sections)) as gateway:
            yield Api(self._session, gateway.url, self._app.api_key)


@pytest.fixture
def house(tmp_path: Path, database_url: str, platform: Platform, session: aiohttp.ClientSession, app: NewApp) -> House:
    return House(tmp_path, database_url, platform, session, app)


@pytest.fixture
async def missing(house: House, database: asyncpg.Connection) -> str:
    """An order that somebody can pay, and that the database then does not know: one restored from yesterday."""
    async with house.open() as api:
        order_id = str((await api.shown((await api.created(amount=1200))["order_id"]))["order_id"])
    for table in ("orders", "attempts", "events"):
        await database.execute(f"CREATE TABLE lost_{table} AS SELECT * FROM {table}")  # noqa: S608
        await database.execute(f"DELETE FROM {table}")  # noqa: S608
    return order_id


async def turns_up(database: asyncpg.Connection) -> None:
    async with database.transaction():
        for table in ("orders", "attempts", "events"):
            await database.execute(f"INSERT INTO {table} SELECT * FROM lost_{table}")  # noqa: S608


def genuine(platform: Platform, order_id: str, age_s: int = 0, **stated: Any) -> Message:
    body = platform.notice(order_id + "01", **{"amount": 1200, **stated})
    return body, platform.signed(body, age_s=age_s)


def forged(platform: Platform, order_id: str) -> Message:
    body, headers = genuine(platform, order_id)
    return body, {**headers, "Wechatpay-Signature": "A" * 342 + "=="}


async def notify(api: Api, order_id: str, message: Message, attempt: str = "01") -> Answer:
    return await api.request("POST", f"/callbacks/wechatpay/{order_id}/{attempt}", message[0], message[1])


async def figure(api: Api, name: str) -> float:
    text = (await api.request("GET", "/metrics")).body.decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


async def credits_of(database: asyncpg.Connection, order_id: str) -> list[tuple[str, int]]:
    found = await database.fetch("SELECT kind, amount FROM payments WHERE order_id = $1", order_id)
    return [tuple(record) for record in found]


# --- parked ---------------------------------------------------------------------------------------------------------


async def test_money_of_an_order_nobody_knows_is_credited_when_the_order_turns_up(
    house: House, platform: Platform, missing: str, database: asyncpg.Connection
) -> None:
    async with house.open(notifications={"parked_s": [0.1] * 1000}) as api:
        message = genuine(platform, missing)
        answer = await notify(api, missing, message)
        assert (answer.status, answer.json["code"]) == (404, "FAIL"), "it is never acknowledged into nothing"
        number = await database.fetchval("SELECT notification_id FROM notifications WHERE order_id = $1", missing)

        async def told_in_vain() -> bool:
            return bool(await database.fetchval("SELECT tries > 1 FROM parked WHERE notification_id = $1", number))

        await until(told_in_vain)
        assert (await notify(api, missing, message)).status == 404
        assert await database.fetchval("SELECT count(*) FROM parked") == 1, "the channel's repeats park nothing more"
        await turns_up(database)
        paid = await api.until_state(missing, "paid")
        assert (paid["paid_amount"], paid["late"]) == (1200, False)
        evidence = (await api.timeline(missing))[-1]["evidence"]
        assert (evidence["evidence"], evidence["source"]) == (f"notification {number}", "notification")

        async def settled() -> bool:
            return await database.fetchval("SELECT count(*) FROM parked") == 0

        await until(settled)
        assert (await notify(api, missing, message)).status == 200, "and from now on the channel is acknowledged"
    assert await credits_of(database, missing) == [("credit", 1200)]
    assert await database.fetchval("SELECT count(*) FROM cases") == 0


async def test_when_the_ladder_is_used_up_people_are_told_what_was_said(
    house: House, platform: Platform, database: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    order_id = ids.order_id(0)
    async with house.open(notifications=SOON) as api:
        for transaction in ("4" * 28, "5" * 28):
            await notify(api, order_id, genuine(platform, order_id, transaction=transaction))

        async def given_up() -> bool:
            return await database.fetchval("SELECT count(*) FROM parked WHERE next_try_at IS NULL") == 2

        await until(given_up)
        assert await database.fetch("SELECT DISTINCT tries FROM parked") == [(3,)]
        case = await database.fetchrow("SELECT * FROM cases WHERE order_id = $1", order_id)
        assert (case["version"], case["reason"], case["resolved_at"]) == (0, "orphan_notification", None)
        said = json.loads(case["evidence"])["notifications"]
        numbers = await database.fetch("SELECT notification_id FROM notifications ORDER BY notification_id")
        assert sorted(each["notification_id"] for each in said) == [record["notification_id"] for record in numbers]
        assert sorted(each["said"]["payment"]["channel_transaction"] for each in said) == ["4" * 28, "5" * 28]
        assert {each["said"]["payment"]["amount"] for each in said} == {1200}
        # Its channel goes on; nothing begins anew. Other money is news, also when people were done with the first.
        assert (await notify(api, order_id, genuine(platform, order_id, transaction="4" * 28))).status == 404
        await asyncio.sleep(0.3)
        assert await database.fetchval("SELECT count(*) FROM parked WHERE next_try_at IS NOT NULL") == 0
        assert await database.fetchval("SELECT evidence FROM cases") == case["evidence"]
        assert await figure(api, 'holdfast_parked_notifications_total{result="orphaned"}') == 2
        assert await Cases(pool).close_orphan(order_id, "Lin", "not ours")
        await notify(api, order_id, genuine(platform, order_id, transaction="6" * 28))

        async def open_again() -> asyncpg.Record | None:
            return await database.fetchrow("SELECT * FROM cases WHERE resolved_at IS NULL")

        again = await until(open_again)
        assert len(json.loads(again["evidence"])["notifications"]) == 3
        assert (again["resolved_by"], again["resolution_note"]) == ("Lin", "not ours"), "what was decided before"


async def test_a_refund_of_an_order_nobody_knows_is_parked_as_well(
    house: House, platform: Platform, database: asyncpg.Connection
) -> None:
    order_id = ids.order_id(0)
    refund_id = f"{order_id}R00001"
    async with house.open(notifications=SOON) as api:
        body = platform.refund_notice(order_id + "01", 1200, refund_no=refund_id)
        for _ in range(2):
            answer = await api.request("POST", f"/callbacks/wechatpay/refunds/{refund_id}", body, platform.signed(body))
            assert answer.status == 404

        async def given_up() -> asyncpg.Record | None:
            return await database.fetchrow("SELECT * FROM cases WHERE order_id = $1", order_id)

        (said,) = json.loads((await until(given_up))["evidence"])["notifications"]
        refund = said["said"]["refund"]
        assert (refund["refund_no"], refund["amount"], refund["state"]) == (refund_id, 1200, "succeeded")


async def test_a_process_that_dies_with_a_parked_one_in_hand_is_followed_by_the_next(
    house: House, platform: Platform, missing: str, database: asyncpg.Connection
) -> None:
    async with house.open(notifications=LATER) as api:
        await notify(api, missing, genuine(platform, missing))
    await turns_up(database)
    await database.execute("UPDATE parked SET next_try_at = now()")  # the lease of somebody who is gone
    async with house.open(notifications=LATER) as api:
        assert (await api.until_state(missing, "paid"))["paid_amount"] == 1200


# --- not verified ---------------------------------------------------------------------------------------------------


async def test_what_can_not_be_verified_has_the_channel_asked_once(
    house: House, platform: Platform, database: asyncpg.Connection
) -> None:
    async with house.open() as api:
        order = await api.shown((await api.created(amount=1200))["order_id"])
        order_id = order["order_id"]
        answers = await asyncio.gather(*(notify(api, order_id, forged(platform, order_id)) for _ in range(20)))
        assert {answer.status for answer in answers} == {400}
        assert await figure(api, "holdfast_notification_queries_total") == 1
        assert await api.get(order_id) == order, "nothing of it is believed"
        other = (await api.shown((await api.created(amount=1200))["order_id"]))["order_id"]
        async with platform.faults(drop=1.0):
            await platform.pay(other + "01")
        assert (await notify(api, other, forged(platform, other))).status == 400
        assert (await api.until_state(other, "paid"))["paid_amount"] == 1200
    assert await database.fetchval("SELECT learned_by FROM payments") == "query"


async def test_nobody_is_asked_for_what_nobody_can_pay(house: House, platform: Platform) -> None:
    async with house.open() as api:
        order_id = (await api.created(amount=1200))["order_id"]
        await notify(api, order_id, forged(platform, order_id))  # never attempted
        await notify(api, NOBODY, forged(platform, NOBODY))
        await api.shown(order_id)
        await notify(api, order_id, forged(platform, order_id), "02")
        await notify(api, order_id, genuine(platform, order_id))
        await notify(api, order_id, forged(platform, order_id))  # paid
        assert await figure(api, "holdfast_notification_queries_total") == 0


async def test_strangers_cause_no_more_queries_than_a_few(
    house: House, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "QUERIES_MAX", 2)
    monkeypatch.setattr(callbacks, "QUERIES_PER_S", 0.001)
    async with house.open() as api:
        orders = [(await api.shown((await api.created(amount=1200))["order_id"]))["order_id"] for _ in range(4)]
        for order_id in orders:
            assert (await notify(api, order_id, forged(platform, order_id))).status == 400
        assert await figure(api, "holdfast_notification_queries_total") == 2


async def test_strangers_fill_no_disk(
    house: House, platform: Platform, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "RECORDS_MAX", 3)
    monkeypatch.setattr(callbacks, "RECORDS_PER_S", 0.001)
    async with house.open() as api:
        for _ in range(5):
            assert (await notify(api, NOBODY, forged(platform, NOBODY))).status == 400
        assert await figure(api, 'holdfast_notifications_total{channel="wechatpay",verdict="bad_signature"}') == 5
        assert (await notify(api, NOBODY, genuine(platform, NOBODY))).status == 404
    found = await database.fetch("SELECT verdict FROM notifications ORDER BY notification_id")
    assert [record["verdict"] for record in found] == ["bad_signature"] * 3 + ["unknown_order"]


# --- forgotten ------------------------------------------------------------------------------------------------------

UNVERIFIED = {*RejectReason, Verdict.TOO_LARGE} - {RejectReason.OTHER_EVENT}


def test_what_is_forgotten_sooner_is_what_nobody_vouches_for() -> None:
    migration = (MIGRATIONS / "0004_inbox.sql").read_text()
    for sql in (query("forget_unverified_notifications"), migration[migration.index("notifications_unverified") :]):
        verdicts = re.search(r"verdict IN\s+\(([^)]*)\)", sql)
        assert verdicts is not None
        assert set(re.findall(r"'(\w+)'", verdicts[1])) == UNVERIFIED


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    """As the gateway works: under its role."""

    async def under_role(connection: asyncpg.Connection) -> None:
        await connection.execute("SET ROLE holdfast_gateway")

    async with asyncpg.create_pool(database_url, min_size=1, max_size=2, init=under_role) as opened:
        yield opened


async def arrived(database: asyncpg.Connection, days_ago: float, verdict: str) -> int:
    at_ms = DatabaseClock().now_ms() - int(days_ago * 86_400_000)
    one = Arrival(ids.notification_id(at_ms), "wechatpay", NOBODY, "01", verdict, "{}", b"", at_ms)
    await database.execute(
        "INSERT INTO notifications VALUES ($1, $2, $3, $4, $5, '{}', '', to_timestamp($6::float8 / 1000))",
        *(one.notification_id, one.channel, one.order_id, one.attempt, verdict, at_ms),
    )
    return one.notification_id


def _nobody_is_told(*_: object) -> Any:
    raise AssertionError("nobody is told anything here")


async def test_what_is_old_is_forgotten_and_nothing_else(
    database: asyncpg.Connection, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "FORGET_ROWS", 2)
    monkeypatch.setattr(inbox, "FORGET_PAUSE_S", 0)
    clock, kept = DatabaseClock(), Notifications(pool)
    settings = Settings(keep_days=100, keep_unverified_days=10, parked_s=(3600,))
    house = Inbox(kept, Tell(_nobody_is_told, clock), clock, settings, Metrics())
    stays = [await arrived(database, days, verdict) for days in (0, 9.9) for verdict in (*UNVERIFIED, *Verdict)]
    stays += [
        await arrived(database, days, verdict) for days in (10.1, 99.9) for verdict in ("verified", "foreign_refund")
    ]
    stays += [await arrived(database, 99.9, "unknown_order"), await arrived(database, 99.9, "other_event")]
    parked, orphan = await arrived(database, 200, "unknown_order"), await arrived(database, 200, "unknown_order")
    for number in (parked, orphan):
        await kept.park(number, NOBODY, ("wechatpay", "m", str(number)), "{}", 3600)
    await kept.orphan(orphan)
    goes = [await arrived(database, 10.1, verdict) for verdict in UNVERIFIED]
    goes += [
        await arrived(database, 100.1, verdict)
        for verdict in (*UNVERIFIED, "verified", "foreign_refund", "other_event")
    ]
    assert await house.forget() == len(goes) + 1
    left = await database.fetch("SELECT notification_id FROM notifications")
    assert {record["notification_id"] for record in left} == {*stays, parked}
    assert await database.fetch("SELECT notification_id FROM parked") == [(parked,)]
    assert await database.fetchval("SELECT count(*) FROM cases") == 1, "the case holds what was said"
    assert await house.forget() == 0


async def test_a_look_forgets_no_more_than_some_pages(
    database: asyncpg.Connection, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is parked does not wait until years are forgotten."""
    monkeypatch.setattr(inbox, "FORGET_ROWS", 2)
    monkeypatch.setattr(inbox, "FORGET_PAGES", 3)
    monkeypatch.setattr(inbox, "FORGET_PAUSE_S", 0)
    clock = DatabaseClock()
    house = Inbox(Notifications(pool), Tell(_nobody_is_told, clock), clock, Settings(), Metrics())
    for _ in range(8):
        await arrived(database, 400, "verified")
    assert [await house.forget() for _ in range(3)] == [6, 2, 0]


async def test_the_gateway_forgets_by_itself(house: House, database: asyncpg.Connection) -> None:
    old, young = await arrived(database, 40, "stale"), await arrived(database, 20, "stale")

    async def one_left() -> bool:
        return await database.fetch("SELECT notification_id FROM notifications") == [(young,)]

    assert old < young
    async with house.open():
        await until(one_left)


# --- replayed -------------------------------------------------------------------------------------------------------


async def printed_by_inbox(house: House, *arguments: str) -> tuple[int, list[str]]:
    """`./run inbox ...`: its exit code and its lines."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "inbox", *arguments, "--config", str(house.config)),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    printed, _ = await child.communicate()
    return child.returncode or 0, printed.decode().splitlines()


async def run_inbox(house: House, *arguments: str) -> tuple[int, list[Any]]:
    """The same, for programs."""
    code, lines = await printed_by_inbox(house, *arguments, "--json")
    return code, [json.loads(line) for line in lines]


async def test_a_notification_is_replayed_as_of_when_it_came_and_credits_once(
    house: House, platform: Platform, missing: str, database: asyncpg.Connection
) -> None:
    async with house.open(notifications=LATER) as api:
        await notify(api, missing, genuine(platform, missing))
        # It came in an hour ago: read as of now it would be stale.
        body, headers = genuine(platform, missing, age_s=3600)
        await database.execute(
            "UPDATE notifications SET received_at = received_at - interval '1 hour', body = $1, headers = $2",
            *(body, json.dumps({name.lower(): value for name, value in headers.items()})),
        )
        (code, (line,)) = await run_inbox(house, "list", "--verdict", "unknown_order")
        assert (code, line["order_id"], line["waits"]) == (0, missing, "parked")
        number = str(line["notification_id"])
        assert (await run_inbox(house, "replay", number))[1][0]["now"] == "unknown_order"
        await turns_up(database)
        for _ in range(2):
            code, (told,) = await run_inbox(house, "replay", number)
            assert (code, told["before"], told["now"]) == (0, "unknown_order", "verified")
        assert (await api.get(missing))["state"] == "paid", "the gateway that runs beside it knows"
        assert await credits_of(database, missing) == [("credit", 1200)]
        assert await database.fetch("SELECT type FROM outbox") == [("order.paid",)]
        assert await database.fetchval("SELECT count(*) FROM parked") == 0
        assert (await run_inbox(house, "list", "--verdict", "unknown_order"))[1][0]["waits"] is None
        assert await run_inbox(house, "replay", "1") == (4, []), "there is no such notification"
        # For people.
        _, (line,) = await printed_by_inbox(house, "list", "--order", missing)
        numbered_at = datetime.fromtimestamp(int(number) // 2**21 / 1000, UTC)
        received_at = numbered_at - timedelta(hours=1)
        assert line.split() == [
            number,
            f"{received_at:%Y-%m-%dT%H:%M:%SZ}",
            missing + "01",
            "wechatpay",
            "unknown_order",
        ]
        assert (await printed_by_inbox(house, "list", "--since", f"{numbered_at + timedelta(days=1):%Y-%m-%d}"))[
            1
        ] == []
        _, (line,) = await printed_by_inbox(house, "replay", number)
        assert line == f"{number}  {missing}01  wechatpay  unknown_order -> verified"


async def test_all_since_a_moment_are_replayed_and_none_is_believed_that_was_not_before(
    house: House, platform: Platform, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house.open() as api:
        orders = [(await api.shown((await api.created(amount=1200))["order_id"]))["order_id"] for _ in range(3)]
        await notify(api, orders[0], genuine(platform, orders[0]))
        await notify(api, orders[1], forged(platform, orders[1]))
        refund = platform.refund_notice(orders[0] + "01", 1200)
        await notify(api, orders[0], (refund, platform.signed(refund)))
        await arrived(database, 40, "verified")
        code, told = await run_inbox(house, "replay", "--since", "2020-01-01", "--verdict", "bad_signature")
        assert (code, [each["now"] for each in told]) == (0, ["bad_signature"])
        code, told = await run_inbox(house, "replay", "--since", "2020-01-01")
        assert code == 0
        assert [each["now"] for each in told][1:] == ["verified", "bad_signature", "foreign_refund"]
        assert [(await api.get(order_id))["state"] for order_id in orders] == ["paid", "paying", "paying"]
        assert await database.fetchval("SELECT count(*) FROM payments") == 1
    code, _ = await run_inbox(house, "replay")
    assert code == 2, "which ones must be said"


# --- when the order of a case turns up ------------------------------------------------------------------------------


async def test_the_case_of_an_order_that_turned_up_after_all_ends_with_the_replay(
    house: House, platform: Platform, missing: str, database: asyncpg.Connection
) -> None:
    async with house.open(notifications=SOON) as api:
        await notify(api, missing, genuine(platform, missing))

        async def opened() -> bool:
            return await database.fetchval("SELECT count(*) FROM cases") == 1

        await until(opened)
        (await api.request("GET", f"/v1/cases/{missing}-0")).problem(404, "case_not_found", "case_id")  # nobody's
        await turns_up(database)
        number = await database.fetchval("SELECT notification_id FROM parked")
        code, told = await run_inbox(house, "replay", str(number))
        assert (code, [each["now"] for each in told]) == (0, ["verified"])
        assert (await api.get(missing))["state"] == "paid"
        settled = await database.fetchrow("SELECT resolution, resolved_by FROM cases")
        assert tuple(settled or ()) == ("told", "holdfast")
