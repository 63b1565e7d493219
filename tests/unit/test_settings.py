"""The settings of a node, and what is said of each kind of mistake."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.cache import CacheConfiguration
from mpreg.cache.eviction import EvictionPolicyName
from mpreg.errors import ConfigurationError
from mpreg.persistence import LogRetention, PersistenceConfig
from mpreg.queues import DeliveryGuarantee, QueueConfiguration
from mpreg.settings import MonitoringSettings, MPREGSettings, PeerSettings, ServerSettings
from mpreg.settings_source import SettingsSource

TOKEN: Final = "a-token-that-nobody-guesses"

DIRECTORY: Final = 'persistence.data_dir = "data"\n'

FULL: Final = """\
[mpreg]
name = "one"
advertised_url = "https://one.example:8765"

[mpreg.persistence]
data_dir = "state"
switch_interval_seconds = "none"

[[mpreg.persistence.log_retention]]
log = "audit"
records_max = 5

[mpreg.cache]
policy = "lfu"

[mpreg.queues.jobs]
delivery_guarantee = "quorum"
required_acknowledgments = 2
lease_seconds = 5

[mpreg.queues."two words"]

[mpreg.server]
host = "0.0.0.0"
read_token_file = "tokens/read"
admin_token_file = "/etc/mpreg/admin"

[mpreg.monitoring]
log_format = "json"
metrics = false

[[mpreg.peers]]
url = "http://two.example:8765"
token_file = "tokens/two"

[[mpreg.peers]]
url = "http://three.example:8765"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.toml"


def settings_of_full(directory: Path) -> MPREGSettings:
    return MPREGSettings(
        name="one",
        advertised_url="https://one.example:8765",
        persistence=PersistenceConfig(
            data_dir=directory / "state",
            switch_interval_seconds=None,
            log_retention=(LogRetention(log="audit", records_max=5),),
        ),
        cache=CacheConfiguration(policy=EvictionPolicyName.LFU),
        queues={
            "jobs": QueueConfiguration(
                delivery_guarantee=DeliveryGuarantee.QUORUM,
                required_acknowledgments=2,
                lease_seconds=5,
            ),
            "two words": QueueConfiguration(),
        },
        server=ServerSettings(
            host="0.0.0.0",
            read_token_file=directory / "tokens" / "read",
            admin_token_file=Path("/etc/mpreg/admin"),
        ),
        monitoring=MonitoringSettings(log_format="json", metrics=False),
        peers=(
            PeerSettings(url="http://two.example:8765", token_file=directory / "tokens" / "two"),
            PeerSettings(url="http://three.example:8765"),
        ),
    )


def told(path: Path, text: str, **environment: str) -> list[str]:
    """What is said to be wrong, without the file's name."""
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        MPREGSettings.from_path(path, environment=environment)
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return [str(one).removeprefix(str(path)).removeprefix(", ") for one in caught.value.problems]


def test_a_file_has_the_settings_of_all_parts(path: Path) -> None:
    path.write_text(FULL)
    assert MPREGSettings.from_path(path) == settings_of_full(path.parent)
    assert MPREGSettings.from_toml(str(path)) == settings_of_full(path.parent)


def test_a_json_file_says_the_same(path: Path) -> None:
    found = tomllib.loads(FULL)
    found["mpreg"]["persistence"]["switch_interval_seconds"] = None
    as_json = path.with_suffix(".json")
    as_json.write_text(json.dumps(found))
    assert MPREGSettings.from_json(as_json) == settings_of_full(path.parent)
    assert MPREGSettings.from_path(as_json) == settings_of_full(path.parent)


def test_a_mapping_says_the_same_with_paths_from_the_working_directory() -> None:
    made = MPREGSettings.from_mapping(tomllib.loads(FULL)["mpreg"])
    assert made == settings_of_full(Path())


