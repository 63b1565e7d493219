"""The room that messages leave behind while the oldest one stays."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from benchmarks.figures import MIB, console
from benchmarks.processes import Plan, fresh
from benchmarks.queues.processes import measure
from benchmarks.queues.workload import BacklogResult

MESSAGES = 1_000_000


def show_backlog(plan: Plan) -> None:
    messages = plan.count(MESSAGES, least=10_000)
    with fresh(plan.path("backlog")) as directory:
        result = BacklogResult(**measure("backlog", directory, messages))
    table = Table(title=f"{messages:,} messages sent and acknowledged in order, but for the first")
    table.add_column("what")
    table.add_column("figure", justify="right")
    for row in _rows(messages, result):
        table.add_row(*row)
    console.print(table)


def _rows(messages: int, result: BacklogResult) -> Iterator[tuple[str, str]]:
    yield (
        "life cycles a second (send_many, consume, ack of 1,000)",
        (f"{messages / result.seconds:,.0f}"),
    )
    yield "bodies sent", _mib(result.sent_bytes)
    yield "live: bodies not acknowledged", f"{result.live_bytes:,} bytes"
    yield "database at the end", _mib(result.database_bytes)
    yield "WAL at the end", _mib(result.wal_bytes)
    yield "both, at most", _mib(result.peak_bytes)
    yield "both, after closing", _mib(result.closed_bytes)
    yield "of these free for what comes next", _mib(result.free_bytes)
    yield "not free", _mib(result.closed_bytes - result.free_bytes)
    yield "messages that the next process finds", f"{result.left:,}"


def _mib(count: int) -> str:
    return f"{count / MIB:,.1f} MiB"
