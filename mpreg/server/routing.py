"""From a method and a path to the route: a look at few patterns, however many there are."""

from __future__ import annotations

import re
from collections.abc import Iterable

from attrs import define, field, frozen
from starlette.routing import compile_path

from mpreg.errors import NotFoundError, RequestRefusedError
from mpreg.server.calls import Endpoint

__all__ = ["Router"]


@frozen
class _Place:
    """All that can be done under one pattern."""

    pattern: re.Pattern[str]
    methods: dict[str, Endpoint] = field(factory=dict)


@define(eq=False)
class Router:
    """Of one table of routes. Where two patterns fit, the first one with the method counts."""

    _places: dict[str, list[_Place]] = field(factory=dict)
    """By the kind of thing that they are about: ``queues`` of ``/v1/queues/…``. Patterns have no
    variable there."""

    @classmethod
    def of(cls, endpoints: Iterable[Endpoint]) -> Router:
        router = cls()
        for endpoint in endpoints:
            router._add(endpoint)
        return router

    def find(self, method: str, path: str) -> tuple[Endpoint, dict[str, str]]:
        """The route, and the parts of its path.

        Raises:
            NotFoundError: there is no such path.
            RequestRefusedError: it has no such method.
        """
        methods: set[str] = set()
        for place in self._places.get(_kind(path), ()):
            if (match := place.pattern.fullmatch(path)) is not None:
                if (endpoint := place.methods.get(method)) is not None:
                    return endpoint, match.groupdict()
                methods |= place.methods.keys()
        if methods:
            allowed = ", ".join(sorted(methods))
            raise RequestRefusedError(f"this takes {allowed}", 405, allowed)
        raise NotFoundError(f"there is no route {path!r:.200}")

    def _add(self, endpoint: Endpoint) -> None:
        # A key may have line breaks, and ends with the path: not before the last of them.
        pattern = re.compile(compile_path(endpoint.path)[0].pattern, re.DOTALL)
        places = self._places.setdefault(_kind(endpoint.path), [])
        place = next((one for one in places if one.pattern == pattern), None)
        if place is None:
            places.append(place := _Place(pattern))
        place.methods[endpoint.method] = endpoint
        if endpoint.method == "GET":
            place.methods.setdefault("HEAD", endpoint)


def _kind(path: str) -> str:
    _, first, second, *_ = *path.split("/", 3), "", ""
    return second if first == "v1" else first
