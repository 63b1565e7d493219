"""Something else than a file where one of mpreg's should be: it is named, and never waited for."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from mpreg.persistence import CorruptDataError, DataDirectoryError
from mpreg.persistence.maintenance import backup, export_lines, repair, restore, verify
from mpreg.persistence.read_only import ReadOnlyRegistry
from tests.integration.maintenance_support import filled
from tests.integration.support import registry

pytestmark = pytest.mark.anyio

#: Where something is waited for, it is for ever.
GUARD_SECONDS = 60.0


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_directory(path: Path) -> None:
    path.mkdir()


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound, pytest.MonkeyPatch.context() as patch:
        # The name of a socket may only be short.
        patch.chdir(path.parent)
        bound.bind(path.name)


async def opened(data_dir: Path, backend: str) -> None:
    async with registry(data_dir, backend=backend):
        pass


async def looked_at(data_dir: Path, backend: str) -> None:
    async with ReadOnlyRegistry(data_dir):
        pass


USES: dict[str, Callable[[Path, str], Awaitable[Any]]] = {
    "open": opened,
    "look": looked_at,
    "verify": lambda data_dir, _: verify(data_dir),
    "repair": lambda data_dir, _: repair(data_dir),
    "export": lambda data_dir, _: export_lines(data_dir, lambda line: None),
    "backup": lambda data_dir, _: backup(data_dir, data_dir.with_name("backup")),
}

FILES = {
    "sqlite": ["mpreg.db", "mpreg.db-wal", "mpreg.db-shm", "ACKED", "LOCK"],
    "file": ["mpreg.journal", "journal-00000000000000000001", "mpreg.journal.new", "ACKED", "LOCK"],
}


async def made(data_dir: Path, backend: str) -> None:
    async with registry(data_dir, backend=backend) as store:
        await store.key_value_store("s").put("k", b"v")


@pytest.mark.parametrize("make", [make_pipe, make_directory, make_socket])
@pytest.mark.parametrize(
    ("backend", "name"), [(backend, name) for backend, names in FILES.items() for name in names]
)
async def test_what_is_no_file_is_named(
    data_dir: Path, backend: str, name: str, make: Callable[[Path], None]
) -> None:
    await made(data_dir, backend)
    path = data_dir / name
    path.unlink(missing_ok=True)
    make(path)
    for use in USES.values():
        with anyio.fail_after(GUARD_SECONDS), pytest.raises(DataDirectoryError) as raised:
            await use(data_dir, backend)
        assert raised.value.path == path.resolve()
        assert "where a file is expected; nothing was changed" in str(raised.value)


@pytest.mark.parametrize("make", [make_pipe, make_socket, Path.touch])
async def test_values_that_are_no_directory_are_named(
    data_dir: Path, make: Callable[[Path], None]
) -> None:
    await made(data_dir, "sqlite")
    shutil.rmtree(data_dir / "values", ignore_errors=True)
    make(data_dir / "values")
    for use in USES.values():
        with pytest.raises(DataDirectoryError, match=r"values: .*where a directory is expected"):
            await use(data_dir, "sqlite")


@pytest.mark.parametrize("make", [make_pipe, make_socket, Path.touch])
async def test_values_that_are_no_directory_are_named_before_anything_is_made(
    data_dir: Path, make: Callable[[Path], None]
) -> None:
    data_dir.mkdir()
    make(data_dir / "values")
    with pytest.raises(DataDirectoryError, match=r"values: .*where a directory.*move it away"):
        await made(data_dir, "sqlite")
    assert [path.name for path in data_dir.iterdir()] == ["values"]
    # It is another's, where there are to be no values.
    await made(data_dir, "file")


@pytest.mark.parametrize("make", [make_pipe, make_directory, make_socket])
async def test_a_file_of_values_that_is_none_is_one_damaged_value(
    data_dir: Path, make: Callable[[Path], None]
) -> None:
    async with registry(data_dir) as store:
        shelf = store.key_value_store("s")
        await shelf.put("large", bytes(200_000))
        await shelf.put("other", b"v")
    (file,) = (data_dir / "values").iterdir()
    file.unlink()
    make(file)
    with anyio.fail_after(GUARD_SECONDS):
        async with registry(data_dir) as store:
            shelf = store.key_value_store("s")
            with pytest.raises(CorruptDataError):
                await shelf.get("large")
            found = await shelf.get("other")
            assert found is not None
            assert found.value == b"v"
        assert (await verify(data_dir)).damaged == 1
        await backup(data_dir, data_dir.with_name("backup"), allow_damaged=True)
        assert len((await repair(data_dir)).mended) == 1


@pytest.mark.parametrize("name", ["BACKUP", "mpreg.db"])
async def test_a_backup_with_something_else_than_a_file_is_not_restored(
    data_dir: Path, tmp_path: Path, name: str
) -> None:
    await filled(data_dir, entries=1)
    copy = tmp_path / "backup"
    await backup(data_dir, copy)
    (copy / name).unlink()
    make_pipe(copy / name)
    with anyio.fail_after(GUARD_SECONDS):
        with pytest.raises(DataDirectoryError, match=r"a named pipe, where a file is expected"):
            await restore(copy, tmp_path / "other", allow_damaged=True)
        with pytest.raises(DataDirectoryError, match=r"not a backup|not of a backup|is no backup"):
            await backup(data_dir, copy)
    assert not (tmp_path / "other").exists()
