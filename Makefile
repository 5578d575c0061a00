# The targets are the contract with users and CI; `make` alone lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SDKS := $(patsubst tests/sdks/%.txt,$(VENV)/sdks/%/.installed,$(wildcard tests/sdks/*.txt))
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo test check chaos bench bench-local clean
# Those that wait for deaths and outages leave most of a core to others. PARALLEL=0: one by one.
PARALLEL ?= 4
MINUTES ?= 5
LINES ?= 100000
# Tests start Python hundreds of times: what was compiled once is kept, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE

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
	@echo "installing the development tools, and torch for local inference, into $(VENV) ..."
	@$(PIP) install -c constraints.txt -e '.[dev,local,quantization]'
	@touch $@

# SDKs that cannot be installed beside zhipuai 2.x, each in an environment of its own.
$(VENV)/sdks/%/.installed: tests/sdks/%.txt $(VENV)/.installed
	@echo "installing $$(cat $<) into $(@D) ..."
	@$(BIN)/python -m venv $(@D)
	@$(@D)/bin/python -m pip --disable-pip-version-check --quiet install -r $<
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	@echo "installing what the benchmarks need into $(VENV) ..."
	@$(PIP) install -c constraints.txt -e '.[bench]'
	@touch $@

demo: $(VENV)/.installed ## Start the embedded gateway, submit examples/prompts.jsonl, show results and cost, stop
	@$(BIN)/python examples/demo.py

test: $(VENV)/.installed-dev $(SDKS) ## Set up and run every test
	@$(BIN)/python -m pytest -n $(PARALLEL) --dist loadgroup $(PYTEST_ARGS)

chaos: $(VENV)/.installed-dev ## Kill, freeze, cut and flush real processes at random for MINUTES (5), and under a batch of LINES (100000); CHAOS_SEED=n repeats a run
	@TOLLGATE_CHAOS_SECONDS=$$(( $(MINUTES) * 60 )) TOLLGATE_CHAOS_SEED=$(CHAOS_SEED) \
		$(BIN)/python -m pytest -s --timeout 0 tests/chaos/test_random.py
	@TOLLGATE_CHAOS_LINES=$(LINES) $(BIN)/python -m pytest -s --timeout 0 tests/chaos/test_batches.py

bench: $(VENV)/.installed-bench ## Measure every promised speed beside its peer (PostgreSQL, Redis, wrk); BENCH="S1 S2": those
	@$(BIN)/python -m benchmarks $(BENCH)

bench-local: $(VENV)/.installed-dev ## Measure local inference on models made on the spot (a GPU where there is one); BENCH="L2 L5": those
	@$(BIN)/python -m benchmarks.local $(BENCH)

check: $(VENV)/.installed-dev ## ruff, mypy, import-linter, migrations in step
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m pytest -q tests/store/test_migrations.py

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
