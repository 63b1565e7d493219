"""The reference pages and the code say the same."""

from __future__ import annotations

import ast
import enum
import inspect
import re
import sqlite3
import textwrap
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Final, get_args, get_type_hints

import anyio
import attrs
import pytest

from mpreg import cache, errors, persistence, queues
from mpreg.actors import Ack
from mpreg.cache import (
    CacheConfiguration,
    CacheStatistics,
    EvictionCause,
    EvictionPolicyName,
    GlobalCacheKey,
    GlobalCacheManager,
    NamespaceStatistics,
    WarmUpState,
    WriteMode,
)
from mpreg.cache import entry as cache_entry
from mpreg.cache import index as cache_index
from mpreg.cache.configuration import NAME_CHARACTERS_MAX
from mpreg.cache.requests import TAG_BYTES_MAX
from mpreg.codec import KEY_BYTES_MAX, NAME_BYTES_MAX, VALUE_DEPTH_MAX, decode_name
from mpreg.monitoring.metrics import MetricSpec
from mpreg.monitoring.metrics.caches import CACHES
from mpreg.monitoring.metrics.fabric import FABRIC
from mpreg.monitoring.metrics.persistence import PERSISTENCE
from mpreg.monitoring.metrics.queues import QUEUES as METRICS_OF_QUEUES
from mpreg.monitoring.metrics.requests import REQUESTS
from mpreg.monitoring.persistence_report import persistence_report
from mpreg.persistence import (
    CompactionReport,
    LogRetention,
    ParticipantStatistics,
    PersistenceConfig,
    PersistenceRegistry,
    RegistryStatistics,
)
from mpreg.persistence.backends.file.control import SLOT_OFFSETS
from mpreg.persistence.backends.file.format import FRAME_BYTES, HEADER_BYTES
from mpreg.persistence.backends.sqlite import schema
from mpreg.persistence.maintenance import FindingKind
from mpreg.queues import (
    DeliveryGuarantee,
    MessageQueueManager,
    QueueConfiguration,
    QueueStatistics,
    QueueType,
    SubscriptionStatistics,
)
from mpreg.queues.bodies import BODIES_BYTES_MAX
from mpreg.queues.configuration import DELAY_SECONDS_MAX
from mpreg.queues.cursor import DeliveryState
from mpreg.queues.message import REASON_CHARACTERS_MAX
from mpreg.queues.queue import DEDUPLICATION_ID_BYTES_MAX
from mpreg.queues.records import HEADERS_MAX
from mpreg.queues.storage import QUEUE_NAME_BYTES_MAX
from mpreg.queues.subscribing import NAME_CHARACTERS_MAX as SUBSCRIPTION_NAME_CHARACTERS_MAX
from mpreg.queues.subscription import RECEIVE_MESSAGES_MAX
from mpreg.queues.topics import TOPIC_BYTES_MAX
from mpreg.settings import MonitoringSettings, MPREGSettings, PeerSettings, ServerSettings
from tests.docs.pages import PAGES, Page
from tests.unit.monitoring.snapshots import snapshot

API: Final = PAGES["docs/reference/api.md"]
CACHE: Final = PAGES["docs/reference/cache.md"]
CONFIGURATION: Final = PAGES["docs/reference/configuration.md"]
ERRORS: Final = PAGES["docs/reference/errors.md"]
JOURNAL: Final = PAGES["docs/explanation/journal.md"]
FILES: Final = PAGES["docs/reference/files-on-disk.md"]
QUEUES: Final = PAGES["docs/reference/queues.md"]
STATISTICS: Final = PAGES["docs/reference/statistics.md"]
METRICS_PAGE: Final = PAGES["docs/reference/metrics.md"]


def _public(module: ModuleType) -> dict[str, type]:
    return {
        name: getattr(module, name)
        for name in module.__all__
        if isinstance(found := getattr(module, name), type)
        and not issubclass(found, errors.MpregError)
    }


CLASSES: Final = {
    API.name: _public(persistence),
    CACHE.name: _public(cache),
    QUEUES.name: _public(queues),
}

#: Classes whose members stand in a table.
IN_TABLES: Final = {
    CacheConfiguration,
    CacheStatistics,
    CompactionReport,
    LogRetention,
    NamespaceStatistics,
    ParticipantStatistics,
    PersistenceConfig,
    QueueConfiguration,
    QueueStatistics,
    RegistryStatistics,
    SubscriptionStatistics,
}


