"""The gateways' logs during a run: silent, but an error that says that something of ours broke is a finding."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog

from tests.simulation.loop import PROCESS, SimulatedLoop

OURS: Final = frozenset({"request_failed", "flow_failed", "effect_failed", "webhook_try_failed", "connection_failed"})


@contextmanager
def captured(loop: SimulatedLoop) -> Iterator[None]:
    """Take what is logged in this block."""

    def take(_logger: Any, _method: str, event: dict[str, Any]) -> Any:
        if event.get("event") in OURS and not loop.is_dead(PROCESS.get()):
            error = event.get("exc_info")
            if not _is_away(error):
                loop.findings.append(f"{event['event']}: {type(error).__name__}: {error}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[take], wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        yield
    finally:
        structlog.configure(**before)


def _is_away(error: Any) -> bool:
    """The database being away is a state of the world."""
    return isinstance(error, OSError | TimeoutError) or type(error).__module__.startswith("asyncpg")
