# Everything runs in .venv, which the first target makes; only Python is needed beforehand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# One thread: two OpenMP threads on a shared machine wait for each other (see docs/benchmarks).
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

# Files side by side, one process for each CPU up to four: some tests start servers of their own.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile

.PHONY: help demo test test-fast check style types proto bench gpu-check docker-smoke clean

# A GPU machine's own Python has its torch: PYTHON=python3 make gpu-check.  Without PYTHON the venv's,
# where there is one; none is made.
GPU_PYTHON := $(if $(filter file,$(origin PYTHON)),$(or $(wildcard $(BIN)/python),$(PYTHON)),$(PYTHON))

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	@echo "--> making $(VENV) (a few minutes and about 1.5 GB, once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## Serve the embedded model, talk to it, show what speculation saved.
	@$(BIN)/lorax-spec demo

test: $(READY) check ## Style, types and the whole suite.
	@$(PYTEST)

test-fast: $(READY) ## The part of the suite that takes under three minutes.
	@$(PYTEST) -m "not slow"

check: style types

style: $(READY) ## Ruff: lint and format.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY) ## Mypy, strict.
	@$(BIN)/mypy

bench: $(READY) ## Benchmarks against transformers, in pairs.
	@$(BIN)/lorax-spec bench

gpu-check: ## Prove and measure on a GPU, under 9 minutes (PYTHON=python3, ARGS=--dry-run).
	@PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" PYTHONUNBUFFERED=1 $(GPU_PYTHON) -m lorax_spec.bench.gpu $(ARGS)

docker-smoke: ## Build both images and run them, without an engine (root, buildah, debootstrap).
	@docker/smoke.sh

proto: ## Write lorax_spec/v1 anew (gencode 6.31 runs on protobuf 6 and 7).
	@test -x build/protoc/bin/python || $(PYTHON) -m venv build/protoc
	@build/protoc/bin/pip install --quiet grpcio-tools==1.76.0
	@build/protoc/bin/python -m grpc_tools.protoc -Iproto --python_out=. --pyi_out=. --grpc_python_out=. proto/lorax_spec/v1/*.proto

clean: ## Remove what make made.
	@rm -rf $(VENV) build dist *.egg-info
