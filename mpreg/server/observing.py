"""Each request is counted and timed, is a span where that is wanted, and has an id in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import anyio
from starlette.datastructures import Headers
from starlette.types import Scope

from mpreg.monitoring import get_logger, request_context
from mpreg.server.state import NodeState

__all__ = ["NO_ANSWER", "observed"]

_NAME: Final = "mpreg.server.requests"
_log = get_logger(_NAME)
_plain_log = logging.getLogger(_NAME)

#: In the place of a status where the client had gone before there was one, as nginx has it.
NO_ANSWER: Final = 499


class Observed(Protocol):
    """What is known of a request at its end."""

    @property
    def route(self) -> str | None: ...
    @property
    def status(self) -> int: ...


@contextmanager
def observed(state: NodeState, scope: Scope, exchange: Observed) -> Iterator[None]:
    """One request, from its first byte to the last of its answer."""
    method, began = scope["method"], anyio.current_time()
    state.monitor.http.begin()
    with request_context(request_id=state.make_token()[:12]):
        try:
            with state.tracing.request(method, Headers(scope=scope)) as span:
                try:
                    yield
                finally:
                    span.answered(exchange.route, exchange.status)
        finally:
            _note(state, method, exchange, anyio.current_time() - began)


def _note(state: NodeState, method: str, exchange: Observed, seconds: float) -> None:
    state.monitor.http.end(exchange.route, method, exchange.status, seconds)
    # Asked first: structlog takes longer to say nothing.
    if _plain_log.isEnabledFor(logging.DEBUG):
        told = {"method": method, "route": exchange.route, "status": exchange.status}
        _log.debug("answered", **told, seconds=round(seconds, 6))