def _members(body: list[ast.stmt]) -> dict[str, str]:
    """Methods and attributes, each as one line that says all about it but what it does."""
    found = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            kind = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
            decorators = "".join(f"@{ast.unparse(one)} " for one in node.decorator_list)
            returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
            line = f"{decorators}{kind} {node.name}({ast.unparse(node.args)}){returns}"
            found[node.name] = line
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = f"{node.target.id}: {ast.unparse(node.annotation)}"
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.unparse(node)
    return found


def _stubs(page: Page) -> dict[str, dict[str, str]]:
    return {
        node.name: _members(node.body)
        for block in page.blocks
        if block.mark == "signatures"
        for node in ast.parse(block.text).body
        if isinstance(node, ast.ClassDef)
    }


def _in_the_code(cls: type) -> dict[str, str]:
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    return _members(node.body)


@pytest.mark.parametrize("name", CLASSES)
def test_every_public_class_has_its_place_in_the_reference(name: str) -> None:
    page, classes = PAGES[name], CLASSES[name]
    in_stubs = {one for one, found in classes.items() if found not in IN_TABLES}
    assert set(_stubs(page)) == in_stubs
    assert set(classes) <= {heading.strip("`") for heading in _headings(page)}


def _headings(page: Page) -> list[str]:
    return [line.lstrip("# ") for line in page.prose.splitlines() if line.startswith("##")]


@pytest.mark.parametrize(
    ("page", "name"), [(page, name) for page in CLASSES for name in _stubs(PAGES[page])]
)
def test_the_signatures_are_those_of_the_code(page: str, name: str) -> None:
    shown = _stubs(PAGES[page])[name]
    in_the_code = _in_the_code(CLASSES[page][name])
    assert shown == {
        member: line
        for member, line in in_the_code.items()
        if member in shown or not member.startswith("_")
    }


def _line(node: ast.stmt) -> str:
    (line,) = _members([node]).values()
    return line


def test_the_signature_of_the_decorator_is_that_of_the_code() -> None:
    functions = [
        node
        for block in CACHE.blocks
        if block.mark == "signatures"
        for node in ast.parse(block.text).body
        if isinstance(node, ast.FunctionDef)
    ]
    (in_the_code,) = ast.parse(inspect.getsource(cache.cached)).body
    assert [_line(node) for node in functions] == [_line(in_the_code)]


def test_what_a_cache_has_beside_classes_has_its_place_too() -> None:
    others = {name for name in cache.__all__ if name not in CLASSES[CACHE.name]}
    assert {name for name in others if name not in errors.__all__} <= set(_headings(CACHE))


def test_ack_is_one_and_the_same_in_both_packages() -> None:
    assert persistence.Ack is Ack


ENUMS: Final[dict[str, type[enum.Enum]]] = {
    kind.__name__: kind for kind in (DeliveryGuarantee, EvictionPolicyName, QueueType, WriteMode)
}


def _value(cell: str) -> object:
    text = cell.strip("`")
    if text.endswith(" MiB"):
        return int(text.removesuffix(" MiB")) << 20
    kind, _, member = text.partition(".")
    if kind in ENUMS:
        return ENUMS[kind][member]
    return ast.literal_eval(text)


def _unit(name: str) -> str:
    for ending, unit in {
        "_seconds": "seconds",
        "_seconds_max": "seconds",
        "_bytes": "bytes",
        "_bytes_max": "bytes",
        "_entries_max": "entries",
        "_changes_max": "changes",
        "_batches_max": "batches",
        "_pages": "pages",
        "restarts_max": "restarts",
        "required_acknowledgments": "subscriptions",
        "max_deliveries": "attempts",
        "max_size": "messages",
        "max_bytes": "bytes",
        "dead_letters_max": "dead letters",
        "connections_max": "connections",
        "_bytes_per_second_min": "bytes a second",
        "long_polls_max": "requests",
        "requests_per_second_max": "requests a second",
    }.items():
        if name.endswith(ending):
            return unit
    return ""


@pytest.mark.parametrize(
    "kind",
    [MPREGSettings, PersistenceConfig, ServerSettings, MonitoringSettings, PeerSettings],
)
def test_the_settings_are_those_of_the_code_with_unit_and_default(kind: type) -> None:
    said = {
        row["setting"].strip("`"): (row["unit"], _value(row["default"]) if row["default"] else None)
        for row in CONFIGURATION.table(f"## {kind.__name__}")
    }
    assert said == {
        attribute.name: (_unit(attribute.name), _default(attribute))
        for attribute in attrs.fields(kind)
    }


