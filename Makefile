# The targets are the contract with users and CI; `make` alone lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo test check clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing Tollgate into $(VENV) (cloud only, no torch) ..."
	@$(PIP) install -c constraints.txt -e .
	@# Before any development tool hides it: a dependency that is imported and not declared.
	@$(BIN)/python -c "import gateway, worker.process, tollgate.cli.app, tollgate.cli.embedded, kombu.transport.redis, zhipuai"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing the development tools into $(VENV) ..."
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.installed ## Start the embedded gateway, submit examples/prompts.jsonl, show results and cost, stop
	@$(BIN)/python examples/demo.py

test: $(VENV)/.installed-dev ## Set up and run every test
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.installed-dev ## ruff, mypy, import-linter, migrations in step
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m pytest -q tests/store/test_migrations.py

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