def test_only_the_directory_has_to_be_given(path: Path) -> None:
    path.write_text(f"[mpreg]\n{DIRECTORY}")
    made = MPREGSettings.from_path(path)
    assert made == MPREGSettings(persistence=PersistenceConfig(data_dir=path.parent / "data"))
    assert (made.server.host, made.server.port) == ("127.0.0.1", 8765)
    needed = "mpreg.persistence.data_dir: the sqlite backend needs a directory"
    assert told(path, "") == [f": {needed}"]
    assert told(path, "[mpreg.persistence]\ngrace_seconds = 1") == [f"line 1: {needed}"]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("server.prot = 1", 3, "server.prot: unknown setting 'prot'; did you mean 'port'?"),
        ("prot = 1", 3, "prot: unknown setting 'prot'; known are name, "),
        (
            "\n[mpreg.sever]\nport = 1",
            4,
            "sever: unknown table 'sever'; did you mean 'server'?",
        ),
        (
            "[mpreg.queues.jobs]\nlease_secs = 1",
            4,
            "queues.jobs.lease_secs: unknown setting 'lease_secs'; did you mean 'lease_seconds'?",
        ),
        (
            "[[mpreg.peers]]\nurl = 'http://a'\n[[mpreg.peers]]\nurll = 'http://b'\nurl = 'http://c'",
            6,
            "peers[1].urll: unknown setting 'urll'; did you mean 'url'?",
        ),
        ("[[mpreg.peers]]\n", 3, "peers[0].url: missing"),
        (
            "[[mpreg.persistence.log_retention]]\nbytes_max = 9\nrecord_max = 1\nlog = 'a'",
            5,
            "persistence.log_retention[0].record_max: unknown setting 'record_max'; did you mean",
        ),
        (
            "[[mpreg.persistence.log_retention]]\nlog = 'a'",
            3,
            "persistence.log_retention[0]: log 'a': no limit is given",
        ),
        (
            "persistence.log_retention = [{log = 'a', bytes_max = 1}, {log = 'a', bytes_max = 1}]",
            3,
            "persistence.log_retention: a log is named twice",
        ),
        ("server = 3", 3, "server: a table is expected, [mpreg.server]"),
        ("server = [1]", 3, "server: a table is expected, [mpreg.server]"),
        ("[[mpreg.server]]\nport = 1", 3, "server: a table is expected, [mpreg.server]"),
        ("queues = 3", 3, "queues: tables are expected, [mpreg.queues.NAME]"),
        ("queues.jobs = 3", 3, "queues.jobs: a table is expected, [mpreg.queues.jobs]"),
        ("peers = 3", 3, "peers: a list of tables is expected, [[mpreg.peers]]"),
        ("[mpreg.peers]\nurl = 'http://a'", 3, "peers: a list of tables is expected, [[mpreg.pe"),
        ("peers = ['http://a']", 3, "peers[0]: a table is expected"),
        ("name = { a = 1 }", 3, "name: a node's name is expected, not {'a': 1}"),
        ("name = ''", 3, "name: a node's name is expected, not ''"),
        (
            "server.port = 'http'",
            3,
            "server.port: a whole number, from 0 to 65535, is expected, not 'http'",
        ),
        ("server.port = 65536", 3, "server.port: a whole number, from 0 to 65535, is expected"),
        ("server.port = 1.0", 3, "server.port: a whole number, from 0 to 65535, is expected"),
        ("server.port = true", 3, "server.port: a whole number, from 0 to 65535, is expected"),
        (
            "server.port = 2020-01-01",
            3,
            "server.port: a whole number, from 0 to 65535, is expected, not 2020-01-01",
        ),
        (
            "server.grace_seconds = 10:00:00",
            3,
            "server.grace_seconds: a number of seconds, at least 0, is expected, not 10:00:00",
        ),
        ("server.port = 'none'", 3, "server.port: a whole number, from 0 to 65535, is expected"),
        *(
            (
                f"server.long_poll_seconds_max = {value}",
                3,
                "server.long_poll_seconds_max: a number of seconds, above 0, is expected, not ",
            )
            for value in ("nan", "inf", "-inf", "-1", "0", "'1'", "false")
        ),
        (
            "server.requests_per_second_max = 0",
            3,
            "server.requests_per_second_max: a number, above 0, or none, is expected, not 0",
        ),
        ("server.loop = 'curio'", 3, "server.loop: 'asyncio' or 'trio' is expected, not 'curio'"),
        ("server.host = 'a b'", 3, "server.host: a host name or address is expected, not 'a b'"),
        ("server.tls_key_file = ''", 3, "server.tls_key_file: a path is expected, not ''"),
        ("server.tls_key_file = 3", 3, "server.tls_key_file: a path is expected, not 3"),
        ('server.tls_key_file = "\\u0000"', 3, "server.tls_key_file: a path is expected"),
        (
            "server.tls_key_file = '~nobody-of-this-name/a'",
            3,
            "server.tls_key_file: '~nobody-of-this-name/a': ",
        ),
        (
            "server.tls_key_file = 'key'",
            3,
            "server.tls_certificate_file: missing; a certificate and its key belong together",
        ),
        (
            "server.tls_certificate_file = 'a'",
            3,
            "server.tls_key_file: missing; a certificate and its key belong together",
        ),
        (
            "server.host = '0.0.0.0'",
            3,
            "server.host: '0.0.0.0' can be reached from other machines, and no token is set: give",
        ),
        (
            "[mpreg.queues.jobs]\nqueue_type = 'lifo'",
            4,
            "queues.jobs.queue_type: one of 'fifo', 'priority' is expected, not 'lifo'",
        ),
        (
            "[mpreg.queues.jobs]\n\nrequired_acknowledgments = 2",
            5,
            "queues.jobs.required_acknowledgments: 2 needs delivery_guarantee 'quorum', not",
        ),
        (
            "[mpreg.queues.jobs]\nretry_delay_factor = 0.5",
            4,
            "queues.jobs.retry_delay_factor: a number, at least 1, is expected, not 0.5",
        ),
        ("[mpreg.queues.'']", 3, "queues: "),
        (f"[mpreg.queues.{'a' * 901}]", 3, "queues: a queue's name of 901 bytes; at most 900"),
        (
            "[mpreg.cache]\nwarm_up_entries_max = 9\nmemory_entries_max = 8",
            4,
            "cache.warm_up_entries_max: warm_up_entries_max (9) is above memory_entries_max (8)",
        ),
        (
            "[mpreg.monitoring]\nmetrics = 'yes'",
            4,
            "monitoring.metrics: true or false is expected, not 'yes'",
        ),
        (
            "[[mpreg.peers]]\nurl = 'http://a'\n[[mpreg.peers]]\nurl = 'http://A/'",
            3,
            "peers: 'http://A/' is named twice",
        ),
        *(
            (
                f"advertised_url = {url!r}",
                3,
                f"advertised_url: a URL like 'http://host:8765' is expected, not {url!r}",
            )
            for url in (
                *("", "host:8765", "ftp://a", "http://", "http://a:99999", "http://a b", "/a"),
                *("http://[::1", "http://a?b", "http://a#b", "http://a:0"),
            )
        ),
        ("advertised_url = 3", 3, "advertised_url: a URL like 'http://host:8765' is expected"),
    ],
)
def test_a_mistake_is_told_with_its_line_its_full_name_and_what_is_allowed(
    path: Path, text: str, line: int, message: str
) -> None:
    (said,) = told(path, f"[mpreg]\n{DIRECTORY}{text}")
    assert said.startswith(f"line {line}: mpreg.{message}")


