"""Alipay, played by any client: pay by every method, query, close, cancel, refund, bill; then it notifies."""

import html
import io
import re
import time
import zipfile
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from channels.moments import plain
from tests.conformance.peers.contents import alipay, alipay_refund
from tests.conformance.peers.driver import Raised
from tests.conformance.peers.play import Message, Play, same

SUBJECT: Final = "Tea +% 茶"
RETURN_URL: Final = "http://127.0.0.1/back"
FORM: Final = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
FORM_GBK: Final = "application/x-www-form-urlencoded; charset=GBK"


async def play(peer: Play) -> None:
    """All of it."""
    for part in (_qr, _pages, _app, _closes, _refunds, _bills, _strangers, _front_ends, _plays_the_channel):
        await part(peer)


async def _ok(peer: Play, verb: str, **about: Any) -> dict[str, Any]:
    """What the platform said, verified by the client; the call went well."""
    said: dict[str, Any] = await peer.driver.do(verb, **about)
    same((said["signed"], said["code"], said["msg"]), (True, "10000", "Success"), said)
    return said


async def _no(peer: Play, sub_code: str, verb: str, **about: Any) -> dict[str, Any]:
    """A signed no of the business."""
    said: dict[str, Any] = await peer.driver.do(verb, **about)
    same((said["signed"], said["code"], said.get("sub_code")), (True, "40004", sub_code), said)
    return said


def _biz(peer: Play, name: str, yuan: str) -> dict[str, str]:
    return {"out_trade_no": peer.number(name), "total_amount": yuan, "subject": f"{SUBJECT} {name}"}


async def _query(peer: Play, name: str) -> dict[str, Any]:
    return await _ok(peer, "query", number=peer.number(name))


async def _qr(peer: Play) -> None:
    async with peer.check("precreate: a qr_code"):
        made = await _ok(peer, "precreate", biz=_biz(peer, "qr", "1.00"), notify_url=peer.notify_url("qr"))
        same((made["out_trade_no"], made["qr_code"][:22]), (peer.number("qr"), "https://qr.alipay.com/"), made)
    async with peer.check("query before the scan: ACQ.TRADE_NOT_EXIST"):
        await _no(peer, "ACQ.TRADE_NOT_EXIST", "query", number=peer.number("qr"))
    async with peer.check("scanned and paid: the query says so by both numbers"):
        await peer.payer_pays("qr")
        known = await _query(peer, "qr")
        same((known["trade_status"], known["total_amount"]), ("TRADE_SUCCESS", "1.00"))
        same(await _ok(peer, "query", transaction=known["trade_no"]), known)
    async with peer.check("the simulator's notification: verified by the client"):
        letter = await peer.letter("qr")
        told = await peer.driver.do("read", body=letter.body)
        facts = told["trade_status"], told["out_trade_no"], told["total_amount"], told["trade_no"]
        same(facts, ("TRADE_SUCCESS", peer.number("qr"), "1.00", (await _query(peer, "qr"))["trade_no"]))


async def _pages(peer: Play) -> None:
    about = {"notify_url": peer.notify_url("page"), "return_url": RETURN_URL}
    for kind, yuan in (("page", "2.00"), ("wap", "3.00")):
        async with peer.check(f"{kind}: the payer opens the address, pays there, and the query says so"):
            more = {"quit_url": RETURN_URL} if kind == "wap" else {}
            url = await peer.driver.do("page", kind=kind, biz={**_biz(peer, kind, yuan), **more}, **about)
            await _no(peer, "ACQ.TRADE_NOT_EXIST", "query", number=peer.number(kind))
            cashier = await _opened(peer, "GET", url, yuan)
            same((await _query(peer, kind))["trade_status"], "WAIT_BUYER_PAY")
            await _opened(peer, "POST", cashier, yuan)
            known = await _query(peer, kind)
            same((known["trade_status"], known["total_amount"]), ("TRADE_SUCCESS", yuan))
    if "form" not in await peer.driver.do("verbs"):
        return
    async with peer.check("page: the payer's browser submits the form, and the trade waits for him"):
        page = await peer.driver.do("form", biz=_biz(peer, "form", "4.00"), **about)
        action = _attribute(re.findall(r'<form [^>]*action="([^"]*)"', page)[0])
        fields = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', page)
        body = urlencode({name: _attribute(value) for name, value in fields})
        await _opened(peer, "POST", action, "4.00", body)
        same((await _query(peer, "form"))["trade_status"], "WAIT_BUYER_PAY")


