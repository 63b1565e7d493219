"""From the options of a command to its exit code: settings, event loop, output, errors."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from mpreg.cli.exits import DAMAGED, OK, told
from mpreg.cli.logs import logs_as_notes
from mpreg.cli.loops import run
from mpreg.cli.options import Common

__all__ = ["execute"]


def execute(
    common: Common,
    runner: str,
    *,
    is_paged: bool = False,
    needs_store: bool = True,
    instead: str | None = None,
    interrupted: str | None = None,
    **named: Any,
) -> NoReturn:
    """Run what a command does, and exit with what it came to.

    ``runner`` is ``module:function`` below ``mpreg.cli.runs``: imported here and no earlier, so
    that help and completion stay quick. The function is async and takes the settings (without
    ``needs_store`` the options instead), the output, and ``named``; it returns an exit code, or
    None where the output knows it.
    """
    with (
        told(is_json=common.is_json, instead=instead, interrupted=interrupted),
        logs_as_notes(is_json=common.is_json),
    ):
        from mpreg.cli.output import opened_output
        from mpreg.cli.settings import Settings

        module, name = runner.split(":")
        function: Callable[..., Awaitable[int | None]] = getattr(
            importlib.import_module(f"mpreg.cli.runs.{module}"), name
        )
        first = Settings.of(common) if needs_store else common
        codes: list[int | None] = []
        with opened_output(is_json=common.is_json, paged=is_paged) as output:

            async def work() -> None:
                codes.append(await function(first, output, **named))

            run(common.loop, work)
        if output.damaged:
            output.note(f"{output.damaged} damaged items were met and passed over; see above")
    code = next((code for code in codes if code is not None), None)
    sys.exit(code if code is not None else DAMAGED if output.damaged else OK)
