"""OpenTelemetry spans of requests and commits, where they are asked for: ``mpreg[opentelemetry]``.

What becomes of them is up to the program's own OpenTelemetry SDK. Without it, and where they are
not asked for, nothing of it is imported and nothing is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from attrs import define, frozen

from mpreg.clock import Clock
from mpreg.errors import ConfigurationError
from mpreg.monitoring.http import METHODS
from mpreg.persistence import CommitObserved, Observer

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider

__all__ = ["RequestSpan", "Tracing", "make_tracing"]


class RequestSpan(Protocol):
    def answered(self, route: str | None, status: int) -> None:
        """``route`` is the pattern that the path was matched by."""
        ...


class Tracing(Protocol):
    @property
    def observer(self) -> Observer | None:
        """To be told of commits by `PersistenceRegistry.observe`; None: nobody needs to be."""
        ...

    def request(
        self, method: str, headers: Mapping[str, str]
    ) -> AbstractContextManager[RequestSpan]:
        """A span while the block runs. ``headers`` (with lower-case names) may name its parent."""
        ...


def make_tracing(clock: Clock, *, enabled: bool, provider: TracerProvider | None = None) -> Tracing:
    """``provider`` instead of OpenTelemetry's global one.

    Raises:
        ConfigurationError: it is enabled and not installed.
    """
    if not enabled:
        return _NoTracing()
    try:
        from opentelemetry import trace
    except ImportError as error:
        raise ConfigurationError(
            "opentelemetry: it is not installed: pip install 'mpreg[opentelemetry]'",
            "opentelemetry",
        ) from error
    return _OpenTelemetry(trace.get_tracer("mpreg", tracer_provider=provider), clock)


@frozen
class _NoTracing:
    observer: None = None

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[RequestSpan]:
        yield _NoSpan()


@frozen
class _NoSpan:
    def answered(self, route: str | None, status: int) -> None:
        pass


@define(eq=False)
class _OpenTelemetry:
    _tracer: Tracer
    _clock: Clock

    @property
    def observer(self) -> Observer:
        return self

    def committed(self, commit: CommitObserved) -> None:
        ended = self._clock.wall()
        span = self._tracer.start_span(
            "mpreg commit",
            start_time=_nanoseconds(ended - commit.commit_seconds),
            attributes={
                "mpreg.commit.sequence": commit.sequence,
                "mpreg.commit.batches": commit.batches,
                "mpreg.commit.operations": commit.operations,
                "mpreg.commit.size_bytes": commit.size_bytes,
                "mpreg.commit.durability": commit.durability.value,
                "mpreg.commit.ack_seconds": commit.ack_seconds,
            },
        )
        span.end(end_time=_nanoseconds(ended))

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[RequestSpan]:
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind

        # As OpenTelemetry has it: a name that clients cannot make up.
        name = method if method in METHODS else "HTTP"
        with self._tracer.start_as_current_span(
            name,
            context=extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method if name == method else "_OTHER"},
        ) as span:
            yield _Span(span, name)


@frozen
class _Span:
    _span: Span
    _method: str

    def answered(self, route: str | None, status: int) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attribute("http.response.status_code", status)
        if route is not None:
            self._span.update_name(f"{self._method} {route}")
            self._span.set_attribute("http.route", route)
        if status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))


def _nanoseconds(wall: float) -> int:
    return int(wall * 1e9)
