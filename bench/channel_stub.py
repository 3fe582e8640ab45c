"""WeChat Pay as little as the gateway needs to believe it: prepays answered, notifications signed, nothing
remembered.

Not the simulator: no ledger, no faults, no verification of what it is told. Its point is to cost little on a
machine that it shares with what is measured. RSA costs 0.3 ms a signature, so one signature serves all prepays of a
minute (the answer is the same for every order, and a signature is good for five); notifications differ and are
signed one by one, before the clock runs.
"""

import asyncio
import os
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench.scripts import AMOUNT
from bench.wire import request, response
from channels import signing
from channels.simulator import wechat_keys
from channels.simulator.credentials import make_credentials
from channels.simulator.wechat_keys import MerchantFiles

SIGNED_FOR_S = 60


def make_merchant(directory: Path) -> MerchantFiles:
    """The account of the bench at this platform; made when first asked for."""
    made: MerchantFiles = make_credentials(directory / "keys", ["bench"], ["wechatpay"])["bench"]["wechatpay"]
    return made


def channel_config(merchant: MerchantFiles, base_url: str) -> str:
    """The gateway's side of those keys, as TOML (JSON's texts and lists are TOML's too)."""
    fields = {"base_url": base_url, **merchant.section()}
    lines = [f"{name} = {msgspec.json.encode(value).decode()}" for name, value in fields.items()]
    return "\n".join(["[channels.wechatpay]", *lines]) + "\n"


class ChannelStub:
    """The platform's answers, and the sink of the app's webhooks, behind one address."""

    def __init__(self, directory: Path) -> None:
        """With the keys of `make_merchant`."""
        merchant = make_merchant(directory)
        platform = wechat_keys.load(directory / "keys")
        assert platform is not None, "made with the merchant"
        self.webhooks = 0
        self._awaited, self._arrived = 0, asyncio.Event()
        self._merchant, self._key_id, self._key = merchant, platform.public_key_id, platform.private_key
        self._seal = platform.merchants[merchant.mchid].seal_key
        self._prepaid, self._prepaid_until_s = b"", 0.0

    def answer(self, head: bytes, _body: bytes) -> bytes:
        """A prepay gets its QR, a query "not paid yet", a webhook its 204; anything else a 404."""
        if head.startswith(b"POST /v3/pay/transactions/native "):
            return self._prepay()
        if head.startswith(b"GET /v3/pay/transactions/out-trade-no/"):
            number = head.split(b" ", 2)[1].rpartition(b"/")[2].partition(b"?")[0].decode()
            return self._signed_response(msgspec.json.encode(self._transaction(number) | {"trade_state": "NOTPAY"}))
        if head.startswith(b"POST /webhooks "):
            self.webhooks += 1
            if self.webhooks == self._awaited:
                self._arrived.set()
            return response(204)
        return response(404)

    async def told(self, count: int, within_s: float) -> None:
        """Wait until the app has been told so many times, or the time is up; `webhooks` says which."""
        self._awaited, self._arrived = count, asyncio.Event()
        if self.webhooks < count:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), within_s)

    def notifications(self, order_ids: list[bytes]) -> list[bytes]:
        """A signed success for the first attempt of each order, as the request that delivers it."""
        with ThreadPoolExecutor(os.cpu_count()) as threads:  # signing lets go of the interpreter's lock
            return list(threads.map(self._notification, order_ids))

    def _prepay(self) -> bytes:
        if time.time() > self._prepaid_until_s:
            self._prepaid = self._signed_response(b'{"code_url":"weixin://wxpay/bizpayurl?pr=benchbench"}')
            self._prepaid_until_s = time.time() + SIGNED_FOR_S
        return self._prepaid

    def _notification(self, order_id: bytes) -> bytes:
        number = f"{order_id.decode()}01"
        nonce = os.urandom(6).hex().encode()
        sealed = signing.seal(self._seal, nonce, b"transaction", msgspec.json.encode(self._success(number)))
        resource = {
            "original_type": "transaction",
            "algorithm": "AEAD_AES_256_GCM",
            "ciphertext": sealed,
            "associated_data": "transaction",
            "nonce": nonce.decode(),
        }
        notice = {
            "id": f"bench-{number}",
            "create_time": _now(),
            "resource_type": "encrypt-resource",
            "event_type": "TRANSACTION.SUCCESS",
            "summary": "支付成功",
            "resource": resource,
        }
        body = msgspec.json.encode(notice)
        return request("POST", f"/callbacks/wechatpay/{order_id.decode()}/01", body, self._signature(body))

    def _signed_response(self, body: bytes) -> bytes:
        return response(200, body, self._signature(body))

    def _signature(self, body: bytes) -> dict[str, str]:
        timestamp, nonce = str(int(time.time())), b64encode(os.urandom(24)).decode()
        return {
            "Content-Type": "application/json",
            "Wechatpay-Timestamp": timestamp,
            "Wechatpay-Nonce": nonce,
            "Wechatpay-Serial": self._key_id,
            "Wechatpay-Signature": signing.sign(self._key, f"{timestamp}\n{nonce}\n".encode() + body + b"\n"),
        }

    def _transaction(self, out_trade_no: str) -> dict[str, object]:
        return {
            "appid": self._merchant.appid,
            "mchid": self._merchant.mchid,
            "out_trade_no": out_trade_no,
            "trade_type": "NATIVE",
            "amount": {"total": AMOUNT, "currency": "CNY", "payer_total": AMOUNT, "payer_currency": "CNY"},
        }

    def _success(self, out_trade_no: str) -> dict[str, object]:
        paid = {"transaction_id": f"42{os.urandom(12).hex()}", "trade_state": "SUCCESS", "success_time": _now()}
        return self._transaction(out_trade_no) | paid | {"bank_type": "OTHERS", "payer": {"openid": "bench"}}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
