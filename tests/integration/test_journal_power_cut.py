"""What a power cut, a kill, a failed sync and a full disk leave of the file backend's journal."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import random

import pytest

from mpreg.errors import StorageFullError, StorageIOError
from mpreg.persistence.backend import CommitInDoubtError
from mpreg.persistence.backends.file.session import FileSession
from tests.integration.journal_stories import DURABLE, RELAXED, SOMEWHERE, Story
from tests.integration.simulated_files import PowerCut, SimulatedFiles, failing_once

COMMITS = 30
UNDONE = ".new"


def tell(story: Story, files: SimulatedFiles, *, commits: int = COMMITS) -> None:
    """Open, commit, close; cut off wherever the disk says so."""
    session = story.open(files)
    for _ in range(commits):
        story.commit(session)
    session.close()


@functools.cache
def operations_of(seed: int) -> int:
    """How much happens to the files where nothing goes wrong."""
    files = SimulatedFiles()
    tell(Story(random.Random(seed)), files)
    return len(files.happened)


def assert_tidy(files: SimulatedFiles) -> None:
    """Nothing half made stays, and no more than one snapshot."""
    names = files.names(SOMEWHERE)
    assert [name for name in names if name.endswith(UNDONE)] == []
    assert sum(name.startswith("snapshot") for name in names) <= 1


@pytest.mark.parametrize("seed", range(8))
def test_every_durable_commit_survives_a_power_cut_at_any_moment(seed: int) -> None:
    """Durable acks ⊆ what is found ⊆ what was sent, whole commits only, in order, life by life."""
    luck = random.Random(seed)
    for _ in range(20):
        story, files = Story(luck), SimulatedFiles()
        for _ in range(3):
            files.cut_at = len(files.happened) + luck.randrange(operations_of(seed))
            with pytest.raises(PowerCut):  # noqa: PT012
                tell(story, files)
                raise PowerCut
            files = files.after_a_power_cut(luck)
        session = story.open(files)
        assert_tidy(files)
        story.commit(session, DURABLE)
        session.close()
        story.open(files.after_a_power_cut(luck, keeps=False))


@pytest.mark.parametrize("seed", range(2))
def test_a_kill_at_any_moment_loses_nothing_that_was_acked(seed: int) -> None:
    for at in range(operations_of(seed)):
        story, files = Story(random.Random(seed)), SimulatedFiles(cut_at=at)
        with pytest.raises(PowerCut):
            tell(story, files)
        story.durable = story.acked
        files = files.after_a_kill()
        session = story.open(files)
        assert_tidy(files)
        story.commit(session)


def test_the_stories_come_by_segments_and_snapshots() -> None:
    files = SimulatedFiles()
    tell(Story(random.Random(0)), files, commits=100)
    begun = [name for kind, name in files.happened if kind == "rename"]
    removed = [name for kind, name in files.happened if kind == "remove"]
    for word in ("journal", "snapshot"):
        assert sum(name.startswith(word) for name in begun) > 2
        assert any(name.startswith(word) for name in removed)


def test_relaxed_commits_can_be_lost_by_a_power_cut() -> None:
    """So the tests above can fail: the same disk loses what was not asked to be durable."""
    luck = random.Random(1)
    lost = 0
    for _ in range(30):
        story, files = Story(luck), SimulatedFiles()
        session = story.open(files)
        for _ in range(5):
            story.commit(session, RELAXED)
        acked = story.acked
        lost += story.open(files.after_a_power_cut(luck)).opened.commit_sequence < acked
    assert lost > 5


def test_one_durable_commit_makes_all_relaxed_ones_before_it_durable() -> None:
    luck = random.Random(2)
    story, files = Story(luck), SimulatedFiles()
    session = story.open(files)
    for _ in range(12):
        story.commit(session, RELAXED)
    story.commit(session, DURABLE)
    story.open(files.after_a_power_cut(luck, keeps=False))


def test_what_an_opening_reports_survives_a_power_cut_right_after_it() -> None:
    """Relaxed commits of a killed process are only in the cache: opening makes them durable."""
    luck = random.Random(3)
    story, files = Story(luck), SimulatedFiles()
    session = story.open(files)
    for _ in range(6):
        story.commit(session, RELAXED)
    files = files.after_a_kill()
    assert story.open(files).opened.commit_sequence == 6
    assert story.durable == 6
    story.open(files.after_a_power_cut(luck, keeps=False))


@pytest.mark.parametrize("seed", range(5))
def test_a_power_cut_at_any_moment_of_an_opening_costs_nothing(seed: int) -> None:
    luck = random.Random(seed)
    for at in itertools.count():
        story, files = Story(luck), SimulatedFiles()
        session = story.open(files)
        for _ in range(luck.randint(0, 12)):
            story.commit(session)
        files = files.after_a_kill()
        files.cut_at = at
        try:
            durable = story.durable
            story.open(files)
        except PowerCut:
            story.durable = durable
            story.open(files.after_a_power_cut(luck))
        else:
            assert at > 5
            break


# --- a sync that fails ---


def until_it_fails(story: Story, session: FileSession) -> CommitInDoubtError | None:
    for _ in range(COMMITS):
        try:
            story.commit(session)
        except CommitInDoubtError as error:
            return error
    return None


@pytest.mark.parametrize("restart", ["the process was killed", "the session was closed"])
@pytest.mark.parametrize("nth", range(12))
def test_after_a_failed_sync_the_sequence_found_at_reopening_tells_the_truth(
    nth: int, restart: str
) -> None:
    """The nasty kind of failed sync: the cache has the pages, the disk never gets them."""
    luck = random.Random(nth)
    story, files = Story(luck), SimulatedFiles()
    session = story.open(files)
    files.fault = failing_once("sync", nth, errno.EIO, name="journal-")
    error = until_it_fails(story, session)
    if error is None:
        # It met a segment that was being made: nothing depends on that.
        story.open(files.after_a_power_cut(luck, keeps=False))
        return
    assert isinstance(error.reason, StorageIOError)
    states = story.states.copy()
    with pytest.raises(CommitInDoubtError, match="unusable after a failure"):
        story.commit(session)
    story.states = states
    syncs = files.happened.count(("sync", session.segments.journal.path.name))
    if restart == "the process was killed":
        files = files.after_a_kill()
    else:
        session.close()
        after = files.happened.count(("sync", session.segments.journal.path.name))
        assert after == syncs, "what may not be written is not synced again"
    session = story.open(files)
    if error.outcomes is None:
        assert session.opened.commit_sequence == story.acked
    for _ in range(3):
        story.commit(session, DURABLE)
        files = files.after_a_power_cut(luck, keeps=False)
        session = story.open(files)


@pytest.mark.parametrize("nth", range(6))
def test_a_sync_that_fails_in_a_snapshot_costs_only_the_snapshot(nth: int) -> None:
    luck = random.Random(nth)
    story, files = Story(luck), SimulatedFiles()
    session = story.open(files)
    files.fault = failing_once("sync", 0, errno.EIO, name="snapshot")
    for _ in range(40 + nth):
        story.commit(session)
    assert any(name.startswith("snapshot") for name in files.content()), "the next one came about"
    story.open(files.after_a_power_cut(luck, keeps=False))


@pytest.mark.parametrize("seed", range(2))
def test_whichever_sync_fails_what_was_acked_is_on_the_disk(seed: int) -> None:
    """Of any file, or of the directory; while it is opened, written to, or closed."""
    syncs = ("sync", "sync directory")
    for nth in itertools.count():
        luck, files = random.Random(seed), SimulatedFiles()
        story, left = Story(luck), itertools.count(-nth)
        files.fault = lambda kind, _name, left=left: (  # type: ignore[misc]
            OSError(errno.EIO, "lost") if kind in syncs and next(left) == 0 else None
        )
        with contextlib.suppress(StorageIOError, CommitInDoubtError):
            tell(story, files)
        story.open(files.after_a_power_cut(luck, keeps=False))
        if next(left) < 1:
            break
    assert nth > COMMITS


def test_a_control_file_that_cannot_be_written_keeps_a_slot_that_is_whole() -> None:
    luck = random.Random(8)
    story, files = Story(luck), SimulatedFiles()
    session = story.open(files)
    full = OSError(errno.ENOSPC, "full")
    control = "mpreg.journal"
    files.fault = lambda kind, name: full if (kind, name) == ("write", control) else None
    for _ in range(COMMITS):
        story.commit(session)
    assert files.happened.count(("write", control)) > 2 + 2
    files.fault = lambda _kind, _name: None
    files = files.after_a_kill()
    story.durable = story.acked
    story.open(files)


@pytest.mark.parametrize("kind", ["sync", "sync directory", "write", "rename", "create"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_an_opening_that_fails_can_be_tried_again(kind: str, error: int) -> None:
    luck = random.Random(4)
    story, files = Story(luck), SimulatedFiles()
    tell(story, files)
    told = set()
    for nth in range(6):
        files.fault = failing_once(kind, nth, error)
        try:
            session = story.open(files)
        except StorageIOError:
            told.add(errno.EIO)
        except StorageFullError:
            told.add(errno.ENOSPC)
        else:
            files.fault = lambda _kind, _name: None
            story.commit(session)
        files = files.after_a_kill()
        story.durable = story.acked
    assert told == {error}
    session = story.open(files)
    assert_tidy(files)
    story.commit(session)


# --- a full disk ---


@pytest.mark.parametrize("seed", range(3))
def test_a_disk_that_is_full_at_any_write_rolls_back_and_goes_on(seed: int) -> None:
    refused = 0
    for nth in itertools.count():
        luck = random.Random(seed)
        story, files = Story(luck), SimulatedFiles()
        session = story.open(files)
        files.fault = failing_once("write", nth, errno.ENOSPC)
        for _ in range(COMMITS):
            try:
                story.commit(session)
            except StorageFullError:
                refused += 1
                del story.states[story.acked + 1 :]
        session.close()
        if sum(kind == "write" for kind, _ in files.happened) <= nth:
            break
        files.fault = lambda _kind, _name: None
        assert story.open(files).opened.commit_sequence == story.acked
    assert refused > 20


def test_a_disk_that_stays_full_refuses_what_needs_room_and_closes() -> None:
    luck = random.Random(5)
    story, files = Story(luck), SimulatedFiles()
    session = story.open(files)
    for _ in range(3):
        story.commit(session)
    full = OSError(errno.ENOSPC, "full")
    files.fault = lambda kind, _name: full if kind in ("write", "create") else None
    for _ in range(3):
        with pytest.raises(StorageFullError, match="rolled back"):
            story.commit(session)
    session.close()
    del story.states[4:]
    with pytest.raises(StorageFullError, match="make room"):
        story.open(files)
    files.fault = lambda _kind, _name: None
    assert story.open(files).opened.commit_sequence == 3


def test_an_opening_for_which_there_is_no_room_leaves_no_half_copy() -> None:
    story, files = Story(random.Random(5)), SimulatedFiles()
    tell(story, files)
    story.durable = story.acked
    files.fault = failing_once("write", 0, errno.ENOSPC, name=UNDONE)
    with pytest.raises(StorageFullError):
        story.open(files)
    assert_tidy(files)
    story.open(files)


def test_a_write_that_cannot_be_taken_back_is_in_doubt() -> None:
    story, files = Story(random.Random(6)), SimulatedFiles()
    session = story.open(files)
    story.commit(session)
    full = OSError(errno.ENOSPC, "full")
    files.fault = lambda kind, _name: full if kind in ("write", "truncate") else None
    with pytest.raises(CommitInDoubtError) as caught:
        story.commit(session)
    assert type(caught.value.reason) is StorageIOError, "nothing was rolled back"
    assert caught.value.outcomes is None, "and it is not there"
    files.fault = lambda _kind, _name: None
    session.close()
    assert story.open(files).opened.commit_sequence == 1


@pytest.mark.parametrize("kind", ["create", "rename", "remove", "write", "sync", "sync directory"])
@pytest.mark.parametrize("name", ["journal", "snapshot", ""])
def test_an_error_beside_commits_loses_nothing(kind: str, name: str) -> None:
    for nth in range(8):
        luck = random.Random(nth)
        story, files = Story(luck), SimulatedFiles()
        session = story.open(files)
        files.fault = failing_once(kind, nth, errno.EIO, name=name)
        until_it_fails(story, session)
        files = files.after_a_kill()
        session = story.open(files)
        assert_tidy(files)
        story.commit(session, DURABLE)
        story.open(files.after_a_power_cut(luck, keeps=False))
