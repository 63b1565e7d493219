"""Making a data directory from a backup."""

from __future__ import annotations

from pathlib import Path

from mpreg.cli.output import Output
from mpreg.cli.runs.verify import verification_text
from mpreg.cli.settings import Settings
from mpreg.persistence.maintenance import RestoreReport, restore

__all__ = ["run_restore"]


async def run_restore(
    settings: Settings,
    output: Output,
    *,
    source: Path,
    to_commit: int | None,
    overwrite: bool,
    allow_damaged: bool,
) -> None:
    with output.progress("restoring") as on_progress:
        report = await restore(
            source,
            settings.data_dir,
            overwrite=overwrite,
            allow_damaged=allow_damaged,
            to_commit=to_commit,
            on_progress=on_progress,
        )
    text = f"{report.path}: restored as it was at commit sequence {report.commit_sequence}"
    if report.replaced:
        text += f"\n{_replaced(report)}"
    if not report.verification.sound:
        text += f"\n{verification_text(report.verification)}"
    output.row(report.as_mapping(), text)


def _replaced(report: RestoreReport) -> str:
    what = (
        "what was left of a store"
        if report.replaced_backend is None
        else f"the store of the {report.replaced_backend} backend"
    )
    acked = (
        ""
        if report.replaced_sequence is None
        else f", acknowledged up to commit {report.replaced_sequence}"
    )
    return f"replaced {what} that was there{acked}: it is gone"
