"""Where the settings of `mpreg serve` come from, and which of them win."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from mpreg.cli.runs.serve import settings_of
from mpreg.errors import ConfigurationError
from mpreg.settings import MPREGSettings

FILE = """
[mpreg.persistence]
data_dir = "of-the-file"
[mpreg.server]
port = 1
loop = "trio"
"""
VARIABLES = {"MPREG__SERVER__PORT": "2", "MPREG__PERSISTENCE__DATA_DIR": "of-the-environment"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mpreg.toml"
    path.write_text(FILE)
    return path


def settings(
    file: Path | None,
    data_dir: Path | None = None,
    environment: dict[str, str] | None = None,
    **options: Any,
) -> MPREGSettings:
    return settings_of(file, data_dir, options, environment or {})


def test_an_option_wins_over_the_environment_and_that_over_the_file(file: Path) -> None:
    found = settings(file)
    assert (found.server.port, found.server.loop) == (1, "trio")
    assert found.persistence.data_dir == file.parent / "of-the-file"
    found = settings(file, None, VARIABLES, port=None)
    assert (found.server.port, found.server.loop) == (2, "trio")
    assert found.persistence.data_dir == Path("of-the-environment")
    found = settings(file, Path("typed"), VARIABLES, port=3, loop="asyncio")
    assert (found.server.port, found.server.loop) == (3, "asyncio")
    assert found.persistence.data_dir == Path("typed")


def test_a_directory_is_all_that_is_needed(tmp_path: Path) -> None:
    assert settings(None, tmp_path).persistence.data_dir == tmp_path
    found = settings(None, None, {"MPREG__PERSISTENCE__BACKEND": "memory"})
    assert found.persistence.backend == "memory"
    with pytest.raises(click.UsageError, match="--data-dir"):
        settings(None)


def test_what_makes_no_sense_is_told(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no token is set"):
        settings(None, tmp_path, host="0.0.0.0")
    with pytest.raises(ConfigurationError, match="MPREG__SERVER__PORT"):
        settings(file, None, {"MPREG__SERVER__PORT": "x"})
