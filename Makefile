# Set-up, tests and the demo. Needs Python 3.11 or newer and make; everything else is installed into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PACKAGES := cli migrations modeling pipelines registry serving

# Versions that `make lock` does not leave to the resolver. torch: an open range lets pip prefer a build with several
# gigabytes of CUDA over the one that the machine's own pip configuration offers. The others decide numbers, files and
# schemas, so that a new one is a change of its own, made here and measured.
PINS := torch==2.13.0 transformers==5.23.0 mlflow==3.17.0 sqlalchemy==2.1.9

.DEFAULT_GOAL := help
.PHONY: help setup test check lint types imports format demo docs lock clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.installed ## create .venv from requirements.lock (runs again only when the lock or pyproject.toml changed)

.venv/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Trunkline needs Python 3.11 or newer; '$(PYTHON)' is not. Try: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing the locked packages into .venv (a few minutes the first time)"
	@$(BIN)/pip install -qq -r requirements.lock
	@$(BIN)/pip install -qq --no-deps --no-build-isolation -e .
	@touch $@

test: setup lint types imports ## everything that must pass: lint, types, import floors, all tests with branch coverage
	@$(BIN)/pytest --numprocesses auto --dist loadfile --cov --cov-branch --cov-report=term

check: setup lint types imports ## the fast part of `make test`: no slow tests, no coverage
	@$(BIN)/pytest --numprocesses auto --dist loadfile -q -m "not slow"

lint: setup ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup ## mypy, strict, on all source packages
	@$(BIN)/mypy

imports: setup ## the floors of docs/architecture.md, by import-linter
	@$(BIN)/lint-imports

format: setup ## let ruff mend format and what else it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

demo: setup ## the whole job on real text, in some five minutes
	@$(BIN)/python examples/demo.py

docs: setup ## write docs/cli.md from the commands
	@$(BIN)/python -P -m cli.reference > docs/cli.md.new
	@mv docs/cli.md.new docs/cli.md

lock: ## resolve pyproject.toml anew and write requirements.lock
	@set -e; scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	$(PYTHON) -m venv "$$scratch/venv"; \
	"$$scratch/venv/bin/pip" install --quiet --upgrade "pip>=25.1" "setuptools>=77"; \
	"$$scratch/venv/bin/pip" install --quiet $(PINS) --group dev -e '.[demo]'; \
	{ sed '/^[^#]/,$$d' requirements.lock; \
	  "$$scratch/venv/bin/pip" freeze --all --exclude-editable --exclude pip --exclude wheel \
	    | sed -E 's/^(torch==[0-9.]+)\+.*/\1/'; } > "$$scratch/lock"; \
	mv "$$scratch/lock" requirements.lock

clean: ## remove caches and build output; .venv and .trunkline stay
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
	@find $(PACKAGES) tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
