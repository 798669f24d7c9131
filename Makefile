# Everything happens in this folder: a virtual environment .venv, a work folder var, and the package caches.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo serve test test-n8n n8n-pictures torture check bench lock clean

help:
	@echo "make demo    a database is backed up, proven, restored and compared, customers are taken in from an API (DATABASE_URL=postgresql://… for your own)"
	@echo "make test    all tests"
	@echo "make test-n8n all workflows in a real n8n, which is fetched into ~/.cache/flexdb (2.2 GB, npm and a C++ compiler)"
	@echo "make torture 10,000 events while replicas are killed, then a count (FLEXDB_TORTURE_EVENTS, FLEXDB_TORTURE_KILL_SECONDS)"
	@echo "make serve   run the service on http://127.0.0.1:8080"
	@echo "make check   linters, types, import contracts, tests of the documents"
	@echo "make bench   speed and memory, side by side with the raw tools and with other frameworks; by name: ARGS=\"queue --quick\""
	@echo "             intake intake_postgres queue claim growth replicas idle postgres_backup postgres_restore sqlite_backup"
	@echo "             mariadb_backup mariadb_restore mongodb_backup mongodb_restore upsert verification records_http fetching ingest_http arithmetic flat_memory (--long: up to 4 GB)"

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@echo "== setting up $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "FlexDB needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: setup
	@echo "== demo: an event becomes a proven backup and a restored database"
	@$(BIN)/python -m examples.demo

serve: setup
	@$(BIN)/flexdb serve

test: setup
	@echo "== tests: servers found are used, others are started from packages, what is skipped is named at the end"
	@$(BIN)/python -m pytest -n 3 --dist loadgroup -rs

test-n8n: setup
	@echo "== n8n: fetched into a cache outside this folder unless it is there, then every workflow runs in it, beside a real RabbitMQ"
	@$(BIN)/python -m tools.n8n_install
	@$(BIN)/python -m pytest -n 2 --dist loadfile -rs tests/n8n $(ARGS)

n8n-pictures: setup
	@echo "== pictures: headless Chromium opens every workflow in n8n's editor"
	@$(BIN)/python -m tools.n8n_pictures $(ARGS)

torture: setup
	@echo "== torture: replicas on one PostgreSQL ledger and one RabbitMQ, killed again and again under load"
	@FLEXDB_TORTURE_EVENTS=$${FLEXDB_TORTURE_EVENTS:-10000} $(BIN)/python -m pytest -s tests/acceptance/test_torture.py

check: setup
	@echo "== ruff" && $(BIN)/ruff check . && $(BIN)/ruff format --check .
	@echo "== mypy" && $(BIN)/mypy
	@echo "== import contracts" && $(BIN)/lint-imports

bench: setup
	@$(BIN)/python -m benchmarks $(ARGS)

lock: setup
	@$(BIN)/pip-compile --quiet --allow-unsafe --strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --extra dev -o requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .venv-peers build *.egg-info .mypy_cache .ruff_cache .pytest_cache
