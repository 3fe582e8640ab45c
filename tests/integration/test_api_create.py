"""Creating orders: one order a number for ever, one a submission for a while, whoever asks and how often."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
import redis

from gateway.embedded import Valkey
from gateway.storage.apps import NewApp
from tests.integration.gateway_parts import (
    Answer,
    Api,
    Running,
    order_body,
    out_order_no,
    started,
    until,
    write_config,
)

WHOLE = {
    "amount": 1200,
    "subject": "两杯咖啡 & more",
    "buyer": "buyer-7",
    "items": [{"name": "咖啡", "quantity": 2, "amount": 600}, {"name": "air", "sku": "A/0"}],
    "expires_in_s": 600,
    "webhook_url": "https://shop.example/hooks?a=1",
    "return_url": "https://shop.example/back",
    "metadata": {"table": "5", "note": "no sugar"},
    "late_payment": "hold",
}


@pytest.fixture(params=["redis", "no redis"])
def either(request: pytest.FixtureRequest) -> Api:
    """The gateway with Redis, then the one without: their answers are the same."""
    name = "api" if request.param == "redis" else "second_api"
    api: Api = request.getfixturevalue(name)
    return api


def buyer() -> str:
    """Nobody who bought before."""
    return f"buyer-{out_order_no()}"


async def test_a_life_that_the_app_does_not_name_is_no_conflict_whatever_the_default_is_by_now(either: Api) -> None:
    body = order_body(**{**WHOLE, "buyer": buyer()})
    order = await either.created(**body)
    answer = await either.create(**{**body, "expires_in_s": None})
    assert (answer.status, answer.json) == (200, order)


async def test_a_new_order_is_shown_as_it_was_asked_for(api: Api, database: asyncpg.Connection) -> None:
    body = order_body(**WHOLE)
    answer = await api.create(**body)
    assert (answer.status, answer.headers["Content-Type"]) == (201, "application/json")
    order = answer.json
    del body["expires_in_s"]
    items = [{"quantity": 1, "amount": None, "sku": None, **item} for item in body.pop("items")]
    assert {name: order[name] for name in body} == body
    assert order["items"] == items
    assert (order["state"], order["version"], order["attempts"]) == ("created", 1, [])
    assert await database.fetchval("SELECT amount FROM orders WHERE order_id = $1", order["order_id"]) == 1200


async def test_an_order_can_be_asked_for_by_either_number(either: Api) -> None:
    created = await either.create(**{**WHOLE, "buyer": buyer()})
    order = created.json
    by_id = await either.request("GET", f"/v1/orders/{order['order_id']}")
    by_number = await either.request("GET", f"/v1/orders?out_order_no={order['out_order_no']}")
    assert by_id.body == by_number.body == created.body


async def test_the_same_again_is_the_same_order(api: Api, second_api: Api) -> None:
    body = order_body(**{**WHOLE, "buyer": buyer()})
    first = await api.create(**body)
    again = [await client.create(**body) for client in (api, second_api, api)]
    assert first.status == 201
    assert [answer.status for answer in again] == [200] * 3
    assert {answer.body for answer in again} == {first.body}


async def test_the_order_of_names_in_a_body_means_nothing(api: Api) -> None:
    body = order_body(**{**WHOLE, "buyer": buyer()})
    await api.created(**body)
    turned = {name: body[name] for name in reversed(body)}
    turned["metadata"] = {name: body["metadata"][name] for name in reversed(body["metadata"])}
    turned["items"] = [{name: item[name] for name in reversed(item)} for item in body["items"]]
    assert (await api.create(**turned)).status == 200


OTHER: list[tuple[str, Any]] = [
    ("amount", 1201),
    ("subject", "something else"),
    ("buyer", "another"),
    ("buyer", None),
    ("items", [{"name": "咖啡"}]),
    ("items", None),
    ("expires_in_s", 601),
    ("webhook_url", "https://shop.example/other"),
    ("webhook_url", None),
    ("return_url", None),
    ("metadata", {"table": "6", "note": "no sugar"}),
    ("metadata", None),
    ("late_payment", "accept"),
    ("late_payment", None),
]


@pytest.mark.parametrize(("param", "value"), OTHER)
async def test_other_content_under_the_same_number_is_a_conflict_that_names_the_field(
    either: Api, param: str, value: Any
) -> None:
    body = order_body(**{**WHOLE, "buyer": buyer()})
    order = await either.created(**body)
    document = (await either.create(**{**body, param: value})).problem(409, "order_conflict", param)
    assert document["order_id"] == order["order_id"]
    assert await either.get(order["order_id"]) == order, "the order itself is untouched"


async def test_two_apps_may_use_the_same_number(api: Api, stranger: NewApp) -> None:
    body = order_body(buyer=buyer())
    order = await api.created(**body)
    theirs = await Api(api.session, api.url, stranger.api_key).created(**body)
    assert theirs["order_id"] != order["order_id"]


@pytest.mark.parametrize("who", ["a buyer", "nobody"])
async def test_a_hundred_identical_creates_at_once_are_one_order(
    api: Api, second_api: Api, database: asyncpg.Connection, who: str
) -> None:
    body = order_body(**{**WHOLE, "buyer": buyer() if who == "a buyer" else None})
    answers = await asyncio.gather(*((api, second_api)[n % 2].create(**body) for n in range(100)))
    assert Counter(answer.status for answer in answers) == {201: 1, 200: 99}
    assert len({answer.body for answer in answers}) == 1
    assert await _count(database, body["out_order_no"]) == 1


async def _count(database: asyncpg.Connection, number: str) -> int:
    count: int = await database.fetchval("SELECT count(*) FROM orders WHERE out_order_no = $1", number)
    return count


async def test_what_is_answered_is_durable(api: Api, database: asyncpg.Connection) -> None:
    """Whoever has the answer finds the row: each of many looks on a connection of its own as soon as it has it."""

    async def create_and_look() -> bool:
        order = await api.created()
        async with asyncio.timeout(20), looking:
            return bool(await database.fetchval("SELECT true FROM orders WHERE order_id = $1", order["order_id"]))

    looking = asyncio.Lock()
    assert all(await asyncio.gather(*(create_and_look() for _ in range(50))))


# --- duplicate submissions ------------------------------------------------------------------------------------------


async def test_the_same_content_for_the_same_buyer_under_another_number_is_a_duplicate(either: Api) -> None:
    who = buyer()
    first = await either.created(buyer=who)
    for _ in range(2):
        document = (await either.create(buyer=who)).problem(409, "duplicate_submission", "out_order_no")
        assert document["order_id"] == first["order_id"]


async def test_other_content_or_nobody_named_is_no_duplicate(either: Api) -> None:
    who = buyer()
    for fields in ({}, {"amount": 101}, {"subject": "x"}, {"items": [{"name": "x"}]}, {"buyer": buyer()}):
        await either.created(**{"buyer": who, **fields})
    for _ in range(2):
        await either.created(subject="for nobody in particular")


async def test_the_retry_of_a_create_is_never_its_own_duplicate(either: Api) -> None:
    body = order_body(buyer=buyer())
    first = await either.create(**body)
    assert (await either.create(buyer=body["buyer"])).status == 409
    again = await either.create(**body)
    assert (again.status, again.body) == (200, first.body)


async def test_after_the_window_the_same_can_be_bought_again(either: Api, database: asyncpg.Connection) -> None:
    """Postgres says when the window is over; what Redis still remembers does not matter."""
    who = buyer()
    first = await either.created(buyer=who)
    await database.execute(
        "UPDATE submissions SET expires_at = clock_timestamp() WHERE out_order_no = $1", first["out_order_no"]
    )
    second = await either.created(buyer=who)
    document = (await either.create(buyer=who)).problem(409, "duplicate_submission", "out_order_no")
    assert document["order_id"] == second["order_id"]


@pytest.mark.parametrize("url", ["off", "valkey"])
async def test_the_window_is_as_long_as_configured(
    gateway: Running, shop: NewApp, valkey: Valkey, session: aiohttp.ClientSession, tmp_path: Path, url: str
) -> None:
    config = write_config(
        tmp_path / "gateway.toml",
        gateway.database_url,
        None,
        orders={"duplicate_window_ms": 700},
        redis={"url": valkey.url if url == "valkey" else url},
    )
    async with started(config) as running:
        api, who = Api(session, running.url, shop.api_key), buyer()
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await api.created(buyer=who)

        async def created() -> Answer | None:
            answer = await api.create(buyer=who)
            return answer if answer.status == 201 else None

        await until(created)
        assert loop.time() - began_s >= 0.7


async def test_of_fifty_duplicates_at_once_one_is_an_order(api: Api, second_api: Api) -> None:
    """Over two gateways, one of them without Redis: Postgres decides."""
    who = buyer()
    answers = await asyncio.gather(*((api, second_api)[n % 2].create(buyer=who) for n in range(50)))
    assert Counter(answer.status for answer in answers) == {201: 1, 409: 49}
    order_id = next(answer.json["order_id"] for answer in answers if answer.status == 201)
    for answer in answers:
        if answer.status == 409:
            assert answer.problem(409, "duplicate_submission", "out_order_no")["order_id"] == order_id


async def test_a_refused_create_leaves_no_trace_among_the_submissions(either: Api) -> None:
    """A number that exists with other content: what it was refused with was never submitted."""
    who = buyer()
    old = await either.created(subject="old", buyer=who)
    (await either.create(out_order_no=old["out_order_no"], subject="new", buyer=who)).problem(
        409, "order_conflict", "subject"
    )
    await either.created(subject="new", buyer=who)


@pytest.mark.parametrize(
    "rubbish", [b"\xff\x00", b"holdfast:1:nobody-has-this-number", b"", b"x" * 100_000, ["a list"]]
)
async def test_what_redis_holds_changes_no_answer(api: Api, valkey: Valkey, rubbish: bytes | list[str]) -> None:
    """Every key is overwritten between two creates, one a duplicate and one not."""
    body = order_body(buyer=buyer())
    order = await api.created(**body)
    with redis.Redis.from_url(valkey.url) as client:
        for key in client.scan_iter("holdfast:submission:shop:*"):
            client.delete(key)
            if isinstance(rubbish, bytes):
                client.set(key, rubbish)
            else:
                client.rpush(key, *rubbish)
    document = (await api.create(buyer=body["buyer"])).problem(409, "duplicate_submission", "out_order_no")
    assert document["order_id"] == order["order_id"]
    assert (await api.create(**body)).status == 200
