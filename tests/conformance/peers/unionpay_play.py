"""UnionPay, played by openssl: pay by every method, query, void, refund, file; then it notifies."""

import asyncio
import base64
import io
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from channels.moments import compact
from tests.conformance.peers.contents import Order, unionpay, unionpay_refund
from tests.conformance.peers.play import Message, Play, same
from tests.conformance.peers.stage import PEERS

FORM: Final = {"Content-Type": "application/x-www-form-urlencoded;charset=UTF-8"}
FRONT: Final = "/gateway/api/frontTransReq.do"
BACK: Final = "/gateway/api/backTransReq.do"
APP: Final = "/gateway/api/appTransReq.do"
QUERY: Final = "/gateway/api/queryTrans.do"
COMMON: Final = {"version": "5.1.0", "encoding": "UTF-8", "signMethod": "01", "accessType": "0"}
WEB: Final = {"txnType": "01", "txnSubType": "01", "bizType": "000201", "channelType": "07"}
WAP: Final = {**WEB, "channelType": "08"}
QR: Final = {"txnType": "01", "txnSubType": "07", "bizType": "000000", "channelType": "08"}
BARCODE: Final = {**QR, "txnSubType": "06", "qrNo": "6220485073630469936"}
VOID: Final = {"txnType": "31", "txnSubType": "00", "bizType": "000000", "channelType": "08"}
REFUND: Final = {"txnType": "04", "txnSubType": "00", "bizType": "000000", "channelType": "08"}
ASK: Final = {"txnType": "00", "txnSubType": "00", "bizType": "000000"}
FILE: Final = {"txnType": "76", "txnSubType": "01", "bizType": "000000", "fileType": "00"}
ON_ITS_WAY: Final = ("03", "04", "05")
SETTLES_WITHIN_S: Final = 10.0
# Of a line of the file: where a column begins and ends, in bytes; from its published widths.
ZM_WIDTHS: Final = (3, 11, 11, 6, 10, 19, 12, 4, 2, 21, 2, 32, 2, 6, 10, 13, 13, 4, 15, 2)
AMOUNT, QUERY_ID, NUMBER, TXN_TYPE = 6, 9, 11, 19


async def play(peer: Play) -> None:
    """All of it."""
    till = _Till(peer)
    for part in (_qr, _app, _fronts, _barcode, _voids, _refunds, _files, _strangers, _front_ends):
        await part(peer, till)
    await _plays_the_channel(peer, till)


class _Till:
    """The merchant's requests. A trade is known by its number and the time of its first request, so that is kept."""

    def __init__(self, peer: Play) -> None:
        self._peer = peer
        self._merchant = peer.stage.accounts[PEERS]["unionpay"].merchant
        self._times: dict[str, str] = {}

    def fields(self, name: str, kind: dict[str, str], **more: str) -> dict[str, str]:
        """Of a request with a number of its own; sent again, it is the same."""
        at = self._times.setdefault(name, compact(int(time.time())))
        about = {"merId": self._merchant, "orderId": self._peer.number(name), "txnTime": at}
        return {**COMMON, **kind, **about, **more}

    def moving(self, name: str, kind: dict[str, str], fen: int, **more: str) -> dict[str, str]:
        """Of a request that moves money."""
        back = self._peer.notify_url(name)
        return self.fields(name, kind, txnAmt=str(fen), currencyCode="156", backUrl=back, **more)

    async def post(self, path: str, fields: dict[str, str], **more: str) -> dict[str, str]:
        """The answer, verified by openssl."""
        said: dict[str, str] = await self._peer.driver.do(
            "post", url=self._peer.stage.simulator_url + path, fields=fields, **more
        )
        return said

    async def query(self, name: str, txn_time: str = "") -> dict[str, str]:
        """What became of it."""
        about = {"merId": self._merchant, "orderId": self._peer.number(name)}
        at = txn_time or self._times.get(name) or compact(int(time.time()))
        return await self.post(QUERY, {**COMMON, **ASK, **about, "txnTime": at})

    async def paid(self, name: str, fen: int) -> dict[str, str]:
        """What is known of a payment that succeeded."""
        known = await self.query(name)
        facts = known["respCode"], known["origRespCode"], known["txnType"], known["txnAmt"], known["currencyCode"]
        same(facts, ("00", "00", "01", str(fen), "156"), known)
        return known

    async def settled(self, name: str) -> dict[str, str]:
        """What a void or a refund came to."""
        deadline = time.monotonic() + SETTLES_WITHIN_S
        while True:
            known = await self.query(name)
            if known.get("origRespCode") not in ON_ITS_WAY or time.monotonic() > deadline:
                return known
            await asyncio.sleep(0.05)