def _default(attribute: attrs.Attribute[object]) -> object:
    """None also where there is none, or one that is made."""
    is_told = attribute.default is not attrs.NOTHING and not isinstance(
        attribute.default,
        attrs.Factory,  # type: ignore[arg-type]
    )
    return attribute.default if is_told else None


def test_the_example_of_a_file_of_settings_is_right() -> None:
    (example,) = [block.text for block in CONFIGURATION.blocks if block.language == "toml"]
    made = MPREGSettings.from_mapping(tomllib.loads(example)["mpreg"])
    assert made.queues["jobs"].max_deliveries == 3


def test_the_variables_are_those_of_settings() -> None:
    rows = CONFIGURATION.table("## Environment variables")
    names = [row["variable"].strip("`") for row in rows]
    values = dict.fromkeys(names, "8") | {
        "MPREG__MONITORING__METRICS": "true",
        "MPREG__SERVER__WRITE_TOKEN": "x" * 16,
        "MPREG__PEERS": rows[-1]["setting"].split("`")[1],
    }
    made = MPREGSettings.from_mapping({}, environment=values)
    assert made.peers == (PeerSettings(url="http://jobs-2:8765"),)


def test_the_tables_of_the_file_are_those_of_the_code() -> None:
    said = [
        (row["table"].strip("`[]"), re.findall(r"\w+(?=`)", row["class"])[0])
        for row in CONFIGURATION.table("## Parts")
    ]
    parts = get_type_hints(MPREGSettings).items()
    classes = {name: [kind, *get_args(kind)] for name, kind in parts}
    assert said == [("mpreg", "MPREGSettings")] + [
        (f"mpreg.{name}{'.NAME' if name == 'queues' else ''}", one.__name__)
        for name, kinds in classes.items()
        for one in kinds
        if attrs.has(one)
    ]


@pytest.mark.parametrize("kind", [CompactionReport, LogRetention, ParticipantStatistics])
def test_the_fields_of_classes_in_tables_are_those_of_the_code(kind: type) -> None:
    fields = [attribute.name for attribute in attrs.fields(kind)]
    assert _fields(API, f"## {kind.__name__}") == sorted(fields)


@pytest.mark.parametrize(
    ("page", "kind"), [(QUEUES, QueueConfiguration), (CACHE, CacheConfiguration)]
)
def test_the_settings_of_a_queue_and_a_cache_are_those_of_the_code(
    page: Page, kind: type[attrs.AttrsInstance]
) -> None:
    said = {
        row["setting"].strip("`"): (row["type"], row["unit"], _value(row["default"]))
        for row in page.table(f"## {kind.__name__}")
    }
    assert said == {
        attribute.name: (_said_type(attribute), _unit(attribute.name), attribute.default)
        for attribute in attrs.fields(kind)
    }


def _said_type(attribute: attrs.Attribute[object]) -> str:
    return " or ".join(f"`{one}`" for one in str(attribute.type).split(" | "))


def test_the_statistics_are_those_of_the_code() -> None:
    fields = [attribute.name for attribute in attrs.fields(RegistryStatistics)]
    assert _fields(STATISTICS, "## Fields") == sorted([*fields, "operations_per_fsync"])


@pytest.mark.parametrize(
    ("page", "kind"),
    [
        (QUEUES, QueueStatistics),
        (QUEUES, SubscriptionStatistics),
        (CACHE, CacheStatistics),
        (CACHE, NamespaceStatistics),
    ],
)
def test_the_statistics_of_a_queue_and_a_cache_are_those_of_the_code(
    page: Page, kind: type
) -> None:
    fields = [attribute.name for attribute in attrs.fields(kind)]
    assert _fields(page, f"## {kind.__name__}") == sorted(fields)


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        (EvictionCause, "cause"),
        (EvictionPolicyName, "policy"),
        (WarmUpState, "state"),
        (WriteMode, "mode"),
    ],
)
def test_what_the_tables_of_a_cache_tell_apart_is_what_the_code_does(
    kind: type[enum.Enum], column: str
) -> None:
    said = [row[column].strip("`") for row in CACHE.table(f"## {kind.__name__}")]
    assert said == [member.name for member in kind]


def _fields(page: Page, heading: str) -> list[str]:
    return sorted(
        name.strip(" `") for row in page.table(heading) for name in row["field"].split(",")
    )


def test_the_states_of_a_message_are_those_of_the_code() -> None:
    said = [row["state"].strip("`") for row in QUEUES.table("## States of a message")]
    assert said == [state.name for state in DeliveryState]


