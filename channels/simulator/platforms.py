"""The platforms that a folder of keys makes possible."""

from pathlib import Path

from channels.simulator import alipay, alipay_keys, unionpay, unionpay_keys, wechat, wechat_keys
from channels.simulator.platform import Platform


def load_platforms(folder: Path, seed: int) -> dict[str, Platform]:
    """Every platform whose keys stand in the folder, by the channel's name.

    Raises:
        FileNotFoundError: there are none.
    """
    platforms: dict[str, Platform] = {}
    if (wechat_side := wechat_keys.load(folder)) is not None:
        platforms["wechatpay"] = wechat.WechatPlatform(wechat_side, seed)
    if (alipay_side := alipay_keys.load(folder)) is not None:
        platforms["alipay"] = alipay.AlipayPlatform(alipay_side, seed)
    if (unionpay_side := unionpay_keys.load(folder)) is not None:
        platforms["unionpay"] = unionpay.UnionpayPlatform(unionpay_side, seed)
    if not platforms:
        raise FileNotFoundError(f"{folder} holds no platform's keys: make some with `credentials`")
    return platforms
