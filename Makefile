# densekit's chores. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KERNELS := $(wildcard src/densekit/ops/backends/cpu/*.h src/densekit/ops/backends/cpu/*pp)
PIP := $(BIN)/pip install --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-marathon fuzz check format hooks bench docs docs-serve clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## train a small DenseNet on digits, in about a minute, and write its report
	$(BIN)/densekit demo

# A process a core; OpenMP threads that wait in a loop would keep one from the other.
test: $(VENV)/.installed-test ## run the test suite
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m "not slow" -n auto --dist worksteal

test-slow: $(VENV)/.installed-test ## run what stands apart: many processes, kills, sanitizers, other runtimes
	$(BIN)/python -m pytest -m "slow and not marathon"

test-marathon: $(VENV)/.installed-test ## run what takes an hour: every named model exported, a million samples
	$(BIN)/python -m pytest -m marathon

fuzz: $(VENV)/.installed-test ## give each reader a minute of inputs that coverage leads to; needs a libFuzzer wheel
	$(PIP) -e ".[fuzz]"
	for reader in image weights card checkpoint foreign config table shard; do \
	    $(BIN)/python -m tests.fuzz.guided $$reader -max_total_time=60 || exit 1; done

check: $(VENV)/.installed-test ## format, lint, types, import rules
	$(BIN)/ruff format --check src tests
	$(BIN)/ruff check src tests
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-test ## rewrite the code as `make check` wants it
	$(BIN)/ruff format src tests
	$(BIN)/ruff check --fix src tests

hooks: $(VENV)/.installed-test ## run `make check` at each commit of this clone, by pre-commit
	$(BIN)/pre-commit install

bench: $(VENV)/.installed-bench ## compare training, inference and memory with other libraries; about half an hour
	$(BIN)/densekit bench train
	$(BIN)/densekit bench infer
	$(BIN)/densekit bench memory

docs: $(VENV)/.installed-docs ## build the documentation into build/site; a broken link is an error
	$(BIN)/python -m tests.docs.reference
	$(BIN)/zensical build --clean --strict

docs-serve: $(VENV)/.installed-docs ## show the documentation on http://localhost:8000, and what is changed in it
	$(BIN)/zensical serve

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml $(KERNELS) | $(BIN)/python
	@echo "installing densekit and PyTorch into $(VENV): a few minutes, once"
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(KERNELS) | $(BIN)/python
	@echo "installing densekit, PyTorch and the test tools into $(VENV): a few minutes, once"
	$(PIP) -e '.[test,check,bench]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml $(KERNELS) | $(BIN)/python
	@echo "installing densekit, PyTorch and what makes its documentation into $(VENV): a few minutes, once"
	$(PIP) -e '.[docs]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: pyproject.toml $(KERNELS) | $(BIN)/python
	@echo "installing densekit, PyTorch and what it is compared with into $(VENV): a few minutes, once"
	$(PIP) -e '.[bench]'
	@touch $@