def test_the_errors_of_queues_are_those_of_the_code() -> None:
    said = {
        row["error"].strip("`"): row["`data_state`"]
        for row in QUEUES.table("## Errors and the state of the data")
    }
    assert said == {
        name: getattr(errors, name).data_state
        for name in errors.__all__
        if issubclass(getattr(errors, name), errors.QueueError)
    }


def test_the_errors_of_a_cache_leave_the_data_as_the_code_says() -> None:
    said = {
        row["error"].strip("`"): row["`data_state`"]
        for row in CACHE.table("## Errors and the state of the data")
    }
    assert said == {name: getattr(errors, name).data_state for name in said}
    assert {name for name in cache.__all__ if name in errors.__all__} <= set(said)


def test_a_cache_keeps_nothing_under_a_name_that_is_not_told(tmp_path: Path) -> None:
    anyio.run(_use_a_cache, tmp_path)
    said = {row["name"].strip("`") for row in CACHE.table("## On disk")}
    assert {name.replace("some", "NAME") for name in _names_on_disk(tmp_path)} == said


async def _use_a_cache(directory: Path) -> None:
    async with PersistenceRegistry(PersistenceConfig(data_dir=directory)) as registry:
        some = GlobalCacheManager(registry, CacheConfiguration(name="some"))
        key = GlobalCacheKey("users", "ann")
        await some.put(key, 1, dependencies=[GlobalCacheKey("groups", 7)])
        await some.wait_until_warm()


def _names_on_disk(directory: Path) -> set[str]:
    with sqlite3.connect(directory / "mpreg.db") as database:
        found = database.execute("SELECT name FROM namespaces UNION SELECT name FROM logs")
        return {decode_name(name).strip("<>") for (name,) in found}


def test_the_limits_of_a_cache_are_those_of_the_code() -> None:
    said = {row["what"]: row["limit"] for row in CACHE.table("## Limits that are no settings")}
    numbers = {what: int(limit.split()[0].replace(",", "")) for what, limit in said.items()}
    assert numbers == {
        "a cache's name": NAME_CHARACTERS_MAX,
        "a namespace": NAME_BYTES_MAX,
        "a number in a key": 64,
        "a key": KEY_BYTES_MAX,
        "a tag": TAG_BYTES_MAX,
        "how deep a value nests": VALUE_DEPTH_MAX,
    }
    settings = {row["setting"]: row["meaning"] for row in CACHE.table("## CacheConfiguration")}
    for level, overhead in (
        ("memory", cache_entry.ENTRY_OVERHEAD_BYTES),
        ("disk", cache_index.ENTRY_OVERHEAD_BYTES),
    ):
        assert f" {overhead} for each entry" in settings[f"`{level}_bytes_max`"]


def test_a_queue_keeps_nothing_under_a_name_that_is_not_told(tmp_path: Path) -> None:
    for _ in range(2):
        anyio.run(_use_a_queue, tmp_path)
    said = [
        re.escape(row["name"].strip("`")).replace("N", r"[0-9a-f]+-[0-9a-f]+").replace("P", r"\d+")
        for row in QUEUES.table("## On disk")
    ]
    names = _names_on_disk(tmp_path)
    assert [name for name in names if not any(re.fullmatch(one, name) for one in said)] == []
    unmet = [one for one in said if not any(re.fullmatch(one, name) for name in names)]
    assert [name for name in unmet if name not in ("queues/deleted", "queues/kept")] == []


async def _use_a_queue(directory: Path) -> None:
    """Enough that its state is saved at the end."""
    async with PersistenceRegistry(PersistenceConfig(data_dir=directory)) as registry:
        jobs = await MessageQueueManager(registry).create_queue(
            "jobs", QueueConfiguration(max_deliveries=1)
        )
        await jobs.send(1, deduplication_id="one")
        await jobs.send_many(range(300))
        message = await jobs.receive()
        assert message is not None
        await message.nack()


def test_the_limits_of_queues_are_those_of_the_code() -> None:
    said = {row["what"]: row["limit"] for row in QUEUES.table("## Limits that are no settings")}
    numbers = {what: int(limit.split()[0].replace(",", "")) for what, limit in said.items()}
    assert numbers == {
        "a queue's name": QUEUE_NAME_BYTES_MAX,
        "a subscription's name": SUBSCRIPTION_NAME_CHARACTERS_MAX,
        "a topic, or a pattern": TOPIC_BYTES_MAX,
        # One byte of it says that it is a str.
        "a `deduplication_id`": DEDUPLICATION_ID_BYTES_MAX,
        "headers of a message": HEADERS_MAX,
        "how deep a payload nests": VALUE_DEPTH_MAX,
        "a `reason`": REASON_CHARACTERS_MAX,
        "`messages_max`, `prefetch`": RECEIVE_MESSAGES_MAX,
        "a delay, a wait, a TTL": DELAY_SECONDS_MAX,
        "messages in memory": BODIES_BYTES_MAX >> 20,
    }


