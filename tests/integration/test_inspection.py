"""The commands that look into a data directory, run as they are, with what they print."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
import pytest
from click.testing import CliRunner, Result

from mpreg.cli.app import mpreg
from mpreg.persistence import Durability, PersistenceRegistry
from mpreg.persistence.backends.sqlite.files import create_database
from mpreg.queues import DeliveryGuarantee, MessageQueueManager, QueueConfiguration, QueueType
from tests.integration.made_once import made_once
from tests.integration.queues.support import tamper_log
from tests.integration.support import database, registry, tamper

#: What each kind of row has. Programs are written against these names.
ROWS: Final = {
    "directory": "kind path backend held pid host since generation commit_sequence acked_sequence "
    "last_version files",
    "namespace": "name reserved keys keys_exact size_bytes",
    "log": "name reserved first_offset next_offset records",
    "entry": "key version expires_at size_bytes format value",
    "record": "offset size_bytes format value",
    "snapshot": "name reserved version size_bytes",
    "snapshot shown": "name version size_bytes format value",
    "queue": "name queue_type delivery_guarantee pending delayed dead size sent acknowledged "
    "redelivered expired",
    "queue shown": "name pending delayed dead size sent acknowledged redelivered expired "
    "subscriptions configuration",
    "message": "priority offset size_bytes attempts visible_at reason id sent_at expires_at topic "
    "headers payload",
    "dead letter": "key priority offset subscription attempts reason last_error died_at message",
}


def run(data_dir: Path, *arguments: str, loop: str = "asyncio", typed: str = "") -> Result:
    command = [*arguments, "--data-dir", str(data_dir), "--loop", loop]
    return CliRunner().invoke(mpreg, command, input=typed, catch_exceptions=False)


def rows(data_dir: Path, *arguments: str, kind: str | None = None) -> list[dict[str, Any]]:
    result = run(data_dir, *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    if kind is not None:
        assert [list(row) for row in found] == [ROWS[kind].split()] * len(found)
    return found


def fill(data_dir: Path, work: Callable[[PersistenceRegistry], Awaitable[None]]) -> None:
    async def main() -> None:
        async with registry(data_dir) as opened:
            await work(opened)

    anyio.run(main)


async def everything(opened: PersistenceRegistry) -> None:
    sessions = opened.key_value_store("sessions")
    await sessions.put("ann", b'{"visits": 3}')
    await sessions.put("ben\n", b"text", ttl_seconds=1e6)
    await sessions.put(b"\x00\xff", b"\x00\x01")
    await sessions.put("größer", msgspec.msgpack.encode({"a": b"x"}))
    await sessions.put("long", b"x" * 5_000)
    await sessions.put("\udcff", b"")
    await opened.log_store("audit").append_many([b"one", b"\xff\xfe", b"[3]"])
    await opened.snapshot_store("images").save(b"abc" * 100)
    queues = MessageQueueManager(opened)
    jobs = await queues.create_queue("jobs", QueueConfiguration(max_deliveries=1))
    await jobs.send_many([{"n": number} for number in range(12)], topic="a.b")
    await _kill(jobs, 2)
    message = await jobs.receive()
    assert message is not None
    await message.ack()
    await queues.create_queue("other")


async def _kill(queue: Any, count: int) -> None:
    for _ in range(count):
        await (await queue.receive()).nack(reason="it broke")
    while queue.statistics().dead < count:
        await anyio.wait_all_tasks_blocked()


@made_once
def fill_with_everything(data_dir: Path) -> None:
    fill(data_dir, everything)


@pytest.fixture
def filled(data_dir: Path) -> Path:
    fill_with_everything(data_dir)
    return data_dir


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_stats_tell_of_everything(filled: Path, loop: str) -> None:
    result = run(filled, "stats", loop=loop)
    assert result.exit_code == 0
    assert "held by          nobody" in result.stdout
    assert "sessions                         6 keys" in result.stdout
    assert "audit                            3 records, offsets 0 to 2" in result.stdout
    assert "jobs                             9 pending, 0 delayed, 2 dead" in result.stdout
    assert "<" not in result.stdout
    assert "<queues/configurations>" in run(filled, "stats", "--all", loop=loop).stdout


def test_the_fields_of_json_are_stable(filled: Path) -> None:
    first, *rest = rows(filled, "stats")
    assert list(first) == ROWS["directory"].split()
    assert {row["kind"]: " ".join(row) for row in rest} == {
        kind: f"kind {ROWS[kind]}" for kind in ("namespace", "log", "queue")
    }
    rows(filled, "inspect", "namespaces", "--all", kind="namespace")
    rows(filled, "inspect", "logs", "--all", kind="log")
    rows(filled, "inspect", "keys", "sessions", kind="entry")
    rows(filled, "inspect", "key", "sessions", "ann", kind="entry")
    rows(filled, "inspect", "records", "audit", kind="record")
    rows(filled, "inspect", "snapshots", "--all", kind="snapshot")
    rows(filled, "inspect", "snapshot", "images", kind="snapshot shown")
    rows(filled, "inspect", "queues", kind="queue")
    rows(filled, "queue", "list", kind="queue")
    rows(filled, "queue", "show", "jobs", kind="queue shown")
    rows(filled, "queue", "peek", "jobs", kind="message")
    rows(filled, "queue", "dead-letters", "jobs", kind="dead letter")


def test_keys_of_every_kind_are_listed_and_found_again(filled: Path) -> None:
    found = rows(filled, "inspect", "keys", "sessions")
    keys = [row["key"] for row in found]
    assert keys == [{"base64": "AP8="}, "ann", "ben\n", "größer", "long", "\udcff"]
    assert found[1]["value"] == {"visits": 3}
    assert found[3]["value"] == {"a": {"base64": "eA=="}}
    for key in ("ann", "ben\n", "größer"):
        assert run(filled, "inspect", "key", "sessions", key).exit_code == 0
    raw = run(filled, "inspect", "key", "sessions", "0x00ff", "--hex", "--raw")
    assert raw.stdout_bytes == b"\x00\x01"
    text = run(filled, "inspect", "keys", "sessions").stdout
    assert "(4.9 KiB)" in text
    assert max(map(len, text.splitlines())) <= 160
    assert "\\udcff" in text


def test_a_list_is_gone_on_with_where_it_ended(filled: Path) -> None:
    result = run(filled, "inspect", "keys", "sessions", "--limit", "2", "--json")
    assert [json.loads(line)["key"] for line in result.stdout.splitlines()][1:] == ["ann"]
    assert "--after 'ann'" in result.stderr
    after = rows(filled, "inspect", "keys", "sessions", "--after", "ann", "--limit", "9")
    assert [row["key"] for row in after] == ["ben\n", "größer", "long", "\udcff"]
    assert (
        rows(filled, "inspect", "keys", "sessions", "--hex", "--after", "00ff")[0]["key"] == "ann"
    )
    some = rows(filled, "inspect", "keys", "sessions", "--prefix", "l")
    assert [row["key"] for row in some] == ["long"]
    assert [
        row["offset"] for row in rows(filled, "inspect", "records", "audit", "--from", "1")
    ] == [
        1,
        2,
    ]
    assert rows(filled, "inspect", "records", "audit", "--from", "1", "--to", "1") == []


def test_raw_bytes_come_as_they_are(filled: Path) -> None:
    result = run(filled, "inspect", "snapshot", "images", "--raw")
    assert result.stdout_bytes == b"abc" * 100
    result = run(filled, "inspect", "records", "audit", "--from", "1", "--to", "2", "--raw")
    assert result.stdout_bytes == b"\xff\xfe"


def test_what_mpreg_keeps_for_itself_is_named_in_brackets(filled: Path) -> None:
    result = run(filled, "inspect", "keys", "<queues/configurations>", "--all")
    assert "jobs" in result.stdout
    assert run(filled, "inspect", "keys", "<queues/configurations>").exit_code == 1


def test_an_empty_store_shows_nothing(data_dir: Path) -> None:
    async def nothing(_: PersistenceRegistry) -> None:
        return

    fill(data_dir, nothing)
    for command in (
        ("inspect", "namespaces"),
        ("inspect", "logs"),
        ("inspect", "snapshots"),
        ("queue", "list"),
    ):
        assert rows(data_dir, *command) == []
    assert [row["kind"] for row in rows(data_dir, "stats")] == ["directory"]


@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "keys", "none"),
        ("inspect", "key", "none", "a"),
        ("inspect", "key", "sessions", "none"),
        ("inspect", "records", "none"),
        ("inspect", "snapshot", "none"),
        ("queue", "show", "none"),
        ("queue", "peek", "none"),
        ("queue", "peek", "jobs", "--subscription", "none"),
        ("queue", "dead-letters", "none"),
        ("queue", "redrive", "none"),
        ("queue", "redrive", "jobs", "--to", "none"),
        ("queue", "purge", "none", "--yes"),
        ("queue", "redrive", "jobs", "--id", "none"),
    ],
)
def test_what_is_not_there_is_told_and_is_exit_code_1(filled: Path, command: Any) -> None:
    result = run(filled, *command)
    assert result.exit_code == 1
    assert "none" in result.stderr or "not there" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "keys", ""),
        ("inspect", "key", "sessions", "no hex", "--hex"),
        ("inspect", "keys", "sessions", "--limit", "0"),
        ("inspect", "records", "audit", "--from", "-1"),
        ("queue", "none"),
    ],
)
def test_what_makes_no_sense_is_exit_code_2(filled: Path, command: Any) -> None:
    assert run(filled, *command).exit_code == 2


READERS: Final = [
    ("stats",),
    ("inspect", "namespaces"),
    ("inspect", "keys", "sessions"),
    ("inspect", "logs"),
    ("queue", "list"),
    ("queue", "redrive", "jobs"),
    ("queue", "purge", "jobs", "--yes"),
]


@pytest.mark.parametrize("command", READERS)
def test_a_missing_directory_is_told_and_not_made(data_dir: Path, command: Any) -> None:
    result = run(data_dir, *command)
    assert result.exit_code == 1
    assert "no such directory" in result.stderr
    assert not data_dir.exists()


def test_stats_of_queues_alone_have_no_empty_parts(data_dir: Path) -> None:
    async def queues(opened: PersistenceRegistry) -> None:
        await (await MessageQueueManager(opened).create_queue("jobs")).send(1)

    fill(data_dir, queues)
    lines = run(data_dir, "stats").stdout.splitlines()
    assert not {"namespaces", "logs"} & set(lines)
    assert lines[-2] == "queues"
    assert lines[-1].split(" ", 1) == ["jobs", f"{'':<27} 1 pending, 0 delayed, 0 dead"]


def test_a_newer_store_is_told(filled: Path) -> None:
    tamper(filled, "PRAGMA user_version = 99")
    result = run(filled, "stats")
    assert result.exit_code == 1
    assert "schema version 99 is newer" in result.stderr


def test_a_file_cut_off_is_damage(filled: Path) -> None:
    database(filled).write_bytes(database(filled).read_bytes()[:50])
    result = run(filled, "stats")
    assert result.exit_code == 3
    assert "Copy the directory away" in result.stderr


def test_damaged_items_stand_among_the_others_and_the_exit_code_tells(filled: Path) -> None:
    tamper(filled, "UPDATE entries SET value = x'00' WHERE key = ?", (b"\x01ann",))
    tamper(filled, "UPDATE records SET data = x'00' WHERE data = ?", (b"\xff\xfe",))
    result = run(filled, "inspect", "keys", "sessions", "--json")
    assert result.exit_code == 3
    found = [json.loads(line) for line in result.stdout.splitlines()]
    (damaged,) = [row["damaged"] for row in found if "damaged" in row]
    assert damaged["where"] == "namespace 'sessions', key 'ann'"
    assert len(found) == 6
    result = run(filled, "inspect", "records", "audit")
    assert result.exit_code == 3
    assert "DAMAGED log 'audit', offset 1" in result.stdout
    assert "1 damaged items" in result.stderr
    result = run(filled, "inspect", "key", "sessions", "ann")
    assert result.exit_code == 3
    assert "State of the data" in result.stderr


def test_a_damaged_queue_is_shown_as_far_as_it_can_be_read(filled: Path) -> None:
    events = "(SELECT id FROM logs WHERE hex(name) LIKE '%' || hex('events'))"
    tamper(filled, f"UPDATE records SET data = x'00' WHERE log_id = {events} AND offset = 0")
    result = run(filled, "queue", "show", "jobs")
    assert result.exit_code == 3
    assert "DAMAGED queue 'jobs': an event is damaged" in result.stdout
    with closing(sqlite3.connect(database(filled))) as connection:
        (name,) = connection.execute(
            "SELECT id FROM namespaces WHERE name = ?", (b"\xffqueues/configurations",)
        ).fetchone()
    tamper(filled, "UPDATE entries SET value = x'00' WHERE namespace_id = ?", (name,))
    assert run(filled, "queue", "show", "jobs").exit_code == 3


def test_peek_shows_what_comes_next_and_takes_nothing(data_dir: Path) -> None:
    async def work(opened: PersistenceRegistry) -> None:
        queues = MessageQueueManager(opened)
        jobs = await queues.create_queue(
            "jobs", QueueConfiguration(queue_type=QueueType.PRIORITY, max_deliveries=3)
        )
        for number in range(6):
            await jobs.send(number, priority=number % 2)
        first = await jobs.receive()
        assert first is not None
        await first.ack()
        second = await jobs.receive()
        assert second is not None
        await second.nack(delay_seconds=1_000, reason="later")

    fill(data_dir, work)
    for _ in range(2):
        found = rows(data_dir, "queue", "peek", "jobs")
        assert [(row["priority"], row["payload"]) for row in found] == [
            (1, 3),
            (1, 5),
            (0, 0),
            (0, 2),
            (0, 4),
        ]
        assert (found[0]["attempts"], found[0]["reason"]) == (1, "later")
        assert found[0]["visible_at"] > found[0]["sent_at"]
    shown = run(data_dir, "queue", "peek", "jobs", "--limit", "2")
    assert len(shown.stdout.splitlines()) == 2
    assert "raise --limit" in shown.stderr


def test_peek_of_a_broadcast_is_by_subscription(data_dir: Path) -> None:
    async def work(opened: PersistenceRegistry) -> None:
        news = await MessageQueueManager(opened).create_queue(
            "news", QueueConfiguration(delivery_guarantee=DeliveryGuarantee.BROADCAST)
        )
        left, _right = await news.subscription("left"), await news.subscription("right")
        await news.send_many(range(700))
        await news.ack([one for one in await left.receive_many(600) if one.payload != 5])

    fill(data_dir, work)

    def payloads(*options: str) -> list[int]:
        found = rows(data_dir, "queue", "peek", "news", "--limit", "1000", *options)
        return [row["payload"] for row in found]

    assert payloads("--subscription", "left") == [5, *range(600, 700)]
    assert payloads("--subscription", "right") == list(range(700))
    assert payloads() == list(range(700))


def test_dead_letters_are_sent_again_all_or_by_id_and_to_another_queue(filled: Path) -> None:
    letters = rows(filled, "queue", "dead-letters", "jobs")
    assert [row["message"]["payload"] for row in letters] == [{"n": 0}, {"n": 1}]
    assert letters[0]["last_error"] == "it broke"
    after = rows(filled, "queue", "dead-letters", "jobs", "--after", letters[0]["key"])
    assert after == letters[1:]
    none = run(filled, "queue", "redrive", "jobs", "--id", "9-9", "--id", letters[0]["key"] + "0")
    assert f"there is no '9-9', '{letters[0]['key']}0'" in none.stderr
    assert "State of the data: unchanged." in none.stderr
    some = run(
        *(filled, "queue", "redrive", "jobs", "--to", "jobs"),
        *("--id", "9-9", "--id", letters[0]["key"]),
    )
    assert "1 of the dead letters named were not sent again: there is no '9-9'" in some.stderr
    assert "State of the data: 1 sent again, the rest unchanged." in some.stderr


def test_a_dead_letter_is_sent_to_another_queue(filled: Path) -> None:
    letters = rows(filled, "queue", "dead-letters", "jobs")
    (result,) = rows(
        filled, "queue", "redrive", "jobs", "--id", letters[1]["message"]["id"], "--to", "other"
    )
    assert result == {"queue": "jobs", "to": "other", "redriven": 1, "dead": 1}
    assert [row["payload"] for row in rows(filled, "queue", "peek", "other")] == [{"n": 1}]
    rest = run(filled, "queue", "redrive", "jobs", loop="trio")
    assert rest.stdout == "1 dead letters sent again to 'jobs'; 0 stay\n"


def test_of_a_dead_letter_that_cannot_be_sent_again_it_is_said_why(data_dir: Path) -> None:
    async def send(opened: PersistenceRegistry) -> None:
        await (await MessageQueueManager(opened).create_queue("jobs")).send(1)

    async def meet_the_damage(opened: PersistenceRegistry) -> None:
        jobs = await MessageQueueManager(opened).get_queue("jobs")
        assert await jobs.receive(wait_seconds=0) is None
        while not jobs.statistics().dead:
            await anyio.wait_all_tasks_blocked()

    fill(data_dir, send)
    tamper_log(data_dir, "/0", 0)
    fill(data_dir, meet_the_damage)
    result = run(data_dir, "queue", "redrive", "jobs")
    assert result.stdout == (
        "0 dead letters sent again to 'jobs'; 1 stay: their messages are damaged\n"
    )


def test_a_purge_asks_and_does_what_it_is_told(filled: Path) -> None:
    refused = run(filled, "queue", "purge", "jobs", typed="y\n")
    assert refused.exit_code == 1
    assert "nothing was removed" in refused.stderr
    assert rows(filled, "queue", "purge", "jobs", "--dead-letters", "--yes") == [
        {"queue": "jobs", "removed": 2}
    ]
    assert rows(filled, "queue", "list")[0]["pending"] == 9
    assert run(filled, "queue", "purge", "jobs", "--yes", loop="trio").stdout == "9 removed\n"
    assert rows(filled, "queue", "list")[0]["pending"] == 0


def test_beside_a_live_registry_reading_works_and_writing_says_who_holds_it(
    data_dir: Path,
) -> None:
    async def work(opened: PersistenceRegistry) -> None:
        await everything(opened)
        pid = os.getpid()

        def look() -> None:
            stats = rows(data_dir, "stats")[0]
            assert (stats["pid"], stats["host"]) == (pid, os.uname().nodename)
            assert stats["since"] == (data_dir / "LOCK").stat().st_mtime
            shown = run(data_dir, "stats").stdout
            assert f"pid {pid} on {os.uname().nodename} since 20" in shown
            listed = run(data_dir, "queue", "list")
            assert (listed.exit_code, len(listed.stdout.splitlines())) == (0, 2)
            assert f"pid {pid} holds the directory" in listed.stderr
            for command in (("redrive", "jobs"), ("purge", "jobs", "--yes")):
                result = run(data_dir, "queue", *command)
                assert result.exit_code == 1
                assert f"the process with pid {pid} on {os.uname().nodename} since" in result.stderr
                assert "through the running server" in result.stderr
                assert "/v1/queues/{queue}/dead-letters/redrive" in result.stderr

        await anyio.to_thread.run_sync(look)

    fill(data_dir, work)


def test_counts_end_at_ten_thousand_unless_asked_for(data_dir: Path) -> None:
    async def work(opened: PersistenceRegistry) -> None:
        store = opened.key_value_store("many")
        for start in range(0, 12_000, 4_000):
            async with opened.transaction(durability=Durability.RELAXED) as transaction:
                for number in range(start, start + 4_000):
                    store.put_nowait(f"{number:05}", b"", transaction=transaction)

    fill(data_dir, work)
    (some,) = rows(data_dir, "inspect", "namespaces")
    assert (some["keys"], some["keys_exact"]) == (10_000, False)
    (exact,) = rows(data_dir, "inspect", "namespaces", "--exact")
    assert (exact["keys"], exact["keys_exact"], exact["size_bytes"]) == (12_000, True, 72_000)
    assert "10000 keys or more" in run(data_dir, "stats").stdout
    assert [row["key"] for row in rows(data_dir, "inspect", "keys", "many")] == [
        f"{number:05}" for number in range(12_000)
    ]


def test_an_export_is_not_put_into_a_store_or_a_backup(filled: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backups" / "nightly"
    assert run(filled, "backup", str(backup)).exit_code == 0
    for place in (backup / "mpreg.db", backup / "below" / "out.jsonl"):
        place.parent.mkdir(exist_ok=True)
        result = run(filled, "export", str(place))
        assert result.exit_code == 1
        assert f"inside a directory with a store ({backup / 'mpreg.db'})" in result.stderr
    (backup / "below").rmdir()
    assert run(backup, "verify").exit_code == 0


def test_an_export_into_a_directory_that_is_not_there_names_it(
    filled: Path, tmp_path: Path
) -> None:
    result = run(filled, "export", str(tmp_path / "none" / "out.jsonl"))
    assert result.exit_code == 1
    assert f"there is no directory {tmp_path / 'none'}; nothing was written" in result.stderr
    assert "mpreg-new" not in result.stderr


def test_what_verify_counts_and_what_lists_show_differ_by_what_is_told_as_mpregs_own(
    filled: Path,
) -> None:
    [found] = rows(filled, "verify")
    stats = rows(filled, "stats", "--exact")
    users = {
        "entries": sum(row["keys"] for row in stats if row["kind"] == "namespace"),
        "records": sum(row["records"] for row in stats if row["kind"] == "log"),
        "logs": sum(row["kind"] == "log" for row in stats),
        "snapshots": len(rows(filled, "inspect", "snapshots")),
    }
    assert {name: found[name] - found[f"own_{name}"] for name in users} == users
    assert min(found["own_entries"], found["own_records"], found["own_logs"]) > 0
    said = run(filled, "verify").stdout
    assert (
        f"mpreg's own, which other commands show with --all: {found['own_entries']} entries, "
        f"{found['own_records']} records in {found['own_logs']} logs, {found['own_snapshots']} "
        "snapshots"
    ) in said


def test_a_store_whose_first_opening_did_not_come_to_its_end_is_told_as_that(
    data_dir: Path,
) -> None:
    data_dir.mkdir()
    create_database(data_dir / "mpreg.db")
    said = run(data_dir, "stats")
    assert said.exit_code == 0
    assert "acked up to      nothing: the first opening did not come to its end" in said.stdout
