"""The control arm: a payment back end as tutorials write it, on the same orders, payers, faults and kills.

It does carefully what it does: orders are stored before the channel is called, a prepay without an answer is tried
again under the same number, notifications are verified and their amount compared, and the channel gets its 200 only
after the update is committed, so that the channel's own retries help it too. What it lacks is the subject of the
demonstration: nobody ever asks the channel. SIGTERM ends the selling, SIGKILL the process.
"""

import argparse
import asyncio
import json
import secrets
import signal
import sqlite3
import time
from pathlib import Path
from typing import TypeVar

import aiohttp
import uvloop
from aiohttp import web

from channels.contract import Accepted, Acknowledgement, Flow, PaymentRequest, Response, Stamp
from channels.errors import NoAnswer, NotificationRejected
from channels.wechatpay import Credentials, WeChatPay, load_credentials
from examples.shop.purchases import Purchase, purchase

T = TypeVar("T")

PREPAY_TRIES = 3
PREPAY_TIMEOUT_S = 5.0
ORDER_LIFE_S = 1800
IN_FLIGHT_MAX = 512

SCHEMA = """CREATE TABLE IF NOT EXISTS orders (
    out_trade_no TEXT PRIMARY KEY, subject TEXT, amount INTEGER, created_at_s INTEGER, code_url TEXT,
    paid INTEGER NOT NULL DEFAULT 0)"""


class Store:
    """The table. Without a sync per commit: the kills here take the process, not the machine."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(SCHEMA)

    def insert(self, wanted: Purchase, now_s: int) -> tuple[int, str | None]:
        """Store the order; when it was created and its code, if an earlier run got that far."""
        self._connection.execute(
            "INSERT OR IGNORE INTO orders (out_trade_no, subject, amount, created_at_s) VALUES (?,?,?,?)",
            (wanted.out_order_no, wanted.subject, wanted.amount, now_s),
        )
        sql = "SELECT created_at_s, code_url FROM orders WHERE out_trade_no = ?"
        found: tuple[int, str | None] = self._connection.execute(sql, (wanted.out_order_no,)).fetchone()
        return found

    def show(self, out_trade_no: str, code_url: str) -> None:
        """Keep the code the customer scans."""
        self._connection.execute("UPDATE orders SET code_url = ? WHERE out_trade_no = ?", (code_url, out_trade_no))

    def set_paid(self, out_trade_no: str, amount: int) -> bool:
        """The tutorial's line. False: no such order with this amount."""
        sql = "UPDATE orders SET paid = 1 WHERE out_trade_no = ? AND amount = ?"
        return self._connection.execute(sql, (out_trade_no, amount)).rowcount == 1


class Control:
    """Sells, and listens for notifications."""

    def __init__(self, arguments: argparse.Namespace, session: aiohttp.ClientSession) -> None:
        self._arguments = arguments
        self._session = session
        self._channel = WeChatPay(_credentials(arguments.merchant))
        self._store = Store(arguments.ledger)
        self._places = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._closed = False

    def close_till(self) -> None:
        """No more orders; notifications go on coming in."""
        self._closed = True

    async def sell(self) -> None:
        """Every order of the schedule; after a restart those that came due meanwhile come at once."""
        asked = self._arguments
        async with asyncio.TaskGroup() as group:
            for number in range(int(asked.rate * asked.seconds)):
                await asyncio.sleep(max(0.0, asked.start_at + number / asked.rate - time.time()))
                await self._places.acquire()
                if self._closed:
                    return
                group.create_task(self._sell_one(purchase(asked.seed, asked.subject_prefix, number)))

    async def _sell_one(self, wanted: Purchase) -> None:
        created_at_s, code_url = self._store.insert(wanted, int(time.time()))
        request = PaymentRequest(
            out_trade_no=wanted.out_order_no,
            method="native",
            amount=wanted.amount,
            currency=wanted.currency,
            subject=wanted.subject,
            notify_url=f"http://127.0.0.1:{self._arguments.port}/notify",
            expires_at_s=created_at_s + ORDER_LIFE_S,
        )
        for _ in range(PREPAY_TRIES if code_url is None else 0):
            outcome = await self._drive(self._channel.pay(request, _stamp()))
            if isinstance(outcome, Accepted):
                self._store.show(wanted.out_order_no, outcome.credential.value)
                break
        self._places.release()

    async def _drive(self, flow: Flow[T]) -> T:
        try:
            request = next(flow)
            while True:
                try:
                    async with self._session.request(
                        request.method,
                        self._arguments.channel_url + request.target,
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
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            payment = self._channel.notification(headers, await request.read(), int(time.time()))
        except NotificationRejected as rejected:
            return _answer(self._channel.refuse(rejected.reason))
        ours = payment.account == self._channel.account
        if not (ours and self._store.set_paid(payment.out_trade_no, payment.amount)):
            return _answer(self._channel.refuse("no such order"))
        return _answer(self._channel.acknowledge())


def _answer(said: Acknowledgement) -> web.Response:
    return web.Response(status=said.status, body=said.body, content_type=said.content_type)


def _stamp() -> Stamp:
    return Stamp(now_s=int(time.time()), nonce=secrets.token_hex(16))


def _credentials(file: Path) -> Credentials:
    account = json.loads(file.read_bytes())
    return load_credentials(
        mchid=account["mchid"],
        appid=account["appid"],
        merchant_serial=account["merchant_serial"],
        private_key_pem=Path(account["private_key_file"]).read_bytes(),
        api_v3_key=Path(account["api_v3_key_file"]).read_bytes().strip(),
        public_key_id=account["public_key_id"],
        public_key_pem=Path(account["public_key_file"]).read_bytes(),
        platform_certificates_pem={name: Path(name).read_bytes() for name in account["platform_certificates"]},
        now_s=int(time.time()),
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="control")
    parser.add_argument("--channel-url", required=True)
    parser.add_argument("--merchant", required=True, type=Path, help="the account's JSON file")
    parser.add_argument("--ledger", required=True, type=Path)
    parser.add_argument("--port", required=True, type=int, help="where notifications come in (127.0.0.1)")
    parser.add_argument("--rate", required=True, type=float)
    parser.add_argument("--seconds", required=True, type=float)
    parser.add_argument("--start-at", required=True, type=float, help="unix seconds")
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--subject-prefix", required=True)
    return parser.parse_args()


async def _main(arguments: argparse.Namespace) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PREPAY_TIMEOUT_S)) as session:
        control = Control(arguments, session)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, control.close_till)
        application = web.Application()
        application.router.add_post("/notify", control.notify)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", arguments.port).start()
        print(json.dumps({"ready": arguments.port}), flush=True)
        await control.sell()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_main(_arguments()))
