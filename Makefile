# `make` lists the targets. Each one sets up what it needs from a bare checkout, once.

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help style quality test test-dist demo clean

help:  ## list the targets
	@echo "make TARGET [PYTHON=python3] [VENV=.venv]"
	@awk 'BEGIN {FS = ":.*## *"} /^[a-z-]+:.*##/ {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp: made anew only where the dependencies changed.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	$(BIN)/python src/hf_ascdistill/repair_torchaudio.py
	@touch $@

style: $(READY)  ## mend what ruff can mend, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quality: $(READY)  ## check style and the layers, change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q tests/contract/test_layers.py

test: $(READY)  ## run every test, those with two processes too
	$(BIN)/python -m pytest -q tests

test-dist: $(READY)  ## run only the tests that start two processes
	$(BIN)/python -m pytest -q -m dist tests

demo: $(READY)  ## teacher, logits, student on a made-up corpus; writes runs/demo/report.md
	$(BIN)/python recipes/demo.py

clean:  ## remove builds and caches; keeps the virtual environment and runs/
	rm -rf build dist .pytest_cache .ruff_cache
	find . \( -path './$(VENV)' -o -path ./.git -o -path ./runs \) -prune -o \
		-type d \( -name __pycache__ -o -name '*.egg-info' \) -prune -exec rm -rf {} +
	@echo "kept: $(VENV) (remove it by hand to install anew) and runs/"
