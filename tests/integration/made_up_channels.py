"""Channels without a wire, for tests of what the API makes of them: they have trades and obey the test."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from channels.contract import (
    Accepted,
    Acknowledgement,
    AlreadyPaid,
    AttemptKey,
    ChannelPayment,
    ChannelRefund,
    ClosedAtChannel,
    CloseOutcome,
    Credential,
    CredentialType,
    Flow,
    Method,
    NotClosable,
    NotFound,
    Notified,
    NotPaid,
    Paid,
    Param,
    PaymentRequest,
    PayOutcome,
    QueryOutcome,
    RefundKey,
    RefundKnown,
    RefundOutcome,
    RefundQueryOutcome,
    RefundRequest,
    RefundState,
    Refused,
    Stamp,
    StatementFile,
    StatementOutcome,
    StatementRow,
    Unknown,
)
from gateway.app import Gateway
from gateway.clock import DatabaseClock
from gateway.config import load
from gateway.effect_runner import InstalledChannel
from gateway.metrics import Metrics
from gateway.transport import Transport
from tests.integration.gateway_parts import write_config

SHOWN: dict[CredentialType, str] = {
    CredentialType.QR: "https://qr.example/",
    CredentialType.URL: "https://pay.example/",
    CredentialType.FORM: '{"action": "https://pay.example/", "charset": "UTF-8", "fields": {"a": "<&\\"\'>"}}',
    CredentialType.PARAMS: '{"paySign": "x", "timeStamp": "1"}',
    CredentialType.NONE: "",
}


class Trade(msgspec.Struct):
    """What a channel has of an attempt. `opened`: the payer came, or the channel knows without that."""

    request: PaymentRequest
    opened: bool
    closed: bool = False
    transaction: str | None = None


class MadeUpChannel:
    """Without `knows_at_once` it has never heard of an attempt before the payer opens it; without `closes` it can't.

    `silent` holds the verbs that get no answer; `called` is every verb with what named the attempt. A payer may pay at
    once, `refuses` is why a request can not be sent, and `life_s` how long a credential is good.
    """

    def __init__(self, name: str, *methods: Method, knows_at_once: bool = True, closes: bool = True) -> None:
        self.name = name
        self.account = f"account of {name}"
        self.methods: Mapping[str, Method] = {method.name: method for method in methods}
        self.trades: dict[str, Trade] = {}
        self.silent: set[str] = set()
        self.called: list[tuple[str, AttemptKey]] = []
        self.pays_at_once = False
        self.refunds: dict[str, RefundRequest] = {}
        self.refunds_sent: list[str] = []
        self.refund_state = RefundState.SUCCEEDED
        self.refund_refused = ""
        self.refuses = ""
        self.life_s: int | None = None
        self._knows_at_once = knows_at_once
        self._closes = closes

    def payable(self) -> list[str]:
        """What somebody could pay now."""
        return [n for n, trade in self.trades.items() if not trade.closed and trade.transaction is None]

    def calls(self, verb: str) -> int:
        """How often it was asked."""
        return sum(called == verb for called, _ in self.called)

    def somebody_pays(self, number: str) -> ChannelPayment:
        """A payer opens what they were shown, and pays."""
        trade = self.trades[number]
        trade.opened, trade.transaction = True, f"transaction of {number}"
        return self._payment(number)

    # --- the contract

    def pay(self, request: PaymentRequest, stamp: Stamp) -> Flow[PayOutcome]:
        yield from self._called("pay", request.attempt)
        number, kind = request.attempt.out_trade_no, self.methods[request.attempt.method].credential
        if "pay" in self.silent:
            return Unknown("silence")
        if self.refuses:
            return Refused("invalid_request", self.refuses)
        trade = self.trades.setdefault(number, Trade(request, opened=self._knows_at_once))
        if self.pays_at_once:
            self.somebody_pays(number)
        if trade.transaction is not None:
            return AlreadyPaid()
        value = SHOWN[kind] + (number if kind in (CredentialType.QR, CredentialType.URL) else "")
        expires_at_s = request.attempt.expires_at_s if self.life_s is None else stamp.now_s + self.life_s
        return Accepted(Credential(kind, value, expires_at_s))

    def query(self, attempt: AttemptKey, stamp: Stamp) -> Flow[QueryOutcome]:
        yield from self._called("query", attempt)
        if "query" in self.silent:
            return Unknown("silence")
        trade = self.trades.get(attempt.out_trade_no)
        if trade is None or not trade.opened:
            return NotFound()
        if trade.transaction is not None:
            return Paid(self._payment(attempt.out_trade_no))
        ended = trade.closed or (not self._closes and stamp.now_s >= attempt.expires_at_s)
        return ClosedAtChannel() if ended else NotPaid()

    def close(self, attempt: AttemptKey, stamp: Stamp) -> Flow[CloseOutcome]:
        yield from self._called("close", attempt)
        if "close" in self.silent:
            return Unknown("silence")
        trade = self.trades.get(attempt.out_trade_no)
        if not self._closes:
            return NotClosable()
        if trade is None or not trade.opened:
            return NotFound()
        trade.closed = trade.transaction is None
        return ClosedAtChannel() if trade.closed else AlreadyPaid()

    def notification(self, headers: Mapping[str, str], body: bytes, now_s: int) -> Notified:
        said = json.loads(body)
        return self._refund(said["refunded"]).refund if "refunded" in said else self._payment(said["paid"])

    def acknowledge(self) -> Acknowledgement:
        return Acknowledgement(200, "text/plain", b"success")

    def refuse(self, reason: str) -> Acknowledgement:
        return Acknowledgement(400, "text/plain", b"fail")

    def refund(self, request: RefundRequest, stamp: Stamp) -> Flow[RefundOutcome]:
        yield from ()
        self.refunds_sent.append(request.refund.refund_no)
        if self.refund_refused:
            return Refused("NOT_ENOUGH", self.refund_refused)
        if "refund_lost" in self.silent:  # it never arrived
            return Unknown("silence")
        self.refunds.setdefault(request.refund.refund_no, request)
        return Unknown("silence") if "refund" in self.silent else self._refund(request.refund.refund_no)

    def query_refund(self, refund: RefundKey, stamp: Stamp) -> Flow[RefundQueryOutcome]:
        yield from ()
        if "query_refund" in self.silent:
            return Unknown("silence")
        return self._refund(refund.refund_no) if refund.refund_no in self.refunds else NotFound()

    def _refund(self, number: str) -> RefundKnown:
        request, done = self.refunds[number], self.refund_state is RefundState.SUCCEEDED
        return RefundKnown(
            ChannelRefund(
                self.name,
                self.account,
                number,
                self.refund_state,
                request.refund.out_trade_no,
                f"refund of {number}",
                request.amount,
                success_at_s=1 if done else None,
            )
        )

    def statement(self, day: str, stamp: Stamp) -> Flow[StatementOutcome]:
        yield from ()
        return Unknown("not asked for")

    def statement_rows(self, file: StatementFile) -> Iterator[StatementRow]:
        return iter(())

    def refresh_keys(self, stamp: Stamp) -> Flow[bool]:
        yield from ()
        return False

    def _called(self, verb: str, attempt: AttemptKey) -> Flow[None]:
        self.called.append((verb, attempt))
        yield from ()

    def _payment(self, number: str) -> ChannelPayment:
        trade = self.trades[number]
        assert trade.transaction is not None
        request = trade.request
        return ChannelPayment(
            self.name, self.account, number, trade.transaction, request.amount, request.currency, success_at_s=1
        )


# --- three that differ as the real ones do --------------------------------------------------------------------------

NATIVE = Method("native", "a QR code", CredentialType.QR, renewable=True)
JSAPI = Method(
    "jsapi",
    "within the platform's own browser",
    CredentialType.PARAMS,
    (
        Param("openid", "the payer's id", required=True, chars_max=28),
        Param("scene", "where the payer is", choices=("shop", "home")),
        Param("payer_ip", "the payer's IPv4 address", pattern=r"[0-9.]{7,15}"),
    ),
)
PAGE = Method("page", "the platform's page", CredentialType.URL)
WEB = Method("web", "a form", CredentialType.FORM)
BARCODE = Method("barcode", "the payer shows", CredentialType.NONE, (Param("code", "what was scanned", required=True),))


class Made(msgspec.Struct, frozen=True):
    """The three of a test."""

    wechatpay: MadeUpChannel
    alipay: MadeUpChannel
    unionpay: MadeUpChannel

    @property
    def by_name(self) -> dict[str, MadeUpChannel]:
        return {"wechatpay": self.wechatpay, "alipay": self.alipay, "unionpay": self.unionpay}

    def payable(self) -> list[str]:
        """What somebody could pay now, anywhere."""
        return [number for channel in self.by_name.values() for number in channel.payable()]


def make_three() -> Made:
    return Made(
        MadeUpChannel("wechatpay", NATIVE, JSAPI),
        MadeUpChannel("alipay", NATIVE, PAGE, knows_at_once=False),
        MadeUpChannel("unionpay", WEB, BARCODE, knows_at_once=False, closes=False),
    )


class _Gateway(Gateway):
    made: Made

    async def _install_channels(self, metrics: Metrics, clock: DatabaseClock) -> dict[str, InstalledChannel]:
        installed = {}
        for name, channel in self.made.by_name.items():
            transport = Transport(
                name,
                "http://127.0.0.1:9",
                timeout_s=5,
                concurrency=100,
                queue_max=1000,
                metrics=metrics,
                clock=lambda: clock.now_ms() / 1000,
            )
            installed[name] = InstalledChannel(channel, transport)
        return installed


@asynccontextmanager
async def gateway_with(
    made: Made, folder: Path, database_url: str, **sections: Mapping[str, Any]
) -> AsyncIterator[Gateway]:
    """A gateway in this process whose channels are these."""
    running = _Gateway(load(write_config(folder / "gateway.toml", database_url, None, **sections), {}))
    running.made = made
    try:
        await running.start()
        yield running
    finally:
        await running.stop()


async def notify_refund(session: aiohttp.ClientSession, url: str, channel: str, number: str, path: str = "") -> int:
    """The channel says where this refund is, by its own path or by another; the status it is answered with."""
    path = f"/callbacks/{channel}/" + (path or f"refunds/{number}")
    async with session.post(url + path, data=json.dumps({"refunded": number})) as answer:
        return answer.status


async def notify(session: aiohttp.ClientSession, url: str, channel: str, number: str) -> int:
    """The channel says that this attempt was paid; the status it is answered with."""
    path = f"/callbacks/{channel}/{number[:26]}/{number[26:]}"
    async with session.post(url + path, data=json.dumps({"paid": number})) as answer:
        return answer.status
