# Everything sets itself up: `make demo` and `make test` need only Python 3.11+ and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint check bench bench-full campaign lock clean

# Where bench-full builds its Debian trees; they are kept for the next time.
TREES ?= /var/tmp/imgstore-bench

demo: $(READY)
	$(BIN)/python bench/demo.py

test: lint
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Minutes, on trees it makes up; as root.
bench: $(READY)
	$(BIN)/python bench/run.py --small

# Hours, and the page of results. bench/README.md says how to do it in pieces.
bench-full: $(READY)
	bench/debian.sh $(TREES)
	$(BIN)/python bench/run.py $(TREES)/before $(TREES)/after --write-docs
	$(BIN)/python bench/archives.py $(TREES)/before $(TREES)/after --write-docs
	$(BIN)/python bench/growth.py --write-docs

# Long runs of the same tests: more kills, more examples.
campaign: $(READY)
	$(BIN)/python -m pytest -m campaign

# The exact versions of all dependencies, with their hashes.
lock:
	$(BIN)/python -m piptools compile --quiet --strip-extras --generate-hashes --no-emit-index-url \
	    --no-emit-find-links --extra serve --extra swarm --extra dev --output-file requirements.lock pyproject.toml

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "imgstore needs Python 3.11 or later: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(READY)

clean:
	rm -rf $(VENV) demo