def test_all_mistakes_are_told_at_once(path: Path) -> None:
    text = f"[web]\na = 1\n[mpreg]\n{DIRECTORY}nam = 1\n[mpreg.server]\nprot = 1\nport = 'a'\n"
    said = told(path, text, MPREG__QUEUES__A__B="1", MPREG__NAME="a", MPREG__NAME__X="b")
    assert [one.partition(": ")[0] for one in said] == [
        "line 1",
        "environment variable MPREG__NAME__X",
        "line 5",
        "environment variable MPREG__QUEUES__A__B",
        "line 7",
        "line 8",
    ]


def test_all_that_is_impossible_together_is_told_beside_a_name_that_is_not_known(
    path: Path,
) -> None:
    text = f"[mpreg]\n{DIRECTORY}[mpreg.server]\nprot = 1\nhost = '::'\ntls_key_file = 'a'\n"
    said = told(path, text)
    assert [one.partition(": ")[2].partition(":")[0] for one in said] == [
        "mpreg.server.prot",
        "mpreg.server.tls_certificate_file",
        "mpreg.server.host",
    ]


def test_a_value_of_any_length_is_told_in_a_few_words(path: Path) -> None:
    for value in (f"'{'x' * 9_999}'", f"0x{'f' * 9_999}", "[" * 200 + "]" * 200):
        (said,) = told(path, f"[mpreg]\n{DIRECTORY}server.port = {value}")
        assert len(said) < 400


