"""What Prometheus reads at /metrics."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)
TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Of one app: a registry of its own, so that a process may hold several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        where: dict[str, Any] = {"registry": self.registry, "namespace": "densekit"}
        self.requests = Counter("requests", "Requests by route and status.", ("path", "status"), **where)
        self.seconds = Histogram(
            "request_seconds",
            "From a request's head to its answer.",
            ("path",),
            buckets=_SECONDS,
            **where,
        )
        self.images = Counter("images", "Images by what became of them.", ("outcome",), **where)
        self.batch = Histogram("batch_images", "Images that were computed at once.", buckets=_IMAGES, **where)
        self.computing = Histogram("batch_seconds", "Time of a batch.", buckets=_SECONDS, **where)
        self.queue = Gauge("queue_images", "Images that wait or are worked on.", **where)
        self.connections = Gauge("connections", "Open connections.", **where)
        self.memory = Gauge("bodies_bytes", "Memory that bodies of requests take.", **where)
        self.starts = Counter("worker_starts", "Times that the computing process was started.", **where)
        self.engine = Info("engine", "What computes.", **where)

    def text(self) -> bytes:
        """In Prometheus's own format."""
        return generate_latest(self.registry)
