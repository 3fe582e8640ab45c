"""What the observers wrote down: the shop's requests, its receiver, the platforms, and whoever watches the wires.

Nothing here is the gateways' opinion of themselves. The checker reads it together with the tables' last state.
"""

from typing import Any, Final

import msgspec

SHOP, STRANGER = "shop", "stranger"
HOSTS: Final = {SHOP: "shop.test", STRANGER: "stranger.test"}
OK, FAIL, INFO = "ok", "fail", "info"


class Told(msgspec.Struct):
    """One request of an app and what it heard: `ok`, `fail` (a definite no) or `info` (nobody knows)."""

    app: str
    verb: str
    out_order_no: str
    gateway: str
    at: float
    ended: float = 0.0
    outcome: str = INFO
    status: int = 0
    code: str = ""
    order: dict[str, Any] | None = None
    refund: dict[str, Any] | None = None
    duplicate_of: str = ""
    asked: dict[str, Any] | None = None
    said: Any = {}
    doubled: bool = False

    @property
    def state(self) -> str:
        """The order's state in the answer."""
        return str(self.order["state"]) if self.order else ""


class Received(msgspec.Struct):
    """A webhook as an app's endpoint took it (answered 2xx)."""

    app: str
    at: float
    event_id: str
    type: str
    seq: int
    order: dict[str, Any]


class History(msgspec.Struct):
    """All of a run. `violations` are those that only the moment itself could show."""

    told: list[Told] = []
    received: list[Received] = []
    violations: list[str] = []
    counts: dict[str, int] = {}

    def count(self, what: str, by: int = 1) -> None:
        """Something rare really happened."""
        self.counts[what] = self.counts.get(what, 0) + by

    def violated(self, invariant: str, detail: str) -> None:
        """Write down what broke, by the invariant's name."""
        self.violations.append(f"{invariant}: {detail}"[:500])