@pytest.mark.parametrize(
    "text", ['{"mpreg": {"name": "a", "name": "b"}}', '{"mpreg": ', "[1]", "", "3", "{" * 99_999]
)
def test_what_is_no_json_object_is_told_with_the_file(path: Path, text: str) -> None:
    as_json = path.with_suffix(".json")
    (said,) = told(as_json, text)
    assert said.startswith((": this is not JSON: ", ": an object is expected"))


def test_of_json_the_full_name_tells_the_place(path: Path) -> None:
    as_json = path.with_suffix(".json")
    (said,) = told(as_json, '{"mpreg": {"persistence": {"data_dir": null, "backend": 3}}}')
    assert said.startswith(
        ": mpreg.persistence.backend: 'sqlite' or 'file' or 'memory' is expected"
    )


def test_the_name_of_a_file_must_say_what_it_is(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="its name says that it is no JSON"):
        MPREGSettings.from_json(path)
    with pytest.raises(ConfigurationError, match="its name says that it is JSON"):
        MPREGSettings.from_toml(path.with_suffix(".JSON"))


@pytest.mark.parametrize(
    ("variable", "value", "keys", "expected"),
    [
        ("NAME", "two", ("name",), "two"),
        ("ADVERTISED_URL", "http://a", ("advertised_url",), "http://a"),
        ("ADVERTISED_URL", "none", ("advertised_url",), None),
        ("SERVER__PORT", "1", ("server", "port"), 1),
        ("SERVER__GRACE_SECONDS", "2.5", ("server", "grace_seconds"), 2.5),
        ("SERVER__GRACE_SECONDS", "2", ("server", "grace_seconds"), 2.0),
        ("server__port", "1", ("server", "port"), 1),
        ("SERVER__READ_TOKEN_FILE", "none", ("server", "read_token_file"), None),
        ("SERVER__READ_TOKEN_FILE", "here", ("server", "read_token_file"), Path("here")),
        ("SERVER__WRITE_TOKEN", TOKEN, ("server", "write_token"), TOKEN),
        ("SERVER__REQUESTS_PER_SECOND_MAX", "9", ("server", "requests_per_second_max"), 9),
        ("MONITORING__METRICS", "True", ("monitoring", "metrics"), True),
        ("MONITORING__STATUS_PAGE", "false", ("monitoring", "status_page"), False),
        ("CACHE__WRITE_MODE", "relaxed", ("cache", "write_mode", "value"), "relaxed"),
        ("CACHE__WARM_UP_BYTES_MAX", "none", ("cache", "warm_up_bytes_max"), None),
        ("QUEUES__JOBS__MAX_SIZE", "7", ("queues", "jobs", "max_size"), 7),
        ("QUEUES__TWO_WORDS__MAX_SIZE", "7", ("queues", "two words", "max_size"), 7),
        ("QUEUES__NEW__MAX_SIZE", "7", ("queues", "new", "max_size"), 7),
        (
            "PERSISTENCE__SWITCH_INTERVAL_SECONDS",
            "1",
            ("persistence", "switch_interval_seconds"),
            1,
        ),
        ("PEERS", "[]", ("peers",), ()),
        ("PEERS", '[{"url": "http://a"}]', ("peers",), (PeerSettings(url="http://a"),)),
        ("PERSISTENCE__LOG_RETENTION", "[]", ("persistence", "log_retention"), ()),
    ],
)
def test_a_variable_wins_over_the_file(
    path: Path, variable: str, value: str, keys: tuple[str, ...], expected: object
) -> None:
    path.write_text(FULL)
    environment = {f"MPREG__{variable}": value, "MPREG_CONFIG": "a", "HOME": "b"}
    found: Any = MPREGSettings.from_path(path, environment=environment)
    for key in keys:
        found = found[key] if isinstance(found, Mapping) else getattr(found, key)
    assert found == expected
    assert type(found) is type(expected) or isinstance(expected, int | float)


