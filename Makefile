# make demo   install everything into .venv and pretrain BAM on handwritten digits (a few minutes)
# make check  lint, types, import contracts and the fast tests
# make house  size of the code, and what is longer than it should be
# make wheel  a wheel in dist/, tried in an empty environment away from the checkout
# make docs   the documentation site, in site/; make notebook runs docs/notebook.ipynb anew (two minutes)
# make test-oldest  the fast tests on the oldest versions that pyproject.toml allows, in .venv-oldest (Python 3.10, 8 GB)
# make test-nightly  what takes an hour: hosts in network namespaces and their faults, a real SLURM (as root), and more
# make test   the tests, ruff and mypy; make test SOLO=/path/to/solo-learn runs them on a checkout of solo-learn's head

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
OLDEST_PYTHON ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.10.*/bin/python3.10) python3.10)
# More test processes than cores: they often wait for what they have started. One thread each (tests/conftest.py).
WORKERS ?= 3
# A checkout of solo-learn to test on, in place of the installed release; make test ends with the edition that it saw.
SOLO ?=

.PHONY: install demo check test pytest test-nightly test-oldest lint house wheel docs notebook clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[notebook,jobs,board]"
	$(BIN)/python -m pip install --no-deps solo-learn==1.0.2
	touch $@

# What the tests need beside it: DALI, h5py, pytest, ruff, mypy.
$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[notebook,dev]"
	touch $@

demo: install
	$(BIN)/solo-bam demo

test: $(VENV)/.dev
	$(MAKE) --jobs 2 lint pytest

pytest: $(VENV)/.dev
	@test -z "$(SOLO)" || test -f "$(SOLO)/solo/__init__.py" || { echo "SOLO: no solo-learn in $(SOLO)" >&2; exit 2; }
	PYTHONPATH="$(if $(SOLO),$(shell cd "$(SOLO)" 2>/dev/null && pwd))$${PYTHONPATH:+:$$PYTHONPATH}" $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal --durations=10

check: lint
	$(BIN)/python -m pytest -m "not slow" --numprocesses $(WORKERS) --dist worksteal --durations=10

# As root: namespaces are made and taken away. One process: each case has the two cores to itself.
test-nightly: $(VENV)/.dev
	FAULTS_TABLE=docs/results/faults.csv $(BIN)/python -m pytest -m nightly

$(OLDEST)/.installed: pyproject.toml setup.py constraints-oldest.txt
	$(OLDEST_PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --constraint constraints-oldest.txt --editable ".[notebook,h5,dev]"
	$(OLDEST)/bin/python -m pip install --no-deps solo-learn==1.0.2
	touch $@

test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -m "not slow" --numprocesses $(WORKERS) --dist worksteal --durations=10

house:
	@$(BIN)/python -m tests.house

# The pages and the files that they link to, as they lie in the tree.
PAGES := README.md CONTRIBUTING.md CHANGELOG.md SECURITY.md CITATION.cff LICENSE docs benchmarks scripts zoo solo_bam tests

wheel: install
	rm -rf build/wheel dist && $(PYTHON) -m venv build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	build/wheel/bin/python -m pip install --quiet --constraint constraints.txt $$(ls dist/*.whl)
	build/wheel/bin/python -m pip install --quiet --no-deps solo-learn==1.0.2
	cd build/wheel && bin/solo-bam --version && bin/solo-bam compare digits --dry-run

docs: $(VENV)/.docs
	rm -rf build/docs site && mkdir -p build/docs && ln -s $(addprefix $(CURDIR)/,$(PAGES)) build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebook: $(VENV)/.docs
	PYTHONWARNINGS='ignore:IProgress not found' $(BIN)/jupyter execute --inplace docs/notebook.ipynb

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[notebook,docs]"
	touch $@

lint: $(VENV)/.dev
	$(BIN)/ruff check solo_bam tests benchmarks setup.py
	$(BIN)/ruff format --check solo_bam tests benchmarks setup.py
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

clean:
	rm -rf $(VENV) $(OLDEST) build dist site demo trained_models
