"""Copying a store."""

from __future__ import annotations

from pathlib import Path

from mpreg.cli.output import Output
from mpreg.cli.runs.verify import verification_text
from mpreg.cli.settings import Settings
from mpreg.persistence.maintenance import backup

__all__ = ["run_backup"]


async def run_backup(
    settings: Settings,
    output: Output,
    *,
    destination: Path,
    bytes_per_second: float | None,
    allow_damaged: bool,
) -> None:
    with output.progress("copying") as on_progress:
        report = await backup(
            settings.data_dir,
            destination,
            bytes_per_second=bytes_per_second,
            allow_damaged=allow_damaged,
            on_progress=on_progress,
        )
    state = "unchanged since the last backup" if report.unchanged else "backed up"
    text = (
        f"{report.path}: {state}, commit sequence {report.commit_sequence}, "
        f"{report.size_bytes} bytes"
    )
    if not report.verification.sound:
        text += f"\n{verification_text(report.verification)}"
    output.row(report.as_mapping(), text)
