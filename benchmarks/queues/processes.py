"""Measurements of queues in processes of their own."""

from __future__ import annotations

from benchmarks.processes import Measurer

_MEASURER = Measurer("benchmarks.queues.measure")
measure = _MEASURER.measure
run = _MEASURER.run
