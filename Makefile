# `make demo` and `make test` each do everything on a fresh machine: virtual environment, install, job.

# The first Python >= 3.11 on the path; `make demo PYTHON=/path/to/python` chooses one.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && { echo $$p; exit; }; done; echo python3)

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# Empty files that say: this install succeeded, and pyproject.toml has not changed since. The development install
# contains the plain one, so it sets both.
PLAIN := .venv/.installed
DEV := .venv/.installed-dev
OLD := .venv-oldest

.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: demo test test-slow test-oldest lint clean help

demo: $(PLAIN) ## what three mixers can do, how accurate and how fast they are, in sentences
	@$(BIN)/wfbench demo

test: $(DEV) ## run the tests
	@$(BIN)/python -m pytest -n 2 --dist worksteal --durations=25

test-slow: $(DEV) ## run the tests that take minutes
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m slow --durations=25

test-oldest: ## run the tests with the oldest packages that pyproject.toml allows, in an environment of their own
	@$(PYTHON) -c '$(NEW_ENOUGH)' && $(PYTHON) -m venv $(OLD)
	@$(PYTHON) .ci/oldest.py > $(OLD)/constraints.txt
	@$(OLD)/bin/python -m pip --disable-pip-version-check install --quiet -c $(OLD)/constraints.txt -e '.[dev]'
	@$(OLD)/bin/python -m pytest -n 2 --dist worksteal --durations=25

lint: $(DEV) ## ruff (lint and format), mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

clean: ## remove the virtual environment and caches; runs/ and results/ stay
	rm -rf .venv $(OLD) .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## show this list
	@echo 'make TARGET [PYTHON=python3.12]'
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r t d; do printf '  %-10s %s\n' "$$t" "$$d"; done

# pip is the last thing that venv makes, so where it exists the environment is whole.
$(BIN)/pip:
	@$(PYTHON) -c '$(NEW_ENOUGH)' 2>/dev/null || { \
		echo "wfbench needs Python 3.11 or newer."; \
		echo "  got:    $(PYTHON): $$($(PYTHON) --version 2>&1 || true)"; \
		echo "  remedy: install one, or name one: make $(or $(firstword $(MAKECMDGOALS)),demo) PYTHON=/path/to/python3.12"; \
		exit 1; } >&2
	@echo "creating .venv with $$($(PYTHON) --version 2>&1)"
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
		echo "could not create .venv; on Debian and Ubuntu install the package python3-venv" >&2; exit 1; }

$(PLAIN): pyproject.toml | $(BIN)/pip
	@rm -f $(PLAIN) $(DEV)
	@echo "installing wfbench into .venv: about 2 minutes and 6 GB the first time, most of it PyTorch"
	@$(PIP) -e .
	@touch $@

$(DEV): pyproject.toml | $(BIN)/pip
	@rm -f $(PLAIN) $(DEV)
	@echo "installing wfbench and its development tools into .venv: about 2 minutes and 6 GB the first time, most of it PyTorch"
	@$(PIP) -e '.[dev]'
	@touch $(PLAIN) $@
