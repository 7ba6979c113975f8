# Every target makes its own .venv and installs what it needs; a second `make` reuses it until pyproject.toml changes.
# pip says errors only (-qq).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := dev,parquet
ifeq ($(shell uname -s),Linux)
EXTRAS := $(EXTRAS),linux
endif

# The version of PYTHON when it is too old (or "missing"), else nothing.
TOO_OLD = $(shell $(PYTHON) -c 'import sys; v = sys.version_info; print("" if v >= (3, 11) else "%d.%d" % v[:2])' \
	2>/dev/null || echo missing)

.PHONY: setup demo check fix test test-parity test-real docs clean
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

docs: setup
	$(BIN)/python -m mlx_loopai.cli.help_text docs/help.md

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
