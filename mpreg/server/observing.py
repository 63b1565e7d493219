"""Each request is counted and timed, is a span where that is wanted, and has an id in the log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import anyio
from starlette.datastructures import Headers
from starlette.types import Scope

from mpreg.monitoring import request_context
from mpreg.server.state import NodeState

__all__ = ["NO_ANSWER", "observed"]

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
    http, method, began = state.monitor.http, scope["method"], anyio.current_time()
    about = request_context(request_id=state.make_token()[:12])
    http.begin()
    try:
        with about, state.tracing.request(method, Headers(scope=scope)) as span:
            try:
                yield
            finally:
                span.answered(exchange.route, exchange.status)
    finally:
        http.end(exchange.route, method, exchange.status, anyio.current_time() - began)
