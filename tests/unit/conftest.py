"""One Hypothesis profile for the pure tests: many small examples, and no clock among the judges."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from tests.unit.examples import examples

settings.register_profile(
    "unit",
    # The same examples each time: what fails, fails for everyone.
    derandomize=os.environ.get("MPREG_HYPOTHESIS") != "random",
    max_examples=examples(100),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("unit")
