# Everything runs in an environment of its own; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | column -t -s:

# pip from before 2024 can't resolve max's dependencies, so it is brought up first.
# MAX compiles a module of its own at the first import: another process that imports it
# meanwhile, as one of two that share the tests, would read half a file.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check 'pip==26.3'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(BIN)/python -c 'import max._kv_cache_ops'
	@touch $@

setup: $(VENV)/.ready  ## Make .venv with everything pinned

check: setup  ## Lint, format, types and the floors of packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# MAX compiles one graph at a time in a process: two of them share the files out.
test: check  ## All checks and tests
	$(BIN)/pytest --numprocesses 2 --dist loadfile

check-gpu: setup  ## Compile for GPUs that need not be there; takes many minutes
	$(BIN)/python -m benchmarks.gpu_targets

bench: setup  ## Measure against the alternatives, which it installs; 12 to 40 minutes
	$(BIN)/python -m benchmarks.compare $(ARGS)

bench-growth: setup  ## Also how costs grow with images, context, batch and layers
	$(BIN)/python -m benchmarks.compare --growth $(ARGS)

demo: setup  ## Serve the demo model and ask it about a picture
	$(BIN)/python -m mllama.cli.demo

.PHONY: help setup check test check-gpu bench bench-growth demo
