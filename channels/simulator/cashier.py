"""The payer's side as a page: what there is to pay, its QR code, and a button that pays."""

import time
from collections.abc import Awaitable, Callable
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote

from aiohttp import web

from channels.simulator.platform import Incoming
from channels.simulator.trades import Trade, TradeState

if TYPE_CHECKING:
    from channels.simulator.server import Simulator

Handler = Callable[[Incoming], Awaitable[web.Response]]

PATH = "/cashier"
SCANNED = "scanned"  # behind a page's address: who has scanned the code is not shown it; drawing one takes 7 ms
TRADES_SHOWN_MAX = 50


def page_of(channel: str, merchant: str, out_trade_no: str) -> str:
    """Where a payer pays this trade: what a platform answers a browser with."""
    return f"{PATH}/{quote(channel, safe='')}/{quote(merchant, safe='')}/{quote(out_trade_no, safe='')}"


class Cashier:
    """The handlers."""

    def __init__(self, simulator: "Simulator") -> None:
        self._simulator = simulator

    def handler(self, incoming: Incoming) -> Handler | None:
        """Who answers this request, if it is for us."""
        if incoming.path == PATH and incoming.method == "GET":
            return self._list
        if incoming.path.startswith(f"{PATH}/") and incoming.method in ("GET", "POST"):
            return self._pay if incoming.method == "POST" else self._show
        return None

    async def _list(self, incoming: Incoming) -> web.Response:
        """The newest trades; with `?code=` the trade that this QR code pays."""
        code = parse_qs(incoming.query).get("code", [""])[0]
        if code:
            trade = self._simulator.trades.find_code(code)
            scanned = f"{page_of(*trade.key)}?{SCANNED}" if trade else ""
            return _moved(scanned) if trade else _page("Nothing to pay", _NOTHING, status=404)
        rows = "".join(_row(trade) for trade in reversed(self._simulator.trades.all()[-TRADES_SHOWN_MAX:]))
        return _page("Cashier", f"<table><tr><th>platform<th>for<th>amount<th>state</tr>{rows}</table>")

    async def _show(self, incoming: Incoming) -> web.Response:
        trade = self._trade(incoming)
        if trade is None:
            return _page("Nothing to pay", _NOTHING, status=404)
        self._simulator.opened_at_cashier(trade)
        return _page("Pay", _checkout(trade, scanned=incoming.query == SCANNED))

    async def _pay(self, incoming: Incoming) -> web.Response:
        trade = self._trade(incoming)
        if trade is None:
            return _page("Nothing to pay", _NOTHING, status=404)
        await self._simulator.pay(trade)
        return _moved(page_of(*trade.key))

    def _trade(self, incoming: Incoming) -> Trade | None:
        parts = [unquote(part) for part in incoming.path.removeprefix(f"{PATH}/").split("/")]
        return self._simulator.trades.find(*parts) if len(parts) == 3 else None


_NOTHING = "<p>The simulator knows no such trade. Codes are forgotten when it restarts or hands out a newer one.</p>"
_NAMES = {"wechatpay": "WeChat Pay", "alipay": "Alipay", "unionpay": "UnionPay"}
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --ink: CanvasText; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 44rem; padding: 2rem 1rem; }
h1 { font-size: 1.1rem; font-weight: 600; } table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .4rem .5rem; text-align: left; }
main { text-align: center; } main > * { margin: 1rem auto; } .amount { font-size: 2.4rem; font-weight: 600; }
.qr svg { background: #fff; width: 15rem; height: 15rem; } .quiet { opacity: .65; overflow-wrap: anywhere; }
button { background: #0a7d33; border: 0; border-radius: .5rem; color: #fff; cursor: pointer; font: inherit;
  font-weight: 600; padding: .7rem 2.5rem; }
"""


def _checkout(trade: Trade, *, scanned: bool) -> str:
    made = trade.made
    name = escape(_NAMES.get(made.channel, made.channel))
    parts = [
        f"<p>{name}, {escape(made.method)}</p><p>{escape(made.description)}</p>",
        f'<p class="amount">{_amount(trade)}</p>',
    ]
    if trade.payable(time.time()):
        parts.append(_qr(trade.code) if made.method in ("native", "qr") and not scanned else "")
        parts.append('<form method="post"><button>Pay</button></form>')
    else:
        parts.append(f"<p><strong>{_STATES[trade.state]}</strong></p>")
        if trade.paid is not None and made.return_url.startswith(("http://", "https://")):
            parts.append(f'<p><a href="{escape(made.return_url)}">Back to the shop</a></p>')
    parts.append(f'<p class="quiet">{escape(made.out_trade_no)}</p>')
    return f"<main>{''.join(parts)}</main>"


_STATES = {
    TradeState.OFFERED: "It can not be paid any more.",
    TradeState.WAITING: "It can not be paid any more.",
    TradeState.PAID: "Paid.",
    TradeState.CLOSED: "Closed.",
}


def _qr(code: str) -> str:
    if not code:
        return ""
    import segno  # noqa: PLC0415 - it takes 20 ms to load, and most simulators are never looked at

    return f'<div class="qr">{segno.make(code, error="m").svg_inline(omitsize=True)}</div>'


def _row(trade: Trade) -> str:
    made = trade.made
    link = f'<a href="{page_of(*trade.key)}">{escape(made.description)}</a>'
    return f"<tr><td>{escape(made.channel)}<td>{link}<td>{_amount(trade)}<td>{trade.state}</tr>"


def _amount(trade: Trade) -> str:
    made = trade.made
    return f"{escape(made.currency)} {made.amount // 100}.{made.amount % 100:02d}"


def _page(title: str, content: str, status: int = 200) -> web.Response:
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style><h1>Simulated cashier</h1>{content}"
    )
    return web.Response(status=status, text=text, content_type="text/html")


def _moved(path: str) -> web.Response:
    return web.Response(status=303, headers={"Location": path})
