# make train   train on the embedded sample corpus; make train ARGS="--data-dir ResumeNER" on your own
# make test    lint, types, tests; make test-slow the tests that take longest
# make tour    the whole use of the product on the embedded sample: docs/tour.sh
# make docs    the guide of docs/ as pages, in site/
# make test-npu  the tests of tensors on the real torch_npu, with a stub of CANN below it

PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: train test test-slow test-npu tour docs clean

train: .venv/installed
	$(BIN)/python jobs/train_1p.py $(ARGS)

test: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-slow: .venv/tested
	$(BIN)/python -m pytest -m slow $(ARGS)

tour: .venv/tested
	PYTHON=$(BIN)/python docs/tour.sh $(ARGS)

docs: .venv/tested
	$(BIN)/mkdocs build --strict --quiet -f .ci/docs/mkdocs.yml
	@echo site/index.html

test-npu:
	$(PYTHON) tests/torch_npu_on_stub/stage.py

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/tested: .venv/installed
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf .venv .venv-npu site
