# make repro   set up .venv and run the whole workflow
# make where   install the tools of requirements-where.txt too, and try all files on GPU, microcontroller and NPU anew
# make verify  rebuild the last commit in a scratch clone, and compare its numbers and bytes with what is committed
# make demo    try the released file in a browser, on this computer or a phone in its network; needs npm
# make test    set up .venv and run the tests
# make audit   is what is installed what is pinned, do its parts fit, are flaws of it known?
# Python 3.11 or 3.12: PYTHON=python3.12 make repro

PYTHON ?= python3
BIN := .venv/bin
# dvc.yaml calls `python`: the stages are to run in this environment.
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"

PIN := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header

.PHONY: repro unharmed where demo verify test lint audit requirements

repro: .venv/installed unharmed
	$(RUN) dvc repro

# A DVC that dies while it writes these files leaves them empty or cut short, and then no command of DVC's works.
unharmed:
	@test ! -e dvc.lock || { test -s dvc.lock && test -z "$$(tail -c 1 dvc.lock)"; } || \
		{ echo "dvc.lock is cut short, as a DVC that was killed leaves it: git checkout dvc.lock" >&2; exit 1; }
	@test ! -e .dvc/tmp/rwlock -o -s .dvc/tmp/rwlock || \
		{ echo ".dvc/tmp/rwlock is cut short, as a DVC that was killed leaves it: rm .dvc/tmp/rwlock" >&2; exit 1; }

# By itself DVC would not notice that there are tools which there were not.
where: .venv/where unharmed
	$(RUN) dvc repro convert
	$(RUN) dvc repro --force --single-item evaluate
	$(RUN) dvc repro

verify: .venv/installed
	$(RUN) python -m benchmarks.verify

demo: .venv/installed
	@$(RUN) python -m ship.demo

test: .venv/installed
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) python -m pytest

lint: .venv/installed
	$(RUN) ruff check --fix .
	$(RUN) ruff format .
	$(RUN) mypy

# pip compares hashes when it installs. Known flaws are asked for at the Open Source Vulnerabilities, osv.dev.
audit: .venv/installed
	$(BIN)/python -m pip check
	$(BIN)/python -m pip install --quiet --no-index --no-deps --dry-run --requirement requirements.txt
	@echo "Installed is what requirements.txt pins."
	@if $(BIN)/python -c 'import requests; requests.get("https://api.osv.dev", timeout=10)' 2>/dev/null; then \
		$(BIN)/uv tool run --quiet pip-audit@2.10.1 --vulnerability-service osv --disable-pip --require-hashes \
			--requirement requirements.txt --requirement requirements-where.txt --requirement requirements-sweep.txt; \
	else echo "Not checked, since api.osv.dev can't be reached: whether flaws of these packages are known."; fi
	@echo "Not checked: whether installed files were changed since, and what the sources of wheels hold."

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else \
		"Python 3.11 or 3.12 is needed, found " + sys.version.split()[0] + "; give another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/where: .venv/installed requirements-where.txt
	$(BIN)/python -m pip install --quiet --requirement requirements-where.txt
	touch $@

.venv/sweep: .venv/installed requirements-sweep.txt
	$(BIN)/python -m pip install --quiet --requirement requirements-sweep.txt
	touch $@

# Pins every package, for all platforms at once.
requirements: .venv/installed
	$(PIN) --output-file requirements.txt requirements.in
	$(PIN) --constraint requirements.txt --output-file requirements-where.txt requirements-where.in
	$(PIN) --constraint requirements.txt --output-file requirements-sweep.txt requirements-sweep.in
