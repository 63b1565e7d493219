"""The error classes: what they say, what they know, and that they survive a trip."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

from mpreg import errors
from mpreg.errors import (
    AckedDataLostError,
    BatchRejectedError,
    CommitFailedError,
    CommitUnknownError,
    CorruptDataError,
    DataDirectoryError,
    DataDirectoryLockedError,
    ForeignDatabaseError,
    InvalidArgumentError,
    MpregError,
    NodeUnreachableError,
    NotANodeError,
    OffsetOutOfRangeError,
    PersistenceError,
    SchemaVersionError,
    StorageFullError,
    StorageIOError,
    TransactionStateError,
    ValueTooLargeError,
    VersionConflictError,
    WriterStoppedError,
)

PATH = Path("/data/mpreg.db")
EXAMPLES: list[MpregError] = [
    InvalidArgumentError("wrong"),
    ValueTooLargeError("too large"),
    TransactionStateError("ended"),
    WriterStoppedError("gone"),
    VersionConflictError("sessions", "ann", 3, 4),
    VersionConflictError("sessions", b"\xff", 3, 0),
    OffsetOutOfRangeError("audit", 9, 5),
    CommitFailedError("rolled back"),
    StorageFullError("full"),
    CommitUnknownError("who knows"),
    StorageIOError("it failed"),
    StorageIOError("it failed", PATH),
    AckedDataLostError(PATH.parent, 51, 100, 7, 50),
    AckedDataLostError(PATH.parent, 1, 100, 7, None),
    CorruptDataError("damaged"),
    CorruptDataError("damaged", path=PATH, where="log 'audit', offset 3"),
    DataDirectoryError(PATH, "not usable"),
    DataDirectoryLockedError(PATH, 77),
    DataDirectoryLockedError(PATH, None),
    DataDirectoryLockedError(PATH, 77, "db1", 1e9),
    ForeignDatabaseError(PATH, "not ours"),
    SchemaVersionError(PATH, 5, 1),
    NodeUnreachableError("no answer", False),
    NotANodeError("x answered 200", 200),
    NotANodeError("x answered 404", 404),
]


def test_every_public_error_is_one_of_ours_and_is_named_so() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), MpregError)
        assert name.endswith("Error")


def test_the_public_package_exports_every_persistence_error() -> None:
    import mpreg.persistence

    for name in errors.__all__:
        if issubclass(getattr(errors, name), PersistenceError):
            assert getattr(mpreg.persistence, name) is getattr(errors, name)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling_and_copying(error: MpregError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            VersionConflictError("sessions", "ann", 3, 4),
            (
                "key 'ann' in namespace 'sessions' has version 4, expected was 3 "
                "(0 means: does not exist); nothing was written"
            ),
        ),
        (
            OffsetOutOfRangeError("audit", 9, 5),
            ("log 'audit' ends at offset 5: offset 9 is beyond it; nothing was written"),
        ),
        (StorageIOError("it failed"), "it failed"),
        (StorageIOError("it failed", PATH), "/data/mpreg.db: it failed"),
        (
            AckedDataLostError(PATH.parent, 51, 100, 7, 50),
            (
                "/data: commits 51 to 100 were acknowledged and are missing; the store ends at "
                "commit 50: its write-ahead log was damaged or left out, or an older copy was put "
                "in its place. Nothing was changed. Copy the directory away and restore it from a "
                "backup, or open it without them by accept_acked_data_loss='7/51-100'"
            ),
        ),
        (
            AckedDataLostError(PATH.parent, 1, 100, 7, None),
            (
                "/data: commits 1 to 100 were acknowledged and are missing; there is no store: it "
                "was removed or moved away. Nothing was changed. Copy the directory away and "
                "restore it from a backup, or open it without them by "
                "accept_acked_data_loss='7/1-100'"
            ),
        ),
        (
            AckedDataLostError(PATH.parent, 51, 80, 7, 100),
            (
                "/data: commits 51 to 80 were acknowledged and are missing; the store, which ends "
                "at commit 100, is another copy: its commits from 51 on are not those that were "
                "acknowledged. Nothing was changed. Copy the directory away and restore it from a "
                "backup, or open it without them by accept_acked_data_loss='7/51-80'"
            ),
        ),
        (CorruptDataError("damaged"), "damaged"),
        (CorruptDataError("damaged", where="here"), "here: damaged"),
        (CorruptDataError("damaged", path=PATH, where="here"), "/data/mpreg.db: here: damaged"),
        (
            DataDirectoryLockedError(PATH, 77),
            (
                "/data/mpreg.db: in use by the process with pid 77; stop it, "
                "or use another data directory"
            ),
        ),
        (
            DataDirectoryLockedError(PATH, 77, "db1", 1e9),
            (
                "/data/mpreg.db: in use by the process with pid 77 on db1 since "
                "2001-09-09 01:46:40 UTC; stop it, or use another data directory"
            ),
        ),
        (
            DataDirectoryLockedError(PATH, 77, since=1e99),
            (
                "/data/mpreg.db: in use by the process with pid 77 since "
                "1e+99 seconds after 1970; stop it, or use another data directory"
            ),
        ),
        (
            DataDirectoryLockedError(PATH, None),
            (
                "/data/mpreg.db: in use by a process that left no pid; stop it, "
                "or use another data directory"
            ),
        ),
        (
            SchemaVersionError(PATH, 5, 1),
            (
                "/data/mpreg.db: schema version 5 is newer than version 1, the newest this mpreg "
                "can read; upgrade mpreg to open it"
            ),
        ),
    ],
)
def test_an_error_says_what_where_and_what_to_do(error: MpregError, said: str) -> None:
    assert str(error) == said


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (InvalidArgumentError, "not written"),
        (ValueTooLargeError, "not written"),
        (TransactionStateError, "not written"),
        (WriterStoppedError, "not written"),
        (BatchRejectedError, "not written"),
        (VersionConflictError, "not written"),
        (CommitFailedError, "rolled back"),
        (StorageFullError, "rolled back"),
        (CommitUnknownError, "unknown"),
        (CorruptDataError, "unchanged"),
        (AckedDataLostError, "acked data is missing"),
        (DataDirectoryLockedError, "unchanged"),
    ],
)
def test_an_error_tells_the_state_of_the_data(kind: type[MpregError], state: str) -> None:
    assert kind.data_state == state


def test_rolled_back_and_unknown_are_never_the_same_class() -> None:
    assert not issubclass(CommitUnknownError, CommitFailedError)
    assert not issubclass(CommitFailedError, CommitUnknownError)
    assert not issubclass(WriterStoppedError, CommitFailedError)


def test_wrong_arguments_are_also_value_errors() -> None:
    assert issubclass(InvalidArgumentError, ValueError)


@pytest.mark.parametrize(
    ("kind", "may_restart"),
    [
        (StorageIOError, True),
        (CommitFailedError, True),
        (CorruptDataError, False),
        (AckedDataLostError, False),
        (DataDirectoryError, False),
        (ForeignDatabaseError, False),
        (SchemaVersionError, False),
    ],
)
def test_an_error_knows_whether_a_restart_may_mend_it(
    kind: type[MpregError], may_restart: bool
) -> None:
    assert kind.may_restart is may_restart
