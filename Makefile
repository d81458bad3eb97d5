PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
DEMO ?=

.PHONY: demo test check docs format clean

demo: $(INSTALLED)  ## train, sample and judge handwritten digits: runs/demo/report.html
	$(BIN)/vfn demo $(DEMO)

test: $(INSTALLED)  ## the whole test suite, with every example in the docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

check: $(INSTALLED)  ## formatting, lint, types: what has to pass before a commit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(INSTALLED)  ## the documentation site: build/docs/index.html, opens without a network
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --jobs auto -c docs -d build/doctrees . build/docs

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
