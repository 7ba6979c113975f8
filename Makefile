# Every target makes its own .venv and installs what it needs; a second `make` reuses it until the lock changes.
# pip shows errors only (-qq).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# What `make setup` installs; `make lock` resolves the same extras into requirements/locked.txt.
EXTRAS := dev,parquet,serve,stories,vision,linux
LOCK := requirements/locked.txt
LOWEST := requirements/lowest.txt

# The version of PYTHON when it is too old (or "missing"), else nothing.
TOO_OLD = $(shell $(PYTHON) -c 'import sys; v = sys.version_info; print("" if v >= (3, 11) else "%d.%d" % v[:2])' \
	2>/dev/null || echo missing)
# Stops with advice when PYTHON is too old; a recipe's first line.
CHECK_PYTHON = $(if $(TOO_OLD),$(error mlx-loopai needs Python 3.11 or newer, but $(PYTHON) is $(TOO_OLD); run: make PYTHON=python3.12 $(MAKECMDGOALS)))

.PHONY: setup demo check fix test test-parity test-real test-notebook test-js test-wheel test-lowest test-newest install bench \
	bench-mac docs lock licences sbom dist clean
.DEFAULT_GOAL := setup

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml $(LOCK)
	$(CHECK_PYTHON)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing mlx-loopai and $(LOCK) into $(VENV)"
	@$(PIP) install -qq --require-hashes -r $(LOCK)
	@$(PIP) install -qq --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.ready-bench: $(VENV)/.ready
	@echo "installing mlx-loopai[bench] into $(VENV)"
	@$(PIP) install -qq -e '.[bench]'
	@touch $@

# The command on your PATH, apart from this checkout's environment.
install:
	@if command -v uv >/dev/null; then uv tool install --force '.[linux]'; \
	elif command -v pipx >/dev/null; then pipx install --force '.[linux]'; \
	else echo "make install needs uv or pipx; without them: make setup && source $(BIN)/activate" >&2; exit 1; fi

demo: setup
	@$(BIN)/mlx-loopai demo

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup
	$(BIN)/python -m pytest

test-parity: $(VENV)/.ready-bench
	MLX_LOOPAI_CONFIGURATIONS=500 $(BIN)/python -m pytest -m 'parity and not real' tests

test-real: setup
	$(BIN)/python -m pytest -m real tests

# Vanishing, slow and hostile clients, kill -9, full disks and flipped bits: about ten minutes.
test-stress: setup
	$(BIN)/python -m pytest -m stress --timeout=900 tests/stress

$(VENV)/.ready-notebook: $(VENV)/.ready
	@echo "installing mlx-loopai[notebook] into $(VENV)"
	@$(PIP) install -qq -e '.[notebook]'
	@touch $@

# Runs examples/ as a person would, in a kernel of its own.
test-notebook: $(VENV)/.ready-notebook
	$(BIN)/python -m pytest -m notebook tests

# From npm: OpenAI's client for JavaScript against the server, and axe-core on every page in a headless Chromium.
test-js: setup
	npm install --prefix build/js --ignore-scripts --no-audit --no-fund openai@6.49.0 axe-core@4.14.1
	$(BIN)/python -m pytest tests/unit/serving/test_clients.py tests/unit/serving/test_accessibility.py \
		tests/unit/serving/test_watch.py tests/unit/report/test_layout.py

# Builds wheel and sdist, and uses the wheel in an environment that has nothing else.
test-wheel: setup
	$(BIN)/python -m pytest -m wheel tests

# The tests with the oldest versions that pyproject.toml allows, in an environment of their own.
test-lowest: $(VENV)-lowest/.ready
	$(VENV)-lowest/bin/python -m pytest

$(VENV)-lowest/.ready: pyproject.toml $(LOWEST)
	$(CHECK_PYTHON)
	@test -x $(VENV)-lowest/bin/python || $(PYTHON) -m venv $(VENV)-lowest
	@echo "installing mlx-loopai and $(LOWEST) into $(VENV)-lowest"
	@$(VENV)-lowest/bin/python -m pip install -qq -r $(LOWEST)
	@$(VENV)-lowest/bin/python -m pip install -qq --no-deps --no-build-isolation -e .
	@touch $@

# The tests with whatever is newest today, not with what is locked; every call asks anew.
test-newest:
	$(CHECK_PYTHON)
	@test -x $(VENV)-newest/bin/python || $(PYTHON) -m venv $(VENV)-newest
	@echo "installing the newest versions into $(VENV)-newest"
	@$(VENV)-newest/bin/python -m pip install -qq --upgrade --upgrade-strategy eager -e '.[$(EXTRAS)]'
	$(VENV)-newest/bin/python -m pytest

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

# Everything in docs/ that is made from code and result files.
docs: setup
	$(BIN)/python -m tools.publish_races
	$(BIN)/python -m tools.publish_gated_delta
	$(BIN)/python -m tools.publish_preference_race
	$(BIN)/python -m tools.catalog
	$(BIN)/python -m tools.help_text docs/help.md
	$(BIN)/python -m tools.room_picture docs/architecture.svg
	$(BIN)/python -m tools.conversion_keys
	$(BIN)/python -m tools.screenshots

# Resolves the dependencies anew: run it after changing them in pyproject.toml.
RESOLVE := uv pip compile -q pyproject.toml --no-header --no-annotate --upgrade --universal --python-version 3.11 \
	--extra $(EXTRAS)

lock:
	$(RESOLVE) --generate-hashes -o $(LOCK)
	$(RESOLVE) --resolution lowest-direct -o $(LOWEST)

# The licence of every installed package; fails on one that this project may not use.
licences: setup
	$(BIN)/pip-licenses --from=mixed --order=license --with-urls --partial-match \
		--fail-on='AGPL;Affero;GPL-2;GPL-3;GPLv2;GPLv3;GNU General Public'

# What a release is made of: wheel and sdist in dist/.
dist: setup
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist

# The software bill of materials (CycloneDX) of what `pip install` of the wheel brings. Needs uv.
sbom: dist
	uv venv -q --clear build/sbom
	uv pip install -q --python build/sbom dist/*.whl
	uv tool run -q --from 'cyclonedx-bom>=7,<8' cyclonedx-py environment build/sbom -o dist/sbom.cdx.json

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-newest build dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
