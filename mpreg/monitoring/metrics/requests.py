"""Metrics of HTTP requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mpreg.monitoring.metrics.spec import Sample, counter, gauge, histogram, one
from mpreg.monitoring.snapshot import NodeSnapshot

__all__ = ["REQUESTS"]


def _http_requests(snapshot: NodeSnapshot) -> Iterator[Sample]:
    for (route, method, status), count in snapshot.http.requests.items():
        yield (route, method, str(status)), count


def _http_seconds(snapshot: NodeSnapshot) -> Iterator[Sample]:
    yield from snapshot.http.seconds.items()


REQUESTS: Final = (
    counter(
        "mpreg_http_requests_total",
        "Requests answered.",
        _http_requests,
        "route",
        "method",
        "status",
    ),
    histogram(
        "mpreg_http_request_seconds",
        "What they took, with the time that a long poll waited.",
        _http_seconds,
        "route",
        "method",
    ),
    gauge(
        "mpreg_http_requests_in_flight",
        "Requests that are being answered, long polls among them.",
        one(lambda s: s.http.in_flight),
    ),
)
