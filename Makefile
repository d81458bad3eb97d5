PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
DEMO ?=
GPU ?=
TEST_GPU = $(BIN)/python -m pytest -m gpu -rs tests

.PHONY: demo test test-slow test-all test-gpu gpu check docs dist oldest format clean

demo: $(INSTALLED)  ## train, sample and judge handwritten digits: runs/demo/report.html
	$(BIN)/vfn demo $(DEMO)

test: $(INSTALLED)  ## the test suite, with every example in the docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-slow: $(INSTALLED)  ## the rest of it: compilation, fuzzing, the demo from a wheel, lost processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m slow tests

test-all: test test-slow  ## both

test-gpu: $(INSTALLED)  ## the part of the suite that runs on a CUDA GPU
	$(TEST_GPU)

gpu: $(INSTALLED)  ## that, then, whatever it says, the tables: benchmarks/results/gpu_*.md
	$(TEST_GPU); tested=$$?; $(BIN)/python -m benchmarks.gpu $(GPU) && exit $$tested

check: $(INSTALLED)  ## formatting, lint, types: what has to pass before a commit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(INSTALLED)  ## the documentation site: build/docs/index.html, opens without a network
	# read anew each time: a kept reading overlooks docstrings that reach a page through another module
	$(BIN)/sphinx-build --quiet --fresh-env --fail-on-warning --keep-going --jobs auto -c docs -d build/doctrees . build/docs

oldest: $(INSTALLED)  ## the core's tests on the oldest torch that is declared; leaves it in .venv
	$(BIN)/python -m pip install --quiet 'torch==2.9.*' 'torchvision==0.24.*'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/ops tests/nn tests/test_imports.py vfn/ops vfn/nn

dist: $(INSTALLED)  ## sdist and wheel in dist/, checked: contents, metadata, a fresh installation
	rm -rf dist
	$(BIN)/python -m pip install --quiet --editable '.[release]'
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m tests.helpers.distribution dist

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
