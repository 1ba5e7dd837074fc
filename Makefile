# make demo     set everything up, then train the shipped student (about ten minutes on two cores)
# make test     set everything up, then run the tests
# make check    what CI runs: linters, types, import rules, then `make test`
# make ablations  TDM-R1 taken apart: some nine hours on two cores; ended and called again, it goes on
# make install  only set up;  make lock: resolve requirements.lock anew;  make clean: remove what was made here
#
# Needs Python 3.11 or newer and nothing else. ARGS are handed on: make demo ARGS="--help", make test ARGS="-k codec".

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := install
.PHONY: ablations browser check clean demo format install lint lock test types

VENV := .venv
BIN := $(VENV)/bin
LOCKED_UV := $(VENV)/locked-uv.txt
export UV_HTTP_TIMEOUT ?= 300
export RAY_USAGE_STATS_ENABLED := 0

# The first of these that is new enough: a machine's `python3` may be older than the python3.11 beside it.
find_python = for name in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo "$$name"; exit 0; fi; done; \
	echo "rewardmesh needs Python 3.11 or newer; none of '$(or $(PYTHON),python3 python3.13 python3.12 python3.11)' is. Try: make PYTHON=/path/to/python3.12" >&2; exit 1

install: $(VENV)/.installed

$(BIN)/python:
	@python="$$($(find_python))"; echo "Making $(VENV) with $$python"; \
	"$$python" -m venv $(VENV) || { rm -rf $(VENV); \
		echo "Could not make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

# uv itself comes from the lock file too, with its hashes; pip can read that.
$(VENV)/.uv: requirements.lock | $(BIN)/python
	@awk '/^[A-Za-z0-9]/ { keep = /^uv==/ } keep' requirements.lock > $(LOCKED_UV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCKED_UV)
	@touch $@

$(VENV)/.installed: requirements.lock pyproject.toml $(VENV)/.uv
	@echo "Installing requirements.lock into $(VENV) (minutes, the first time)"
	@$(BIN)/uv pip sync --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: install
	@$(BIN)/rewardmesh demo $(ARGS)

ablations: install
	@$(BIN)/python -m benchmarks.ablations $(ARGS)

test: install browser
	@$(BIN)/python -m pytest $(ARGS)

# tests/browser needs Chromium. Debian's is installed where we may; elsewhere it is said what is missing.
browser:
	@for name in chromium chromium-browser google-chrome; do if command -v $$name >/dev/null; then exit 0; fi; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing chromium, for tests/browser"; \
		if { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } >/dev/null; then exit 0; fi; \
	fi; \
	echo "tests/browser needs Chromium on PATH. On Debian and Ubuntu: apt-get install chromium (REWARDMESH_NO_BROWSER=1 goes on without)" >&2

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: install
	@$(BIN)/mypy --strict

check: lint types
	@$(MAKE) --no-print-directory test

format: install
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

lock: $(VENV)/.uv
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --generate-hashes --no-emit-index-url \
		--no-emit-find-links --custom-compile-command "make lock" --quiet -o requirements.lock

clean:
	rm -rf $(VENV) build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
