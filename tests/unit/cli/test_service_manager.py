"""What the service manager is told, over a real socket."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpreg.cli.service_manager import ServiceManager


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as here:
        here.bind(address)
        here.settimeout(60.0)
        yield here


def test_it_is_told_when_the_node_may_be_asked_and_when_it_ends(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with listening(address) as here:
        manager = ServiceManager.of({"NOTIFY_SOCKET": address})
        manager.ready("http://127.0.0.1:8765")
        manager.stopping()
        assert here.recv(4096).splitlines() == [
            b"READY=1",
            b"STATUS=ready on http://127.0.0.1:8765",
        ]
        assert here.recv(4096).splitlines()[0] == b"STOPPING=1"


def test_an_address_with_an_at_sign_is_a_name_of_the_kernel(tmp_path: Path) -> None:
    name = f"mpreg-test-{os.getpid()}-{tmp_path.name}"
    with listening(f"\0{name}") as here:
        ServiceManager.of({"NOTIFY_SOCKET": f"@{name}"}).stopping()
        assert here.recv(4096).startswith(b"STOPPING=1\n")


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}])
def test_nobody_is_told_where_nobody_asks(
    environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    ServiceManager.of(environment).ready("http://127.0.0.1:8765")
    assert caplog.records == []


@pytest.mark.parametrize("address", ["/none/notify", "vsock:2:1234", f"/{'x' * 200}"])
def test_one_that_cannot_be_told_is_logged_and_the_node_goes_on(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    ServiceManager.of({"NOTIFY_SOCKET": address}).ready("http://127.0.0.1:8765")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"NOTIFY_SOCKET={address}: could not be told READY=1" in record.getMessage()


def test_one_that_takes_nothing_is_not_waited_for_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpreg.cli.service_manager.TELLING_SECONDS", 0.01)
    address = str(tmp_path / "notify")
    manager = ServiceManager(address)
    with listening(address):
        while not caplog.records:
            manager.stopping()
    assert "could not be told STOPPING=1: timed out" in caplog.text
