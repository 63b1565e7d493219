"""What `/metrics` answers: a `NodeSnapshot` in the words of Prometheus.

The metrics stand in tables by subject; each says how its samples are read from the snapshot.
Nothing here touches a registry, so that it may be rendered in another thread.
"""

from mpreg.monitoring.metrics.caches import CACHE_NAMESPACES_MAX
from mpreg.monitoring.metrics.rendering import METRICS, families, render
from mpreg.monitoring.metrics.spec import Kind, MetricSpec

__all__ = ["CACHE_NAMESPACES_MAX", "METRICS", "Kind", "MetricSpec", "families", "render"]
