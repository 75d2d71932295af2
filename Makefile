# `make demo` and `make test` are all that a newcomer needs; both make the environment first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
DEMO_RUNS := mind sdm
# Tests without Ray, on two cores with one thread each; the others share one cluster, one after the other.
PLAIN := tests/unit tests/contract tests/property tests/learning
PYTEST := $(BIN)/python -m pytest -m "not gpu and not chaos"

.PHONY: demo test setup check bench chaos clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(INSTALLED)

demo: setup
	for model in $(DEMO_RUNS); do \
		$(BIN)/python jobs/pipeline.py --run jobs/runs/$${model}_completejourney_q1.toml --out runs/demo/$$model || exit $$?; \
	done
	$(BIN)/python jobs/report.py $(DEMO_RUNS:%=runs/demo/%) --out runs/demo

test: setup
	OMP_NUM_THREADS=1 $(PYTEST) --numprocesses 2 --dist worksteal $(PLAIN)
	$(PYTEST) $(PLAIN:%=--ignore=%)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(PYTEST) --quiet --numprocesses 2 --dist worksteal $(filter-out tests/learning,$(PLAIN))

bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[bench]"
	$(BIN)/python benchmarks/run.py

chaos: setup
	$(BIN)/python -m pytest tests/chaos

clean:
	rm -rf .venv runs .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
