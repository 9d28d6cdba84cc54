# Needs make, git and a Python 3.11 or 3.12; everything else is installed into .venv, from requirements.lock alone.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SETUP_LOG := $(VENV)/setup.log

.PHONY: help demo test test-unit test-docker test-soak test-coherence test-chaos lint images setup lock clean

help: ## This list
	@echo "MarketPrism: a market-data cache in which every value carries the Kafka offset that made it."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Set-up comes by itself with the first of them (a few minutes and 1 GB, once)."

demo: $(READY) ## A generated market day through everything, on services of its own
	@$(BIN)/marketprism demo

# Test processes, each with a Kafka and a Redis of its own: `logical` = one a core, and at most 4.
JOBS ?= logical
ON_ALL_CORES = -n $(JOBS) --maxprocesses 4
test: lint ## Set-up, lint and every test that needs no Docker, on all cores (JOBS=1: on one); what CI runs
	@$(BIN)/marketprism up --fetch-only
	@$(BIN)/python -c 'from streams.warm import compile_worker; compile_worker()'  # not in the first test's time
	@$(BIN)/pytest $(ON_ALL_CORES) -m "not docker"

test-unit: $(READY) ## The quick tests: no Kafka, no Redis, no network
	@$(BIN)/pytest $(ON_ALL_CORES) -m "not docker and not integration"

test-docker: images ## Integration tests on containers, and the compose site up and down
	@set -a; . docker/local.env; MARKETPRISM_TEST_DOCKER=1 $(BIN)/pytest -m "docker or integration"

test-soak: $(READY) ## Long tests: many kills in one replay
	@$(BIN)/marketprism up --fetch-only
	@$(BIN)/pytest -m soak

test-coherence: $(READY) ## 1,500 seeds of the simulated faults, and every planted bug
	@$(BIN)/pytest -m "soak or not soak" --ignore tests/coherence/test_chaos.py tests/coherence

SECONDS ?= 600
test-chaos: $(READY) ## Kills, freezes and restarts on real services for SECONDS=600
	@$(BIN)/marketprism up --fetch-only
	@MARKETPRISM_TEST_CHAOS_S=$(SECONDS) $(BIN)/pytest -s -m soak tests/coherence/test_chaos.py

lint: $(READY) ## ruff, mypy and the import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

images: $(READY) ## Build the container images (BASE=... for another base image)
	@PATH="$(CURDIR)/$(BIN):$$PATH" docker/build-images.sh

setup: $(READY) ## Only the set-up
	@echo "ready: $(VENV)"

# Two lock files, the second a part of the first: what the app's image needs, without development and local services.
LOCK := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-header --no-emit-index-url --no-emit-find-links
lock: $(READY) ## Renew the lock files (versions and hashes of everything)
	@$(BIN)/python -m pip install --quiet uv
	@$(LOCK) --all-extras --upgrade --output-file requirements.lock
	@$(LOCK) --constraints requirements.lock --upgrade --output-file docker/app/requirements.lock

clean: ## Remove .venv and caches; the services' data stays in .marketprism
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is newer than what it was made from, so a second run costs nothing.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null || \
		{ echo "make: needs Python 3.11 or 3.12 and '$(PYTHON)' is neither; install one or say make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu install python3.11-venv" >&2; exit 1; }
	@test -x $(BIN)/pip || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }
	@echo "set-up: installing into $(VENV) (once, a minute or two)"
	@{ $(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock && \
		$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --editable . ; } >$(SETUP_LOG) 2>&1 || \
		{ echo "make: set-up failed: $$(grep -m 1 '^ERROR' $(SETUP_LOG) || tail -n 1 $(SETUP_LOG))" \
		"(check network and disk, then run make again; all of it: $(SETUP_LOG))" >&2; exit 1; }
	@touch $@
