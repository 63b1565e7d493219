"""From the description that a node gives of its routes to a page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, Final

__all__ = ["http_reference"]

Described = Mapping[str, Any]

JSON: Final = "application/json"


def http_reference(description: Described) -> str:
    """Of an OpenAPI description, in Markdown: each route under a heading of its own."""
    schemas = description["components"]["schemas"]
    operations = [
        (f"{method.upper()} {path}", operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    lines: list[str] = []
    for tag, found in groupby(operations, lambda one: one[1]["tags"][0]):
        lines += [f"## {tag.capitalize()}", ""]
        for name, operation in found:
            lines += _operation(name, operation, schemas)
    lines += ["## Bodies in detail", ""]
    for name, schema in schemas.items():
        lines += [f"### {name}", "", *_fields(schema), ""]
    return "\n".join(lines)


def _operation(name: str, operation: Described, schemas: Described) -> Iterator[str]:
    yield from (f"### {name}", "", f"{operation['summary']}.", "")
    yield from (operation["description"].replace("``", "`"), "")
    role = operation.get("x-mpreg-role")
    yield from ("Needs no token." if role is None else f"Needs a token that may *{role}*.", "")
    if parameters := operation.get("parameters"):
        yield from ("| parameter | in | type | meaning |", "|---|---|---|---|")
        for one in parameters:
            what = one.get("description", "")
            yield f"| `{one['name']}` | {one['in']} | {_type(one['schema'])} | {what} |"
        yield ""
    if body := operation.get("requestBody"):
        yield from _content("Body", body["content"])
    for status, answer in operation["responses"].items():
        if status == "default":
            continue
        if content := answer.get("content"):
            yield from _content(f"Answer {status}", content)
        else:
            yield from (f"Answer {status}: {answer['description']}", "")


def _content(what: str, content: Described) -> Iterator[str]:
    schema = content.get(JSON, {}).get("schema")
    of = "" if schema is None or not _is_told(schema) else f": {_type(schema)}"
    kinds = ", ".join(f"`{kind}`" for kind in content)
    yield from (f"{what}{of} ({kinds})", "")
    example = content.get(JSON, {}).get("example")
    if example is not None:
        yield from ("```json", json.dumps(example, indent=2, ensure_ascii=False), "```", "")


def _is_told(schema: Described) -> bool:
    return "$ref" in schema or "anyOf" in schema


def _fields(schema: Described) -> Iterator[str]:
    required = schema.get("required", ())
    yield from ("| name | type | default |", "|---|---|---|")
    for name, one in schema["properties"].items():
        default = "required" if name in required else f"`{json.dumps(one.get('default'))}`"
        if "default" not in one and name not in required:
            default = ""
        yield f"| `{name}` | {_type(one)} | {default} |"


def _type(schema: Described) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(one)}`" for one in schema["enum"])
    return str(kind)
