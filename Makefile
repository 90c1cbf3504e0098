# Everything a person or CI does here; `make` lists it.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadgroup --durations=10 $(PYTEST_ARGS)
export PYTHONUNBUFFERED = 1

.PHONY: help venv demo check unit test test-ray test-slurm test-services test-browser format lock clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv: .venv/installed ## the virtual environment .venv, from the lock file

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: venv ## the embedded grid, from nothing to the table
	$(BIN)/python orchestration/launch_grid.py

check: venv ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: venv ## unit tests and one real Ray and Tune run, in two processes
	$(PYTEST) -m "not (ray or services or slurm or browser) or smoke"

test: venv ## the whole check: style, types and import rules beside the unit tests
	$(MAKE) --no-print-directory --jobs=2 check unit

test-ray: venv ## the suite that runs cells through real Ray Train and Tune
	$(PYTEST) -m "ray and not smoke"

test-slurm: venv ## the suite that submits to a real Slurm; needs apt-get install slurm-wlm munge
	$(PYTEST) -m slurm

test-services: venv ## the suite that starts MLflow servers and PostgreSQL; needs apt-get install postgresql
	$(PYTEST) -m services

test-browser: venv ## the suite that opens pages in a real Chromium; needs apt-get install chromium
	$(PYTEST) -m browser

format: venv ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: venv ## pin the newest versions that pyproject.toml allows
	$(BIN)/pip-compile --quiet --upgrade --extra dev --strip-extras --allow-unsafe --no-emit-index-url \
		--no-emit-find-links --no-emit-trusted-host --output-file requirements.lock pyproject.toml

clean: ## remove the environment and caches; runs/ stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
