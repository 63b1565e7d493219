"""A node from its start to its end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import anyio
from anyio.abc import TaskStatus

from mpreg.clock import Clock
from mpreg.errors import ConfigurationError
from mpreg.persistence.engine import collapsed_groups
from mpreg.server.app import App
from mpreg.server.connections import Connections, listening_socket, make_connections, url_of
from mpreg.server.state import NodeState, Phase
from mpreg.settings import MPREGSettings

__all__ = ["run_node"]

log = logging.getLogger("mpreg.server")

#: For connections whose requests were cancelled to say so, before they are cut.
LAST_WORDS_SECONDS: Final = 1.0


async def run_node(
    settings: MPREGSettings,
    *,
    clock: Clock,
    make_token: Callable[[], str],
    chance: Callable[[], float] = lambda: 1.0,
    stop: anyio.Event | None = None,
    task_status: TaskStatus[NodeState] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Run a node until ``stop`` is set; for a nursery. Started when everything is restored.

    It listens from the first moment, but only its health routes answer before that: a load balancer
    can look, and nobody else has to try again for a port. ``make_token`` gives what
    nobody can guess: `secrets.token_hex`, unless this is a test. ``chance`` gives a number from
    0 to 1, another one each time, for the pauses between questions to peers: `random.random`.

    When ``stop`` is set nothing new is taken, waits end empty, streams end, and requests under way
    have ``grace_seconds``; then the registry closes, which commits and acks what it accepted.
    Cancelled, all of it ends at once, and the registry closes the same way.

    Raises:
        ConfigurationError: before it has started: a token, the certificate or the address cannot be
            used, or a queue is there and cannot become what the settings say.
        Exception: before it has started, what opening a registry raises; later, what made the
            registry's writer give up.
    """
    stop = anyio.Event() if stop is None else stop
    state = NodeState.of(settings, clock=clock, make_token=make_token, chance=chance)
    connections = make_connections(App(state), settings.server)
    # Twice: there is a group in a group.
    with listening_socket(settings.server) as listening, collapsed_groups(), collapsed_groups():
        state.url = url_of(listening, settings.server)
        state.fabric.url = settings.advertised_url or state.url
        async with anyio.create_task_group() as task_group:
            await task_group.start(connections.serve, listening)
            try:
                await _run(state, connections, stop, task_status)
            finally:
                connections.cut()
                task_group.cancel_scope.cancel()
    # Not said of a node that was killed, or failed, on its way.
    log.info("stopped")


async def _run(
    state: NodeState,
    connections: Connections,
    stop: anyio.Event,
    task_status: TaskStatus[NodeState],
) -> None:
    async with anyio.create_task_group() as task_group:
        starting = anyio.CancelScope()
        task_group.start_soon(_cancel_when, stop, starting)
        with starting:
            await task_group.start(state.registry.serve)
            state.monitor.start()
            await _make_queues(state)
            await task_group.start(state.peers.run)
            state.phase = Phase.READY
            task_status.started(state)
            log.info("ready on %s", state.url)
        if state.phase is Phase.READY:
            await stop.wait()
        await _stop(state, connections)
        task_group.cancel_scope.cancel()


async def _make_queues(state: NodeState) -> None:
    for name, configuration in state.settings.queues.items():
        try:
            await state.queues.create_queue(name, configuration)
        except ConfigurationError as error:
            raise ConfigurationError(f"mpreg.queues.{name}: {error}", error.setting) from error


async def _cancel_when(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _stop(state: NodeState, connections: Connections) -> None:
    log.info("stopping")
    state.begin_to_stop()
    with anyio.move_on_after(state.settings.server.grace_seconds):
        await connections.stop()
        return
    log.warning("%s requests are cut short: the grace time is over", state.requests)
    state.end_requests()
    with anyio.move_on_after(LAST_WORDS_SECONDS):
        await connections.stop()
    connections.cut()
