# Everything a person or CI does here; `make` lists it.
PYTHON ?= python3
BIN := .venv/bin
IMAGES := /var/tmp/rankmatch-images
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadgroup --durations=10 $(PYTEST_ARGS)
export PYTHONUNBUFFERED = 1

.PHONY: help venv demo check docs unit test test-ray test-slurm test-services test-browser test-crash test-load test-simulation test-faults test-mutants test-image clean-image format lock audit clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv: .venv/installed ## the virtual environment .venv, from the lock file

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11 to 3.13 is needed, this is " + sys.version.split()[0])'
	@echo "installing the locked packages into .venv: some minutes, about 7 GB"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: venv ## the embedded grid, from nothing to the table
	$(BIN)/python orchestration/launch_grid.py

docs: venv ## the documentation as web pages in build/docs; a warning is an error
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --nitpicky -c docs/site docs build/docs

check: docs ## format, lint, types, import rules, documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.13
	$(BIN)/lint-imports

unit: venv ## unit tests and one real Ray and Tune run, in two processes
	$(PYTEST) -m "not (ray or services or slurm or browser or image or crash or load) or smoke"

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

test-crash: venv ## the suite that cuts programs short at each write; needs apt-get install strace; PYTEST_ARGS=--all: all
	$(PYTEST) -m crash

test-load: venv ## the suite of many cells, many writers, and starts and stops (tests/load); PYTEST_ARGS=--all: full size
	$(PYTEST) --timeout=7200 -m load tests/load

test-faults: venv ## all that does harm, and one table of it; PYTEST_ARGS='-m "not slurm"' where there is no Slurm
	$(PYTEST) --faults

test-simulation: venv ## 10,000 seeded histories of a Slurm that lies, on all cores (tests/simulation); HISTORIES=500 FIRST=3000: others
	OMP_NUM_THREADS=1 PYTHONPATH=.:tests $(BIN)/python -m simulation.play_many --histories=$(or $(HISTORIES),10000) --first=$(or $(FIRST),0)

test-mutants: venv ## whether tests notice code that is wrong, by mutmut; MODULE=failures: one area or part of a path; SEED=1: others
	$(BIN)/python -m pip install --quiet --disable-pip-version-check mutmut==3.8.1
	nice -n 10 $(BIN)/python tests/mutation.py $(MODULE) --seed=$(or $(SEED),0)

test-image: venv ## the suite that builds the image and runs it; needs root, and apt-get install what docs/image.md names
	$(PYTEST) --numprocesses=0 -m image tests/image

clean-image: ## remove the layers that test-image keeps for the next time
	awk '$$2 ~ "^$(IMAGES)/" {print $$2}' /proc/mounts | sort --reverse | xargs --no-run-if-empty umount
	rm -rf --one-file-system $(IMAGES)

format: venv ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: venv ## pin the newest versions that pyproject.toml allows, and the hashes of their files for every platform
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --extra dev \
		--custom-compile-command 'make lock' --output-file requirements.lock pyproject.toml
	grep -oE '^[A-Za-z0-9._-]+==[^ ]+' requirements.lock >.venv/versions.txt
	$(BIN)/python -m pip install --quiet --dry-run --ignore-installed --constraint .venv/versions.txt \
		--report .venv/image.json '.[image]'
	$(BIN)/python docker/lock.py .venv/image.json

audit: venv ## known vulnerabilities of the locked packages, where pip-audit and its database can be reached
	@$(BIN)/uvx --quiet pip-audit --version >/dev/null 2>&1 || { echo "skipped: pip-audit cannot be fetched here"; exit 0; }; \
		$(BIN)/uvx --quiet pip-audit --requirement requirements.lock --require-hashes --disable-pip --progress-spinner off

clean: ## remove the environment and caches; runs/ stays
	rm -rf .venv build/docs build/mutants mutants .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
