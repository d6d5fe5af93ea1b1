# Two commands matter: `make serve` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PEERS_VENV ?= .venv-peers
RACE_VENV := .venv-race
TRITON_VENV := .venv-race-triton
RACE_PIP := $(RACE_VENV)/bin/python -m pip --disable-pip-version-check
PEERS_PIP := $(PEERS_VENV)/bin/python -m pip --disable-pip-version-check
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -P -m pytest --cov --cov-report= --cov-fail-under=0
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Modules are compiled when they are first imported, and kept: few of all that is installed ever are.
PIP_INSTALL := $(PIP) install -q --no-compile
unexport PYTHONDONTWRITEBYTECODE
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := torch==2.13.0

DATASET ?= demo
DATA_DIR ?=
DATA_ROOT ?= data
ARGS ?=
OFFLINE_ARGS := --dataset "$(DATASET)" --root "$(DATA_ROOT)" $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(ARGS)

# OpenMP threads that spin while they wait slow each other down tenfold on a busy machine.
export OMP_WAIT_POLICY ?= PASSIVE

# Two targets that install would be in each other's way.
.NOTPARALLEL:

.PHONY: help setup setup-dev serve run replay test test-long lint types imports protos proto-check proto-baseline docs site check images bench faults fuzz soak peers race clean

help: ## Lists the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# PyTorch comes from its CPU index where that can be reached within seconds: the default index has gigabytes of CUDA.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: | $(BIN)/python
	@if $(BIN)/python -c "import urllib.request as u; u.urlopen('$(TORCH_INDEX)/torch/', timeout=4).read(1)" 2>/dev/null; \
	then echo "installing $(TORCH) from $(TORCH_INDEX)"; $(PIP_INSTALL) --index-url $(TORCH_INDEX) $(TORCH) || $(PIP_INSTALL) -c constraints.txt $(TORCH); \
	else echo "installing $(TORCH) from the default index"; $(PIP_INSTALL) -c constraints.txt $(TORCH); fi
	@touch $@

