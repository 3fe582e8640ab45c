"""From the configured seconds to the core's ladders: each method inherits from its channel, and that from [checks]."""

from collections.abc import Iterator

import msgspec

from actors.deadlines import Schedule
from gateway.config import Channels, Checks, OwnChecks
from gateway.config.sections import BarcodeMethod

# A bar code does not wait for a person. Where everything is asked after sooner than that, so is a bar code.
BARCODE_TIMEOUT_MS = 5000
BARCODE_QUERIES_MS = (5000, 10_000, 15_000)


def schedule_of(checks: Checks, channels: Channels) -> Schedule:
    """The ladders in milliseconds, and those of the methods that have their own."""
    schedule = Schedule(
        timeout_ms=_ms(checks.timeout_s),
        queries_ms=tuple(map(_ms, checks.queries_s)),
        slow_queries_ms=tuple(map(_ms, checks.slow_queries_s)),
        closing_ms=tuple(map(_ms, checks.closing_s)),
        watch_ms=tuple(map(_ms, checks.watch_s)),
        exception_ms=tuple(map(_ms, checks.exception_s)),
        refund_ms=tuple(map(_ms, checks.refund_s)),
        not_found_final_ms=_ms(checks.not_found_final_s),
    )
    return msgspec.structs.replace(schedule, by_method=dict(_by_method(schedule, channels)))


def _by_method(schedule: Schedule, channels: Channels) -> Iterator[tuple[tuple[str, str], Schedule]]:
    for channel, section in channels.installed().items():
        of_channel = _inheriting(schedule, section.checks)
        for name, method in msgspec.structs.asdict(section.methods).items():
            inherited = _for_barcodes(of_channel) if isinstance(method, BarcodeMethod) else of_channel
            own = _inheriting(inherited, method.checks)
            if own != schedule:
                yield (channel, name), own


def _for_barcodes(schedule: Schedule) -> Schedule:
    return msgspec.structs.replace(
        schedule,
        timeout_ms=min(schedule.timeout_ms, BARCODE_TIMEOUT_MS),
        queries_ms=min(schedule.queries_ms, BARCODE_QUERIES_MS, key=sum),
    )


def _inheriting(schedule: Schedule, own: OwnChecks) -> Schedule:
    said: dict[str, int | tuple[int, ...]] = {}
    if own.timeout_s is not None:
        said["timeout_ms"] = _ms(own.timeout_s)
    if own.queries_s is not None:
        said["queries_ms"] = tuple(map(_ms, own.queries_s))
    if own.slow_queries_s is not None:
        said["slow_queries_ms"] = tuple(map(_ms, own.slow_queries_s))
    return msgspec.structs.replace(schedule, **said)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
