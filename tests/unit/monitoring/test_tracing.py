"""Spans of requests and commits, and nothing where they are not asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest
from attrs import define
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from mpreg.errors import ConfigurationError
from mpreg.monitoring import make_tracing
from tests.unit.monitoring.snapshots import commit


@define
class StillClock:
    def wall(self) -> float:
        return 1_000.0


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


def test_a_commit_is_a_span_as_long_as_it_took(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    observer = make_tracing(StillClock(), enabled=True, provider=provider).observer
    assert observer is not None
    observer.committed(commit(7, batches=3))
    (span,) = exporter.get_finished_spans()
    assert span.name == "mpreg commit"
    assert span.attributes is not None
    assert (span.attributes["mpreg.commit.sequence"], span.attributes["mpreg.commit.batches"]) == (
        7,
        3,
    )
    assert span.start_time is not None
    assert span.end_time is not None
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(0.002, rel=0.01)


def test_a_request_is_a_span_under_the_one_that_its_headers_name(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    tracing = make_tracing(StillClock(), enabled=True, provider=provider)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with tracing.request("POST", {"traceparent": parent}) as request:
        request.answered("/v1/queues/{queue}/messages", 503)
    with tracing.request("GET", {}) as request:
        request.answered(None, 404)
    first, second = exporter.get_finished_spans()
    assert (first.name, first.kind) == ("POST /v1/queues/{queue}/messages", SpanKind.SERVER)
    assert first.parent is not None
    assert f"{first.parent.trace_id:032x}" in parent
    assert first.status.status_code is StatusCode.ERROR
    assert (second.name, second.parent) == ("GET", None)


def test_a_method_that_a_client_made_up_names_no_span(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    tracing = make_tracing(StillClock(), enabled=True, provider=provider)
    with tracing.request("X" * 60_000, {}) as request:
        request.answered(None, 404)
    (span,) = exporter.get_finished_spans()
    assert span.name == "HTTP"
    assert span.attributes is not None
    assert span.attributes["http.request.method"] == "_OTHER"


def test_what_is_not_asked_for_does_nothing_and_imports_nothing() -> None:
    code = (
        "import sys, mpreg.monitoring as m\n"
        "tracing = m.make_tracing(None, enabled=False)\n"
        "with tracing.request('GET', {}) as request: request.answered('/', 200)\n"
        "assert tracing.observer is None\n"
        "assert not [one for one in sys.modules if one.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_asked_for_and_not_installed_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'mpreg\[opentelemetry\]'"):
        make_tracing(StillClock(), enabled=True)
