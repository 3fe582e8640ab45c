"""An order among three honest channels, a payer who may pay with whatever they were ever shown, and a lossy network.

The channels differ as the real ones do: WeChat Pay knows an attempt from its submission on; Alipay and UnionPay hear of
it when the payer opens what they were given; UnionPay closes nothing. Requests and answers are late or lost. Then the
promise itself can be looked at: whatever happened, nobody paid twice, no payment was lost, every order came to an end.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from actors.effects import Close, Effect, Submit
from actors.events import (
    CloseRequested,
    Credential,
    Due,
    Event,
    OutcomeUnknown,
    ReportedAlreadyPaid,
    ReportedClosed,
    ReportedNotClosable,
    ReportedNotFound,
    ReportedNotPaid,
    SubmitAccepted,
    SubmitRefused,
    Verb,
)
from actors.order import Order, OrderState, PaymentKind
from tests.unit.orders import BORN_MS, EXPIRES_MS, decide, fresh, paid_event, pay, qr

CHANNELS = ("wechatpay", "alipay", "unionpay")
CHANNEL_EXPIRES_MS = EXPIRES_MS - 5000
CODE_LIFE_MS = 600_000
GIVEN_UP_MS = 5000
STEPS_MAX = 5000


class Trade(msgspec.Struct):
    """What a channel has of an attempt. Not `known`: it gave something away that the payer has not opened."""

    known: bool
    closed: bool = False
    paid: bool = False


class World:
    """One order, its channels, its payer. Everything random comes from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.order: Order = fresh()
        self.now_ms = BORN_MS
        self.lossy = True
        self.trades: dict[int, Trade] = {}
        self.held: dict[int, list[Credential]] = {}
        self.in_flight: set[int] = set()
        self.ever_paid = False
        self._coming: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = itertools.count()

    # --- the gateway

    def tell(self, event: Event) -> None:
        decision = decide(self.order, event)
        self.order = decision.order
        live = self.order.live_attempt
        assert sum(attempt.live for attempt in self.order.attempts) <= 1
        if live is not None and live.credential is not None:
            self.held.setdefault(live.number, []).append(live.credential)
        for effect in decision.effects:
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        if self._chance(0.05):
            return  # lost with its process
        if isinstance(effect, Submit):
            self.in_flight.add(effect.number)
        answered: list[bool] = []

        def arrive() -> None:
            event = self._answer(effect)
            if not self._chance(0.15):
                self._after(self._delay_ms(), lambda: hear(event))

        def hear(event: Event) -> None:
            if not answered:
                answered.append(True)
                self._heard(effect, event)

        if not self._chance(0.15):
            self._after(self._delay_ms(), arrive)
        verb = Verb.SUBMIT if isinstance(effect, Submit) else Verb.CLOSE if isinstance(effect, Close) else Verb.QUERY
        self._after(GIVEN_UP_MS, lambda: hear(OutcomeUnknown(0, effect.number, verb, "silence")))

    def _heard(self, effect: Effect, event: Event) -> None:
        if isinstance(effect, Submit):
            self.in_flight.discard(effect.number)
        self.tell(msgspec.structs.replace(event, at_ms=self.now_ms))

    # --- the channels

    def _answer(self, effect: Effect) -> Event:
        number, channel = effect.number, self.order.attempts[effect.number - 1].channel
        trade = self.trades.get(number)
        if isinstance(effect, Submit):
            return self._submit(number, channel, trade)
        if trade is None or not trade.known:
            closable = channel != "unionpay" or not isinstance(effect, Close)
            return ReportedNotFound(0, number) if closable else ReportedNotClosable(0, number)
        if trade.paid:
            return ReportedAlreadyPaid(0, number) if isinstance(effect, Close) else self._paid(number)
        ended = self.now_ms >= CHANNEL_EXPIRES_MS and channel != "wechatpay"
        if isinstance(effect, Close) and channel == "unionpay" and not ended:
            return ReportedNotClosable(0, number)
        trade.closed = trade.closed or ended or isinstance(effect, Close)
        return ReportedClosed(0, number) if trade.closed else ReportedNotPaid(0, number)

    def _submit(self, number: int, channel: str, trade: Trade | None) -> Event:
        if trade is None and self._chance(0.1):
            return SubmitRefused(0, number, "NO_AUTH", "no")
        if trade is not None and (trade.paid or trade.closed):
            return ReportedAlreadyPaid(0, number) if trade.paid else ReportedClosed(0, number)
        self.trades.setdefault(number, Trade(known=channel == "wechatpay"))
        life_ms = EXPIRES_MS if channel == "unionpay" else CODE_LIFE_MS
        return SubmitAccepted(0, number, qr(min(self.now_ms + life_ms, CHANNEL_EXPIRES_MS)))

    def _paid(self, number: int) -> Event:
        attempt = self.order.attempts[number - 1]
        facts = {"channel": attempt.channel, "account": attempt.account, "transaction": f"T{number}"}
        return paid_event(self.now_ms, number=number, **facts)

    # --- people

    def somebody_pays(self) -> None:
        """With anything they were ever shown, if its channel lets them."""
        number = self.random.choice(sorted(self.held) or [0])
        trade = self.trades.get(number)
        if trade is None:
            return
        if any(self.now_ms < credential.expires_at_ms for credential in self.held[number]):
            trade.known = True  # it is opened
        if trade.known and not trade.closed and not trade.paid and self.now_ms < CHANNEL_EXPIRES_MS:
            trade.paid = self.random.random() < 0.5
            if trade.paid and not self._chance(0.5):
                self._after(self._delay_ms(), lambda: self.tell(self._paid(number)))

    def the_app_asks(self) -> None:
        if self.random.random() < 0.1:
            self.tell(CloseRequested(self.now_ms))
            return
        channel, tried = self.random.choice(CHANNELS), self.random.choice([frozenset[int](), frozenset({1, 2})])
        here = frozenset(self.in_flight) if self.random.random() < 0.7 else frozenset()  # or at another gateway
        self.tell(pay(self.now_ms, here, channel=channel, account=channel, method="x", tried_to_close=tried))

    # --- time

    def pass_time(self, until_ms: int | None) -> bool:
        """What comes next, not later than `until_ms`; whether there was anything."""
        moments = [moment for moment, _, _ in self._coming[:1]]
        due_ms = self.order.next_check_at_ms
        at_ms = min([*moments, *([] if due_ms is None else [due_ms])], default=None)
        if at_ms is None or (until_ms is not None and at_ms > until_ms):
            self.now_ms = until_ms or self.now_ms
            return False
        self.now_ms = max(self.now_ms, at_ms)
        if moments and moments[0] == at_ms:
            heapq.heappop(self._coming)[2]()
        else:
            self.tell(Due(self.now_ms))
        return True

    def _after(self, delay_ms: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._coming, (self.now_ms + delay_ms, next(self._sequence), action))

    def _delay_ms(self) -> int:
        return self.random.choice([20, 200, 3000, 20_000]) if self.lossy else 20

    def _chance(self, share: float) -> bool:
        return self.lossy and self.random.random() < share


