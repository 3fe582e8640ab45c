"""An independent client, wechatpayv3, against the simulator: so it is more than the mirror image of our own channel.

The client is synchronous and runs in threads; the simulator answers it over a real socket.
"""

import asyncio
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from wechatpayv3 import WeChatPay as Peer
from wechatpayv3 import WeChatPayType
from wechatpayv3.core import Core

from channels.moments import plain
from channels.simulator.wechat_keys import MerchantFiles
from tests.integration.simulator.wechat_accounts import channel_of, payer
from tests.integration.simulator.wire import Wire, inbox, simulator

MODES = ("public key", "certificate")


def peer(files: MerchantFiles, mode: str, url: str, monkeypatch: pytest.MonkeyPatch) -> Peer:
    """The client, its address turned to the simulator before its constructor downloads certificates."""
    original = Core.__setattr__
    monkeypatch.setattr(
        Core, "__setattr__", lambda self, name, value: original(self, name, url if name == "_gate_way" else value)
    )
    public = {"public_key": Path(files.public_key_file).read_text(), "public_key_id": files.public_key_id}
    return Peer(
        wechatpay_type=WeChatPayType.NATIVE,
        mchid=files.mchid,
        private_key=Path(files.private_key_file).read_text(),
        cert_serial_no=files.merchant_serial,
        appid=files.appid,
        apiv3_key=Path(files.api_v3_key_file).read_text(),
        timeout=10,
        **(public if mode == "public key" else {}),
    )


async def call(function: Any, **arguments: Any) -> tuple[int, Any]:
    status, text = await asyncio.to_thread(function, **arguments)
    return status, json.loads(text) if text else None


@pytest.mark.parametrize("mode", MODES)
async def test_the_peer_prepays_queries_closes_and_reads_a_notification(folder, keys, mode, monkeypatch):
    files = keys[1]["holdfast"]
    channel = channel_of(files)
    share = 0.0 if mode == "public key" else 1.0
    async with inbox(channel) as box, simulator(folder, channel, faults={"certificate_share": share}) as wire:
        client = await asyncio.to_thread(peer, files, mode, wire.url, monkeypatch)
        order = {"description": "测试商品", "amount": {"total": 100, "currency": "CNY"}, "notify_url": box.url}

        status, prepaid = await call(client.pay, out_trade_no="PEER0001", **order)
        assert status == 200
        assert prepaid["code_url"].startswith("weixin://wxpay/bizpayurl?pr=")

        status, unpaid = await call(client.query, out_trade_no="PEER0001")
        assert (status, unpaid["trade_state"]) == (200, "NOTPAY")

        await wire.steer("/_sim/pay", payer(channel, "PEER0001"))
        received = await box.next()
        notified = await asyncio.to_thread(client.callback, received.headers, received.body)
        assert notified["event_type"] == "TRANSACTION.SUCCESS"
        assert notified["resource"]["out_trade_no"] == "PEER0001"

        status, paid = await call(client.query, out_trade_no="PEER0001")
        assert (status, paid) == (200, notified["resource"])
        status, same = await call(client.query, transaction_id=paid["transaction_id"])
        assert (status, same) == (200, paid)
        status, refused = await call(client.close, out_trade_no="PEER0001")
        assert (status, refused["code"]) == (400, "ORDER_PAID")

        await call(client.pay, out_trade_no="PEER0002", **order)
        assert await call(client.close, out_trade_no="PEER0002") == (204, None)
        status, missing = await call(client.query, out_trade_no="PEER0003")
        assert (status, missing["code"]) == (404, "ORDER_NOT_EXIST")


