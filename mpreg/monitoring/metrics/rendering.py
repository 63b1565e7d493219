"""Metrics as a scrape wants them, by prometheus-client.

There is no default registry behind it: two nodes in one process have nothing in common.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from attrs import frozen
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from mpreg.monitoring.distribution import Spread
from mpreg.monitoring.metrics.caches import CACHES
from mpreg.monitoring.metrics.fabric import FABRIC
from mpreg.monitoring.metrics.persistence import PERSISTENCE
from mpreg.monitoring.metrics.queues import QUEUES
from mpreg.monitoring.metrics.requests import REQUESTS
from mpreg.monitoring.metrics.spec import Kind, MetricSpec
from mpreg.monitoring.snapshot import NodeSnapshot

__all__ = ["METRICS", "families", "render"]

METRICS: Final = (*PERSISTENCE, *QUEUES, *CACHES, *REQUESTS, *FABRIC)


def families(snapshot: NodeSnapshot) -> Iterator[Metric]:
    """All of them, in the order of the table."""
    for spec in METRICS:
        yield _FAMILIES[spec.kind](spec, snapshot)


def _numbers(spec: MetricSpec, snapshot: NodeSnapshot) -> Metric:
    kind = CounterMetricFamily if spec.kind is Kind.COUNTER else GaugeMetricFamily
    family = kind(spec.name, spec.help, labels=spec.labels)
    for labels, value in spec.samples(snapshot):
        if isinstance(value, int | float):
            family.add_metric(labels, value)
    return family


def _histograms(spec: MetricSpec, snapshot: NodeSnapshot) -> Metric:
    family = HistogramMetricFamily(spec.name, spec.help, labels=spec.labels)
    for labels, spread in spec.samples(snapshot):
        assert isinstance(spread, Spread)
        family.add_metric(labels, _cumulated(spread), spread.total)
    return family


_FAMILIES: Final = {
    Kind.COUNTER: _numbers,
    Kind.GAUGE: _numbers,
    Kind.HISTOGRAM: _histograms,
}


def _cumulated(spread: Spread) -> list[tuple[str, float]]:
    below = 0
    buckets = []
    for bound, count in zip((*spread.bounds, None), spread.counts, strict=True):
        below += count
        buckets.append(("+Inf" if bound is None else str(bound), float(below)))
    return buckets


@frozen(eq=False)
class _Once(Collector):
    snapshot: NodeSnapshot

    def collect(self) -> Iterable[Metric]:
        return families(self.snapshot)

    def describe(self) -> Iterable[Metric]:
        # So that a registry does not collect to learn the names.
        return ()


def render(snapshot: NodeSnapshot, accept: str = "") -> tuple[bytes, str]:
    """The text for a scrape, and its content type, by what its ``Accept`` asks for; with what the
    process takes (memory, file descriptors, CPU). Slow where there are many queues: run it away
    from the event loop."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(snapshot))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
