"""What a metric is: a line of a table."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import TypeAlias

from attrs import frozen

from mpreg.monitoring.distribution import Spread
from mpreg.monitoring.snapshot import NodeSnapshot

__all__ = ["Kind", "Labels", "MetricSpec", "Read", "Sample", "counter", "gauge", "histogram", "one"]


class Kind(enum.Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


Labels: TypeAlias = tuple[str, ...]
Sample: TypeAlias = tuple[Labels, float | Spread | None]
"""None where there is nothing to be told."""

Read: TypeAlias = Callable[[NodeSnapshot], Iterable[Sample]]


@frozen(kw_only=True)
class MetricSpec:
    name: str
    """As it is scraped, with ``_total`` where it is a counter."""
    kind: Kind
    help: str
    labels: Labels = ()
    samples: Read


def counter(name: str, help: str, samples: Read, *labels: str) -> MetricSpec:
    return MetricSpec(name=name, kind=Kind.COUNTER, help=help, labels=labels, samples=samples)


def gauge(name: str, help: str, samples: Read, *labels: str) -> MetricSpec:
    return MetricSpec(name=name, kind=Kind.GAUGE, help=help, labels=labels, samples=samples)


def histogram(name: str, help: str, samples: Read, *labels: str) -> MetricSpec:
    return MetricSpec(name=name, kind=Kind.HISTOGRAM, help=help, labels=labels, samples=samples)


def one(read: Callable[[NodeSnapshot], float | Spread | None]) -> Read:
    """Of a metric without labels."""
    return lambda snapshot: (((), read(snapshot)),)
