"""What happens to one order: how the app asks for it, and what its payer does. Drawn from the seed."""

import asyncio
import random
import time
from typing import Any, Final

import msgspec

from channels.simulator.trades import Trade
from tests.simulation.history import FAIL, OK, STRANGER, History, Told
from tests.simulation.loop import SimulatedLoop
from tests.simulation.platforms import PLATFORMS, Platforms
from tests.simulation.shop import Client

METHODS: Final = {"wechatpay": "native", "alipay": "qr", "unionpay": "qr"}
GIVE_UP_AFTER_S: Final = 60.0
SHARED: Final = "refund-of-many"
LONG_S: Final = 250
SLOW_SHARE: Final = 0.15
WATCHED_S: Final = 60.0  # shorter than the gateways' watch after closing


class Plan(msgspec.Struct, frozen=True):
    """One order's story."""

    number: str
    starts_s: float
    amount: int
    expires_in_s: int
    channels: tuple[str, ...]
    late_policy: str
    buyer: str | None
    pays_after_s: float | None  # None: never
    pays_late: bool = False
    pays_amount: int | None = None  # what the platform will state instead
    pays_first_too: bool = False  # after changing to the second channel, the first code as well
    insists: bool = False  # the first code's payment goes through although it was closed: against the platform's word
    impatient: bool = False  # pays as soon as the platform can be paid, before anybody else hears of it
    twin_create: bool = False
    one_try: bool = False  # gives up when told no
    other_body: bool = False
    duplicate: bool = False
    closes_after_s: float | None = None
    stranger: bool = False
    silent: bool = False  # nobody looks at the order again: reading it would have its channel asked
    shares_refund_number: bool = False  # with other orders: a mistake of the app's
    refunds: tuple[int, ...] = ()  # amounts asked back at once, when it is paid


def draw_plans(chance: random.Random, count: int, channels: tuple[str, ...], begin_within_s: float) -> list[Plan]:
    """The orders of a run."""
    mistaken_share = chance.choice((0.0, 0.0, 0.1, 0.8))
    plans = [_draw(chance, index, channels, begin_within_s, mistaken_share) for index in range(count)]
    return [_in_no_hurry(chance, plan) if chance.random() < SLOW_SHARE else plan for plan in plans]


def _in_no_hurry(chance: random.Random, plan: Plan) -> Plan:
    """Somebody who pays after the first query, on a page that nobody looks at: only the ladder finds it out early."""
    return msgspec.structs.replace(
        plan,
        expires_in_s=LONG_S,
        channels=plan.channels[:1],
        pays_after_s=chance.choice((35.0, 50.0, 70.0)),
        pays_late=False,
        pays_first_too=False,
        insists=False,
        impatient=False,
        closes_after_s=None,
        silent=True,
    )


