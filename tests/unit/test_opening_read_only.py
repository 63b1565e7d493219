"""Which way of opening a database leaves everything beside it as it is."""

from __future__ import annotations

import pytest

from mpreg.persistence.backends.sqlite.opening_read_only import Still, Way, choose_way

STAMP = (1, 2, 3)
HEADER = bytes.fromhex("377f0682") + bytes(28)


@pytest.mark.parametrize(
    ("wal", "has_index", "header", "held", "way"),
    [
        (STAMP, True, b"", True, Way.SHARED),
        (STAMP, True, HEADER, True, Way.SHARED),
        (None, False, b"", True, Way.IMMUTABLE),  # it is being opened at this moment
        (STAMP, False, b"", True, Way.IMMUTABLE),
        (None, False, b"", False, Way.IMMUTABLE),
        (None, True, b"", False, Way.IMMUTABLE),
        (STAMP, True, b"", False, Way.IMMUTABLE),
        (STAMP, True, bytes(32), False, Way.IMMUTABLE),
        (STAMP, True, HEADER[:31], False, Way.IMMUTABLE),
        (STAMP, True, HEADER, False, Way.OWN_INDEX),
        (STAMP, True, bytes.fromhex("377f0683") + bytes(28), False, Way.OWN_INDEX),
        (STAMP, False, HEADER, False, Way.COPY),
    ],
)
def test_the_way_follows_from_what_is_there(
    wal: tuple[int, int, int] | None, has_index: bool, header: bytes, held: bool, way: Way
) -> None:
    assert choose_way(Still(STAMP, wal, has_index), header, held=held) is way
