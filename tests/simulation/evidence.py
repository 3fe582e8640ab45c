"""What the checker looks at: histories, ledgers and tables, sorted for the questions asked of them."""

from collections import defaultdict
from typing import Any

from channels.simulator.trades import Paid
from tests.simulation.determinism import EPOCH_S
from tests.simulation.history import INFO, Told


def durable_payment(tables: Any, paid: Paid) -> Any | None:
    """The row of a platform's transaction, if it is committed."""
    return tables.payments.get((paid.channel, paid.account, paid.transaction))


def seconds(at_ms: int) -> float:
    """A moment of the wall clock as seconds of the run."""
    return at_ms / 1000 - EPOCH_S


def nobody_made(all_told: list[Told]) -> bool:
    """Whether none of these requests about something that exists can have made it but one that was told no.

    Who makes something hears 201 (or 202), who finds it 200. Who heard nothing, or was doubled, may have made it.
    """
    return not any(told.status in (201, 202) or told.outcome == INFO or told.doubled for told in all_told)


class Seen:
    """The evidence, sorted for the questions asked of it."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.tables = world.database.tables
        self.healed_s: float = world.healed_s
        self.ended_s: float = world.loop.time()
        self.history = world.history
        self.book = world.platforms.book
        self.successes: list[Paid] = self.book.successes()
        self.creates: dict[tuple[str, str], list[Told]] = defaultdict(list)
        for told in self.history.told:
            if told.verb == "create":
                self.creates[told.app, told.out_order_no].append(told)
        self.events: dict[str, list[Any]] = defaultdict(list)
        for event in self.tables.events.values():
            self.events[event.order_id].append(event)
        self.born_s = {each.order_id: each.at_s - EPOCH_S for each in world.database.commits if each.version == 1}
        for events in self.events.values():
            events.sort(key=lambda event: event.version)
