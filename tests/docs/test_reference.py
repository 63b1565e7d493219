"""The reference pages and the code say the same."""

from __future__ import annotations

import ast
import enum
import inspect
import re
import sqlite3
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Final

import anyio
import attrs
import pytest

from mpreg import errors, persistence, queues
from mpreg.actors import Ack
from mpreg.codec import VALUE_DEPTH_MAX, decode_name
from mpreg.monitoring.metrics import MetricSpec
from mpreg.monitoring.metrics.caches import CACHES
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
from mpreg.queues.queue import DEDUPLICATION_ID_BYTES_MAX, SUBSCRIPTION_NAME_CHARACTERS_MAX
from mpreg.queues.records import HEADERS_MAX
from mpreg.queues.storage import QUEUE_NAME_BYTES_MAX
from mpreg.queues.subscription import RECEIVE_MESSAGES_MAX
from mpreg.queues.topics import TOPIC_BYTES_MAX
from tests.docs.pages import PAGES, Page
from tests.unit.monitoring.snapshots import snapshot

API: Final = PAGES["docs/reference/api.md"]
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


CLASSES: Final = {API.name: _public(persistence), QUEUES.name: _public(queues)}

#: Classes whose members stand in a table.
IN_TABLES: Final = {
    CompactionReport,
    LogRetention,
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


def test_ack_is_one_and_the_same_in_both_packages() -> None:
    assert persistence.Ack is Ack


ENUMS: Final[dict[str, type[enum.Enum]]] = {
    kind.__name__: kind for kind in (DeliveryGuarantee, QueueType)
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
        "_batches_max": "batches",
        "_pages": "pages",
        "restarts_max": "restarts",
        "required_acknowledgments": "subscriptions",
        "max_deliveries": "attempts",
        "max_size": "messages",
        "max_bytes": "bytes",
        "dead_letters_max": "dead letters",
    }.items():
        if name.endswith(ending):
            return unit
    return ""


def test_the_settings_are_those_of_the_code_with_unit_and_default() -> None:
    said = {
        row["setting"].strip("`"): (row["unit"], _value(row["default"]))
        for row in CONFIGURATION.table("## Settings")
    }
    assert said == {
        attribute.name: (_unit(attribute.name), attribute.default)
        for attribute in attrs.fields(PersistenceConfig)
    }


@pytest.mark.parametrize("kind", [CompactionReport, LogRetention, ParticipantStatistics])
def test_the_fields_of_classes_in_tables_are_those_of_the_code(kind: type) -> None:
    fields = [attribute.name for attribute in attrs.fields(kind)]
    assert _fields(API, f"## {kind.__name__}") == sorted(fields)


def test_the_settings_of_a_queue_are_those_of_the_code() -> None:
    said = {
        row["setting"].strip("`"): (row["type"], row["unit"], _value(row["default"]))
        for row in QUEUES.table("## QueueConfiguration")
    }
    assert said == {
        attribute.name: (_said_type(attribute), _unit(attribute.name), attribute.default)
        for attribute in attrs.fields(QueueConfiguration)
    }


def _said_type(attribute: attrs.Attribute[object]) -> str:
    return " or ".join(f"`{one}`" for one in str(attribute.type).split(" | "))


def test_the_statistics_are_those_of_the_code() -> None:
    fields = [attribute.name for attribute in attrs.fields(RegistryStatistics)]
    assert _fields(STATISTICS, "## Fields") == sorted([*fields, "operations_per_fsync"])


@pytest.mark.parametrize("kind", [QueueStatistics, SubscriptionStatistics])
def test_the_statistics_of_a_queue_are_those_of_the_code(kind: type) -> None:
    fields = [attribute.name for attribute in attrs.fields(kind)]
    assert _fields(QUEUES, f"## {kind.__name__}") == sorted(fields)


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


def test_a_queue_keeps_nothing_under_a_name_that_is_not_told(tmp_path: Path) -> None:
    for _ in range(2):
        anyio.run(_use_a_queue, tmp_path)
    said = [
        re.escape(row["name"].strip("`")).replace("N", r"[0-9a-f]+-[0-9a-f]+").replace("P", r"\d+")
        for row in QUEUES.table("## On disk")
    ]
    with sqlite3.connect(tmp_path / "mpreg.db") as database:
        found = database.execute("SELECT name FROM namespaces UNION SELECT name FROM logs")
        names = {decode_name(name).strip("<>") for (name,) in found}
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
