# Verbs: demo test test-fast test-slow check train evaluate compare bench bench-peers docs refresh-docs clean
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
FAST := tests/test_geometry.py tests/io tests/inference tests/visualize tests/contracts tests/cli tests/compat tests/web/test_page.py
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
RECIPE ?= recipes/mien.py
RUN ?= runs/$(basename $(notdir $(RECIPE)))

.PHONY: demo test test-fast test-slow check train evaluate compare bench bench-peers docs refresh-docs clean

# analyze the example photos with the base install and the embedded weights; needs no torch and no data
demo: $(VENV)/.base
	$(BIN)/mien analyze examples --out out/faces.jsonl --draw out

# one process per core, one thread each: export is single-threaded
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --dist worksteal

# for every edit: without files that import torch, and without tests marked `heavy`
test-fast: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --fast -n auto --dist worksteal $(FAST)

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest tests/docs/test_docs.py

train: $(VENV)/.dev
	$(BIN)/mien train $(RECIPE) --out $(RUN)

evaluate: $(VENV)/.dev
	$(BIN)/mien evaluate

# train every system and every ablation, and write docs/comparison.md: takes hours, resumes where it stopped
compare: $(VENV)/.dev
	$(BIN)/python -m bench.comparison

bench: $(VENV)/.base
	$(BIN)/mien bench examples/astronaut.jpg
	$(BIN)/mien bench examples/collage.jpg

# install and measure other packages, and write docs/peers-benchmark.md: takes hours; ARGS="--limit 500" for less
bench-peers: $(VENV)/.dev
	$(BIN)/python -m bench.peers $(ARGS)

# the documentation as a site in out/site; warnings are errors
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# after new weights: the outputs printed in README.md and docs/, and docs/faces.jpg
refresh-docs: $(VENV)/.dev
	$(BIN)/python -m bench.refresh_docs

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(VENV)/bin/python pyproject.toml
	$(PIP) --editable .
	touch $@

# an installed torch stays; otherwise install the version that this project is tested with
$(VENV)/.dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -c "import torch" 2>/dev/null || $(PIP) torch==2.13.0
	$(PIP) --editable ".[train,serve,gallery,video,heif,official,dev]"
	touch $@ $(VENV)/.base

$(VENV)/.docs: $(VENV)/bin/python pyproject.toml
	$(PIP) --editable ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) out .cache build dist *.egg-info
