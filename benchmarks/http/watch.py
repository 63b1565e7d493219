"""What is on disk when a reply leaves: the system calls of a server, one request after the other.

Each server runs under strace, with one connection that waits for each answer. For a request, a sync
that ended after it was read and before the first byte of its reply was written counts as before
the reply; one that ended later came too late for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import anyio
from attrs import define, field

from benchmarks.http.clients import Worker, open_workers
from benchmarks.http.load import generator, prepare
from benchmarks.http.servers import program, running
from benchmarks.http.workload import CYCLES, PHASES

STEPS: Final = ("send", "receive", "acknowledge")

_SYNCS: Final = ("fsync", "fdatasync", "sync_file_range", "msync")
_READS: Final = ("read", "readv", "recvfrom", "recvmsg")
_WRITES: Final = ("write", "writev", "sendto", "sendmsg")

#: -D: the process that is started is the server, so that the signal that stops it reaches it.
_STRACE: Final = ("strace", "-D", "-f")

#: For what a server puts off to be done and told before the next step: nats writes some ten times
#: a second.
SETTLE_SECONDS: Final = 1.0

#: A call of one thread, as strace has it with -f and -yy; the second half of one that was
#: interrupted by another thread's has no descriptor.
_CALL: Final = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(?: resumed>|\((\d+<TCP)?)")

_READ_SOME: Final = re.compile(r" = [1-9][0-9]*$")


def can_watch() -> str | None:
    """Why it cannot be done here; None where it can."""
    return None if program("strace") else "there is no strace; see scripts/install-servers"


def watch(contender: str, directory: Path, requests: int) -> dict[str, Reading]:
    """So many sends, then their receives, then their acknowledgements."""
    calls = directory / "calls"
    calls.touch()
    names = ",".join((*_SYNCS, *_READS, *_WRITES))
    strace = [*_STRACE, "-yy", "-s", "0", "-o", str(calls), "-e", f"trace={names}"]
    with running(contender, directory, strace) as server:
        assert server is not None
        prepare(contender, server)
        parts = anyio.run(_run_steps, contender, server.port, requests, calls)
    return {step: count(parts[step]) for step in STEPS}


def count_syncs(
    contender: str, directory: Path, connections: int, seconds: float
) -> dict[str, float]:
    """Phase → operations for each sync, with so many connections at once."""
    calls = directory / "calls"
    strace = [*_STRACE, "--seccomp-bpf", "-o", str(calls), "-e", f"trace={','.join(_SYNCS)}"]
    found: dict[str, float] = {}
    with running(contender, directory, strace) as server:
        assert server is not None
        prepare(contender, server)
        with generator(contender, server, directory, connections) as client:
            for phase in PHASES:
                before = count(_lines(calls, 0)).syncs
                client.begin(phase, seconds)
                operations = json.loads(client.line())["operations"]
                found[phase] = operations / max(1, count(_lines(calls, 0)).syncs - before)
    return found


async def _run_steps(contender: str, port: int, requests: int, calls: Path) -> dict[str, list[str]]:
    """The lines of each step."""
    async with open_workers(contender, str(port), 1) as [worker]:
        await worker.send(CYCLES)
        await worker.acknowledge(await worker.receive())
        parts: dict[str, list[str]] = {}
        held: list[Any] = []
        for step in STEPS:
            await anyio.sleep(SETTLE_SECONDS)
            begins = calls.stat().st_size
            for number in range(requests):
                await _make(step, worker, held, number)
            await anyio.sleep(SETTLE_SECONDS)
            parts[step] = _lines(calls, begins)
        return parts


async def _make(step: str, worker: Worker, held: list[Any], number: int) -> None:
    if step == "send":
        await worker.send(CYCLES)
    elif step == "receive":
        held.append(await worker.receive())
    else:
        await worker.acknowledge(held[number])


# --- reading what strace has told ---


def _lines(calls: Path, begins: int) -> list[str]:
    with calls.open() as file:
        file.seek(begins)
        return file.readlines()


def count(lines: Iterable[str]) -> Reading:
    """The requests of one connection, and the syncs."""
    reading = Reading()
    for line in lines:
        reading.take(line)
    return reading


@define
class Reading:
    """Requests are told apart by their order: read, worked on, answered, read …"""

    syncs: int = 0
    """All that ended."""
    synced_before: int = 0
    """Requests for which one had ended when their answer left."""
    _is_asked: bool = False
    _is_synced: bool = False
    _interrupted: set[str] = field(factory=set)
    """Threads that read from a client, and have been told of only by half."""

    def take(self, line: str) -> None:
        found = _CALL.match(line)
        if found is None:
            return
        thread, name, peer = found.groups()
        if name in _SYNCS:
            self._sync(has_ended="unfinished" not in line)
        elif name in _READS:
            self._read(thread, line, has_peer=peer is not None)
        elif self._is_asked and peer is not None:
            self.synced_before += self._is_synced
            self._is_asked = False

    def _sync(self, *, has_ended: bool) -> None:
        self.syncs += has_ended
        self._is_synced |= has_ended

    def _read(self, thread: str, line: str, *, has_peer: bool) -> None:
        if "unfinished" in line:
            if has_peer:
                self._interrupted.add(thread)
            return
        if "resumed>" in line:
            has_peer = thread in self._interrupted
            self._interrupted.discard(thread)
        # Not where there was nothing to read.
        if has_peer and _READ_SOME.search(line):
            self._is_asked, self._is_synced = True, False
