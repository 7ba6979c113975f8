# Every target makes its own .venv and installs what it needs; a second `make` reuses it until pyproject.toml changes.
# pip says errors only (-qq).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := dev,parquet,serve
ifeq ($(shell uname -s),Linux)
EXTRAS := $(EXTRAS),linux
endif

# The version of PYTHON when it is too old (or "missing"), else nothing.
TOO_OLD = $(shell $(PYTHON) -c 'import sys; v = sys.version_info; print("" if v >= (3, 11) else "%d.%d" % v[:2])' \
	2>/dev/null || echo missing)

.PHONY: setup demo check fix test test-parity test-real bench bench-mac docs clean
.DEFAULT_GOAL := setup

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	$(if $(TOO_OLD),$(error mlx-loopai needs Python 3.11 or newer, but $(PYTHON) is $(TOO_OLD); run: make PYTHON=python3.12 $(MAKECMDGOALS)))
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing mlx-loopai[$(EXTRAS)] into $(VENV)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@

$(VENV)/.ready-bench: $(VENV)/.ready
	@echo "installing mlx-loopai[bench] into $(VENV)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[bench]'
	@touch $@

demo: setup
	@$(BIN)/mlx-loopai demo

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup
	$(BIN)/python -m pytest

test-parity: $(VENV)/.ready-bench
	$(BIN)/python -m pytest -m 'parity and not real' tests

test-real: setup
	$(BIN)/python -m pytest -m real tests

# The model of the races; a folder or a hub id.
MODEL ?= nano
RACE := $(BIN)/mlx-loopai benchmark

bench: $(VENV)/.ready-bench
	$(BIN)/python -m pytest -o python_files='bench_*.py' bench
	$(RACE) train --model $(MODEL) --backends mlx-loopai,mlx-lm,torch-cpu
	$(RACE) generate --model $(MODEL) --backends mlx-loopai,mlx-lm,torch-cpu

# The columns that only a Mac can fill, in the result files that docs/benchmarks.md is made of.
bench-mac: $(VENV)/.ready-bench
	$(RACE) train --model $(MODEL) --backends mlx-loopai,mlx-lm,torch-mps --out bench/results/mac-train-equal.json
	$(RACE) train --model $(MODEL) --backends mlx-loopai,mlx-lm,torch-mps --rows samples/natural \
		--out bench/results/mac-train-rows.json
	$(RACE) train --vocabulary 151936 --equal-length 2048 --rows-per-step 1 --backends mlx-loopai,mlx-lm,torch-mps \
		--out bench/results/mac-train-vocabulary.json
	$(RACE) generate --model $(MODEL) --backends mlx-loopai,mlx-lm,torch-mps --out bench/results/mac-generate.json
	$(BIN)/python -m tools.publish_races

docs: setup
	$(BIN)/python -m tools.publish_races
	$(BIN)/python -m tools.help_text docs/help.md

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
