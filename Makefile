# Two commands matter: `make demo` and `make test`. Both work on a fresh clone and need only python3 (3.11+) and make.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Twice quiet: warnings about how this machine finds packages are nobody else's business. Errors still show.
PIP    := $(BIN)/python -m pip -qq --no-input --disable-pip-version-check

SEEDS  ?= 500
FIRST  ?= 0
PYTEST ?=

CONFIGS ?=
SECONDS ?=
SEED    ?= 1
CHAOS   ?=

ALONE  := tests/chaos tests/cli tests/client tests/nodes tests/process tests/transport tests/bench/test_mesh_row.py tests/test_examples.py tests/test_testing.py

.DEFAULT_GOAL := help
.PHONY: help demo test check install sim bench bench-guard chaos

help:
	@echo 'make demo      a three-node mesh does real work, loses its leader, loses nothing'
	@echo 'make test      every test that gates a change         (PYTEST="-x -k word" is passed on)'
	@echo 'make check     format, lint, types, architecture'
	@echo 'make install   the virtual environment at $(VENV), with what developers need'
	@echo 'make sim       SEEDS=500 FIRST=0: that many simulated runs, from that seed on'
	@echo 'make bench     the numbers         (make bench-guard: is a task dearer than when it was last written down?)'
	@echo 'make chaos     CONFIGS="kills-3 halves-5" SECONDS=90 SEED=1: real processes, real faults; an hour for all of it'

# The demo needs what a user needs and a progress bar, no more.
demo: $(VENV)/.runtime
	@$(BIN)/mesh demo

# What runs in one process runs on all cores. What starts processes of its own is held to times, so it runs alone, but for
# 500 simulated runs that take what time it leaves them. (5: -k found nothing there.)
test: check
	$(BIN)/python -m pytest -q -n auto $(ALONE:%=--ignore=%) $(PYTEST) || test $$? = 5
ifdef PYTEST
	$(BIN)/python -m pytest -q $(ALONE) $(PYTEST) || test $$? = 5
else
	@nice -n 19 $(BIN)/python -m mesh.sim campaign --seeds 500 --jobs 1 >$(VENV)/seeds.log 2>&1 & seeds=$$!; \
	$(BIN)/python -m pytest -q $(ALONE) || { kill $$seeds; exit 1; }; \
	wait $$seeds; failed=$$?; tail -n 1 $(VENV)/seeds.log; \
	test $$failed = 0 || { cat $(VENV)/seeds.log; exit 1; }
endif

check: install
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_architecture.py

install: $(VENV)/.dev
	@:

sim: install
	$(BIN)/python -m mesh.sim campaign --seeds $(SEEDS) --first $(FIRST)

bench: install
	$(BIN)/mesh bench

# Gates nothing: a busy machine moves what it compares.
bench-guard: install
	$(BIN)/python -m bench.guard

# Without CONFIGS and SECONDS: all of them, held to the whole bar (1,000,000 submits, 1,000 kills and pauses).
chaos: install
	$(BIN)/python -m tests.chaos $(CONFIGS) $(if $(SECONDS),--seconds $(SECONDS)) --seed $(SEED) $(CHAOS)

# Stamps: the second time costs nothing. pip is the last thing venv makes, so its presence means the venv is whole.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) install --constraint constraints.txt --editable '.[rich]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $(VENV)/.runtime $@
