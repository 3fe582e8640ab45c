"""The simulator's HTTP side: the platforms' APIs on one port; `steering.py` and `cashier.py` stand beside them."""

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from channels.simulator.cashier import Cashier
from channels.simulator.delivery import Delivery
from channels.simulator.faults import TIMEOUT, Faults, draw, request_fault, slow_for_s
from channels.simulator.ledger import Ledger
from channels.simulator.payers import Payers, pays_after_s
from channels.simulator.platform import Call, Done, Incoming, Moment, PayOrder, Platform, Refusal, Reply
from channels.simulator.platforms import load_platforms
from channels.simulator.steering import Steering
from channels.simulator.trades import (
    AnyEntry,
    Closed,
    Paid,
    Refund,
    RefundOpened,
    RefundSettled,
    RefundState,
    Trade,
    Trades,
    TradeState,
    about,
)

BODY_BYTES_MAX = 65536
SILENCE_S = 60.0  # how long an answer that never comes keeps its connection
CALLS_COUNTED_MAX = 1_000_000  # subjects whose requests are counted, for faults; then counting starts anew
LEDGER_FILE = "ledger.jsonl"
OVERTAKEN_AFTER_S = 0.1  # a payment that was under way arrives behind the close
REFUND_AFTER_S = 0.5  # a refund that a platform has taken comes to something


class Settings(msgspec.Struct, frozen=True):
    """What one run of the simulator is given. `faults` as `Simulator.change_faults` takes them."""

    folder: Path
    seed: int = 1
    port: int = 0
    time_scale: float = 1.0
    faults: Mapping[str, Any] = {}
    payers: Payers = Payers()
    refund_after_s: float = REFUND_AFTER_S


