"""What a cache can be told to be, and what it refuses."""

from __future__ import annotations

import attrs
import pytest

from mpreg.cache import CacheConfiguration, EvictionPolicyName, WriteMode
from mpreg.errors import ConfigurationError


def test_every_setting_has_a_default_and_names_may_stand_for_members() -> None:
    plain = CacheConfiguration()
    assert (plain.name, plain.policy, plain.write_mode) == (
        "default",
        EvictionPolicyName.LRU,
        WriteMode.WRITE_THROUGH,
    )
    given = {"policy": "s4lru", "write_mode": "write_behind", "name": "ü" * 200}
    made = CacheConfiguration.from_mapping(given)
    assert made == CacheConfiguration(
        policy=EvictionPolicyName.S4LRU, write_mode=WriteMode.WRITE_BEHIND, name="ü" * 200
    )


POLICIES = "'lru', 'lfu', 's4lru', 'ttl_first', 'cost'"
MODES = "'write_through', 'relaxed', 'write_behind'"
NAME = "name: a str of 1 to 200 characters is expected, not "


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("name", "", f"{NAME}''"),
        ("name", b"a", f"{NAME}b'a'"),
        ("name", "x" * 201, f"{NAME}'xxx"),
        ("policy", "mru", f"policy: one of {POLICIES} is expected, not 'mru'"),
        ("policy", ["lru"], f"policy: one of {POLICIES} is expected, not ['lru']"),
        ("write_mode", "behind", f"write_mode: one of {MODES} is expected, not 'behind'"),
        ("write_mode", None, f"write_mode: one of {MODES} is expected, not None"),
        ("default_ttl_seconds", 0, "a number of seconds, above 0, or none, is expected, not 0"),
        ("default_ttl_seconds", float("nan"), "above 0, or none, is expected, not nan"),
        ("default_ttl_seconds", float("inf"), "above 0, or none, is expected, not inf"),
        ("heat_interval_seconds", 0.0, "a number of seconds, above 0, is expected, not 0.0"),
        ("heat_interval_seconds", None, "a number of seconds, above 0, is expected, not None"),
        ("warm_up_entries_max", -1, "a whole number, at least 0, or none, is expected, not -1"),
        ("warm_up_bytes_max", 1.5, "a whole number, at least 0, or none, is expected, not 1.5"),
        *[
            (name, wrong, f"a whole number, at least 1, is expected, not {wrong!r}")
            for name in (
                "memory_entries_max",
                "memory_bytes_max",
                "disk_entries_max",
                "disk_bytes_max",
                "watch_changes_max",
            )
            for wrong in (0, True, "5", None)
        ],
    ],
)
def test_a_wrong_setting_is_refused_by_name_with_what_is_expected(
    setting: str, value: object, message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        CacheConfiguration.from_mapping({setting: value})
    assert caught.value.setting == setting
    assert str(caught.value).startswith(f"{setting}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("what", ["entries", "bytes"])
def test_what_is_warmed_must_fit_into_memory(what: str) -> None:
    settings: dict[str, object] = {f"memory_{what}_max": 10, f"warm_up_{what}_max": 10}
    CacheConfiguration.from_mapping(settings)
    with pytest.raises(ConfigurationError, match=f"warm_up_{what}_max .11. is above") as caught:
        CacheConfiguration.from_mapping(settings | {f"warm_up_{what}_max": 11})
    assert caught.value.setting == f"warm_up_{what}_max"


def test_an_unknown_setting_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigurationError, match="'memory_bytes'; did you mean 'memory_bytes_max"):
        CacheConfiguration.from_mapping({"memory_bytes": 5})


def test_every_setting_is_said_to_be_what_it_is() -> None:
    """The tests above know all of them."""
    assert len(attrs.fields(CacheConfiguration)) == 12
