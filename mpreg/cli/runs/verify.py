"""Examining a store, and setting aside what is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import anyio

from mpreg.cli.exits import DAMAGED, OK
from mpreg.cli.output import Output
from mpreg.cli.settings import Settings
from mpreg.errors import PersistenceError
from mpreg.persistence import open_read_only
from mpreg.persistence.maintenance import Finding, VerificationReport, repair, verify
from mpreg.persistence.maintenance.quarantine import quarantine_files
from mpreg.queues.verification import examine_queues

__all__ = ["run_verify", "verification_text"]

FINDINGS_SHOWN_MAX: Final = 100


async def run_verify(settings: Settings, output: Output, *, is_full: bool, is_repair: bool) -> int:
    before = quarantine_files(settings.data_dir)
    with output.progress("examining") as on_progress:
        if is_repair:
            report = await repair(settings.data_dir, full=is_full, on_progress=on_progress)
        else:
            report = await verify(settings.data_dir, full=is_full, on_progress=on_progress)
        report = report.with_damage(await _queues(settings, report))
    for path in quarantine_files(settings.data_dir):
        if path not in before:
            # A journal's repair also takes what is whole: who sees "sound" must learn of it.
            items = await anyio.to_thread.run_sync(_count_lines, path)
            output.note(f"{items} items were set aside, in {path}")
    output.row(report.as_mapping(), verification_text(report))
    return OK if report.sound else DAMAGED


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


async def _queues(settings: Settings, report: VerificationReport) -> list[Finding]:
    try:
        async with open_read_only(settings.data_dir) as registry:
            return await examine_queues(registry)
    except PersistenceError:
        if report.sound:
            raise
        # The store cannot be read any further: that is what the report says.
        return []


def verification_text(report: VerificationReport) -> str:
    lines = [f"MENDED  {finding}" for finding in report.mended[:FINDINGS_SHOWN_MAX]]
    if len(report.mended) > FINDINGS_SHOWN_MAX:
        lines.append("... and more; --json lists up to 10,000")
    lines += [
        f"{'DAMAGED' if finding.kind.is_damage else 'note'}  {finding}"
        for finding in report.findings[:FINDINGS_SHOWN_MAX]
    ]
    left = report.damaged + report.notices - FINDINGS_SHOWN_MAX
    if left > 0:
        lines.append(f"... and {left} more; --json lists up to 10,000")
    lines.append(
        f"{report.path}: {report.entries} entries, {report.records} records in {report.logs} logs, "
        f"{report.snapshots} snapshots, commit sequence {report.commit_sequence}"
    )
    if own := _own(report):
        lines.append(f"of these mpreg's own, which other commands show with --all: {own}")
    lines.append("sound" if report.sound else f"DAMAGED: {report.damaged} findings")
    return "\n".join(lines)


def _own(report: VerificationReport) -> str:
    """Other commands leave them out of their counts."""
    if not (report.own_entries or report.own_logs):
        return ""
    return (
        f"{report.own_entries} entries, {report.own_records} records in {report.own_logs} logs, "
        f"{report.own_snapshots} snapshots"
    )
