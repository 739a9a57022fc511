# make repro   set up .venv and run the whole workflow
# make test    set up .venv and run the tests
# Python 3.11 or 3.12: PYTHON=python3.12 make repro

PYTHON ?= python3
BIN := .venv/bin
# dvc.yaml calls `python`: the stages are to run in this environment.
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: repro test lint requirements

repro: .venv/installed
	$(RUN) dvc repro

test: .venv/installed
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) python -m pytest

lint: .venv/installed
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else \
		"Python 3.11 or 3.12 is needed, found " + sys.version.split()[0] + "; give another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

# Pins every package, for all platforms at once.
requirements: .venv/installed
	$(BIN)/uv pip compile --universal --python-version 3.11 --no-header --output-file requirements.txt requirements.in
