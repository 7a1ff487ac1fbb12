# Everything a user or CI runs. `make` shows what there is.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
ARGS ?=
# Two tests at a time. `make unit ARGS="-n 0 -k name"` runs them one by one, as a debugger needs it.
SIDE_BY_SIDE := -n 2 --dist loadgroup --no-loadscope-reorder
FUZZ_S ?= 60
SECONDS ?= 600
# Disk limits, rootfs bases, a smaller init; and programs to be run in sandboxes. RUNLEVEL=1 keeps
# their services from being started.
TOOLS := btrfs-progs busybox-static debootstrap musl-tools strace tmux sudo nginx-light openssh-server postgresql

.DEFAULT_GOAL := help
.PHONY: help setup tools quickstart test check lint types unit long security fuzz chaos notebook bench docker docker-stop images \
	clean

help:  ## Show this help
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(VENV)/.run  ## Set up, then run the shipped tasks: python -m rollout +experiment=quickstart
	$(BIN)/python -m rollout +experiment=quickstart $(ARGS)

test: $(VENV)/.dev check unit  ## Set up, then lint, check types and run the tests

setup: $(VENV)/.dev  ## Set up .venv with everything for development

tools:  ## Install the Debian packages that more of the tests run on; as root
	apt-get update -qq
	RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(TOOLS)

check: lint types  ## Lint and type-check only

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy --strict -p rollout

unit: $(VENV)/.dev
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS) || { test $$? = 1 && $(BIN)/python -m tests.again; }

long: $(VENV)/.dev  ## The tests that take a minute or two each, which `make test` leaves out
	$(BIN)/python -m pytest -m long $(ARGS)

bench: $(VENV)/.dev  ## Measure the engine and the pipeline, side by side with what the kernel costs
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python benchmarks/density.py 1000

security: $(VENV)/.dev  ## Try every way out of every engine on this machine, and print the matrix
	$(BIN)/python -m tests.security $(ARGS)

fuzz: $(VENV)/.dev  ## Fuzz what reads hostile bytes, FUZZ_S=60 seconds each; installs atheris
	$(BIN)/python -m pip install --quiet --disable-pip-version-check atheris
	for target in frames tree archive kept_state; do $(BIN)/python -m tests.security.fuzz \
		$$target tests/security/fuzz/corpus -max_total_time=$(FUZZ_S) $(ARGS) || exit 1; done

chaos: $(VENV)/.dev  ## Small sweeps made to fail by seed, for SECONDS=600; more: ARGS="--executor ray"
	$(BIN)/python -m tests.chaos $(SECONDS) $(ARGS)

notebook: $(VENV)/.dev  ## Run notebooks/first_look.ipynb on runs/quickstart; learn.ipynb: by hand
	$(BIN)/jupyter-execute --inplace notebooks/first_look.ipynb

docker:  ## Install and start a Docker daemon where none answers; only engine=docker needs one
	@infra/docker.sh start

images:  ## Make the images that the tests of engine=docker run on, in the daemon that answers
	@infra/images.sh

docker-stop:  ## End the daemon that `make docker` started
	@infra/docker.sh stop

clean:  ## Remove .venv, caches and the compiled init; never a run
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis rollout/sandbox/init/rollout-box

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed: apt-get install python3 python3-venv"; exit 2; }
	@command -v cc >/dev/null || { echo "A C compiler is needed: apt-get install gcc libc6-dev"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Python's venv is needed: apt-get install python3-venv"; exit 2; }

$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.run
