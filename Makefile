# From a fresh clone: `make demo` shows the library, `make test` checks it.

PYTHON ?= python3
BIN := .venv/bin
# Tests run in one process per core, each with one thread; a process takes the tests
# of a class or a file together, so that they share what their fixtures build.
PARALLEL := -n auto --maxprocesses 8 --dist loadscope
INSTALLED := .venv/.installed

.PHONY: setup zoo demo test test-types test-slow lint format

setup: $(INSTALLED)

# The stamp lies inside .venv, so removing .venv is enough to start again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(None if sys.version_info >= (3, 11) else f"l2o needs Python 3.11 or later; got {v}. Name another one: make setup PYTHON=python3.12")'
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e '.[train,benchmarks,dev]'
	@touch $@

zoo: setup
	$(BIN)/pip install -c constraints.txt -e '.[zoo]'

demo: setup
	$(BIN)/l2o demo

test: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL)

# Checks types and array shapes at every call, which triples the time of small steps.
test-types: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL) \
	    --jaxtyping-packages=l2o,optimizees,beartype.beartype \
	    tests/l2o tests/optimizees tests/laws/test_step.py tests/laws/estimators

test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL) -o addopts= --import-mode=importlib \
	    --strict-markers -m "compile or slow"

lint: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
