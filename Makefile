# make run: the whole graph on the default parameters. make help: the rest.

VENV := .venv
PYTHON ?= python3
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# The graph's commands say `python`: the one of the environment.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e

# Columns of `make experiments` that say less than they cost in width: all but these.
UNLISTED := ^(?!(Experiment|State|bpb_mean|artifact_bytes_max|seeds|[a-z]+\.[a-z0-9_]+$$))|^(post|pre)_bpb\.

.PHONY: help run table experiments test lint format serve profile clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

run: $(VENV)/.run  ## install what is missing, bring the graph up to date, print the result table
	@python -m pipeline.preflight
	python -m pipeline.supervise --gpus graph -- python -m pipeline.repro
	python -m pipeline.table

table: $(VENV)/.run  ## print the result table again
	@python -m pipeline.table

experiments: $(VENV)/.run  ## every experiment: its score, its bytes and the knobs that differ
	@dvc exp show --only-changed --drop '$(UNLISTED)'

test: $(VENV)/.dev  ## the tests, the slow ones too, on every core
	OMP_NUM_THREADS=1 python -m pytest -m 'not gpu' -n auto --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev  ## ruff and mypy
	ruff check .
	ruff format --check .
	mypy

format: $(VENV)/.dev  ## what ruff can mend by itself
	ruff check --fix .
	ruff format .

serve: $(VENV)/.run  ## Prefect's server and a worker, and MLflow's page, on this machine alone
	python -m pipeline.serve

profile: $(VENV)/.run  ## write a profile into params.yaml: make profile P=smoke
	@test -n "$(P)" || { echo "make: which profile? Try: make profile P=smoke; fairway use --list explains each"; exit 78; }
	@fairway use $(P)

clean:  ## remove the environment; results and caches stay
	rm -rf $(VENV)

# The stamps are older than these files exactly when the environment is.
PINS := pyproject.toml constraints.txt constraints-report.txt

$(VENV)/.run: $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $$($(PYTHON) --version), needed 3.11 or newer. Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 78; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) '.[track,schedule,report]' -c constraints.txt -c constraints-report.txt
	@touch $@

$(VENV)/.dev: $(PINS) constraints-dev.txt $(VENV)/.run
	$(PIP_INSTALL) '.[track,schedule,report,s3,dev]' -c constraints.txt -c constraints-report.txt -c constraints-dev.txt
	@touch $@
