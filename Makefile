# make demo   install everything into .venv and pretrain BAM on handwritten digits (a few minutes)
# make test   the tests, ruff and mypy

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Several test processes; one thread each (tests/conftest.py).
WORKERS ?= 2

.PHONY: install demo test lint clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[plots,dev]"
	$(BIN)/python -m pip install --no-deps solo-learn==1.0.2
	touch $@

demo: install
	$(BIN)/solo-bam demo

test: install lint
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

lint: install
	$(BIN)/ruff check solo_bam tests setup.py
	$(BIN)/ruff format --check solo_bam tests setup.py
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo trained_models