class Simulator:
    """The simulated platforms on one port, with one ledger. `platforms` and `ledger` are the folder's unless given."""

    def __init__(
        self, settings: Settings, platforms: Mapping[str, Platform] | None = None, ledger: Ledger | None = None
    ) -> None:
        self._settings = settings
        self._platforms = platforms or load_platforms(settings.folder, settings.seed)
        self.faults: dict[str, Faults] = {name: each.no_faults for name, each in self._platforms.items()}
        self.payers = settings.payers
        self.trades = Trades()
        self.ledger = ledger or Ledger(settings.folder / LEDGER_FILE)
        self.delivery = Delivery(self._platforms, self.faults, settings.seed, settings.time_scale, self._record)
        self._steering = Steering(self)
        self._cashier = Cashier(self)
        self._calls: dict[tuple[str, ...], int] = {}
        self._runner: web.ServerRunner | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._timers: dict[tuple[str, ...], asyncio.TimerHandle] = {}
        self._url = ""
        self.change_faults(settings.faults)

    async def start(self) -> str:
        """Read the ledger, take up what it left open, listen. Returns the URL."""
        for entry in self.ledger.read():
            self.trades.apply(entry)
        await self.delivery.start()
        self._runner = web.ServerRunner(web.Server(self._serve), shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._settings.port)
        await site.start()
        for trade in self.trades.all():
            self._resume(trade)
        host, port = self._runner.addresses[0][:2]
        self._url = f"http://{host}:{port}"
        return self._url

    async def stop(self) -> None:
        """Answer nobody any more, then put the ledger to rest."""
        for timer in self._timers.values():
            timer.cancel()
        for task in self._background:
            task.cancel()
        if self._runner is not None:
            await self._runner.cleanup()
        await self.delivery.stop()
        await self.ledger.close()

    def change_faults(self, wanted: Mapping[str, Any]) -> None:
        """Change the faults that are named and keep the others; all of it or nothing.

        Args:
            wanted: `{"alipay": {"drop": 0.3}}` is one platform's, `{"drop": 0.3}` that of all which know it.

        Raises:
            msgspec.ValidationError: no such platform, no such fault, or not a share.
        """
        changed: dict[str, Faults] = {}
        for name, share in wanted.items():
            one = isinstance(share, Mapping)
            for channel in [name] if one else self._knowing(name):
                if channel not in self.faults:
                    raise msgspec.ValidationError(f"no platform `{channel}`; there are {', '.join(self.faults)}")
                now = changed.get(channel, self.faults[channel])
                shares = {**msgspec.to_builtins(now), **(share if one else {name: share})}
                changed[channel] = msgspec.convert(shares, type(now))
        self.faults.update(changed)

    def _knowing(self, fault: str) -> list[str]:
        found = [channel for channel, each in self.faults.items() if fault in each.__struct_fields__]
        if not found:
            common = ", ".join(Faults.__struct_fields__)
            raise msgspec.ValidationError(f"no fault `{fault}`; all platforms know {common}")
        return found

    # --- the platforms' APIs

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read(BODY_BYTES_MAX + 1)
        while len(body) <= BODY_BYTES_MAX and (more := await request.content.read(BODY_BYTES_MAX)):
            body += more
        headers = {name.lower(): value for name, value in request.headers.items()}
        incoming = Incoming(method=request.method, target=request.raw_path, headers=headers, body=body)
        if len(body) > BODY_BYTES_MAX:
            return web.Response(status=413)
        handler = self._steering.handler(incoming) or self._cashier.handler(incoming)
        try:
            return await handler(incoming) if handler else _response(await self.answer(incoming))
        except Refusal as refusal:
            return _response(refusal.reply)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return web.json_response({"error": str(error)}, status=400)

    async def answer(self, incoming: Incoming) -> Reply:
        """What the platform that a request is for answers, once what it did is on disk.

        Raises:
            Refusal: its no, with the reply.
        """
        platform = next((each for each in self._platforms.values() if each.claims(incoming)), None)
        if platform is None:
            return Reply(404)
        call = self._counted(platform, platform.receive(incoming, moment()))
        fault = await self._fault(platform, call)
        if fault is not None and not (fault == TIMEOUT or platform.request_faults[fault]):
            return platform.broken(fault, call, moment())
        done = await self._execute(platform, call)
        if fault == TIMEOUT:
            await asyncio.sleep(SILENCE_S)
            return Reply(504)
        if fault is not None:
            return platform.broken(fault, call, moment())
        if done.shown:
            self._show(platform, call.merchant, done)
        return done.reply or platform.answer(call, done, self.faults[platform.name], moment())

    async def _execute(self, platform: Platform, call: Call) -> Done:
        entries: tuple[AnyEntry, ...] = ()
        try:
            done = platform.execute(call, self.trades, self.faults[platform.name], moment())
            entries = done.entries
        except Refusal as refusal:
            entries = refusal.entries
            raise
        finally:
            await self._write_down(entries)  # also a refusal (already paid) tells of what must be on disk
        return done

    def _counted(self, platform: Platform, call: Call) -> Call:
        """The call with how often it came about this trade."""
        if len(self._calls) > CALLS_COUNTED_MAX:
            self._calls.clear()
        key = (platform.name, call.merchant, self._subject(platform, call), call.verb)
        count = self._calls[key] = self._calls.get(key, 0) + 1
        return msgspec.structs.replace(call, count=count)

    async def _fault(self, platform: Platform, call: Call) -> str | None:
        faults, seed, subject = self.faults[platform.name], self._settings.seed, self._subject(platform, call)
        if slow_s := slow_for_s(faults, seed, subject, call.verb, call.count):
            await asyncio.sleep(slow_s)
        names = {**platform.request_faults, TIMEOUT: True}
        return request_fault(faults, names, seed, subject, call.verb, call.count)

    def _subject(self, platform: Platform, call: Call) -> str:
        trade = self.trades.find(platform.name, call.merchant, call.number)
        if trade is not None:
            return trade.subject
        if call.description:  # it is known before the trade exists
            return f"{call.description}#{self.trades.next_ordinal(platform.name, call.merchant, call.description)}"
        return call.number

    # --- payers and refunds

    def _show(self, platform: Platform, merchant: str, done: Done) -> None:
        """Somebody was shown how to pay: from now on somebody may. Shown again, only the code changes."""
        trade = self.trades.find(platform.name, merchant, done.shown)
        if trade is None:
            return
        if done.code:
            self.trades.show(trade, done.code)
        if not self.payers.at_cashier:
            self._expect_payer(trade)

    def opened_at_cashier(self, trade: Trade) -> None:
        """Somebody looks at the page on which it is paid."""
        if self.payers.at_cashier:
            self._expect_payer(trade)

    def _expect_payer(self, trade: Trade) -> None:
        after_s = pays_after_s(self.payers, self._settings.seed, trade.subject)
        if trade.key not in self._timers and after_s is not None:
            self._later(trade.key, after_s, partial(self.pay, trade))

    def _later(self, key: tuple[str, ...], after_s: float, work: Callable[[], Coroutine[None, None, None]]) -> None:
        def act() -> None:
            task = asyncio.ensure_future(work())
            self._background.add(task)
            task.add_done_callback(self._background.discard)

        self._timers[key] = asyncio.get_running_loop().call_later(after_s, act)

    async def pay(self, trade: Trade, order: PayOrder | None = None) -> None:
        """Somebody pays, if it can still be paid."""
        now = moment()
        if trade.payable(now.now) or (order is not None and order.late and trade.state is not TradeState.PAID):
            await self._write_down(self._platforms[trade.made.channel].pays(trade, self.trades, now, order))

    async def _settle(self, trade: Trade, refund: Refund) -> None:
        platform = self._platforms[trade.made.channel]
        settled = platform.settles(trade, refund, self.faults[platform.name], moment())
        if settled is not None and refund.state is RefundState.PROCESSING:
            await self._write_down((settled,))

    async def settle(self, trade: Trade, refund_no: str, state: RefundState) -> None:
        """A refund comes to this now, whatever it has come to before: a bank may send money back days later."""
        success_at = int(time.time()) if state is RefundState.SUCCEEDED else 0
        settled = RefundSettled(at=time.time(), **about(trade), refund_no=refund_no, state=state, success_at=success_at)
        await self._write_down((settled,))

    async def _write_down(self, entries: tuple[AnyEntry, ...]) -> None:
        """Make entries true and durable; then tell whom they concern."""
        trades = [self._record(entry) for entry in entries]
        await self.ledger.durable()
        for entry, trade in zip(entries, trades, strict=True):
            match entry:
                case Paid():
                    self.delivery.begin(trade)
                case RefundSettled():
                    self.delivery.begin(trade, entry.refund_no)
                case Closed() if trade.paid is None and self._is_overtaken(trade):
                    late = PayOrder(*trade.key, late=True)
                    self._later((*trade.key, "late"), OVERTAKEN_AFTER_S, partial(self.pay, trade, late))
                case RefundOpened() if trade.refunds[entry.refund_no].state is RefundState.PROCESSING:
                    self._expect_settling(trade, entry.refund_no)

    def _is_overtaken(self, trade: Trade) -> bool:
        share = self.faults[trade.made.channel].close_overtaken
        return trade.key in self._timers and draw(self._settings.seed, "close_overtaken", trade.subject) < share

    def _expect_settling(self, trade: Trade, refund_no: str) -> None:
        settle = partial(self._settle, trade, trade.refunds[refund_no])
        self._later((*trade.key, refund_no), self._settings.refund_after_s, settle)

    def _resume(self, trade: Trade) -> None:
        if trade.state in (TradeState.OFFERED, TradeState.WAITING) and not self.payers.at_cashier:
            self._expect_payer(trade)
        told = trade.notified | trade.dropped
        if trade.paid is not None and "" not in told:
            self.delivery.begin(trade)
        for refund_no, refund in trade.refunds.items():
            if refund.state is RefundState.PROCESSING:
                self._expect_settling(trade, refund_no)
            elif refund_no not in told:
                self.delivery.begin(trade, refund_no)

    def _record(self, entry: AnyEntry) -> Trade:
        self.ledger.append(entry)
        return self.trades.apply(entry)


def moment() -> Moment:
    """Now, for a platform."""
    return Moment(time.time(), secrets.token_hex(16), secrets.randbelow(1000) / 1000)


def _response(reply: Reply) -> web.Response:
    return web.Response(status=reply.status, body=reply.body or None, headers=dict(reply.headers))
