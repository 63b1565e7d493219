"""The command line. Importing it is cheap; everything heavy is imported by what is run."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """The ``mpreg`` command."""
    try:
        from mpreg.cli.streams import open_standard_streams

        open_standard_streams()
        from mpreg.cli.app import mpreg

        mpreg(prog_name="mpreg")
    except KeyboardInterrupt:
        # Still being imported. What is run tells of it by itself, in the same way.
        sys.stderr.write("interrupted\n")
        sys.exit(130)