WAYS = {
    WeChatPayType.JSAPI: ({"payer": {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"}}, "prepay_id"),
    WeChatPayType.MINIPROG: ({"payer": {"openid": "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"}}, "prepay_id"),
    WeChatPayType.APP: ({}, "prepay_id"),
    WeChatPayType.H5: ({"scene_info": {"payer_client_ip": "1.2.3.4", "h5_info": {"type": "Wap"}}}, "h5_url"),
}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
async def test_the_peer_prepays_every_way(folder, keys, way, monkeypatch):
    more, given = WAYS[way]
    files = keys[1]["holdfast"]
    async with simulator(folder, channel_of(files)) as wire:
        client = await asyncio.to_thread(peer, files, "public key", wire.url, monkeypatch)
        order = {"description": "x", "amount": {"total": 100}, "notify_url": "http://127.0.0.1:9/none"}
        status, prepaid = await call(client.pay, out_trade_no="PEER0001", pay_type=way, **order, **more)
        assert status == 200
        assert list(prepaid) == [given]


@pytest.mark.parametrize("mode", MODES)
async def test_the_peer_refunds_asks_is_told_and_reads_the_list_that_our_channel_reads(folder, keys, mode, monkeypatch):
    files = keys[1]["holdfast"]
    channel = channel_of(files)
    share = 0.0 if mode == "public key" else 1.0
    async with inbox(channel) as box, simulator(folder, channel, faults={"certificate_share": share}) as wire:
        client = await asyncio.to_thread(peer, files, mode, wire.url, monkeypatch)
        order = {"description": "x", "amount": {"total": 100, "currency": "CNY"}, "notify_url": box.url}
        await call(client.pay, out_trade_no="PEER0001", **order)
        await wire.steer("/_sim/pay", payer(channel, "PEER0001"))
        await box.next()

        amount = {"refund": 30, "total": 100, "currency": "CNY"}
        refund = {
            "out_refund_no": "PEERR001",
            "out_trade_no": "PEER0001",
            "reason": "商品已售完",
            "notify_url": box.url,
        }
        status, accepted = await call(client.refund, amount=amount, **refund)
        assert (status, accepted["status"], accepted["amount"]["refund"]) == (200, "PROCESSING", 30)
        received = await box.next()
        notified = await asyncio.to_thread(client.callback, received.headers, received.body)
        assert (notified["event_type"], notified["resource"]["refund_status"]) == ("REFUND.SUCCESS", "SUCCESS")
        status, done = await call(client.query_refund, out_refund_no="PEERR001")
        assert (status, done["status"]) == (200, "SUCCESS")
        status, other = await call(client.refund, amount={**amount, "refund": 31}, **refund)
        assert (status, other["code"]) == (400, "INVALID_REQUEST")
        status, missing = await call(client.query_refund, out_refund_no="PEERR002")
        assert (status, missing["code"]) == (404, "RESOURCE_NOT_EXISTS")

        day = plain(received.payment.success_at_s)[:10]
        status, link = await call(client.trade_bill, bill_date=day)
        assert (status, link["hash_type"]) == (200, "SHA1")
        status, packed = await asyncio.to_thread(client.download_bill, link["download_url"])
        content = gzip.decompress(packed)
        assert hashlib.sha1(content, usedforsecurity=False).hexdigest() == link["hash_value"]
        assert content == (await wire.statement(day)).content


async def test_our_channel_and_the_peer_say_the_same_of_every_variant(folder, keys, monkeypatch):
    """The peer knows no five-minute window and no probe, which is why `stale` is left out: it believes those."""
    files = keys[1]["holdfast"]
    channel = channel_of(files)
    async with inbox(channel) as box, simulator(folder, channel) as wire:
        client = await asyncio.to_thread(peer, files, "public key", wire.url, monkeypatch)
        await wire.pay("PEER0001", box.url)
        await wire.steer("/_sim/pay", payer(channel, "PEER0001"))
        assert (await box.next()).payment
        for variant in ("", "tamper", "probe"):
            await wire.steer("/_sim/notify", payer(channel, "PEER0001", variant=variant))
            received = await box.next()
            try:
                believed = await asyncio.to_thread(client.callback, received.headers, received.body)
            except (ValueError, UnicodeDecodeError):
                believed = None
            assert bool(believed) is bool(received.payment) is (not variant)


async def test_two_peers_share_the_platform_but_not_their_trades(folder, keys, monkeypatch):
    channel = channel_of(keys[1]["holdfast"])
    async with simulator(folder, channel) as wire:
        other = Wire(wire._session, wire.url, channel_of(keys[1]["control"]))
        client = await asyncio.to_thread(peer, keys[1]["control"], "public key", wire.url, monkeypatch)
        await wire.pay("PEER0001")
        status, missing = await call(client.query, out_trade_no="PEER0001")
        assert (status, missing["code"]) == (404, "ORDER_NOT_EXIST")
        await other.pay("PEER0001")
        assert (await call(client.query, out_trade_no="PEER0001"))[0] == 200
