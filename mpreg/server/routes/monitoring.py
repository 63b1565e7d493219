"""What a node tells of itself: metrics, its persistence, and the status page."""

from __future__ import annotations

import re
from typing import Final

from mpreg.errors import NotFoundError
from mpreg.monitoring import INDEX, PAGE_HEADERS, Asset, page_assets
from mpreg.server.answers import Answer
from mpreg.server.auth import Role
from mpreg.server.calls import Call, Endpoint, Handler

__all__ = ["ENDPOINTS"]

_ASSETS: Final = page_assets()


async def metrics(call: Call) -> Answer:
    """For Prometheus, or whoever reads its formats."""
    _check(call.state.settings.monitoring.metrics)
    text, content_type = await call.state.monitor.metrics(call.request.headers.get("accept", ""))
    return Answer(value=text, is_raw=True, headers={"content-type": content_type})


async def persistence(call: Call) -> Answer:
    """How the state is kept, what was restored and when, what was last compacted."""
    _check(call.state.settings.monitoring.metrics)
    return Answer(value=await call.state.monitor.persistence())


async def status(call: Call) -> Answer:
    """Everything that the status page shows."""
    _check(call.state.settings.monitoring.status_page)
    return Answer(value=await call.state.monitor.status())


def _serving(name: str) -> Handler:
    """A route that answers with a file of the status page. Nothing in it is secret, so it asks for
    no token; it asks the person for one where ``/v1/status`` does."""
    found = _ASSETS[name]

    async def answer(call: Call) -> Answer:
        return _asset(call, found)

    answer.__name__ = f"page_{re.sub('[^a-z]', '_', name)}"
    answer.__doc__ = f"A file of the status page: ``{name}``."
    return answer


def _asset(call: Call, found: Asset) -> Answer:
    _check(call.state.settings.monitoring.status_page)
    if call.request.headers.get("if-none-match") == found.etag:
        return Answer(status=304, headers=_headers(found))
    return Answer(value=found.content, is_raw=True, headers=_headers(found))


def _headers(found: Asset) -> dict[str, str]:
    page = {name.lower(): value for name, value in PAGE_HEADERS.items()}
    return {**page, "content-type": found.content_type, "etag": found.etag}


def _check(is_on: bool) -> None:
    """Raises `NotFoundError` where the settings say that there is no such thing."""
    if not is_on:
        raise NotFoundError("it is switched off in the settings of this node")


ENDPOINTS: Final = (
    Endpoint(
        method="GET",
        path="/metrics",
        handler=metrics,
        role=Role.READ,
        summary="Metrics for Prometheus",
    ),
    Endpoint(
        method="GET",
        path="/metrics/persistence",
        handler=persistence,
        role=Role.READ,
        summary="How the state is kept",
    ),
    Endpoint(
        method="GET",
        path="/v1/status",
        handler=status,
        role=Role.READ,
        summary="What the status page shows",
    ),
    *(
        Endpoint(
            method="GET",
            path="/" if name == INDEX else f"/page/{name}",
            handler=_serving(name),
            role=None,
            summary="The status page" if name == INDEX else "What the status page needs",
        )
        for name in _ASSETS
    ),
)
