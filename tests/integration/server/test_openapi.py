"""The description that a node gives of itself: all of its routes, and nothing that is not so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from mpreg.errors import InvalidArgumentError
from mpreg.server.auth import Role
from mpreg.server.calls import Endpoint
from mpreg.server.negotiation import as_type, decode, encode
from mpreg.server.openapi import describe
from mpreg.server.routes import ENDPOINTS
from mpreg.server.routes.shapes import SHAPES
from tests.integration.server.support import open_node

pytestmark = pytest.mark.anyio

JSON: Final = "application/json"

DESCRIPTION: Final = describe(ENDPOINTS, SHAPES)


def operations() -> Iterator[tuple[Endpoint, dict[str, Any]]]:
    for one in ENDPOINTS:
        path = one.path.replace(":path", "")
        yield one, DESCRIPTION["paths"][path][one.method.lower()]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            yield reference
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


async def test_a_node_describes_itself_to_whoever_can_reach_it(data_dir: Path) -> None:
    async with open_node(data_dir, read_token="r" * 16) as node:
        answer = await node.client.get("/openapi.json")
        assert (answer.status_code, answer.headers["content-type"]) == (200, JSON)
        assert answer.content == encode(DESCRIPTION, JSON)
        assert answer.json()["openapi"] == "3.1.0"


def test_each_route_is_described_and_nothing_else() -> None:
    described = {
        (method.upper(), path)
        for path, methods in DESCRIPTION["paths"].items()
        for method in methods
    }
    assert described == {(one.method, one.path.replace(":path", "")) for one in ENDPOINTS}
    names = [operation["operationId"] for _, operation in operations()]
    assert len(set(names)) == len(names)
    assert set(names) == set(SHAPES)


def test_a_route_is_described_as_the_table_has_it() -> None:
    for one, operation in operations():
        parameters = {(each["in"], each["name"]) for each in operation.get("parameters", ())}
        in_path = {name for place, name in parameters if place == "path"}
        assert in_path == set(re.findall(r"\{(\w+)", one.path))
        assert (("header", "Idempotency-Key") in parameters) == one.takes_key
        if one.role is None:
            assert operation["security"] == []
        else:
            assert Role[operation["x-mpreg-role"].upper()] is one.role
        assert operation["summary"] == one.summary
        assert operation["responses"]["default"] == {"$ref": "#/components/responses/Problem"}


def test_what_is_referred_to_is_there() -> None:
    for reference in references(DESCRIPTION):
        found = DESCRIPTION
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]


def test_each_answer_has_an_example_unless_it_is_bytes() -> None:
    for one, operation in operations():
        [status] = [status for status in operation["responses"] if status in ("200", "201")]
        content = operation["responses"][status]["content"]
        if JSON in content:
            assert "example" in content[JSON], one
        body = operation.get("requestBody", {"content": {"application/octet-stream": {}}})
        assert "application/octet-stream" in body["content"] or "example" in body["content"][JSON]


def test_each_example_of_a_request_is_one_that_is_understood() -> None:
    for name, shape in SHAPES.items():
        if not shape.structs:
            continue
        given = decode(encode(shape.body_example, JSON), JSON)
        assert any(fits(given, kind) for kind in shape.structs), name


def fits(value: Any, kind: type[msgspec.Struct]) -> bool:
    try:
        as_type(value, kind)
    except InvalidArgumentError:
        return False
    return True


#: What must be there so that the examples can be tried, and in which order they are.
TRIED: Final = (
    ("put_queue", "PUT", "/v1/queues/jobs"),
    ("send", "POST", "/v1/queues/jobs/messages"),
    ("receive", "POST", "/v1/queues/jobs/receive"),
    ("list_queues", "GET", "/v1/queues"),
    ("put_subscription", "PUT", "/v1/queues/jobs/subscriptions/thumbnails"),
    ("dead_letters", "GET", "/v1/queues/jobs/dead-letters"),
    ("purge", "POST", "/v1/queues/jobs/purge"),
    ("put_key", "PUT", "/v1/keys/n/ann"),
    ("list_keys", "GET", "/v1/keys/n"),
    ("delete_key", "DELETE", "/v1/keys/n/ann"),
    ("put_cached", "PUT", "/v1/cache/pages/home"),
    ("get_cached", "GET", "/v1/cache/pages/home"),
    ("get_namespace", "GET", "/v1/cache/pages"),
    ("increment", "POST", "/v1/cache/pages/views/increment"),
    ("invalidate", "POST", "/v1/cache/invalidate"),
    ("append", "POST", "/v1/logs/audit/records"),
    ("read_records", "GET", "/v1/logs/audit/records"),
    ("get_log", "GET", "/v1/logs/audit"),
    ("truncate", "POST", "/v1/logs/audit/truncate"),
    ("put_snapshot", "PUT", "/v1/snapshots/images"),
    ("list_versions", "GET", "/v1/snapshots/images/versions"),
    ("delete_snapshot", "DELETE", "/v1/snapshots/images"),
    ("ready", "GET", "/health/ready"),
    ("node", "GET", "/v1/node"),
)


async def test_examples_can_be_sent_and_answers_have_the_names_of_theirs(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        for name, method, path in TRIED:
            shape = SHAPES[name]
            content = None if shape.body is None else encode(shape.body_example, JSON)
            answer = await node.client.request(
                method, path, content=content, headers={"content-type": JSON}
            )
            assert answer.status_code == shape.status, (name, answer.text)
            check_names(shape.example, answer.json(), name)


def check_names(example: dict[str, Any], found: dict[str, Any], where: str) -> None:
    assert example.keys() <= found.keys(), where
    for name, items in example.items():
        if isinstance(items, list) and items and isinstance(items[0], dict) and found[name]:
            assert items[0].keys() == found[name][0].keys(), where
