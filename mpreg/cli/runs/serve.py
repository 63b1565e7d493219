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
import click
from anyio.abc import TaskStatus
from attrs import frozen

from mpreg.cli.decoding import as_json
from mpreg.cli.service_manager import ServiceManager
from mpreg.cli.settings import DATA_DIR, NONE_NAMED
from mpreg.cli.variables import near_misses
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
    for miss in near_misses(os.environ):
        logging.getLogger("mpreg.cli").warning("%s", miss)
    _allow_files(settings.server.connections_max + FILES_BESIDE_CONNECTIONS)
    manager = ServiceManager.of(os.environ)
    anyio.run(partial(_serve, settings, manager, is_json=is_json), backend=settings.server.loop)


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
    source = SettingsSource() if config_file is None else SettingsSource.read(config_file)
    source = source.with_environment(environment)
    if data_dir is not None:
        source = source.with_value(DATA_DIR, data_dir, "--data-dir")
    for name, value in options.items():
        if value is not None:
            source = source.with_value(("server", name), value, f"--{name}")
    in_memory = source.found("persistence", "backend") == "memory"
    if in_memory or source.is_written(*DATA_DIR):
        return MPREGSettings.from_source(source)
    # What else is wrong is told first: it may be why none was found.
    MPREGSettings.from_source(source.with_value(DATA_DIR, Path(), ""))
    raise click.UsageError(NONE_NAMED)


async def _serve(settings: MPREGSettings, manager: ServiceManager, *, is_json: bool) -> None:
    stop = anyio.Event()
    with collapsed_groups():
        async with anyio.create_task_group() as task_group:
            await task_group.start(_stop_on_signals, stop, manager)
            await run_node(
                settings,
                clock=SystemClock(),
                make_token=partial(secrets.token_hex, 16),
                chance=secrets.SystemRandom().random,
                stop=stop,
                task_status=_Announcement(is_json, manager),
            )
            task_group.cancel_scope.cancel()


@frozen
class _Announcement:
    """Says where the node listens, when it may be asked."""

    _is_json: bool
    _manager: ServiceManager

    def started(self, value: Any = None) -> None:
        assert isinstance(value, NodeState)
        fields = {"url": value.url, "name": value.settings.name, "pid": os.getpid()}
        click.echo(as_json(fields) if self._is_json else f"mpreg: ready on {value.url}")
        sys.stdout.flush()
        self._manager.ready(value.url)


async def _stop_on_signals(
    stop: anyio.Event,
    manager: ServiceManager,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """The first signal asks for an end, the second is one."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            if stop.is_set():
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            stop.set()
            manager.stopping()
