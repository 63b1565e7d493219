"""The runner: a run is a function of its seed, time is virtual, and a crash ends it anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from trio._core import _run as trio_run

from mpreg.testing import Simulation, SimulationStuckError, seeded_scheduler
from tests.simulation.story import Story

TASKS = 6


async def _race(simulation: Simulation) -> list[int]:
    order: list[int] = []

    async def run(number: int) -> None:
        for _ in range(5):
            await anyio.sleep(0)
            order.append(number)
        simulation.record(f"{number} is done")

    async with anyio.create_task_group() as task_group:
        for number in range(TASKS):
            task_group.start_soon(run, number)
    return order


def _order(seed: int) -> list[int]:
    simulation = Simulation(seed)
    order = simulation.run(_race, simulation)
    assert order is not None
    return order


def test_the_same_seed_gives_the_same_schedule_and_trace() -> None:
    first, second = Simulation(7, trace_steps=True), Simulation(7, trace_steps=True)
    assert first.run(_race, first) == second.run(_race, second)
    assert first.trace == second.trace
    assert len(first.trace) > 5 * TASKS


def test_different_seeds_give_different_schedules() -> None:
    assert len({tuple(_order(seed)) for seed in range(50)}) > 45


def test_two_runs_of_one_simulation_differ_in_their_schedules() -> None:
    simulation = Simulation(7)
    assert simulation.run(_race, simulation) != simulation.run(_race, simulation)


@pytest.mark.parametrize("seed", range(4))
def test_a_whole_story_is_told_again_word_by_word(seed: int) -> None:
    first = Story(seed, trace_steps=True).tell()
    second = Story(seed, trace_steps=True).tell()
    assert first.simulation.trace == second.simulation.trace
    assert first.counts == second.counts


def test_different_seeds_tell_different_stories() -> None:
    traces = {tuple(Story(seed).tell().simulation.trace) for seed in range(10)}
    assert len(traces) == 10


def test_another_process_tells_the_same_story() -> None:
    """Not even the hashes of strings, which Python seeds anew for each process, may matter."""
    program = (
        "import logging; logging.disable()\n"
        "from tests.simulation.story import Story\n"
        "for seed in range(3): print(*Story(seed, trace_steps=True).tell().simulation.trace)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2],
            check=True,
            capture_output=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert outputs != {b""}


def test_trio_is_as_it_was_afterwards() -> None:
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate()
    with pytest.raises(ZeroDivisionError), seeded_scheduler(1):
        raise ZeroDivisionError
    assert before == (trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate())


def test_random_streams_are_independent_of_each_other() -> None:
    first, second = Simulation(3), Simulation(3)
    first.stream("faults").random()
    assert first.stream("callers").random() == second.stream("callers").random()
    assert first.stream("callers") is first.stream("callers")


def test_virtual_time_costs_none_and_the_wall_clock_goes_on_over_runs() -> None:
    simulation = Simulation(0)
    started = simulation.clock.wall()
    simulation.run(anyio.sleep, 3_600.0)
    simulation.run(anyio.sleep, 3_600.0)
    assert simulation.clock.wall() == started + 7_200
    simulation.clock.jump(-10_000)
    assert simulation.clock.wall() == started - 2_800


def test_a_failure_carries_its_seed_and_the_last_events() -> None:
    simulation = Simulation(41)

    async def fail() -> None:
        simulation.record("about to fail")
        await anyio.sleep(0)
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose") as caught:
        simulation.run(fail)
    (note,) = caught.value.__notes__
    assert "simulation seed 41" in note
    assert "about to fail" in note


def test_whoever_waits_for_ever_is_told_of() -> None:
    with pytest.raises(SimulationStuckError):
        Simulation(0).run(anyio.sleep_forever)


def test_whoever_runs_in_a_circle_is_told_of() -> None:
    async def run_in_a_circle() -> None:
        while True:
            await anyio.sleep(0)

    with pytest.raises(SimulationStuckError, match="steps"):
        Simulation(0, steps_max=1_000).run(run_in_a_circle)


def test_whoever_waits_for_ever_behind_a_shield_is_told_of_too() -> None:
    async def hide() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep_forever()

    with pytest.raises(SimulationStuckError, match="still waiting here") as caught:
        Simulation(0).run(hide)
    assert "hide" in [frame.name for frame in caught.traceback]


def test_a_crash_ends_the_run_at_its_step_wherever_the_tasks_are() -> None:
    whole = Simulation(5)
    whole.run(_race, whole)
    for step in range(1, whole.steps + 1):
        simulation = Simulation(5)
        crashes: list[int] = []
        result = simulation.run(
            _race,
            simulation,
            crash_at_step=step,
            on_crash=lambda crashes=crashes, simulation=simulation: crashes.append(  # type: ignore[misc]
                simulation.steps
            ),
        )
        assert result is None
        assert simulation.crashed
        assert crashes == [step]


def test_what_a_crashed_program_raises_is_of_no_account() -> None:
    async def complain() -> None:
        try:
            while True:
                await anyio.sleep(1)
        finally:
            raise ValueError("somebody pulled the plug")

    simulation = Simulation(0)
    assert simulation.run(complain, crash_at_step=10) is None
    assert simulation.crashed


def test_a_run_that_ends_before_its_crash_returns_its_result() -> None:
    simulation = Simulation(5)
    assert simulation.run(_race, simulation, crash_at_step=10_000) is not None
    assert not simulation.crashed
