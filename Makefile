# make train   train on the embedded sample corpus; make train ARGS="--data-dir ResumeNER" on your own
# make test    lint, types, tests; make test-slow the tests that take minutes each

PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: train test test-slow clean

train: .venv/installed
	$(BIN)/python jobs/train_1p.py $(ARGS)

test: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-slow: .venv/tested
	$(BIN)/python -m pytest -m slow $(ARGS)

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/tested: .venv/installed
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf .venv
