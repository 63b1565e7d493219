"""The terminal of a reader: one shell for all commands of a page."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from attrs import frozen

__all__ = ["Done", "Shell"]

#: Only turns a hang into a failure.
GUARD_SECONDS: Final = 240.0

_END: Final = "-- the command has ended --"


@frozen
class Done:
    code: int
    output: str
    errors: str
    """All that was said on standard error so far."""


class Shell:
    """``/bin/sh``. What a command leaves in the background is there for those that follow, as are
    its variables. All that is still running ends with it, however the block ends."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = environment

    def __enter__(self) -> Self:
        # Appended to, for reading it moves the place that both share.
        self._errors = tempfile.TemporaryFile("a+", errors="replace")
        self._process = subprocess.Popen(
            ["/bin/sh"],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._kill()
        self._process.wait()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._errors.close()

    def run(self, command: str) -> Done:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # Not in a subshell: what it leaves in the background is `$!` afterwards.
        self._process.stdin.write(
            f"{{ {command}\n}} < /dev/null\nprintf '\\n%s %d\\n' '{_END}' $?\n"
        )
        self._process.stdin.flush()
        guard = threading.Timer(GUARD_SECONDS, self._kill)
        guard.start()
        lines: list[str] = []
        for line in self._process.stdout:
            if line.startswith(_END):
                guard.cancel()
                return Done(int(line.split()[-1]), "".join(lines), self._said())
            lines.append(line)
        guard.cancel()
        raise AssertionError(f"{command}: the shell has ended, or hung: {self._said()}")

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read()

    def _kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