def test_the_environment_alone_is_enough() -> None:
    environment = {"MPREG__PERSISTENCE__DATA_DIR": "here"}
    made = MPREGSettings.from_mapping({}, environment=environment)
    assert made == MPREGSettings(persistence=PersistenceConfig(data_dir="here"))


def test_a_home_directory_is_found_in_file_and_environment(path: Path) -> None:
    path.write_text("[mpreg]\npersistence.data_dir = '~/a'")
    environment = {"MPREG__SERVER__READ_TOKEN_FILE": "~/b"}
    made = MPREGSettings.from_path(path, environment=environment)
    assert made.persistence.data_dir == Path.home() / "a"
    assert made.server.read_token_file == Path.home() / "b"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SERVER__PROT", "1", "mpreg.server.prot: unknown setting 'prot'; did you mean 'port'?"),
        ("SEVER__PORT", "1", "mpreg.sever: unknown table 'sever'; did you mean 'server'?"),
        ("", "1", "mpreg.: unknown setting ''; known are name"),
        ("SERVER__", "1", "mpreg.server.: unknown setting ''; known are host"),
        ("SERVER", "1", "mpreg.server: a table is expected, [mpreg.server]"),
        ("NAME__FIRST", "a", "mpreg.name has a value and is no table"),
        ("PEERS__0__URL", "a", "mpreg.peers has a value and is no table"),
        ("PEERS", "a", "mpreg.peers: a list of tables is expected, [[mpreg.peers]]"),
        ("PEERS", '[{"ur": 1}]', "mpreg.peers[0].ur: unknown setting 'ur'; did you mean 'url'?"),
        ("SERVER__PORT", "", "mpreg.server.port: a whole number, from 0 to 65535, is expected"),
        ("SERVER__PORT", "1e3", "mpreg.server.port: a whole number, from 0 to 65535, is expected"),
        ("SERVER__GRACE_SECONDS", "nan", "mpreg.server.grace_seconds: a number of seconds"),
        ("MONITORING__METRICS", "1", "mpreg.monitoring.metrics: true or false is expected, not"),
        ("PERSISTENCE__DATA_DIR", "", "mpreg.persistence.data_dir: a path is expected, not ''"),
    ],
)
def test_a_wrong_variable_is_told_by_its_name(
    path: Path, variable: str, value: str, message: str
) -> None:
    said = told(path, FULL, **{f"MPREG__{variable}": value})
    name = f"environment variable MPREG__{variable}"
    assert said[0].startswith(f"{name}: {message}")
    assert all(one.startswith(f"{name}: ") for one in said)


def test_a_variable_that_may_mean_two_queues_is_refused(path: Path) -> None:
    text = f"[mpreg]\n{DIRECTORY}[mpreg.queues.jobs]\n[mpreg.queues.Jobs]"
    (said,) = told(path, text, MPREG__QUEUES__JOBS__MAX_SIZE="1")
    assert said == (
        "environment variable MPREG__QUEUES__JOBS__MAX_SIZE: it may mean 'jobs' or 'Jobs'"
    )


def test_a_secret_in_a_file_is_refused_and_not_repeated(path: Path) -> None:
    (said,) = told(path, f"[mpreg]\n{DIRECTORY}server.read_token = '{TOKEN}'")
    assert said == (
        "line 3: mpreg.server.read_token: a secret does not stand in a file of settings; give "
        "read_token_file, or the environment variable MPREG__SERVER__READ_TOKEN"
    )
    (said,) = told(path, f"[mpreg]\n{DIRECTORY}advertised_url = 'http://ann:{TOKEN}@a'")
    assert said.startswith("line 3: mpreg.advertised_url: no name or password stands in a URL")
    assert TOKEN not in said


