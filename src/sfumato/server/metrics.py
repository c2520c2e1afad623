"""Metrics for Prometheus. No label contains text from a user."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.jobs = Counter("sfumato_jobs", "Jobs that are over, by API and outcome.", ["api", "outcome"], registry=self.registry)
        self.requests = Counter(
            "sfumato_requests",
            "Requests answered, by method, route and status.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "sfumato_job_seconds", "Time that a job ran.", ["outcome"], buckets=SECONDS, registry=self.registry
        )
        self.store_failures = Counter(
            "sfumato_store_failures", "Calls of the database and the results' disk that failed.", ["call"], registry=self.registry
        )
        self.batch_jobs = Histogram(
            "sfumato_batch_jobs", "Jobs that were sampled together.", buckets=(1, 2, 4, 8, 16), registry=self.registry
        )
        self.queued = Gauge("sfumato_jobs_queued", "Jobs that wait.", registry=self.registry)
        self.running = Gauge("sfumato_jobs_running", "Jobs that run.", registry=self.registry)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self.registry)
