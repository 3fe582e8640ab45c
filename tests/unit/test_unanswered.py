"""Who is asked after again when a channel that was silent is heard: everybody who waited, and nobody else."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from actors.actor import Answer
from actors.errors import Overloaded
from actors.events import Event, SyncRequested
from actors.order import Reply
from gateway import unanswered
from gateway.unanswered import Unanswered
from tests.unit.orders import PENDING


class Channel:
    """As much of an installed channel as is looked at."""

    def __init__(self) -> None:
        self.silent = True

    @property
    def transport(self) -> "Channel":
        return self


class Stage:
    """Stands for the runner, the clock and the registry. `asked` is every order that was asked after."""

    def __init__(self) -> None:
        self.channels = {"wechatpay": Channel(), "alipay": Channel()}
        self.asked: list[str] = []
        self.rooms = 0
        self.fails = False
        made: Any = Unanswered(self.channels, self.ask, self, self)  # type: ignore[arg-type]
        self.unanswered: Unanswered = made

    def ask(self, order_id: str, event: Event) -> "asyncio.Future[Answer]":
        assert event == SyncRequested(7)
        self.asked.append(order_id)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if self.fails:
            future.set_exception(Overloaded("too much"))
        else:
            future.set_result(Answer(Reply.WAIT, PENDING))
        return future

    def now_ms(self) -> int:
        return 7

    def when_ended(self, ended: Callable[[str, str, bool], None]) -> None:
        raise AssertionError("not started here")

    async def room(self) -> None:
        self.rooms += 1

    async def looked(self) -> list[str]:
        """Who is asked after in one look."""
        self.asked = []
        await self.unanswered.look()
        return self.asked


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_while_it_is_silent_one_at_a_time_finds_out_and_then_all_are_asked_after_once(stage: Stage) -> None:
    for order_id in ("A", "B", "C"):
        stage.unanswered.note("wechatpay", order_id, False)
    assert await stage.looked() == ["A"]
    stage.unanswered.note("wechatpay", "A", False)
    assert await stage.looked() == ["B"]
    stage.unanswered.note("wechatpay", "B", False)
    stage.channels["wechatpay"].silent = False
    assert await stage.looked() == ["C", "A", "B"]
    assert await stage.looked() == []


async def test_who_got_an_answer_waits_for_none(stage: Stage) -> None:
    for order_id in ("A", "B"):
        stage.unanswered.note("wechatpay", order_id, False)
    stage.unanswered.note("wechatpay", "A", True)
    stage.channels["wechatpay"].silent = False
    assert await stage.looked() == ["B"]


async def test_an_outcome_that_is_unknown_although_the_channel_answers_is_left_to_the_ladder(stage: Stage) -> None:
    stage.channels["wechatpay"].silent = False
    stage.unanswered.note("wechatpay", "A", False)
    stage.unanswered.note("gone", "B", False)
    assert await stage.looked() == []


async def test_channels_come_back_each_for_itself(stage: Stage) -> None:
    stage.unanswered.note("wechatpay", "A", False)
    stage.unanswered.note("wechatpay", "B", False)
    stage.unanswered.note("alipay", "C", False)
    stage.unanswered.note("alipay", "D", False)
    stage.channels["alipay"].silent = False
    assert await stage.looked() == ["A", "C", "D"]


async def test_many_are_asked_after_in_pages_as_the_runner_has_room(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unanswered, "PAGE", 10)
    monkeypatch.setattr(unanswered, "ORDERS_MAX", 25)
    stage.fails = True  # whoever is not taken now is left to the ladder
    for number in range(30):
        stage.unanswered.note("wechatpay", str(number), False)
    stage.channels["wechatpay"].silent = False
    assert await stage.looked() == [str(number) for number in range(25)]
    assert stage.rooms == 3
