"""Break a promise of the writer or the mailbox, and the stories find it."""

from __future__ import annotations

from typing import Any

import pytest

from mpreg.actors import Mailbox
from mpreg.errors import CorruptDataError, WriterStoppedError
from mpreg.persistence import writer
from mpreg.persistence.writer import Writer
from tests.simulation.story import Story

STORIES_MAX = 60


def _is_found() -> bool:
    for seed in range(STORIES_MAX):
        try:
            Story(seed).tell()
        except (AssertionError, BaseExceptionGroup, CorruptDataError):
            return True
    return False


@pytest.mark.parametrize("answer", [True, False])
def test_a_writer_that_does_not_look_at_the_sequence_on_disk_is_found(
    monkeypatch: pytest.MonkeyPatch, answer: bool
) -> None:
    def is_committed(on_disk: int, known: int | None, *, in_flight: bool) -> bool:
        return in_flight and answer

    monkeypatch.setattr(writer, "is_committed", is_committed)
    assert _is_found()


def test_a_writer_that_calls_the_unknown_not_written_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def abandon(self: Any, cause: Exception | None) -> None:
        if self._in_doubt is not None:
            for batch in self._in_doubt.group.batches:
                batch.fail(WriterStoppedError("not written"))

    monkeypatch.setattr(Writer, "abandon", abandon)
    assert _is_found()


def test_a_mailbox_that_forgets_what_is_left_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    drain = Mailbox.drain

    def drain_and_forget(self: Any) -> list[Any]:
        drain(self)
        return []

    monkeypatch.setattr(Mailbox, "drain", drain_and_forget)
    assert _is_found()


def test_a_mailbox_that_changes_the_order_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    receive_many = Mailbox.receive_many

    async def receive_backwards(self: Any, **limits: int) -> list[Any]:
        return (await receive_many(self, **limits))[::-1]

    monkeypatch.setattr(Mailbox, "receive_many", receive_backwards)
    assert _is_found()
