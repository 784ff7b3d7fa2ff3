# Every target sets up what it needs in .venv by itself; running one again costs nothing when nothing changed.
# `make quickstart` installs, then trains the tiny policy that ships with the package. `make test` runs the tests.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help quickstart figures off-policy soak twin race ablation test test-all lint format constraints clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# uv comes through venv and pip, which every machine has. uv does not read pip's configuration: wheels that pip is told
# to find on disk are passed on; without any, uv's own torch backend picks the CPU build.
$(STAMP): pyproject.toml tools/constraints.txt tools/overrides.txt
	@echo "setting up $(VENV) (about half a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@links="$$($(BIN)/python -m pip config get global.find-links 2>/dev/null || true)"; \
	links="$${PIP_FIND_LINKS:-$$links}"; \
	if [ -n "$$links" ]; then where=(); for link in $$links; do where+=(--find-links "$$link"); done; \
	else where=(--torch-backend cpu); fi; \
	$(BIN)/uv pip install --quiet --python $(BIN)/python "$${where[@]}" \
	  --constraints tools/constraints.txt --override tools/overrides.txt --editable '.[cpu,dev]'
	@touch $@

quickstart: $(STAMP)  ## Install, then train the tiny policy (a few minutes on two cores)
	@$(BIN)/darts-async up

figures: $(STAMP)  ## Measure the table in configs/README.md (some 15 minutes; goes on where it was stopped)
	@$(BIN)/darts-async bench --live --out runs/figures --write-readme configs/README.md

# Eta 0 is `stream`; a larger bound needs `async`. Corrections: none, weights, a mask of tokens, two masks of responses.
off-policy: $(STAMP)  ## Measure the off-policy table in configs/README.md (some 20 minutes; goes on where it was stopped)
	@$(BIN)/darts-async bench --live --presets off_policy --table off_policy --seeds 2 --steps 15 --eval-prompts 64 \
	  --variant 'eta 0: pipeline.mode=stream, pipeline.max_staleness=0' \
	  --variant 'eta 1: pipeline.mode=async, pipeline.max_staleness=1' \
	  --variant 'eta 2: pipeline.mode=async, pipeline.max_staleness=2' \
	  --variant 'eta 4: pipeline.mode=async, pipeline.max_staleness=4' \
	  --grid 'learner.correction=none,tis,icepop,["geometric_mask","tis"],["sequence_mask","tis"]' \
	  --out runs/off-policy --write-readme configs/README.md

soak: $(STAMP)  ## Measure the reliability table in README.md (under an hour; ONLY=chaos measures one part of it anew)
	@$(BIN)/python tools/run_soaks.py $(foreach name,$(ONLY),--only $(name))

twin: $(STAMP)  ## Measure the twin's table in README.md: live against predicted (some 10 minutes, quiet machine)
	@$(BIN)/python tools/validate_twin.py --readme README.md

race: $(STAMP)  ## Measure the race in README.md: time to a held-out reward (some 10 minutes, quiet machine)
	@$(BIN)/darts-async bench --live --table race --presets grpo_sync,one_step_off,darts_best --seeds 2 --steps 40 \
	  --eval-prompts 128 --out runs/race --write-readme README.md

ablation: $(STAMP)  ## The paper's ablation and its rivals on the twin, into README.md (some minutes of one core)
	@$(BIN)/python tools/ablation.py --readme README.md

# Files go to the processes in order, whole: the long ones first, and one engine serves all tests of its file. Whole runs
# wait a good deal for one another, hence a process more than there are cores.
PYTEST = $(BIN)/python -m pytest -n $$(( $$(nproc) + 1 )) --maxprocesses 5 --dist loadfile --no-loadscope-reorder

test: $(STAMP)  ## Run the tests (no GPU needed)
	$(PYTEST) -m "not long"

test-all: $(STAMP)  ## And those whole runs whose point others make more cheaply
	$(PYTEST)

lint: $(STAMP)  ## Check style, types and the import order
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/check_light_imports.py
	$(BIN)/python tools/check_no_pickle.py
	$(BIN)/python tools/write_config_reference.py --check
	$(BIN)/python tools/write_dashboard.py --check

format: $(STAMP)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: $(STAMP)  ## Pin what is installed now
	$(BIN)/python tools/pin_constraints.py > tools/constraints.txt.new
	mv tools/constraints.txt.new tools/constraints.txt

clean:  ## Remove the environment, caches and build products (run folders stay)
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