# A kernel that changed is compiled again.
KERNELS := setup.py $(wildcard recsys/kernels/*.pyx)

WARN_OF_NUMPY := $(BIN)/python -c "from recsys import kernels; kernels.COMPILED or print('warning: kernels:', kernels.form())"

$(VENV)/.serve: pyproject.toml constraints.txt $(KERNELS) $(VENV)/.torch
	@echo "installing the project"
	@$(PIP_INSTALL) -c constraints.txt -e '.[vector,rank,offline]'
	@$(WARN_OF_NUMPY)
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(KERNELS) $(VENV)/.torch
	@echo "installing the project and the development tools"
	@$(PIP_INSTALL) -c constraints.txt -e '.[vector,rank,offline,bench,docs,dev]'
	@$(WARN_OF_NUMPY)
	@touch $(VENV)/.serve $@

setup: $(VENV)/.serve ## Creates the environment and installs the project.

setup-dev: $(VENV)/.dev ## The same, with the tools for tests and checks.

serve: setup ## Prepares data, trains, publishes and serves. DATASET=demo|ml-latest-small|ml-1m|… DATA_DIR=folder
	@exec $(BIN)/python -m offline serve $(OFFLINE_ARGS)

run: setup ## Prepares data, trains, evaluates and publishes, without serving.
	@exec $(BIN)/python -m offline run $(OFFLINE_ARGS)

replay: setup ## Serves the evaluation bundle and replays held-out requests through the gateway.
	@exec $(BIN)/python -m offline replay $(OFFLINE_ARGS)

# In two processes of one thread each, but for the tests that nothing else may run next to: on two cores that is what takes
# least time. Threads of linear algebra that share a core with another process wait for each other most of the time.
# The second run reuses what the first has trained. Coverage is that of the test processes: in the servers and
# commands that they start it would double what those cost.
test: export OMP_THREAD_LIMIT ?= 1
test: export OPENBLAS_NUM_THREADS ?= 1
test: setup-dev ## Runs the test suite with coverage, without the long tests. PYTEST_ARGS adds arguments.
	@rm -f .coverage .coverage.*
	@small=$$(mktemp -d) && trap 'rm -rf "$$small"' EXIT && \
	  $(PYTEST) --small-system="$$small" -n 2 --dist loadfile --no-loadscope-reorder -m "not alone" $(PYTEST_ARGS) && \
	  $(PYTEST) --small-system="$$small" --cov-append -m alone $(PYTEST_ARGS)
	@$(BIN)/python -m coverage report

# One at a time: some fill the memory or measure.
test-long: export OMP_THREAD_LIMIT ?= 1
test-long: export OPENBLAS_NUM_THREADS ?= 1
test-long: setup-dev ## Runs the tests that take minutes, which `make test` leaves out. PYTEST_ARGS adds arguments.
	@$(BIN)/python -P -m pytest --long --timeout 7200 $(PYTEST_ARGS)

lint: setup-dev ## Style of the code.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup-dev ## Types of the packages.
	$(BIN)/mypy

imports: setup-dev ## Import rules of the architecture.
	$(BIN)/lint-imports

protos: setup-dev ## Generates the stubs from protos/.
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=. --grpc_python_out=. \
	  --mypy_out=quiet:. --mypy_grpc_out=quiet:. protos/recsys/v1/*.proto

proto-check: setup-dev ## Lints the protos, compares them with the released ones, checks that the stubs are fresh.
	cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf breaking --against baseline.binpb
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	  PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=$$fresh \
	  --grpc_python_out=$$fresh --mypy_out=quiet:$$fresh --mypy_grpc_out=quiet:$$fresh protos/recsys/v1/*.proto && \
	  diff -r -x __init__.py -x __pycache__ "$$fresh/recsys/v1" recsys/v1 && echo "stubs are fresh"

proto-baseline: setup-dev ## Takes the protos as released: what later changes must not break.
	cd protos && ../$(BIN)/buf build -o baseline.binpb

docs: setup-dev ## Renews what is generated from the code: tables of docs/, images and targets of docker/.
	$(BIN)/python docs/generate.py

site: setup-dev ## Builds the site of docs/ in build/site; a broken link or anchor is an error.
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet docs build/site

check: lint types imports proto-check site ## Every check that is not a test.
	$(BIN)/hadolint docker/Dockerfile

images: ## Builds, starts and tries every container image.
	@docker/build-images.sh

bench: setup ## Latency of the served system, published before with `make run`. ARGS adds arguments.
	@$(BIN)/python benchmarks/latency.py --dataset "$(DATASET)" --root "$(DATA_ROOT)" $(ARGS)

faults: setup-dev ## Causes every fault while a system serves, and says what callers saw. ARGS names some, ARGS=--list shows them.
	@$(BIN)/python -m tests.faults $(ARGS)

fuzz: setup-dev ## A million random and mutated messages to every rpc and port; an interrupted run continues with ARGS="--state FILE".
	@$(BIN)/python -m tests.fuzz $(ARGS)

soak: setup-dev ## An hour of load: does memory, descriptors or anything else grow? ARGS="--minutes 5" is shorter.
	@$(BIN)/python -m tests.soak $(ARGS)

# Made in two steps, each of which is skipped once it is done: an interrupted installation continues where it stopped.
$(PEERS_VENV)/bin/python:
	$(PYTHON) -m venv $(PEERS_VENV)

$(PEERS_VENV)/.torch: | $(PEERS_VENV)/bin/python
	@if $(PEERS_VENV)/bin/python -c "import urllib.request as u; u.urlopen('$(TORCH_INDEX)/torch/', timeout=4).read(1)" 2>/dev/null; \
	then echo "installing $(TORCH) from $(TORCH_INDEX)"; $(PEERS_PIP) install -q --index-url $(TORCH_INDEX) $(TORCH) || $(PEERS_PIP) install -q $(TORCH); \
	else echo "installing $(TORCH) from the default index"; $(PEERS_PIP) install -q $(TORCH); fi
	@touch $@

$(PEERS_VENV)/.ready: benchmarks/peers/requirements.txt benchmarks/peers/constraints.txt $(PEERS_VENV)/.torch
	@echo "installing the peers"
	@$(PEERS_PIP) install -q -c benchmarks/peers/constraints.txt -r benchmarks/peers/requirements.txt
	@touch $@

peers: $(PEERS_VENV)/.ready ## Installs the peers of the benchmark in an environment of their own.

$(RACE_VENV)/.ready: benchmarks/race/requirements.txt pyproject.toml constraints.txt
	@echo "installing the other servers"
	@test -x $(RACE_VENV)/bin/python || $(PYTHON) -m venv $(RACE_VENV)
	@$(RACE_PIP) install -q --no-compile -c constraints.txt -e '.[vector,rank]' -r benchmarks/race/requirements.txt
	@touch $@

# Triton's wheels are for Linux on x86-64: where they cannot be installed the race says so, and runs without them.
$(TRITON_VENV)/.ready: benchmarks/race/requirements-triton.txt
	@echo "installing Triton"
	@test -x $(TRITON_VENV)/bin/python || $(PYTHON) -m venv $(TRITON_VENV)
	-@$(TRITON_VENV)/bin/python -m pip --disable-pip-version-check install -q --no-compile -r benchmarks/race/requirements-triton.txt
	@touch $@

race: setup $(RACE_VENV)/.ready $(TRITON_VENV)/.ready ## Races this system against other servers on the published bundle. ARGS=--short: half a minute.
	@$(BIN)/python benchmarks/race/run.py --dataset "$(DATASET)" --root "$(DATA_ROOT)" $(ARGS)

clean: ## Removes the environment and caches, not the data.
	rm -rf $(VENV) $(PEERS_VENV) $(RACE_VENV) $(TRITON_VENV) .pytest_cache .mypy_cache .ruff_cache .coverage* build *.egg-info
