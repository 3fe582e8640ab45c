"""The people who settle cases: they look at what is open, now and then, and decide by what they are offered."""

import asyncio
import random
from typing import Any, Final

from tests.simulation.history import OK
from tests.simulation.shop import Client

# What they choose of what is possible, the first first. Nobody here closes a case that holds somebody's money.
CHOICES: Final = {
    "late_payment": ("accept", "refund"),
    "amount_mismatch": ("refund",),
    "refund_failed": ("retry",),
    "refund_abnormal": ("retry",),
    "refund_unknown": ("retry",),
    "unknown_outcome": ("retry",),
}
TRIES_MAX: Final = 2  # of one order; some can only be helped at the platform
WORKS_S: Final = 150.0  # into the run; what is set going then has time to end


class Clerk:
    """One person with an app's key."""

    def __init__(self, client: Client, chance: random.Random) -> None:
        self._client = client
        self._chance = chance
        self._tries: dict[str, int] = {}

    async def work(self) -> None:
        """From the beginning until it is time to go home."""
        while asyncio.get_running_loop().time() < WORKS_S:
            await asyncio.sleep(self._chance.uniform(5.0, 20.0))
            told = await self._client.ask("cases", "", "GET", "/v1/cases")
            if told.outcome == OK:
                for case in told.said["cases"]:
                    await self._settle(case)

    async def _settle(self, case: dict[str, Any]) -> None:
        case_id, order_id, reason = case["case_id"], case["order_id"], case["reason"]
        if reason not in CHOICES or self._tries.get(order_id, 0) >= TRIES_MAX or self._chance.random() < 0.3:
            return
        seen = await self._client.ask("case", "", "GET", f"/v1/cases/{case_id}")
        possible = [action for action in CHOICES[reason] if action in (seen.said.get("actions") or ())]
        if possible:
            self._tries[order_id] = self._tries.get(order_id, 0) + 1
            body = {"action": self._chance.choice(possible), "by": "clerk", "note": "as the payer was told"}
            await self._client.ask("resolve", "", "POST", f"/v1/cases/{case_id}/resolve", body)
