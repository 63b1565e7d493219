"""Barriers: what is dead follows from versions alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.cache.invalidation import (
    MISSED_NAMESPACES_MAX,
    NAMESPACES_KEPT_MIN,
    Barriers,
    DependedOn,
    Prefix,
    Space,
    Target,
    dependency_row,
    target_row,
)
from mpreg.cache.keys import GlobalCacheKey, decode_namespace, encode_key, namespace_of
from mpreg.cache.records import Link
from tests.unit.cache.calls import calls_during

KEYS = [
    GlobalCacheKey(namespace, part) for namespace in ("a", "a\x00") for part in ("", "x", "xy", 1)
]
LINKS: list[Link] = ["x", "y", *map(encode_key, KEYS[::3])]

targets: st.SearchStrategy[Target] = st.sampled_from(LINKS) | st.builds(
    Prefix.of,
    st.sampled_from(["a", "a\x00"]),
    st.sampled_from([None, "", "x", b"x", 1, ("x",), ("x", "y"), ()]),
)
entries = st.tuples(st.sampled_from(KEYS), st.sets(st.sampled_from(LINKS)).map(tuple))


def concerns(target: Target, encoded: bytes, links: tuple[Link, ...]) -> bool:
    if isinstance(target, Prefix):
        return any(one.startswith(target.encoded) for one in (encoded, *keys_in(links)))
    return target in links


def keys_in(links: tuple[Link, ...]) -> list[bytes]:
    return [link for link in links if isinstance(link, bytes)]


def is_dead(barriers: Barriers, encoded: bytes, links: tuple[Link, ...], version: int) -> bool:
    space = barriers.space(decode_namespace(namespace_of(encoded)))
    dead = space.kills(encoded, version) or barriers.link_kills(links, version)
    assert barriers.kills(encoded, links, version) == dead
    return dead


@given(st.lists(targets, max_size=6), entries, st.integers(1, 13))
def test_dead_is_what_a_later_invalidation_concerns_however_they_are_told(
    raised: list[Target], entry: tuple[GlobalCacheKey, tuple[Link, ...]], version: int
) -> None:
    told, restored = Barriers(), Barriers()
    encoded, links = encode_key(entry[0]), entry[1]
    # As the store keeps it: of each row the last version.
    rows: dict[bytes, int] = {}
    for number, target in enumerate(raised, 1):
        told.raise_to(target, 2 * number)
        rows[target_row(target)] = 2 * number
    for row, found in rows.items():
        restored.restore(row, found)
    expected = any(
        version < 2 * number and concerns(target, encoded, links)
        for number, target in enumerate(raised, 1)
    )
    assert is_dead(told, encoded, links, version) == expected
    assert is_dead(restored, encoded, links, version) == expected
    standing = [{target_row(one): at for one, at in which.standing()} for which in (told, restored)]
    assert standing == [rows, rows]


@given(st.lists(targets, min_size=1, max_size=6), st.data())
def test_lowering_takes_a_barrier_down_unless_it_was_raised_again(
    raised: list[Target], data: st.DataObject
) -> None:
    barriers = Barriers()
    for version, target in enumerate(raised, 1):
        barriers.raise_to(target, version)
    version = data.draw(st.integers(1, len(raised)))
    target = raised[version - 1]
    last = {target_row(one): at for at, one in enumerate(raised, 1)}
    barriers.lower(target, version)
    if last[target_row(target)] == version:
        del last[target_row(target)]
    assert {target_row(one): at for one, at in barriers.standing()} == last


@given(st.lists(targets, max_size=8, unique_by=target_row))
def test_no_two_targets_have_the_same_row(several: list[Target]) -> None:
    rows = [target_row(one) for one in several] + [dependency_row(encode_key(KEYS[0]))]
    assert len(set(rows)) == len(rows)


def test_that_something_depends_on_a_key_is_restored_and_is_no_barrier() -> None:
    barriers = Barriers()
    key = encode_key(GlobalCacheKey("a", "x"))
    barriers.restore(dependency_row(key), 5)
    assert barriers.depended_on.keys == {key: None}
    assert barriers.standing() == []


@given(st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from(KEYS)))))
def test_of_which_namespaces_keys_are_depended_on_is_known_at_any_time(
    steps: list[tuple[bool, list[GlobalCacheKey]]],
) -> None:
    told, expected = DependedOn(), set[GlobalCacheKey]()
    for is_added, keys in steps:
        (told.update if is_added else told.difference_update)(map(encode_key, keys))
        (expected.update if is_added else expected.difference_update)(keys)
        assert set(told.keys) == set(map(encode_key, expected))
        assert len(told) == len(expected)
        for namespace in ("a", "a\x00", "never"):
            known = any(key.namespace == namespace for key in expected)
            assert told.has_any_of(namespace) == known


def test_what_is_raised_is_counted_so_that_what_was_alive_need_not_be_looked_at() -> None:
    barriers = Barriers()
    barriers.raise_to("tag", 1)
    barriers.raise_to(Prefix.of("a", None), 2)
    assert barriers.raised == 2


@pytest.mark.parametrize("row", [b"", b"x", b"p", b"pno end", b"t\xff", b"p\x02\xff\x00"])
def test_a_row_that_is_none_is_refused(row: bytes) -> None:
    with pytest.raises(ValueError):
        Barriers().restore(row, 1)


def test_an_older_barrier_does_not_lower_a_newer_one() -> None:
    barriers = Barriers()
    target = Prefix.of("a", "x")
    for version in (5, 3):
        barriers.raise_to(target, version)
        barriers.raise_to("t", version)
    assert barriers.space("a").prefixes == {target.encoded: 5}
    assert barriers.links == {"t": 5}


@pytest.mark.parametrize("user", ["nobody", "0"])
def test_an_entry_is_held_against_many_prefixes_in_as_many_steps_as_they_have_lengths(
    user: str,
) -> None:
    barriers, entry = Barriers(), encode_key(GlobalCacheKey("users", user, 1))
    space, dead = barriers.space("users"), user == "0"

    def work() -> None:
        assert space.kills(entry, 1) == dead
        assert not space.kills(entry, 1_000)

    calls = []
    for count in (10, 1_000):
        for number in range(count):
            barriers.raise_to(Prefix.of("users", (str(number),)), 2 + number % 2)
        calls.append(calls_during(work))
    assert calls[1] <= calls[0] + 8
    for target, version in barriers.standing():
        barriers.lower(target, version)
    assert not space.kills(entry, 1)
    assert not space.prefixes
    assert not space._lengths


def test_namespaces_that_are_only_asked_for_are_not_remembered_without_end() -> None:
    barriers = Barriers()
    for number in range(MISSED_NAMESPACES_MAX + 10):
        barriers.missed(f"n{number}")
    barriers.missed("n0")
    assert len(barriers.spaces) == MISSED_NAMESPACES_MAX
    assert (barriers.spaces["n0"].misses, barriers.misses_elsewhere) == (2, 10)


def test_namespaces_beyond_the_first_ones_are_forgotten_when_they_are_not_in_use() -> None:
    in_memory: list[Space] = []
    barriers = Barriers(held=lambda: in_memory)
    spaces = [barriers.space(f"n{number}") for number in range(2 * NAMESPACES_KEPT_MIN)]
    for number, one in enumerate(spaces):
        one.memory_hits, one.disk_hits, one.misses = number, 2, 3
    barriers.raise_to(Prefix.of("n1500", None), 5)
    barriers.raise_to(Prefix.of("n1600", ("a",)), 5)
    in_memory += [spaces[1_700]] * 3
    forgotten = [
        one
        for number, one in enumerate(spaces)
        if number >= NAMESPACES_KEPT_MIN and number not in (1_500, 1_600, 1_700)
    ]
    barriers.space("new")
    kept = [one for one in spaces if not one.is_forgotten]
    assert list(barriers.spaces.values()) == [*kept, barriers.space("new")]
    assert [one for one in spaces if one.is_forgotten] == forgotten
    assert barriers.memory_hits_elsewhere == sum(one.memory_hits for one in forgotten)
    assert barriers.disk_hits_elsewhere == 2 * len(forgotten)
    assert barriers.misses_elsewhere == 3 * len(forgotten)
    # Used again, it begins anew, and is another one.
    assert barriers.space("n1800") is not spaces[1_800]
    # Of the barriers nothing was lost.
    assert [version for _, version in barriers.standing()] == [5, 5]


def test_looking_for_namespaces_to_forget_costs_little_for_each_new_one() -> None:
    """Also where there are many entries in memory, or many namespaces that are in use."""
    looked_at = 0
    in_memory: list[Space] = []

    def held() -> list[Space]:
        nonlocal looked_at
        looked_at += len(in_memory)
        return in_memory

    for is_in_use in (False, True):
        barriers, looked_at = Barriers(held=held), 0
        in_memory[:] = [barriers.space("n")] * 100_000
        for number in range(20_000):
            space = barriers.space(f"n{number}")
            if is_in_use:
                in_memory[number] = space
        assert looked_at <= 20_000 * 25
        assert len(barriers.spaces) <= (20_000 if is_in_use else 100_000 // 16) + 1
