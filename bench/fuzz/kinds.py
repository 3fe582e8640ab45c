"""The channels that the fuzz knows."""

from bench.fuzz import alipay, unionpay, wechatpay
from bench.fuzz.corpus import Kind

KINDS: dict[str, Kind] = {kind.channel: kind for kind in (wechatpay.KIND, alipay.KIND, unionpay.KIND)}
