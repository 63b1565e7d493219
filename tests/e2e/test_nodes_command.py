"""`mpreg nodes`, of a node that runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import anyio
import httpx
import pytest
from click.testing import CliRunner, Result

from mpreg.cli.app import mpreg
from mpreg.cli.runs.nodes import url_of
from mpreg.errors import ConfigurationError
from mpreg.settings import ServerSettings
from tests.e2e.test_serve import Served
from tests.integration.fabric.support import free_port

#: What a row has. Programs are written against these names.
NODE: Final = "name node state url incarnation heard_at queues via why"

TOKEN: Final = "read-token-of-a-test"

SETTINGS: Final = """
[mpreg]
name = "{name}"
[mpreg.persistence]
data_dir = "data"
backend = "memory"
[mpreg.queues.{name}-jobs]
[mpreg.queues.common]
[mpreg.server]
port = {port}
read_token_file = "token"
{peers}
"""


def peer(port: int) -> str:
    return f'[[mpreg.peers]]\nurl = "http://127.0.0.1:{port}"\ntoken_file = "token"\n'


def served(place: Path, name: str, port: int, *others: int) -> Served:
    place.mkdir()
    (place / "token").write_text(TOKEN)
    (place / "token").chmod(0o600)
    text = SETTINGS.format(name=name, port=port, peers="".join(map(peer, others)))
    return Served(place, "asyncio", "--port", port, text=text)


def run(*arguments: object) -> Result:
    command = ["nodes", *map(str, arguments)]
    return CliRunner().invoke(mpreg, command, catch_exceptions=False)


def rows(*arguments: object) -> list[dict[str, Any]]:
    result = run("--json", *arguments)
    assert result.exit_code == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [list(row) for row in found] == [NODE.split()] * len(found)
    return found


async def until_known(url: str, name: str) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    with anyio.fail_after(60.0):
        async with httpx.AsyncClient(base_url=url, headers=headers) as client:
            while True:
                found = (await client.get("/v1/fabric")).json()
                names = [one["name"] for one in found["nodes"]]
                if name in names and all(one["state"] != "unknown" for one in found["peers"]):
                    return
                await anyio.sleep(0.02)


def test_an_operator_sees_all_nodes_and_why_one_is_away(tmp_path: Path) -> None:
    ports = free_port(), free_port(), free_port()
    first = served(tmp_path / "one", "one", *ports)
    with first, served(tmp_path / "two", "two", ports[1]) as second:
        url, url_of_two = first.url(), second.url()
        anyio.run(until_known, url, "two")
        config = tmp_path / "one" / "mpreg.toml"
        own, other, missing = rows("--config", config)
        assert (own["name"], own["state"], own["queues"]) == ("one", "self", ["common", "one-jobs"])
        assert (other["name"], other["state"], other["why"]) == ("two", "alive", "")
        assert other["queues"] == ["common", "two-jobs"]
        assert other["incarnation"] == 1
        assert (missing["name"], missing["state"], missing["queues"]) == (None, "away", None)
        assert missing["url"] == f"http://127.0.0.1:{ports[2]}"
        assert "ConnectError" in missing["why"]
        told = run("--config", config)
        assert told.exit_code == 0
        lines = told.stdout.splitlines()
        assert re.match(r"two +alive +2 queues +incarnation 1 +heard 2.* UTC +http://", lines[1])
        assert lines[2].startswith("? ")
        assert "ConnectError" in lines[3]
        assert "queue 'common' is at several nodes" in told.stderr
        # Another one is asked by its URL, with a token that is named.
        token = tmp_path / "one" / "token"
        assert len(rows("--url", url_of_two, "--token-file", token)) == 1
        refused = run("--url", url_of_two, "--json")
        assert (refused.exit_code, json.loads(refused.stderr)["error"]) == (1, "UnauthorizedError")


def test_a_node_that_does_not_answer_is_told(tmp_path: Path) -> None:
    result = run("--url", f"http://127.0.0.1:{free_port()}", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stderr)["error"] == "NodeUnreachableError"
    for wrong in ("ftp://x", "x", "http://[::1"):
        assert run("--url", wrong).exit_code == 2, wrong


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "http://127.0.0.1:8765"),
        ({"host": "::1", "port": 1}, "http://[::1]:1"),
        ({"host": "0.0.0.0", "read_token": "x" * 16}, "http://127.0.0.1:8765"),
        ({"host": "::", "read_token": "x" * 16}, "http://[::1]:8765"),
        ({"tls_certificate_file": "a", "tls_key_file": "b"}, "https://127.0.0.1:8765"),
    ],
)
def test_the_node_of_the_settings_is_asked_on_this_machine(
    settings: dict[str, Any], url: str
) -> None:
    assert url_of(ServerSettings(**settings)) == url


def test_a_port_that_is_any_cannot_be_asked() -> None:
    with pytest.raises(ConfigurationError, match="--url"):
        url_of(ServerSettings(port=0))
