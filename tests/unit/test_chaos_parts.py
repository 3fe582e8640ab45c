"""What chaos is made of, each on its own: the clock that jumps, the book of the visitors, the door of the apps."""

import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from bench.chaos.endpoint import Endpoint, Mood
from bench.chaos.history import Made, Told, Wanted
from bench.chaos.skewed import set_offset, skewed
from bench.chaos.visitors import Visitors


def test_a_clock_jumps_as_soon_as_the_file_says_so(tmp_path: Path) -> None:
    file = tmp_path / "clock"
    set_offset(file, 0.0)
    now = skewed(file, lambda: 1000.0)
    assert now() == 1000.0
    set_offset(file, -3600.0)
    assert now() == -2600.0
    set_offset(file, 0.0)
    assert now() == 1000.0


async def nobody(_path: str, _order: Mapping[str, object]) -> tuple[int, Any]:
    return 200, {}


def test_the_visitors_book_counts_an_order_as_often_as_it_was_told_paid_anew() -> None:
    visitors = Visitors(1, ["http://127.0.0.1:1"], ("key", "whsec_c2VjcmV0"), nobody, {})
    for number in ("a", "b", "c"):
        visitors.history.wanted[number] = Wanted(number, 100, "wechatpay")
    visitors.history.made += [Made("a", "01A", 100, "CNY"), Made("b", "01B", 100, "CNY")]
    told = Told("evt_1", "01A", "a", "order.paid", 3, "paid", 100, 5.0)
    again = Told("evt_2", "01A", "a", "order.paid", 4, "paid", 100, 6.0)
    other = Told("evt_3", "01B", "b", "order.closed", 2, "closed", 0, 6.0)
    visitors.history.told += [told, told, other]
    rows = {row.out_order_no: row for row in visitors.book()}
    assert (rows["a"].order_id, rows["a"].fulfilled_count, rows["a"].paid_amount) == ("01A", 1, 100)
    assert (rows["b"].order_id, rows["b"].fulfilled_count, rows["b"].paid_amount) == ("01B", 0, 0)
    assert (rows["c"].order_id, rows["c"].fulfilled_count) == (None, 0)
    visitors.history.told.append(again)
    assert next(row for row in visitors.book() if row.out_order_no == "a").fulfilled_count == 2


# --- the door -------------------------------------------------------------------------------------------------------


class Shop:
    """Counts what comes, and answers 204."""

    def __init__(self) -> None:
        self.came: list[tuple[bytes, str]] = []

    async def take(self, request: web.BaseRequest) -> web.Response:
        self.came.append((await request.read(), request.headers.get("webhook-id", "")))
        return web.Response(status=204)


@pytest.fixture
async def shop() -> Shop:
    return Shop()


@pytest.fixture
async def door(shop: Shop) -> AsyncIterator[Endpoint]:
    runner = web.ServerRunner(web.Server(shop.take), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with Endpoint(f"http://127.0.0.1:{runner.addresses[0][1]}/webhooks") as endpoint:
        yield endpoint
    await runner.cleanup()


async def knock(door: Endpoint, *, follow: bool = False, within_s: float = 5.0) -> int | None:
    """The status, or None: there was no answer."""
    timeout = aiohttp.ClientTimeout(total=within_s)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(
                f"{door.url}/shop", data=b"{}", headers={"webhook-id": "evt_1"}, allow_redirects=follow
            ) as answer,
        ):
            return answer.status
    except (aiohttp.ClientError, TimeoutError):
        return None


async def test_in_a_fair_mood_the_shop_gets_it_and_its_answer_goes_back(door: Endpoint, shop: Shop) -> None:
    assert await knock(door) == 204
    assert shop.came == [(b"{}", "evt_1")]


@pytest.mark.parametrize(("mood", "status"), [(Mood.DOWN, None), (Mood.FAILS, 500), (Mood.REDIRECTS, 307)])
async def test_moods_in_which_the_shop_gets_nothing(door: Endpoint, shop: Shop, mood: Mood, status: int | None) -> None:
    door.mood = mood
    assert await knock(door) == status
    assert shop.came == []
    assert door.followed == 0


@pytest.mark.parametrize("mood", [Mood.TAKES_SILENTLY, Mood.SLOW, Mood.DRIPS])
async def test_moods_in_which_the_shop_gets_it_and_nobody_hears_of_that(door: Endpoint, shop: Shop, mood: Mood) -> None:
    door.mood = mood
    began = time.monotonic()
    assert await knock(door, within_s=0.6) is None
    assert len(shop.came) == 1
    if mood is not Mood.TAKES_SILENTLY:
        assert time.monotonic() - began >= 0.6


async def test_who_follows_a_redirect_is_counted(door: Endpoint) -> None:
    door.mood = Mood.REDIRECTS
    assert await knock(door, follow=True) == 204
    assert door.followed == 1


async def test_what_is_for_the_visitors_goes_to_them(door: Endpoint) -> None:
    came: list[bytes] = []

    async def receive(_headers: Mapping[str, str], body: bytes) -> int:
        came.append(body)
        return 204

    door.tell_visitors(receive)
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{door.url}/visitors", data=b"for you") as answer,
    ):
        assert answer.status == 204
    assert came == [b"for you"]
