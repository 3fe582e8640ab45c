"""What is bought, and how it is paid."""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

# What channels must be told of the customer, by the way they pay. A real shop takes it from the customer's request.
PARAMS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {"wechatpay.h5": {"payer_client_ip": "127.0.0.1", "type": "Wap"}}
)


class Way(msgspec.Struct, frozen=True):
    """How somebody pays: one of the payment channels, and one of its methods."""

    channel: str
    method: str

    def __str__(self) -> str:
        return f"{self.channel}.{self.method}"

    @property
    def params(self) -> Mapping[str, str]:
        """What the method must know besides."""
        return PARAMS.get(str(self), {})


class Purchase(msgspec.Struct, frozen=True):
    """One order to be made. The number is drawn before anything is sent, so that every retry carries the same one."""

    out_order_no: str
    subject: str
    amount: int
    currency: str = "CNY"
    buyer: str | None = None
    pays_with: Way = Way("wechatpay", "native")
