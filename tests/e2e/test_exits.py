"""The process always ends: no thread and no open file keeps it, whatever the program forgot."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from mpreg.persistence import Entry, PersistenceConfig, PersistenceRegistry
from tests.e2e.support import (
    Program,
    on_both_backends,
    on_both_loops,
    on_loops_and_backends,
)


async def _get_kept(data_dir: Path, backend: str) -> Entry | None:
    config = PersistenceConfig(data_dir=data_dir, backend=backend)
    async with PersistenceRegistry(config) as registry:
        return await registry.key_value_store("things").get("kept")


def ended(scenario: str, loop: str, data_dir: Path, backend: str) -> tuple[int, list[str], str]:
    """Exit code, lines and standard error of a program, which the guard had not to end."""
    with Program("exits", scenario, loop, data_dir, backend) as program:
        lines = list(program.lines())
        return program.wait(), lines, program.errors


@on_loops_and_backends
@pytest.mark.parametrize(
    ("scenario", "code"),
    [
        ("crash_in_block", 1),
        ("crash_beside_served_registry", 1),
        ("never_closed_and_crashed", 1),
        ("exit_in_block", 3),
        ("cancelled_while_opening", 0),
    ],
)
def test_a_program_that_ends_in_the_wrong_way_ends_and_keeps_what_was_acked(
    scenario: str, code: int, loop: str, backend: str, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    found, lines, errors = ended(scenario, loop, data_dir, backend)
    assert found == code, errors
    assert lines == ["acked"], errors
    entry = anyio.run(_get_kept, data_dir, backend, backend=loop)
    assert entry is not None
    assert entry.value == b"1"


@on_both_backends
@on_both_loops
def test_a_registry_that_is_never_closed_does_not_keep_the_process(
    loop: str, backend: str, tmp_path: Path
) -> None:
    """trio finds the nursery that was left open and says so; asyncio lets it pass."""
    code, lines, errors = ended("never_closed", loop, tmp_path, backend)
    assert code == {"asyncio": 0, "trio": 1}[loop], errors
    assert lines == ["acked"]
    assert anyio.run(_get_kept, tmp_path, backend, backend=loop) is not None


@on_both_backends
@on_both_loops
def test_a_failed_open_is_told_and_ends(loop: str, backend: str, tmp_path: Path) -> None:
    code, lines, errors = ended("failed_open", loop, tmp_path / "data", backend)
    assert (code, lines) == (1, [])
    assert "ForeignDatabaseError" in errors


@on_both_backends
@on_both_loops
def test_an_open_that_was_cancelled_before_it_began_ends(
    loop: str, backend: str, tmp_path: Path
) -> None:
    code, lines, errors = ended("cancelled_before_open", loop, tmp_path / "data", backend)
    assert (code, lines, errors) == (0, [], "")
