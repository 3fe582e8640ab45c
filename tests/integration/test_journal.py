"""What is written is what is read: an order comes back from PostgreSQL as it was in memory, at every version."""

from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest

from actors.checkpoint import birth, move
from actors.deadlines import Schedule
from actors.events import (
    CloseRequested,
    Credential,
    CredentialType,
    Event,
    OutcomeUnknown,
    ReportedClosed,
    ReportedNotClosable,
    ReportedNotFound,
    SubmitAccepted,
    SubmitRefused,
    Verb,
)
from actors.lifecycle import transition
from actors.order import Order, new_order
from actors.ports import Verdict
from gateway import ids
from gateway.config import Config
from gateway.databases import connector
from gateway.metrics import Metrics
from gateway.storage.group_commit import Bounds, GroupCommit
from gateway.storage.journal import Journal
from gateway.storage.rows import Settings
from tests.unit.orders import CONTENT, paid_event, pay

NOW_MS = 1_795_000_000_123
PARAMS = '{"openid":"o-1","scene":"茶 \\"quoted\\" \\\\"}'
FORM = '{"action":"https://x/?a=1&b=2","fields":{"sign":"a+b/c==","\\u0001":"<茶>"}}'


def credential(kind: CredentialType, value: str) -> Credential:
    return Credential(kind, value, NOW_MS + 60_007)


STORIES: dict[str, list[Event]] = {
    "asked for with params": [pay(NOW_MS + 1, method="jsapi", params_json=PARAMS)],
    "every kind of credential": [
        event
        for kind, value in zip(CredentialType, ("weixin://x?y=茶", "https://x/?a=1", FORM, PARAMS, ""), strict=True)
        for event in (pay(NOW_MS + 1), SubmitAccepted(NOW_MS + 2, 1, credential(kind, value)))
    ],
    "sent again": [
        pay(NOW_MS + 1, params_json="{}"),
        OutcomeUnknown(NOW_MS + 900, 1, Verb.SUBMIT, "silence"),
        ReportedNotFound(NOW_MS + 1001, 1),
    ],
    "refused": [pay(NOW_MS + 1), SubmitRefused(NOW_MS + 2, 1, "NO_AUTH", "商户无权限")],
    "changed their mind": [
        pay(NOW_MS + 1),
        SubmitAccepted(NOW_MS + 2, 1, credential(CredentialType.QR, "x")),
        pay(NOW_MS + 3, channel="alipay", account="2088"),
        ReportedNotClosable(NOW_MS + 4, 1),
        pay(NOW_MS + 5, channel="alipay", account="2088"),
        ReportedClosed(NOW_MS + 6, 1),
        pay(NOW_MS + 7, channel="alipay", account="2088"),
        SubmitAccepted(NOW_MS + 8, 2, credential(CredentialType.FORM, FORM)),
        paid_event(NOW_MS + 9, number=2, channel="alipay", account="2088", transaction="A1"),
        paid_event(NOW_MS + 10, number=1),
    ],
    "closed": [pay(NOW_MS + 1), CloseRequested(NOW_MS + 2), ReportedClosed(NOW_MS + 3, 1)],
    "held": [pay(NOW_MS + 1), paid_event(NOW_MS + 2, amount=7)],
}


@pytest.fixture
async def journal(database_url: str) -> AsyncIterator[Journal]:
    settings = Settings(60_000, 30_000, lambda _app: None)
    committer = GroupCommit(connector(Config(), database_url), settings, Bounds(), Metrics(), lambda _rows: None)
    await committer.start()
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        yield Journal(pool, committer)
    await committer.stop()


@pytest.mark.parametrize("name", STORIES)
async def test_an_order_comes_back_as_it_was(journal: Journal, name: str) -> None:
    whole = msgspec.structs.replace(
        CONTENT, buyer="b", items_json="[]", metadata_json='{"a":"茶"}', webhook_url="https://w", return_url="https://r"
    )
    order: Order = new_order(ids.order_id(NOW_MS), whole, NOW_MS, NOW_MS + 1_800_000)
    assert await journal.commit(birth(order, b"1" * 16)) is Verdict.APPLIED
    assert await journal.load(order.order_id) == order
    for event in STORIES[name]:
        decision = transition(order, event, Schedule())
        if decision.order is not order:
            assert await journal.commit(move(order, event, decision)) is Verdict.APPLIED
        order = decision.order
        assert await journal.load(order.order_id) == order
    assert order.version > 1
