"""A changed bit in the tables of names, or in their indexes: nothing is taken for empty or new."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpreg.persistence import CorruptDataError, open_read_only
from mpreg.persistence.backends.sqlite.files import look_at
from tests.integration.made_once import made_once
from tests.integration.support import database, registry

pytestmark = pytest.mark.anyio

NAMES = {"namespaces": b"sessions", "logs": b"audit"}


@made_once
async def filled(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        for name in ("first", "sessions", "third"):
            await opened.key_value_store(name).put("ann", b"1")
        for name in ("first", "audit", "third"):
            await opened.log_store(name).append_many([b"a", b"b"])


def places(content: bytes, name: bytes) -> list[int]:
    """Where a name stands: in its table, and in the index of it."""
    found = [at for at in range(len(content)) if content.startswith(name, at)]
    assert len(found) == 2
    return found


@pytest.mark.parametrize("table", NAMES)
async def test_any_changed_bit_of_a_name_keeps_a_store_from_being_opened(
    data_dir: Path, table: str
) -> None:
    await filled(data_dir)
    path = database(data_dir)
    content = path.read_bytes()
    name = NAMES[table]
    for at in places(content, name):
        for bit in range(8 * len(name)):
            changed = bytearray(content)
            changed[at + bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            with pytest.raises(CorruptDataError) as caught:
                look_at(path)
            assert caught.value.where == f"table {table}"
    path.write_bytes(content)
    assert look_at(path) is not None


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("table", NAMES)
async def test_a_hidden_name_is_told_to_who_writes_and_to_who_only_reads(
    data_dir: Path, table: str, place: int
) -> None:
    await filled(data_dir)
    path = database(data_dir)
    changed = bytearray(path.read_bytes())
    changed[places(bytes(changed), NAMES[table])[place]] ^= 1
    path.write_bytes(changed)
    with pytest.raises(CorruptDataError, match="left untouched") as caught:
        async with registry(data_dir):
            pass
    assert caught.value.path == path
    with pytest.raises(CorruptDataError, match="seem to be empty"):
        async with open_read_only(data_dir):
            pass
    assert path.read_bytes() == changed


async def test_a_name_that_leads_to_another_row_is_told(data_dir: Path) -> None:
    await filled(data_dir)
    content = bytearray(database(data_dir).read_bytes())
    # In an index the number of the row follows the name.
    content[max(places(bytes(content), b"audit")) + len(b"audit")] ^= 1
    database(data_dir).write_bytes(content)
    with pytest.raises(CorruptDataError, match="table logs"):
        async with registry(data_dir):
            pass
