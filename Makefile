# setup: install · demo: photos to page · test · check: lint and types · bench: measured ratios · fuzz: long random schedules
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: setup demo test check bench fuzz

setup: .venv/.done

# Always with constraints.txt: without its torch pin, pip may fetch several GB of CUDA packages on a machine without a GPU.
.venv/.done: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no python3.11 or python3 on the PATH; install Python 3.11 or newer" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/manymodal demo --out demo-out

# One process a core; a file stays in one process, so that what its tests share is made once.
test: setup
	$(BIN)/python -m pytest tests -n auto --dist loadfile --ignore=tests/bench -m "not fuzz and not bench"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m tests.bench.run --out bench.json

fuzz: setup
	MANYMODAL_FUZZ=long $(BIN)/python -m pytest tests -m fuzz
