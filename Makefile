# The README's commands. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help install demo run test lint format bench lock

CORES ?= 2

# Reference material beside the checkout, where there is any; set these to use other folders.
ifneq ($(wildcard ../shared/mirror),)
export SEDFLOW_MIRROR ?= $(CURDIR)/../shared/mirror
endif
ifneq ($(wildcard ../shared/golden),)
export SEDFLOW_GOLDEN ?= $(CURDIR)/../shared/golden
endif
ifneq ($(wildcard ../shared/eval_reference/dcase2023_baseline),)
export SEDFLOW_EVAL_REFERENCE ?= $(CURDIR)/../shared/eval_reference/dcase2023_baseline
endif

# Without compiled modules every job of the pipeline would compile torch's sources anew.
unexport PYTHONDONTWRITEBYTECODE

activate := . .venv/bin/activate

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/installed ## create .venv from the lock file, with the system libraries (a second call installs nothing)
	@:

.venv/installed: envs/sedflow.lock envs/build.lock envs/install.sh pyproject.toml
	@envs/install.sh

demo: install ## the whole pipeline on the corpus it synthesises itself, in minutes
	@$(MAKE) run SYSTEM=demo

run: ## one system: make run SYSTEM=esc10
	@test -f "workflow/systems/$(SYSTEM).yaml" || { echo "which system? make run SYSTEM=…, one of: $(notdir $(basename $(wildcard workflow/systems/*.yaml)))" >&2; exit 2; }
	@$(MAKE) install
	@$(activate); snakemake --cores $(CORES) $(SYSTEM)
	@$(activate); python -m sedflow.cli summary $(SYSTEM)

test: lint ## lint and all tests
	@envs/browser.sh
	@$(activate); OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1 pytest -n $(CORES) --dist loadfile --no-loadscope-reorder

lint: install ## ruff and snakefmt
	@$(activate); ruff check --quiet .
	@$(activate); ruff format --check --quiet .
	@$(activate); snakefmt --check Snakefile workflow/rules

format: install ## fix what lint would complain about
	@$(activate); ruff check --quiet --fix . ; ruff format --quiet . ; snakefmt Snakefile workflow/rules

bench: install ## time against other implementations; tables go to bench/results (only one: make bench ONLY=cache)
	@$(activate); for script in $(or $(ONLY:%=bench/%.py),$(filter-out bench/common.py,$(wildcard bench/*.py))); do python $$script; done

.venv/bin/uv:
	@envs/install.sh

lock: .venv/bin/uv ## resolve pyproject.toml again into envs/*.lock
	@$(activate); export UV_CUSTOM_COMPILE_COMMAND='make lock'; \
	resolve='uv pip compile -q --python-version 3.11 --python-platform linux --generate-hashes --no-annotate'; \
	$$resolve pyproject.toml --extra dev -o envs/sedflow.lock; \
	$$resolve --group build -c envs/sedflow.lock -o envs/build.lock
