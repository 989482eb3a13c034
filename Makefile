PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What must hold without any extra, and with the oldest versions of everything that is needed.
CORE_TESTS := tests/test_imports.py tests/test_doctests.py tests/test_bad_input.py tests/scenario \
  tests/test_metrics.py tests/test_bounds.py tests/test_storage.py tests/channel tests/inference \
  tests/estimators/symbols tests/estimators/baselines tests/estimators/test_bisvbi.py \
  tests/estimators/test_moving_blocks.py tests/sweeps tests/faults tests/interop tests/cli tests/plotting tests/nn

# What `make nightly` tries thousands of times; the table goes to benchmarks/nightly.
NIGHTLY_TESTS := tests/faults tests/nn/test_damaged_files.py tests/test_invariances.py

.PHONY: demo test nightly test-oldest test-bare wheel audit check docs clean

$(VENV)/.base: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.installed: $(VENV)/.base constraints.txt
	$(BIN)/python -m pip install --quiet -e ".[dev,nn,dask,html,sionna,csi]" torch-pruning -c constraints.txt
	touch $@

$(VENV)/.docs: $(VENV)/.base constraints.txt
	$(BIN)/python -m pip install --quiet -e ".[docs,nn,dask,sionna]" -c constraints.txt
	touch $@

demo: $(VENV)/.base                       ## one simulated block in, the whole scene out, with a picture
	$(BIN)/isac estimate urban_uplink --seed 0 --plot demo.png

check: $(VENV)/.installed         ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --strict --config-file= --cache-dir=.mypy_cache/strict tests/release/program.py

test: check                       ## everything that must hold before a commit
	$(BIN)/python -m pytest -n auto --dist loadfile

nightly: $(VENV)/.installed       ## thousands of examples and faults, their table for the manual; about an hour
	$(BIN)/python -m pytest --hypothesis-profile=nightly -m "slow or not slow" $(NIGHTLY_TESTS)

$(VENV)-bare/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-bare
	$(VENV)-bare/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-bare/bin/python -m pip install --quiet -e . pytest hypothesis
	touch $@

$(VENV)-oldest/.installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-oldest/bin/python -m pip install --quiet -e . pytest hypothesis -c constraints-oldest.txt
	touch $@

# Each environment keeps its own compiled kernels: Numba discards those of another version.
test-bare test-oldest: test-%: $(VENV)-%/.installed  ## the core with no extra: newest versions, oldest versions
	NUMBA_CACHE_DIR=$(abspath $(VENV)-$*/numba) $(VENV)-$*/bin/python -m pytest -r s $(CORE_TESTS)

# Away from the repository, so that the wheel alone is tested.
wheel:                            ## wheel and sdist in dist/, the wheel tried in an empty environment
	rm -rf dist $(VENV)-wheel
	$(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/python -m pip install --quiet --upgrade pip build
	$(VENV)-wheel/bin/python -m build --outdir dist .
	$(VENV)-wheel/bin/python -m pip install --quiet dist/*.whl
	cd $(VENV)-wheel && bin/isac selftest && bin/isac estimate urban_uplink

audit: $(VENV)/.installed         ## known weaknesses, in this code and in what is installed
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet --upgrade pip "bandit[toml]" pip-audit
	$(VENV)-audit/bin/bandit --quiet --configfile pyproject.toml --recursive isac_toolbox figures
	$(VENV)-audit/bin/pip-audit --path $(wildcard $(VENV)/lib/python3*/site-packages) --skip-editable

docs: $(VENV)/.docs               ## the manual; a warning is an error
	rm -rf docs/api docs/tables
	$(BIN)/python -m sphinx -W --keep-going -n -q docs docs/_build/html
	@echo "The manual is in docs/_build/html/index.html"

clean:
	rm -rf docs/_build docs/api docs/tables docs/auto_examples
	rm -rf $(VENV) $(VENV)-bare $(VENV)-oldest $(VENV)-wheel $(VENV)-audit dist .mypy_cache .ruff_cache .pytest_cache