async def _qr(peer: Play, till: _Till) -> None:
    async with peer.check("qr: a qrCode, and nobody has paid it"):
        made = await till.post(BACK, till.moving("qr000", QR, 100))
        same((made["respCode"], made["qrCode"][:21]), ("00", "https://qr.95516.com/"), made)
        known = await till.query("qr000")
        same((known["respCode"], known.get("origRespCode")) in (("00", "05"), ("34", None)), True, known)
    async with peer.check("qr: paid, and the query says so"):
        await peer.payer_pays("qr000")
        same(len((await till.paid("qr000", 100))["queryId"]), 21)
    async with peer.check("query with another txnTime: 34"):
        same((await till.query("qr000", "20240105000000"))["respCode"], "34")
    async with peer.check("the same number again: 12"):
        same((await till.post(BACK, till.moving("qr000", QR, 100)))["respCode"], "12")
    async with peer.check("the simulator's notification: verified by openssl, certificate and all"):
        told = await peer.driver.do("read", body=(await peer.letter("qr000")).body)
        facts = told["respCode"], told["orderId"], told["txnAmt"], told["queryId"]
        same(facts, ("00", peer.number("qr000"), "100", (await till.paid("qr000", 100))["queryId"]))


async def _app(peer: Play, till: _Till) -> None:
    async with peer.check("app: a tn, and paid in the app"):
        made = await till.post(APP, till.moving("app00", WAP, 200))
        same((made["respCode"], made["tn"].isdigit()), ("00", True), made)
        await peer.payer_pays("app00")
        await till.paid("app00", 200)


async def _fronts(peer: Play, till: _Till) -> None:
    for name, kind, fen in (("web00", WEB, 300), ("wap00", WAP, 400)):
        async with peer.check(f"{name[:3]}: nothing before the browser has posted the form, then the payer pays there"):
            form = till.moving(name, kind, fen, frontUrl="http://127.0.0.1/back")
            form = await peer.driver.do("signed", fields=form)
            same((await till.query(name))["respCode"], "34")
            cashier = await _browsed(peer, peer.stage.simulator_url + FRONT, urlencode(form))
            waiting = await till.query(name)
            same((waiting["respCode"], waiting["origRespCode"], "queryId" in waiting), ("00", "05", False), waiting)
            await _browsed(peer, cashier)
            await till.paid(name, fen)


async def _browsed(peer: Play, url: str, body: str = "") -> str:
    """A browser posts there and sees the cashier's page; where that stands."""
    async with peer.stage.session.post(url, data=body or None, headers=FORM if body else None) as page:
        same((page.status, "/cashier/" in str(page.url)), (200, True), (await page.text())[:300])
        return str(page.url)


async def _barcode(peer: Play, till: _Till) -> None:
    async with peer.check("barcode: the payer's code is scanned and paid"):
        said = await till.post(BACK, till.moving("bar00", BARCODE, 500))
        same(said["respCode"] in ("00", *ON_ITS_WAY), True, said)
        if said["respCode"] != "00":
            await peer.payer_pays("bar00")
        await till.paid("bar00", 500)


async def _voids(peer: Play, till: _Till) -> None:
    async with peer.check("void: all of the payment is given back"):
        original = await till.paid("app00", 200)
        said = await till.post(BACK, till.moving("void0", VOID, 200, origQryId=original["queryId"]))
        same(said["respCode"], "00", said)
        known = await till.settled("void0")
        same((known["respCode"], known["origRespCode"], known["txnType"], known["txnAmt"]), ("00", "00", "31", "200"))
    async with peer.check("void: its notification, verified by openssl"):
        told = await peer.driver.do("read", body=(await peer.letter("void0")).body)
        same((told["respCode"], told["txnType"], told["orderId"]), ("00", "31", peer.number("void0")))
    async with peer.check("void: not twice"):
        original = await till.paid("app00", 200)
        said = await till.post(BACK, till.moving("void1", VOID, 200, origQryId=original["queryId"]))
        same(said["respCode"] in ("35", "36", "45"), True, said)


async def _refunds(peer: Play, till: _Till) -> None:
    original: dict[str, str] = {}
    async with peer.check("refund of a part: accepted, then done; the payment itself does not change"):
        original = await till.paid("web00", 300)
        for name, fen in (("ref01", 120), ("ref02", 180)):
            said = await till.post(BACK, till.moving(name, REFUND, fen, origQryId=original["queryId"]))
            same(said["respCode"], "00", said)
            known = await till.settled(name)
            facts = known["respCode"], known["origRespCode"], known["txnType"], known["txnAmt"]
            same(facts, ("00", "00", "04", str(fen)))
        same(await till.paid("web00", 300) | _VOLATILE, original | _VOLATILE)
    async with peer.check("refund: its notification, verified by openssl"):
        told = await peer.driver.do("read", body=(await peer.letter("ref01")).body)
        facts = told["respCode"], told["txnType"], told["origQryId"], told["txnAmt"]
        same(facts, ("00", "04", original["queryId"], "120"))
    async with peer.check("refund: nothing beyond what was paid"):
        said = await till.post(BACK, till.moving("ref03", REFUND, 1, origQryId=original["queryId"]))
        same(said["respCode"] in ("35", "36", "45"), True, said)
    async with peer.check("query of what nobody knows: 34"):
        same((await till.query("nobody"))["respCode"], "34")


