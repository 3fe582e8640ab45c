"""What is bought, and how it is paid."""

import msgspec


class Way(msgspec.Struct, frozen=True):
    """How somebody pays: one of the payment channels, and one of its methods."""

    channel: str
    method: str

    def __str__(self) -> str:
        return f"{self.channel}.{self.method}"


class Purchase(msgspec.Struct, frozen=True):
    """One order to be made. The number is drawn before anything is sent, so that every retry carries the same one."""

    out_order_no: str
    subject: str
    amount: int
    currency: str = "CNY"
    buyer: str | None = None
    pays_with: Way = Way("wechatpay", "native")
