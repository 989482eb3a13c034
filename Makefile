PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What must hold without any extra, and with the oldest versions of everything that is needed.
CORE_TESTS := tests/test_imports.py tests/test_doctests.py tests/test_bad_input.py tests/scenario \
  tests/test_metrics.py tests/test_bounds.py tests/test_storage.py tests/channel tests/inference \
  tests/estimators/symbols tests/estimators/baselines tests/estimators/test_bisvbi.py \
  tests/estimators/test_moving_blocks.py tests/sweeps tests/faults tests/interop tests/cli tests/plotting tests/nn

# What `make nightly` tries thousands of times; the table goes to benchmarks/nightly.
NIGHTLY_TESTS := tests/faults tests/nn/test_damaged_files.py tests/nn/test_command_lines.py \
  tests/nn/test_strange_files.py tests/test_invariances.py

# The whole suite in pieces, so that one that is stopped is not lost; compiled functions are left out.
ROOMS := $(filter-out tests/helpers/,$(wildcard tests/*/)) $(wildcard tests/test_*.py)

# Of `make reprint`: how long, and parts of the paths of the tables that are printed anew; empty for all.
MINUTES ?= 120
TABLES ?=

.PHONY: demo test nightly fuzz mutation reprint coverage test-oldest test-bare wheel audit check docs clean

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

nightly: $(VENV)/.installed       ## thousands of examples and faults, their table for the manual; about two hours
	$(BIN)/python -m pytest --hypothesis-profile=nightly -m "slow or not slow" $(NIGHTLY_TESTS)

coverage: $(VENV)/.installed      ## lines that the tests run, room by room; children of tests are not seen
	$(BIN)/coverage erase
	for room in $(ROOMS); do $(BIN)/coverage run -m pytest $$room || exit 1; done
	$(BIN)/coverage combine
	$(BIN)/coverage report --skip-covered --sort=cover
	$(BIN)/python benchmarks/nightly/covered_lines.py

mutation: $(VENV)/.installed      ## do tests see a wrong formula? a sample of changes, an hour; resumes
	$(BIN)/python benchmarks/nightly/mutation.py --minutes 60

reprint: $(VENV)/.installed       ## do stored tables still say what the code does? two hours of them; resumes
	$(BIN)/python benchmarks/nightly/reprint.py --minutes $(MINUTES) $(TABLES)

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

# Each environment keeps its own compiled kernels: Numba discards those of another version. A process of its own
# compiles them first, as with old versions of Numba the one that does ends with other last bits than later ones.
test-bare test-oldest: test-%: $(VENV)-%/.installed  ## the core with no extra: newest versions, oldest versions
	NUMBA_CACHE_DIR=$(abspath $(VENV)-$*/numba) $(VENV)-$*/bin/isac selftest
	NUMBA_CACHE_DIR=$(abspath $(VENV)-$*/numba) $(VENV)-$*/bin/python -m pytest -r s $(CORE_TESTS)

# Away from the repository, so that the wheel alone is tested; PYTHONS="python3.11 python3.13" for several.
wheel:                            ## wheel and sdist in dist/, tried in empty environments, newest and oldest
	rm -rf dist $(VENV)-wheel*
	$(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/python -m pip install --quiet --upgrade pip build
	$(VENV)-wheel/bin/python -m build --outdir dist .
	@for python in $(PYTHONS); do $(call TRY_WHEEL,$$python,) || exit 1; done
	@$(call TRY_WHEEL,$(PYTHON),-c $(CURDIR)/constraints-oldest.txt)

PYTHONS ?= $(PYTHON)
# Of a Python and constraints: install, test and estimate in an environment that is empty, and its own kernels.
define TRY_WHEEL
(set -e; wheel=$$(ls $(CURDIR)/dist/*.whl); folder=$$(mktemp -d); cd $$folder; \
$(1) -m venv env; env/bin/python -m pip install --quiet --upgrade pip; \
env/bin/python -m pip install --quiet $$wheel $(2); \
export NUMBA_CACHE_DIR=$$folder/numba; env/bin/isac info | head -5; \
start=$$(date +%s); env/bin/isac selftest; echo "selftest: $$(($$(date +%s) - start)) s"; \
env/bin/isac estimate urban_uplink | tail -12; cd /; rm -rf $$folder)
endef

audit: $(VENV)/.installed         ## known weaknesses, in this code and in what is installed
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet --upgrade pip "bandit[toml]" pip-audit
	$(VENV)-audit/bin/bandit --quiet --configfile pyproject.toml --recursive isac_toolbox figures
	$(VENV)-audit/bin/pip-audit --path $(wildcard $(VENV)/lib/python3*/site-packages) --skip-editable

# Targets without end in sight; benchmarks/nightly/fuzz.txt says what earlier runs came to.
fuzz: $(VENV)/.installed          ## readers of files under random bytes, a minute each, guided by coverage
	$(PYTHON) -m venv $(VENV)-fuzz
	$(VENV)-fuzz/bin/python -m pip install --quiet --upgrade pip atheris
	PYTHONPATH=$(wildcard $(VENV)/lib/python3*/site-packages) $(VENV)-fuzz/bin/python fuzz/readers.py all

docs: $(VENV)/.docs               ## the manual; a warning is an error
	rm -rf docs/api docs/tables
	$(BIN)/python -m sphinx -W --keep-going -n -q docs docs/_build/html
	@echo "The manual is in docs/_build/html/index.html"

clean:
	rm -rf docs/_build docs/api docs/tables docs/auto_examples
	rm -rf $(VENV) $(VENV)-bare $(VENV)-oldest $(VENV)-wheel $(VENV)-audit $(VENV)-fuzz dist .mypy_cache .ruff_cache .pytest_cache
