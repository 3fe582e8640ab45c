"""UnionPay's online gateway 5.1.0 from the platform's side: what is done with a call, what happens by itself.

Pure: requests and the time come in, answers and ledger entries go out. Who may speak and what is asked stands in
`unionpay_requests.py`, how it is signed in `unionpay_envelope.py`, how it is stated in `unionpay_statements.py`;
refunds and the daily file have files of their own.

A form that a browser submits makes the trade that a merchant's query finds; before, and while nobody has entered a QR
code or an app's tn, there is none (34). A payer who pays at a bank's page after the payTimeout is debited all the same
(42), and the platform gives it back by itself.
"""

import hashlib
from collections.abc import Mapping
from html import escape
from types import MappingProxyType
from typing import Final

import msgspec

from channels import forms, moments
from channels.simulator import unionpay_bill, unionpay_returns
from channels.simulator import unionpay_envelope as envelope
from channels.simulator.cashier import page_of
from channels.simulator.faults import draw
from channels.simulator.platform import Call, Done, Incoming, Moment, Outgoing, PayOrder, Refusal, Reply
from channels.simulator.trades import (
    AnyEntry,
    Closed,
    Opened,
    Paid,
    Refund,
    RefundSettled,
    RefundState,
    Trade,
    Trades,
    TradeState,
    about,
)
from channels.simulator.unionpay_faults import UnionpayFaults
from channels.simulator.unionpay_keys import PlatformKeys
from channels.simulator.unionpay_requests import (
    FILES,
    FRONT,
    Download,
    No,
    Query,
    Return,
    Said,
    Sale,
    authenticate,
    read_asked,
    read_said,
)
from channels.simulator.unionpay_statements import (
    MOVED,
    OK,
    REFUND_CODES,
    UNDER_WAY,
    answer_fields,
    answered,
    notification,
    paid_facts,
    query_id,
    refund_facts,
    text_of,
    unpaid,
)

NAME: Final = "unionpay"
TXN_TIME_WINDOW_S: Final = 900  # how far a txnTime may be from now
EXPIRE_AFTER_S: Final = 900  # without a payTimeout
UNSETTLED_QUERIES: Final = 2  # of a payment that is `pending` or `moved`, or a barcode that the bank was still at
FRONT_METHODS: Final = ("web", "wap")

VARIANTS: Final = ("tamper", "forged", "wrong_name", "expired", "unsigned", "downgrade", "lf")
LIES: Final = {f"answer_{variant}": variant for variant in VARIANTS}
REQUEST_FAULTS: Final = MappingProxyType(
    {"error_before": False, "error_after": True, "rate_limited": False, **dict.fromkeys(LIES, True)}
)
_HTML: Final = {"Content-Type": "text/html;charset=UTF-8"}


