"""What this node can be asked, for programs that read it."""

from __future__ import annotations

from typing import Final

from mpreg.server.answers import Answer
from mpreg.server.calls import Call, Endpoint
from mpreg.server.openapi import describe
from mpreg.server.routes.shapes import SHAPES

__all__ = ["ENDPOINTS"]


async def openapi(call: Call) -> Answer:
    """All routes of this node as OpenAPI 3.1, with examples."""
    return Answer(value=describe(call.endpoints, SHAPES))


ENDPOINTS: Final = (
    Endpoint(
        method="GET",
        path="/openapi.json",
        handler=openapi,
        role=None,
        summary="All routes, as OpenAPI",
    ),
)
