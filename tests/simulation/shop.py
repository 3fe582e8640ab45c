"""The apps of a run: what they ask of the gateways, what they are told by webhook, and their own books about both."""

import asyncio
import base64
import hmac
import random
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tests.simulation.checker import answer_fault
from tests.simulation.fleet import Answer, Fleet
from tests.simulation.history import FAIL, HOSTS, INFO, OK, SHOP, History, Received, Told
from tests.simulation.network import Exchange, Silence

WAIT_S: Final = {"pay": 12.0, "close": 12.0, "sync": 12.0, "refund": 12.0}
UNKNOWN_CODES: Final = frozenset({"outcome_unknown", "internal_error"})


class Account(msgspec.Struct, frozen=True):
    """An app's credentials."""

    app_id: str
    api_key: str
    webhook_secret: str


class Client:
    """What an app asks, through either gateway."""

    def __init__(
        self, fleet: Fleet, history: History, chance: random.Random, accounts: Mapping[str, Account], tables: Any
    ) -> None:
        self._fleet = fleet
        self._tables = tables
        self._history = history
        self._chance = chance
        self._accounts = accounts

    async def ask(
        self,
        verb: str,
        number: str,
        method: str,
        target: str,
        body: Any = None,
        *,
        app: str = SHOP,
        gateway: str | None = None,
    ) -> Told:
        """Send a request and write down what came of it."""
        chosen = gateway or self._chance.choice(tuple(self._fleet.slots))
        loop, exchange = asyncio.get_running_loop(), Exchange()
        told = Told(app, verb, number, chosen, loop.time(), asked=body)
        self._history.told.append(told)
        headers = {"Authorization": f"Bearer {self._accounts[app].api_key}", "Content-Type": "application/json"}
        content = b"" if body is None else msgspec.json.encode(body)

        def seen(answer: Answer) -> None:
            """As it leaves the gateway, whether or not it arrives."""
            given = Told(app, verb, number, chosen, told.at)
            _read(given, answer.status, answer.body)
            if (fault := answer_fault(self._tables, given)) is not None:
                self._history.violated(*fault)

        try:
            answer = await self._fleet.serve(
                chosen,
                method,
                target,
                headers,
                content,
                seen=seen,
                timeout_s=WAIT_S.get(verb, 8.0),
                exchange=exchange,
            )
        except Silence as silence:
            told.outcome = INFO if silence.sent else FAIL
            told.code = str(silence)
        else:
            _read(told, answer.status, answer.body)
        told.doubled = exchange.doubled
        told.ended = loop.time()
        if told.status == 503:
            self._history.count("503 answered")
        return told


def _read(told: Told, status: int, body: bytes) -> None:
    said = msgspec.json.decode(body) if body else {}
    told.status, told.said = status, said
    if 200 <= status < 300:
        told.outcome = OK
        if "refund_id" in said:
            told.refund = said
        elif "out_order_no" in said or "order" in said:
            told.order = said.get("order", said)
        told.code = msgspec.json.encode(said["payment"]).decode() if said.get("payment") else ""
    else:
        told.code = said.get("code", "")
        told.outcome = INFO if told.code in UNKNOWN_CODES else FAIL
        told.duplicate_of = said.get("order_id", "") if told.code == "duplicate_submission" else ""


class Receiver:
    """The apps' endpoints: they believe what is signed and keep the newest."""

    def __init__(self, history: History, database: Any, accounts: Mapping[str, Account], chance: random.Random) -> None:
        self._history = history
        self._database = database
        self._apps = {HOSTS[app]: account for app, account in accounts.items()}
        self._chance = chance
        self._seen: set[str] = set()
        self.slow = False
        self.broken = False
        self.watch: Any = None

    def about_to_send(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """The moment before the first byte leaves the gateway: what it says must be durable by now."""
        if self.watch is not None:
            self.watch(url, headers, body)

    async def receive(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """Take a webhook."""
        account = self._apps[url.split("/")[2]]
        if self.slow:
            await asyncio.sleep(self._chance.uniform(2.0, 20.0))
        if self.broken:
            return 500
        if not _is_genuine(account, headers, body):
            self._history.violated("S12", "a webhook is not signed with the app's secret")
            return 400
        said = msgspec.json.decode(body)
        if said["id"] in self._seen:
            self._history.count("webhook again")
        self._seen.add(said["id"])
        now = asyncio.get_running_loop().time()
        order = said["data"]["object"]
        self._history.received.append(Received(account.app_id, now, said["id"], said["type"], said["seq"], order))
        return 204


def _is_genuine(account: Account, headers: Mapping[str, str], body: bytes) -> bool:
    secret = base64.b64decode(account.webhook_secret.removeprefix("whsec_"))
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = "v1," + base64.b64encode(hmac.digest(secret, content, "sha256")).decode()
    return wanted in headers["webhook-signature"].split(" ")