_VOLATILE: Final = {"signature": "", "signPubKeyCert": ""}


async def _files(peer: Play, till: _Till) -> None:
    async with peer.check("file: its rows are the money that moved"):
        today = compact(int(time.time()))[4:8]
        asked = till.fields("file", FILE, settleDate=today)
        del asked["orderId"]
        said = await till.post("/", asked)
        same(said["respCode"], "00", said)
        zipped = zipfile.ZipFile(io.BytesIO(zlib.decompress(base64.b64decode(said["fileContent"]))))
        detail = next(name for name in zipped.namelist() if "ZM_" in name)
        cells = [_cells(line) for line in zipped.read(detail).splitlines() if line.strip()]
        mine = {
            row[NUMBER]: (row[TXN_TYPE], int(row[AMOUNT])) for row in cells if row[NUMBER].startswith(peer.number(""))
        }
        moved = {"qr000": ("01", 100), "app00": ("01", 200), "web00": ("01", 300), "wap00": ("01", 400)}
        moved |= {"bar00": ("01", 500), "void0": ("31", 200), "ref01": ("04", 120), "ref02": ("04", 180)}
        same(mine, {peer.number(name): fact for name, fact in moved.items()})
    async with peer.check("file of a day without one: 98"):
        asked = till.fields("file", FILE, settleDate="0229")
        del asked["orderId"]
        same((await till.post("/", asked))["respCode"], "98")


def _cells(line: bytes) -> list[str]:
    cells, at = [], 0
    for width in ZM_WIDTHS:
        cells.append(line[at : at + width].decode("gbk").strip())
        at += width + 1
    return cells


async def _strangers(peer: Play, till: _Till) -> None:
    async with peer.check("a request signed with another key: 11"):
        said = await till.post(BACK, till.moving("other", QR, 100), private_key=peer.stage.stranger)
        same(said["respCode"], "11", said)


# --- what the gateway hands to a payer's browser


async def _front_ends(peer: Play, _till: _Till) -> None:
    for method in ("web", "wap"):
        async with peer.check(f"{method}: the gateway's form is signed as openssl signs it"):
            order = await peer.order(method)
            fields = order.credential["value"]["fields"]
            key = Path(str(order.account["private_key_file"])).read_text()
            same(fields["signature"], await peer.driver.do("sign", fields=fields, private_key=key), fields)


# --- the peer as the channel


async def _plays_the_channel(peer: Play, _till: _Till) -> None:
    async with peer.check("an order waits for the peer's notification"):
        order = await peer.order("web")
        unionpays = _signer(peer.stage.folder / "simulator" / "unionpay-sign")
        genuine = await _notice(peer, order, unionpays)
        impostor = await peer.driver.do("impostor")
        merchant = {
            "private_key": Path(str(order.account["private_key_file"])).read_text(),
            "certificate": Path(str(order.account["certificate_file"])).read_text(),
        }
        older = {"version": "5.0.0"}
        false = {
            "signed by an impostor whose certificate names UnionPay": await _notice(peer, order, impostor),
            "signed by a merchant with his genuine certificate": await _notice(peer, order, merchant),
            "with UnionPay's certificate but a stranger's signature": await _notice(
                peer, order, {**unionpays, "private_key": peer.stage.stranger}
            ),
            "of another version": await _notice(peer, order, unionpays, **older),
            "changed on its way": Message(FORM, genuine.body.replace(b"=1234&", b"=1235&")),
            "whose certificate lost its line ends": Message(FORM, genuine.body.replace(b"%0D%0A", b"%0A")),
        }
        refund = await _notice(peer, order, unionpays, **unionpay_refund(order))
    if peer.checks[-1].ok:
        await peer.deliver(order, genuine, false, refund)


def _signer(path: Path) -> dict[str, str]:
    """What the platform signs with."""
    return {
        "private_key": path.with_name(f"{path.name}.key.pem").read_text(),
        "certificate": path.with_name(f"{path.name}.cer").read_text(),
    }


async def _notice(peer: Play, order: Order, signer: dict[str, Any], **changed: str) -> Message:
    """A notification that openssl signed."""
    return Message(FORM, (await peer.driver.do("notice", fields={**unionpay(order), **changed}, **signer)).encode())