def _attribute(text: str) -> str:
    """As a browser reads it: `&quot;` is a quote, but `&timestamp=` is not the times sign that it begins with."""
    return re.sub(r"&[a-z]+;", lambda found: html.unescape(found[0]), text)


async def _opened(peer: Play, method: str, url: str, yuan: str, body: str = "") -> str:
    """A browser goes there and sees the cashier's page with the amount; where that page stands."""
    async with peer.stage.session.request(method, url, data=body or None, headers=FORM if body else None) as page:
        text = await page.text()
        same((page.status, yuan in text, "/cashier/" in str(page.url)), (200, True, True), text[:300])
        return str(page.url)


async def _app(peer: Play) -> None:
    async with peer.check("app: Alipay's app takes the client's order, the payer pays, and the query says so"):
        order = await peer.driver.do("app", biz=_biz(peer, "app", "5.00"), notify_url=peer.notify_url("app"))
        await _opened(peer, "POST", f"{peer.stage.simulator_url}/gateway.do", "5.00", order)
        await peer.payer_pays("app")
        same((await _query(peer, "app"))["trade_status"], "TRADE_SUCCESS")


async def _closes(peer: Play) -> None:
    about = {"notify_url": peer.notify_url("closed"), "return_url": RETURN_URL}
    async with peer.check("close of one that waits: closed for good"):
        await _opened(
            peer, "GET", await peer.driver.do("page", kind="page", biz=_biz(peer, "c1", "6.00"), **about), "6.00"
        )
        same((await _ok(peer, "close", number=peer.number("c1")))["out_trade_no"], peer.number("c1"))
        same((await _query(peer, "c1"))["trade_status"], "TRADE_CLOSED")
    async with peer.check("close of one that nobody scanned: ACQ.TRADE_NOT_EXIST"):
        await _ok(peer, "precreate", biz=_biz(peer, "c2", "6.00"), notify_url=about["notify_url"])
        await _no(peer, "ACQ.TRADE_NOT_EXIST", "close", number=peer.number("c2"))
    async with peer.check("close of a paid one is refused"):
        said = await peer.driver.do("close", number=peer.number("qr"))
        known = "ACQ.TRADE_STATUS_ERROR", "ACQ.REASON_TRADE_STATUS_INVALID", "ACQ.REASON_ILLEGAL_STATUS"
        same((said["code"], said["sub_code"] in known), ("40004", True), said)
    async with peer.check("cancel of one that waits: action close"):
        await _opened(
            peer, "GET", await peer.driver.do("page", kind="page", biz=_biz(peer, "c3", "6.00"), **about), "6.00"
        )
        said = await _ok(peer, "cancel", number=peer.number("c3"))
        same((said["retry_flag"], said["action"]), ("N", "close"))
        same((await _query(peer, "c3"))["trade_status"], "TRADE_CLOSED")


async def _refund(peer: Play, name: str, yuan: str) -> dict[str, Any]:
    """Of the page trade, whose total is 2.00."""
    biz = {"out_trade_no": peer.number("page"), "refund_amount": yuan, "out_request_no": peer.number(name)}
    said: dict[str, Any] = await peer.driver.do("refund", biz={**biz, "refund_reason": "退货"})
    return said


async def _refunds(peer: Play) -> None:
    async with peer.check("refund of a part: fund_change Y, and the query knows it"):
        said = await _refund(peer, "r1", "0.60")
        same((said["code"], said["fund_change"], said["refund_fee"]), ("10000", "Y", "0.60"), said)
        known = await _ok(peer, "query_refund", number=peer.number("page"), refund_no=peer.number("r1"))
        same((known["refund_status"], known["refund_amount"]), ("REFUND_SUCCESS", "0.60"))
        same((await _query(peer, "page"))["trade_status"], "TRADE_SUCCESS")
    async with peer.check("the same refund again: fund_change N; with another amount: ACQ.DISCORDANT_REPEAT_REQUEST"):
        said = await _refund(peer, "r1", "0.60")
        same((said["code"], said["fund_change"], said["refund_fee"]), ("10000", "N", "0.60"), said)
        same((await _refund(peer, "r1", "0.70"))["sub_code"], "ACQ.DISCORDANT_REPEAT_REQUEST")
    async with peer.check("the rest is given back, nothing beyond it, and the trade is closed"):
        same((await _refund(peer, "r3", "1.50"))["code"], "40004")
        said = await _refund(peer, "r2", "1.40")
        same((said["fund_change"], said["refund_fee"]), ("Y", "2.00"), said)
        same((await _query(peer, "page"))["trade_status"], "TRADE_CLOSED")
        same((await _refund(peer, "r4", "0.01"))["code"], "40004")
    async with peer.check("a refund nobody knows: 10000 without a refund_status"):
        known = await _ok(peer, "query_refund", number=peer.number("page"), refund_no=peer.number("nobody"))
        same("refund_status" in known or "refund_amount" in known, False, known)


