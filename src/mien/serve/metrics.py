"""Figures of the server for Prometheus: numbers of requests and jobs, times, sizes. Nothing of a person."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

#: Upper ends of the intervals of job times, in seconds: from a picture to an hour of video.
_SECONDS = (0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        self.requests = Counter("mien_requests_total", "HTTP responses.", ["method", "route", "status"], registry=own)
        self.jobs = Counter("mien_jobs_total", "Jobs that ended, by state.", ["state"], registry=own)
        self.job_seconds = Histogram("mien_job_seconds", "Time from start to end.", buckets=_SECONDS, registry=own)
        self.wait_seconds = Histogram(
            "mien_wait_seconds", "Time of a job in the queue.", buckets=_SECONDS, registry=own
        )
        self.upload_bytes = Counter("mien_upload_bytes_total", "Bytes of accepted uploads.", registry=own)
        self.present = Gauge("mien_jobs_present", "Jobs that are there, by state.", ["state"], registry=own)
        self.live = Gauge("mien_live_sessions", "Live sessions that are open.", registry=own)

    def text(self) -> bytes:
        """The figures in the text format of Prometheus."""
        return generate_latest(self._registry)


CONTENT_TYPE = CONTENT_TYPE_LATEST
