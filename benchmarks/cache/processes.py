"""Measurements of caches in processes of their own."""

from __future__ import annotations

from benchmarks.processes import Measurer

_MEASURER = Measurer("benchmarks.cache.measure")
measure = _MEASURER.measure
run = _MEASURER.run
