"""What is written is what is read: an order comes back from the store as it was in memory, at every version."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from actors.checkpoint import birth, move
from actors.deadlines import Schedule
from actors.events import (
    CaseAction,
    CaseResolved,
    CloseRequested,
    Credential,
    CredentialType,
    Event,
    OutcomeUnknown,
    RefundNotFound,
    RefundOutcomeUnknown,
    RefundRefused,
    RefundReported,
    RefundRequested,
    RefundWord,
    ReportedClosed,
    ReportedNotClosable,
    ReportedNotFound,
    Source,
    SubmitAccepted,
    SubmitRefused,
    Verb,
)
from actors.lifecycle import transition
from actors.order import Order, new_order
from actors.ports import Verdict
from gateway import ids
from gateway.storage.group_commit import Bounds
from gateway.storage.journal import Journal
from tests.conformance.store.stores import Store
from tests.conformance.store.writes import committing
from tests.unit.orders import CONTENT, paid_event, pay

NOW_MS = 1_795_000_000_123
PARAMS = '{"openid":"o-1","scene":"茶 \\"quoted\\" \\\\"}'
FORM = '{"action":"https://x/?a=1&b=2","fields":{"sign":"a+b/c==","\\u0001":"<茶>"}}'


def credential(kind: CredentialType, value: str) -> Credential:
    return Credential(kind, value, NOW_MS + 60_007)


def reported(order: Order, at_ms: int, word: RefundWord, **said: Any) -> RefundReported:
    """What the channel says of the order's first refund."""
    refund = order.refunds[0]
    return RefundReported(at_ms, refund.refund_id, Source.QUERY, refund.channel, refund.account, word, **said)


STORIES: dict[str, list[Event | Callable[[Order], Event]]] = {
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
    "held, then accepted": [
        pay(NOW_MS + 1),
        paid_event(NOW_MS + 2, amount=7),
        CaseResolved(NOW_MS + 3, 3, "amount_mismatch", CaseAction.ACCEPT, "ann", "agreed with the customer"),
    ],
    "given back": [
        pay(NOW_MS + 1),
        paid_event(NOW_MS + 2),
        RefundRequested(NOW_MS + 3, "B1", 40, "zerbrochen 茶"),
        RefundRequested(NOW_MS + 4, "B2", 60),
        lambda order: reported(order, NOW_MS + 5, RefundWord.PROCESSING, channel_refund="5030"),
        lambda order: reported(order, NOW_MS + 6, RefundWord.SUCCEEDED, amount=40, success_at_ms=NOW_MS + 5),
        lambda order: RefundOutcomeUnknown(NOW_MS + 7, order.refunds[1].refund_id, "silence"),
        lambda order: RefundNotFound(NOW_MS + 8, order.refunds[1].refund_id),
        lambda order: RefundRefused(NOW_MS + 9, order.refunds[1].refund_id, "NOT_ENOUGH", "余额不足"),
    ],
}


@pytest.fixture
async def journal(store: Store) -> AsyncIterator[Journal]:
    async with committing(store.connect, Bounds(), endpoint=None) as committer:
        yield Journal(store.pool, committer)


@pytest.mark.parametrize("name", STORIES)
async def test_an_order_comes_back_as_it_was(journal: Journal, name: str) -> None:
    whole = msgspec.structs.replace(
        CONTENT, buyer="b", items_json="[]", metadata_json='{"a":"茶"}', webhook_url="https://w", return_url="https://r"
    )
    order: Order = new_order(ids.order_id(NOW_MS), whole, NOW_MS, NOW_MS + 1_800_000)
    assert await journal.commit(birth(order, b"1" * 16)) is Verdict.APPLIED
    assert await journal.load(order.order_id) == order
    for step in STORIES[name]:
        event: Any = step(order) if callable(step) else step
        decision = transition(order, event, Schedule())
        if decision.order is not order:
            assert await journal.commit(move(order, event, decision)) is Verdict.APPLIED
        order = decision.order
        assert await journal.load(order.order_id) == order
    assert order.version > 1


async def test_orders_are_found_by_every_name_they_have(journal: Journal) -> None:
    order: Order = new_order(ids.order_id(NOW_MS), CONTENT, NOW_MS, NOW_MS + 1_800_000)
    await journal.commit(birth(order, b"1" * 16))
    for event in (pay(NOW_MS + 1), paid_event(NOW_MS + 2), RefundRequested(NOW_MS + 3, "B1", 40)):
        decision = transition(order, event, Schedule())
        assert await journal.commit(move(order, event, decision)) is Verdict.APPLIED
        order = decision.order
    app_id, out_order_no = CONTENT.app_id, CONTENT.out_order_no
    assert await journal.by_out_order_no(app_id, out_order_no) == order
    assert await journal.order_of_refund(app_id, order.refunds[0].refund_id) == order
    assert await journal.order_of_out_refund_no(app_id, "B1") == order
    assert await journal.duplicate_of(app_id, b"1" * 16, "another") == order.order_id
    assert await journal.duplicate_of(app_id, b"1" * 16, out_order_no) is None
    assert await journal.by_out_order_no("stranger", out_order_no) is None
    assert await journal.order_of_refund("stranger", order.refunds[0].refund_id) is None
    assert await journal.order_of_out_refund_no("stranger", "B1") is None
    assert await journal.duplicate_of("stranger", b"1" * 16, "another") is None
    assert await journal.load("0" * 26) is None


async def test_the_timeline_tells_every_version_with_its_evidence(journal: Journal) -> None:
    order: Order = new_order(ids.order_id(NOW_MS), CONTENT, NOW_MS, NOW_MS + 1_800_000)
    write = move(order, pay(NOW_MS + 1), transition(order, pay(NOW_MS + 1), Schedule()))
    await journal.commit(birth(order, None))
    await journal.commit(write)
    told = [dict(record.items()) for record in await journal.timeline(order.order_id)]
    assert told == [
        {"version": 1, "at_ms": NOW_MS, "type": "OrderCreated", "state": "created", "evidence": None},
        {
            "version": 2,
            "at_ms": NOW_MS + 1,
            "type": "PayRequested",
            "state": "paying",
            "evidence": write.evidence.decode(),
        },
    ]
    assert {type(record["state"]) for record in await journal.timeline(order.order_id)} == {str}
