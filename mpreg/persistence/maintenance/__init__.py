"""Looking after a store: verify and repair, back up and restore, export and import.

Each is one async function that works on a data directory, and the ``mpreg`` command of the same
name is a thin layer over it. None of them goes through the writer: what reads beside a running
server uses a read-only connection, and what changes a directory first takes its lock.
"""

from mpreg.persistence.maintenance.backup import BackupReport, backup
from mpreg.persistence.maintenance.findings import Finding, FindingKind, VerificationReport
from mpreg.persistence.maintenance.restore import RestoreReport, restore
from mpreg.persistence.maintenance.verify import verify
from mpreg.persistence.maintenance.worker import Progress

__all__ = [
    "BackupReport",
    "Finding",
    "FindingKind",
    "Progress",
    "RestoreReport",
    "VerificationReport",
    "backup",
    "restore",
    "verify",
]
