"""WeChat Pay, played by any client: pay by every method, query, close, refund, bill; then it notifies."""

import asyncio
import base64
import gzip
import hashlib
import json
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from channels.moments import rfc3339
from channels.signing import load_certificate
from tests.conformance.peers.contents import Order, wechatpay, wechatpay_refund
from tests.conformance.peers.driver import Raised
from tests.conformance.peers.play import Message, Play, same
from tests.conformance.peers.stage import GATEWAYS

PAYER: Final = {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"}
H5: Final = {"payer_client_ip": "14.23.150.211", "h5_info": {"type": "Wap"}}
SETTLES_WITHIN_S: Final = 10.0
SIGNATURE_TYPE: Final = "WECHATPAY2-SHA256-RSA2048"


class Method(msgspec.Struct, frozen=True):
    """A way to pay: what is sent beside the usual, the field that is answered, the trade_type once it is paid."""

    name: str
    total: int
    answer: str
    begins: str
    trade_type: str
    more: dict[str, Any] = {}


METHODS: Final = (
    Method("native", 100, "code_url", "weixin://wxpay/bizpayurl?pr=", "NATIVE"),
    Method("jsapi", 200, "prepay_id", "wx", "JSAPI", {"payer": PAYER}),
    Method("mini", 201, "prepay_id", "wx", "JSAPI", {"payer": PAYER}),
    Method("app", 300, "prepay_id", "wx", "APP"),
    Method("h5", 400, "h5_url", "http", "MWEB", {"scene_info": H5}),
)


async def play(peer: Play) -> None:
    """All of it."""
    # In certificate mode the platform signs what it sends by its certificate, too.
    by_certificate = {"certificate_share": 1.0 if peer.mode == "certificate" else 0.0}
    await peer.stage.steer("/_faults", {"wechatpay": by_certificate})
    for part in (_pays, _queries, _closes, _refunds, _bills, _strangers, _front_ends, _plays_the_channel):
        await part(peer)


async def _ok(peer: Play, verb: str, status: int = 200, **about: Any) -> dict[str, Any]:
    """What the platform said, verified by the client."""
    said: dict[str, Any] = await peer.driver.do(verb, **about)
    same(said["status"], status, said["body"])
    body: dict[str, Any] = said["body"]
    return body


async def _query(peer: Play, name: str) -> dict[str, Any]:
    return await _ok(peer, "query", number=peer.number(name))


async def _prepay(
    peer: Play, name: str, total: int, *, status: int = 200, kind: str = "", **more: Any
) -> dict[str, Any]:
    about = {"number": peer.number(name), "notify_url": peer.notify_url(name), "total": total}
    return await _ok(peer, "prepay", status, kind=kind or name, **about, **more)


async def _pays(peer: Play) -> None:
    for method in METHODS:
        async with peer.check(f"{method.name}: {method.answer}"):
            prepaid = await _prepay(peer, method.name, method.total, **method.more)
            same(prepaid[method.answer].startswith(method.begins), True, prepaid)
    async with peer.check("native with every optional field"):
        goods = [{"merchant_goods_id": "1", "quantity": 1, "unit_price": 500}]
        more: dict[str, Any] = {"time_expire": rfc3339(int(time.time()) + 600), "attach": "a|b", "goods_tag": "WXG"}
        more |= {"support_fapiao": True, "detail": {"cost_price": 500, "goods_detail": goods}}
        more |= {"settle_info": {"profit_sharing": False}, "scene_info": {"payer_client_ip": "::1"}}
        await _prepay(peer, "full", 500, kind="native", **more)
    async with peer.check("prepaid again: a code; with another amount: OUT_TRADE_NO_USED"):
        await _prepay(peer, "native", 100)
        same((await _prepay(peer, "native", 101, status=403))["code"], "OUT_TRADE_NO_USED")


async def _queries(peer: Play) -> None:
    async with peer.check("query: not paid yet"):
        known = await _query(peer, "native")
        same((known["trade_state"], known["amount"]["total"], "transaction_id" in known), ("NOTPAY", 100, False))
    async with peer.check("query of what nobody knows: 404 ORDER_NOT_EXIST"):
        same((await _ok(peer, "query", 404, number=peer.number("nobody")))["code"], "ORDER_NOT_EXIST")
    for method in METHODS:
        if method.name != "mini":  # that one stays unpaid, to be closed
            async with peer.check(f"{method.name}: paid, and the query says so by both numbers"):
                await peer.payer_pays(method.name)
                known = await _query(peer, method.name)
                facts = known["trade_state"], known["trade_type"], known["amount"]["total"]
                same(facts, ("SUCCESS", method.trade_type, method.total))
                same(await _ok(peer, "query_transaction", transaction=known["transaction_id"]), known)
    async with peer.check("the simulator's notification: verified and opened by the client"):
        letter = await peer.letter("native")
        opened = await peer.driver.do("read", headers=letter.headers, body=letter.body)
        same((opened["event_type"], opened["resource"]), ("TRANSACTION.SUCCESS", await _query(peer, "native")))


async def _closes(peer: Play) -> None:
    async with peer.check("close: a signed 204, closed for good, and again"):
        same(await _ok(peer, "close", 204, number=peer.number("mini")), {})
        same((await _query(peer, "mini"))["trade_state"], "CLOSED")
        same(await _ok(peer, "close", 204, number=peer.number("mini")), {})
    async with peer.check("close of a paid one: ORDER_PAID"):
        same((await _ok(peer, "close", 400, number=peer.number("native")))["code"], "ORDER_PAID")


async def _refund(peer: Play, name: str, refunded: int, status: int = 200) -> dict[str, Any]:
    """Of the jsapi trade, whose total is 200."""
    about = {"refund_no": peer.number(name), "number": peer.number("jsapi"), "notify_url": peer.notify_url(name)}
    return await _ok(peer, "refund", status, refunded=refunded, total=200, **about)


async def _settled(peer: Play, name: str) -> dict[str, Any]:
    deadline = time.monotonic() + SETTLES_WITHIN_S
    while True:
        known = await _ok(peer, "query_refund", refund_no=peer.number(name))
        if known["status"] != "PROCESSING" or time.monotonic() > deadline:
            return known
        await asyncio.sleep(0.05)


async def _refunds(peer: Play) -> None:
    async with peer.check("refund of a part: accepted, then done"):
        first = await _refund(peer, "r1", 60)
        same(first["status"] in ("PROCESSING", "SUCCESS"), True, first)
        known = await _settled(peer, "r1")
        facts = known["status"], known["amount"]["refund"], known["amount"]["total"], known["refund_id"]
        same(facts, ("SUCCESS", 60, 200, first["refund_id"]))
    async with peer.check("the simulator's refund notification: verified and opened by the client"):
        letter = await peer.letter("r1")
        opened = await peer.driver.do("read", headers=letter.headers, body=letter.body)
        said = opened["resource"]
        same((opened["event_type"], said["refund_status"], said["amount"]["refund"]), ("REFUND.SUCCESS", "SUCCESS", 60))
        same(said["out_refund_no"], peer.number("r1"))
    async with peer.check("the same refund again is the same refund"):
        same((await _refund(peer, "r1", 60))["refund_id"], (await _settled(peer, "r1"))["refund_id"])
    async with peer.check("the rest is given back, and nothing beyond it"):
        await _refund(peer, "r2", 140)
        same((await _settled(peer, "r2"))["status"], "SUCCESS")
        refused = await peer.driver.do(
            "refund", refund_no=peer.number("r3"), number=peer.number("jsapi"), refunded=1, total=200,
            notify_url=peer.notify_url("r3"),
        )  # fmt: skip
        same(400 <= refused["status"] < 500, True, refused)
    async with peer.check("the refunded trade says REFUND, of the whole amount"):
        known = await _query(peer, "jsapi")
        same((known["trade_state"], known["amount"]["total"]), ("REFUND", 200))
    async with peer.check("a refund nobody knows: 404 RESOURCE_NOT_EXISTS"):
        same((await _ok(peer, "query_refund", 404, refund_no=peer.number("nobody")))["code"], "RESOURCE_NOT_EXISTS")


async def _bills(peer: Play) -> None:
    text = ""
    async with peer.check("bill: its hash is that of what was unzipped, its rows are the money that moved"):
        about = await _ok(peer, "bill", day=rfc3339(int(time.time()))[:10])
        file = await peer.driver.do("file", url=about["download_url"])
        content = gzip.decompress(base64.b64decode(file["content"]))
        digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        same((about["hash_type"], about["hash_value"]), ("SHA1", digest))
        text = content.decode("utf-8-sig")
        billed = {name for name in ("native", "jsapi", "app", "h5", "r1", "r2", "mini") if peer.number(name) in text}
        same(billed, {"native", "jsapi", "app", "h5", "r1", "r2"})
    if "rows" in await peer.driver.do("verbs"):
        async with peer.check("bill: the client's own reader finds the rows and the summary"):
            read = await peer.driver.do("rows", text="\ufeff" + text)
            mine = [row for row in read["rows"] if row["商户订单号"] == peer.number("h5")]
            same([(row["交易状态"], row["订单金额"]) for row in mine], [("SUCCESS", "4.00")], read["rows"])
            same(
                int(read["summary"]["总交易单数"]),
                len(read["rows"]),
            )


async def _strangers(peer: Play) -> None:
    async with peer.check("a request signed with another key: 401 SIGN_ERROR"):
        said = await peer.driver.do("stranger", private_key=peer.stage.stranger, number=peer.number("native"))
        same((said["status"], said["body"]["code"]), (401, "SIGN_ERROR"))
    if peer.mode != "certificate":
        return
    async with peer.check("certificates: those that the platform lists were fetched and opened"):
        same(await peer.driver.do("certificates"), [_signer(peer)[0]])
    async with peer.check("the platform rotates its certificate: nothing is believed until the new one was fetched"):
        await peer.stage.steer("/_faults", {"wechatpay": {"rotation": 1.0}})
        try:
            if "fetch" in await peer.driver.do("verbs"):  # a client that leaves the fetching to whoever uses it
                with suppress(Raised):
                    raise AssertionError(f"believed: {await _query(peer, 'native')}")
                await peer.driver.do("fetch")
            same((await _query(peer, "native"))["trade_state"], "SUCCESS")
            same(len(await peer.driver.do("certificates")), 2)
        finally:
            await peer.stage.steer("/_faults", {"wechatpay": {"rotation": 0.0}})


# --- what the gateway hands to a payer's front end


async def _front_ends(peer: Play) -> None:
    async with peer.check("jsapi: the gateway's parameters are signed as the client signs them"):
        order = await peer.order("jsapi", openid=PAYER["openid"])
        given = order.credential["value"]
        signed = given["appId"], given["timeStamp"], given["nonceStr"], given["package"]
        same((given["signType"], given["package"][:10]), ("RSA", "prepay_id="))
        same(given["paySign"], await _signed_by(peer, order, *signed))
    async with peer.check("app: the gateway's parameters are signed as the client signs them"):
        order = await peer.order("app")
        given = order.credential["value"]
        ids = [value for name, value in given.items() if name.lower() == "appid"]
        same(
            given["sign"], await _signed_by(peer, order, *ids, given["timestamp"], given["noncestr"], given["prepayid"])
        )


async def _signed_by(peer: Play, order: Order, *parts: str) -> str:
    """What the client makes of these parts with the key of the gateway's merchant; RSA signs the same alike."""
    key = Path(str(order.account["private_key_file"])).read_text()
    signature: str = await peer.driver.do("front", parts=parts, private_key=key)
    return signature


# --- the peer as the channel


async def _plays_the_channel(peer: Play) -> None:
    async with peer.check("an order waits for the peer's notification"):
        order = await peer.order("native")
        serial, key = _signer(peer)
        api_v3_key = Path(str(order.account["api_v3_key_file"])).read_text()
        genuine = await _notice(peer, order, key, serial, api_v3_key)
        old, other = int(time.time()) - 600, secrets.token_hex(16)
        false = {
            "signed by a stranger": await _notice(peer, order, peer.stage.stranger, serial, api_v3_key),
            "of ten minutes ago": await _notice(peer, order, key, serial, api_v3_key, at_s=old),
            "sealed with another key": await _notice(peer, order, key, serial, other),
            "with a serial nobody knows": await _notice(peer, order, key, secrets.token_hex(20).upper(), api_v3_key),
            "changed on its way": Message(genuine.headers, genuine.body.replace(b"TRANSACTION", b"TRANSACTIoN")),
        }
        refund = await _notice(peer, order, key, serial, api_v3_key, kind="refund")
    if peer.checks[-1].ok:
        await peer.deliver(order, genuine, false, refund)


def _signer(peer: Play) -> tuple[str, str]:
    """The serial and the private key by which the platform signs in this mode."""
    keys = peer.stage.folder / "simulator"
    if peer.mode == "certificate":
        pem = (keys / "platform-1.cert.pem").read_bytes()
        return load_certificate(pem, "platform-1.cert.pem").serial, (keys / "platform-1.key.pem").read_text()
    account = peer.stage.accounts[GATEWAYS]["wechatpay"].section()
    return str(account["public_key_id"]), (keys / "wechatpay-public.key.pem").read_text()


async def _notice(
    peer: Play, order: Order, key: str, serial: str, api_v3_key: str, *, at_s: int = 0, kind: str = "transaction"
) -> Message:
    """A notification whose content the peer sealed and whose body it signed."""
    nonce, word, at = secrets.token_hex(6), secrets.token_hex(16), str(at_s or int(time.time()))
    text = json.dumps({"transaction": wechatpay, "refund": wechatpay_refund}[kind](order), ensure_ascii=False)
    sealed = await peer.driver.do("seal", text=text, key=api_v3_key, nonce=nonce, associated_data=kind)
    resource = {"original_type": kind, "algorithm": "AEAD_AES_256_GCM", "ciphertext": sealed}
    notice = {
        "id": secrets.token_hex(16),
        "create_time": rfc3339(order.paid_at_s),
        "resource_type": "encrypt-resource",
        "event_type": f"{kind.upper()}.SUCCESS",
        "summary": "支付成功",
        "resource": {**resource, "nonce": nonce, "associated_data": kind},
    }
    body = json.dumps(notice, ensure_ascii=False)
    signature = await peer.driver.do("sign", message=f"{at}\n{word}\n{body}\n", private_key=key)
    headers = {
        "Content-Type": "application/json",
        "Wechatpay-Timestamp": at,
        "Wechatpay-Nonce": word,
        "Wechatpay-Serial": serial,
        "Wechatpay-Signature": signature,
        "Wechatpay-Signature-Type": SIGNATURE_TYPE,
    }
    return Message(headers, body.encode())
