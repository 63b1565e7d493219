"""Tokens and roles: each route asks for the role that it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mpreg.server.auth import Role
from mpreg.server.routes import ENDPOINTS
from tests.integration.server.support import error_of, open_node

pytestmark = pytest.mark.anyio

TOKENS = {Role.READ: "r" * 16, Role.WRITE: "w" * 16, Role.ADMIN: "a" * 16}
SETTINGS: dict[str, Any] = {f"{role.name.lower()}_token": token for role, token in TOKENS.items()}


def a_path(path: str) -> str:
    """With names where it has parts; there is nothing of that name."""
    return path.replace(":path", "").replace("{", "").replace("}", "")


async def test_every_route_asks_for_its_role(data_dir: Path) -> None:
    async with open_node(data_dir, **SETTINGS) as node:
        for one in ENDPOINTS:
            for role, token in (None, "x" * 16), *TOKENS.items():
                headers = {"authorization": f"Bearer {token}"} if role is not None else {}
                answer = await node.client.request(
                    one.method, a_path(one.path), headers=headers, json={}
                )
                where = (one.method, one.path, role)
                if one.role is None:
                    assert answer.status_code == 200, where
                elif role is None:
                    assert error_of(answer) == (401, "UnauthorizedError"), where
                    assert answer.headers["www-authenticate"] == "Bearer"
                elif role < one.role:
                    assert error_of(answer) == (403, "ForbiddenError"), where
                else:
                    assert answer.status_code not in (401, 403), where


async def test_no_answer_and_no_log_has_a_token(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with open_node(data_dir, **SETTINGS) as node:
        for token in TOKENS.values():
            for path in ("/v1/node", "/v1/queues", "/none", "/v1/queues/none"):
                headers = {"authorization": f"Bearer {token}", "idempotency-key": "k"}
                answer = await node.client.get(path, headers=headers)
                assert token not in answer.text
                assert token not in str(answer.headers)
        assert not any(token in caplog.text for token in TOKENS.values())
        assert not any(token in repr(node.state) for token in TOKENS.values())


async def test_a_wrong_token_learns_nothing_of_what_is_there(data_dir: Path) -> None:
    async with open_node(data_dir, **SETTINGS) as node:
        wrong = {"authorization": "Bearer " + "x" * 16}
        there = await node.client.get("/v1/queues/jobs", headers=wrong)
        missing = await node.client.get("/v1/queues/none", headers=wrong)
        assert there.content == missing.content
        assert (await node.client.get("/health/live", headers=wrong)).status_code == 200


async def test_a_page_of_another_site_can_do_nothing_on_a_node_without_tokens(
    data_dir: Path,
) -> None:
    async with open_node(data_dir) as node:
        for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}):
            answer = await node.client.get("/v1/queues", headers=headers)
            assert error_of(answer) == (403, "ForbiddenError")
        # What a page can send without asking first is no body that is understood.
        sent = await node.client.post(
            "/v1/queues/jobs/messages",
            content=b'{"payload":1}',
            headers={"content-type": "text/plain"},
        )
        assert error_of(sent) == (415, "RequestRefusedError")
        assert await node.receive() == []


async def test_every_answer_tells_a_browser_to_do_nothing_with_it(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        for path in ("/health/live", "/v1/queues", "/none", "/v1/keys/n/none"):
            headers = (await node.client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "server" not in headers


async def test_every_answer_says_that_it_is_one_of_a_node(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await node.client.put("/v1/snapshots/images", content=b"x")
        for method, path, status in (
            ("GET", "/health/live", 200),
            ("HEAD", "/health/live", 200),
            ("GET", "/", 200),
            ("GET", "/metrics", 200),
            ("GET", "/v1/snapshots/images", 200),
            ("HEAD", "/v1/logs/audit/records?follow", 200),
            ("GET", "/v1/logs/audit/records?follow&start=7", 416),
            ("GET", "/nowhere", 404),
            ("PATCH", "/v1/queues", 405),
            ("POST", "/v1/queues/jobs/messages", 400),
        ):
            answer = await node.client.request(method, path)
            assert (answer.status_code, answer.headers.get("x-mpreg-api")) == (status, "1"), path
