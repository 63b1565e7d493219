"""A server in a process of its own: on loopback, at a free port, in a directory that is given."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import click
from attrs import frozen

from benchmarks.http.workload import EMBEDDED, NATS, NODES, REDIS, loop_of

START_SECONDS_MAX: Final = 20.0
STOP_SECONDS_MAX: Final = 30.0

#: Beside this Python, where `scripts/install-servers` puts what is not on the path.
_BIN: Final = Path(sys.executable).parent

_NATS_CONFIGURATION: Final = """
host: 127.0.0.1
port: {port}
jetstream {{ store_dir: {store}, sync_interval: always }}
"""

_NODE_CONFIGURATION: Final = """
[mpreg.persistence]
data_dir = "data"
[mpreg.server]
port = {port}
loop = "{loop}"
"""

#: Their client in Python and their program.
_NEEDS: Final = {REDIS: ("redis", "redis-server"), NATS: ("nats", "nats-server")}


@frozen
class Server:
    """One that runs."""

    pid: int
    port: int

    def cpu_seconds(self) -> float | None:
        """So far, of all its threads; None where the system does not tell."""
        stat = Path(f"/proc/{self.pid}/stat")
        if not stat.exists():
            return None
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def program(name: str) -> str | None:
    """Where a command is."""
    return shutil.which(name, path=f"{_BIN}{os.pathsep}{os.environ['PATH']}")


def missing(contender: str) -> str | None:
    """Why it cannot be measured here; None where it can."""
    if contender not in _NEEDS:
        return None
    module, command = _NEEDS[contender]
    if find_spec(module) is None:
        return f"its Python client, {module}, is not installed"
    return None if program(command) else f"there is no {command}; see scripts/install-servers"


def version(contender: str) -> str:
    """What its program says of itself."""
    command = program(_NEEDS[contender][1])
    assert command is not None
    asked = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    return asked.stdout.strip()


@contextmanager
def running(contender: str, directory: Path, under: Sequence[str] = ()) -> Iterator[Server | None]:
    """The server of a contender, listening; None where it has none. Stopped afterwards.

    ``under``: a command that becomes it, like strace with -D.
    """
    if contender in EMBEDDED:
        yield None
        return
    port = _free_port()
    command = [*under, *_command(contender, directory, port)]
    log = directory / "server.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=directory, stdout=output, stderr=output) as process,
    ):
        try:
            _wait_until_it_listens(process, port, contender in NODES, log)
            yield Server(process.pid, port)
        finally:
            _stop(process, log)


def _command(contender: str, directory: Path, port: int) -> list[str]:
    if contender in NODES:
        file = directory / "mpreg.toml"
        file.write_text(_NODE_CONFIGURATION.format(port=port, loop=loop_of(contender)))
        return [sys.executable, "-m", "mpreg.cli", "serve", "--config", str(file)]
    name = program(_NEEDS[contender][1])
    assert name is not None, missing(contender)
    if contender == NATS:
        file = directory / "nats.conf"
        store = json.dumps(str(directory / "jetstream"))
        file.write_text(_NATS_CONFIGURATION.format(port=port, store=store))
        return [name, "--config", str(file)]
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(directory),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
    }
    return [name, *(part for key, value in settings.items() for part in (f"--{key}", value))]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _wait_until_it_listens(
    process: subprocess.Popen[bytes], port: int, is_node: bool, log: Path
) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            # A node listens while it restores, and says when it has.
            if not is_node or b"ready on" in log.read_bytes():
                return
        time.sleep(0.02)
    raise click.ClickException(f"{process.args!r} does not listen:\n{log.read_text()}")


def _stop(process: subprocess.Popen[bytes], log: Path) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        raise click.ClickException(f"{process.args!r} does not stop:\n{log.read_text()}") from None
