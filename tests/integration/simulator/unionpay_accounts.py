"""Our UnionPay channel at a simulator, from the files that it made for a merchant, and the browsers of its payers."""

import asyncio
import html
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from msgspec.structs import replace

from channels import forms
from channels.contract import Accepted, AttemptKey, RefundKey, RefundRequest
from channels.moments import compact
from channels.simulator.payers import Payers
from channels.simulator.unionpay_keys import MerchantFiles
from channels.unionpay import Credentials, UnionPay, load_credentials
from tests.integration.simulator.wire import NOBODY, WITHIN_S, Wire, payment, simulator, stamp

AMOUNT = 100
NOWHERE = "http://127.0.0.1:9/none"
BARCODE = {"qr_no": "6220000000000000001"}


def credentials_of(files: MerchantFiles) -> Credentials:
    """What a configuration with these files would load; the addresses are still those of nobody."""
    return load_credentials(
        mer_id=files.merchant_id,
        base_url=NOWHERE,
        file_url=NOWHERE,
        private_key_pem=Path(files.private_key_file).read_bytes(),
        certificate_pem=Path(files.certificate_file).read_bytes(),
        root_certificates={files.root_certificate_file: Path(files.root_certificate_file).read_bytes()},
        middle_certificates={files.middle_certificate_file: Path(files.middle_certificate_file).read_bytes()},
        now_s=int(time.time()),
    )


class Counter(Wire):
    """Our channel with attempts that began when the test did, the simulator's steering, and the payer's browser."""

    def __init__(self, session: aiohttp.ClientSession, url: str, channel: UnionPay, life_s: int) -> None:
        super().__init__(session, url, channel)
        self.started_s = int(time.time())
        self.life_s = life_s
        self.unionpay = channel

    def become(self, credentials: Credentials) -> None:
        """Be another merchant."""
        self.channel = self.unionpay = UnionPay(replace(credentials, base_url=self.url, file_url=self.url))

    def key(self, number: str, method: str = "qr", **changed: int) -> AttemptKey:
        """What names an attempt."""
        return replace(AttemptKey(number, method, self.started_s, self.started_s + self.life_s), **changed)

    async def pay(self, number: str, notify_url: str = NOWHERE, *, method: str = "qr", **how: Any) -> Any:
        request = payment(number, notify_url, params=BARCODE if method == "barcode" else {}, **how)
        return await self.run(self.channel.pay(replace(request, attempt=self.key(number, method)), stamp()))

    async def query(self, number: str, *, method: str = "qr", **changed: int) -> Any:
        return await self.run(self.channel.query(self.key(number, method, **changed), stamp()))

    async def close(self, number: str, *, method: str = "qr", **changed: int) -> Any:
        return await self.run(self.channel.close(self.key(number, method, **changed), stamp()))

    async def void(self, request: RefundRequest) -> Any:
        return await self.run(self.unionpay.void(request, stamp()))

    def back(self, number: str, transaction: str, amount: int = AMOUNT, notify_url: str = NOWHERE) -> RefundRequest:
        """A refund, or a void if it is all, of what was paid under this queryId."""
        key = RefundKey(number, self.started_s, "TRADE0001", transaction)
        return RefundRequest(key, amount, AMOUNT, "CNY", "because", notify_url)

    async def sold(self, number: str = "TRADE0001", notify_url: str = NOWHERE) -> str:
        """A QR code that was paid; its queryId."""
        await self.pay(number, notify_url)
        paid = await self.paid(number)
        return str(paid["transaction"])

    async def open(self, accepted: Accepted, **changed: str) -> tuple[int, str]:
        """The payer's browser submits the form; the status it ends with, and what is written there."""
        form = json.loads(accepted.credential.value)
        async with self._session.post(
            form["action"],
            data=forms.encode({**form["fields"], **changed}),
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        ) as page:
            return page.status, html.unescape(await page.text())

    async def paid(self, number: str, **stated: Any) -> Any:
        """Somebody pays now."""
        order = {"channel": "unionpay", "merchant": self.channel.account, "out_trade_no": number, **stated}
        return await self.steer("/_sim/pay", order)

    async def until_over(self, number: str) -> None:
        """Ask until the payment time of an entered trade has passed at the platform."""
        asked = self.question(orderId=number, txnTime=compact(self.started_s))
        async with asyncio.timeout(WITHIN_S):
            while (await self.said("/gateway/api/queryTrans.do", asked))["origRespCode"] != "69":
                await asyncio.sleep(0.02)

    async def until_refunded(self, number: str) -> dict[str, Any]:
        """Wait for the first refund of a trade to come to something."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                refunds: list[dict[str, Any]] = list((await self.trades())[number]["refunds"].values())
                if refunds and refunds[0]["state"] != "processing":
                    return refunds[0]
                await asyncio.sleep(0.01)

    async def trades(self) -> dict[str, dict[str, Any]]:
        """What there is, by number."""
        return {trade["out_trade_no"]: trade for trade in await self.steer("/_sim/trades")}

    async def said(self, path: str, fields: Mapping[str, str], *, sign: bool = True) -> dict[str, str]:
        """What is answered, unverified, to fields that our channel would not send, signed as it would."""
        whole = self.unionpay._signed(fields) if sign else dict(fields)
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        async with self._session.post(self.url + path, data=forms.encode(whole), headers=headers) as answer:
            return dict(part.partition("=")[::2] for part in (await answer.text()).split("&"))

    def question(self, **changed: str) -> dict[str, str]:
        """The fields of a query."""
        common = self.unionpay._common("00", "00", "000000")
        return {**common, "orderId": "NOTHING00", "txnTime": "20261121100000", **changed}


@asynccontextmanager
async def counter(
    folder: Path,
    credentials: Credentials,
    *,
    faults: Mapping[str, Any] | None = None,
    payers: Payers = NOBODY,
    life_s: int = 7200,
    **how: Any,
) -> AsyncIterator[Counter]:
    """A simulator in this process, and our channel at it."""
    async with simulator(folder, UnionPay(credentials), faults=faults, payers=payers, **how) as wire:
        at_it = UnionPay(replace(credentials, base_url=wire.url, file_url=wire.url))
        yield Counter(wire._session, wire.url, at_it, life_s)
