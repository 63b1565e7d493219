"""The pure parts of maintenance: lines of an export, offsets, chunks, names."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.codec import encode_key, encode_name, encode_reserved_name
from mpreg.errors import InvalidArgumentError
from mpreg.persistence.backends.sqlite import schema
from mpreg.persistence.maintenance.checks import OffsetCheck, check_meta
from mpreg.persistence.maintenance.findings import Finding, FindingKind
from mpreg.persistence.maintenance.lines import (
    data_of,
    dump_line,
    encode_data,
    encode_store_name,
    encode_stored_key,
    key_of,
    load_line,
    number_of,
    store_name_of,
)
from mpreg.persistence.maintenance.rows import DamagedRowsError
from mpreg.persistence.maintenance.snapshots import (
    KeptVersion,
    SnapshotCheck,
    SnapshotEntriesFound,
)
from mpreg.persistence.maintenance.source import SqliteSource
from mpreg.persistence.snapshots import is_snapshot_namespace
from mpreg.persistence.snapshots.layout import Manifest, VersionList, chunk_key

ANY_TEXT = st.text(st.characters(), min_size=1, max_size=20)


@given(st.binary(max_size=60))
def test_any_bytes_come_back_from_a_line(data: bytes) -> None:
    line = dump_line({"type": "record", "data": encode_data(data)})
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert data_of(load_line(line), "data") == data


@given(st.one_of(ANY_TEXT, st.binary(max_size=20)))
def test_any_key_comes_back_from_a_line(key: str | bytes) -> None:
    line = dump_line({"type": "entry", "key": encode_stored_key(encode_key(key))})
    assert key_of(load_line(line)) == encode_key(key)


@given(ANY_TEXT, st.sampled_from([None, "queues", "queues.snapshot", "snapshot"]))
def test_any_name_comes_back_from_a_line(name: str, kind: str | None) -> None:
    encoded = encode_name(name) if kind is None else encode_reserved_name(kind, name)
    line = dump_line({"type": "log", "store": encode_store_name(encoded)})
    assert store_name_of(load_line(line)) == encoded
    assert is_snapshot_namespace(encoded) == (kind is not None and kind.endswith("snapshot"))


@given(st.one_of(st.binary(max_size=30), st.recursive(st.integers() | st.text(), st.lists)))
def test_what_is_no_line_is_refused_by_an_error_of_ours(data: object) -> None:
    line = data if isinstance(data, bytes) else msgspec.json.encode(str(data))
    with pytest.raises(InvalidArgumentError):
        load_line(line)


@pytest.mark.parametrize("number", [None, -1, 1.5, True, "1", 2**63])
def test_what_is_no_number_is_refused(number: object) -> None:
    with pytest.raises(InvalidArgumentError):
        number_of({"offset": number}, "offset")


# --- offsets ---


@given(st.integers(0, 5), st.sets(st.integers(0, 15)), st.sets(st.integers(0, 15)))
def test_each_missing_offset_is_told_once_as_missing_or_set_aside(
    first: int, stored: set[int], set_aside: set[int]
) -> None:
    check = OffsetCheck(b"log", first, frozenset(set_aside))
    found = [finding for offset in sorted(stored) for finding in check.follow(offset)]
    expected = set(range(first, max(stored, default=first))) - stored
    told = {
        offset
        for finding in found
        if finding.kind is not FindingKind.RECORD
        for offset in _offsets_in(finding)
    }
    assert told == expected
    aside = {
        offset
        for finding in found
        if finding.kind is FindingKind.SET_ASIDE
        for offset in _offsets_in(finding)
    }
    assert aside == expected & set_aside
    below = [finding for finding in found if finding.kind is FindingKind.RECORD]
    assert len(below) == len([offset for offset in stored if offset < first])


class Counted(frozenset[int]):
    """How often it is gone through."""

    times = 0

    def __iter__(self) -> Iterator[int]:
        self.times += 1
        return super().__iter__()


def test_what_is_set_aside_is_gone_through_once_and_not_for_each_record() -> None:
    set_aside = Counted(range(1, 2_000, 2))
    check = OffsetCheck(b"log", 0, set_aside)
    found = [finding for offset in range(0, 2_000, 2) for finding in check.follow(offset)]
    assert len(found) == 999
    assert set_aside.times == 1


def _offsets_in(finding: Finding) -> range:
    words = [int(word) for word in finding.where.split() if word.isdigit()]
    return range(words[0], words[-1] + 1)


def test_two_records_that_lost_their_offsets_are_damage(tmp_path: Path) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        # As changed bits leave them: the tables that mpreg makes let nobody write such rows.
        connection.execute("CREATE TABLE records (log_id, offset, checksum, data)")
        connection.execute("INSERT INTO records VALUES (1, NULL, 2, x'00'), (1, NULL, 3, x'01')")
        connection.execute(schema.CREATE_LARGE_RECORDS)
        source = SqliteSource(connection, tmp_path / "mpreg.db")
        with pytest.raises(DamagedRowsError, match="not in the order"):
            list(source.records(1))


# --- snapshots ---


def checked(
    manifests: dict[int, Manifest],
    chunks: dict[tuple[int, int], bytes],
    listed: VersionList | None = None,
) -> list[tuple[FindingKind, str]]:
    """Of version numbers and what they are made of."""
    versions = [KeptVersion(number, manifest) for number, manifest in manifests.items()]
    entries = SnapshotEntriesFound(listed=listed, versions=versions, accounted={99})
    check = SnapshotCheck(b"\xffsnapshot/s", entries)
    found = list(check.listed())
    for place, chunk in sorted(chunks.items()):
        found += check.follow(chunk_key(*place), chunk, intact=True)
    found += check.finish()
    return [(one.kind, one.where) for one in found]


DAMAGED = FindingKind.SNAPSHOT


def test_a_version_is_whole_only_with_each_of_its_chunks_as_it_was() -> None:
    chunks = {(7, 0): b"ab", (7, 1): b"c", (7, 2): b"d", (8, 0): b"e"}
    manifests = {
        1: Manifest(7, 3, 4, zlib.crc32(b"abcd"), 1.0),
        2: Manifest(8, 1, 1, zlib.crc32(b"e"), 2.0),
    }
    first, second = (f"snapshot '<snapshot/s>', version {number}" for number in manifests)
    listed = VersionList(2, tuple(one.listed(number) for number, one in manifests.items()))
    assert checked(manifests, chunks, listed) == []
    assert checked(manifests, chunks | {(99, 0): b"under way"}, listed) == []
    stray = [(FindingKind.LEFTOVER, "snapshot '<snapshot/s>', save 9")]
    assert checked(manifests, chunks | {(9, 0): b"nobody's"}, listed) == stray
    assert checked(manifests, chunks | {(7, 1): b"x"}, listed) == [(DAMAGED, first)]
    for missing in chunks:
        rest = {place: chunk for place, chunk in chunks.items() if place != missing}
        assert checked(manifests, rest, listed) == [(DAMAGED, first if missing[0] == 7 else second)]


def test_the_list_of_versions_is_that_of_the_manifests() -> None:
    chunks = {(7, 0): b"ab"}
    manifest = Manifest(7, 1, 2, zlib.crc32(b"ab"), 1.0)
    second = [(DAMAGED, "snapshot '<snapshot/s>', version 2")]
    assert checked({2: manifest}, chunks, VersionList(2, (manifest.listed(2),))) == []
    assert checked({2: manifest}, chunks, None) == [(DAMAGED, "snapshot '<snapshot/s>'")]
    assert checked({2: manifest}, chunks, VersionList(2)) == second
    other = VersionList(2, (msgspec.structs.replace(manifest, save=8).listed(2),))
    assert checked({2: manifest}, chunks, other) == second
    assert checked({}, {}, VersionList(2, (manifest.listed(2),))) == second


# --- the store's own numbers ---


@pytest.mark.parametrize(
    ("meta", "where"),
    [
        ((1, 5, 9), []),
        (None, ["meta"]),
        ((1, "x", 9), ["meta"]),
        ((1, 5, 8), ["meta, last_version"]),
        ((1, -5, 9), ["meta, commit_sequence"]),
        ((0, 5, 9), ["meta, generation"]),
        ((1, 0, 9), ["meta, commit_sequence"]),
    ],
)
def test_numbers_that_contradict_each_other_are_told(
    meta: tuple[object, object, object] | None, where: list[str]
) -> None:
    found = check_meta(meta, highest_version=9, items=1)
    assert [finding.where for finding in found] == where
