"""What a node tells of itself: metrics, a report on its persistence, a status page, logs, spans.

Nothing here knows a web framework: `NodeMonitor` answers with bytes and with what becomes JSON.
"""

from mpreg.monitoring.fabric import FabricObserved, NodeSeen
from mpreg.monitoring.http import HTTPRecorder
from mpreg.monitoring.logs import configure_logs, get_logger, request_context
from mpreg.monitoring.monitor import NodeMonitor
from mpreg.monitoring.page import INDEX, PAGE_HEADERS, Asset, page_assets
from mpreg.monitoring.snapshot import NodeInfo
from mpreg.monitoring.tracing import Tracing, make_tracing

__all__ = [
    "INDEX",
    "PAGE_HEADERS",
    "Asset",
    "FabricObserved",
    "HTTPRecorder",
    "NodeInfo",
    "NodeMonitor",
    "NodeSeen",
    "Tracing",
    "configure_logs",
    "get_logger",
    "make_tracing",
    "page_assets",
    "request_context",
]
