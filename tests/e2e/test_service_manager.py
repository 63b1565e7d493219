"""A node that a service manager has started, as systemd starts one of ``Type=notify``."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import httpx
import pytest

from tests.e2e.support import GUARD_SECONDS, on_both_loops
from tests.e2e.test_serve import SETTINGS, Served


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """Where a node started from here tells how far it is."""
    here = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    here.bind(str(tmp_path / "notify"))
    here.settimeout(GUARD_SECONDS)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return here


@on_both_loops
def test_a_node_says_that_it_is_ready_when_it_may_be_asked_and_that_it_stops(
    tmp_path: Path, loop: str, manager: socket.socket
) -> None:
    with manager, Served(tmp_path, loop) as node:
        first, status = manager.recv(4096).decode().splitlines()
        assert first == "READY=1"
        url = status.removeprefix("STATUS=ready on ")
        assert httpx.get(f"{url}/health/ready").status_code == 200
        assert httpx.get(f"{url}/v1/queues/jobs").status_code == 200
        node.send(signal.SIGTERM)
        assert manager.recv(4096).decode().splitlines()[0] == "STOPPING=1"
        assert node.wait() == 0


def test_a_node_that_cannot_start_never_says_that_it_is_ready(
    tmp_path: Path, manager: socket.socket
) -> None:
    (tmp_path / "data").write_text("no directory")
    with manager, Served(tmp_path, "asyncio") as node:
        assert node.wait() == 1
        assert json.loads(node.errors)["error"] == "DataDirectoryError"
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(4096)


def test_a_node_goes_on_where_nobody_is_there_to_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with Served(tmp_path, "asyncio", text=SETTINGS) as node:
        assert httpx.get(f"{node.url()}/health/ready").status_code == 200
        node.send(signal.SIGTERM)
        assert node.wait() == 0
        assert "could not be told READY=1" in node.errors
