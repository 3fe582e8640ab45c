"""Our Alipay channel, from the files that the simulator made for a merchant, and the simulated Alipay it talks to."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from msgspec.structs import replace

from channels.alipay import Alipay, Credentials, load_credentials
from channels.contract import Request, Response
from channels.simulator.alipay_keys import MerchantFiles
from channels.simulator.payers import Payers
from tests.integration.simulator.wire import NOBODY, Wire, simulator

NOWHERE = "http://127.0.0.1:9"


def channel_of(files: MerchantFiles, base_url: str = NOWHERE, *, certified: bool = False) -> Alipay:
    """The channel a configuration with these files would make, in either mode."""
    return Alipay(replace(_credentials(files, certified), base_url=base_url))


@cache
def _credentials(files: MerchantFiles, certified: bool) -> Credentials:
    """Reading a private key takes longer than a test."""
    if certified:
        keys: dict[str, Any] = {
            "app_certificate_pem": Path(files.app_certificate_file).read_bytes(),
            "alipay_certificates_pem": {"alipay.crt": Path(files.alipay_certificate_file).read_bytes()},
            "root_certificates_pem": Path(files.root_certificates_file).read_bytes(),
        }
    else:
        keys = {"public_key_pem": Path(files.public_key_file).read_bytes()}
    return load_credentials(
        app_id=files.app_id,
        seller_id=files.seller_id,
        private_key_pem=Path(files.private_key_file).read_bytes(),
        now_s=int(time.time()),
        **keys,
    )


@asynccontextmanager
async def alipay(
    folder: Path,
    files: MerchantFiles,
    *,
    faults: Mapping[str, Any] | None = None,
    payers: Payers = NOBODY,
    certified: bool = False,
) -> AsyncIterator[Wire]:
    """A simulated Alipay on a real port, and our channel connected to it."""
    async with simulator(folder, channel_of(files), faults=faults, payers=payers) as wire:
        wire.channel = channel_of(files, wire.url, certified=certified)
        yield wire


def payer(files: MerchantFiles, number: str, **stated: object) -> dict[str, object]:
    """Somebody who pays this trade now, for `POST /_sim/pay`."""
    return {"channel": "alipay", "merchant": files.app_id, "out_trade_no": number, **stated}


def scan(files: MerchantFiles, number: str) -> dict[str, object]:
    """Somebody who scans its code, and thinks about it."""
    return payer(files, number, stated={"trade_status": "WAIT_BUYER_PAY"})


def params_of(request: Request) -> dict[str, str]:
    """All parameters of a request of our channel's."""
    query = parse_qsl(urlsplit(request.target).query, keep_blank_values=True)
    return dict(query + parse_qsl(request.body.decode(), keep_blank_values=True))


async def ask(wire: Wire, params: Mapping[str, str], *, in_body: bool = False) -> Response:
    """A request with parameters as they are: all in the query, or all in the body."""
    if in_body:
        form = {"Content-Type": "application/x-www-form-urlencoded;charset=utf-8"}
        return await wire.send(Request("POST", "/gateway.do", form, urlencode(params).encode()))
    return await wire.send(Request("GET", f"/gateway.do?{urlencode(params)}", {}))