def live_through(seed: int) -> World:
    """Half an hour of people and losses, and then what time alone brings."""
    world = World(seed)
    for _ in range(world.random.randrange(2, 40)):
        until_ms = world.now_ms + world.random.choice([100, 2000, 30_000, 200_000])
        while world.pass_time(until_ms):
            pass
        world.random.choice([world.the_app_asks, world.somebody_pays])()
    world.lossy = False
    for _ in range(STEPS_MAX):
        if not world.pass_time(None):
            return world
    raise AssertionError("the order never came to rest")


@pytest.mark.parametrize("first", range(0, 3000, 300))
def test_nobody_pays_twice_no_payment_is_lost_and_every_order_ends(first: int) -> None:
    ends: dict[Any, int] = {}
    for seed in range(first, first + 300):
        world = live_through(seed)
        order, paid = world.order, sorted(number for number, trade in world.trades.items() if trade.paid)
        assert len(paid) <= 1, seed
        assert [payment.number for payment in order.payments] == paid, seed
        assert all(payment.kind is PaymentKind.CREDIT for payment in order.payments), seed
        assert order.state is (OrderState.PAID if paid else OrderState.CLOSED), (seed, order)
        assert order.live_attempt is None, seed
        kind = (order.state, len(order.attempts) > 1)
        ends[kind] = ends.get(kind, 0) + 1
    assert len(ends) == 4, "each end was reached, with one attempt and with several"
