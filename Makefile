# `make` lists the targets. Each one sets up what it needs from a bare checkout, once.

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXECUTORCH := $(VENV)/executorch
PEERS := .venv-bench
RESULTS ?= benchmarks/RESULTS.md
BENCH := $(PEERS)/bin/python benchmarks
HEAR21PASST := --hear21passt $(PEERS)/hear21passt
# Folder in TAU22's layout, folder of impulse responses, published CP-Mobile; without them made-up ones, or none.
BENCH_DATA := $(if $(CLIPS),--clips $(CLIPS)) $(if $(RESPONSES),--impulse_responses $(RESPONSES)) \
	$(if $(CHECKPOINT),--checkpoint $(CHECKPOINT))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help style quality test test-dist sanitize demo bench bench-gpu clean

help:  ## list the targets
	@echo "make TARGET [PYTHON=python3] [VENV=.venv]"
	@awk 'BEGIN {FS = ":.*## *"} /^[a-z-]+:.*##/ {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp: made anew only where the dependencies changed.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	$(BIN)/python src/hf_ascdistill/repair_torchaudio.py
	@touch $@

# ExecuTorch brings torchao, which transformers imports wherever it is: it gets an environment that sees the main one.
$(EXECUTORCH)/.ready: $(READY)
	$(BIN)/python -m venv $(EXECUTORCH)
	$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
		> "$$($(EXECUTORCH)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/shared.pth"
	$(EXECUTORCH)/bin/python -m pip install -c constraints.txt executorch && touch $@ \
		|| echo "ExecuTorch could not be installed (see above): its tests are skipped, and the next make tries again"

style: $(READY)  ## mend what ruff can mend, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quality: $(READY)  ## check style and the layers, change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q tests/contract/test_layers.py

test: $(READY) $(EXECUTORCH)/.ready  ## run every test, those with two processes too
	$(BIN)/python -m pytest -q tests

test-dist: $(READY)  ## run only the tests that start two processes
	$(BIN)/python -m pytest -q -m dist tests

sanitize: $(READY)  ## run the tests of the native kernels with GCC's sanitizers
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
		$(BIN)/python tests/native/sanitized.py

demo: $(READY)  ## teacher, logits, student on a made-up corpus; writes runs/demo/report.md
	$(BIN)/python recipes/demo.py

# The other packages that are compared with, in an environment to throw away.
$(PEERS)/.ready: $(READY) benchmarks/peers.py
	$(BIN)/python benchmarks/peers.py $(PEERS)
	@touch $@

bench: $(PEERS)/.ready  ## speed on an idle CPU into RESULTS.md [CLIPS= RESPONSES= CHECKPOINT=]
	$(BENCH)/bench.py $(BENCH_DATA) $(HEAR21PASST) --output $(RESULTS)

bench-gpu: $(PEERS)/.ready  ## speed on a GPU into RESULTS.md
	$(BENCH)/gpu.py $(HEAR21PASST) --output $(RESULTS)

clean:  ## remove builds and caches; keeps the virtual environment and runs/
	rm -rf build dist .pytest_cache .ruff_cache
	find . \( -path './$(VENV)' -o -path './$(PEERS)' -o -path ./.git -o -path ./runs \) -prune -o \
		-type d \( -name __pycache__ -o -name '*.egg-info' \) -prune -exec rm -rf {} +
	@echo "kept: $(VENV) (remove it by hand to install anew) and runs/"