def _draw(
    chance: random.Random, index: int, channels: tuple[str, ...], begin_within_s: float, mistaken_share: float
) -> Plan:
    roll = chance.random
    switches = len(channels) > 1 and roll() < 0.35
    late, never = roll() < 0.15, roll() < 0.12
    expires_in_s = chance.choice((30, 60, 90))
    pays_after_s: float | None = chance.choice((0.0, 0.5, 2.0, 5.0, 15.0, expires_in_s - 4.0))
    if late:
        pays_after_s = chance.choice((expires_in_s * 0.9, expires_in_s + 2.0, expires_in_s + 12.0, expires_in_s + 40.0))
    elif never:
        pays_after_s = None
    amount = chance.randrange(10, 500_00)
    refunds: tuple[int, ...] = ()
    if roll() < 0.6:
        refunds = chance.choice(((amount,), (amount // 3,), (amount // 2 + 1, amount // 2 + 1), (amount, amount // 2)))
    return Plan(
        number=f"n{index}",
        starts_s=roll() * begin_within_s,
        amount=amount,
        expires_in_s=expires_in_s,
        channels=tuple(chance.sample(channels, 2 if switches else 1)),
        late_policy=chance.choice(("accept", "refund", "hold")),
        buyer=f"buyer {index}" if roll() < 0.4 else None,
        pays_after_s=pays_after_s,
        pays_late=late,
        pays_amount=chance.choice((1, 77)) if roll() < 0.06 else None,
        pays_first_too=switches and roll() < 0.7,
        insists=switches and roll() < 0.4,
        impatient=roll() < 0.05,
        twin_create=roll() < 0.25,
        one_try=roll() < 0.1,
        other_body=roll() < 0.15,
        duplicate=roll() < 0.3,
        closes_after_s=chance.choice((0.2, 3.0, 20.0)) if roll() < 0.15 else None,
        stranger=roll() < 0.2,
        silent=roll() < 0.45,
        shares_refund_number=roll() < mistaken_share,
        refunds=refunds,
    )


class Story:
    """Lives through a plan."""

    def __init__(
        self, plan: Plan, client: Client, platforms: Platforms, history: History, tables: Any, chance: random.Random
    ) -> None:
        self._plan = plan
        self._client = client
        self._platforms = platforms
        self._history = history
        self._tables = tables
        self._chance = chance
        self.order_id = ""

    async def live(self) -> None:
        """From the first request to the last look."""
        plan = self._plan
        await asyncio.sleep(plan.starts_s)
        created = await self._create()
        if created is None:
            return
        assert created.order is not None
        self.order_id = created.order["order_id"]
        side = [self._spawn(self._aside())]
        if plan.closes_after_s is not None:
            side.append(self._spawn(self._close(plan.closes_after_s)))
        if plan.impatient:
            side.append(self._spawn(self._pay_at_once(plan.channels[0])))
        code = await self._pay(plan.channels[0])
        payers = [] if code is None else [self._spawn(self._payer(code, first=len(plan.channels) > 1))]
        if len(plan.channels) > 1:
            await asyncio.sleep(self._chance.choice((0.1, 2.0, 8.0)))
            second = await self._pay(plan.channels[1])
            if second is not None:
                payers.append(self._spawn(self._payer(second, first=False)))
        if not plan.silent:
            await self._watch()
        await asyncio.gather(*side, *payers)

    # --- the app ------------------------------------------------------------------------------------------------------

    def _content(self, **changes: Any) -> dict[str, Any]:
        plan = self._plan
        content = {
            "out_order_no": plan.number,
            "amount": plan.amount,
            "currency": "CNY",
            "subject": f"order {plan.number}",
            "expires_in_s": plan.expires_in_s,
            "late_payment": plan.late_policy,
        }
        return content | ({"buyer": plan.buyer} if plan.buyer else {}) | changes

    async def _create(self) -> Told | None:
        """The same number until somebody says yes. A definite no is believed: then there is no such order."""
        plan = self._plan
        give_up_s = self._now() + GIVE_UP_AFTER_S
        first = True
        while self._now() < give_up_s:
            asked = [self._ask_create(plan.number)]
            if first and plan.twin_create:
                asked.append(self._ask_create(plan.number))
            if first and plan.duplicate and plan.buyer:
                asked.append(self._ask_create(plan.number + "b"))
            first = False
            answers = [told for told in await asyncio.gather(*asked) if told.out_order_no == plan.number]
            for told in answers:
                if told.outcome == OK:
                    return told
            if any(told.code == "duplicate_submission" for told in answers):
                return None
            if plan.one_try and all(told.outcome == FAIL for told in answers):
                return None
            await asyncio.sleep(self._chance.uniform(0.2, 2.0))
        return None

    async def _ask_create(self, number: str, **changes: Any) -> Told:
        body = self._content(out_order_no=number, **changes)
        return await self._client.ask("create", number, "POST", "/v1/orders", body)

    async def _pay(self, channel: str) -> str | None:
        """The code to show; None if there is none to be had."""
        body = {"channel": channel, "method": METHODS[channel]}
        give_up_s = self._now() + GIVE_UP_AFTER_S
        while self._now() < give_up_s:
            told = await self._client.ask("pay", self._plan.number, "POST", f"/v1/orders/{self.order_id}/pay", body)
            if told.status == 200 and told.code:
                credential = msgspec.json.decode(told.code)["credential"]
                return str(credential["value"]) if credential else None
            if told.outcome == FAIL and told.status == 409 and told.code != "payment_in_progress":
                return None
            if told.code == "payment_refused":
                return None
            await asyncio.sleep(self._chance.uniform(0.5, 4.0))
        return None

    async def _refund(self, suffix: str, amount: int) -> None:
        """The same number until there is a definite answer."""
        number = SHARED if self._plan.shares_refund_number else f"{self._plan.number}{suffix}"
        body = {"out_refund_no": number, "amount": amount, "reason": "returned"}
        give_up_s = self._now() + GIVE_UP_AFTER_S
        while self._now() < give_up_s:
            told = await self._client.ask(
                "refund", self._plan.number, "POST", f"/v1/orders/{self.order_id}/refunds", body
            )
            if told.outcome == OK or told.status in (409, 422):
                return
            if self._plan.one_try and told.outcome == FAIL:
                return
            await asyncio.sleep(self._chance.uniform(0.2, 3.0))

    async def _close(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        for _ in range(5):
            told = await self._client.ask("close", self._plan.number, "POST", f"/v1/orders/{self.order_id}/close")
            if told.outcome == OK or told.status == 409:
                return
            await asyncio.sleep(2.0)

    async def _aside(self) -> None:
        """What else may be asked meanwhile."""
        plan = self._plan
        if plan.other_body:
            await self._ask_create(plan.number, amount=plan.amount + 1)
        if plan.stranger:
            for method, verb in (("GET", ""), ("POST", "/close"), ("POST", "/sync"), ("GET", "/timeline")):
                target = f"/v1/orders/{self.order_id}{verb}"
                await self._client.ask(f"stranger{verb}", plan.number, method, target, app=STRANGER)
            body = {"channel": plan.channels[0], "method": METHODS[plan.channels[0]]}
            target = f"/v1/orders/{self.order_id}/pay"
            await self._client.ask("stranger/pay", plan.number, "POST", target, body, app=STRANGER)

    async def _watch(self) -> None:
        """A cashier's page that asks now and then, on both gateways, until there is an end."""
        until_s = self._now() + self._plan.expires_in_s
        target = f"/v1/orders/{self.order_id}"
        while self._now() < until_s:
            told = await self._read(target)
            if told.state in ("closed", "exception"):
                return
            if told.state == "paid":
                for gateway in ("east", "west"):
                    await self._client.ask("read", self._plan.number, "GET", target, gateway=gateway)
                await asyncio.gather(*(self._refund(f"r{n}", amount) for n, amount in enumerate(self._plan.refunds)))
                return
            await asyncio.sleep(self._chance.choice((1.0, 4.0, 9.0)))

    async def _read(self, target: str) -> Told:
        if self._chance.random() < 0.2:
            return await self._client.ask("sync", self._plan.number, "POST", f"{target}/sync")
        if self._chance.random() < 0.3:
            found = f"/v1/orders?out_order_no={self._plan.number}"
            return await self._client.ask("read", self._plan.number, "GET", found)
        return await self._client.ask("read", self._plan.number, "GET", target)

    # --- the payer ----------------------------------------------------------------------------------------------------

    async def _payer(self, code: str, *, first: bool) -> None:
        """Pays with the code, if still possible; with the first of two only when changing one's mind is not enough."""
        plan = self._plan
        if plan.pays_after_s is None or (first and not plan.pays_first_too):
            return
        await asyncio.sleep(self._chance.uniform(0.0, 12.0) if first else plan.pays_after_s)
        trade = self._platforms.find(code)
        if trade is None:
            return
        late, payable = plan.pays_late or (first and plan.insists), trade.payable(time.time())
        if not payable and (not late or self._nobody_watches()):
            return
        if not payable:
            self._history.count("late payment after the end")
        await self._at_platform(trade, late=late)

    async def _pay_at_once(self, channel: str) -> None:
        """Pays what the platform was just told to let somebody pay."""
        until_s = self._now() + 2.0
        while self._now() < until_s:
            await asyncio.sleep(0.005)
            trade = self._platforms.find_number(channel, f"{self.order_id}01")
            if trade is not None:
                await self._at_platform(trade, late=False)
                return

    async def _at_platform(self, trade: Trade, *, late: bool) -> None:
        work = self._platforms.pay_as_told(trade, late=late, amount=self._plan.pays_amount)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        await loop.spawn(f"{PLATFORMS}:{trade.made.channel}", work)

    def _nobody_watches(self) -> bool:
        """Whether the order was closed so long ago that only the channel's statement would tell."""
        closed_at_ms = self._tables.orders[self.order_id].closed_at_ms
        return closed_at_ms is not None and time.time() - closed_at_ms / 1000 > WATCHED_S

    def _spawn(self, work: Any) -> "asyncio.Task[Any]":
        return asyncio.ensure_future(work)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
