"""Settings from a TOML file, and what is said about a wrong one: which file, which line, what."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.errors import ConfigurationError
from mpreg.persistence import LogRetention, PersistenceConfig
from mpreg.settings_lines import lines_of

FULL = """\
# a server
[mpreg.persistence]
data_dir = "state"
backend = "sqlite"

grace_seconds = 2
switch_interval_seconds = "none"
mailbox_batches_max = 5
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mpreg.toml"


def error(path: Path, text: str | bytes, **changes: object) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigurationError) as caught:
        PersistenceConfig.from_file(path, **changes)
    return str(caught.value)


def test_a_file_gives_the_same_as_keywords(path: Path) -> None:
    path.write_text(FULL)
    assert PersistenceConfig.from_file(path) == PersistenceConfig(
        data_dir=path.parent / "state",
        grace_seconds=2,
        switch_interval_seconds=None,
        mailbox_batches_max=5,
    )
    assert PersistenceConfig.from_file(str(path)) == PersistenceConfig.from_file(path)


def test_limits_of_logs_are_tables_of_their_own_and_none_is_a_word(path: Path) -> None:
    path.write_text(
        '[mpreg.persistence]\ndata_dir = "a"\nupkeep_interval_seconds = "none"\n'
        '[[mpreg.persistence.log_retention]]\nlog = "audit"\nrecords_max = 5\n'
    )
    config = PersistenceConfig.from_file(path)
    assert config.upkeep_interval_seconds is None
    assert config.log_retention == (LogRetention(log="audit", records_max=5),)
    assert "did you mean 'records_max'" in error(path, path.read_text().replace("ds_max", "d_max"))


def test_a_directory_is_relative_to_the_file_and_an_absolute_one_is_as_it_is(path: Path) -> None:
    path.write_text('mpreg.persistence.data_dir = "../b"')
    assert PersistenceConfig.from_file(path).data_dir == path.parent / ".." / "b"
    path.write_text('mpreg = { persistence = { data_dir = "/var/lib/a" } }')
    assert PersistenceConfig.from_file(path).data_dir == Path("/var/lib/a")


def test_changes_win_and_their_own_errors_name_no_file(path: Path) -> None:
    path.write_text(FULL)
    config = PersistenceConfig.from_file(path, data_dir="other", grace_seconds=3)
    assert (config.data_dir, config.grace_seconds) == (Path("other"), 3)
    said = error(path, FULL, grace_seconds=-1)
    assert said.startswith("grace_seconds: ")


def test_an_empty_file_has_nothing_to_say(path: Path) -> None:
    path.write_text("")
    assert PersistenceConfig.from_file(path, data_dir="a") == PersistenceConfig(data_dir="a")
    assert (
        error(path, "")
        == f"{path}: mpreg.persistence.data_dir: the sqlite backend needs a directory"
    )


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            "[mpreg.persistence]\n\ndta_dir = 'a'",
            3,
            "mpreg.persistence.dta_dir: unknown setting 'dta_dir'; did you mean 'data_dir'?",
        ),
        (
            "[mpreg.persistence]\ndata_dir = 7",
            2,
            "mpreg.persistence.data_dir: a path is expected, not 7",
        ),
        (
            "[mpreg.persistence]\ndata_dir = 'a'\ngrace_seconds = '3'",
            3,
            "mpreg.persistence.grace_seconds: a number of seconds, at least 0, is expected, not",
        ),
        (
            "[mpreg.persistence]\ndata_dir = 'a'\ngrace_seconds = 'none'",
            3,
            "mpreg.persistence.grace_seconds: a number of seconds, at least 0, is expected, not",
        ),
        (
            "[mpreg.persistence]\nbackend = 'sqlit'\ndata_dir = 'a'",
            2,
            "mpreg.persistence.backend: 'sqlite' or 'file' or 'memory' is expected, not 'sqlit'",
        ),
        (
            "[mpreg.persistence]\ndata_dir = 'a'\nvalue_bytes_max = 9\nbatch_bytes_max = 8",
            3,
            "mpreg.persistence.value_bytes_max: value_bytes_max (9) is above batch_bytes_max (8)",
        ),
        (
            "[mpreg.persistence]\r\ndata_dir = 7\r\n",
            2,
            "mpreg.persistence.data_dir: a path is expected, not 7",
        ),
        (
            "[mpreg.persistence]\ngrace_seconds = 1",
            1,
            "mpreg.persistence.data_dir: the sqlite backend needs a directory",
        ),
        ("mpreg.persistence = 3", 1, "mpreg.persistence: a table is expected, [mpreg.persistence]"),
        ("[[mpreg.persistence]]", 1, "mpreg.persistence: a table is expected, [mpreg.persistence]"),
        ("mpreg = 3", 1, "mpreg: a table is expected, [mpreg]"),
        ("\n[mprg]\n", 2, "unknown table [mprg]; the only one is [mpreg]: did you mean [mpreg]?"),
        (
            "[persistence]\ndata_dir = 'a'",
            1,
            "unknown table [persistence]; the only one is [mpreg]: settings stand below it",
        ),
        ("data_dir = 'a'", 1, "'data_dir' stands in no table: settings stand below [mpreg]"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(
    path: Path, text: str, line: int, message: str
) -> None:
    assert error(path, text).startswith(f"{path}, line {line}: {message}")


def test_what_is_no_toml_is_told_with_its_place(path: Path) -> None:
    said = error(path, "[mpreg.persistence]\ndata_dir = x\n")
    assert said.startswith(f"{path}: this is not TOML: ")
    assert "line 2" in said
    assert error(path, b"\xff\xfe").startswith(f"{path}: this is no text in UTF-8: ")


def test_a_file_that_cannot_be_read_is_told(path: Path) -> None:
    for place in (path, path.parent):
        with pytest.raises(
            ConfigurationError, match="the file of settings cannot be read: "
        ) as one:
            PersistenceConfig.from_file(place)
        assert str(one.value).startswith(str(place))


NAMES = st.sampled_from(["a", "b_c", '"d e"', "f-g", "h"])
VALUES = st.sampled_from(
    ["1", '"x"', "[1,\n  2,\n]", '"""\na = 1\n\nh = 2\n"""', "{ a = 1 }", "2020-01-01", "'#'"]
)
FILLING = st.sampled_from(["", "# a = 1", "\n", "# \u2028 b", "  "])


@given(
    st.lists(st.tuples(NAMES, VALUES), unique_by=lambda one: one[0]),
    st.lists(FILLING, min_size=5, max_size=5),
    st.sampled_from(["\n", "\r\n"]),
)
def test_the_line_of_a_key_is_that_in_which_it_is_written(
    settings: list[tuple[str, str]], filling: list[str], line_end: str
) -> None:
    lines = ["[table]"]
    written = {}
    for (name, value), before in zip(settings, filling, strict=False):
        lines.extend(before.split("\n"))
        written[name.strip('"')] = len(lines) + 1
        lines.extend(f"{name} = {value}".split("\n"))
    text = line_end.join(lines)
    assert set(tomllib.loads(text)["table"]) == set(written)
    found = lines_of(text)
    for name, line in written.items():
        assert found[("table", name)] == line
    assert found[("table",)] == 1
    assert ("table", "none") not in found
