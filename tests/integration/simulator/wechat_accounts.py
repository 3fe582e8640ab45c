"""Our WeChat Pay channel, from the files that the simulator made for a merchant."""

import json
import time
from pathlib import Path

from channels.contract import Request
from channels.simulator.wechat_keys import MerchantFiles
from channels.wechatpay import WeChatPay, load_credentials
from tests.integration.simulator.wire import stamp


def channel_of(files: MerchantFiles, *, certificates_only: bool = False) -> WeChatPay:
    """The channel a configuration with these files would make."""
    public = {} if certificates_only else {"public_key_id": files.public_key_id}
    if public:
        public["public_key_pem"] = Path(files.public_key_file).read_bytes()
    return WeChatPay(
        load_credentials(
            mchid=files.mchid,
            appid=files.appid,
            merchant_serial=files.merchant_serial,
            private_key_pem=Path(files.private_key_file).read_bytes(),
            api_v3_key=Path(files.api_v3_key_file).read_bytes(),
            platform_certificates_pem={name: Path(name).read_bytes() for name in files.platform_certificates},
            merchant_certificate_pem=Path(files.certificate_file).read_bytes(),
            now_s=int(time.time()),
            **public,
        )
    )


def mchid_of(channel: WeChatPay) -> str:
    """The merchant, as the simulator names it."""
    return channel.account.split("/")[0]


def resigned(channel: WeChatPay, method: str, target: str, body: object = b"") -> Request:
    """A request that our channel would not make, signed as it would."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return channel._signed(method, target, raw, stamp())


def payer(channel: WeChatPay, number: str, **stated: object) -> dict[str, object]:
    """Somebody who pays this trade now, for `POST /_sim/pay`."""
    return {"channel": "wechatpay", "merchant": mchid_of(channel), "out_trade_no": number, **stated}
