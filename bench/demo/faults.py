"""What goes wrong in the demo, at every channel and at each in its own way, and the words that say so. Pure."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec

# What is nasty everywhere, and what only one platform does, by the words for it; the simulator explains each.
EVERYWHERE = ("tamper", "rate_limited")
OWN: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "wechatpay": {
            "signature probes": ("probe",),
            "stale and unknown signatures": ("stale", "wrong_serial"),
            "changing certificates": ("certificate_share", "rotation"),
            "202s and lying answers": ("accepted", "answer_tamper", "answer_unsigned", "answer_stale"),
        },
        "alipay": {
            "GBK": ("gbk",),
            "empty and odd values": ("empties_signed", "empties_unsigned", "odd_values"),
            "false notices": ("waiting", "wrong_amount"),
            "unsigned, proxied and lying answers": (
                *("unsigned_error", "bad_gateway", "answer_tamper", "answer_unsigned", "answer_other"),
            ),
        },
        "unionpay": {
            "forged, misnamed and expired certificates": ("forged", "wrong_name", "expired", "answer_forged"),
            "changed line ends, empty fields, old versions": ("lf", "empty_fields", "downgrade", "answer_tamper"),
            "changing certificates": ("rotation",),
            "undecided answers": ("pending", "moved", "defect"),
        },
    }
)
SHARES_OF_A_SHARE: Mapping[str, float] = MappingProxyType({"wechatpay.rotation": 0.5})  # of what certificates sign


class Faults(msgspec.Struct, frozen=True):
    """What the simulator does to both arms alike. `nasty`: the share of each of the rarer faults. `overtaken`: of the
    closed payments that somebody was at, those that are paid all the same; the control arm closes none."""

    drop: float = 0.30
    duplicate: float = 0.10
    delay_s: float = 3.0
    error_rate: float = 0.05
    nasty: float = 0.01
    overtaken: float = 0.5

    def shares(self, channels: Iterable[str]) -> dict[str, float]:
        """As the simulator's `--fault` takes them."""
        shares = {"drop": self.drop, "duplicate": self.duplicate, "delay_s": self.delay_s}
        shares |= {"close_overtaken": self.overtaken}
        shares |= {"error_before": self.error_rate / 2, "error_after": self.error_rate / 2}
        if self.nasty:
            shares |= dict.fromkeys(EVERYWHERE, self.nasty)
            own = [f"{channel}.{name}" for channel in channels for names in OWN[channel].values() for name in names]
            shares |= {name: SHARES_OF_A_SHARE.get(name, self.nasty) for name in own}
        return shares

    def said(self) -> str:
        """The common ones, in words."""
        return (
            f"drop {self.drop:.0%} of notifications, repeat {self.duplicate:.0%}, delay up to {self.delay_s:g} s;"
            f" {self.error_rate:.0%} of the channels' answers are 500;"
            f" {self.overtaken:.0%} pay what was closed under their hands"
        )

    def said_of_nasty(self, channels: Iterable[str]) -> str:
        """The rarer ones, in words."""
        own = "; ".join(f"{channel}: {', '.join(OWN[channel])}" for channel in channels)
        return f"{self.nasty:.0%} each of flipped bits, rate limits; {own}"