@pytest.mark.parametrize(
    "token", ["short", f"{TOKEN} {TOKEN}", f"{TOKEN}é", "x" * 513, f"{TOKEN}\n"]
)
def test_a_token_that_is_none_is_refused_and_not_repeated(path: Path, token: str) -> None:
    (said,) = told(path, f"[mpreg]\n{DIRECTORY}", MPREG__SERVER__READ_TOKEN=token)
    assert said == (
        "environment variable MPREG__SERVER__READ_TOKEN: mpreg.server.read_token: 16 to 512 "
        "printable ASCII characters without spaces are expected"
    )


def test_a_token_and_its_file_are_one_too_many(path: Path) -> None:
    text = f"[mpreg]\n{DIRECTORY}server.read_token_file = 'a'"
    (said,) = told(path, text, MPREG__SERVER__READ_TOKEN=TOKEN)
    assert "read_token_file is given as well; one of them is the token" in said
    assert TOKEN not in said


def test_a_secret_is_not_shown(path: Path) -> None:
    settings = ServerSettings(host="0.0.0.0", read_token=TOKEN)
    assert TOKEN not in repr(settings)
    assert "read_token=…" in repr(settings)
    assert "write_token=None" in repr(settings)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST"])
def test_loopback_needs_no_token(host: str) -> None:
    assert ServerSettings(host=host).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", "localhost.example"])
def test_what_others_can_reach_needs_a_token(host: str) -> None:
    with pytest.raises(ConfigurationError, match="no token is set"):
        ServerSettings(host=host)
    for tokens in ({"read_token_file": "a"}, {"write_token": TOKEN}):
        made = ServerSettings(host=host, **tokens)  # type: ignore[arg-type]
        assert made.has_tokens


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("persistence", None),
        ("persistence", {}),
        ("cache", 3),
        ("server", None),
        ("monitoring", {}),
        ("queues", []),
        ("queues", {"jobs": {}}),
        ("queues", {3: QueueConfiguration()}),
        ("peers", 3),
        ("peers", ["http://a"]),
    ],
)
def test_a_part_of_another_kind_is_refused(part: str, value: object) -> None:
    settings: dict[str, Any] = {"persistence": PersistenceConfig(data_dir="data"), part: value}
    with pytest.raises(ConfigurationError) as caught:
        MPREGSettings(**settings)
    assert caught.value.setting == part


NAMES: Final = [
    *("name", "advertised_url", "persistence", "cache", "queues", "server", "monitoring", "peers"),
    *(
        "data_dir",
        "backend",
        "log_retention",
        "log",
        "records_max",
        "jobs",
        "max_size",
        "queue_type",
    ),
    *(
        "host",
        "port",
        "read_token",
        "tls_key_file",
        "metrics",
        "url",
        "policy",
        "grace_seconds",
        "",
    ),
]
names = st.one_of(st.sampled_from(NAMES), st.text(max_size=3))
values = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.floats(), st.dates(), st.times()),
        *(
            st.text(max_size=5),
            st.sampled_from(["none", "sqlite", "true", "~", "~x/y", "http://a"]),
        ),
    ),
    lambda inside: st.one_of(
        st.lists(inside, max_size=3), st.dictionaries(names, inside, max_size=4)
    ),
    max_leaves=12,
)
tables = st.dictionaries(names, values, max_size=5)
variables = st.dictionaries(
    st.lists(names, min_size=1, max_size=3).map(lambda some: "MPREG__" + "__".join(some)),
    st.text(max_size=5),
    max_size=3,
)


@given(tables, variables)
def test_whatever_is_written_it_is_taken_or_told_as_a_mistake(
    written: dict[str, Any], environment: dict[str, str]
) -> None:
    source = SettingsSource(path=Path("node.json"), settings=written)
    try:
        made = MPREGSettings.from_source(source, environment=environment)
    except ConfigurationError as error:
        for problem in error.problems:
            said = str(problem)
            assert said.startswith(("node.json: mpreg", "environment variable MPREG__"))
    else:
        assert isinstance(made, MPREGSettings)
