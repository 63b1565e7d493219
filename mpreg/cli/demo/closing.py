"""What is shown at the end: the table, and the dead letters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from mpreg.cli.demo.campaign import Campaign
from mpreg.cli.demo.recount import DeadJob, Stored, Verdict
from mpreg.cli.demo.report import count_writes, percentile

__all__ = ["closing_rows", "dead_lines"]

#: The facts of a file, its job's completion and its message's acknowledgment.
WRITES_PER_FILE: Final = 3

DEAD_SHOWN_MAX: Final = 5


def closing_rows(
    campaign: Campaign, stored: Stored, verdict: Verdict, seconds: float
) -> list[tuple[str, str]]:
    facts = [entry.facts for entry in stored.entries]
    bad = sum(one.error is not None for one in facts)
    written = len(stored.completions) - _completed_before(campaign)
    writes = WRITES_PER_FILE * written
    disk = count_writes(campaign.lives)
    restores = [life.restored.seconds for life in campaign.lives[1:] if life.restored]
    return [
        ("files indexed", f"{len(facts):,}"),
        ("  of them with an error instead of facts", f"{bad:,}"),
        ("lines", f"{sum(one.lines for one in facts):,}"),
        ("definitions", f"{sum(len(one.definitions) for one in facts):,}"),
        ("dead letters", _count_dead(stored.dead, campaign.files)),
        ("messages sent", f"{stored.files.sent:,}"),
        ("messages redelivered", f"{stored.files.redelivered:,}"),
        ("acks", f"{stored.files.acknowledged:,}"),
        ("writes (facts, completion and ack of each file)", f"{writes:,}"),
        ("transactions", f"{written:,}"),
        ("commit groups", f"{disk.commit_groups:,}"),
        ("fsyncs", f"{disk.fsyncs:,}"),
        ("writes per fsync", f"{writes / disk.fsyncs if disk.fsyncs else 0:.1f}"),
        ("ack latency p50", f"{percentile(campaign.ack_seconds, 0.5) * 1e3:.1f} ms"),
        ("ack latency p99", f"{percentile(campaign.ack_seconds, 0.99) * 1e3:.1f} ms"),
        ("restore, slowest", f"{max(restores, default=0.0) * 1e3:.0f} ms"),
        ("kills survived", f"{campaign.kills:,}"),
        ("lost", f"{verdict.lost:,}"),
        ("duplicated", f"{verdict.duplicated:,}"),
        ("time", f"{seconds:.1f} s"),
    ]


def dead_lines(dead: Sequence[DeadJob], files: int) -> Iterator[str]:
    """A line about each dead letter, or the first few; ``files`` is the job that had to fail."""
    for one in dead[:DEAD_SHOWN_MAX]:
        purpose = " (on purpose)" if one.job == files else ""
        yield (
            f"dead      {one.path}{purpose}: {one.attempts} attempts; {one.reason}; "
            f"last error: {one.last_error}"
        )
    if len(dead) > DEAD_SHOWN_MAX:
        yield f"dead      and {len(dead) - DEAD_SHOWN_MAX:,} more"


def _count_dead(dead: Sequence[DeadJob], files: int) -> str:
    on_purpose = sum(one.job == files for one in dead)
    if len(dead) == on_purpose:
        return f"{on_purpose} (on purpose)"
    return f"{len(dead):,} ({on_purpose} on purpose)"


def _completed_before(campaign: Campaign) -> int:
    """What an earlier run had done already, where the data directory was kept."""
    first = next((life.restored for life in campaign.lives if life.restored), None)
    return 0 if first is None else len(first.completed)
