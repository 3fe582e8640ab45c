"""What this process counts, built once around a registry of its own; `render` is the body of GET /metrics.

Label children are looked up once and kept: `metrics.dedup["hit"].inc()` costs a dict lookup, `labels()` four times
as much.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Child = TypeVar("Child", Counter, Gauge, Histogram)

# From a commit on the same machine (1 ms) to an order that only the last rung of the ladder finds (a day).
WAITS_S = (0.001, 0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 900, 3600, 6 * 3600, 24 * 3600)
REQUESTS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Children(dict[tuple[str, ...] | str, Child], Generic[Child]):
    """The labelled children of one metric, each made when first asked for. Label values must come from a closed set."""

    def __init__(self, labelled: Callable[..., Child]) -> None:
        super().__init__()
        self._labelled: Callable[..., Child] = labelled

    def __missing__(self, labels: tuple[str, ...] | str) -> Child:
        child: Child = self._labelled(labels) if isinstance(labels, str) else self._labelled(*labels)
        self[labels] = child
        return child


class Metrics:
    """Every metric of the gateway as an attribute."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._count_orders()
        self._count_storage()
        self._count_the_outside()
        self._gauge_the_process()

    def render(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self.registry)

    def _count_orders(self) -> None:
        orders = self._counters("orders", "Orders that entered a state", "state")
        self.orders_created = orders["created"]
        self.orders_paid = orders["paid"]
        self.orders_closed = orders["closed"]
        self.orders_exception = orders["exception"]
        self.learned = self._counters("learned", "Payments learned of, by how: notification or query", "via")
        self.known_after_s = self._histogram("known_after_seconds", "From paid at the channel to known here", WAITS_S)
        self.cases_open = self._gauges("cases_open", "Cases that people must look at", "reason")
        self.case_oldest_s = self._gauge("case_oldest_seconds", "Age of the oldest open case")
        self.told_after_s = self._histogram("told_after_seconds", "From the event to its webhook's 2xx", WAITS_S)

    def _count_storage(self) -> None:
        self.commit_rows = self._histogram("commit_batch_rows", "Orders written by one group commit", ROWS)
        self.commit_unknown = self._counter("commit_unknown_outcomes", "Commits whose outcome had to be found out")
        self.cas_conflicts = self._counter("cas_conflicts", "Writes that lost the compare-and-set to another writer")
        self.swept = self._counter("sweep_claimed", "Due orders claimed by the sweep")

    def _count_the_outside(self) -> None:
        self.dedup = self._counters("dedup", "Duplicate hints: hit, new, unavailable, rubbish", "result")
        self.notifications = self._counters("notifications", "Notifications received", "channel", "verdict")
        self.parked = self._counters(
            "parked_notifications", "Of orders nobody knows: parked, credited, orphaned", "result"
        )
        self.notification_queries = self._counter(
            "notification_queries", "Queries because a notification could not be verified"
        )
        self.deliveries = self._counters(
            "webhook_attempts", "Webhook tries: delivered, failed, dead, dropped", "result"
        )
        requests = Histogram(
            "holdfast_channel_requests_seconds",
            "Conversations with a channel",
            ("channel", "op", "result"),
            buckets=REQUESTS_S,
            registry=self.registry,
        )
        self.channel_requests_s: Children[Histogram] = Children(requests.labels)
        paused = Gauge(
            "holdfast_channel_paused",
            "1 while nothing is sent to a channel because it was silent",
            ("channel",),
            registry=self.registry,
        )
        self.channel_paused: Children[Gauge] = Children(paused.labels)

    def _gauge_the_process(self) -> None:
        self.actors = self._gauge("actors", "Orders held in memory")
        self.backlog = self._gauge("commit_backlog_rows", "Writes waiting for a group commit")
        self.webhooks_held = self._gauge("webhooks_held", "Webhooks owed that this process holds in memory")
        self.endpoints_paused = self._gauge("endpoints_paused", "Endpoints not tried for a while because they fail")
        self.loop_lag_s = self._gauge("loop_lag_seconds", "How late the event loop last woke a timer")

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"holdfast_{name}", text, registry=self.registry)

    def _counters(self, name: str, text: str, *labels: str) -> Children[Counter]:
        return Children(Counter(f"holdfast_{name}", text, labels, registry=self.registry).labels)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"holdfast_{name}", text, registry=self.registry)

    def _gauges(self, name: str, text: str, *labels: str) -> Children[Gauge]:
        return Children(Gauge(f"holdfast_{name}", text, labels, registry=self.registry).labels)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"holdfast_{name}", text, buckets=buckets, registry=self.registry)
