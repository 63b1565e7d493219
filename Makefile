# `make demo` runs the main job, `make test` everything that CI checks. Both make .venv by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Tests start hundreds of processes: each would compile all of the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint typecheck unit browser servers bench simulate crash faults fuzz clean loops docs

demo: $(STAMP)
	$(BIN)/mpreg demo $(ARGS)

# Types are checked beside the tests: on its own that keeps one CPU busy, and the other one waiting.
test: lint
	$(MAKE) --no-print-directory --jobs=2 typecheck unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

typecheck: $(STAMP)
	$(BIN)/mypy

# One worker more than a small machine has CPUs: many tests wait for a process or a disk. Those of
# processes lie side by side and take longest: whoever has no more to do takes of them.
# Collected once before that, so that not each worker rewrites the assertions of all of them; what
# is wrong with one is told by the run itself.
unit: $(STAMP) browser
	$(BIN)/pytest --collect-only -qq > /dev/null || true
	$(BIN)/pytest -n 3 --dist worksteal $(ARGS)

# For the tests of the status page; it says why where there can be none.
browser:
	scripts/install-browser

# The long campaigns. `make test` runs a short, seeded part of each.
simulate: $(STAMP)
	MPREG_SIMULATION_SEEDS=$${SEEDS:-5000} MPREG_EXAMPLES=$${EXAMPLES:-20} \
		$(BIN)/pytest -n 2 tests/simulation tests/unit $(ARGS)

crash: $(STAMP)
	MPREG_CRASH_KILLS=$${KILLS:-60} $(BIN)/pytest tests/e2e $(ARGS)

faults: $(STAMP)
	MPREG_FAULT_STRIDE=$${STRIDE:-1} $(BIN)/pytest -n 2 tests/integration/test_refused_calls.py \
		tests/e2e/test_io_errors.py $(ARGS)

# Cases for each route in each part of a campaign against a node, on each loop.
fuzz: $(STAMP)
	MPREG_FUZZ_CASES=$${CASES:-100} MPREG_FUZZ_SEED=$${SEED:-0} $(BIN)/pytest -s \
		tests/e2e/test_fuzz.py $(ARGS)

# Everything on uvloop as well; `make test` has it in a few places.
loops: $(STAMP)
	MPREG_LOOPS=all $(BIN)/pytest -n 2 tests/unit tests/contract tests/integration $(ARGS)

# What a node over HTTP is measured beside; it says why where there can be none.
servers: $(VENV)/.bench-installed
	scripts/install-servers $(BIN)

# Takes a while; a smoke test of all of it: `make bench ARGS=--short`.
bench: $(VENV)/.bench-installed servers
	$(BIN)/python -m benchmarks $(ARGS)

# All pages as a site in build/site, from nothing: a warning is an error, and is told each time.
docs: $(VENV)/.docs-installed
	rm -rf build/site
	$(BIN)/python -m website build/site

# Nothing is compiled ahead: of all that is installed a small part is ever imported.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
		--editable '.[dev]'
	touch $@

$(VENV)/.docs-installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

$(VENV)/.bench-installed: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache demo-data bench-data
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
