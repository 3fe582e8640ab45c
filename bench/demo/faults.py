"""What goes wrong in the demo, at every channel and at each in its own way, and the words that say so. Pure."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec

# What is nasty everywhere, and what only one platform does; the simulator's docstrings explain each.
EVERYWHERE = ("tamper", "rate_limited")
OWN: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "wechatpay": (
            *("probe", "stale", "wrong_serial", "certificate_share", "rotation"),
            *("accepted", "answer_tamper", "answer_unsigned", "answer_stale"),
        ),
        "alipay": (
            *("gbk", "empties_signed", "empties_unsigned", "odd_values", "waiting", "wrong_amount"),
            *("unsigned_error", "bad_gateway", "answer_tamper", "answer_unsigned", "answer_other"),
        ),
        "unionpay": (),
    }
)
SHARES_OF_A_SHARE: Mapping[str, float] = MappingProxyType({"wechatpay.rotation": 0.5})  # of what certificates sign


class Faults(msgspec.Struct, frozen=True):
    """What the simulator does to both arms alike. `nasty`: the share of each of the rarer faults."""

    drop: float = 0.30
    duplicate: float = 0.10
    delay_s: float = 3.0
    error_rate: float = 0.05
    nasty: float = 0.01

    def shares(self, channels: Iterable[str]) -> dict[str, float]:
        """As the simulator's `--fault` takes them."""
        shares = {"drop": self.drop, "duplicate": self.duplicate, "delay_s": self.delay_s}
        shares |= {"error_before": self.error_rate / 2, "error_after": self.error_rate / 2}
        if self.nasty:
            shares |= dict.fromkeys(EVERYWHERE, self.nasty)
            own = [f"{channel}.{name}" for channel in channels for name in OWN[channel]]
            shares |= {name: SHARES_OF_A_SHARE.get(name, self.nasty) for name in own}
        return shares

    def said(self) -> str:
        """The common ones, in words."""
        return (
            f"drop {self.drop:.0%} of notifications, repeat {self.duplicate:.0%}, delay up to {self.delay_s:g} s;"
            f" {self.error_rate:.0%} of the channels' answers are 500"
        )

    def said_of_nasty(self, channels: Iterable[str]) -> str:
        """The rarer ones, by their names."""
        own = "; ".join(f"{channel}: {', '.join(OWN[channel])}" for channel in channels)
        return f"{self.nasty:.0%} each of {', '.join(EVERYWHERE)}; {own}"
