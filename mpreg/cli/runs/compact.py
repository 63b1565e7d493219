"""Removing what nobody can ask for any more."""

from __future__ import annotations

import attrs

from mpreg.cli.decoding import size
from mpreg.cli.output import Output
from mpreg.cli.settings import Settings
from mpreg.cli.watching import watched
from mpreg.persistence import CompactionReport, PersistenceRegistry

__all__ = ["run_compact"]


async def run_compact(settings: Settings, output: Output) -> None:
    async with PersistenceRegistry(settings.config_of_what_is_there()) as registry:
        before = (await registry.stats()).commit_sequence

        async def steps() -> int:
            return (await registry.stats()).commit_sequence - before

        report = await watched(output, "compacting, commits", None, steps, registry.compact)
    fields = {"path": str(settings.data_dir), **attrs.asdict(report)}
    output.row(fields, f"{settings.data_dir}: {_text(report)}")


def _text(report: CompactionReport) -> str:
    before = report.database_bytes_before + report.wal_bytes_before
    after = report.database_bytes + report.wal_bytes
    return (
        f"removed {report.expired_entries} expired entries, {report.log_records} records, "
        f"{report.snapshot_versions} versions of snapshots, {report.snapshot_chunks} of their "
        f"chunks; {size(before)} before, {size(after)} now, "
        f"{size(report.free_bytes)} of it unused"
        + (f"; {report.damaged} damaged parts were passed over" if report.damaged else "")
    )
