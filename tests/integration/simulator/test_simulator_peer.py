"""An independent client, wechatpayv3, against the simulator: so it is more than the mirror image of our own channel.

The client is synchronous and runs in threads; the simulator answers it over a real socket.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from wechatpayv3 import WeChatPay as Peer
from wechatpayv3 import WeChatPayType
from wechatpayv3.core import Core

from channels.simulator.credentials import MerchantFiles
from channels.simulator.faults import Faults, Variant
from tests.integration.simulator.wechat_wire import Wire, channel_of, inbox, simulator

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
    async with inbox(channel) as box, simulator(folder, channel, faults=Faults(certificate_share=share)) as wire:
        client = await asyncio.to_thread(peer, files, mode, wire.url, monkeypatch)
        order = {"description": "测试商品", "amount": {"total": 100, "currency": "CNY"}, "notify_url": box.url}

        status, prepaid = await call(client.pay, out_trade_no="PEER0001", **order)
        assert status == 200
        assert prepaid["code_url"].startswith("weixin://wxpay/bizpayurl?pr=")

        status, unpaid = await call(client.query, out_trade_no="PEER0001")
        assert (status, unpaid["trade_state"]) == (200, "NOTPAY")

        await wire.steer("/_sim/pay", {"mchid": files.mchid, "out_trade_no": "PEER0001"})
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


async def test_our_channel_and_the_peer_say_the_same_of_every_variant(folder, keys, monkeypatch):
    """The peer knows no five-minute window and no probe, which is why `stale` is left out: it believes those."""
    files = keys[1]["holdfast"]
    channel = channel_of(files)
    async with inbox(channel) as box, simulator(folder, channel) as wire:
        client = await asyncio.to_thread(peer, files, "public key", wire.url, monkeypatch)
        await wire.pay("PEER0001", box.url)
        order = {"mchid": files.mchid, "out_trade_no": "PEER0001"}
        await wire.steer("/_sim/pay", order)
        assert (await box.next()).payment
        for variant in (Variant.GENUINE, Variant.TAMPERED, Variant.PROBE):
            await wire.steer("/_sim/notify", {**order, "variant": variant})
            received = await box.next()
            try:
                believed = await asyncio.to_thread(client.callback, received.headers, received.body)
            except (ValueError, UnicodeDecodeError):
                believed = None
            assert bool(believed) is bool(received.payment) is (variant is Variant.GENUINE)


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
