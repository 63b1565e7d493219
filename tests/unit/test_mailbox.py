"""The bounded FIFO that one actor reads."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from attrs import define, field

from mpreg.actors import Mailbox
from mpreg.errors import MailboxClosedError, MailboxFullError
from tests.loops import on_all_loops

pytestmark = pytest.mark.anyio

anyio_backend = on_all_loops


@define(eq=False)
class Note:
    name: str
    size_bytes: int = 1
    errors: list[Exception] = field(factory=list)

    def fail(self, error: Exception) -> None:
        self.errors.append(error)

    def __bool__(self) -> bool:
        # A message may be falsy; it is a message all the same.
        return False


def mailbox(messages_max: int = 3, bytes_max: int = 100) -> Mailbox[Note]:
    return Mailbox(messages_max=messages_max, bytes_max=bytes_max)


def names(notes: list[Note]) -> list[str]:
    return [note.name for note in notes]


class Senders:
    """Tasks that send one note each, and what became of them."""

    def __init__(self, box: Mailbox[Note], task_group: anyio.abc.TaskGroup) -> None:
        self.box = box
        self.sent: list[str] = []
        self.errors: list[Exception] = []
        self._task_group = task_group
        self._scopes: dict[str, anyio.CancelScope] = {}

    async def send(self, name: str, size_bytes: int = 1) -> None:
        self._scopes[name] = anyio.CancelScope()
        self._task_group.start_soon(self._send, Note(name, size_bytes))
        await anyio.wait_all_tasks_blocked()

    async def cancel(self, name: str) -> None:
        self._scopes[name].cancel()
        await anyio.wait_all_tasks_blocked()

    def cancel_now(self, name: str) -> None:
        self._scopes[name].cancel()

    async def _send(self, note: Note) -> None:
        with self._scopes[note.name]:
            try:
                await self.box.send(note)
            except MailboxClosedError as error:
                self.errors.append(error)
            else:
                self.sent.append(note.name)


async def test_messages_come_out_as_they_went_in() -> None:
    box = mailbox()
    for name in "abc":
        await box.send(Note(name))
    received = [await box.receive(), box.receive_nowait(), await box.receive()]
    assert [note.name for note in received if note is not None] == ["a", "b", "c"]
    assert box.receive_nowait() is None


async def test_no_room_by_count_refuses_and_sends_nothing() -> None:
    box = mailbox(messages_max=2)
    box.send_nowait(Note("a"))
    box.send_nowait(Note("b"))
    with pytest.raises(MailboxFullError, match="2 of 2 messages"):
        box.send_nowait(Note("c"))
    assert names(box.drain()) == ["a", "b"]


async def test_no_room_by_bytes_refuses_and_sends_nothing() -> None:
    box = mailbox(bytes_max=10)
    box.send_nowait(Note("a", 6))
    with pytest.raises(MailboxFullError, match="6 of 10 bytes"):
        box.send_nowait(Note("b", 5))
    box.send_nowait(Note("c", 4))
    assert names(box.drain()) == ["a", "c"]


async def test_a_message_larger_than_the_bound_is_let_in_when_the_mailbox_is_empty() -> None:
    box = mailbox(bytes_max=10)
    box.send_nowait(Note("huge", 1_000))
    with pytest.raises(MailboxFullError):
        box.send_nowait(Note("small", 1))
    assert names(box.drain()) == ["huge"]
    box.send_nowait(Note("small", 1))
    with pytest.raises(MailboxFullError):
        box.send_nowait(Note("huge", 1_000))


async def test_a_waiting_oversize_message_gets_in_once_the_mailbox_is_empty() -> None:
    box = mailbox(bytes_max=10)
    box.send_nowait(Note("first", 5))
    async with anyio.create_task_group() as task_group:
        senders = Senders(box, task_group)
        await senders.send("huge", 1_000)
        assert senders.sent == []
        assert (await box.receive()).name == "first"
        await anyio.wait_all_tasks_blocked()
        assert senders.sent == ["huge"]
    assert names(box.drain()) == ["huge"]


async def test_whoever_waits_longest_is_let_in_first_also_before_a_smaller_one() -> None:
    box = mailbox(messages_max=10, bytes_max=10)
    box.send_nowait(Note("a", 5))
    box.send_nowait(Note("b", 5))
    async with anyio.create_task_group() as task_group:
        senders = Senders(box, task_group)
        await senders.send("large", 10)
        await senders.send("small", 1)
        box.receive_nowait()
        await anyio.wait_all_tasks_blocked()
        assert senders.sent == []
        box.receive_nowait()
        await anyio.wait_all_tasks_blocked()
        assert senders.sent == ["large"]
        box.receive_nowait()
        await anyio.wait_all_tasks_blocked()
        assert senders.sent == ["large", "small"]
    box.drain()


async def test_nobody_overtakes_those_who_wait() -> None:
    box = mailbox(messages_max=10, bytes_max=10)
    box.send_nowait(Note("a", 8))
    async with anyio.create_task_group() as task_group:
        senders = Senders(box, task_group)
        await senders.send("waits", 5)
        with pytest.raises(MailboxFullError):
            box.send_nowait(Note("hasty", 1))
        await senders.send("later", 1)
        assert senders.sent == []
        box.drain()
    assert sorted(senders.sent) == ["later", "waits"]
    box.drain()


async def test_a_sender_cancelled_while_waiting_leaves_nothing_behind() -> None:
    box = mailbox(messages_max=1)
    box.send_nowait(Note("a"))
    async with anyio.create_task_group() as task_group:
        senders = Senders(box, task_group)
        await senders.send("b")
        await senders.cancel("b")
    assert box.statistics().waiting_senders == 0
    assert names(box.drain()) == ["a"]
    assert box.statistics().depth == box.statistics().bytes == 0


async def test_a_sender_cancelled_once_room_was_kept_for_it_passes_the_room_on() -> None:
    box = mailbox(messages_max=1)
    box.send_nowait(Note("a"))
    async with anyio.create_task_group() as task_group:
        senders = Senders(box, task_group)
        await senders.send("b")
        await senders.send("c")
        box.receive_nowait()  # keeps room for b, which has not run yet
        senders.cancel_now("b")
        await anyio.wait_all_tasks_blocked()
        # Which of two events at one instant wins is the event loop's affair; nobody is stuck.
        if "b" in senders.sent:
            box.receive_nowait()
            await anyio.wait_all_tasks_blocked()
        assert senders.sent[-1] == "c"
    assert names(box.drain()) == ["c"]
    assert box.statistics().bytes == 0


async def test_a_large_one_that_gives_up_lets_the_smaller_ones_behind_it_in() -> None:
    box = mailbox(messages_max=10, bytes_max=10)
    box.send_nowait(Note("a", 5))
    async with anyio.create_task_group() as task_group:
        senders = Senders(box, task_group)
        await senders.send("large", 10)
        await senders.send("small", 5)
        assert senders.sent == []
        await senders.cancel("large")
        assert senders.sent == ["small"]
    assert names(box.drain()) == ["a", "small"]


async def test_closing_wakes_waiting_senders_with_the_given_error() -> None:
    class GoneError(MailboxClosedError):
        pass

    box = mailbox(messages_max=1)
    box.send_nowait(Note("a"))
    async with anyio.create_task_group() as task_group:
        senders = Senders(box, task_group)
        await senders.send("b")
        await senders.send("c")
        box.close(GoneError)
    assert [type(error) for error in senders.errors] == [GoneError, GoneError]
    assert senders.errors[0] is not senders.errors[1]
    with pytest.raises(GoneError):
        box.send_nowait(Note("d"))
    with pytest.raises(GoneError):
        await box.send(Note("d"))
    assert names(box.drain()) == ["a"]


async def test_a_sender_let_in_at_the_moment_of_closing_is_told_and_sends_nothing() -> None:
    box = mailbox(messages_max=1)
    box.send_nowait(Note("a"))
    async with anyio.create_task_group() as task_group:
        senders = Senders(box, task_group)
        await senders.send("b")
        box.receive_nowait()
        box.close()
    assert senders.sent == []
    assert len(senders.errors) == 1
    assert box.drain() == []
    assert box.statistics().depth == box.statistics().bytes == 0


async def test_what_is_inside_a_closed_mailbox_is_received_before_its_end() -> None:
    box = mailbox()
    box.send_nowait(Note("a"))
    box.send_nowait(Note("b"))
    box.close()
    box.close()
    assert names(await box.receive_many(messages_max=1, bytes_max=100)) == ["a"]
    assert (await box.receive()).name == "b"
    with pytest.raises(anyio.EndOfStream):
        await box.receive()
    with pytest.raises(anyio.EndOfStream):
        await box.receive_many(messages_max=1, bytes_max=1)
    assert box.receive_nowait() is None


async def test_closing_wakes_a_reader_that_waits() -> None:
    box = mailbox()
    ended = False

    async def read() -> None:
        nonlocal ended
        with pytest.raises(anyio.EndOfStream):
            await box.receive()
        ended = True

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        box.close()
    assert ended


async def test_the_first_error_given_to_close_stands() -> None:
    box = mailbox()
    box.close(lambda: KeyError("first"))
    box.close(lambda: KeyError("second"))
    with pytest.raises(KeyError, match="first"):
        box.send_nowait(Note("a"))


async def test_receive_many_waits_for_one_and_takes_the_rest_that_is_there() -> None:
    box = mailbox(messages_max=10)
    for name in "abcde":
        box.send_nowait(Note(name))
    assert names(await box.receive_many(messages_max=3, bytes_max=100)) == ["a", "b", "c"]
    assert names(await box.receive_many(messages_max=3, bytes_max=100)) == ["d", "e"]
    got: list[list[str]] = []

    async def read() -> None:
        got.append(names(await box.receive_many(messages_max=3, bytes_max=100)))

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        assert got == []
        box.send_nowait(Note("f"))
    assert got == [["f"]]


async def test_receive_many_stops_with_the_message_that_reaches_the_bytes() -> None:
    box = mailbox(messages_max=10)
    for name in "abcd":
        box.send_nowait(Note(name, 4))
    assert names(await box.receive_many(messages_max=10, bytes_max=7)) == ["a", "b"]
    assert names(await box.receive_many(messages_max=10, bytes_max=1)) == ["c"]
    box.drain()


async def test_a_reader_cancelled_while_waiting_takes_nothing() -> None:
    box = mailbox()
    for receive in (box.receive, lambda: box.receive_many(messages_max=9, bytes_max=9)):
        with anyio.move_on_after(0) as scope:
            await receive()
        assert scope.cancelled_caught
    box.send_nowait(Note("a"))
    assert (await box.receive()).name == "a"


async def test_sending_where_there_is_room_is_no_checkpoint() -> None:
    box = mailbox()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await box.send(Note("a"))
    assert not scope.cancelled_caught
    assert names(box.drain()) == ["a"]


async def test_an_answer_wakes_nobody_but_those_who_await_it() -> None:
    box = mailbox()
    first, second = box.new_ack(), box.new_ack()
    answers: list[str] = []

    async def await_second() -> None:
        answers.append(await second)

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(await_second)
        await anyio.wait_all_tasks_blocked()
        first.resolve("first")
        await anyio.wait_all_tasks_blocked()
        assert answers == []
        second.resolve("second")
    assert answers == ["second"]


async def test_statistics_count_what_was_sent() -> None:
    box = mailbox()
    box.send_nowait(Note("a", 4))
    box.send_nowait(Note("b", 5))
    box.receive_nowait()
    statistics = box.statistics()
    assert (statistics.depth, statistics.bytes, statistics.sent) == (1, 5, 2)
    box.drain()


async def test_the_last_message_may_grow_until_it_is_taken() -> None:
    box = mailbox(bytes_max=10)
    first, last = Note("first", 2), Note("last", 3)
    assert not box.grow(first, 1)
    box.send_nowait(first)
    box.send_nowait(last)
    assert box.last is last
    assert not box.grow(first, 1)
    assert box.grow(last, 4)
    last.size_bytes += 4
    assert box.statistics().bytes == 9
    # There is no room for more than that.
    assert not box.grow(last, 2)
    assert box.receive_nowait() is first
    assert await box.receive_many(messages_max=5, bytes_max=100) == [last]
    assert not box.grow(last, 1)
    assert box.statistics().bytes == 0
    assert box.statistics().depth == 0


async def test_nothing_grows_while_others_wait_for_room_or_the_mailbox_is_closed() -> None:
    box = mailbox(messages_max=1)
    note = Note("note")
    box.send_nowait(note)
    async with anyio.create_task_group() as task_group:
        senders = Senders(box, task_group)
        await senders.send("waits")
        assert not box.grow(note, 1)
        await senders.cancel("waits")
    # Nobody asks again: what comes from now on is a message of its own.
    assert not box.grow(note, 1)
    assert box.receive_nowait() is note
    other = Note("other")
    box.send_nowait(other)
    assert box.grow(other, 1)
    other.size_bytes += 1
    box.close()
    assert not box.grow(other, 1)
    assert box.drain() == [other]
    assert box.statistics().bytes == 0


async def test_a_message_on_its_way_to_who_waits_for_it_may_still_grow() -> None:
    box = mailbox()
    note = Note("note")
    async with anyio.create_task_group() as task_group:

        async def receive() -> None:
            assert await box.receive() is note

        task_group.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        box.send_nowait(note)
        assert box.grow(note, 5)
        note.size_bytes += 5
    assert box.last is None
    assert box.statistics().bytes == 0


# --- room for what is made only when there is some ---


async def test_who_has_reserved_room_sends_at_once_and_in_the_order_of_that() -> None:
    box = mailbox(messages_max=1)
    first = Note("first")
    box.send_nowait(first)
    sent: list[Note] = []

    async def reserve_and_send(name: str) -> None:
        await box.reserve(1)
        note = Note(name)
        sent.append(note)
        box.send_reserved(note, 1)

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(reserve_and_send, "second")
        await anyio.wait_all_tasks_blocked()
        assert sent == []
        assert box.receive_nowait() is first
        await anyio.wait_all_tasks_blocked()
        assert [box.receive_nowait()] == sent
    assert (box.statistics().depth, box.statistics().bytes) == (0, 0)


async def test_room_that_is_given_back_is_there_for_the_next() -> None:
    box = mailbox(messages_max=1)
    await box.reserve(5)
    with pytest.raises(MailboxFullError):
        box.send_nowait(Note("waits"))
    box.give_back(5)
    await box.reserve(5)
    box.close()
    with pytest.raises(MailboxClosedError):
        box.send_reserved(Note("late"), 5)
    box.give_back(5)
    with pytest.raises(MailboxClosedError):
        await box.reserve(1)
    assert (box.statistics().depth, box.statistics().bytes) == (0, 0)


async def test_room_is_taken_at_once_or_not_at_all() -> None:
    box = mailbox(messages_max=2, bytes_max=10)
    assert box.reserve_nowait(6)
    assert not box.reserve_nowait(6)
    assert box.reserve_nowait(4)
    assert not box.reserve_nowait(0)
    box.give_back(4)
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(box.reserve, 10)
        await anyio.wait_all_tasks_blocked()
        assert not box.reserve_nowait(1), "who came first goes first"
        box.give_back(6)
    box.give_back(10)
    assert box.statistics().depth == box.statistics().bytes == 0
    box.close()
    with pytest.raises(MailboxClosedError):
        box.reserve_nowait(1)


async def read_into(box: Mailbox[Note], got: list[str], scope: anyio.CancelScope) -> None:
    with scope:
        got.append((await box.receive()).name)


async def test_a_reader_that_was_woken_before_it_was_cancelled_takes_the_message() -> None:
    box, got, scope = mailbox(), list[str](), anyio.CancelScope()
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(read_into, box, got, scope)
        await anyio.wait_all_tasks_blocked()
        box.send_nowait(Note("a"))
        scope.cancel()
    assert got == ["a"]
    assert box.statistics().depth == 0


def test_a_native_cancellation_loses_no_message_either() -> None:
    async def main() -> None:
        box, got = mailbox(), list[str]()
        reader = asyncio.create_task(read_into(box, got, anyio.CancelScope()))
        await anyio.wait_all_tasks_blocked()
        box.send_nowait(Note("a"))
        reader.cancel()
        await asyncio.wait([reader])
        assert reader.cancelled()
        assert got == []
        assert names(box.drain()) == ["a"]

    anyio.run(main)


async def test_the_next_reader_is_woken_though_the_one_before_was_cancelled_late() -> None:
    box, got = mailbox(), list[str]()
    first, second = anyio.CancelScope(), anyio.CancelScope()
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(read_into, box, got, first)
        await anyio.wait_all_tasks_blocked()
        first.cancel()
        task_group.start_soon(read_into, box, got, second)
        await anyio.wait_all_tasks_blocked()
        box.send_nowait(Note("a"))
    assert got == ["a"]
