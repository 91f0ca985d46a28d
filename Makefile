# Everything a newcomer types. `make help` lists the targets.
# Needs Python >= 3.11 and make; all else comes from PyPI into .venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
PY := .venv/bin/python
UV := .venv/bin/uv
UV_VERSION := 0.13.9
PROTOS := $(shell cd protos && find scristill third_party -name '*.proto' | sort)
export PYTHONDONTWRITEBYTECODE ?=

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

setup: .venv/.all ## Create .venv with everything, development tools included

# -- contract ------------------------------------------------------------------
protos: .venv/.all ## Format the contract and regenerate protos/gen
	@cd protos && ../.venv/bin/buf format -w --path scristill
	@rm -rf protos/gen/python && mkdir -p protos/gen/python
	@cd protos && ../$(PY) -m grpc_tools.protoc -I. -Ithird_party \
	  --plugin=protoc-gen-mypy=../.venv/bin/protoc-gen-mypy \
	  --plugin=protoc-gen-mypy_grpc=../.venv/bin/protoc-gen-mypy_grpc \
	  --python_out=gen/python --grpc_python_out=gen/python \
	  --mypy_out=quiet:gen/python --mypy_grpc_out=quiet:gen/python \
	  $(PROTOS:third_party/%=%)
	@rm -f protos/gen/python/buf/validate/validate_pb2_grpc.py*
	@find protos/gen/python -name '*_pb2_grpc.py' | while read -r file; do \
	  test -e "$${file%_grpc.py}.py" && grep -q 'class .*Servicer' "$$file" || rm -f "$$file" "$${file}i"; done

.PHONY: help setup protos
