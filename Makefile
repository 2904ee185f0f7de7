# make train: set up, and train the default experiment. make test: set up, and run the tests; make test-quick: the
# quick ones.
PYTHON ?= python3
BIN := .venv/bin

# Each process of tests has one thread; where a test takes two, they wait for each other asleep, as cores are shared.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest

.PHONY: setup train test test-quick test-inception lint benchmarks docs clean

train: setup
	$(BIN)/python train.py

test: setup
	$(PYTEST)

test-quick: setup  # what takes no more than a second or so, each: a minute in all
	$(PYTEST) -m "not slow"

test-inception: setup  # figures through Inception-v3, in an environment of 5 GB that is kept for the next time
	.ci/inception .venv-inception

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

benchmarks: setup
	$(BIN)/python -m denoiselab.tools.benchmarks

docs: setup  # into build/docs; any warning is an error
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=src $(BIN)/mkdocs build --quiet --strict

setup: .venv/installed

.venv/installed: requirements.txt requirements-torch.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || \
		{ echo "denoiselab needs Python 3.11 or later; this is $$($(PYTHON) --version). Try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-torch.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf .venv .venv-inception build .pytest_cache .mypy_cache .ruff_cache
