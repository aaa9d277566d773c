# Two commands on a machine that has only Python >= 3.10 with venv, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: train test lint wheel-check bench bench-peers docs parity check-all check-lower-bounds clean

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

wheel-check: $(STAMP)  ## the built wheel installs into an empty environment, imports quickly and does nothing else
	rm -rf dist .venv-wheel
	$(BIN)/python -m build --wheel --outdir dist .
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	cd .venv-wheel && bin/python ../.ci/check_installed.py
	du -sh .venv-wheel/lib/python3*/site-packages/lightning_solver
	rm -rf .venv-wheel dist

bench: $(STAMP)  ## schedules, plans, optimisers, averages, clipping and the whole stack beside torch's and Lightning's own
	$(BIN)/python benchmarks/schedules.py
	$(BIN)/python benchmarks/plans.py
	$(BIN)/python benchmarks/optimizers.py
	$(BIN)/python benchmarks/averages.py
	$(BIN)/python benchmarks/clipping.py
	$(BIN)/python benchmarks/stack.py

bench-peers: parity  ## averages beside those of timm, MMEngine and ema_pytorch too, clipping beside timm's
	.venv-parity/bin/python -m pip install --quiet --no-deps ema-pytorch
	.venv-parity/bin/python benchmarks/averages.py
	.venv-parity/bin/python benchmarks/clipping.py

docs: $(STAMP)  ## draws the pictures of docs/curves.md from the YAML that stands in it
	$(BIN)/python docs/draw_curves.py

parity:  ## the real peers beside the importers, over drawn configurations, in an environment of their own
	$(PYTHON) -m venv .venv-parity
	.venv-parity/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-parity/bin/python -m pip install --quiet --constraint constraints.txt \
		--requirement tests/parity/requirements.txt --editable .
	.venv-parity/bin/python -m pip install --quiet --no-deps timm torchvision  # whose own demands pull CUDA's torch
	.venv-parity/bin/python -m pytest tests/parity --override-ini addopts= --override-ini filterwarnings=

check-all: test lint wheel-check parity  ## and what takes long: the peers themselves, five seeds of the example
	cd examples/digits && ../../$(BIN)/python five_seeds.py

check-lower-bounds:  ## every test with the oldest versions that pyproject.toml admits (pulls several GB on Linux)
	$(PYTHON) -m venv .venv-lower
	.venv-lower/bin/python -m pip install --quiet --constraint constraints-lower.txt --requirement requirements-dev.txt \
		--requirement examples/digits/requirements.txt --editable ".[plot]"
	.venv-lower/bin/python -m pytest --override-ini=filterwarnings= -k "not fsdp2"  # which ran on GPUs only in torch 2.6

clean:
	rm -rf $(VENV) .venv-wheel .venv-lower .venv-parity dist build .pytest_cache .mypy_cache .ruff_cache
