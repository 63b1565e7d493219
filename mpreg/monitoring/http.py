"""What a server tells of its requests."""

from __future__ import annotations

from collections import Counter
from typing import Final, TypeAlias

from attrs import define, field, frozen

from mpreg.monitoring.distribution import REQUEST_SECONDS, Distribution, Spread

__all__ = ["METHODS", "OTHER", "HTTPObserved", "HTTPRecorder"]

OTHER: Final = "other"

#: Others are whatever a client makes up.
METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

#: More than a server has. Whoever records what clients send as a route is kept from filling memory.
ROUTES_MAX: Final = 256

_Request: TypeAlias = tuple[str, str, int]
"""(route, method, status)."""


@frozen(kw_only=True)
class HTTPObserved:
    requests: dict[_Request, int]
    seconds: dict[tuple[str, str], Spread]
    """By route and method."""
    in_flight: int


@define(eq=False)
class HTTPRecorder:
    """Counts requests. A server's middleware calls `begin` and `end`, in a ``finally``."""

    in_flight: int = 0
    _requests: Counter[_Request] = field(factory=Counter)
    _seconds: dict[tuple[str, str], Distribution] = field(factory=dict)
    _routes: set[str] = field(factory=set)

    def begin(self) -> None:
        self.in_flight += 1

    def end(self, route: str | None, method: str, status: int, seconds: float) -> None:
        """``route`` is the pattern that the path was matched by, like ``/v1/queues/{queue}``, never
        the path itself; None where there was none."""
        self.in_flight -= 1
        method = method if method in METHODS else OTHER
        if route is None or (route not in self._routes and len(self._routes) >= ROUTES_MAX):
            route = OTHER
        else:
            self._routes.add(route)
        self._requests[route, method, status] += 1
        found = self._seconds.get((route, method))
        if found is None:
            found = self._seconds[route, method] = Distribution(REQUEST_SECONDS)
        found.observe(seconds)

    def observed(self) -> HTTPObserved:
        return HTTPObserved(
            requests=dict(self._requests),
            seconds={key: one.spread() for key, one in self._seconds.items()},
            in_flight=self.in_flight,
        )
