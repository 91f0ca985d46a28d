# Everything a newcomer types. `make help` lists the targets.
# Needs Python >= 3.11 and make; all else comes from PyPI into .venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
PY := .venv/bin/python
UV := .venv/bin/uv
BUF := .venv/bin/buf
UV_VERSION := 0.13.9
PROTOS := $(shell cd protos && find scristill third_party -name '*.proto' | sort)

COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml
SERVICES := --extra scheduler --extra extractor --extra indexer --extra llm-gateway --extra cli
EMBEDDED := --extra models --extra local

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[36m%-18s\033[0m %s\n", $$1, $$2}'

# -- environment ---------------------------------------------------------------
.venv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Scristill needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Set PYTHON=...")'
	@echo "Setting up .venv ..."
	@$(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"

.venv/.runtime: .venv/bin/uv requirements/runtime.txt
	@$(UV) pip install --quiet --python $(PY) --require-hashes -r requirements/runtime.txt
	@$(UV) pip install --quiet --python $(PY) --no-deps -e .
	@touch $@

.venv/.all: .venv/.runtime requirements/all.txt
	@$(UV) pip install --quiet --python $(PY) --require-hashes -r requirements/all.txt
	@touch $@

.venv/.bench: .venv/.all requirements/bench.txt
	@$(UV) pip install --quiet --python $(PY) --require-hashes -r requirements/bench.txt
	@touch $@

setup: .venv/.all ## Create .venv with everything, development tools included

# -- local stack ---------------------------------------------------------------
demo: .venv/.runtime ## From nothing to searchable facts: set up, start, ingest, search, verify
	@$(PY) -m deploy.demo.run

up: .venv/.runtime ## Start the local stack
	@$(PY) -m services.cli up

down: .venv/.runtime ## Stop the local stack; data stays in .scristill/
	@$(PY) -m services.cli down

# -- contract ------------------------------------------------------------------
# $(1): where the generated code goes, relative to protos/
define generate
	@cd protos && ../$(PY) -m grpc_tools.protoc -I. -Ithird_party \
	  --plugin=protoc-gen-mypy=../.venv/bin/protoc-gen-mypy \
	  --plugin=protoc-gen-mypy_grpc=../.venv/bin/protoc-gen-mypy_grpc \
	  --python_out="$(1)" --grpc_python_out="$(1)" \
	  --mypy_out=quiet:"$(1)" --mypy_grpc_out=quiet:"$(1)" \
	  $(PROTOS:third_party/%=%)
	@cd protos && find "$(1)" -name '*_pb2_grpc.py' | while read -r file; do \
	  grep -q 'class .*Servicer' "$$file" || rm -f "$$file" "$${file}i"; done
endef

protos: .venv/.all ## Format the contract and regenerate protos/gen
	@cd protos && ../$(BUF) format -w --path scristill
	@rm -rf protos/gen/python && mkdir -p protos/gen/python
	$(call generate,gen/python)

protos-check: .venv/.all ## Fail on drift, lint, format or a breaking change of the contract
	@cd protos && ../$(BUF) lint && ../$(BUF) format --diff --exit-code --path scristill
	@for commit in HEAD HEAD~1; do \
	  if git rev-parse --quiet --verify "$$commit:protos/buf.yaml" >/dev/null 2>&1; then \
	    (cd protos && ../$(BUF) breaking --against "../.git#ref=$$(git rev-parse $$commit),subdir=protos"); fi; done
	@rm -rf .scristill/protos-check && mkdir -p .scristill/protos-check
	$(call generate,../.scristill/protos-check)
	@diff -r -x __pycache__ protos/gen/python .scristill/protos-check \
	  || { echo "protos/gen is not what the contract generates: run make protos" >&2; exit 1; }
	@rm -rf .scristill/protos-check

docs: .venv/.all ## Write the pages that are made from code and contract: errors, telemetry, configuration
	@$(PY) -m services.shared.grpc.error_catalogue > docs/errors.md
	@$(PY) -m services.shared.telemetry.catalogue
	@$(PY) -m deploy.configuration

requirements: .venv/bin/uv ## Resolve pyproject.toml into requirements/*.txt
	@$(COMPILE) $(SERVICES) $(EMBEDDED) --extra dev -o requirements/all.txt
	@$(COMPILE) $(SERVICES) $(EMBEDDED) -c requirements/all.txt -o requirements/runtime.txt
	@$(COMPILE) $(SERVICES) $(EMBEDDED) --extra dev --extra bench -c requirements/all.txt -o requirements/bench.txt
	@for service in scheduler extractor indexer llm_gateway; do \
	  $(COMPILE) --extra "$${service/_/-}" -c requirements/all.txt -o "requirements/$$service.txt"; done

# -- checks --------------------------------------------------------------------
lint: .venv/.all ## Ruff: lint and format
	@.venv/bin/ruff check --quiet . && .venv/bin/ruff format --check --quiet .

types: .venv/.all ## Basedpyright, strict, on services/ and deploy/
	@.venv/bin/basedpyright

architecture: .venv/.all ## Import-linter: layers and independence of the services
	@.venv/bin/lint-imports

# Tests of whole stacks wait more than they compute, so they run beside the others.
STACKS := tests/chaos tests/e2e

test: lint types architecture protos-check ## Everything that CI runs: checks, unit, contract, integration, e2e
	@mkdir -p .scristill; \
	$(PY) -m pytest $(STACKS) > .scristill/test-stacks.log 2>&1 & stacks=$$!; \
	$(PY) -m pytest $(STACKS:%=--ignore=%) && others=0 || others=$$?; \
	wait $$stacks && stacks=0 || stacks=$$?; \
	cat .scristill/test-stacks.log; exit $$((others | stacks))

# -- long runs -----------------------------------------------------------------
bench-scheduler: .venv/.bench ## Jobs per second and latency, beside pgqueuer, procrastinate and awa
	@$(PY) -m tests.bench.scheduler

bench-pool: .venv/.all ## Load-test sizes of the scheduler's connection pool
	@$(PY) -m tests.bench.scheduler_pool

bench-gateway: .venv/.all ## What the gateway adds to a model call
	@$(PY) -m tests.bench.gateway

bench-indexer: .venv/.all ## From a committed fact to a searchable one: rate, latency, and the raw client beside it
	@$(PY) -m tests.bench.indexer

bench-reconcile: .venv/.all ## Compare a million facts and points, with drift injected and facts arriving
	@$(PY) -m tests.bench.reconcile

bench-search: .venv/.bench ## What fusing dense and sparse search is worth
	@$(PY) -m tests.bench.search

sim: .venv/.all ## A million steps of the protocol between PostgreSQL and Qdrant under faults
	@$(PY) -m tests.sim

chaos: .venv/.all ## Faults on real processes: an hour of outages, kills, restores and seeded schedules
	@CHAOS=long $(PY) -m pytest tests/chaos
	@$(PY) -m tests.chaos

.PHONY: bench-scheduler bench-pool bench-gateway bench-indexer bench-reconcile bench-search sim chaos
.PHONY: help setup demo up down protos protos-check docs requirements lint types architecture test
