"""The simulator's HTTP side: the platform's API, and beside it `/_faults` and `/_sim/...` to steer and look at it."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from aiohttp import web

from channels.simulator import envelope, wechat
from channels.simulator.credentials import Merchant, PlatformCredentials, load_platform
from channels.simulator.delivery import Delivery
from channels.simulator.faults import Faults, RequestFault, Variant, request_fault, slow_for_s
from channels.simulator.ledger import Ledger
from channels.simulator.payers import Payers, pays_after_s
from channels.simulator.trades import AnyEntry, Paid, Trade, Trades, TradeState
from channels.simulator.wechat import Call, Close, Done, Incoming, Prepay, Query, Refusal

BODY_BYTES_MAX = 65536
SILENCE_S = 60.0  # how long an answer that never comes keeps its connection
CALLS_COUNTED_MAX = 1_000_000  # subjects whose requests are counted, for faults; then counting starts anew
LEDGER_FILE = "ledger.jsonl"


class Settings(msgspec.Struct, frozen=True):
    """What one run of the simulator is given."""

    folder: Path
    seed: int = 1
    port: int = 0
    time_scale: float = 1.0
    faults: Faults = Faults()
    payers: Payers = Payers()


class PayOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /_sim/pay: pay now. The rest is what the platform will state instead of the truth, for tests."""

    mchid: str
    out_trade_no: str
    amount: int | None = None
    currency: str | None = None
    stated_mchid: str | None = None
    stated_appid: str | None = None


class NotifyOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /_sim/notify: deliver a paid trade's notification once more, now."""

    mchid: str
    out_trade_no: str
    variant: Variant = Variant.GENUINE


