"""Settings that are written as TOML are the same when they are read back."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.cache import CacheConfiguration, WriteMode
from mpreg.cache.eviction import EvictionPolicyName
from mpreg.persistence import LogRetention, PersistenceConfig
from mpreg.queues import QueueConfiguration, QueueType
from mpreg.settings import MonitoringSettings, MPREGSettings, PeerSettings, ServerSettings
from mpreg.settings_template import template
from mpreg.settings_writing import tables_in, toml

TOKEN: Final = "a-token-that-nobody-guesses"

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
paths = texts.map(lambda text: Path("/") / text.replace("/", "_"))
counts = st.integers(1, 10**12)
seconds = st.one_of(st.integers(1, 10**9), st.floats(1e-9, 1e300))
hosts = st.sampled_from(["a", "b.example", "10.0.0.1", "[::1]"])


def or_none(some: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), some)


retentions = st.lists(
    st.builds(LogRetention, log=texts, records_max=counts, seconds_max=or_none(seconds)),
    max_size=3,
    unique_by=lambda one: one.log,
)
settings = st.builds(
    MPREGSettings,
    name=st.sampled_from(["a", "A-1.b_c"]),
    advertised_url=or_none(hosts.map(lambda host: f"https://{host}/")),
    announcement_ttl_seconds=seconds,
    persistence=st.builds(
        PersistenceConfig,
        data_dir=paths,
        backend=st.sampled_from(["sqlite", "file"]),
        switch_interval_seconds=or_none(seconds),
        log_retention=retentions,
    ),
    cache=st.builds(
        CacheConfiguration,
        name=texts.map(lambda text: text[:200]),
        policy=st.sampled_from(EvictionPolicyName),
        write_mode=st.sampled_from(WriteMode),
        warm_up_bytes_max=or_none(st.integers(0, 9)),
    ),
    queues=st.dictionaries(
        texts.map(lambda text: text[:200]),
        st.builds(
            QueueConfiguration, queue_type=st.sampled_from(QueueType), max_size=or_none(counts)
        ),
        max_size=3,
    ),
    server=st.builds(
        ServerSettings,
        host=hosts,
        port=st.integers(0, 65_535),
        loop=st.sampled_from(["asyncio", "trio"]),
        read_token_file=paths,
        requests_per_second_max=or_none(seconds),
    ),
    monitoring=st.builds(MonitoringSettings, metrics=st.booleans()),
    peers=st.lists(
        st.builds(
            PeerSettings, url=hosts.map(lambda host: f"http://{host}"), token_file=or_none(paths)
        ),
        max_size=3,
        unique_by=lambda one: one.url,
    ),
)


def read(text: str) -> MPREGSettings:
    return MPREGSettings.from_mapping(tomllib.loads(text)["mpreg"])


@given(settings, texts)
def test_what_is_written_is_read_back_whatever_stands_beside_it(
    made: MPREGSettings, beside: str
) -> None:
    assert read(toml(made, Path("/"), lambda _: beside)) == made


def test_relative_paths_are_those_of_a_directory() -> None:
    made = MPREGSettings(persistence=PersistenceConfig(data_dir="data"))
    assert read(toml(made, Path("/srv"), str)).persistence.data_dir == Path("/srv/data")


def test_secrets_are_not_written() -> None:
    made = MPREGSettings(
        persistence=PersistenceConfig(data_dir="/data"),
        server=ServerSettings(read_token=TOKEN, admin_token=TOKEN),
    )
    text = toml(made, Path("/"), lambda one: str(one.value))
    assert TOKEN not in text
    without = attrs.evolve(made.server, read_token=None, admin_token=None)
    assert read(text) == attrs.evolve(made, server=without)


def test_the_template_reads_back_as_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mpreg.toml"
    path.write_text(template())
    data_dir = tmp_path / "data"
    assert MPREGSettings.from_path(path) == MPREGSettings(
        persistence=PersistenceConfig(data_dir=data_dir)
    )


def test_the_examples_in_the_template_are_right_as_well() -> None:
    lines = [
        line.removeprefix("#") if line.startswith("#") and not line.startswith("# ") else line
        for line in template().splitlines()
    ]
    assert read("\n".join(lines)) == MPREGSettings(
        persistence=PersistenceConfig(
            data_dir="data", log_retention=[LogRetention(log="audit", records_max=1_000_000)]
        ),
        queues={"jobs": QueueConfiguration()},
        peers=[PeerSettings(url="http://127.0.0.1:8766")],
    )


ALL: Final = MPREGSettings(
    persistence=PersistenceConfig(
        data_dir="data", log_retention=[LogRetention(log="audit", records_max=1)]
    ),
    queues={"jobs": QueueConfiguration()},
    peers=[PeerSettings(url="http://a")],
)
NAMES: Final = [
    (table.kind.__name__, setting.attribute.name)
    for table in tables_in(ALL)
    for setting in table.settings
]


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in NAMES}))
def test_every_setting_is_in_the_template_with_what_it_is_for(kind: str) -> None:
    lines = template().splitlines()
    for name in (name for one, name in NAMES if one == kind):
        above = [
            lines[number - 1]
            for number, line in enumerate(lines)
            if line.lstrip("# ").startswith((f"{name} = ", f"{name}: by the environment"))
        ]
        assert above, name
        assert all(line.startswith("# ") for line in above), name
