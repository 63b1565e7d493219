"""What the benchmark over HTTP reads out of the system calls of a server."""

from __future__ import annotations

from benchmarks.http.watch import count

PEER = "8<TCP:[127.0.0.1:7000->127.0.0.1:40000]>"
ASKED = f'10 read({PEER}, ""..., 20474) = 126'
NOTHING_THERE = f"10 read({PEER}, 0x3a4d, 128) = -1 EAGAIN (Resource temporarily unavailable)"
ANSWERED = f"10 writev({PEER}, [...], 3) = 268"
SYNCED = "11 fdatasync(7</data/appendonly.aof>) = 0"
SYNC_BEGUN = "11 fsync(9</data/mpreg.db-wal> <unfinished ...>"
SYNC_ENDED = "11 <... fsync resumed>) = 0"
OF_A_FILE = '10 write(7</data/appendonly.aof>, ""..., 190) = 190'


def found(*lines: str) -> tuple[int, int]:
    reading = count(line + "\n" for line in lines)
    return reading.synced_before, reading.syncs


def test_a_sync_between_a_request_and_its_answer_counts() -> None:
    assert found(ASKED, OF_A_FILE, SYNCED, ANSWERED, ASKED, SYNCED, ANSWERED) == (2, 2)


def test_a_sync_after_the_answer_is_too_late() -> None:
    assert found(ASKED, ANSWERED, SYNCED, ASKED, NOTHING_THERE, ANSWERED) == (0, 1)


def test_a_sync_that_has_only_begun_when_the_answer_leaves_is_too_late() -> None:
    assert found(ASKED, SYNC_BEGUN, ANSWERED, SYNC_ENDED) == (0, 1)
    assert found(ASKED, SYNC_BEGUN, NOTHING_THERE, SYNC_ENDED, ANSWERED) == (1, 1)


def test_a_read_that_another_thread_has_interrupted_is_a_request_when_it_ends() -> None:
    begun = f"10 read({PEER},  <unfinished ...>"
    ended = '10 <... read resumed>""..., 128) = 117'
    assert found(begun, SYNCED, ended, ANSWERED) == (0, 1)
    assert found(begun, ended, SYNCED, ANSWERED) == (1, 1)


def test_an_answer_in_several_writes_is_one_answer() -> None:
    assert found(ASKED, SYNCED, ANSWERED, ANSWERED, ASKED, ANSWERED) == (1, 1)


def test_what_threads_tell_each_other_is_neither_request_nor_answer() -> None:
    woken = '10 recvfrom(4<UNIX-STREAM:[1->2]>, ""..., 4096, 0, NULL, NULL) = 1'
    wakes = '11 sendto(5<UNIX-STREAM:[2->1]>, ""..., 1, 0, NULL, 0) = 1'
    assert found(ASKED, wakes, woken, SYNCED, wakes, woken, ANSWERED, wakes, woken) == (1, 1)


def test_a_write_to_a_file_is_no_answer() -> None:
    assert found(ASKED, OF_A_FILE, SYNCED) == (0, 1)