class Simulator:
    """One simulated platform on one port, with one ledger."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._credentials: PlatformCredentials = load_platform(settings.folder)
        self._trades = Trades()
        self._ledger = Ledger(settings.folder / LEDGER_FILE)
        self._delivery = Delivery(self._credentials, settings.seed, settings.time_scale, self._record)
        self._delivery.faults = settings.faults
        self._payers = settings.payers
        self._calls: dict[tuple[str, str, str], int] = {}
        self._runner: web.ServerRunner | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._timers: dict[tuple[str, str], asyncio.TimerHandle] = {}

    async def start(self) -> str:
        """Read the ledger, take up what it left open, listen. Returns the URL."""
        for entry in self._ledger.read():
            self._trades.apply(entry)
        await self._delivery.start()
        self._runner = web.ServerRunner(web.Server(self._serve), shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._settings.port)
        await site.start()
        for trade in self._trades.all():
            self._resume(trade)
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def stop(self) -> None:
        """Answer nobody any more, then put the ledger to rest."""
        for timer in self._timers.values():
            timer.cancel()
        for task in self._background:
            task.cancel()
        if self._runner is not None:
            await self._runner.cleanup()
        await self._delivery.stop()
        await self._ledger.close()

    # --- the platform's API

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.content.read(BODY_BYTES_MAX + 1)
        while len(body) <= BODY_BYTES_MAX and (more := await request.content.read(BODY_BYTES_MAX)):
            body += more
        headers = {name.lower(): value for name, value in request.headers.items()}
        incoming = Incoming(method=request.method, target=request.raw_path, headers=headers, body=body)
        try:
            if len(body) > BODY_BYTES_MAX:
                raise Refusal(413, "PARAM_ERROR", "请求体过大")
            steer = self._steering().get((request.method, request.path))
            return await (steer(request, body) if steer else self._answer(incoming))
        except Refusal as refusal:
            return web.Response(status=refusal.status, body=refusal.body, content_type="application/json")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return web.json_response({"error": str(error)}, status=400)

    async def _answer(self, incoming: Incoming) -> web.StreamResponse:
        merchant = wechat.authenticate(self._credentials, incoming, int(time.time()))
        call = wechat.read_call(merchant, incoming)
        fault = await self._fault(merchant, call)
        if fault is RequestFault.ERROR_BEFORE:
            raise Refusal(500, "SYSTEM_ERROR", "系统繁忙，请稍后重试")
        if fault is RequestFault.RATE_LIMITED:
            raise Refusal(429, "FREQUENCY_LIMITED", "频率超限")
        if fault is RequestFault.ACCEPTED:
            return self._signed(incoming, Done(202, b""))
        done = await self._execute(merchant, call)
        if fault is RequestFault.ERROR_AFTER:
            raise Refusal(500, "SYSTEM_ERROR", "系统繁忙，请稍后重试")
        if fault is RequestFault.TIMEOUT:
            await asyncio.sleep(SILENCE_S)
            raise Refusal(504)
        if isinstance(call, Prepay):
            self._expect_payer(call.mchid, call.out_trade_no)
        return self._signed(incoming, done)

    async def _execute(self, merchant: Merchant, call: Call) -> Done:
        rotated = self._delivery.faults.rotation > 0
        try:
            done = wechat.execute(self._credentials, self._trades, merchant, call, time.time(), rotated=rotated)
            if done.entry is not None:
                self._record(done.entry)
        finally:
            await self._ledger.durable()  # also a refusal (already paid) tells of what must be on disk
        return done

    def _signed(self, incoming: Incoming, done: Done) -> web.Response:
        asked = incoming.headers.get("wechatpay-serial", "")
        roll = secrets.randbelow(1000) / 1000
        seal = envelope.answer_seal(self._credentials, self._delivery.faults, asked, roll)
        nonce = secrets.token_hex(16)
        headers = {"Request-ID": nonce.upper(), **envelope.sign(seal, done.body, int(time.time()), nonce)}
        if done.body:
            headers["Content-Type"] = "application/json; charset=utf-8"
        return web.Response(status=done.status, body=done.body or None, headers=headers)

    async def _fault(self, merchant: Merchant, call: Call) -> RequestFault | None:
        verb = type(call).__name__.lower()
        number = call.out_trade_no if isinstance(call, Prepay | Query | Close) else ""
        subject = self._subject(merchant, call, number)
        if len(self._calls) > CALLS_COUNTED_MAX:
            self._calls.clear()
        key = (merchant.mchid, subject, verb)
        count = self._calls[key] = self._calls.get(key, 0) + 1
        faults, seed = self._delivery.faults, self._settings.seed
        if slow_s := slow_for_s(faults, seed, subject, verb, count):
            await asyncio.sleep(slow_s)
        return request_fault(faults, seed, subject, verb, count)

    def _subject(self, merchant: Merchant, call: Call, number: str) -> str:
        trade = self._trades.find(merchant.mchid, number)
        if trade is not None:
            return trade.subject
        if isinstance(call, Prepay):  # the description is known before the trade exists
            return f"{call.description}#{self._trades.next_ordinal(merchant.mchid, call.description)}"
        return number

    # --- payers

    def _expect_payer(self, mchid: str, out_trade_no: str) -> None:
        """The code was shown: from now on somebody may pay it. Shown again, nothing changes."""
        key = (mchid, out_trade_no)
        trade = self._trades.find(*key)
        if trade is None or key in self._timers:
            return
        after_s = pays_after_s(self._payers, self._settings.seed, trade.subject)
        if after_s is not None:
            self._timers[key] = asyncio.get_running_loop().call_later(after_s, self._pay_later, trade)

    def _pay_later(self, trade: Trade) -> None:
        task = asyncio.ensure_future(self._pay(trade))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _pay(self, trade: Trade, order: PayOrder | None = None) -> None:
        now = time.time()
        if trade.payable(now):
            self._record(self._payment(trade, now, order))
            await self._ledger.durable()
            self._delivery.begin(trade)

    def _payment(self, trade: Trade, now: float, order: PayOrder | None) -> Paid:
        made = trade.made
        day = time.strftime("%Y%m%d", time.gmtime(now + 8 * 3600))
        paid = Paid(
            at=now,
            mchid=made.mchid,
            out_trade_no=made.out_trade_no,
            transaction_id=self._trades.next_transaction_id(day),
            amount=made.amount,
            currency=made.currency,
            description=made.description,
            success_at=int(now),
            stated_mchid=made.mchid,
            stated_appid=made.appid,
        )
        stated = {} if order is None else msgspec.structs.asdict(order)
        return msgspec.structs.replace(paid, **{name: value for name, value in stated.items() if value is not None})

    def _resume(self, trade: Trade) -> None:
        if trade.state is TradeState.NOTPAY:
            self._expect_payer(trade.made.mchid, trade.made.out_trade_no)
        elif trade.state is TradeState.SUCCESS and not (trade.notified or trade.dropped):
            self._delivery.begin(trade)

    def _record(self, entry: AnyEntry) -> Trade:
        self._ledger.append(entry)
        return self._trades.apply(entry)

    # --- steering

    def _steering(self) -> dict[tuple[str, str], Callable[[web.BaseRequest, bytes], Awaitable[web.Response]]]:
        return {
            ("GET", "/_faults"): self._show_faults,
            ("POST", "/_faults"): self._set_faults,
            ("POST", "/_sim/payers"): self._set_payers,
            ("GET", "/_sim/trades"): self._show_trades,
            ("POST", "/_sim/pay"): self._pay_now,
            ("POST", "/_sim/notify"): self._notify_now,
        }

    async def _show_faults(self, _request: web.BaseRequest, _body: bytes) -> web.Response:
        return _json(msgspec.to_builtins(self._delivery.faults))

    async def _set_faults(self, request: web.BaseRequest, body: bytes) -> web.Response:
        """Change the faults that are named, keep the others."""
        changed = {**msgspec.to_builtins(self._delivery.faults), **msgspec.json.decode(body, type=dict[str, float])}
        self._delivery.faults = msgspec.convert(changed, Faults)
        return await self._show_faults(request, b"")

    async def _set_payers(self, _request: web.BaseRequest, body: bytes) -> web.Response:
        """Change the payers of codes shown from now on."""
        changed = {**msgspec.to_builtins(self._payers), **msgspec.json.decode(body, type=dict[str, float])}
        self._payers = msgspec.convert(changed, Payers)
        return _json(changed)

    async def _show_trades(self, request: web.BaseRequest, _body: bytes) -> web.Response:
        await self._ledger.durable()
        return _json([_shown(trade) for trade in self._trades.all(request.query.get("mchid"))])

    async def _pay_now(self, _request: web.BaseRequest, body: bytes) -> web.Response:
        order = msgspec.json.decode(body, type=PayOrder)
        trade = self._find(order.mchid, order.out_trade_no)
        if not trade.payable(time.time()):
            return _json({"error": f"not payable: {trade.state}"}, status=409)
        await self._pay(trade, order)
        return _json(_shown(trade))

    async def _notify_now(self, _request: web.BaseRequest, body: bytes) -> web.Response:
        order = msgspec.json.decode(body, type=NotifyOrder)
        trade = self._find(order.mchid, order.out_trade_no)
        if trade.paid is None:
            return _json({"error": f"not paid: {trade.state}"}, status=409)
        return _json({"status": await self._delivery.send_once(trade, order.variant)})

    def _find(self, mchid: str, out_trade_no: str) -> Trade:
        trade = self._trades.find(mchid, out_trade_no)
        if trade is None:
            raise Refusal(404, "ORDER_NOT_EXIST", "订单不存在")
        return trade


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")


def _shown(trade: Trade) -> dict[str, object]:
    made, paid = trade.made, trade.paid
    return {
        "mchid": made.mchid,
        "out_trade_no": made.out_trade_no,
        "description": made.description,
        "amount": made.amount,
        "state": trade.state,
        "codes": trade.codes,
        "transaction_id": paid.transaction_id if paid else None,
        "success_at": paid.success_at if paid else None,
        "notified": trade.notified,
        "dropped": trade.dropped,
    }
