"""Starting, following and ending real processes, with a guard against those that hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

__all__ = [
    "GUARD_SECONDS",
    "REPOSITORY",
    "Program",
    "loops",
    "on_both_backends",
    "on_both_loops",
]

REPOSITORY: Final = Path(__file__).parents[2]

#: Nothing here is waited for by time; this only turns a hang into a failure, also on a machine that
#: is slow and busy with something else.
GUARD_SECONDS: Final = 240.0

#: Both in `make crash`; else what takes long runs on one of them.
RUNS_LONG: Final = "MPREG_CRASH_KILLS" in os.environ


def loops(usual: str) -> list[str]:
    return ["asyncio", "trio"] if RUNS_LONG else [usual]


on_both_loops = pytest.mark.parametrize("loop", ["asyncio", "trio"])
on_both_backends = pytest.mark.parametrize("backend", ["sqlite", "file"])

#: The drivers of both backends on each loop. The journal's is the one that SQLite has on trio: on
#: asyncio as well it runs in `make crash`.
on_loops_and_backends = pytest.mark.parametrize(
    ("loop", "backend"),
    [
        ("asyncio", "sqlite"),
        ("trio", "sqlite"),
        ("trio", "file"),
        *([("asyncio", "file")] if RUNS_LONG else []),
    ],
)


class Program:
    """A process whose standard output is read line by line.

    Ended when the block ends, whatever happens; killed after the guard time, and told so.
    """

    def __init__(self, name: str, *arguments: object, guard_seconds: float = GUARD_SECONDS) -> None:
        self.command = [
            *(sys.executable, "-m", f"tests.e2e.programs.{name}"),
            *map(str, arguments),
        ]
        self.environment: dict[str, str] = {}
        """Set for it beside those of the test."""
        self._guard = threading.Timer(guard_seconds, self._hung)
        self._guard.daemon = True
        self.guard_hit = False

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self.command,
            cwd=REPOSITORY,
            env=os.environ | self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        # Read beside the test, or a program with much to say would wait for ever.
        self._errors: list[bytes] = []
        self._reading_errors = threading.Thread(target=self._read_errors, daemon=True)
        self._reading_errors.start()
        self._guard.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._guard.cancel()
        self._process.kill()
        self._process.wait()
        self._reading_errors.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def errors(self) -> str:
        """Its standard error; complete once it has ended."""
        return b"".join(self._errors).decode(errors="replace")

    def lines(self) -> Iterator[str]:
        """Its lines as they come, to the end. A last line that was cut off does not count."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith(b"\n"):
                yield line[:-1].decode()

    def line(self) -> str:
        """The next line.

        Raises:
            AssertionError: the program has ended, or was ended by the guard.
        """
        found = next(self.lines(), None)
        if found is None:
            code = self.wait()
            raise AssertionError(f"no line, exit code {code}: {self.errors}")
        return found

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit code.

        Raises:
            AssertionError: the guard had to end it.
        """
        code = self._process.wait()
        self._reading_errors.join()
        assert not self.guard_hit, f"{self.command} hung and was killed: {self.errors}"
        return code

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._errors.append(line)

    def _hung(self) -> None:
        self.guard_hit = True
        self._process.kill()
