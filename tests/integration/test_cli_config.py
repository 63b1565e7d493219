"""``mpreg config``: what is wrong, what is in force and why, and what there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from mpreg.settings import MPREGSettings
from tests.integration.test_cli_settings import run

TOKEN: Final = "a-token-that-nobody-guesses"
TLS: Final = Path(__file__).parents[1] / "data" / "tls"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text('[mpreg]\nname = "one"\n[mpreg.persistence]\ndata_dir = "data"\n')
    return path


def test_check_says_that_all_is_right(config: Path) -> None:
    result = run("config", "check", "--config", config)
    assert (result.exit_code, result.stdout) == (0, f"{config}: all is right\n")
    as_json = run("config", "check", "--config", config, "--json")
    assert json.loads(as_json.stdout) == {"path": str(config), "right": True, "problems": []}
    for alone in (
        run("config", "check", "--data-dir", "data"),
        run("config", "check", MPREG__PERSISTENCE__DATA_DIR="data"),
    ):
        assert (alone.exit_code, alone.stdout) == (0, "the environment: all is right\n")


def test_check_says_all_that_is_wrong(config: Path) -> None:
    config.write_text("[web]\n[mpreg]\nnam = 1\n[mpreg.server]\nhost = '::'\n")
    result = run("config", "check", "--config", config, MPREG__SERVER__PROT="1")
    assert result.exit_code == 2
    assert [line.partition(": ")[0] for line in result.stdout.splitlines()] == [
        f"{config}, line 1",
        f"{config}, line 3",
        str(config),
        "environment variable MPREG__SERVER__PROT",
        f"{config}, line 5",
        str(config),
    ]
    assert result.stdout.endswith(f"{config}: 5 mistakes\n")
    as_json = run("config", "check", "--config", config, "--json", MPREG__SERVER__PROT="1")
    assert as_json.exit_code == 2
    problems = json.loads(as_json.stdout)["problems"]
    assert problems == result.stdout.splitlines()[:-1]


@pytest.mark.parametrize("text", ["[", "\udcff", None])
def test_check_says_what_is_no_file_of_settings(config: Path, text: str | None) -> None:
    config.unlink()
    if text is not None:
        config.write_bytes(text.encode(errors="surrogateescape"))
    result = run("config", "check", "--config", config)
    assert result.exit_code == 2
    assert result.stdout.startswith(f"{config}: th")
    assert result.stdout.endswith(f"{config}: 1 mistake\n")


def test_check_says_which_files_cannot_be_read(config: Path) -> None:
    with config.open("a") as file:
        file.write("[mpreg.server]\nread_token_file = 'token'\nwrite_token_file = '.'\n")
    result = run("config", "check", "--config", config)
    assert result.exit_code == 2
    assert result.stdout == (
        f"{config}, line 6: mpreg.server.read_token_file: {config.parent / 'token'} cannot be "
        "read: No such file or directory\n"
        f"{config}, line 7: mpreg.server.write_token_file: {config.parent} cannot be read: "
        "Is a directory\n"
        f"{config}: 2 mistakes\n"
    )


def test_check_says_what_a_node_would_refuse_to_start_with(config: Path) -> None:
    for name, text, mode in (
        ("open", TOKEN, 0o644),
        ("short", "abc", 0o600),
        ("empty", "", 0o600),
    ):
        (config.parent / name).write_text(text)
        (config.parent / name).chmod(mode)
    with config.open("a") as file:
        file.write(
            "[mpreg.server]\nread_token_file = 'open'\nwrite_token_file = 'short'\n"
            "admin_token_file = 'empty'\n"
            f"tls_certificate_file = '{TLS / 'certificate.pem'}'\n"
            f"tls_key_file = '{TLS / 'another-key.pem'}'\n"
            "[[mpreg.peers]]\nurl = 'http://two'\ntoken_file = 'open'\n"
        )
    result = run("config", "check", "--config", config)
    assert result.exit_code == 2
    lines = result.stdout.splitlines()
    for number, name, what in (
        (6, "server.read_token_file", "others may read"),
        (7, "server.write_token_file", "16 to 512"),
        (8, "server.admin_token_file", "empty"),
        (10, "server.tls_key_file", "is not the key of the certificate"),
        (13, "peers[0].token_file", "others may read"),
    ):
        [line] = [line for line in lines if line.startswith(f"{config}, line {number}: ")]
        assert f": mpreg.{name}: " in line
        assert what in line
    assert TOKEN not in result.stdout
    assert "abc" not in result.stdout
    assert lines[-1] == f"{config}: 5 mistakes"


def test_check_says_that_two_roles_have_one_token(config: Path) -> None:
    secret = {"MPREG__SERVER__READ_TOKEN": TOKEN, "MPREG__SERVER__WRITE_TOKEN": TOKEN}
    result = run("config", "check", "--config", config, **secret)
    assert result.exit_code == 2
    assert "mpreg.server: two roles have the same token" in result.stdout


def test_show_says_where_each_setting_comes_from(config: Path) -> None:
    environment = {"MPREG__SERVER__PORT": "1", "MPREG__SERVER__READ_TOKEN": TOKEN}
    result = run("config", "show", "--config", config, "--data-dir", "/d", **environment)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    for line in (
        f'name = "one"  # {config}, line 2',
        'data_dir = "/d"  # --data-dir',
        'backend = "sqlite"  # default',
        "port = 1  # environment variable MPREG__SERVER__PORT",
        "# read_token  # environment variable MPREG__SERVER__READ_TOKEN; a secret, not shown",
        "# write_token  # default",
    ):
        assert line in lines
    as_json = run("config", "show", "--config", config, "--json", **environment)
    rows = {row["setting"]: row for row in map(json.loads, as_json.stdout.splitlines())}
    assert rows["mpreg.name"]["value"] == "one"
    assert rows["mpreg.persistence.data_dir"]["value"] == str(config.parent / "data")
    assert rows["mpreg.server.read_token"] == {
        "setting": "mpreg.server.read_token",
        "value": None,
        "origin": "environment variable MPREG__SERVER__READ_TOKEN",
        "secret": True,
    }
    assert TOKEN not in result.output + as_json.output


def test_what_show_prints_is_a_file_of_the_same_settings_anywhere(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config.parent)
    result = run("config", "show", "--config", config.name, MPREG__QUEUES__JOBS__MAX_SIZE="9")
    copy = tmp_path / "elsewhere" / "copy.toml"
    copy.parent.mkdir()
    copy.write_text(result.stdout)
    environment = {"MPREG__QUEUES__JOBS__MAX_SIZE": "9"}
    expected = MPREGSettings.from_path(config, environment=environment)
    assert MPREGSettings.from_path(copy) == expected


def test_show_refuses_what_is_wrong(config: Path) -> None:
    for more in ([], ["--json"]):
        result = run("config", "show", "--config", config, *more, MPREG__SERVER__PORT="a")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "mpreg.server.port: a whole number" in result.stderr


def test_the_template_is_a_file_of_the_defaults(config: Path) -> None:
    result = run("config", "template")
    assert result.exit_code == 0, result.stderr
    config.write_text(result.stdout)
    assert run("config", "check", "--config", config).exit_code == 0
    shown = run("config", "show", "--config", config, "--json").stdout
    defaults = run("config", "show", "--data-dir", config.parent / "data", "--json").stdout
    assert values(shown) == values(defaults)
    assert json.loads(run("config", "template", "--json").stdout)["template"] in result.stdout


def values(shown: str) -> dict[str, object]:
    return {row["setting"]: row["value"] for row in map(json.loads, shown.splitlines())}
