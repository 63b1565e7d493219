"""A data directory from the backup of a journal, as it was after one of its commits."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mpreg.errors import CorruptDataError
from mpreg.persistence.backends.file.control import Control
from mpreg.persistence.backends.file.failures import reading
from mpreg.persistence.maintenance.findings import VerificationReport
from mpreg.persistence.maintenance.journal.copying import end_of_commit, write_control
from mpreg.persistence.maintenance.manifest import BackupManifest, file_digest
from mpreg.persistence.maintenance.quarantine import read_set_aside
from mpreg.persistence.maintenance.reports import changed_file, damage_in
from mpreg.persistence.maintenance.verify import examine_journal
from mpreg.persistence.maintenance.worker import Control as Work

__all__ = ["check_journal", "copy_journal"]


def check_journal(
    backup: Path, manifest: BackupManifest, work: Work, *, allow_damaged: bool
) -> tuple[VerificationReport, dict[str, str]]:
    """What is found in it, and the digest of each file, those among it that differ.

    Raises:
        CorruptDataError: the backup is not what was written, or a file of it is missing.
    """
    hint = "nothing was restored; use another backup"
    digests: dict[str, str] = {}
    for name in manifest.files:
        path = backup / name
        try:
            digests[name] = file_digest(path, work)
        except FileNotFoundError as error:
            raise CorruptDataError(f"the file is missing; {hint}", path=path) from error
    changed = [
        changed_file(name) for name, file in manifest.files.items() if digests[name] != file.sha256
    ]
    allowing = f"{hint}, or take it with --allow-damaged"
    if changed and not allow_damaged:
        # Before it is looked into: it may be no journal any more.
        raise CorruptDataError(f"{changed[0].message}; {allowing}", path=backup / changed[0].where)
    report = examine_journal(backup, work, set_aside=read_set_aside(backup)).with_damage(changed)
    if not report.sound and not allow_damaged:
        raise damage_in(report, backup, allowing)
    return report, digests


def copy_journal(
    backup: Path,
    manifest: BackupManifest,
    digests: dict[str, str],
    target: Path,
    to_commit: int,
    work: Work,
) -> None:
    """Copy what is needed to stand where commit ``to_commit`` stood. Not synced.

    ``digests`` are those of `check_journal`: what is damaged is copied as it is, but not cut off.
    """
    segments = sorted(name for name in manifest.files if name.startswith("journal-"))
    # The last of them that begins before, or right after, is to be gone on with.
    kept = [name for name in segments if _first(name) <= to_commit + 1]
    whole = [name for name in manifest.files if name.startswith("snapshot-")] + kept[:-1]
    done = 0
    for name in whole:
        copy = target / name
        copy.touch(mode=0o600)
        shutil.copyfile(backup / name, copy)
        done += manifest.files[name].size_bytes
        work.step("copying", done, manifest.size_bytes)
        if file_digest(copy, work) != digests[name]:
            raise CorruptDataError("the copy differs from the backup; nothing was restored", copy)
    last = kept[-1]
    if to_commit == manifest.commit_sequence and digests[last] != manifest.files[last].sha256:
        (target / last).touch(mode=0o600)
        shutil.copyfile(backup / last, target / last)
    else:
        _copy_up_to(backup / last, target / last, to_commit)
    write_control(target, Control(manifest.generation, to_commit))


def _first(name: str) -> int:
    return int(name.rpartition("-")[2])


def _copy_up_to(source: Path, target: Path, to_commit: int) -> None:
    content = source.read_bytes()
    with reading(source):
        end, _ = end_of_commit(content, _first(source.name), to_commit)
    target.touch(mode=0o600)
    with target.open("r+b") as file:
        file.write(content[:end])
        file.flush()
        os.fsync(file.fileno())
