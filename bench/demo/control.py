"""The control arm: a payment back end as tutorials write it, on the same orders, payers, faults and kills.

It does carefully what it does: orders are stored before the channel is called, a payment without an answer is tried
again under the same number, notifications are verified (keys it does not know are fetched) and their amount compared,
and the channel gets its acknowledgement only after the update is committed, so that the channel's own retries help it
too. What it lacks is the subject of the demonstration: nobody ever asks the channel. It speaks through the same
adapters as the gateway. SIGTERM ends the selling, SIGKILL the process.
"""

import argparse
import asyncio
import json
import secrets
import signal
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec
import uvloop
from aiohttp import web
from yarl import URL

from channels.contract import (
    Accepted,
    Acknowledgement,
    AttemptKey,
    Channel,
    ChannelPayment,
    Credential,
    CredentialType,
    Flow,
    Notified,
    PaymentRequest,
    RejectReason,
    Response,
    Stamp,
)
from channels.errors import NoAnswer, NotificationRejected
from examples.shop.browser import Browser
from examples.shop.customers import Customers, parse_mix
from examples.shop.purchases import Purchase
from gateway import config
from gateway.installation import load_channels

T = TypeVar("T")

PAY_TRIES = 3
PAY_TIMEOUT_S = 5.0
ORDER_LIFE_S = 1800
IN_FLIGHT_MAX = 512

SCHEMA = """CREATE TABLE IF NOT EXISTS orders (
    out_trade_no TEXT PRIMARY KEY, subject TEXT, amount INTEGER, channel TEXT, created_at_s INTEGER, credential TEXT,
    opened INTEGER NOT NULL DEFAULT 0, paid INTEGER NOT NULL DEFAULT 0)"""


class Sale(msgspec.Struct, frozen=True):
    """An order as it is stored: when it was made, what the customer pays with, whether they are at the cashier."""

    created_at_s: int
    credential: Credential | None
    opened: bool


class Store:
    """The table. Without a sync per commit: the kills here take the process, not the machine."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(SCHEMA)

    def insert(self, out_trade_no: str, wanted: Purchase, now_s: int) -> Sale:
        """Store the order; how far an earlier run got with it."""
        self._connection.execute(
            "INSERT OR IGNORE INTO orders (out_trade_no, subject, amount, channel, created_at_s) VALUES (?,?,?,?,?)",
            (out_trade_no, wanted.subject, wanted.amount, wanted.pays_with.channel, now_s),
        )
        sql = "SELECT created_at_s, credential, opened FROM orders WHERE out_trade_no = ?"
        created_at_s, credential, opened = self._connection.execute(sql, (out_trade_no,)).fetchone()
        known = None if credential is None else msgspec.json.decode(credential, type=Credential)
        return Sale(created_at_s, known, bool(opened))

    def show(self, out_trade_no: str, credential: Credential) -> None:
        """Keep what the customer pays with."""
        text = msgspec.json.encode(credential).decode()
        self._connection.execute("UPDATE orders SET credential = ? WHERE out_trade_no = ?", (text, out_trade_no))

    def set_opened(self, out_trade_no: str) -> None:
        """The customer is at the cashier."""
        self._connection.execute("UPDATE orders SET opened = 1 WHERE out_trade_no = ?", (out_trade_no,))

    def set_paid(self, payment: ChannelPayment) -> bool:
        """The tutorial's line. False: no such order with this amount at this channel."""
        sql = "UPDATE orders SET paid = 1 WHERE out_trade_no = ? AND amount = ? AND channel = ?"
        terms = (payment.out_trade_no, payment.amount, payment.channel)
        return self._connection.execute(sql, terms).rowcount == 1


