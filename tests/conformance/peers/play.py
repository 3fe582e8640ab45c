"""What a peer's play is made of: checks, a payer, a mailbox, orders at the gateway for which it is the channel."""

import secrets
import time
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.conformance.peers.contents import Order
from tests.conformance.peers.driver import Driver, Silent
from tests.conformance.peers.stage import GATEWAYS, Letter, Stage

HERE: Final = Path(__file__).resolve().parent
AMOUNT: Final = 1234
SUBJECT: Final = "A peer's tea +% 茶"


class Check(msgspec.Struct, frozen=True):
    """One thing that held or did not."""

    name: str
    ok: bool
    detail: str = ""


class Message(msgspec.Struct, frozen=True):
    """A notification as the peer made it."""

    headers: dict[str, str]
    body: bytes


class Play:
    """One peer on the stage. Numbers are its own: several peers are clients of the same merchant."""

    def __init__(self, stage: Stage, platform: str, mode: str, driver: Driver) -> None:
        self.stage = stage
        self.mode = mode
        self.driver = driver
        self.checks: list[Check] = []
        self._platform = platform
        self._run = secrets.token_hex(4)

    @asynccontextmanager
    async def check(self, name: str) -> AsyncIterator[None]:
        """A block that must come to its end. What it raises is why it did not, and the play goes on.

        Raises:
            Silent: the driver says nothing any more, so the play is over.
        """
        try:
            yield
        except Silent:
            raise
        except Exception as error:
            self.checks.append(Check(name, ok=False, detail=f"{_where(error)}{type(error).__name__}: {error}"[:3000]))
        else:
            self.checks.append(Check(name, ok=True))

    def number(self, name: str) -> str:
        """The number of this peer's trade or refund of that name: letters and digits, which every platform takes."""
        return f"{self._run}{name}"

    def notify_url(self, name: str) -> str:
        """Where the platform tells what became of it."""
        return f"{self.stage.mailbox.url}/{self._platform}/{self.number(name)}"

    async def letter(self, name: str) -> Letter:
        """The notification that the simulator sent there."""
        return await self.stage.mailbox.letter(f"/{self._platform}/{self.number(name)}")

    async def payer_pays(self, name: str) -> None:
        """Somebody pays the trade, now."""
        await self.stage.payer_pays(self._platform, self.number(name))

    # --- the peer as the channel

    async def order(self, method: str, **params: str) -> Order:
        """A fresh order at the gateway that waits for its payment."""
        wanted = {"out_order_no": secrets.token_hex(8), "amount": AMOUNT, "currency": "CNY", "subject": SUBJECT}
        made = await self.stage.call("POST", "/v1/orders", wanted)
        path = f"/v1/orders/{made['order_id']}"
        start = {"channel": self._platform, "method": method, **({"params": params} if params else {})}
        payment = (await self.stage.call("POST", f"{path}/pay", start))["payment"]
        if payment["credential"] is None:
            raise AssertionError(f"the gateway got no credential: {payment}")
        return Order(
            number=payment["attempt_id"],
            path=path,
            amount=AMOUNT,
            subject=SUBJECT,
            account=self.stage.accounts[GATEWAYS][self._platform].section(),
            credential=payment["credential"],
            transaction=f"42{time.time_ns():026d}"[-28:],
            paid_at_s=int(time.time()),
        )

    async def deliver(self, order: Order, genuine: Message, false: Mapping[str, Message], refund: Message) -> None:
        """The false ones must be refused and change nothing; the genuine one makes the order paid, once."""
        for why, message in false.items():
            async with self.check(f"a notification {why} is refused and changes nothing"):
                before = await self._waiting(order)
                status, body = await self._post(order, message)
                same((acknowledges(self._platform, status, body), status < 500), (False, True), (status, body))
                same(await self._waiting(order), before)
        async with self.check("the peer's notification is acknowledged and the order is paid"):
            await self.believed(order, genuine)
        before = await self._view(order)
        async with self.check("it comes again: acknowledged, and nothing changes"):
            await self.believed(order, genuine)
            same(await self._view(order), before)

        async with self.check("its notification of a refund is acknowledged, and is no payment"):
            status, body = await self._post(order, refund)
            same(acknowledges(self._platform, status, body), True, (status, body))
            same(await self._view(order), before)

    async def believed(self, order: Order, message: Message) -> None:
        """The notification is acknowledged, and the order is paid.

        Raises:
            AssertionError: one of the two is not so.
        """
        status, body = await self._post(order, message)
        same(acknowledges(self._platform, status, body), True, (status, body))
        view = await self._view(order)
        same((view["state"], view["paid_amount"]), ("paid", order.amount))

    async def _waiting(self, order: Order) -> dict[str, Any]:
        view = await self._view(order)
        same((view["state"], view["paid_amount"]), ("paying", 0))
        return view

    async def _view(self, order: Order) -> dict[str, Any]:
        """The order as an app sees it, without when it will be asked after: reading it may have it asked after."""
        return {**await self.stage.call("GET", order.path), "next_check_at": None}

    async def _post(self, order: Order, message: Message) -> tuple[int, str]:
        """To the address that the gateway gave the channel for this attempt."""
        url = f"{self.stage.gateway_url}/callbacks/{self._platform}/{order.number[:-2]}/{order.number[-2:]}"
        async with self.stage.session.post(url, data=message.body, headers=message.headers) as answer:
            return answer.status, (await answer.read()).decode("utf-8", "replace")


def _where(error: Exception) -> str:
    """The line of ours that says most about it: where it was raised, or where two things were compared."""
    frames = [at for at in traceback.extract_tb(error.__traceback__) if at.filename.startswith(str(HERE))]
    told = [at for at in frames if at.name != same.__name__]
    return f"{Path(told[-1].filename).name}:{told[-1].lineno} `{told[-1].line}`: " if told else ""


def acknowledges(platform: str, status: int, body: str) -> bool:
    """Whether the platform would stop sending, in the words of its fact sheet."""
    if platform == "alipay":
        return status == 200 and body == "success"
    return status in ((200, 302) if platform == "unionpay" else (200, 204))


def same(got: object, wanted: object, beside: object = "") -> None:
    """Raises:
    AssertionError: naming both, if they differ.
    """
    if got != wanted:
        raise AssertionError(f"{got!r} instead of {wanted!r}" + (f", with {beside!r}" if beside else ""))
