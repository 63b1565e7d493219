"""Runs of an async program that are a function of a seed.

Everything that decides how a program runs is taken in hand: which of the ready tasks trio runs
next, what time it is (virtual, and free: nobody sleeps), and every random number, provided that
the program takes them from the `Simulation`. What is not in hand is threads; a simulated program
must not start any.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, NoReturn, TypeVar

import trio
import trio.testing
from trio._core import _run as trio_run

from mpreg.testing.clock import VirtualClock

__all__ = ["Simulation", "SimulationStuckError", "seeded_scheduler"]

T = TypeVar("T")

#: Lines of the trace that are shown with a failure.
TRACE_LINES_SHOWN = 40


class SimulationStuckError(AssertionError):
    """Somebody waits for what never comes, or runs in a circle: a run has reached its limits."""


@contextmanager
def seeded_scheduler(seed: int) -> Iterator[None]:
    """Make trio's choice among ready tasks a function of the seed, for the time of the block."""
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate()
    # Without this switch the tasks of a batch are shuffled from the order of a set, which is an
    # order of addresses in memory.
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run._r.seed(seed)
    try:
        yield
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before[0]  # type: ignore[misc]
        trio_run._r.setstate(before[1])


class _Steps(trio.abc.Instrument):
    """Counts the steps of all tasks, and cuts the power before a chosen one."""

    def __init__(
        self, count: Callable[[], None], crash_at_step: int | None, crash: Callable[[], None]
    ) -> None:
        self._count = count
        self._left = crash_at_step
        self._crash = crash
        self.counting = False

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if not self.counting:
            return
        self._count()
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                self._left = None
                self._crash()


class Simulation:
    """One seed, one course of events: `run` it as often as the story has processes.

    ::

        simulation = Simulation(seed)
        disk = SimulatedDisk(simulation.stream("disk"))
        simulation.run(first_life, crash_at_step=500, on_crash=disk.cut_power)
        simulation.run(second_life)

    All runs share the random streams, the wall clock and the trace. Whatever fails carries the
    seed and the end of the trace as a note; the same seed fails again in the same way.
    """

    def __init__(
        self,
        seed: int,
        *,
        seconds_max: float = 1e6,
        steps_max: int = 20_000_000,
        trace_steps: bool = False,
    ) -> None:
        """``seconds_max`` of virtual time in one run, or ``steps_max`` in all, mean that somebody
        is stuck: waits for ever, or never waits. ``trace_steps`` adds a line for every step of
        every task to the trace."""
        self.seed = seed
        self.clock = VirtualClock()
        self.trace: list[str] = []
        self.crashed = False
        """Whether the last run ended by its crash."""
        self.steps = 0
        """Task steps of all runs."""
        self._seconds_max = seconds_max
        self._steps_max = steps_max
        self._trace_steps = trace_steps
        self._runs = itertools.count()
        self._streams: dict[str, Random] = {}
        self._stuck = False

    def stream(self, name: str) -> Random:
        """A random stream of its own, so that one more draw here changes nothing there."""
        if name not in self._streams:
            self._streams[name] = Random(f"{self.seed}/{name}")
        return self._streams[name]

    def record(self, event: str) -> None:
        """Add an event to the trace, with the step and the wall time at which it happened."""
        self.trace.append(f"{self.steps:>7} {self.clock.wall():.6f} {event}")

    def run(
        self,
        function: Callable[..., Awaitable[T]],
        *arguments: Any,
        crash_at_step: int | None = None,
        on_crash: Callable[[], None] = lambda: None,
    ) -> T | None:
        """Run an async function to its end, or to its crash, and then return None.

        The crash comes before the ``crash_at_step``-th step of the run's tasks, wherever they are.
        ``on_crash`` is called first, to take the disk away. All tasks are cancelled after that
        only because Python cannot stop them on the spot: what they still do, and which errors they
        meet, is of no account.

        Raises:
            SimulationStuckError: ``seconds_max`` or ``steps_max`` are over.
            Exception: whatever the function raises, with the seed as a note.
        """
        self.crashed = self._stuck = False
        try:
            return self._run(function, arguments, crash_at_step, on_crash)
        except Exception as error:
            self._explain(error)
            raise

    def _run(
        self,
        function: Callable[..., Awaitable[T]],
        arguments: tuple[Any, ...],
        crash_at_step: int | None,
        on_crash: Callable[[], None],
    ) -> T | None:
        virtual_time = trio.testing.MockClock(autojump_threshold=0)
        process = trio.CancelScope()

        def crash() -> None:
            self.record("CRASH")
            self.crashed = True
            on_crash()
            process.cancel()

        def count() -> None:
            self.steps += 1
            if self.steps == self._steps_max:
                self._stuck = True
                process.cancel()
            if self._trace_steps:
                self.record(f"step of {trio.lowlevel.current_task().name}")

        steps = _Steps(count, crash_at_step, crash)
        seed = self.stream(f"scheduler {next(self._runs)}").getrandbits(64)
        with seeded_scheduler(seed), self._following(virtual_time.current_time):
            try:
                result = trio.run(
                    self._process,
                    process,
                    steps,
                    function,
                    arguments,
                    clock=virtual_time,
                    instruments=[steps],
                )
            except Exception as error:
                if not self.crashed or self._stuck or isinstance(error, trio.TrioInternalError):
                    raise
                return None
        if self._stuck:
            raise SimulationStuckError(
                f"not at its end after {self._seconds_max} virtual seconds, or {self.steps} steps"
            )
        return None if self.crashed else result

    async def _process(
        self,
        process: trio.CancelScope,
        steps: _Steps,
        function: Callable[..., Awaitable[T]],
        arguments: tuple[Any, ...],
    ) -> T | None:
        trio.lowlevel.spawn_system_task(self._watch, process, trio.lowlevel.current_task())
        with process:
            steps.counting = True
            return await function(*arguments)
        return None

    async def _watch(self, process: trio.CancelScope, main: trio.lowlevel.Task) -> None:
        # Also what makes a stuck run end at all: without any deadline, virtual time stands still.
        await trio.sleep(self._seconds_max)
        self._stuck = True
        process.cancel()
        await trio.sleep(self._seconds_max)
        for task in list(_family(main)):
            _interrupt(task)

    @contextmanager
    def _following(self, monotonic: Callable[[], float]) -> Iterator[None]:
        self.clock.follow(monotonic)
        try:
            yield
        finally:
            self.clock.pause()

    def _explain(self, error: BaseException) -> None:
        error.add_note(
            f"simulation seed {self.seed}: run it again with Simulation({self.seed}); "
            f"the last events were\n" + "\n".join(self.trace[-TRACE_LINES_SHOWN:])
        )


def _family(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _family(child)


def _interrupt(task: trio.lowlevel.Task) -> None:
    """Raise in a task where it waits, though it be behind a shield: its traceback shows where."""

    def stuck() -> NoReturn:
        raise SimulationStuckError("cancelled, and still waiting here")

    if task._abort_func is not None:
        task._attempt_abort(stuck)
