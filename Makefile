# Two commands on a machine that has only Python >= 3.10 with venv, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: train test lint check-all clean

$(STAMP): pyproject.toml constraints.txt requirements-dev.txt examples/digits/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --requirement requirements-dev.txt \
		--requirement examples/digits/requirements.txt --editable ".[plot]"
	touch $(STAMP)

train: $(STAMP)  ## trains the digits classifier from one YAML block; prints accuracy and where the picture is
	cd examples/digits && ../../$(BIN)/python train.py fit --config digits.yaml

test: $(STAMP)  ## runs every test
	$(BIN)/python -m pytest

lint: $(STAMP)  ## linter, formatter, strict type checker
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

check-all: test lint  ## and what takes long: five seeds of the example
	cd examples/digits && ../../$(BIN)/python five_seeds.py

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
