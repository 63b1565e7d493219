"""The description of all routes as OpenAPI 3.1: a plain function of their table."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from attrs import field, frozen

from mpreg import __version__
from mpreg.server.calls import Endpoint
from mpreg.server.idempotency import KEY_CHARACTERS_MAX
from mpreg.server.names import NAME_CHARACTERS_MAX
from mpreg.server.negotiation import JSON, MESSAGEPACK
from mpreg.server.problems import PROBLEM_TYPE

__all__ = ["Content", "Parameter", "Shape", "describe"]

SECURITY_SCHEME: Final = "token"

#: Of a name: it has no control characters.
_NAME: Final = r"^[^\x00-\x1f\x7f-\x9f]+$"


class Content(enum.Enum):
    """What a body is, beside a `msgspec.Struct`."""

    VALUE = "any value, as JSON or MessagePack"
    SETTINGS = "an object of settings, as JSON or MessagePack"
    BYTES = "bytes"
    OTHER = "something of the type that its header names"


@frozen
class Parameter:
    """One that may be left out."""

    name: str
    schema: Mapping[str, Any]
    what: str
    place: str = "query"
    is_repeated: bool = False


@frozen(kw_only=True)
class Shape:
    """What a route takes, and what it answers."""

    parameters: Sequence[Parameter] = ()
    body: type[msgspec.Struct] | tuple[type[msgspec.Struct], ...] | Content | None = None
    """A tuple: one of them."""
    body_example: Any = None
    takes_bytes: bool = False
    """Instead of its body it takes bytes as well."""
    status: int = 200
    answer: Content | None = None
    """None: an object with the names of the example, as JSON or MessagePack."""
    gives_events: bool = False
    """It may answer with server-sent events instead."""
    example: Any = None
    others: Mapping[int, str] = field(factory=dict)
    """Further statuses that are no error, or that have no problem as their body."""

    @property
    def structs(self) -> list[type[msgspec.Struct]]:
        if isinstance(self.body, tuple):
            return list(self.body)
        return [self.body] if isinstance(self.body, type) else []


def describe(endpoints: Iterable[Endpoint], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """All of it. ``shapes`` by the names of operations; a route without one is described by what
    its `Endpoint` says."""
    paths: dict[str, dict[str, Any]] = {}
    structs: list[type[msgspec.Struct]] = []
    for one in endpoints:
        shape = shapes.get(one.name, Shape())
        structs += shape.structs
        path = one.path.replace(":path", "")
        paths.setdefault(path, {})[one.method.lower()] = _operation(one, shape)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mpreg",
            "version": __version__,
            "description": "Durable queues, keys, cache, logs and snapshots. "
            "A success that is answered to a write means: it is durable.",
        },
        "servers": [{"url": "/"}],
        # A node without tokens listens to its own machine only, and needs none.
        "security": [{SECURITY_SCHEME: []}, {}],
        "paths": paths,
        "components": {
            "schemas": _schemas(structs),
            "responses": {"Problem": _problem_response()},
            "securitySchemes": {SECURITY_SCHEME: {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(one: Endpoint, shape: Shape) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": one.name,
        "summary": one.summary,
        "description": one.description,
        "tags": [_tag(one.path)],
        "responses": _responses(shape),
    }
    if parameters := _parameters(one, shape):
        operation["parameters"] = parameters
    if shape.body is not None:
        operation["requestBody"] = {"content": _request_content(shape)}
    if one.role is None:
        operation["security"] = []
    else:
        operation["x-mpreg-role"] = one.role.name.lower()
    return operation


def _tag(path: str) -> str:
    first, *rest = path.strip("/").split("/")
    return rest[0] if first == "v1" and rest else "node"


# --- parameters ---


def _parameters(one: Endpoint, shape: Shape) -> list[dict[str, Any]]:
    found = [_path_parameter(*part) for part in re.findall(r"\{(\w+)(:path)?\}", one.path)]
    for parameter in shape.parameters:
        schema = dict(parameter.schema)
        if parameter.is_repeated:
            schema = {"type": "array", "items": schema}
        found.append(
            {
                "name": parameter.name,
                "in": parameter.place,
                "description": parameter.what,
                "schema": schema,
            }
        )
    if one.takes_key:
        found.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "Sent again with the same one, the write is made once.",
                "schema": {"type": "string", "minLength": 1, "maxLength": KEY_CHARACTERS_MAX},
            }
        )
    return found


def _path_parameter(name: str, rest: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if not rest:
        schema |= {"minLength": 1, "maxLength": NAME_CHARACTERS_MAX, "pattern": _NAME}
    return {"name": name, "in": "path", "required": True, "schema": schema}


# --- bodies ---


def _request_content(shape: Shape) -> dict[str, Any]:
    if shape.body is Content.BYTES:
        return _bytes()
    found = [{"$ref": f"#/components/schemas/{one.__name__}"} for one in shape.structs]
    schema: dict[str, Any] = {"anyOf": found} if len(found) > 1 else (found or [{}])[0]
    if shape.body is Content.SETTINGS:
        schema = {"type": "object"}
    content = _structured(schema, shape.body_example)
    return content | _bytes() if shape.takes_bytes else content


def _responses(shape: Shape) -> dict[str, Any]:
    match shape.answer:
        case Content.BYTES:
            content = _bytes()
        case Content.VALUE:
            content = _structured({}, shape.example)
        case Content.OTHER:
            content = {"*/*": {"schema": {}}}
        case _:
            content = _structured(_object(shape.example), shape.example)
    if shape.gives_events:
        content |= {"text/event-stream": {"schema": {"type": "string"}}}
    responses: dict[str, Any] = {
        str(shape.status): {"description": "Done.", "content": content},
        "default": {"$ref": "#/components/responses/Problem"},
    }
    for status, what in shape.others.items():
        responses[str(status)] = {"description": what}
    return responses


def _object(example: Any) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    if example:
        schema |= {"required": list(example), "properties": {name: {} for name in example}}
    return schema


def _structured(schema: dict[str, Any], example: Any) -> dict[str, Any]:
    described: dict[str, Any] = {"schema": schema}
    if example is not None:
        described["example"] = example
    return {JSON: described, MESSAGEPACK: {"schema": schema}}


def _bytes() -> dict[str, Any]:
    return {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


# --- components ---


def _schemas(structs: Sequence[type[msgspec.Struct]]) -> dict[str, Any]:
    _, found = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    return {**found, "Problem": _PROBLEM}


def _problem_response() -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": "It was not done, or that cannot be told: `data_state` says which.",
        "content": {PROBLEM_TYPE: {"schema": schema, "example": _PROBLEM_EXAMPLE}},
    }


_TEXT: Final = {"type": "string"}

_PROBLEM: Final = {
    "type": "object",
    "required": ["type", "title", "status", "error", "data_state"],
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "error": {**_TEXT, "description": "The class of the error."},
        "data_state": {**_TEXT, "description": "What is true of the data."},
        "detail": {**_TEXT, "description": "Where the request was at fault."},
        "advice": _TEXT,
        "incident": {**_TEXT, "description": "Under this id the log of the node has more."},
    },
}

_PROBLEM_EXAMPLE: Final = {
    "type": "urn:mpreg:error:QueueNotFoundError",
    "title": "There is no such queue, or subscription.",
    "status": 404,
    "error": "QueueNotFoundError",
    "data_state": "unchanged",
    "detail": "there is no queue 'jobs'; nothing was changed",
    "advice": "PUT /v1/queues/NAME makes a queue, PUT /v1/queues/NAME/subscriptions/NAME a "
    "subscription.",
}
