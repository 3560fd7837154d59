# Everything runs in an environment of its own; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --quiet --disable-pip-version-check

.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | column -t -s:

# Running needs neither torch nor the tools. uv takes a third of pip's time; pip does it
# where uv can't be had. pip from before 2024 can't resolve max's dependencies.
$(VENV)/.run-ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	-$(PIP) install 'uv==0.13.9'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable . || \
		{ $(PIP) install 'pip==26.3' && $(PIP) install --editable .; }
	@touch $@

# The rest comes with pip, since uv takes a build of torch with CUDA, of gigabytes.
$(VENV)/.dev-ready: $(VENV)/.run-ready
	$(PIP) install 'pip==26.3'
	$(PIP) install --editable '.[dev]'
	@touch $@

setup: $(VENV)/.dev-ready  ## Make .venv with everything that development needs, pinned

check: setup  ## Lint, format, types, the floors of packages and the documents' links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --quiet tests/docs
	@$(BIN)/python -m demo.compile_graphs --check || true
	@$(BIN)/python -m benchmarks.gpu_fault.compile_graphs --check || true

# MAX compiles one graph at a time in a process: two of them share the files out. One that
# crashes ends the run, since the files that it had left would be waited for.
test: check  ## All checks and tests
	$(BIN)/pytest --numprocesses 2 --dist loadfile --max-worker-restart 0

test-long: setup test-sacrificial  ## The tests that take more than a minute each; some install tools
	$(BIN)/pytest -m long
	$(BIN)/pytest -m 'hypothesis and not long' --hypothesis-profile exploring

# As on a GPU whose first images are wrong.
test-sacrificial: setup  ## Parity and scheduling with a sacrificial image in each run
	$(BIN)/pytest -m '' --sacrificial-image --numprocesses 2 --dist loadfile tests/parity tests/scheduling

test-fast: setup  ## The tests without compiled graphs and whole programs, in under two minutes
	$(BIN)/pytest --numprocesses 2 --dist loadfile -m 'not compiles and not long'

fuzz: setup  ## Send 10,000 hostile requests to a server; ARGS="--requests N --seed N"
	$(BIN)/python -m tests.server.fuzzing $(ARGS)

soak: setup  ## Mixed traffic with faults for 30 minutes; ARGS="--minutes N --seed N"
	$(BIN)/python -m tests.server.soak $(ARGS)

screenshots: setup  ## Take the pictures of the page in docs/page with Chromium
	$(BIN)/python -m tests.server.web.screenshots

reference: setup  ## Write docs/options.md and the docstrings of LLM from the tables
	$(BIN)/python -m docs.reference

demo-graphs: setup  ## Renew the demo model's compiled graphs that ship; takes minutes
	$(BIN)/python -m demo.compile_graphs

graphs: setup  ## Build mllama-graphs, for the published models; takes hours
	$(BIN)/python -m graphs.build

dist: setup  ## Build the sdist and the wheel into dist/
	$(BIN)/python -m demo.compile_graphs --check
	rm -rf dist
	$(BIN)/python -m build

gpu-probe-graphs: setup  ## Renew the graphs of the search for wrong images on a GPU; hours
	nice $(BIN)/python -m benchmarks.gpu_fault.compile_graphs $(if $(MODEL),--model $(MODEL) --output gpu-probe-graphs-$(MODEL))

check-gpu: setup  ## Compile for GPUs that need not be there; takes many minutes
	$(BIN)/python -m benchmarks.gpu_targets

check-gpu-decode: setup  ## The same for what decodes, at the demo model's size; minutes
	$(BIN)/python -m benchmarks.decode_targets

bench: setup  ## Measure against the alternatives, which it installs; 15 to 45 minutes
	$(BIN)/python -m benchmarks.compare $(ARGS)

bench-growth: setup  ## Also how costs grow with images, context, batch and layers
	$(BIN)/python -m benchmarks.compare --growth $(ARGS)

demo: $(VENV)/.run-ready  ## Serve the demo model and ask it about three pictures
	$(BIN)/mllama demo

.PHONY: help setup check test test-long test-sacrificial test-fast fuzz soak screenshots reference demo-graphs graphs gpu-probe-graphs dist check-gpu check-gpu-decode bench bench-growth demo
