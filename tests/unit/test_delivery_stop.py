"""Webhooks under way when the process stops are sent to their end."""

import asyncio
from typing import Any, cast

from gateway.metrics import Metrics
from gateway.storage.apps import Apps, Endpoint
from gateway.storage.outbox import Outbox, OutboxRow
from gateway.webhooks.delivery import Delivery

ROW = OutboxRow("evt_1", "shop", "0" * 26, 2, "order.paid", "https://shop.test/hooks", b"{}", 0, 0)


class SlowApps:
    """The secrets take a moment to be read."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answer: asyncio.Future[Endpoint] = asyncio.get_running_loop().create_future()

    async def webhook(self, _app_id: str) -> Endpoint:
        self.asked.set()
        return await self.answer


class Marks:
    """An outbox without a database."""

    def __init__(self) -> None:
        self.delivered_ids: list[str] = []

    async def claim(self, _limit: int, _lease_s: float, _paused: Any) -> list[OutboxRow]:
        return []

    def delivered(self, row: OutboxRow, _status: int) -> "asyncio.Future[None]":
        self.delivered_ids.append(row.event_id)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def stop(self) -> None:
        return None


class Session:
    """An app that takes everything; it is its own answer."""

    status = 204

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.content = self

    def post(self, _url: str, **_: Any) -> "Session":
        return self

    async def __aenter__(self) -> "Session":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def at_eof(self) -> bool:
        return True

    async def close(self) -> None:
        return None


async def test_a_try_that_waits_for_its_secrets_is_sent_although_the_process_stops() -> None:
    apps, marks = SlowApps(), Marks()
    delivery = Delivery(
        cast(Outbox, marks),
        cast(Apps, apps),
        Metrics(),
        schedule_s=(0.0, 5.0),
        timeout_s=5.0,
        jitter=0.0,
        per_endpoint=1,
        lease_s=10.0,
        open_session=cast(Any, Session),
    )
    await delivery.start()
    delivery.owe([ROW])
    await apps.asked.wait()
    stopping = asyncio.create_task(delivery.stop(5.0))
    await asyncio.sleep(0)
    apps.answer.set_result(Endpoint(None, (b"secret",)))
    await stopping
    assert marks.delivered_ids == ["evt_1"]
