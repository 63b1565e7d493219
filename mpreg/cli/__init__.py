"""The command line. Importing it is cheap; everything heavy is imported by what is run."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """The ``mpreg`` command."""
    from mpreg.cli.app import mpreg

    mpreg(prog_name="mpreg")
