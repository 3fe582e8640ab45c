"""The load beside the shop: an app that never asks twice and remembers every answer, and payers who go too far.

Visitors go to both gateways, sometimes to both at once with one number. They pay, pay what they closed, pay two
attempts of one order, come back under the same number with another amount, want their money back, or more than it, and
look at their order through both.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import aiohttp
import msgspec

from bench.chaos.history import History, Made, Read, RefundMade, Told, Wanted
from bench.ledgers import ShopOrder
from holdfast_client import WebhookRefused, verify_webhook

Steer = Callable[[str, Mapping[str, object]], Awaitable[tuple[int, Any]]]
Answer = tuple[int, dict[str, Any]]


class Way(NamedTuple):
    """How somebody pays."""

    channel: str
    method: str


EVERY_S = 0.2
PATIENCE_S = 10.0  # longer than a statement may take: a wrong no after an unknown outcome must be heard
PAY_TRIES_MAX = 4
PAY_AGAIN_AFTER_S = 0.5
SILENCE = 0  # no status at all
WECHAT, ALIPAY = Way("wechatpay", "native"), Way("alipay", "qr")
PLANS = {
    "pays": 3,
    "wants money back": 4,
    "wants too much back": 2,
    "pays twice": 3,
    "pays what is closed": 3,
    "closes": 1,
    "leaves": 1,
    "wants another amount": 1,
}
LATE_POLICIES = ("accept", "refund")
PAID_WITHIN_TRIES = 16
BOTH_SHARE = 0.3
NOTHING_DONE = frozenset({"overloaded", "unavailable"})
NOT_REFUNDED = NOTHING_DONE | {"refund_exceeds_paid", "order_not_paid"}
# What a gateway may answer in the worst of times; anything else of 500 and above is a bug.
EXCUSED = NOTHING_DONE | {"outcome_unknown"}


class Visitors:
    """`gateways`: their addresses; `keys`: the app's API key and webhook secret; `merchants`: by channel."""

    def __init__(
        self, seed: int, gateways: Sequence[str], keys: tuple[str, str], steer: Steer, merchants: Mapping[str, str]
    ) -> None:
        self.history = History()
        self._seed = seed
        self._gateways = list(gateways)
        self._api_key, self._secret = keys
        self._steer = steer
        self._merchants = merchants
        self._session: aiohttp.ClientSession | None = None

    async def come(self, until: Callable[[], bool]) -> None:
        """One after the other, until it is time to stop; returns when the last one has left."""
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with aiohttp.ClientSession(timeout=timeout) as self._session, asyncio.TaskGroup() as group:
            number = 0
            while not until():
                group.create_task(self._visit(number))
                number += 1
                await asyncio.sleep(EVERY_S)

    async def receive(self, headers: Mapping[str, str], body: bytes) -> int:
        """A webhook: believed, written down, taken."""
        try:
            event = verify_webhook(self._secret, headers, body)
        except WebhookRefused:
            return 400
        order = event.data.object
        self.history.told.append(
            Told(
                event_id=event.id,
                order_id=order.order_id,
                out_order_no=order.out_order_no,
                type=event.type,
                seq=event.seq,
                state=order.state,
                paid_amount=order.paid_amount,
                at_s=time.time(),
            )
        )
        return 204

    def book(self) -> list[ShopOrder]:
        """What an app that only listens would have in its ledger."""
        ids = {made.out_order_no: made.order_id for made in self.history.made}
        paid: dict[str, dict[str, Told]] = {}
        for told in self.history.told:
            if told.type == "order.paid":
                paid.setdefault(told.out_order_no, {}).setdefault(told.event_id, told)
        return [_row(wanted, ids.get(number), list(paid.get(number, {}).values()))
                for number, wanted in self.history.wanted.items()]  # fmt: skip

    async def tail(self, count: int) -> list[str]:
        """After everything was healed: requests that must succeed, on each gateway; what did not."""
        failed: list[str] = []
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as self._session:
            for number in range(count):
                for place, gateway in enumerate(self._gateways):
                    wanted = self._want(f"tail{place}-{number:03d}", 100 + number, WECHAT)
                    status, told = await self._create(gateway, wanted)
                    if status == 201:
                        status, told = await self._ask("GET", gateway, f"/v1/orders/{told['order_id']}")
                    if status != 200:
                        failed.append(f"{gateway}: {status} {told}")
        return failed

    async def trespass(self, order_ids: Sequence[str]) -> list[str]:
        """Look at, pay and close what belongs to another app; what was not refused as if it did not exist."""
        seen: list[str] = []
        wish = {"channel": WECHAT.channel, "method": WECHAT.method}
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as self._session:
            for number, order_id in enumerate(order_ids):
                gateway = self._gateways[number % len(self._gateways)]
                for method, verb, body in (("GET", "", None), ("POST", "/pay", wish), ("POST", "/close", None)):
                    status, _ = await self._ask(method, gateway, f"/v1/orders/{order_id}{verb}", body)
                    if status != 404:
                        seen.append(f"{method} {order_id}{verb}: {status}")
        return seen

    # --- one visit

    async def _visit(self, number: int) -> None:
        rng = random.Random(f"visitor:{self._seed}:{number}")
        plan = rng.choices(list(PLANS), list(PLANS.values()))[0]
        way = WECHAT if plan in ("pays twice", "pays what is closed") else rng.choice((WECHAT, ALIPAY))
        wanted = self._want(f"{number:06d}", rng.randint(10, 100_000), way, rng.choice(LATE_POLICIES))
        gateways = self._gateways if rng.random() < BOTH_SHARE else [rng.choice(self._gateways)]
        answers = await asyncio.gather(*(self._create(gateway, wanted) for gateway in gateways))
        made = [told["order_id"] for status, told in answers if status in (200, 201)]
        if made:
            await self._go_on(rng, plan, made[0], wanted, way)

    async def _go_on(self, rng: random.Random, plan: str, order_id: str, wanted: Wanted, way: Way) -> None:
        if plan == "wants another amount":
            other = msgspec.structs.replace(wanted, amount=wanted.amount + 1)
            status, told = await self._create(rng.choice(self._gateways), other, judged=False)
            if status in (200, 201):
                self.history.broken.append(f"{wanted.out_order_no}: taken with another amount: {told}")
        attempt = await self._pay(rng, order_id, way)
        await self._look(order_id)
        if attempt and plan in ("pays", "wants another amount", "wants money back", "wants too much back"):
            await asyncio.sleep(rng.uniform(0, 1))
            await self._payer(attempt, way)
            if plan.endswith("back"):
                await self._want_back(rng, plan, order_id, wanted)
        elif attempt and plan == "pays twice":
            second = await self._pay(rng, order_id, ALIPAY)
            paying = [self._payer(attempt, way, late=True), *([self._payer(second, ALIPAY)] if second else [])]
            await asyncio.gather(*paying)
        elif plan in ("closes", "pays what is closed"):
            await self._ask("POST", rng.choice(self._gateways), f"/v1/orders/{order_id}/close")
            if attempt and plan == "pays what is closed":
                await asyncio.sleep(rng.uniform(0, 1))
                await self._payer(attempt, way, late=True)
        for _ in range(4):
            await self._look(order_id)
            await asyncio.sleep(rng.uniform(0.1, 0.6))

    async def _want_back(self, rng: random.Random, plan: str, order_id: str, wanted: Wanted) -> None:
        """Parts and the whole, the same number at both gateways at once, together more than was paid."""
        if not await self._is_paid(order_id):
            return
        number, amount = f"{wanted.out_order_no}-back", wanted.amount
        part = rng.choice((amount, amount // 2)) if plan == "wants money back" else amount * 2 // 3
        second = number if plan == "wants money back" else f"{number}-2"
        wishes = zip(self._gateways, (number, second), strict=True)
        await asyncio.gather(*(self._refund(gateway, order_id, each, part) for gateway, each in wishes))
        await asyncio.sleep(rng.uniform(0, 2))
        await self._refund(rng.choice(self._gateways), order_id, number, part)
        await self._refund(rng.choice(self._gateways), order_id, f"{number}-3", amount - part or 1)

    async def _is_paid(self, order_id: str) -> bool:
        for _ in range(PAID_WITHIN_TRIES):
            await self._look(order_id)
            last = self.history.reads[-1] if self.history.reads else None
            if last is not None and last.order_id == order_id and last.state == "paid":
                return True
            await asyncio.sleep(PAY_AGAIN_AFTER_S)
        return False

    async def _refund(self, gateway: str, order_id: str, number: str, amount: int) -> None:
        body = {"out_refund_no": number, "amount": amount}
        status, told = await self._ask("POST", gateway, f"/v1/orders/{order_id}/refunds", body)
        code = told.get("code")
        if status in (200, 201, 202):
            self.history.refunds.append(RefundMade(number, told["refund_id"], told["order_id"], told["amount"]))
        elif code in NOT_REFUNDED:
            self.history.refused.add(number)
        elif status == SILENCE or code in EXCUSED:
            self.history.unsure.add(number)
        else:
            self.history.broken.append(f"refund {number}: {status} {told}")

    def _want(self, name: str, amount: int, way: Way, late_payment: str = "accept") -> Wanted:
        wanted = Wanted(f"visit-{self._seed}-{name}", amount, way.channel, late_payment)
        self.history.wanted[wanted.out_order_no] = wanted
        return wanted

    async def _create(self, gateway: str, wanted: Wanted, *, judged: bool = True) -> Answer:
        body = {**msgspec.to_builtins(wanted), "subject": wanted.out_order_no}
        del body["channel"]
        status, told = await self._ask("POST", gateway, "/v1/orders", body)
        if judged:
            self._write_down(wanted, status, told)
        return status, told

    def _write_down(self, wanted: Wanted, status: int, told: Mapping[str, Any]) -> None:
        number, code = wanted.out_order_no, told.get("code")
        if status in (200, 201):
            self.history.made.append(Made(number, told["order_id"], told["amount"], told["currency"]))
        elif code in NOTHING_DONE:
            self.history.refused.add(number)
        elif status == SILENCE or code in EXCUSED:
            self.history.unsure.add(number)
        else:
            self.history.broken.append(f"create of {number}: {status} {told}")

    async def _pay(self, rng: random.Random, order_id: str, way: Way) -> str:
        """The attempt that can now be paid, or nothing."""
        wish = {"channel": way.channel, "method": way.method}
        for _ in range(PAY_TRIES_MAX):
            status, told = await self._ask("POST", rng.choice(self._gateways), f"/v1/orders/{order_id}/pay", wish)
            payment = told.get("payment") or {}
            if status == 200 and payment.get("credential"):
                return str(payment["attempt_id"])
            await asyncio.sleep(PAY_AGAIN_AFTER_S)
        return ""

    async def _payer(self, attempt: str, way: Way, *, late: bool = False) -> None:
        """Somebody pays at the channel. Whether it could be paid is the channel's affair, and in its ledger."""
        order = {"channel": way.channel, "merchant": self._merchants[way.channel], "out_trade_no": attempt}
        try:
            await self._steer("/_sim/pay", {**order, "late": late})
        except (aiohttp.ClientError, TimeoutError):  # the channel is frozen
            self.history.silent += 1

    async def _look(self, order_id: str) -> None:
        for gateway in self._gateways:
            status, told = await self._ask("GET", gateway, f"/v1/orders/{order_id}")
            if status == 200:
                self.history.reads.append(Read(order_id, gateway, told["version"], told["state"]))
            elif status == 404:
                self.history.broken.append(f"{order_id}: promised, then not found at {gateway}")

    async def _ask(self, method: str, gateway: str, path: str, body: Mapping[str, object] | None = None) -> Answer:
        assert self._session is not None
        headers = {"authorization": f"Bearer {self._api_key}"}
        try:
            async with self._session.request(method, gateway + path, json=body, headers=headers) as answer:
                status, told = answer.status, await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError):
            self.history.silent += 1
            return SILENCE, {}
        if status >= 500 and isinstance(told, dict) and told.get("code") not in EXCUSED:
            self.history.broken.append(f"{method} {path}: {status} {told}")
        return status, told


def _row(wanted: Wanted, order_id: str | None, paid: list[Told]) -> ShopOrder:
    return ShopOrder(
        out_order_no=wanted.out_order_no,
        channel=wanted.channel,
        order_id=order_id,
        amount=wanted.amount,
        currency=wanted.currency,
        paid_amount=paid[0].paid_amount if paid else 0,
        fulfilled_count=len(paid),
        learned_by="webhook" if paid else None,
        paid_at_s=paid[0].at_s if paid else None,
    )
