"""Crash points: places where a test can have this process killed with SIGKILL, as a power cut would.

A call of `probe("name")` costs one comparison unless `HOLDFAST_CRASH_AT="name:nth,name"` armed it at start; then the
n-th pass (the first, if no number is given) kills the process. Nothing is cleaned up: no `finally` runs.
"""

import os
import signal
from collections.abc import Mapping

VARIABLE = "HOLDFAST_CRASH_AT"

PROBES: Mapping[str, str] = {
    "before_commit": "a batch is about to be sent to Postgres: nothing of it exists yet",
    "after_commit": "a batch is durable; nobody was answered and no effect has run",
    "before_reply": "the answer to an HTTP request is complete but not yet written",
    "before_channel": "an attempt's intent is durable; the channel has not been called",
    "after_channel": "the channel has answered; its answer is not yet told to the order",
    "before_ack": "a notification is durable; its acknowledgement is not yet written",
    "before_webhook": "a webhook is owed and held by this process; it has not been sent",
    "webhook_sent": "an app answered a webhook with 2xx; the delivery is not yet marked",
    "webhook_marked": "a webhook is durably marked as delivered",
    "orders_claimed": "the sweep has leased due orders; none of them has been told",
}

_passes_left: dict[str, int] | None = None


class ProbeError(ValueError):
    """HOLDFAST_CRASH_AT can't be obeyed; the message says why."""


def probe(name: str) -> None:
    """Pass a crash point. Does nothing unless armed."""
    if _passes_left is not None:
        _pass(name, _passes_left)


def arm(environ: Mapping[str, str], *, production: bool) -> None:
    """Read HOLDFAST_CRASH_AT and arm the probes it names; without the variable, disarm all.

    Raises:
        ProbeError: in production, for an unknown name, or for a count that is not a positive integer.
    """
    global _passes_left  # noqa: PLW0603 - one process has one set of crash points, and an unarmed probe must cost nothing
    spec = environ.get(VARIABLE, "")
    if spec and production:
        raise ProbeError(f'{VARIABLE} kills this process on purpose and is refused when env = "prod"')
    _passes_left = dict(_read(part) for part in spec.split(",")) if spec else None


def _read(part: str) -> tuple[str, int]:
    name, _, nth = part.strip().partition(":")
    if name not in PROBES:
        raise ProbeError(f"{VARIABLE}: unknown probe {name!r}; known: {', '.join(PROBES)}")
    if nth and not (nth.isascii() and nth.isdigit() and int(nth) > 0):
        raise ProbeError(f"{VARIABLE}: {part!r}: the count after the colon must be a positive integer")
    return name, int(nth or 1)


def _pass(name: str, passes_left: dict[str, int]) -> None:
    if name not in PROBES:
        raise ProbeError(f"probe {name!r} is not in the table of gateway/probe.py")
    if name not in passes_left:
        return
    passes_left[name] -= 1
    if passes_left[name] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