async def _bills(peer: Play) -> None:
    async with peer.check("bill: its rows are the money that moved"):
        about = await _ok(peer, "bill", day=plain(int(time.time()))[:10])
        async with peer.stage.session.get(about["bill_download_url"]) as file:
            same(file.status, 200)
            zipped = zipfile.ZipFile(io.BytesIO(await file.read()))
        names = {each.encode("cp437").decode("gbk"): each for each in zipped.namelist()}
        detail = next(each for name, each in names.items() if name.endswith("_业务明细.csv"))
        rows = [line.split(",") for line in zipped.read(detail).decode("gbk").splitlines() if not line.startswith("#")]
        cells = [dict(zip(rows[0], map(str.strip, row), strict=True)) for row in rows[1:]]
        mine = {}
        for name in ("qr", "page", "wap", "app", "form", "c1", "c2", "c3"):
            found = [row for row in cells if row["商户订单号"] == peer.number(name)]
            mine[name] = sorted((row["业务类型"], row["订单金额（元）"].lstrip("-")) for row in found)
        paid = {"qr": "1.00", "wap": "3.00", "app": "5.00"}
        wanted = {name: [("交易", paid[name])] if name in paid else [] for name in mine}
        wanted["page"] = [("交易", "2.00"), ("退款", "0.60"), ("退款", "1.40")]
        same(mine, wanted)


async def _strangers(peer: Play) -> None:
    async with peer.check("a request signed with another key: an unsigned isv.invalid-signature"):
        about = {"private_key": peer.stage.stranger, "public_key": "", "number": peer.number("qr")}
        said = await peer.driver.do("with_keys", **about)
        same((said["signed"], said["code"], said["sub_code"]), (False, "40002", "isv.invalid-signature"), said)
    async with peer.check("the client believes no answer that another key has signed: its verification is on"):
        about = {"private_key": "", "public_key": peer.stage.strangers_public, "number": peer.number("qr")}
        try:
            raise AssertionError(f"it believes {await peer.driver.do('with_keys', **about)}")
        except Raised:
            pass


# --- what the gateway hands to a payer's front end


async def _front_ends(peer: Play) -> None:
    for method in ("page", "wap", "app"):
        async with peer.check(f"{method}: what the gateway hands out is signed as the client signs it"):
            order = await peer.order(method)
            given = order.credential["value"]
            query = given.partition("?")[2] if method != "app" else given["orderString"]
            fields = dict(parse_qsl(query, strict_parsing=True))
            key = Path(str(order.account["private_key_file"])).read_text()
            unsigned = {name: value for name, value in fields.items() if name != "sign"}
            by_client = dict(parse_qsl(await peer.driver.do("notice", fields=unsigned, private_key=key)))
            same(fields["sign"], by_client["sign"], query)


# --- the peer as the channel


async def _plays_the_channel(peer: Play) -> None:
    async with peer.check("an order waits for the peer's notification"):
        order = await peer.order("qr")
        key = (peer.stage.folder / "simulator" / "alipay-public.key.pem").read_text()
        genuine = await _notice(peer, alipay(order), key)
        false = {
            "signed by a stranger": await _notice(peer, alipay(order), peer.stage.stranger),
            "changed on its way": Message(FORM, genuine.body.replace(b"total_amount=12.34", b"total_amount=12.35")),
            "without a signature": Message(FORM, re.sub(rb"&sign=[^&]*", b"", genuine.body)),
        }
        refund = await _notice(peer, alipay_refund(order), key)
    if peer.checks[-1].ok:
        await peer.deliver(order, genuine, false, refund)
    async with peer.check("a notification with an empty field, which the client signs as well, is believed"):
        order = await peer.order("page")
        await peer.believed(order, await _notice(peer, {**alipay(order), "passback_params": ""}, key))
    if "notice_gbk" in await peer.driver.do("verbs"):
        async with peer.check("a notification in GBK is believed"):
            order = await peer.order("wap")
            body = await peer.driver.do("notice_gbk", fields={**alipay(order), "charset": "GBK"}, private_key=key)
            await peer.believed(order, Message({**FORM, "Content-Type": FORM_GBK}, body.encode()))


async def _notice(peer: Play, fields: dict[str, str], key: str) -> Message:
    """A notification that the peer signed."""
    return Message(FORM, (await peer.driver.do("notice", fields=fields, private_key=key)).encode())