class UnionpayPlatform:
    """The platform with all its merchants."""

    name = NAME
    no_faults = UnionpayFaults()
    request_faults = REQUEST_FAULTS
    variants = VARIANTS
    retry_after_s = (60.0, 120.0, 240.0, 300.0)  # five sends in all
    answer_within_s = 10.0

    def __init__(self, keys: PlatformKeys, seed: int) -> None:
        self._keys = keys
        self._seed = seed

    def claims(self, request: Incoming) -> bool:
        """The gateway's paths, and the file service, which here stands at the same address."""
        return request.path.startswith("/gateway/api/") or (request.method == "POST" and request.path == FILES)

    def receive(self, request: Incoming, moment: Moment) -> Call:
        """Who asks what."""
        try:
            said = read_said(request)
        except forms.FormError:
            raise Refusal(Reply(400, _HTML, b"Invalid request.")) from None
        try:
            merchant = authenticate(self._keys, said)
            asked = read_asked(request.path, said)
        except No as no:
            raise Refusal(self._refused(no.said, no.code, request, moment)) from None
        description = said["reqReserved"] if isinstance(asked, Sale) else ""
        number = "" if isinstance(asked, Download) else asked.number
        return Call(merchant.merchant_id, _verb(asked), number, description or number, asked, request)

    def execute(self, call: Call, trades: Trades, faults: UnionpayFaults, moment: Moment) -> Done:
        """Decide a call."""
        asked = call.asked
        match asked:
            case Sale():
                return self._sale(call, asked, trades, faults, moment)
            case Query():
                return self._query(call, asked, trades, faults, moment)
            case Return():
                refused = self._untimely(call, asked, trades, moment)
                if refused:
                    return answered(asked.said, refused)
                return unionpay_returns.give_back(NAME, trades, call, asked, faults, self._seed, moment)
            case Download():
                return unionpay_bill.download(NAME, trades, call, asked, faults, self._seed, moment)
        raise AssertionError(asked)

    def answer(self, call: Call, done: Done, faults: UnionpayFaults, moment: Moment) -> Reply:
        """Sign it, and write it as it is."""
        fields, charset = msgspec.json.decode(done.body, type=dict[str, str]), call.asked.said.charset
        signer = self._keys.signers[1 if moment.roll < faults.rotation else 0]
        return _answer(envelope.signed(signer, self._filled(fields, call.number, faults), charset), charset)

    def broken(self, fault: str, call: Call, moment: Moment) -> Reply:
        """The words for a fault, or a lie that nobody may believe. A browser is told nothing but that it broke."""
        said: Said = call.asked.said
        if fault == "rate_limited" and not _by_browser(call.incoming):
            return self._signed(answer_fields(said, "37"), said.charset)
        if fault not in LIES or _by_browser(call.incoming):
            return Reply(500, _HTML, b"<html><body>Internal Server Error</body></html>")
        lie = answer_fields(said, *_lie(call.asked))
        whole = envelope.delivered(self._keys, self._keys.signers[0], lie, LIES[fault], said.charset, moment.nonce)
        return _answer(whole, said.charset)

    # --- sales

    def _sale(self, call: Call, asked: Sale, trades: Trades, faults: UnionpayFaults, moment: Moment) -> Done:
        known = trades.find(NAME, call.merchant, asked.number)
        if known is not None and asked.method in FRONT_METHODS and known.made.terms == _terms(asked.said):
            return _page(known, moment)
        refused = self._untimely(call, asked, trades, moment)
        if refused or trades.full():
            return self._no(asked.said, refused or "02", call)
        made = self._opened(trades, call, asked, faults, moment)
        token = hashlib.sha256(f"{call.merchant} {asked.number} {made.at}".encode()).hexdigest()
        match asked.method:
            case "app":
                tn = f"{moments.compact(moment.now_s)[:8]}{int(token, 16) % 10**13:013d}"
                return answered(asked.said, OK, {"tn": tn}, (made,), shown=asked.number, code_shown=tn)
            case "qr":
                code = f"https://qr.95516.com/00010001/{int(token, 16) % 10**32:032d}"
                return answered(asked.said, OK, {"qrCode": code}, (made,), shown=asked.number, code_shown=code)
            case "barcode":
                return self._scanned(asked.said, made, trades, moment)
        page = _page(Trade(made, TradeState.WAITING), moment)
        return msgspec.structs.replace(page, entries=(made,))

    def _scanned(self, said: Said, made: Opened, trades: Trades, moment: Moment) -> Done:
        """The payer's code is paid or declined at once; whether the merchant is told so is another thing."""
        trade = Trade(made, TradeState.WAITING)
        ended: tuple[AnyEntry, ...] = (Closed(at=moment.now, **about(trade)),)
        if not made.details["declined"]:
            ended = self.pays(trade, trades, moment, None)
        return answered(said, made.details["scanned"], {}, (made, *ended))

    def _opened(self, trades: Trades, call: Call, asked: Sale, faults: UnionpayFaults, moment: Moment) -> Opened:
        said, ordinal = asked.said, trades.next_ordinal(NAME, call.merchant, call.description)
        expires_at_s = moment.now_s + EXPIRE_AFTER_S if asked.expires_at_s is None else asked.expires_at_s
        return Opened(
            at=moment.now,
            channel=NAME,
            merchant=call.merchant,
            out_trade_no=asked.number,
            method=asked.method,
            description=call.description,
            ordinal=ordinal,
            amount=asked.amount,
            currency="CNY",
            notify_url=said["backUrl"],
            expires_at_s=expires_at_s,
            terms=_terms(said),
            return_url=said["frontUrl"],
            offered=asked.method in ("app", "qr"),
            details={
                "txnTime": asked.txn_time,
                "txnSubType": said["txnSubType"],
                "bizType": said["bizType"],
                "encoding": said["encoding"],
                "reqReserved": said["reqReserved"],
                **(self._luck(f"{call.description}#{ordinal}", faults) if asked.method == "barcode" else {}),
            },
        )

    def _luck(self, subject: str, faults: UnionpayFaults) -> dict[str, str]:
        """What the bank says to a barcode: `declined`, and what the merchant hears at once: `scanned`."""
        declined = draw(self._seed, "barcode_declined", subject) < faults.barcode_declined
        if draw(self._seed, "barcode_pending", subject) < faults.barcode_pending:
            code = UNDER_WAY[int(draw(self._seed, "barcode_code", subject) * 3)]
        else:
            code = "64" if declined else OK
        return {"scanned": code, "declined": "64" if declined else ""}

    def _untimely(self, call: Call, asked: Sale | Return, trades: Trades, moment: Moment) -> str:
        """The code for a number that was used, or a time that is not now."""
        used = trades.find(NAME, call.merchant, asked.number) or trades.find_refund(NAME, call.merchant, asked.number)
        if used:
            return "12"
        txn_time_s = moments.of_compact(asked.txn_time)
        if txn_time_s is None or abs(moment.now - txn_time_s) > TXN_TIME_WINDOW_S:
            return "10"
        over = isinstance(asked, Sale) and asked.expires_at_s is not None and moment.now >= asked.expires_at_s
        return "30" if over else ""

    # --- queries

    def _query(self, call: Call, asked: Query, trades: Trades, faults: UnionpayFaults, moment: Moment) -> Done:
        trade = trades.find(NAME, call.merchant, asked.number)
        refund = trades.find_refund(NAME, call.merchant, asked.number)
        if refund is not None and refund[1].made.details["txnTime"] == asked.txn_time:
            code = REFUND_CODES[refund[1].state]
            return answered(asked.said, OK, {**refund_facts(*refund, cut_off=_cut_off(faults)), **_original(code)})
        unseen = trade is None or trade.state is TradeState.OFFERED or trade.made.details["txnTime"] != asked.txn_time
        if trade is None or unseen:
            return answered(asked.said, "34")
        code = self._original_code(trade, call, faults, moment)
        if trade.paid is None or code in UNDER_WAY:
            return answered(asked.said, OK, {**unpaid(trade.made), **_original(code)})
        facts = paid_facts(trade.made, trade.paid, cut_off=_cut_off(faults))
        return answered(asked.said, OK, {**facts, **_original(code)})

    def _original_code(self, trade: Trade, call: Call, faults: UnionpayFaults, moment: Moment) -> str:
        """What became of a trade, as a query tells it."""
        paid, subject, seed = trade.paid, trade.subject, self._seed
        if trade.made.details.get("scanned") in UNDER_WAY and call.count <= UNSETTLED_QUERIES:
            return trade.made.details["scanned"]
        if paid is None:
            if trade.state is TradeState.CLOSED:
                return "64"
            return "05" if trade.payable(moment.now) else "69"
        if paid.details["code"] != OK:
            return paid.details["code"]
        for fault, codes in (("pending", UNDER_WAY), ("moved", MOVED)):
            if call.count <= UNSETTLED_QUERIES and draw(seed, fault, subject) < getattr(faults, fault):
                return codes[int(draw(seed, f"{fault} code", subject) * 3)]
        return self._success_code(trade, faults)

    def _success_code(self, trade: Trade, faults: UnionpayFaults) -> str:
        return "A6" if draw(self._seed, "defect", trade.subject) < faults.defect else OK

    # --- what happens by itself

    def pays(self, trade: Trade, trades: Trades, moment: Moment, order: PayOrder | None) -> tuple[AnyEntry, ...]:
        """The payer pays. After the payTimeout it is given back by itself."""
        made, stated = trade.made, order.stated if order else {}
        late, count = moment.now >= made.expires_at_s, trades.transactions() + 1
        merchant = stated.get("merId", made.merchant)
        paid = Paid(
            at=moment.now,
            **about(trade),
            transaction=query_id(count, moment.now_s),
            amount=made.amount if order is None or order.amount is None else order.amount,
            currency=made.currency if order is None or order.currency is None else order.currency,
            description=made.description,
            success_at=moment.now_s,
            account=merchant,
            details={"merId": merchant, "code": "42" if late else OK},
        )
        if not late:
            return (paid,)
        return paid, unionpay_returns.by_itself(trade, paid, count + 1, moment)

    def settles(self, trade: Trade, refund: Refund, faults: UnionpayFaults, moment: Moment) -> RefundSettled | None:
        """What a refund under way comes to."""
        return unionpay_returns.settles(trade, refund, faults, self._seed, moment)

    def notice(self, trade: Trade, topic: str, variant: str, faults: UnionpayFaults, moment: Moment) -> Outgoing | None:
        """The payment's notification, or that of the refund or void named by `topic`; both ends of the latter."""
        told = self._told(trade, topic, faults)
        if told is None:
            return None
        url, fields = told
        charset, subject = fields["encoding"].lower(), f"{trade.subject} {topic}".rstrip()
        if draw(self._seed, "url_query", subject) < faults.url_query:
            url += "?from=unionpay&respCode=00"
        signer = self._keys.signers[1 if draw(self._seed, "rotation", subject) < faults.rotation else 0]
        filled = self._filled(fields, subject, faults)
        whole = envelope.delivered(self._keys, signer, filled, variant, charset, moment.nonce)
        headers = {"Content-Type": "application/x-www-form-urlencoded;charset=" + fields["encoding"]}
        return Outgoing(url, headers, forms.encode(whole, charset))

    def _told(self, trade: Trade, topic: str, faults: UnionpayFaults) -> tuple[str, dict[str, str]] | None:
        """Where a notification goes, and what it says; None while there is nothing to say, or nobody to say it to."""
        made, paid = trade.made, trade.paid
        if not topic:
            if paid is None or paid.details["code"] != OK:
                return None
            facts = paid_facts(made, paid, cut_off=_cut_off(faults))
            code = self._success_code(trade, faults)
            return made.notify_url, notification(made.details, facts, code, paid.details["merId"])
        refund = trade.refunds.get(topic)
        if refund is None or refund.state is RefundState.PROCESSING or not refund.made.notify_url:
            return None
        facts, code = refund_facts(trade, refund, cut_off=_cut_off(faults)), REFUND_CODES[refund.state]
        return refund.made.notify_url, notification(refund.made.details, facts, code, made.merchant)

    def acknowledged(self, status: int, body: bytes) -> bool:
        """The status alone counts."""
        return status in (200, 302)

    # --- pieces

    def _filled(self, fields: Mapping[str, str], subject: str, faults: UnionpayFaults) -> Mapping[str, str]:
        empty = draw(self._seed, "empty_fields", subject) < faults.empty_fields
        return envelope.with_empty_fields(fields) if empty else fields

    def _no(self, said: Said, code: str, call: Call) -> Done:
        """A no to a sale: a browser is shown a page."""
        if not _by_browser(call.incoming):
            return answered(said, code)
        return Done(reply=_error_page(code))

    def _refused(self, said: Said, code: str, request: Incoming, moment: Moment) -> Reply:
        if request.path == FRONT:
            return _error_page(code)
        return self._signed(answer_fields(said, code), said.charset)

    def _signed(self, fields: Mapping[str, str], charset: str) -> Reply:
        return _answer(envelope.signed(self._keys.signers[0], fields, charset), charset)