class Control:
    """Sells, and listens for notifications."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        channels: Mapping[str, Channel],
        session: aiohttp.ClientSession,
        browser: Browser,
    ) -> None:
        self._arguments = arguments
        self._channels = channels
        self._session = session
        self._browser = browser
        self._store = Store(arguments.ledger)
        self._places = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._closed = False

    def close_till(self) -> None:
        """No more orders; notifications go on coming in."""
        self._closed = True

    async def sell(self, customers: Customers) -> None:
        """Every order of the schedule; after a restart those that came due meanwhile come at once."""
        async with asyncio.TaskGroup() as group:
            for number in range(customers.count):
                await asyncio.sleep(max(0.0, customers.start_at + number / customers.rate - time.time()))
                await self._places.acquire()
                if self._closed:
                    return
                group.create_task(self._sell_one(customers.purchase(number)))

    async def _sell_one(self, wanted: Purchase) -> None:
        out_trade_no = wanted.out_order_no.replace("-", "")  # letters and digits are what all channels take
        sale = self._store.insert(out_trade_no, wanted, int(time.time()))
        credential = sale.credential or await self._pay(out_trade_no, wanted, sale.created_at_s)
        self._places.release()
        if credential is not None and not sale.opened and await self._browser.open(*_opened(credential)):
            self._store.set_opened(out_trade_no)

    async def _pay(self, out_trade_no: str, wanted: Purchase, created_at_s: int) -> Credential | None:
        channel = self._channels[wanted.pays_with.channel]
        request = PaymentRequest(
            attempt=AttemptKey(out_trade_no, wanted.pays_with.method, created_at_s, created_at_s + ORDER_LIFE_S),
            amount=wanted.amount,
            currency=wanted.currency,
            subject=wanted.subject,
            notify_url=f"http://127.0.0.1:{self._arguments.port}/notify/{channel.name}",
            params=wanted.pays_with.params,
        )
        for _ in range(PAY_TRIES):
            outcome = await self._drive(channel.pay(request, _stamp()))
            if isinstance(outcome, Accepted):
                self._store.show(out_trade_no, outcome.credential)
                return outcome.credential
        return None

    async def _drive(self, flow: Flow[T]) -> T:
        try:
            request = next(flow)
            while True:
                try:
                    async with self._session.request(
                        request.method,
                        URL((request.origin or self._arguments.channel_url) + request.target, encoded=True),
                        headers=request.headers,
                        data=request.body or None,
                    ) as answer:
                        headers = {name.lower(): value for name, value in answer.headers.items()}
                        response = Response(answer.status, headers, await answer.read())
                except (aiohttp.ClientError, TimeoutError) as error:
                    request = flow.throw(NoAnswer(str(error), sent=True))
                else:
                    request = flow.send(response)
        except StopIteration as result:
            outcome: T = result.value
            return outcome

    async def notify(self, request: web.Request) -> web.Response:
        """A payment notification: verified, compared, stored, and only then acknowledged."""
        channel = self._channels.get(request.match_info["channel"])
        if channel is None:
            return web.Response(status=404)
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            told = await self._believe(channel, headers, await request.read())
        except NotificationRejected as rejected:
            return _answer(channel.refuse(rejected.reason))
        if not (isinstance(told, ChannelPayment) and told.account == channel.account and self._store.set_paid(told)):
            return _answer(channel.refuse("no such order"))
        return _answer(channel.acknowledge())

    async def _believe(self, channel: Channel, headers: Mapping[str, str], body: bytes) -> Notified:
        try:
            return channel.notification(headers, body, int(time.time()))
        except NotificationRejected as rejected:
            if rejected.reason is not RejectReason.UNKNOWN_KEY:
                raise
        await self._drive(channel.refresh_keys(_stamp()))
        return channel.notification(headers, body, int(time.time()))


def _opened(credential: Credential) -> tuple[str, object]:
    """As a customer's browser takes it."""
    is_form = credential.type is CredentialType.FORM
    return credential.type, msgspec.json.decode(credential.value) if is_form else credential.value


def _answer(said: Acknowledgement) -> web.Response:
    return web.Response(status=said.status, body=said.body, content_type=said.content_type)


def _stamp() -> Stamp:
    return Stamp(now_s=int(time.time()), nonce=secrets.token_hex(16))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="control")
    parser.add_argument("--channel-url", required=True)
    parser.add_argument("--config", required=True, type=Path, help="a gateway's, of which the channels are used")
    parser.add_argument("--ledger", required=True, type=Path)
    parser.add_argument("--port", required=True, type=int, help="where notifications come in (127.0.0.1)")
    parser.add_argument("--rate", required=True, type=float)
    parser.add_argument("--seconds", required=True, type=float)
    parser.add_argument("--start-at", required=True, type=float, help="unix seconds")
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--subject-prefix", required=True)
    parser.add_argument("--pay-with", required=True, type=parse_mix)
    return parser.parse_args()


async def _main(arguments: argparse.Namespace) -> None:
    loaded = load_channels(config.load(arguments.config, {}).channels, int(time.time()))
    channels = {name: each.channel for name, each in loaded.items()}
    timeout = aiohttp.ClientTimeout(total=PAY_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        Browser(f"{arguments.channel_url}/cashier") as browser,
    ):
        control = Control(arguments, channels, session, browser)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, control.close_till)
        application = web.Application()
        application.router.add_post("/notify/{channel}", control.notify)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", arguments.port).start()
        print(json.dumps({"ready": arguments.port}), flush=True)
        await control.sell(
            Customers(
                rate=arguments.rate,
                seconds=arguments.seconds,
                seed=arguments.seed,
                prefix=arguments.subject_prefix,
                start_at=arguments.start_at,
                mix=arguments.pay_with,
            )
        )
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_main(_arguments()))
