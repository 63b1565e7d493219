"""What can be announced, how much of it, and that what comes from elsewhere is looked at."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.errors import InvalidArgumentError
from mpreg.fabric import (
    HOPS_MAX,
    NAMES_BYTES_MAX,
    NAMES_MAX,
    TTL_SECONDS_MAX,
    Belief,
    Contents,
)
from mpreg.fabric.announcement import contents_of
from mpreg.fabric.telling import from_disk, heard, read_told, tell, to_disk
from tests.unit.fabric.stories import PEERS, announcement, belief, beliefs

TOLD: dict[str, Any] = msgspec.to_builtins(
    tell(announcement(queues=("jobs",)), remaining_seconds=10.0, hops=0)
)


@given(beliefs)
def test_what_is_told_is_what_is_heard(known: Belief) -> None:
    said = tell(known.announcement, remaining_seconds=3.0, hops=2)
    again = heard(read_told(msgspec.to_builtins(said)), via=PEERS[0], now=100.0)
    assert again == Belief.heard(known.announcement, expires_at=103.0, via=PEERS[0], hops=3)


def test_what_a_newer_node_says_beside_is_passed_over() -> None:
    assert read_told({**TOLD, "colour": "blue"}) == read_told(TOLD)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("node", ""),
        ("node", "n" * 101),
        ("node", "a/b"),
        ("node", 3),
        ("name", "../a"),
        ("url", "ftp://a"),
        ("url", "http://a b"),
        ("url", "http://" + "a" * 2_000),
        ("url", "http://a\x1b[31m"),
        ("incarnation", -1),
        ("incarnation", 2**63),
        ("number", "1"),
        ("ttl_seconds", 0.0),
        ("ttl_seconds", TTL_SECONDS_MAX * 2),
        ("ttl_seconds", None),
        ("remaining_seconds", 0.0),
        ("remaining_seconds", -1.0),
        ("remaining_seconds", 10.1),
        ("hops", -1),
        ("hops", HOPS_MAX),
        ("queues", ["b", "a"]),
        ("queues", ["a", "a"]),
        ("queues", [""]),
        ("queues", ["a" * 201]),
        ("queues", ["a\nb"]),
        ("caches", "jobs"),
        ("functions", [f"{number:05}" for number in range(NAMES_MAX + 1)]),
        ("queues", [f"{number:0200}" for number in range(NAMES_BYTES_MAX // 200 + 1)]),
        ("left_out", -1),
    ],
)
def test_what_cannot_be_is_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        heard(read_told({**TOLD, name: value}), via=PEERS[0], now=0.0)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("value", [None, 3, "told", [], {}, float("nan")])
def test_what_is_no_announcement_at_all_is_refused(value: object) -> None:
    with pytest.raises(InvalidArgumentError):
        read_told(value)


@pytest.mark.parametrize("name", ["ttl_seconds", "remaining_seconds"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_times_that_are_no_numbers_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidArgumentError):
        heard(read_told({**TOLD, name: value}), via=PEERS[0], now=0.0)


def test_names_are_announced_once_and_in_order() -> None:
    found = contents_of(["b", "a", "b"], ["c"], {"f"})
    assert found == Contents(queues=("a", "b"), caches=("c",), functions=("f",))


def test_what_finds_no_room_is_counted() -> None:
    queues = [f"q{number:05}" for number in range(NAMES_MAX)]
    found = contents_of(queues, ["cache"])
    assert (len(found.queues), found.caches, found.left_out) == (NAMES_MAX - 1, ("cache",), 1)
    long = [f"{number:0200}" for number in range(NAMES_MAX)]
    found = contents_of(long)
    assert found.left_out == NAMES_MAX - NAMES_BYTES_MAX // 200
    # What nobody can ask for over HTTP is left out as well.
    assert contents_of(["a" * 201, "a\0", "a"]) == Contents(queues=("a",), left_out=2)


@given(beliefs, st.floats(0.0, 100.0))
def test_what_is_kept_on_disk_has_aged_when_it_is_read(known: Belief, passed: float) -> None:
    data = to_disk(known, now=0.5, wall=1_000.0)
    again = from_disk(data, now=7.0, wall=1_000.0 + passed, peers=dict.fromkeys(PEERS))
    assert again is not None
    assert again.announcement == known.announcement
    assert again.expires_at - 7.0 == pytest.approx(known.expires_at - 0.5 - passed)
    assert again.last_route.hops == known.last_route.hops


def test_a_clock_that_went_backwards_makes_nothing_last_longer() -> None:
    data = to_disk(belief(announcement(), 10.0), now=4.0, wall=1_000.0)
    again = from_disk(data, now=0.0, wall=10.0, peers=dict.fromkeys(PEERS))
    assert again is not None
    assert again.expires_at == 6.0


def test_what_was_told_by_one_who_is_no_peer_any_more_is_forgotten() -> None:
    data = to_disk(belief(announcement(), via="http://gone"), now=0.0, wall=0.0)
    assert from_disk(data, now=0.0, wall=0.0, peers=dict.fromkeys(PEERS)) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([2, TOLD, 0.0, {}]),
        msgspec.msgpack.encode([1, {"node": "x"}, 0.0, {PEERS[0]: (1, 1.0)}]),
    ],
)
def test_what_is_not_what_was_kept_is_told(data: bytes) -> None:
    with pytest.raises((ValueError, InvalidArgumentError)):
        from_disk(data, now=0.0, wall=0.0, peers=dict.fromkeys(PEERS))