def _verb(asked: Sale | Query | Return | Download) -> str:
    match asked:
        case Sale():
            return "front" if asked.method in FRONT_METHODS else "pay"
        case Return():
            return "void" if asked.kind == unionpay_returns.VOID else "refund"
    return type(asked).__name__.lower()


def _by_browser(request: Incoming | None) -> bool:
    return request is not None and request.path == FRONT


def _terms(said: Said) -> str:
    return hashlib.sha256(msgspec.json.encode(sorted(said.fields.items()))).hexdigest()


def _original(code: str) -> dict[str, str]:
    return {"origRespCode": code, "origRespMsg": text_of(code)}


def _cut_off(faults: UnionpayFaults) -> bool:
    return faults.bill_calendar > 0


def _lie(asked: Sale | Query | Return | Download) -> tuple[str, dict[str, str]]:
    """What would do harm if it were believed: it does not exist, it was refused, another code, an empty day."""
    match asked:
        case Sale():
            return OK, {"tn": "LIE", "qrCode": "https://qr.95516.com/00010001/lie"}
        case Return():
            return "36", {}
        case Download():
            return "98", {}
    return "34", {}


# --- what goes out ---------------------------------------------------------------------------------------------------


def _answer(fields: Mapping[str, str], charset: str) -> Reply:
    return Reply(200, _HTML, envelope.raw(fields, charset))


def _page(trade: Trade, moment: Moment) -> Done:
    """The payer's browser goes to the cashier."""
    shown = trade.made.out_trade_no if trade.payable(moment.now) else ""
    return Done(reply=Reply(302, {"Location": page_of(*trade.key)}), shown=shown)


def _error_page(code: str) -> Reply:
    page = f'<html><head><meta charset="utf-8"></head><body>{escape(text_of(code))}</body></html>'
    return Reply(400, _HTML, page.encode())
