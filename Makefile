# Every target works from a bare checkout: it sets up .venv first and does so once.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# Where torch comes from; set it to the index of PyTorch's CPU builds on a machine whose default
# index would bring the CUDA build and that has no GPU.
TORCH_INDEX ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
PINS := requirements/constraints.txt
CODE := neural_condense_core neurons services tests benchmarks docs
SUITES := $(wildcard tests/unit tests/conformance tests/integration tests/e2e)
QUICK := -m "not slow and not gpu"

.PHONY: help setup demo test test-slow check fmt lint types arch readme size bench

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv and install everything, at pinned versions

$(READY): pyproject.toml $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; say which: make PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || { echo "[setup] making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "[setup] installing torch (CPU build: about 200 MB; if pip brings more, see TORCH_INDEX in README.md)"
	@$(PIP) install --quiet --no-deps -c $(PINS) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	@echo "[setup] installing the package and its other dependencies"
	@$(PIP) install --quiet -c $(PINS) -e '.[dev]'
	@touch $@
	@echo "[setup] done: $$($(BIN)/python -V), torch $$($(BIN)/python -c \
	  'from importlib.metadata import version; print(version("torch"))')"

demo: $(READY) ## The main job: questions answered from condensed tokens, then two rounds of a subnet
	@$(BIN)/condense demo $(ARGS)

test: $(READY) ## All tests that take seconds: unit, conformance, integration, end to end
	@$(BIN)/python -m pytest $(SUITES) $(QUICK) $(ARGS)

test-slow: $(READY) ## The tests that take more than ten seconds each
	@$(BIN)/python -m pytest tests -m "slow and not gpu" $(ARGS)

check: lint types arch ## Everything that is decided without running the code

fmt: $(READY) ## Format the code and sort its imports
	@$(BIN)/ruff check --quiet --fix-only $(CODE)
	@$(BIN)/ruff format $(CODE)

lint: $(READY)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/ruff check $(CODE)

types: $(READY)
	@$(BIN)/mypy

arch: $(READY) ## Import contracts, import times, file sizes, and what the documents claim
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest tests/architecture --quiet

readme: $(READY) ## Write README's generated parts (tiers, file tree) anew
	@$(BIN)/python docs/generate.py

size: ## Lines of Python by package
	@for package in neural_condense_core/*/ services/ tests/ benchmarks/; do \
	  find "$$package" -name '*.py' -print0 | xargs -0 -r cat | wc -l | tr '\n' ' '; \
	  echo "$$package"; done | sort -rn
	@find neural_condense_core -name '*.py' -print0 | xargs -0 cat | wc -l | sed 's/$$/ in all of neural_condense_core/'

bench: $(READY) ## How long every condenser takes on this machine
	@$(BIN)/python benchmarks/condensers.py $(ARGS)
