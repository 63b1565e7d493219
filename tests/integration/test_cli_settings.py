"""Where a command finds its store: --data-dir, a file of settings, the environment."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner, Result

from mpreg.cli.app import mpreg
from mpreg.persistence import PersistenceRegistry
from mpreg.queues import MessageQueueManager, QueueConfiguration
from tests.integration.support import registry


def run(*arguments: object, **environment: object) -> Result:
    known = {"MPREG_DATA_DIR": None, "MPREG_CONFIG": None}
    env = known | {name: str(value) for name, value in environment.items()}
    return CliRunner(env=env).invoke(mpreg, list(map(str, arguments)), catch_exceptions=False)


async def _make(data_dir: Path, number: int) -> None:
    opened: PersistenceRegistry
    async with registry(data_dir) as opened:
        for _ in range(number):
            await opened.key_value_store("keys").put("key", b"value")


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Path, Path]:
    """Two stores that can be told apart."""
    for number, name in enumerate(("one", "two"), 1):
        anyio.run(_make, tmp_path / name, number)
    return tmp_path / "one", tmp_path / "two"


@pytest.fixture
def config(tmp_path: Path, stores: tuple[Path, Path]) -> Path:
    """Says store one."""
    path = tmp_path / "mpreg.toml"
    path.write_text('[mpreg.persistence]\ndata_dir = "one"\n')
    return path


def store_of(result: Result) -> str:
    assert result.exit_code == 0, result.stderr
    return Path(json.loads(result.stdout.splitlines()[0])["path"]).name


def test_the_directory_is_that_of_the_file(config: Path) -> None:
    assert store_of(run("stats", "--json", "--config", config)) == "one"
    assert store_of(run("stats", "--json", MPREG_CONFIG=config)) == "one"
    assert store_of(run("verify", "--json", "--config", config)) == "mpreg.db"


def test_an_option_wins_over_file_and_environment(config: Path, stores: tuple[Path, Path]) -> None:
    two = ("stats", "--json", "--data-dir", stores[1])
    assert store_of(run(*two, "--config", config)) == "two"
    assert store_of(run(*two, MPREG_CONFIG=config)) == "two"
    assert store_of(run(*two, MPREG_DATA_DIR=stores[0])) == "two"


def test_an_environment_that_means_another_store_than_the_file_is_refused(
    config: Path, stores: tuple[Path, Path]
) -> None:
    one, two = stores
    same = run("stats", "--json", "--config", config, MPREG_DATA_DIR=one)
    assert store_of(same) == "one"
    for result in (
        run("stats", "--config", config, MPREG_DATA_DIR=two),
        run("stats", MPREG_CONFIG=config, MPREG_DATA_DIR=two),
    ):
        assert result.exit_code == 2
        said = f"MPREG_DATA_DIR is {two}, and data_dir in {config}, line 2 is {one}"
        assert said in result.stderr
        assert "--data-dir" in result.stderr


def test_a_file_without_a_directory_gives_the_other_settings(
    config: Path, stores: tuple[Path, Path]
) -> None:
    config.write_text("[mpreg.persistence]\ngrace_seconds = 1\n")
    assert store_of(run("stats", "--json", "--config", config, MPREG_DATA_DIR=stores[1])) == "two"
    missing = run("stats", "--config", config)
    assert missing.exit_code == 2
    assert "Missing option '--data-dir'" in missing.stderr
    assert "--config" in missing.stderr


@pytest.mark.parametrize(
    "command", [("stats",), ("verify",), ("queue", "redrive", "jobs"), ("import", "/dev/null")]
)
def test_a_wrong_file_is_told_by_every_command(config: Path, command: tuple[str, ...]) -> None:
    config.write_text('[mpreg.persistence]\ndata_dir = "one"\ngrace_second = 1\n')
    result = run(*command, "--config", config)
    assert result.exit_code == 2
    assert result.stderr == (
        f"mpreg: {config}, line 3: mpreg.persistence.grace_second: unknown setting 'grace_second'; "
        "did you mean 'grace_seconds'?\n"
    )
    as_json = run(*command, "--config", config, "--json")
    assert (as_json.exit_code, as_json.stdout) == (2, "")
    told = json.loads(as_json.stderr)
    assert (told["error"], told["exit_code"]) == ("ConfigurationError", 2)
    assert len(told["problems"]) == 1
    gone = run(*command, "--config", config.parent / "none.toml")
    assert gone.exit_code == 2
    assert "none.toml: the file of settings cannot be read: No such file" in gone.stderr


def test_a_node_without_a_directory_is_told_first_what_else_is_wrong(config: Path) -> None:
    config.write_text('data_dir = "one"\n')
    wrong = run("serve", "--config", config)
    assert wrong.exit_code == 2
    assert wrong.stderr == (
        f"mpreg: {config}, line 1: 'data_dir' stands in no table: settings stand below [mpreg]\n"
    )
    config.write_text("[mpreg.server]\nport = 0\n")
    missing = run("serve", "--config", config)
    assert missing.exit_code == 2
    assert "data_dir of [mpreg.persistence] in a --config file" in missing.stderr


def test_a_mistake_in_the_table_of_another_part_is_told_too(config: Path) -> None:
    config.write_text('[mpreg]\npersistence.data_dir = "one"\nserver.port = "a"\npeer = 1\n')
    result = run("stats", "--config", config, "--json", MPREG__CACHE__POLICY="x")
    assert (result.exit_code, result.stdout) == (2, "")
    places = [one.partition(": ")[0] for one in json.loads(result.stderr)["problems"]]
    assert places == [
        f"{config}, line 4",
        "environment variable MPREG__CACHE__POLICY",
        f"{config}, line 3",
    ]


def test_a_directory_that_is_misspelt_is_no_missing_option(config: Path) -> None:
    config.write_text('[mpreg.persistence]\ndta_dir = "one"\n')
    result = run("stats", "--config", config)
    assert result.exit_code == 2
    assert "unknown setting 'dta_dir'; did you mean 'data_dir'?" in result.stderr
    assert "--data-dir" not in result.stderr


def test_a_variable_with_one_underscore_too_few_is_told_with_the_right_name(
    config: Path,
) -> None:
    wrong = {
        "MPREG_SERVER_PORT": "MPREG__SERVER__PORT",
        "MPREG_SERVER__PORT": "MPREG__SERVER__PORT",
        "MPREG_PERSISTENCE_DATA_DIR": "MPREG__PERSISTENCE__DATA_DIR",
        "MPREG_NAME": "MPREG__NAME",
        "MPREG_PEERS": "MPREG__PEERS",
        "MPREG_QUEUES_TWO_WORDS_MAX_SIZE": "MPREG__QUEUES__TWO_WORDS__MAX_SIZE",
    }
    # As a cluster makes them, and others.
    others = {"MPREG_SERVER_PORT_8765_TCP": "tcp://10.0.0.1:8765", "MPREG_OTHER": 1, "MPREG_": 1}
    for command in (("stats", "--json"), ("config", "check")):
        result = run(*command, "--config", config, **dict.fromkeys(wrong, "tcp://x"), **others)
        assert result.exit_code == 0
        said = [line for line in result.stderr.splitlines() if "was not read" in line]
        assert len(said) == len(wrong)
        for name, right in wrong.items():
            assert any(f"variable {name} was" in line and f" {right}," in line for line in said)
    result = run("stats", "--json", "--config", config, MPREG__SERVER__PORT="1")
    assert (result.exit_code, result.stderr) == (0, "")


def test_the_environment_can_say_everything(config: Path, stores: tuple[Path, Path]) -> None:
    one, two = stores
    of_two = {"MPREG__PERSISTENCE__DATA_DIR": two}
    assert store_of(run("stats", "--json", **of_two)) == "two"
    assert store_of(run("stats", "--json", "--config", config, **of_two)) == "two"
    assert store_of(run("stats", "--json", "--data-dir", one, **of_two)) == "one"
    refused = run("stats", MPREG_DATA_DIR=one, **of_two)
    assert refused.exit_code == 2
    assert "environment variable MPREG__PERSISTENCE__DATA_DIR" in refused.stderr
    wrong = run("stats", "--data-dir", one, MPREG__PERSISTENCE__DATADIR=two)
    assert wrong.exit_code == 2
    assert "did you mean 'data_dir'?" in wrong.stderr


def test_a_backend_that_nothing_names_is_that_of_the_store(tmp_path: Path) -> None:
    async def make() -> None:
        async with registry(tmp_path / "journal", backend="file"):
            pass

    anyio.run(make)
    here = ("compact", "--data-dir", tmp_path / "journal")
    assert run(*here, MPREG__PERSISTENCE__GRACE_SECONDS="5").exit_code == 0
    refused = run(*here, MPREG__PERSISTENCE__BACKEND="sqlite")
    assert refused.exit_code == 1


def test_memory_keeps_nothing_that_a_command_could_work_on(config: Path) -> None:
    config.write_text("[mpreg.persistence]\nbackend = 'memory'\ndata_dir = 'one'\n")
    for result in (
        run("stats", "--config", config),
        run("stats", MPREG__PERSISTENCE__BACKEND="memory"),
    ):
        assert result.exit_code == 2
        assert "keeps nothing on disk" in result.stderr


def test_what_writes_opens_the_store_with_the_settings_of_the_file(
    config: Path, tmp_path: Path
) -> None:
    async def make() -> None:
        async with registry(tmp_path / "one") as opened:
            settings = QueueConfiguration(max_deliveries=1)
            jobs = await MessageQueueManager(opened).create_queue("jobs", settings)
            await jobs.send("x" * 5_000)
            message = await jobs.receive()
            assert message is not None
            await message.nack()
            while not jobs.statistics().dead:
                await anyio.wait_all_tasks_blocked()

    anyio.run(make)
    config.write_text('[mpreg.persistence]\ndata_dir = "one"\nvalue_bytes_max = 1000\n')
    refused = run("queue", "redrive", "jobs", "--config", config)
    assert refused.exit_code == 2, refused.output
    assert "value_bytes_max" in refused.stderr
    assert run("queue", "redrive", "jobs", "--data-dir", tmp_path / "one").exit_code == 0
