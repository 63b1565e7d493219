"""The units that the page about systemd shows: systemd understands them, and they start a node."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import httpx
import pytest

from mpreg.cli import exits
from mpreg.settings import MPREGSettings
from tests.docs.pages import PAGES
from tests.e2e.support import Program

PAGE: Final = PAGES["docs/howto/deploy-with-systemd.md"]
FILES: Final = {block.argument: block.text for block in PAGE.blocks if block.mark == "file"}
UNITS: Final = [name for name in FILES if name != "mpreg.toml"]

#: Where the page installs it, and where it is here.
INSTALLED: Final = "/usr/local/lib/mpreg/bin/mpreg"
HERE: Final = str(Path(sys.executable).parent / "mpreg")

#: What `systemd-analyze security` says of a service that has all of the page's walls is below it.
EXPOSURE_MAX: Final = 20

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here"
)


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    for name in UNITS:
        (tmp_path / name).write_text(FILES[name].replace(INSTALLED, HERE))
    return [tmp_path / name for name in UNITS]


def analyze(*arguments: object) -> tuple[int, str]:
    done = subprocess.run(
        ["systemd-analyze", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240.0,
        check=False,
    )
    return done.returncode, done.stderr


@needs_systemd
def test_systemd_understands_the_units(units: list[Path]) -> None:
    assert analyze("verify", *units) == (0, "")


@needs_systemd
def test_the_node_is_shut_in(units: list[Path]) -> None:
    options = ("--offline=true", f"--threshold={EXPOSURE_MAX}", "--no-pager")
    (unit,) = [path for path in units if path.name == "mpreg.service"]
    code, errors = analyze("security", *options, unit)
    assert (code, errors) == (0, "")


def setting(name: str, unit: str = "mpreg.service") -> list[str]:
    lines = [line.partition("=") for line in FILES[unit].splitlines()]
    return [value for key, _, value in lines if key == name]


def test_the_settings_are_right_and_a_stop_is_given_the_time_that_they_say() -> None:
    settings = MPREGSettings.from_mapping(tomllib.loads(FILES["mpreg.toml"])["mpreg"])
    grace = settings.server.grace_seconds + settings.persistence.grace_seconds
    (stop,) = setting("TimeoutStopSec")
    assert float(stop) > grace + 10.0
    (state,) = setting("StateDirectory")
    assert settings.persistence.data_dir == Path(f"/var/lib/{state}/data")
    backed_up, at = setting("StateDirectory", "mpreg-backup.service")[0].split()
    assert backed_up == state
    (command,) = setting("ExecStart", "mpreg-backup.service")
    assert f" /var/lib/{at}/" in command
    assert f"--data-dir {settings.persistence.data_dir} " in command


def test_what_waits_for_a_person_is_not_started_again() -> None:
    (codes,) = setting("RestartPreventExitStatus")
    assert [int(code) for code in codes.split()] == [exits.USAGE, exits.DAMAGED]


class Started(Program):
    """What the unit starts, with its environment, and with places of this test."""

    def __init__(self, command: list[str]) -> None:
        super().__init__("none")
        self.command = command


def test_the_unit_starts_a_node_that_asks_for_the_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for credential in setting("LoadCredential"):
        name = credential.partition(":")[0]
        (credentials / name).write_text(f"{name} of this test\n".replace(" ", "-"))
        (credentials / name).chmod(0o400)
    for variable in setting("Environment"):
        name, _, value = variable.partition("=")
        monkeypatch.setenv(name, value.replace("%d", str(credentials)))
    monkeypatch.setenv("MPREG__SERVER__PORT", "0")
    file = tmp_path / "mpreg.toml"
    file.write_text(FILES["mpreg.toml"].replace("/var/lib/mpreg", str(tmp_path)))
    (line,) = setting("ExecStart")
    command = shlex.split(line.replace("/etc/mpreg/mpreg.toml", str(file)))
    assert command[0] == INSTALLED
    with Started([HERE, *command[1:]]) as node:
        url = node.line().removeprefix("mpreg: ready on ")
        assert httpx.put(f"{url}/v1/keys/a/b", content=b"1").status_code == 401
        token = {"authorization": "Bearer write-token-of-this-test"}
        assert httpx.put(f"{url}/v1/keys/a/b", content=b"1", headers=token).status_code == 200
        assert (tmp_path / "data" / "mpreg.db").exists()
        node.send(signal.SIGTERM)
        assert node.wait() == 0
