# From a fresh clone: `make demo` shows the library, `make test` checks it.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: setup zoo demo test lint format

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
	$(BIN)/pytest

lint: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
