# Every target does all of its own set-up: a fresh clone needs Python 3.11+ and make, nothing else.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
# A stamp per set of packages: installing is skipped while the files that decide it are unchanged.
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
NOTEBOOK := $(VENV)/.notebook
DOCS := $(VENV)/.docs
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: study test test-slow check format calibrate bench docs docs-check notebook clean help

help:
	@echo "make study      install, fetch the embedded model, run the quickstart study, print the answers"
	@echo "make test       install what the tests need and run them (no model hub)"
	@echo "make test-slow  checks that take minutes on real weights"
	@echo "make check      format, lint, types"
	@echo "make calibrate  the statistics on planted truth at full size; writes docs/calibration.md"
	@echo "make bench      every benchmark; writes docs/performance.md"
	@echo "make docs       the documentation as a site that opens without a network: site/index.html"
	@echo "make docs-check every figure quoted in the documents against the command that makes it"
	@echo "make notebook   Jupyter with a kernel of this environment"
	@echo "make clean      remove the environment and caches (results stay)"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "no environment could be made; on Debian and Ubuntu: sudo apt install python3-venv, then make again" >&2; \
		exit 1; }

# torch first and pinned: nothing after it can pull another build.
$(RUNTIME): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) $(TORCH)
	$(PIP) --editable .
	@touch $@

$(DEV): pyproject.toml constraints.txt $(RUNTIME)
	$(PIP) --editable '.[dev]'
	@touch $@

$(NOTEBOOK): pyproject.toml $(RUNTIME)
	$(PIP) --editable '.[notebook]'
	$(BIN)/python -m ipykernel install --sys-prefix --name emotion-circuits --display-name "Emotion Circuits"
	@touch $@

$(DOCS): pyproject.toml constraints.txt $(RUNTIME)
	$(PIP) --editable '.[docs]'
	@touch $@

study: $(RUNTIME)
	$(BIN)/emotion-circuits study quickstart

# One thread a process: on small arrays the threads of several libraries cost more than they bring. A file's tests
# stay in one process, because they share fixtures.
WORKERS ?= 2

test: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

test-slow: $(DEV)
	$(BIN)/python -m pytest -m slow

check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/unit/test_layering.py

format: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

calibrate: $(DEV)
	$(BIN)/python -m emotion_circuits.stats.calibration \
		--checks emotion_circuits.representations.calibration.checks --write docs/calibration.md

bench: $(DEV)
	$(BIN)/python benchmarks/performance.py

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-check: $(RUNTIME)
	$(BIN)/python scripts/docs_check.py

notebook: $(NOTEBOOK)
	$(BIN)/jupyter lab

clean:
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
