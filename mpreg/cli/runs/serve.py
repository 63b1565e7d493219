"""Running a node until a signal says stop."""

from __future__ import annotations

import logging
import os
import resource
import secrets
import signal
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import attrs
import click
from anyio.abc import TaskStatus
from attrs import frozen

from mpreg.cli.decoding import as_json
from mpreg.clock import SystemClock
from mpreg.monitoring import configure_logs
from mpreg.persistence.engine import collapsed_groups
from mpreg.server import run_node
from mpreg.server.state import NodeState
from mpreg.settings import MPREGSettings
from mpreg.settings_source import SettingsSource

__all__ = ["serve", "settings_of"]

#: Of the store, its logs and the program itself.
FILES_BESIDE_CONNECTIONS: Final = 256


def serve(
    config_file: Path | None,
    data_dir: Path | None,
    options: Mapping[str, Any],
    *,
    is_json: bool,
) -> None:
    """
    Raises:
        ConfigurationError: the settings, or what they name, cannot be used.
        click.UsageError: no directory was named.
        MpregError: the node could not start, or its store failed.
    """
    settings = settings_of(config_file, data_dir, options, os.environ)
    configure_logs(
        SystemClock(),
        sys.stderr,
        format=settings.monitoring.log_format,
        level=settings.monitoring.log_level,
        colors=sys.stderr.isatty(),
    )
    _allow_files(settings.server.connections_max + FILES_BESIDE_CONNECTIONS)
    anyio.run(partial(_serve, settings, is_json=is_json), backend=settings.server.loop)


def _allow_files(wanted: int) -> None:
    """Each connection is an open file, and a store that cannot open its own must stop."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        logging.getLogger("mpreg.server").warning(
            "connections_max needs %s open files, and only %s are allowed: ulimit -n", wanted, hard
        )


def settings_of(
    config_file: Path | None,
    data_dir: Path | None,
    options: Mapping[str, Any],
    environment: Mapping[str, str],
) -> MPREGSettings:
    """Of the file, the environment, which wins over it, and the options, which win over both."""
    source = SettingsSource(None, {}) if config_file is None else SettingsSource.read(config_file)
    given = {("server", name): value for name, value in options.items() if value is not None}
    if data_dir is not None:
        # Relative to where it was typed, and not to the file.
        given["persistence", "data_dir"] = str(data_dir.absolute())
    settings = dict(source.settings)
    for (table, name), value in given.items():
        if isinstance(found := settings.get(table, {}), Mapping):
            settings[table] = {**found, name: value}
    source = attrs.evolve(source, settings=settings)
    hidden = {f"MPREG__{table}__{name}".upper() for table, name in given}
    environment = {name: text for name, text in environment.items() if name.upper() not in hidden}
    persistence = source.with_environment(environment).settings.get("persistence", {})
    is_table = isinstance(persistence, Mapping)
    if is_table and "data_dir" not in persistence and persistence.get("backend") != "memory":
        raise click.UsageError(
            "Missing option '--data-dir' (env var: 'MPREG_DATA_DIR'). It may also be data_dir in a "
            "--config file."
        )
    return MPREGSettings.from_source(source, environment=environment)


async def _serve(settings: MPREGSettings, *, is_json: bool) -> None:
    stop = anyio.Event()
    with collapsed_groups():
        async with anyio.create_task_group() as task_group:
            await task_group.start(_stop_on_signals, stop)
            await run_node(
                settings,
                clock=SystemClock(),
                make_token=partial(secrets.token_hex, 16),
                stop=stop,
                task_status=_Announcement(is_json),
            )
            task_group.cancel_scope.cancel()


@frozen
class _Announcement:
    """Says where the node listens, when it may be asked."""

    _is_json: bool

    def started(self, value: Any = None) -> None:
        assert isinstance(value, NodeState)
        fields = {"url": value.url, "name": value.settings.name, "pid": os.getpid()}
        click.echo(as_json(fields) if self._is_json else f"mpreg: ready on {value.url}")
        sys.stdout.flush()


async def _stop_on_signals(
    stop: anyio.Event, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """The first signal asks for an end, the second is one."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            if stop.is_set():
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            stop.set()
