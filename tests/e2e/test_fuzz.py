"""A node fuzzed from its own description, as a process: it answers everything as it says that it
does, keeps what it has acknowledged, and is at the end what it was at the start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import httpx
from attrs import define, field

from tests.e2e.fuzz import KEPT
from tests.e2e.processes import open_files, resident_bytes
from tests.e2e.support import GUARD_SECONDS, REPOSITORY, on_both_loops
from tests.e2e.test_serve import Served

#: Cases of each route in each part of a campaign. `make fuzz` sets more; without, each loop has
#: some of the parts, and the same cases each time: not the one that goes through all bounds of
#: every parameter, which takes longest.
CASES: Final = int(os.environ.get("MPREG_FUZZ_CASES", "0"))
SEED: Final = os.environ.get("MPREG_FUZZ_SEED", "0")
PARTS: Final = {"asyncio": "examples,stateful", "trio": "fuzzing"}
ALL_PARTS: Final = "examples,coverage,fuzzing,stateful"

PATIENCE_SECONDS: Final = 86_400.0 if CASES else GUARD_SECONDS

#: A cache may fill meanwhile.
GROWTH_BYTES_MAX: Final = 128 << 20

TOKEN: Final = "a" * 32

SETTINGS: Final = """
[mpreg.persistence]
data_dir = "data"
[mpreg.server]
admin_token_file = "token"
# Whoever asks for hours must not wait for them.
long_poll_seconds_max = 0.02
[mpreg.queues.jobs]
[mpreg.queues.urgent]
queue_type = "priority"
[mpreg.queues.scarce]
max_deliveries = 1
max_size = 20
"""


@define
class Ledger:
    """What was acknowledged before the campaign."""

    client: httpx.Client
    left: dict[str, Any] = field(factory=dict)
    """By id, the messages that were sent and not acknowledged."""
    versions: dict[str, str] = field(factory=dict)
    """The ETags of keys and cached values."""

    def write(self) -> None:
        queue = f"/v1/queues/{KEPT}"
        self.put(queue, json={"lease_seconds": 86_400.0})
        messages = [{"payload": {"number": number}} for number in range(20)]
        ids = self.ask("POST", f"{queue}/messages", json={"messages": messages}).json()["ids"]
        found = self.ask("POST", f"{queue}/receive", json={"messages_max": 5}).json()["messages"]
        tokens = [message["token"] for message in found]
        self.ask("POST", f"{queue}/ack", json={"tokens": tokens})
        self.left = {id: {"number": number} for number, id in enumerate(ids) if number >= 5}
        for number in range(20):
            for kind, value in (("keys", {"content": b"%d" % number}), ("cache", {"json": number})):
                path = f"/v1/{kind}/{KEPT}/{number}"
                self.versions[path] = self.put(path, **value).headers["etag"]
        self.ask("POST", f"/v1/logs/{KEPT}/records", content=b"a record")
        self.put(f"/v1/snapshots/{KEPT}", content=b"x" * 300_000)
        # And something that may be met.
        for name in ("jobs", "urgent"):
            self.ask("POST", f"/v1/queues/{name}/messages", json={"messages": messages})

    def check(self) -> None:
        """All of it is there, and nothing else beside it."""
        for path, version in self.versions.items():
            answer = self.ask("GET", path)
            assert (answer.headers["etag"], int(answer.content)) == (
                version,
                int(path[-2:].strip("/")),
            )
        keys = self.ask("GET", f"/v1/keys/{KEPT}").json()["entries"]
        assert len(keys) == 20
        records = self.ask("GET", f"/v1/logs/{KEPT}/records").json()["records"]
        assert [one["data"] for one in records] == [{"$base64": "YSByZWNvcmQ="}]
        assert self.ask("GET", f"/v1/snapshots/{KEPT}").content == b"x" * 300_000
        statistics = self.ask("GET", f"/v1/queues/{KEPT}").json()["statistics"]
        assert statistics["pending"] == len(self.left)

    def take(self) -> None:
        """What was not acknowledged comes, and nothing else."""
        answer = self.ask("POST", f"/v1/queues/{KEPT}/receive", json={"messages_max": 1_000})
        assert {one["id"]: one["payload"] for one in answer.json()["messages"]} == self.left

    def under_way(self) -> tuple[int, int]:
        """Requests, this one among them, and how many of them wait."""
        node = self.ask("GET", "/v1/node").json()
        return node["requests"], node["long_polls"]

    def put(self, path: str, **body: Any) -> httpx.Response:
        return self.ask("PUT", path, **body)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        answer = self.client.request(method, path, **options)
        assert answer.is_success, (method, path, answer.text)
        return answer


def client_of(url: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {TOKEN}"}
    return httpx.Client(base_url=url, headers=headers, timeout=GUARD_SECONDS)


def fuzz(url: str, place: Path, loop: str) -> str:
    """What schemathesis told, which found nothing: it is a program of its own, so that its warnings
    and its settings are not those of these tests."""
    campaign = ["--phases", PARTS[loop], "--max-examples", "2", "--generation-deterministic"]
    if CASES:
        campaign = ["--phases", ALL_PARTS, "--max-examples", str(CASES), "--seed", SEED]
        campaign += ["--generation-database", "none"]
    command = [
        *(sys.executable, "-m", "schemathesis.cli"),
        *("--config-file", str(REPOSITORY / "tests/e2e/fuzz/schemathesis.toml")),
        *("run", f"{url}/openapi.json", "--no-color", *campaign),
        *("--header", f"Authorization: Bearer {TOKEN}"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(
        command,
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@on_both_loops
def test_a_node_that_is_fuzzed_answers_as_it_says_and_loses_and_keeps_nothing(
    tmp_path: Path, loop: str
) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    arguments = ("--port", 0)
    with Served(tmp_path, loop, *arguments, text=SETTINGS, guard_seconds=PATIENCE_SECONDS) as node:
        url = node.url()
        with client_of(url) as client:
            ledger = Ledger(client)
            ledger.write()
            ledger.check()
            files, memory = open_files(node.pid), resident_bytes(node.pid)
            told = fuzz(url, tmp_path, loop)
            print(told)
            ledger.check()
            # Whoever has gone is gone soon.
            while ledger.under_way() != (1, 0) or open_files(node.pid) > files:
                pass
            assert resident_bytes(node.pid) - memory < GROWTH_BYTES_MAX
        node.send(signal.SIGTERM)
        assert node.wait() == 0
        assert "incident" not in node.errors
        assert "Traceback" not in node.errors
    with Served(tmp_path, loop, *arguments, text=SETTINGS) as node, client_of(node.url()) as client:
        ledger.client = client
        ledger.check()
        ledger.take()
