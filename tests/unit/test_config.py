"""Every setting, and what is said about a wrong one."""

from __future__ import annotations

import math
from pathlib import Path

import attrs
import pytest

from mpreg.errors import ConfigurationError
from mpreg.persistence import LogRetention, PersistenceConfig

NAMES = [attribute.name for attribute in attrs.fields(PersistenceConfig)]
NUMBERS = [name for name in NAMES if name.endswith(("_max", "_bytes", "_pages"))]
SECONDS = [name for name in NAMES if name.endswith("_seconds")]


def test_only_the_directory_has_no_default() -> None:
    config = PersistenceConfig(data_dir=Path("data"))
    assert config.backend == "sqlite"
    assert config.value_bytes_max == 16 << 20


@pytest.mark.parametrize("path", ["data", Path("data")])
def test_a_directory_can_be_given_as_text_or_path(path: str | Path) -> None:
    config = PersistenceConfig(data_dir=path)
    assert config.data_dir == Path("data")


def test_a_missing_directory_is_told() -> None:
    with pytest.raises(ConfigurationError, match="data_dir: the sqlite backend needs a directory"):
        PersistenceConfig()


def test_the_memory_backend_needs_no_directory() -> None:
    assert PersistenceConfig(backend="memory").data_dir is None


@pytest.mark.parametrize("path", [7, b"data", ["data"]])
def test_a_directory_of_another_type_is_refused(path: object) -> None:
    with pytest.raises(ConfigurationError, match="data_dir: a path is expected"):
        PersistenceConfig.from_mapping({"data_dir": path})


@pytest.mark.parametrize("backend", ["oracle", None, 3, ["sqlite"], "SQLITE"])
def test_an_unknown_backend_is_refused_with_the_known_ones(backend: object) -> None:
    with pytest.raises(ConfigurationError, match="'sqlite' or 'file' or 'memory'"):
        PersistenceConfig.from_mapping({"data_dir": "data", "backend": backend})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1, 1.5, "3", None, True, math.nan])
def test_a_count_that_is_none_is_refused_by_name_and_value(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PersistenceConfig.from_mapping({"data_dir": "data", name: value})
    assert str(caught.value).startswith(f"{name}: a whole number, ")
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("name", sorted({*NUMBERS} - {"restarts_max", "free_bytes_max"}))
def test_a_bound_of_zero_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        PersistenceConfig.from_mapping({"data_dir": "data", name: 0})


def test_no_restarts_at_all_is_a_setting() -> None:
    config = PersistenceConfig.from_mapping({"data_dir": "data", "restarts_max": 0})
    assert config.restart_policy.restarts_max == 0


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize(
    "value", [-0.1, math.nan, math.inf, -math.inf, "3", True, [1], pytest.param(10**400, id="huge")]
)
def test_a_time_that_is_none_is_refused_by_name_and_value(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PersistenceConfig.from_mapping({"data_dir": "data", name: value})
    assert str(caught.value).startswith(f"{name}: a number of seconds, ")


MAY_BE_NONE = {"switch_interval_seconds", "upkeep_interval_seconds"}


@pytest.mark.parametrize("name", sorted({*SECONDS} - MAY_BE_NONE))
def test_no_other_time_may_be_left_out(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        PersistenceConfig.from_mapping({"data_dir": "data", name: None})


@pytest.mark.parametrize("name", sorted(MAY_BE_NONE))
def test_some_times_may_be_none(name: str) -> None:
    config = PersistenceConfig.from_mapping({"data_dir": "data", name: None})
    assert getattr(config, name) is None


@pytest.mark.parametrize("value", ["", "yes", "51-100", "7/51", "7/51-100 ", True, 100, (51, 100)])
def test_an_acceptance_that_names_no_loss_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match="what AckedDataLostError says"):
        PersistenceConfig.from_mapping({"data_dir": "data", "accept_acked_data_loss": value})


def test_the_retention_of_logs_can_come_from_a_settings_file() -> None:
    settings = [{"log": "audit", "records_max": 5}, {"log": "trace", "seconds_max": 3.5}]
    config = PersistenceConfig.from_mapping({"data_dir": "data", "log_retention": settings})
    assert config.log_retention == (
        LogRetention(log="audit", records_max=5),
        LogRetention(log="trace", seconds_max=3.5),
    )


@pytest.mark.parametrize(
    "retention",
    [
        7,
        "audit",
        {"log": "audit", "records_max": 5},
        ["audit"],
        [{"log": "audit"}],
        [{"log": "", "records_max": 5}],
        [{"log": 7, "records_max": 5}],
        [{"log": "audit", "records_max": -1}],
        [{"log": "audit", "seconds_max": 0}],
        [{"log": "audit", "records": 5}],
        [{"records_max": 5}],
        [{"log": "audit", "records_max": 5}, {"log": "audit", "bytes_max": 5}],
    ],
)
def test_a_retention_that_is_none_is_refused(retention: object) -> None:
    with pytest.raises(ConfigurationError):
        PersistenceConfig.from_mapping({"data_dir": "data", "log_retention": retention})


@pytest.mark.parametrize(
    ("name", "zero"),
    [
        ("grace_seconds", True),
        ("busy_timeout_seconds", True),
        ("backoff_initial_seconds", True),
        ("restart_window_seconds", False),
        ("switch_interval_seconds", False),
    ],
)
def test_zero_seconds_is_taken_where_it_means_something(name: str, zero: bool) -> None:
    settings: dict[str, object] = {"data_dir": "data", name: 0}
    if zero:
        PersistenceConfig.from_mapping(settings)
    else:
        with pytest.raises(ConfigurationError, match="above 0"):
            PersistenceConfig.from_mapping(settings)


def test_a_value_that_no_batch_could_hold_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"value_bytes_max .* above batch_bytes_max"):
        PersistenceConfig(data_dir=Path("data"), value_bytes_max=11, batch_bytes_max=10)


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("dta_dir", "data_dir"),
        ("grace_second", "grace_seconds"),
        ("mailbox_batch_max", "mailbox_batches_max"),
        ("value_bytes", "value_bytes_max"),
        ("wal_checkpoint_page", "wal_checkpoint_pages"),
        ("back_end", "backend"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest_spelling(misspelt: str, meant: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PersistenceConfig.from_mapping({"data_dir": "data", misspelt: 1})
    assert str(caught.value) == f"unknown setting {misspelt!r}; did you mean {meant!r}?"


def test_a_name_like_none_is_refused_with_all_that_are_known() -> None:
    with pytest.raises(ConfigurationError) as caught:
        PersistenceConfig.from_mapping({"data_dir": "data", "zzz": 1})
    assert all(name in str(caught.value) for name in NAMES)


def test_a_mapping_gives_the_same_as_keywords() -> None:
    settings = {"data_dir": "data", "grace_seconds": 2, "mailbox_batches_max": 5}
    assert PersistenceConfig.from_mapping(settings) == PersistenceConfig(
        data_dir=Path("data"), grace_seconds=2, mailbox_batches_max=5
    )


def test_the_restart_policy_takes_all_four_settings() -> None:
    policy = PersistenceConfig(
        data_dir=Path("data"),
        restarts_max=3,
        restart_window_seconds=4.0,
        backoff_initial_seconds=0.5,
        backoff_max_seconds=6.0,
    ).restart_policy
    assert attrs.astuple(policy) == (3, 4.0, 0.5, 6.0)


def test_a_configuration_error_is_also_a_value_error() -> None:
    assert issubclass(ConfigurationError, ValueError)
