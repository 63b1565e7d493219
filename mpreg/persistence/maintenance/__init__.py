"""Looking after a store: verify and repair, back up and restore, export and import.

Each is one async function that works on a data directory, and the ``mpreg`` command of the same
name is a thin layer over it. None of them goes through the writer: what reads beside a running
server uses a read-only connection, and what changes a directory first takes its lock.
"""

from mpreg.persistence.maintenance.backup import backup
from mpreg.persistence.maintenance.export import ExportReport, export_lines
from mpreg.persistence.maintenance.findings import Finding, FindingKind, VerificationReport
from mpreg.persistence.maintenance.importing import ImportReport, import_into, import_lines
from mpreg.persistence.maintenance.lines import line_bytes_max
from mpreg.persistence.maintenance.repair import repair
from mpreg.persistence.maintenance.reports import BackupReport, RestoreReport
from mpreg.persistence.maintenance.restore import restore
from mpreg.persistence.maintenance.verify import verify
from mpreg.progress import Progress

__all__ = [
    "BackupReport",
    "ExportReport",
    "Finding",
    "FindingKind",
    "ImportReport",
    "Progress",
    "RestoreReport",
    "VerificationReport",
    "backup",
    "export_lines",
    "import_into",
    "import_lines",
    "line_bytes_max",
    "repair",
    "restore",
    "verify",
]
