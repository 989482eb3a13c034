PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check docs clean

$(VENV)/.base: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.installed: $(VENV)/.base constraints.txt
	$(BIN)/python -m pip install --quiet -e ".[dev,nn,dask,html]" torch-pruning -c constraints.txt
	touch $@

$(VENV)/.docs: $(VENV)/.base constraints.txt
	$(BIN)/python -m pip install --quiet -e ".[docs,nn,dask]" -c constraints.txt
	touch $@

demo: $(VENV)/.base                       ## one simulated block in, the whole scene out, with a picture
	$(BIN)/isac estimate urban_uplink --seed 0 --plot demo.png

check: $(VENV)/.installed         ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check                       ## everything that must hold before a commit
	$(BIN)/python -m pytest

docs: $(VENV)/.docs               ## the manual; a warning is an error
	rm -rf docs/api docs/tables
	$(BIN)/python -m sphinx -W --keep-going -n -q docs docs/_build/html
	@echo "The manual is in docs/_build/html/index.html"

clean:
	rm -rf docs/_build docs/api docs/tables docs/auto_examples
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