def test_the_errors_are_those_of_the_code_with_base_and_state_of_the_data() -> None:
    said = {
        row["error"].strip("`"): (row["is a"].strip("`"), row["`data_state`"])
        for row in ERRORS.table("## All of them")
    }
    assert said == {
        name: (found.__bases__[0].__name__, found.data_state)
        for name in errors.__all__
        for found in [getattr(errors, name)]
    }


def test_the_tree_of_errors_is_the_one_in_the_code() -> None:
    (tree,) = [block.text for block in ERRORS.blocks if "├──" in block.text]
    assert errors.__doc__ is not None
    names = [line.split()[:4] for line in errors.__doc__.splitlines() if "──" in line]
    shown = [line.split()[:4] for line in tree.splitlines() if "──" in line]
    assert [_name_in(words) for words in shown] == [_name_in(words) for words in names]


def _name_in(words: list[str]) -> str:
    return next(word for word in words if word.endswith("Error"))


def _statement(text: str) -> str:
    return " ".join(text.replace("(", " ( ").replace(")", " ) ").split())


def test_the_tables_and_indexes_are_those_of_the_code() -> None:
    (tables,) = [block.text for block in FILES.blocks if block.language == "sql"]
    shown = [_statement(one) for one in tables.split(";") if one.strip()]
    assert shown == [_statement(one) for one in schema.CREATE if "CREATE " in one]


@pytest.mark.parametrize(
    ("heading", "size"),
    [("### The header of a file", HEADER_BYTES), ("### The header of a frame", FRAME_BYTES)],
)
def test_the_headers_of_the_journal_are_as_long_as_in_the_code(heading: str, size: int) -> None:
    assert sum(int(row["bytes"]) for row in JOURNAL.table(heading)) == size
    assert f"│ {size} " in JOURNAL.text


def test_the_slots_of_the_control_file_are_where_the_code_has_them() -> None:
    slots = JOURNAL.table("### The control file")[-1]["at byte"]
    assert tuple(map(int, slots.split(", "))) == SLOT_OFFSETS


def test_the_pragmas_are_those_of_the_code() -> None:
    said = {
        (who, row["pragma"].strip("`"))
        for row in FILES.table("## Pragmas")
        for who in row["connection"].split(" and ")
    }
    in_the_code = {
        *(("writer", pragma.removeprefix("PRAGMA ")) for pragma in schema.WRITER_PRAGMAS),
        *(("creation", pragma.removeprefix("PRAGMA ")) for pragma in schema.CREATION_PRAGMAS),
        *(("reader", pragma.removeprefix("PRAGMA ")) for pragma in schema.READER_PRAGMAS),
    }
    from_settings = {
        (who, f"{name} = …")
        for who, names in {
            "writer": (
                "busy_timeout",
                "cache_size",
                "journal_size_limit",
                "synchronous",
            ),
            "reader": ("busy_timeout", "cache_size"),
        }.items()
        for name in names
    }
    assert said == in_the_code | from_settings


@pytest.mark.parametrize(
    ("heading", "table"),
    [
        ("## Writes and persistence", PERSISTENCE),
        ("## Queues", METRICS_OF_QUEUES),
        ("## Caches", CACHES),
        ("## Requests", REQUESTS),
        ("## Other nodes", FABRIC),
    ],
)
def test_the_metrics_are_those_of_the_code(heading: str, table: tuple[MetricSpec, ...]) -> None:
    said = [
        (row["metric"].strip("`"), row["type"], row["labels"].replace("`", ""), row["meaning"])
        for row in METRICS_PAGE.table(heading)
    ]
    assert said == [
        (one.name, one.kind.value, ", ".join(one.labels), one.help.replace("|", "\\|"))
        for one in table
    ]


def test_the_report_on_persistence_has_what_the_page_says() -> None:
    said = {
        name.strip(" `")
        for row in METRICS_PAGE.table("## The persistence report")
        for name in row["name"].split(",")
    }
    assert said == set(persistence_report(snapshot(), ()))


def test_the_kinds_of_findings_are_those_of_the_code() -> None:
    said = {
        row["kind"].strip("`"): row["is damage"] == "yes"
        for row in PAGES["docs/reference/maintenance.md"].table("## What verify finds")
    }
    assert said == {kind.value: kind.is_damage for kind in FindingKind}
